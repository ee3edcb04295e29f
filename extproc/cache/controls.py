"""What a client says of the cache with its request (RFC 9111, section 5.2.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass

CONTROL_HEADER = "cache-control"
SALT_HEADER = "x-headgate-cache-key"

_LONGEST = 2**31  # seconds: RFC 9111, section 1.2.2
_MOST_DIGITS = 18
# A directive with its argument, which may be quoted and then hold commas.
_DIRECTIVE = re.compile(r'([^\s=,;"]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^,]*))?[^,]*')


@dataclass(frozen=True, slots=True)
class Controls:
    """The client's wishes. `max-stale` and `min-fresh` are not among them: nothing stale is ever answered."""

    no_store: bool = False  # neither looked up nor kept
    no_cache: bool = False  # not looked up; the new answer is kept
    only_if_cached: bool = False  # the provider is not to be asked
    max_age: int | None = None  # seconds that an answer may be old
    salt: bytes = b""  # keeps apart what the same salt was not sent with

    @classmethod
    def parse(cls, control: tuple[bytes, ...] = (), salt: tuple[bytes, ...] = ()) -> Controls:
        """Read from the values of both headers. Never raises: what is unknown is passed over, and an age that is no
        number is 0. Of two ages the lower one counts."""
        if not control and not salt:
            return _NONE
        found: set[str] = set()
        ages: list[int] = []
        for value in control:
            for name, argument in _DIRECTIVE.findall(value.decode("latin-1")):
                found.add(name.lower())
                if name.lower() == "max-age":
                    ages.append(_seconds(argument))
        return cls(
            no_store="no-store" in found,
            no_cache="no-cache" in found,
            only_if_cached="only-if-cached" in found,
            max_age=min(ages, default=None),
            salt=b"\n".join(salt),  # a value holds no line end
        )


_NONE = Controls()


def _seconds(argument: str) -> int:
    digits = argument.strip().strip('"')
    if not (digits.isascii() and digits.isdigit()):
        return 0
    digits = digits.lstrip("0") or "0"
    return min(int(digits), _LONGEST) if len(digits) <= _MOST_DIGITS else _LONGEST
