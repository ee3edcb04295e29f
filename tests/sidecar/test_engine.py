"""The contract of a gRPC engine, the same on both: every kind of call, every kind of end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int64Value, StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sidecar.errors import ConfigError, RpcError, StatusCode
from sidecar.rpc import DONE, NOTHING, CallContext, Service, Step, StreamMethod, UnaryMethod
from sidecar.server import Engine, GrpcServer

closed: list[str] = []


def _unary(request: StringValue, context: CallContext) -> StringValue | Awaitable[StringValue]:
    if request.value == "rpc error":
        raise RpcError(StatusCode.RESOURCE_EXHAUSTED, "enough")
    if request.value == "crash":
        raise ZeroDivisionError("a secret in the message of an exception")
    if request.value == "metadata":
        return StringValue(value=context.metadata.get("x-test", ""))
    if request.value == "later":
        return _later()
    if request.value == "never":
        return _never()
    return StringValue(value=request.value.upper())


async def _later() -> StringValue:
    await asyncio.sleep(0)
    return StringValue(value="later")


async def _never() -> StringValue:
    await asyncio.Event().wait()
    raise AssertionError


class _Echo:
    def on_message(self, message: StringValue) -> Step | Awaitable[Step]:
        if message.value == "done":
            return Step((StringValue(value="bye"),), done=True)
        if message.value == "crash":
            raise ZeroDivisionError
        if message.value == "refuse":
            raise RpcError(StatusCode.FAILED_PRECONDITION, "not now")
        if message.value == "later":
            return self._later()
        return Step((message, message))

    async def _later(self) -> Step:
        await asyncio.sleep(0)
        return Step((StringValue(value="later"),))

    def on_end(self) -> Step:
        return Step((StringValue(value="end"),))

    def on_close(self) -> None:
        closed.append("echo")


class _Sum:
    def __init__(self) -> None:
        self.total = 0

    def on_message(self, message: Int64Value) -> Step:
        self.total += message.value
        return NOTHING

    def on_end(self) -> Step:
        return Step((Int64Value(value=self.total),)) if self.total >= 0 else DONE

    def on_close(self) -> None:
        closed.append("sum")


SERVICE = Service(
    "test.Contract",
    (
        UnaryMethod("Unary", StringValue, _unary),
        StreamMethod("Echo", StringValue, lambda _context: _Echo()),
        StreamMethod("Sum", Int64Value, lambda _context: _Sum(), single_reply=True),
    ),
)


@pytest.fixture(params=["grpcio", "native"])
def engine(request: pytest.FixtureRequest) -> Engine:
    chosen: Engine = request.param
    return chosen


@pytest.fixture(params=["unix", "tcp"])
async def channel(request: pytest.FixtureRequest, tmp_path: Path, engine: Engine) -> AsyncIterator[grpc.aio.Channel]:
    closed.clear()
    listen = f"unix://{tmp_path}/s.sock" if request.param == "unix" else "127.0.0.1:0"
    server = GrpcServer([SERVICE], listen=listen, max_message_bytes=100_000, engine=engine)
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as made:
        yield made
    await server.stop(0)


def unary(channel: grpc.aio.Channel, value: str, **options: object) -> Awaitable[StringValue]:
    call = channel.unary_unary("/test.Contract/Unary", StringValue.SerializeToString, StringValue.FromString)
    return call(StringValue(value=value), **options)  # type: ignore[no-any-return]


async def echo(channel: grpc.aio.Channel, *values: str) -> list[str]:
    call = channel.stream_stream("/test.Contract/Echo", StringValue.SerializeToString, StringValue.FromString)
    return [reply.value async for reply in call(iter([StringValue(value=value) for value in values]))]


async def test_unary(channel: grpc.aio.Channel) -> None:
    assert (await unary(channel, "hello")).value == "HELLO"
    assert (await unary(channel, "later")).value == "later"
    assert (await unary(channel, "metadata", metadata=(("x-test", "seen"),))).value == "seen"


@pytest.mark.parametrize(
    ("value", "code", "details"),
    [
        ("rpc error", grpc.StatusCode.RESOURCE_EXHAUSTED, "enough"),
        ("crash", grpc.StatusCode.INTERNAL, "internal error"),
    ],
)
async def test_unary_errors(channel: grpc.aio.Channel, value: str, code: grpc.StatusCode, details: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unary(channel, value)
    assert caught.value.code() == code
    assert caught.value.details() == details


async def test_a_deadline_ends_a_call(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unary(channel, "never", timeout=0.1)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_message_over_the_limit_is_refused(channel: grpc.aio.Channel) -> None:
    assert len((await unary(channel, "x" * 99_000)).value) == 99_000
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unary(channel, "x" * 101_000)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_streams(channel: grpc.aio.Channel) -> None:
    assert await echo(channel, "a", "later", "b") == ["a", "a", "later", "b", "b", "end"]
    assert await echo(channel) == ["end"]
    assert closed == ["echo", "echo"]


async def test_the_server_ends_a_stream(channel: grpc.aio.Channel) -> None:
    assert await echo(channel, "a", "done", "never seen") == ["a", "a", "bye"]
    assert closed == ["echo"]


@pytest.mark.parametrize(
    ("value", "code"), [("crash", grpc.StatusCode.INTERNAL), ("refuse", grpc.StatusCode.FAILED_PRECONDITION)]
)
async def test_stream_errors(channel: grpc.aio.Channel, value: str, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await echo(channel, "a", value)
    assert caught.value.code() == code
    assert closed == ["echo"]


async def test_a_cancelled_stream_is_closed(channel: grpc.aio.Channel) -> None:
    call = channel.stream_stream("/test.Contract/Echo", StringValue.SerializeToString, StringValue.FromString)()
    await call.write(StringValue(value="a"))
    assert (await call.read()).value == "a"
    call.cancel()
    async with asyncio.timeout(5):
        while not closed:
            await asyncio.sleep(0.01)
    assert closed == ["echo"]


async def test_client_streaming(channel: grpc.aio.Channel) -> None:
    call = channel.stream_unary("/test.Contract/Sum", Int64Value.SerializeToString, Int64Value.FromString)
    assert (await call(iter([Int64Value(value=n) for n in range(5)]))).value == 10
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(iter([Int64Value(value=-1)]))
    assert caught.value.code() == grpc.StatusCode.INTERNAL


async def test_unknown_methods_and_services(channel: grpc.aio.Channel) -> None:
    for path in ("/test.Contract/Nothing", "/test.Nobody/Unary"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(path)(b"")
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_health_per_service(tmp_path: Path, engine: Engine) -> None:
    server = GrpcServer([SERVICE], listen=f"unix://{tmp_path}/h.sock", health_names=["extra"], engine=engine)
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "test.Contract", "extra"):
            reply = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        await server.not_serving()
        reply = await health.Check(health_pb2.HealthCheckRequest(service="test.Contract"))
        assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING
    await server.stop(0)


async def test_reflection_names_the_services(channel: grpc.aio.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    replies = [reply async for reply in stub.ServerReflectionInfo(iter([request]))]
    names = {service.name for service in replies[0].list_services_response.service}
    assert {"test.Contract", "grpc.health.v1.Health"} <= names


async def test_stopping_lets_a_call_finish(tmp_path: Path, engine: Engine) -> None:
    gate = asyncio.Event()

    async def wait(_request: StringValue, _context: CallContext) -> StringValue:
        await gate.wait()
        return StringValue(value="finished")

    service = Service("test.Slow", (UnaryMethod("Wait", StringValue, wait),))
    server = GrpcServer([service], listen=f"unix://{tmp_path}/s.sock", engine=engine)
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/test.Slow/Wait", StringValue.SerializeToString, StringValue.FromString)
        running = asyncio.ensure_future(call(StringValue()))
        await asyncio.sleep(0.1)
        stopping = asyncio.create_task(server.stop(5))
        await asyncio.sleep(0.1)
        gate.set()
        assert (await running).value == "finished"
        await stopping


async def test_an_address_in_use_is_a_clear_error(engine: Engine) -> None:
    first = GrpcServer([SERVICE], listen="127.0.0.1:0", engine=engine)
    await first.start()
    with pytest.raises(ConfigError, match="cannot bind"):
        await GrpcServer([SERVICE], listen=first.address, engine=engine).start()
    await first.stop(0)
