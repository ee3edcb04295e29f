"""The chart as its users have it: values in, objects out."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from tests.helm.tools import tools

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "helm" / "headgate"
CASES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
MODES = ("gateway", "sidecar", "policy", "istio", "envoy-gateway")
# Those of them whose pods are the two gRPC services.
GRPC_MODES = ("policy", "istio", "envoy-gateway")
Json: TypeAlias = dict[str, Any]

# The least that is no demonstration.
CONFIG: Json = {
    "providers": {"local": {"dialect": "openai", "base_url": "http://vllm.models:8000/v1"}},
    "models": {"llama": {"provider": "local"}},
    "keys": [{"name": "team", "sha256": "2" * 64, "limits": {"requests": "60/min"}}],
}


class ChartError(Exception):
    """Helm refused; the text is what it said."""


def case_file(case: str) -> Path:
    """The values of a case."""
    return CHART / "ci" / f"{case}-values.yaml"


def case_values(case: str) -> Json:
    """The same, read."""
    return dict(yaml.safe_load(case_file(case).read_text()) or {})


def helm(*arguments: str, client: Path | None = None, stdin: str = "") -> str:
    """What Helm prints. Raises `ChartError`."""
    done = subprocess.run(
        [client or tools().helm, *arguments], input=stdin, capture_output=True, text=True, timeout=100, check=False
    )
    if done.returncode:
        raise ChartError(done.stderr + done.stdout)
    return done.stdout


@dataclass(frozen=True, slots=True)
class Objects:
    """What was rendered."""

    all: tuple[Json, ...]

    def of(self, kind: str, component: str = "") -> list[Json]:
        """Those of a kind, and of a component when one is named."""
        return [
            one
            for one in self.all
            if one["kind"] == kind
            and component in ("", one["metadata"].get("labels", {}).get("app.kubernetes.io/component"))
        ]

    def one(self, kind: str, component: str = "") -> Json:
        """The only one of them."""
        found = self.of(kind, component)
        assert len(found) == 1, [one["metadata"]["name"] for one in found]
        return found[0]

    @property
    def deployment(self) -> Json:
        """Headgate's own; a sidecar has none."""
        return next(one for one in self.of("Deployment") if component_of(one) == "headgate")

    @property
    def pod(self) -> Json:
        """The spec of Headgate's pods."""
        return dict(self.deployment["spec"]["template"]["spec"])

    @property
    def pods(self) -> Iterator[Json]:
        """The spec of every pod that may ever run, patches of others' pods included."""
        for one in self.all:
            if one["kind"] == "Deployment":
                yield one["spec"]["template"]["spec"]
            elif one["kind"] == "Pod":
                yield one["spec"]
        for one in self.of("ConfigMap", "sidecar"):
            yield yaml.safe_load(one["data"]["attach.yaml"])["spec"]["template"]["spec"]

    def container(self, name: str) -> Json:
        """A container of Headgate's pods, or of the patch that makes a sidecar of it."""
        return next(one for pod in self.pods for one in containers(pod) if one["name"] == name)

    @property
    def config(self) -> Json:
        """headgate.yaml."""
        maps = [one for one in self.of("ConfigMap") if "headgate.yaml" in one["data"]]
        assert len(maps) == 1
        return dict(yaml.safe_load(maps[0]["data"]["headgate.yaml"]))


def component_of(one: Json) -> str:
    return str(one["metadata"]["labels"]["app.kubernetes.io/component"])


def containers(pod: Json) -> list[Json]:
    """All of a pod's, init containers first."""
    return [*pod.get("initContainers", []), *pod.get("containers", [])]


def variables(container: Json) -> Mapping[str, str]:
    """The environment as far as it is written down."""
    return {one["name"]: one["value"] for one in container.get("env", []) if "value" in one}


def render(
    values: Json | None = None,
    *,
    case: str = "",
    kube: str = "1.34",
    release: str = "rel",
    namespace: str = "ns",
    client: Path | None = None,
) -> Objects:
    """The chart with a case's values, and `values` over them. Raises `ChartError`."""
    return Objects(tuple(documents(_template(values, case, kube, release, namespace, client))))


def documents(text: str) -> list[Json]:
    """The objects in a text of several documents."""
    return [one for one in yaml.safe_load_all(text) if one]


def render_text(values: Json | None = None, *, case: str = "", kube: str = "1.34", client: Path | None = None) -> str:
    """The same as text."""
    return _template(values, case, kube, "rel", "ns", client)


def notes(values: Json | None = None, *, case: str = "") -> str:
    """What `helm install` tells its user."""
    text = helm("install", "rel", str(CHART), "-n", "ns", "--dry-run=client", *_values(case), stdin=_text(values))
    return text.partition("\nNOTES:\n")[2]


def _template(values: Json | None, case: str, kube: str, release: str, namespace: str, client: Path | None) -> str:
    arguments = ("template", release, str(CHART), "-n", namespace, "--kube-version", kube, *_values(case))
    return _remembered(arguments, client, _text(values))


@cache
def _remembered(arguments: tuple[str, ...], client: Path | None, stdin: str) -> str:
    """The chart does not change while tests run."""
    return helm(*arguments, client=client, stdin=stdin)


def _values(case: str) -> list[str]:
    return [*(["-f", str(case_file(case))] if case else []), "-f", "-"]


def _text(values: Json | None) -> str:
    return json.dumps(values or {})  # which every YAML reads alike
