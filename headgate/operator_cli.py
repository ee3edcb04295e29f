"""`headgate ratelimit explain | inspect | credit | reset`: the limits of one descriptor, and its counters.

`explain` works on rule files alone; the others, and its counters, ask a running service at its debug port.
"""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headgate.asking import NoAnswerError, RefusedError, admin_url, ask, understood
from ratelimit import settings
from ratelimit.client import names, parse_entries
from ratelimit.explain import explain as explain_descriptor
from ratelimit.lint import lint as lint_rules
from ratelimit.rules import Entries
from sidecar.errors import ConfigError

_out = Console()
_err = Console(stderr=True)
_PATIENCE = 5.0  # seconds

DomainOption = Annotated[str, typer.Option(help="the domain")]
DescriptorArgument = Annotated[str, typer.Argument(help="key=value,key=value (a comma in a value is \\\\,)")]
UrlOption = Annotated[str, typer.Option(help="the debug port of a running service")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON")]
_URL = "http://localhost:6070"


def add_operator_commands(application: typer.Typer) -> None:
    """Add the commands to `headgate ratelimit`."""
    for command in (explain, inspect, credit, reset, lint):
        application.command()(command)


def _fail(text: str) -> NoReturn:
    _err.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)


def _entries(text: str) -> Entries:
    try:
        return parse_entries(text)
    except ValueError as error:
        _fail("{} ({})".format(*str(error).split(" | ")))


def explain(
    descriptor: DescriptorArgument,
    domain: DomainOption,
    rules: Annotated[Path | None, typer.Option(help="rule files: no service is asked")] = None,
    url: UrlOption = _URL,
    as_json: JsonOption = False,
) -> None:
    """Which rule a descriptor meets and why, or why none; from a running service with the state of its counters."""
    entries = _entries(descriptor)
    if rules is None:
        found = _ask(url, "explain", domain, descriptor)
        steps, conclusion = found["steps"], found["conclusion"]
    else:
        try:
            explained = explain_descriptor(settings.load(rules), domain, entries)
        except ConfigError as error:
            _fail(str(error))
        steps, conclusion = explained.lines()[1:-1], explained.conclusion
        found = {"steps": steps, "conclusion": conclusion}
    if as_json:
        print(json.dumps(found))
        return
    for step in steps:
        _out.print(f"  {step}", markup=False, highlight=False)
    _out.print(conclusion, style="bold", markup=False, highlight=False)
    _show(found.get("counters", []))


def inspect(
    descriptor: DescriptorArgument, domain: DomainOption, url: UrlOption = _URL, as_json: JsonOption = False
) -> None:
    """The counters of a descriptor, as they are now. Counts nothing."""
    _entries(descriptor)
    found = _ask(url, "inspect", domain, descriptor)
    if as_json:
        print(json.dumps(found))
    else:
        _show(found["counters"], descriptor)


def credit(
    descriptor: DescriptorArgument,
    domain: DomainOption,
    hits: Annotated[int, typer.Option(min=1, help="how many hits to give back")],
    url: UrlOption = _URL,
) -> None:
    """Give hits back to the counters of a descriptor, never below nothing in use; and show them."""
    _entries(descriptor)
    _show(_ask(url, "credit", domain, descriptor, hits=hits)["counters"], descriptor)


def reset(descriptor: DescriptorArgument, domain: DomainOption, url: UrlOption = _URL) -> None:
    """Start the counters of a descriptor anew; shows what they were."""
    _entries(descriptor)
    _show(_ask(url, "reset", domain, descriptor)["before"], descriptor)


def lint(directory: Annotated[Path, typer.Argument(help="the rule file, or the folder of them")]) -> None:
    """Rules that are never reached, and counters that two rules share: exit 1 when there are any."""
    try:
        findings = lint_rules(settings.load(directory))
    except ConfigError as error:
        _fail(str(error))
    for finding in findings:
        _out.print(str(finding), markup=False, highlight=False, soft_wrap=True)
    if findings:
        raise typer.Exit(1)
    _out.print("nothing found")


def _ask(url: str, what: str, domain: str, descriptor: str, **more: object) -> Any:
    query = urllib.parse.urlencode({"domain": domain, "descriptor": descriptor, **more})
    method = "POST" if what in ("credit", "reset") else "GET"
    try:
        found = ask(admin_url(url, f"/{what}?{query}"), method=method, patience=_PATIENCE)
        with understood():
            _look(what, found)
    except RefusedError as error:
        _fail(f"{url}: {error}")
    except NoAnswerError as error:
        _fail(f"{url}: cannot be asked: {error} (name the service's debug port with --url)")
    return found


def _look(what: str, found: dict[str, Any]) -> None:
    """Raises whatever reading raises where it is not the service's answer."""
    for counter in found["before" if what == "reset" else "counters"]:
        _cells(counter)
    if what == "explain":
        "".join([*found["steps"], found["conclusion"]])


def _cells(counter: dict[str, Any]) -> list[Text]:
    names = ("limit", "algorithm", "used", "remaining", "reset_seconds", "key")
    return [Text(f"{counter[name]} s" if name == "reset_seconds" else str(counter[name])) for name in names]


def _show(counters: list[dict[str, Any]], descriptor: str = "") -> None:
    if not counters:
        if descriptor:
            _out.print(f"{names(parse_entries(descriptor))} has no counter: headgate ratelimit explain says why")
        return
    table = Table("limit", "algorithm", "used", "remaining", "reset")
    table.add_column("key in the store", overflow="fold")
    for one in counters:
        table.add_row(*_cells(one))
    _out.print(table)
