"""`headgate import`: the configuration of another gateway as ours, and what became of each of its keys."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headgate.importing import envoy_ai_gateway, litellm, litellm_keys, portkey, ratelimit
from headgate.importing.report import Entry, Outcome, rows
from headgate.importing.result import Result
from headgate.terminal import fail
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
    table = Table("line", "key", "", "how or why, and what to do", title=Text(title), title_justify="left", box=None)
    for row in rows(entries):
        lines = ", ".join(str(line) for line in row.lines[:6]) + (", …" if len(row.lines) > 6 else "")
        said = "; ".join(text for text in (row.note, row.mend) if text)
        outcome = Text(row.outcome.value, style=_COLOURS[row.outcome])
        table.add_row(lines, Text(row.key, overflow="fold"), outcome, Text(said, overflow="fold"))
    console = _console()
    console.print(table)
    counts = {one: sum(entry.outcome is one for entry in entries) for one in Outcome}
    console.print(", ".join(f"{count} {one.value}" for one, count in counts.items()))


def _write(make: Callable[[], Result], output: Path | None, *, force: bool) -> None:
    """Make, check, write, report. Nothing is written when it could not be used."""
    try:
        result = make()
        name = str(output or "headgate.yaml")
        settings = result.check(name)
        if output is not None and output.exists() and not force:
            raise ConfigError([Problem(str(output), "", "exists", "write to another file, or add --force")])
    except ConfigError as error:
        fail(error)
    text = result.document.text()
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            fail(ConfigError([Problem(str(output), "", f"cannot be written: {error.strerror}")]))
    for name, entries in result.reports.items():
        show(name, entries)
    console = _console()
    console.print(
        f"written: {len(settings.providers)} providers, {len(settings.models)} models, {len(settings.keys)} keys"
    )
    if result.variables:
        console.print(f"set before `headgate check`: {', '.join(sorted(result.variables))}", soft_wrap=True)
    for note in result.notes:
        console.print(note, markup=False, soft_wrap=True)


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

    _write(make, output, force=force)


@import_app.command("ratelimit")
def import_ratelimit(
    paths: Annotated[list[Path], typer.Argument(help="rule files, or folders of them")],
    output: OutputOption = None,
    env: Annotated[Path | None, typer.Option(help="the deployment's variables, NAME=value in each line")] = None,
    merge: Annotated[bool, typer.Option(help="several files may hold the same domain")] = False,
    force: ForceOption = False,
) -> None:
    """Check envoyproxy/ratelimit's files (they are served as they are) and write what belongs into headgate.yaml."""

    def make() -> Result:
        files = [(str(path), read_text(path)) for path in _rule_files(paths)]
        variables = ratelimit.read_variables(read_text(env), str(env)) if env is not None else None
        return ratelimit.convert(files, str(paths[0]), variables, merge=merge)

    _write(make, output, force=force)


def _rule_files(paths: list[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        inside = sorted(one for one in path.iterdir() if one.is_file() and one.name[:1] != ".") if path.is_dir() else []
        if path.is_dir() and not inside:
            raise ConfigError([Problem(str(path), "", "holds no rule file", "name the folder with the rules")])
        found += inside or [path]
    return found


@import_app.command("portkey")
def import_portkey(
    file: FileArgument,
    output: OutputOption = None,
    name: Annotated[str, typer.Option(help="what the model is called; else as the file")] = "",
    model: Annotated[list[str] | None, typer.Option(help="a model that clients use with this config")] = None,
    provider: Annotated[list[str] | None, typer.Option(help="whose a virtual key is: SLUG=openai")] = None,
    force: ForceOption = False,
) -> None:
    """Read a Portkey config (JSON): one config becomes one model."""

    def make() -> Result:
        known = dict(one.removeprefix("@").split("=", 1) for one in provider or [] if "=" in one)
        config = portkey.read(read_text(file), str(file))
        return portkey.convert(config, name or file.stem, wanted=model or [], known=known)

    _write(make, output, force=force)


@import_app.command("envoy-ai-gateway")
def import_envoy_ai_gateway(
    file: FileArgument,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Read Envoy AI Gateway's resources (one YAML file of several documents)."""
    _write(lambda: envoy_ai_gateway.convert(envoy_ai_gateway.read(read_text(file), str(file))), output, force=force)
