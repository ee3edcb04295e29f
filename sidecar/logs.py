"""Structured logs on standard error: JSON, `key=value`, or coloured text on a terminal. No bodies, no keys."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import structlog

LogFormat = Literal["auto", "json", "pretty", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]


def _json(value: Any, **_options: Any) -> str:
    """One line of JSON; what has no JSON of its own is written as text."""
    return msgspec.json.encode(value, enc_hook=str).decode()


_plain = False  # lines are no JSON
_ENCODER = msgspec.json.Encoder()
_ADDED = ("event", "level", "timestamp")  # by structlog itself


def timestamp() -> str:
    """The time of this moment as logs write it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def write_lines(lines: Sequence[msgspec.Struct]) -> None:
    """Log many events of level info at once; each has the fields `event`, `level` and `timestamp`.

    As JSON they are encoded together and written with one call.
    """
    if not lines or not structlog.get_logger().is_enabled_for(logging.INFO):
        return
    if _plain:
        for line in lines:
            fields = {name: value for name, value in msgspec.structs.asdict(line).items() if name not in _ADDED}
            structlog.get_logger().info(getattr(line, "event", ""), **fields)
        return
    sys.stderr.write(_ENCODER.encode_lines(lines).decode())
    sys.stderr.flush()


def configure(level: LogLevel, form: LogFormat) -> None:
    """Set up logging once per process. `auto` is pretty on a terminal and JSON elsewhere."""
    global _plain
    pretty = form == "pretty" or (form == "auto" and sys.stderr.isatty())
    _plain = pretty or form == "text"
    renderer: structlog.typing.Processor
    if pretty:
        renderer = structlog.dev.ConsoleRenderer()
    elif form == "text":
        renderer = structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"])
    else:
        renderer = structlog.processors.JSONRenderer(serializer=_json)
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
        # It writes a line and its end at once, as it must be where several processes share the stream.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
