"""What an import gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from extproc.settings import DEFERRED
from headgate.importing.document import Document
from headgate.importing.report import Entry
from headgate.settings import Settings
from sidecar.configfile import parse
from sidecar.settings import load


@dataclass(frozen=True, slots=True)
class Result:
    """The new configuration, and what became of every key of each file that was read.

    `variables` are those that the new one refers to, with a value of the kind that each needs. `notes` are what else
    there is to know, in the order to read it in.
    """

    document: Document
    reports: Mapping[str, tuple[Entry, ...]]
    variables: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def check(self, name: str) -> Settings:
        """The settings that this becomes once its variables are set. Raises `ConfigError` when it cannot be used."""
        file = parse(self.document.text(), name, self.variables, folder=Path(), deferred=DEFERRED)
        return load(Settings, file, {})
