"""What the contract of an engine is tested with: a service of every kind of method, servers, channels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import BytesValue, Int64Value, StringValue

from sidecar.errors import RpcError, StatusCode
from sidecar.options import ServerOptions
from sidecar.rpc import DONE, NOTHING, CallContext, Service, Step, StreamMethod, UnaryMethod
from sidecar.server import Engine, GrpcServer

SECRET = "a secret in the message of an exception"
ENGINES: tuple[Engine, ...] = ("grpcio", "native")


@dataclass
class Seen:
    """What handlers went through; `gate` lets those go on that wait."""

    waiting: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    produced: int = 0
    taken: list[int] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self, name: str) -> None:
        self.waiting.append(name)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise


async def until(true: Callable[[], bool]) -> None:
    """Return as soon as it is true."""
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


async def settled(value: Callable[[], int]) -> int:
    """The value when it has not changed for a while."""
    last = -1
    async with asyncio.timeout(20):
        while last != value():
            last = value()
            await asyncio.sleep(0.25)
    return last


class _Echo:
    """Answers every message twice, and says `end` at the end."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def on_message(self, message: StringValue) -> Step | Awaitable[Step]:
        if message.value == "done":
            return Step((StringValue(value="bye"),), done=True)
        if message.value == "crash":
            raise ZeroDivisionError(SECRET)
        if message.value == "refuse":
            raise RpcError(StatusCode.FAILED_PRECONDITION, "not now")
        if message.value in ("later", "wait"):
            return self._later(message)
        return Step((message, message))

    async def _later(self, message: StringValue) -> Step:
        if message.value == "wait":
            await self._seen.wait("echo")
        else:
            await asyncio.sleep(0)
        return Step((message,))

    def on_end(self) -> Step:
        return Step((StringValue(value="end"),))

    def on_close(self) -> None:
        self._seen.closed.append("echo")


class _Sum:
    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self.total = 0

    def on_message(self, message: Int64Value) -> Step:
        self.total += message.value
        return NOTHING

    def on_end(self) -> Step:
        return Step((Int64Value(value=self.total),)) if self.total >= 0 else DONE

    def on_close(self) -> None:
        self._seen.closed.append("sum")


class _Swallow:
    """Takes large messages, each only when the gate is open."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    async def on_message(self, message: BytesValue) -> Step:
        await self._seen.wait("swallow")
        self._seen.taken.append(int.from_bytes(message.value[:4], "big"))
        return NOTHING

    def on_end(self) -> Step:
        return Step((Int64Value(value=len(self._seen.taken)),))

    def on_close(self) -> None:
        self._seen.closed.append("swallow")


class _Produce:
    """Server-streaming: so many messages of 64 KiB."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def on_message(self, message: Int64Value) -> Step:
        return Step(more=self._produce(message.value), done=True)

    async def _produce(self, count: int) -> AsyncIterator[BytesValue]:
        try:
            for number in range(count):
                self._seen.produced += 1
                yield BytesValue(value=number.to_bytes(4, "big") + bytes(65_532))
            if count < 0:
                raise ZeroDivisionError(SECRET)
        finally:
            self._seen.closed.append("generator")

    def on_end(self) -> Step:
        return NOTHING

    def on_close(self) -> None:
        self._seen.closed.append("produce")


def contract(seen: Seen) -> Service:
    """The service `test.Contract`."""

    def unary(request: StringValue, context: CallContext) -> StringValue | Awaitable[StringValue]:
        if request.value.startswith("status "):
            raise RpcError(StatusCode(int(request.value.split()[1])), "k\u00e4se: 100 %\n")
        if request.value == "crash":
            raise ZeroDivisionError(SECRET)
        if request.value == "metadata":
            return StringValue(value=context.metadata.get("x-test", ""))
        if request.value in ("later", "wait", "crash later"):
            return later(request.value)
        return StringValue(value=request.value.upper())

    async def later(value: str) -> StringValue:
        if value == "wait":
            await seen.wait("unary")
        await asyncio.sleep(0)
        if value == "crash later":
            raise ZeroDivisionError(SECRET)
        return StringValue(value=value)

    return Service(
        "test.Contract",
        (
            UnaryMethod("Unary", StringValue, unary),
            UnaryMethod("Bytes", BytesValue, lambda request, _context: request),
            UnaryMethod("Nothing", StringValue, lambda _request, _context: None),  # type: ignore[arg-type,return-value]
            StreamMethod("Echo", StringValue, lambda _context: _Echo(seen)),
            StreamMethod("EchoForGood", StringValue, lambda _context: _Echo(seen), lasting=True),
            StreamMethod("Sum", Int64Value, lambda _context: _Sum(seen), single_reply=True),
            StreamMethod("Swallow", BytesValue, lambda _context: _Swallow(seen), single_reply=True),
            StreamMethod("Produce", Int64Value, lambda _context: _Produce(seen)),
        ),
    )


@asynccontextmanager
async def serving(
    seen: Seen, engine: Engine, listen: str, options: ServerOptions | None = None
) -> AsyncIterator[GrpcServer]:
    """A server of the contract's service."""
    server = GrpcServer([contract(seen)], listen=listen, engine=engine, options=options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


class Client:
    """The methods of the contract over one grpc.aio channel."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def unary(self, value: str, **options: Any) -> Any:
        call = self.channel.unary_unary("/test.Contract/Unary", StringValue.SerializeToString, StringValue.FromString)
        return call(StringValue(value=value), **options)

    def data(self, value: bytes, **options: Any) -> Any:
        call = self.channel.unary_unary("/test.Contract/Bytes", BytesValue.SerializeToString, BytesValue.FromString)
        return call(BytesValue(value=value), **options)

    def echo(self, *values: str, method: str = "Echo", **options: Any) -> Any:
        """With values: a call that sends them. Without: one to write to."""
        path = f"/test.Contract/{method}"
        call = self.channel.stream_stream(path, StringValue.SerializeToString, StringValue.FromString)
        return call(iter([StringValue(value=value) for value in values]) if values else None, **options)

    async def echoed(self, *values: str) -> list[str]:
        return [reply.value async for reply in self.echo(*values)]

    def sum(self, *numbers: int) -> Any:
        call = self.channel.stream_unary("/test.Contract/Sum", Int64Value.SerializeToString, Int64Value.FromString)
        return call(iter([Int64Value(value=number) for number in numbers]))

    def swallow(self) -> Any:
        call = self.channel.stream_unary("/test.Contract/Swallow", BytesValue.SerializeToString, Int64Value.FromString)
        return call()

    def produce(self, count: int, **options: Any) -> Any:
        call = self.channel.unary_stream("/test.Contract/Produce", Int64Value.SerializeToString, BytesValue.FromString)
        return call(Int64Value(value=count), **options)


async def code_of(call: Any) -> grpc.StatusCode:
    """The status with which a unary call fails."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
