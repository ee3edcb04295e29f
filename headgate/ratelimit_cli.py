"""`headgate ratelimit`: the rate-limit service alone, its rules checked, and a question to one that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from google.protobuf import json_format
from rich.console import Console
from rich.table import Table

from headgate.operator_cli import add_operator_commands
from ratelimit import __main__ as service
from ratelimit.client import ClientTls, Question, ask, names, parse_entries
from ratelimit.config_check import check as check_directory
from ratelimit.wire import RateLimitResponse
from sidecar.errors import HeadgateError

ratelimit_app = typer.Typer(
    help="The rate-limit service alone (RLS v3), in place of envoyproxy/ratelimit.", no_args_is_help=True
)

_out = Console()
_err = Console(stderr=True)
_CODES = {RateLimitResponse.OK: "[green]OK[/green]", RateLimitResponse.OVER_LIMIT: "[red]OVER LIMIT[/red]"}


def _fail(text: str) -> NoReturn:
    _err.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)


@ratelimit_app.command()
def serve(
    rules: Annotated[Path | None, typer.Option(help="a rule file, or a folder of them; changes are seen")] = None,
    listen: Annotated[str | None, typer.Option(help="host:port or unix:///path")] = None,
    store: Annotated[str | None, typer.Option(help="memory://, redis://…, redis+cluster://…")] = None,
    engine: Annotated[Literal["native", "grpcio"], typer.Option(help="what carries the service")] = "native",
    grace: Annotated[float, typer.Option(help="seconds for running calls when stopping")] = 10.0,
) -> None:
    """Run the service: from envoyproxy/ratelimit's environment variables, over which these options win."""
    raise typer.Exit(service.run_service(service.Arguments(rules, listen, store, engine, grace)))


@ratelimit_app.command()
def check(
    directory: Annotated[Path, typer.Argument(help="the directory with the rule files")],
    merge: Annotated[bool, typer.Option(help="several files may hold the same domain")] = False,
) -> None:
    """Check the rule files of a directory: exit 0 when the service can use them, else 1 and what is wrong."""
    if not check_directory(str(directory), merge=merge):
        raise typer.Exit(1)


@ratelimit_app.command()
def client(
    domain: Annotated[str, typer.Option(help="the domain to ask about")],
    descriptors: Annotated[list[str], typer.Option(help="key=value,key=value; may be given several times")],
    dial_string: Annotated[str, typer.Option("--dial-string", "--dial_string", help="host:port")] = "localhost:8081",
    hits: Annotated[int | None, typer.Option(min=0, help="hits of each descriptor; 0 only looks")] = None,
    tls: Annotated[bool, typer.Option("--grpc-use-tls", help="use TLS")] = False,
    ca_file: Annotated[str, typer.Option("--grpc-server-ca-file", help="the server's authority (PEM)")] = "",
    cert_file: Annotated[str, typer.Option("--grpc-cert-file", help="our certificate (PEM)")] = "",
    key_file: Annotated[str, typer.Option("--grpc-key-file", help="our key (PEM)")] = "",
    timeout: Annotated[float, typer.Option(help="seconds")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="print the answer as JSON")] = False,
) -> None:
    """Ask a running service once, and show its answer. It counts, unless --hits 0."""
    try:
        question = Question(domain, tuple(parse_entries(one) for one in descriptors), hits)
        secure = ClientTls(ca_file, cert_file, key_file) if tls or ca_file or cert_file else None
        response = ask(dial_string, question, secure, timeout)
    except ValueError as error:
        _fail("--descriptors: {} ({})".format(*str(error).split(" | ")))
    except HeadgateError as error:
        _fail(f"{dial_string}: {error}")
    if as_json:
        print(json_format.MessageToJson(response))
    else:
        _show(question, response)


def _show(question: Question, response: Any) -> None:
    table = Table("descriptor", "verdict", "limit", "remaining", "reset")
    for entries, status in zip(question.descriptors, response.statuses, strict=False):
        limit = status.current_limit
        limited = status.HasField("current_limit")
        unit = RateLimitResponse.RateLimit.Unit.Name(limit.unit).lower() if limited else ""
        table.add_row(
            names(entries),
            _CODES.get(status.code, "unknown"),
            f"{limit.requests_per_unit} per {unit}{f' ({limit.name})' if limit.name else ''}" if limited else "none",
            str(status.limit_remaining) if limited else "",
            f"{status.duration_until_reset.seconds} s" if limited else "",
        )
    _out.print(table)
    _out.print(f"overall: {_CODES.get(response.overall_code, 'unknown')}")
    for header in response.response_headers_to_add:
        _out.print(f"{header.key}: {header.value}", markup=False, highlight=False)


add_operator_commands(ratelimit_app)
