"""Kubernetes objects as values: what all kinds share, and how they are printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headgate.render.values import Json

_LABELS = {"app.kubernetes.io/name": "headgate", "app.kubernetes.io/managed-by": "headgate-render"}


@dataclass(frozen=True, slots=True)
class Object:
    """One object. `api` is its apiVersion; `body` has what stands beside the metadata (`spec`, `stringData`)."""

    api: str
    kind: str
    name: str
    namespace: str = ""  # empty: the one that it is applied to
    body: Mapping[str, Any] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def value(self) -> Json:
        """The object as it is printed."""
        metadata: Json = {"name": self.name}
        if self.namespace:
            metadata["namespace"] = self.namespace
        metadata["labels"] = dict(_LABELS)
        if self.annotations:
            metadata["annotations"] = dict(self.annotations)
        return {"apiVersion": self.api, "kind": self.kind, "metadata": metadata, **self.body}


def kubernetes_secret(name: str, namespace: str, files: Mapping[str, str]) -> Json:
    """A Secret whose keys are files."""
    return Object("v1", "Secret", name, namespace, {"type": "Opaque", "stringData": dict(files)}).value()


def values(objects: Sequence[Object]) -> list[Json]:
    """The objects in their order."""
    return [one.value() for one in objects]
