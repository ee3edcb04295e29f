"""What the parts of an import from LiteLLM share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from headgate.importing.document import Document
from headgate.importing.litellm_targets import LiteLLMProviders
from headgate.importing.report import Ledger
from headgate.importing.secrets import Secrets
from sidecar.configfile import ConfigFile


@dataclass(slots=True)
class Work:
    """One import while it runs."""

    file: ConfigFile
    said: Ledger
    document: Document
    secrets: Secrets
    providers: LiteLLMProviders
    environment: Mapping[str, str]
    now: datetime
    wanted: Sequence[str] = ()
    groups: dict[str, set[str]] = field(default_factory=dict)  # access group: its models

    def section(self, name: str) -> dict[str, Any]:
        """A section of the file; empty when it is not there. What is no mapping is reported."""
        value = self.file.values.get(name)
        if value is None or value == "":
            if name in self.file.values:
                self.said.kept((name,), "empty")
            return {}
        if not isinstance(value, dict):
            self.said.missing((name,), "must hold keys and values")
            return {}
        return value


def number(value: Any) -> float | None:
    """A number of the file; None when it is none."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def flag(value: Any) -> bool:
    """A truth of the file; YAML 1.1's words count, too."""
    return str(value).lower() in ("true", "yes", "on", "1")
