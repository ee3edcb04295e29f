"""The handler interface between a service and whatever gRPC engine carries it.

A service is data: a name and its methods. A handler is a plain callable that returns its reply at once, or
an awaitable when it truly has to wait (a store, a lock). No engine type appears here, so the same service
runs on grpc.aio today and on another engine tomorrow.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from google.protobuf.message import DecodeError, Message

from sidecar.errors import RpcError, StatusCode
from sidecar.protowire import Encoded

Metadata: TypeAlias = Mapping[str, str]
Reply: TypeAlias = Message | Encoded
REPLIES = (Encoded, Message)  # what is a reply, and not something that waits for one


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a handler may know about its call: the method's path and the peer's (ASCII) metadata."""

    path: str
    metadata: Metadata = field(default_factory=dict)


@dataclass(slots=True)  # not frozen: one is made per message, and freezing would double what that costs
class Step:
    """What one incoming message of a stream leads to. Read-only: a constant one may serve many calls.

    `replies` are sent in order, then those of `more` as they come. `done` ends the call with status OK right after
    them: end it as soon as nothing more will be said, because a stream that is left open dies with this process.
    """

    replies: tuple[Reply, ...] = ()
    done: bool = False
    more: AsyncIterator[Reply] | None = None


NOTHING = Step()
DONE = Step(done=True)


class StreamHandler(Protocol):
    """The state of one client-streaming or bidirectional call. Raise `RpcError` to end it with a status."""

    def on_message(self, message: Any) -> Step | Awaitable[Step]:
        """A message has arrived. The next one is delivered only after this step is finished."""

    def on_end(self) -> Step | Awaitable[Step]:
        """The client has half-closed: no message follows. The call ends after the replies of this step."""

    def on_close(self) -> None:
        """The call is over, for whatever reason (finished, failed, cancelled). Called exactly once."""


class Readable(Protocol):
    """What a message is read with: a generated class, or something that reads it in another way."""

    def FromString(self, payload: bytes, /) -> Any:  # noqa: N802 - the name that messages have
        """The message. Raises `DecodeError`."""


def decoded(kind: Readable, payload: bytes) -> Any:
    """The message. Raises `RpcError`, for whoever reads what an engine has handed over as bytes."""
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise RpcError(StatusCode.INVALID_ARGUMENT, "the message cannot be parsed") from error


@dataclass(frozen=True, slots=True)
class UnaryMethod:
    """One request, one reply."""

    name: str
    request: Readable
    handle: Callable[[Any, CallContext], Reply | Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class StreamMethod:
    """Messages in, messages out; with `single_reply` the method is client-streaming: one reply, at its end.

    A `lasting` call is open for as long as its client lives. A server that stops does not wait for its end, only
    a moment for what still comes (`sidecar.ending`; the native engine: grpc.aio knows no such calls).
    """

    name: str
    request: Readable
    open: Callable[[CallContext], StreamHandler]
    single_reply: bool = False
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """A gRPC service: its full name (`package.Service`) and its methods."""

    name: str
    methods: tuple[UnaryMethod | StreamMethod, ...]
