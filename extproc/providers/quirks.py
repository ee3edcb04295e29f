"""What an OpenAI-compatible server does differently, as data: nothing here looks at a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

# The names of the field that holds an answer's maximum in a chat request; "" is: as the client wrote it.
MaximumField: TypeAlias = Literal["", "max_tokens", "max_completion_tokens"]

# Every operation that the gateway knows, by the name that logs and metrics use.
ALL_OPERATIONS = frozenset(
    {
        "chat.completions",
        "completions",
        "responses",
        "embeddings",
        "images.generations",
        "images.edits",
        "images.variations",
        "audio.speech",
        "audio.transcriptions",
        "audio.translations",
        "moderations",
    }
)


@dataclass(frozen=True, slots=True)
class Quirks:
    """The differences of one server. The defaults are those of a server without any.

    `include_usage`: its streams report usage when `stream_options.include_usage` asks for it. False for a server
    that refuses the field, or that reports usage anyway.
    `max_tokens`: the name it knows for an answer's maximum in a chat request; "" when it knows both.
    `drops`: top-level fields of a chat request that it refuses and whose absence changes no answer.
    `operations`: what it serves, so that the gateway can say no with a reason. All of them where the vendor's
    pages leave it open: then the server answers for itself.
    `realtime`: it serves a WebSocket at `/realtime`.
    `done_marker`: its streams end with `data: [DONE]`.
    """

    include_usage: bool = True
    max_tokens: MaximumField = ""
    drops: tuple[str, ...] = ()
    operations: frozenset[str] = ALL_OPERATIONS
    realtime: bool = False
    done_marker: bool = True

    @property
    def renames(self) -> tuple[str, str] | None:
        """(the field it does not know, the field to send instead), None when it knows both.

        A request that holds both keeps the value of the second.
        """
        if not self.max_tokens:
            return None
        other = "max_completion_tokens" if self.max_tokens == "max_tokens" else "max_tokens"
        return other, self.max_tokens
