"""`headgate import`: the configuration of another gateway as ours, and what became of each of its keys."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headgate.importing import litellm, litellm_keys
from headgate.importing.report import Entry, Outcome, rows
from headgate.importing.result import Result
from sidecar.configfile import MAX_FILE_BYTES
from sidecar.errors import ConfigError, Problem

import_app = typer.Typer(help="Take over the configuration of another gateway.", no_args_is_help=True)

_WIDE = 160
_COLOURS = {Outcome.KEPT: "green", Outcome.CHANGED: "yellow", Outcome.MISSING: "red"}

FileArgument = Annotated[Path, typer.Argument(help="its configuration")]
OutputOption = Annotated[Path | None, typer.Option("-o", "--output", help="write here instead of standard output")]
ForceOption = Annotated[bool, typer.Option("--force", help="overwrite the file of --output")]


def _console() -> Console:
    """Standard error; what is not read on a terminal may be wide."""
    wide = None if sys.stderr.isatty() or "COLUMNS" in os.environ else _WIDE
    return Console(stderr=True, highlight=False, width=wide)


def _fail(error: ConfigError) -> NoReturn:
    console = _console()
    for problem in error.problems:
        console.print(str(problem), style="red", markup=False, soft_wrap=True)
    raise typer.Exit(1)


def read_text(path: Path) -> str:
    """The text of a file. Raises `ConfigError`."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError([Problem(str(path), "", f"is larger than {MAX_FILE_BYTES} bytes")])
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError([Problem(str(path), "", f"cannot be read: {reason}")]) from None


def show(title: str, entries: tuple[Entry, ...]) -> None:
    """The report: every key of the file, the same of several places in one row."""
    table = Table("line", "key", "", "how or why, and what to do", title=title, title_justify="left", box=None)
    for row in rows(entries):
        lines = ", ".join(str(line) for line in row.lines[:6]) + (", …" if len(row.lines) > 6 else "")
        said = "; ".join(text for text in (row.note, row.mend) if text)
        outcome = Text(row.outcome.value, style=_COLOURS[row.outcome])
        table.add_row(lines, Text(row.key, overflow="fold"), outcome, Text(said))
    console = _console()
    console.print(table)
    counts = {one: sum(entry.outcome is one for entry in entries) for one in Outcome}
    console.print(", ".join(f"{count} {one.value}" for one, count in counts.items()))


def _write(make: Callable[[], Result], source: Path, output: Path | None, *, force: bool) -> None:
    """Make, check, write, report. Nothing is written when it could not be used."""
    try:
        result = make()
        name = str(output or "headgate.yaml")
        settings = result.check(name)
        if output is not None and output.exists() and not force:
            raise ConfigError([Problem(str(output), "", "exists", "write to another file, or add --force")])
    except ConfigError as error:
        _fail(error)
    text = result.document.text()
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            _fail(ConfigError([Problem(str(output), "", f"cannot be written: {error.strerror}")]))
    show(f"{source}", result.entries)
    if result.keys_entries:
        show("the keys", result.keys_entries)
    console = _console()
    console.print(
        f"written: {len(settings.providers)} providers, {len(settings.models)} models, {len(settings.keys)} keys"
    )
    if result.variables:
        console.print(f"set before `headgate check`: {', '.join(sorted(result.variables))}", soft_wrap=True)


@import_app.command("litellm")
def import_litellm(
    file: FileArgument,
    output: OutputOption = None,
    keys: Annotated[
        Path | None, typer.Option(help="virtual keys: the JSON of /key/list, or a CSV of its table")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="a model that clients use of a pattern (openai/*)")] = None,
    through: Annotated[str, typer.Option(help="URL of that LiteLLM, to go on serving what Headgate cannot")] = "",
    force: ForceOption = False,
) -> None:
    """Read LiteLLM's config.yaml: our configuration on standard output, what became of each key on standard error."""

    def make() -> Result:
        listed = litellm_keys.read(read_text(keys), str(keys)) if keys is not None else None
        old = litellm.read(read_text(file), str(file))
        now = datetime.now(UTC)
        return litellm.convert(old, os.environ, now, keys=listed, through=through, wanted=model or [])

    _write(make, file, output, force=force)
