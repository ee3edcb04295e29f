"""Structured logs on standard error: JSON lines, or coloured text on a terminal. No bodies, no keys."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import structlog

LogFormat = Literal["auto", "json", "pretty"]
LogLevel = Literal["debug", "info", "warning", "error"]


def _json(value: Any, **_options: Any) -> str:
    """One line of JSON; what has no JSON of its own is written as text."""
    return msgspec.json.encode(value, enc_hook=str).decode()


_pretty = False


def write_events(event: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """Log many events of one kind at level info. As JSON they are encoded together and written once."""
    if _pretty:
        log = structlog.get_logger(event)
        for line in lines:
            log.info(event, **line)
        return
    if not lines or not structlog.get_logger().is_enabled_for(logging.INFO):
        return
    tail = {"event": event, "level": "info", "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z")}
    encode = msgspec.json.encode
    sys.stderr.write("".join([encode({**line, **tail}).decode() + "\n" for line in lines]))
    sys.stderr.flush()


def configure(level: LogLevel, form: LogFormat) -> None:
    """Set up logging once per process. `auto` is pretty on a terminal and JSON elsewhere."""
    global _pretty
    _pretty = pretty = form == "pretty" or (form == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer(serializer=_json)
    )
    errors: list[structlog.typing.Processor] = [] if pretty else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *errors,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
