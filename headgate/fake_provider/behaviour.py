"""What the fake provider does with a request, chosen by the header `x-fake: key=value,…` or by a model named
`fake:key=value,…`. An unknown key is an error, so that no test can believe in a fault that never happened."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Every dial. Times are in milliseconds."""

    status: int = 200  # an error status answers with OpenAI's error object
    retry_after: int = 0  # sends `retry-after`, seconds
    chunks: int = 10  # words of the answer, one per chunk of a stream
    delay_ms: int = 0  # before the headers
    chunk_delay_ms: int = 0  # between chunks
    hang: bool = False  # never answers
    reset: str = ""  # cuts the connection: before | headers | body
    stall_after: int = -1  # so many chunks, then silence
    truncate_after: int = -1  # so many chunks, then a clean end of the connection
    close: bool = False  # closes after a whole answer
    usage: str = "normal"  # normal | none | split | running | early | huge | braces | parts
    usage_tokens: int = 0  # the total to report; 0: counted
    split: int = 0  # cuts a stream's bytes into pieces of this size, each its own write
    newline: str = "lf"  # lf | crlf
    broken: bool = False  # half of the answer is not JSON
    gzip: bool = False  # compresses, asked or not
    size: int = 0  # pads a JSON answer to so many bytes
    space: bool = True  # `data: {` or `data:{`
    ratelimit: bool = False  # sends OpenAI's x-ratelimit-* headers and x-request-id
    text: str = ""  # the words of the answer, instead of made-up ones ("+" for a space)

    @classmethod
    def parse(cls, text: str, base: Behaviour | None = None) -> Behaviour:
        """`key=value,…` laid over `base`. Raises `ValueError` for what it does not know."""
        given: dict[str, Any] = {}
        known = {field.name: field for field in fields(cls)}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            name, separator, value = part.partition("=")
            if name not in known or not separator:
                raise ValueError(f"x-fake: unknown '{part}'; known: {', '.join(known)}")
            default: Any = known[name].default
            if isinstance(default, bool):
                if value not in ("true", "false"):
                    raise ValueError(f"x-fake: {name} is true or false, not '{value}'")
                given[name] = value == "true"
            else:
                given[name] = int(value) if isinstance(default, int) else value
        return replace(base or cls(), **given)
