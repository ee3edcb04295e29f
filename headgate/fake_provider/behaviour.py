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
    retry_after_ms: int = 0  # sends `retry-after-ms`
    first: int = 0  # this behaviour is for so many requests (of one `x-fake-id`) only; 0: for all
    fail_share: float = 1.0  # this behaviour is for this share of the requests only; alone it means `status=500`
    chunks: int = 10  # words of the answer, one per chunk of a stream
    delay_ms: int = 0  # before the headers
    first_chunk_delay_ms: int = 0  # between the headers and the first byte of the body
    chunk_delay_ms: int = 0  # between chunks
    hang: bool = False  # never answers
    reset: str = ""  # cuts the connection: before | headers | body
    stall_after: int = -1  # so many chunks (of a whole answer half of it), then silence
    truncate_after: int = -1  # so many chunks (or half), then a clean end of the connection
    no_done: bool = False  # a stream without `[DONE]`, its body properly ended
    no_finish: bool = False  # a stream that ends behind its last word: no finish reason, no usage, no `[DONE]`
    close: bool = False  # closes after a whole answer
    finish: str = "stop"  # the finish reason of a chat or a completion
    usage: str = "normal"  # normal | none | split | running | early | huge | overlong | braces | parts
    usage_tokens: int = 0  # the total to report; 0: counted
    split: int = 0  # cuts a stream's bytes into pieces of this size, each its own write
    newline: str = "lf"  # lf | crlf
    broken: bool = False  # half of the answer is not JSON
    gzip: bool = False  # compresses, asked or not
    size: int = 0  # pads a JSON answer to so many bytes; so many bytes of audio
    space: bool = True  # `data: {` or `data:{`
    ratelimit: bool = False  # sends OpenAI's x-ratelimit-* headers and x-request-id
    ratelimit_remaining: int = -1  # what they say is left; turns them on
    ratelimit_reset: str = ""  # when they say all is back, as `6m0s`; turns them on
    text: str = ""  # the words of the answer, instead of made-up ones ("+" for a space)
    embedding: str = "same"  # same: one vector for all | words: texts that share words are near each other
    flagged: bool = False  # what a moderation finds
    health: int = 200  # what GET /health answers; nothing else changes that
    tag: str = ""  # changes nothing: names a request, or makes two models of one behaviour
    echo: bool = False  # tells what it received on paths it does not know, instead of 404

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
                given[name] = type(default)(value)
        if "fail_share" in given and given.keys() <= {"fail_share", "first"}:
            given["status"] = 500
        return replace(base or cls(), **given)

    def describe(self) -> str:
        """The text that `parse` makes this of."""
        changed = [(field.name, getattr(self, field.name)) for field in fields(self)]
        changed = [(name, value) for name, value in changed if value != getattr(_NORMAL, name)]
        return ",".join(f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in changed)


_NORMAL = Behaviour()
