"""`headgate status`: what a running gateway says of its targets, as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from headgate.asking import NoAnswerError, RefusedError, admin_url, ask, understood
from sidecar.errors import HeadgateError

_WIDTH = 160
_PATIENCE = 5.0  # seconds
_COLOURS = {"available": "green", "trial": "yellow", "cooling": "yellow", "ejected": "red", "down": "red"}


def shown(status: Mapping[str, Any]) -> Group:
    """The tables of `status`."""
    if status.get("workers") and "version" not in status:
        return Group(Text("no worker answers", style="red"))
    config = status["config"]
    head = Text(f"{status['version']}  config {config.get('hash') or 'differs between workers'}")
    if status.get("draining"):
        head.append("  draining", style="yellow")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("model", "target", "state", "back in", "share", "served", "failed", "first byte", "open", "why"):
        table.add_column(
            name, justify="right" if name in ("share", "served", "failed", "first byte", "open") else "left"
        )
    for model, targets in status["targets"].items():
        several = len({(target["provider"], target["endpoint"]) for target in targets}) > len(
            {target["provider"] for target in targets}
        )
        for number, target in enumerate(targets):
            table.add_row(Text(model if number == 0 else ""), *_row(target, several_endpoints=several))
    cache = status.get("cache")
    return Group(head, table) if cache is None else Group(head, table, Text(_cache_line(cache)))


def _cache_line(cache: Mapping[str, Any]) -> str:
    inside = "" if cache["entries"] is None else f"{cache['entries']:,} answers in {cache['bytes']:,} bytes, "
    cost = cache.get("saved_cost")
    saved = f", {cache.get('saved_tokens', 0):,} tokens saved" + ("" if cost is None else f", worth {cost:,.6f}")
    return f"cache ({cache['store']}): {inside}{cache['hits']:,} hits, {cache['misses']:,} misses{saved}"


def _row(target: Mapping[str, Any], *, several_endpoints: bool) -> tuple[str | Text, ...]:
    name = target["provider"] + (f"/{target['model']}" if target["model"] else "")
    details = [urlsplit(target["endpoint"]).netloc] if several_endpoints else []
    if target.get("key"):
        details.append(f"key {target['key'] + 1}")
    if details:
        name += f" ({', '.join(details)})"
    state = target.get("state", "unknown")
    left, first_byte = target.get("seconds_left"), target.get("first_byte_ms")
    return (
        Text(name),
        Text(state, style=_COLOURS.get(state, "")),
        "" if left is None else f"{left:g} s",
        f"{target.get('share', 0):.0%}",
        str(target.get("served", "")),
        str(target.get("failed", "")),
        "" if first_byte is None else f"{first_byte:g} ms",
        str(target.get("in_flight", "")),
        Text(target.get("why", "")),
    )


def print_status(console: Console, admin: str, *, as_json: bool) -> None:
    """Print it. Raises `HeadgateError`."""
    url = admin_url(admin, "/status")
    try:
        status = ask(url, patience=_PATIENCE)
        with understood():
            tables = shown(status)
    except RefusedError as error:
        raise HeadgateError(f"{url}: {error}: see --admin") from error
    except NoAnswerError as error:
        raise HeadgateError(f"no gateway answers at {url}: {error}: see --admin") from error
    if as_json:
        print(json.dumps(status, indent=2))
    else:
        # Narrower, the columns could not be told apart: the terminal may break its lines, or show less.
        # A console does not print wider than itself.
        Console(width=max(console.width, _WIDTH)).print(tables, soft_wrap=True)
