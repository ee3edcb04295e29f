"""The values that one request is made of while it is decided. No protobuf and no I/O here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from extproc.cache.question import Question
from extproc.policy import Key, Model, Policy
from extproc.providers.multipart import Form
from extproc.providers.openai import Body, Operation
from extproc.targets import Target

MetadataValue: TypeAlias = str | float | bool
Facts: TypeAlias = Mapping[str, Mapping[str, MetadataValue]]  # what Envoy learns, by metadata namespace


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """A request's headers as Envoy saw them; names are lower case, repeated names keep every value."""

    fields: Mapping[str, tuple[bytes, ...]]
    end_of_stream: bool

    def one(self, name: str) -> str:
        """The value of `name`, or an empty text when it is absent or stands more than once."""
        values = self.fields.get(name, ())
        return values[0].decode("utf-8", "replace") if len(values) == 1 else ""

    def all(self, name: str) -> tuple[bytes, ...]:
        """Every value of `name`, in order."""
        return self.fields.get(name, ())


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of our own: the provider is not asked."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class NeedBody:
    """The headers are in order; the decision needs the whole body."""


@dataclass(frozen=True, slots=True)
class Forward:
    """The request goes on, changed: headers to set and remove, a body that replaces the old one, metadata.

    `order` names the groups of the route in the order in which Envoy shall try them; empty where there is one target.
    """

    set_headers: tuple[tuple[str, str], ...]
    remove_headers: tuple[str, ...]
    body: bytes | None
    metadata: Facts
    order: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AskCache:
    """Everything is in order, and there may be a kept answer: the decision goes on when that is known."""

    question: Question


Outcome: TypeAlias = Reply | NeedBody | AskCache | Forward


@dataclass(slots=True)
class Exchange:
    """One request under decision. Filters read it and write what they found; nothing else keeps state."""

    policy: Policy
    headers: RequestHeaders
    key: Key | None = None
    operation: Operation | None = None
    raw_body: bytes = b""
    body: Body | None = None
    form: Form | None = None
    model: Model | None = None
    order: tuple[int, ...] = ()  # the targets of the model, in the order in which they are tried
    attempts: int = 0  # at most, where fewer targets can serve this request than others; 0: as many as usual
    operation_path: str = ""  # the path below a provider's base path
    query: str = ""  # the client's
    realtime: bool = False  # a WebSocket
    prompt_tokens: int = 0
    completion_tokens: int = 0
    own_key: str = ""  # the client's own key for `own_provider`
    own_provider: str = ""
    rewritten: bytes | None = None
    question: Question | None = None  # for the cache
    cache_status: str = ""  # what the client is told of the cache: nothing where the model has none
    cache_reason: str = ""
    ticket: str = ""  # under which the answer is kept when it comes
    later_attempts: str = ""  # what attempts after the first must look like (`filters.rewrite`)
    chunks: bool = False  # the answer is a stream of chat chunks
    strip_usage: bool = False

    def forget_body(self) -> None:
        """The decision is made: what was read of the body is not needed any more, and may be large."""
        self.raw_body, self.body, self.form, self.rewritten = b"", None, None, None

    @property
    def target(self) -> Target | None:
        """Who is tried first; None until that is decided."""
        return self.model.targets[self.order[0]] if self.order and self.model is not None else None

    @property
    def estimate(self) -> int:
        """Tokens that the request may cost at most."""
        return self.prompt_tokens + self.completion_tokens
