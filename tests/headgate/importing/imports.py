"""`headgate import …` as a user types it, and the samples to try it on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner, Result

from headgate.cli import app
from headgate.importing.report import leaves
from headgate.importing.result import Result as Imported
from headgate.settings import Settings
from sidecar.configfile import ConfigFile

SAMPLES = Path(__file__).parent / "samples"


def run(*arguments: str, **environment: str | None) -> Result:
    return CliRunner().invoke(app, ["import", *arguments], env={"COLUMNS": "200", **environment})


def settings_of(result: Imported) -> Settings:
    return result.check("headgate.yaml")


def values_of(result: Imported) -> dict[str, Any]:
    values = yaml.safe_load(result.document.text())
    assert isinstance(values, dict)
    return values


def uncovered(result: Imported, file: ConfigFile) -> list[tuple[str | int, ...]]:
    """Keys of the file that its report does not name."""
    paths = {entry.path for entry in result.reports[file.name]}
    return [one for one in leaves(file.values) if not any(one[: len(path)] == path for path in paths if path)]


def everything(result: Imported) -> str:
    """Whatever the import says, all in one text."""
    rows = [f"{entry.path} {entry.note} {entry.mend}" for entries in result.reports.values() for entry in entries]
    return "\n".join([result.document.text(), *result.variables, *result.notes, *rows])


def variables_in(text: str) -> set[str]:
    return set(re.findall(r"\$\{([A-Za-z0-9_]+)\}", text))
