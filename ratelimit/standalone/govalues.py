"""Values as Go's standard library reads them from text: envoyproxy/ratelimit's environment variables are such.

Every function raises `ValueError` with `what is wrong | what to write`.
"""

from __future__ import annotations

import re

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_INTEGER = re.compile(
    r"[+-]?(?:0|[1-9](?:_?[0-9])*|0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO]?(?:_?[0-7])+)", re.ASCII
)
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
_LENGTHS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PIECE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_LONGEST = 64  # characters: no value of ours is longer, and an error shows no more


def boolean(text: str) -> bool:
    """`1 t T TRUE true True` and `0 f F FALSE false False`, nothing else."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"{_shown(text)} is neither true nor false | write true or false")


def integer(text: str) -> int:
    """A whole number; `0x`, `0o`, `0b` and a leading 0 (octal) are understood, `_` may stand between digits."""
    if len(text) > _LONGEST or not _INTEGER.fullmatch(text):
        raise ValueError(f"{_shown(text)} is not a whole number | write digits, without a unit")
    digits = text.replace("_", "")
    octal = re.fullmatch(r"[+-]?0[0-7]+", digits)
    return int(digits, 8 if octal else 0)


def decimal(text: str) -> float:
    """A number with or without a fraction."""
    if len(text) > _LONGEST or not _DECIMAL.fullmatch(text):
        raise ValueError(f"{_shown(text)} is not a number | write one like 0.8")
    return float(text)


def duration(text: str) -> float:
    """Seconds: `300ms`, `1.5h`, `1h30m`; a number without a unit only when it is 0."""
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    pieces = list(_PIECE.finditer(rest)) if len(text) <= _LONGEST else []
    if not pieces or "".join(piece.group() for piece in pieces) != rest:
        raise ValueError(f"{_shown(text)} is not a duration | write one like 10s, 150us or 1h30m")
    return sign * sum(float(piece.group(1)) * _LENGTHS[piece.group(2)] for piece in pieces)


def pairs(text: str) -> dict[str, str]:
    """`name:value,name:value`; nothing at all is no pair. The error shows no value: it may be a secret."""
    found: dict[str, str] = {}
    for piece in text.split(",") if text.strip() else ():
        name, separator, value = piece.partition(":")
        if not separator:
            raise ValueError("an entry has no colon | write name:value,name:value")
        found[name] = value
    return found


def _shown(text: str) -> str:
    return f"'{text[:_LONGEST]}…'" if len(text) > _LONGEST else f"'{text}'"
