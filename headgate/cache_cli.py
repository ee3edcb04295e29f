"""`headgate cache`: what a running gateway keeps, forgetting it, and how far a semantic one could be trusted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headgate.asking import NoAnswerError, RefusedError, admin_url, ask, understood
from headgate.evaluate_cli import evaluate

cache_app = typer.Typer(help="The kept answers of a running gateway.", no_args_is_help=True)

cache_app.command()(evaluate)

_out = Console()
_err = Console(stderr=True)
_PATIENCE = 90.0  # seconds; a purge of many takes a while

AdminOption = Annotated[str, typer.Option(help="admin address of a running gateway (host:port)")]
Read = TypeVar("Read")
_ADMIN = "127.0.0.1:10001"


def _fail(text: str) -> NoReturn:
    _err.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)


def _ask(
    admin: str, path: str, read: Callable[[dict[str, Any]], Read], body: dict[str, Any] | None = None
) -> tuple[dict[str, Any], Read]:
    """The answer of the admin port, and what `read` makes of it; whatever else comes ends the command."""
    url = admin_url(admin, path)
    try:
        found = ask(url, body, patience=_PATIENCE)
        with understood():
            return found, read(found)
    except RefusedError as error:
        _fail(f"{url}: {error}")
    except NoAnswerError as error:
        _fail(f"no gateway answers at {url}: {error}: see --admin")


@cache_app.command()
def stats(
    admin: AdminOption = _ADMIN,
    as_json: Annotated[bool, typer.Option("--json", help="as the admin port says it")] = False,
) -> None:
    """Show the store, how much is in it, how often it had an answer, and what that has saved."""
    found, tables = _ask(admin, "/cache", _tables)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _out.print(*tables, sep="\n\n")


def _tables(found: Mapping[str, Any]) -> list[Table]:
    """The whole cache, and each model's share. Raises whatever reading raises where it is no cache's."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for name in ("store", *(name for name in found if name not in ("store", "models"))):
        value = found[name]
        if value is None:
            shown = "no target has a price" if name == "saved_cost" else "not known here"
        else:
            shown = _amount(value)
        table.add_row(Text(name), Text(shown))
    return [table, _models(found["models"])] if found.get("models") else [table]


def _models(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """Each model's share."""
    columns = ("hits", "misses", "saved_tokens", "saved_cost")
    table = Table("model", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right")
    for name, one in models.items():
        table.add_row(Text(name), *("-" if one[column] is None else _amount(one[column]) for column in columns))
    return table


def _amount(value: Any) -> str:
    """A number as people read it. Money to a millionth: one answer may have cost less than a cent."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6f}"


@cache_app.command()
def purge(
    key: Annotated[str, typer.Option(help="what this key alone was answered")] = "",
    model: Annotated[str, typer.Option(help="the answers of this model, whoever asked")] = "",
    team: Annotated[str, typer.Option(help="what this team was answered (`scope: team`)")] = "",
    tag: Annotated[str, typer.Option(help="what has this tag, such as model:gpt-4o")] = "",
    everything: Annotated[bool, typer.Option("--all", help="everything")] = False,
    admin: AdminOption = _ADMIN,
) -> None:
    """Forget kept answers. Of several options each names some, and all of those are forgotten."""
    wanted: dict[str, Any] = {"key": key, "model": model, "team": team, "tag": tag}
    wanted = {name: value for name, value in wanted.items() if value} | ({"all": True} if everything else {})
    if not wanted:
        _fail("what is to be forgotten? --key NAME, --model NAME, --team NAME, --tag TAG or --all")
    _, purged = _ask(admin, "/cache/purge", lambda found: int(found["purged"]), wanted)
    print(f"{purged} answers forgotten")
