"""The contract of a gRPC engine, the same on both: every kind of call, every kind of end, real grpcio clients."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sidecar.errors import ConfigError, StatusCode
from sidecar.server import Engine, GrpcServer
from tests.sidecar.contract import SECRET, Client, Seen, code_of, contract, serving, until


async def test_every_kind_of_call(any_client: Client, seen: Seen) -> None:
    assert (await any_client.unary("hello")).value == "HELLO"
    assert (await any_client.unary("later")).value == "later"
    assert await any_client.echoed("a", "later", "b") == ["a", "a", "later", "b", "b", "end"]
    assert (await any_client.sum(*range(5))).value == 10
    replies = [int.from_bytes(reply.value[:4], "big") async for reply in any_client.produce(3)]
    assert replies == [0, 1, 2]
    await until(lambda: sorted(seen.closed) == ["echo", "generator", "produce", "sum"])


async def test_a_synchronous_client(seen: Seen, engine: Engine) -> None:
    async with serving(seen, engine, "127.0.0.1:0") as server:

        def use() -> list[Any]:
            with grpc.insecure_channel(server.address) as channel:
                code, decode = StringValue.SerializeToString, StringValue.FromString
                unary = channel.unary_unary("/test.Contract/Unary", code, decode)
                stream = channel.stream_stream("/test.Contract/Echo", code, decode)
                replies = [unary(StringValue(value=str(number))).value for number in range(20)]
                return replies + [reply.value for reply in stream(iter([StringValue(value="a")]))]

        assert await asyncio.to_thread(use) == [*(str(number) for number in range(20)), "a", "a", "end"]


async def test_many_calls_at_once(client: Client) -> None:
    async def one(number: int) -> bool:
        if number % 2:
            return str((await client.unary(f"n{number}")).value) == f"N{number}"
        return await client.echoed(str(number), "done") == [str(number), str(number), "bye"]

    assert all(await asyncio.gather(*(one(number) for number in range(300))))


async def test_metadata(client: Client) -> None:
    assert (await client.unary("metadata", metadata=(("x-test", "seen"),))).value == "seen"
    assert (await client.unary("metadata")).value == ""


@pytest.mark.parametrize("code", [code for code in StatusCode if code is not StatusCode.OK])
async def test_every_error_status(client: Client, code: StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.unary(f"status {int(code)}")
    assert caught.value.code().value[0] == int(code)
    assert caught.value.details() == "k\u00e4se: 100 %\n"


@pytest.mark.parametrize("value", ["crash", "crash later"])
async def test_a_crash_says_nothing_to_the_peer(client: Client, value: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.unary(value)
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert SECRET not in f"{caught.value.details()} {caught.value.debug_error_string()} {caught.value!r}"


async def test_a_handler_that_returns_nothing_is_a_crash(client: Client) -> None:
    call = client.channel.unary_unary("/test.Contract/Nothing", StringValue.SerializeToString, StringValue.FromString)
    assert await code_of(call(StringValue())) == grpc.StatusCode.INTERNAL
    assert (await client.unary("still here")).value == "STILL HERE"


async def test_bytes_that_are_no_message(client: Client) -> None:
    for path in ("/test.Contract/Unary", "/test.Contract/Echo"):
        call = client.channel.stream_unary(path)
        assert await code_of(call(iter([b"\xff\xff\xff"]))) == grpc.StatusCode.INVALID_ARGUMENT


async def test_the_server_ends_a_stream(client: Client, seen: Seen) -> None:
    assert await client.echoed("a", "done", "never seen") == ["a", "a", "bye"]
    await until(lambda: seen.closed == ["echo"])


@pytest.mark.parametrize(
    ("value", "code"), [("crash", grpc.StatusCode.INTERNAL), ("refuse", grpc.StatusCode.FAILED_PRECONDITION)]
)
async def test_stream_errors(client: Client, seen: Seen, value: str, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.echoed("a", value)
    assert caught.value.code() == code
    assert SECRET not in str(caught.value)
    await until(lambda: seen.closed == ["echo"])


async def test_an_error_among_streamed_replies(client: Client, seen: Seen) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [reply async for reply in client.produce(-1)]
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert SECRET not in str(caught.value)
    await until(lambda: sorted(seen.closed) == ["generator", "produce"])


async def test_client_streaming_promises_one_reply(client: Client) -> None:
    assert await code_of(client.sum(-1)) == grpc.StatusCode.INTERNAL


async def test_a_deadline_is_seen_by_both_sides(client: Client, seen: Seen) -> None:
    assert await code_of(client.unary("wait", timeout=0.3)) == grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: seen.cancelled == ["unary"])
    call = client.echo(timeout=0.3)
    await call.write(StringValue(value="wait"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: seen.cancelled == ["unary", "echo"] and seen.closed == ["echo"])


async def test_a_cancelled_call_is_cancelled_in_its_handler(client: Client, seen: Seen) -> None:
    waiting = client.unary("wait")
    stream = client.echo()
    await stream.write(StringValue(value="a"))
    assert (await stream.read()).value == "a"
    await stream.write(StringValue(value="wait"))
    idle = client.echo()
    await idle.write(StringValue(value="b"))
    assert (await idle.read()).value == "b"
    await until(lambda: sorted(seen.waiting) == ["echo", "unary"])
    for call in (waiting, stream, idle):
        call.cancel()
    await until(lambda: sorted(seen.cancelled) == ["echo", "unary"] and seen.closed == ["echo", "echo"])


async def test_a_client_that_vanishes_closes_its_calls(seen: Seen, engine: Engine) -> None:
    async with serving(seen, engine, "127.0.0.1:0") as server:
        channel = grpc.aio.insecure_channel(server.address)
        call = Client(channel).echo()
        await call.write(StringValue(value="wait"))
        await call.write(StringValue(value="behind it"))
        await until(lambda: seen.waiting == ["echo"])
        await channel.close()
        await until(lambda: seen.cancelled == ["echo"] and seen.closed == ["echo"])


async def test_compression(seen: Seen, engine: Engine, tmp_path: Path) -> None:
    async with (
        serving(seen, engine, f"unix://{tmp_path}/s.sock") as server,
        grpc.aio.insecure_channel(server.address, compression=grpc.Compression.Gzip) as channel,
    ):
        client = Client(channel)
        assert (await client.data(b"x" * 1_000_000)).value == b"x" * 1_000_000
        assert await client.echoed("a" * 50_000, "done") == ["a" * 50_000, "a" * 50_000, "bye"]


async def test_unknown_methods_and_services(client: Client) -> None:
    for path in ("/test.Contract/None", "/test.Nobody/Unary"):
        assert await code_of(client.channel.unary_unary(path)(b"")) == grpc.StatusCode.UNIMPLEMENTED


async def test_health_per_service(tmp_path: Path, engine: Engine) -> None:
    server = GrpcServer([contract(Seen())], listen=f"unix://{tmp_path}/h.sock", health_names=["extra"], engine=engine)
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "test.Contract", "extra"):
            reply = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        assert await code_of(health.Check(health_pb2.HealthCheckRequest(service="nobody"))) == (
            grpc.StatusCode.NOT_FOUND
        )
        watch = health.Watch(health_pb2.HealthCheckRequest(service="extra"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await server.not_serving()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        reply = await health.Check(health_pb2.HealthCheckRequest(service="test.Contract"))
        assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING
        await server.stop(0)


async def test_reflection_names_the_services(client: Client) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    replies = [reply async for reply in stub.ServerReflectionInfo(iter([request]))]
    names = {service.name for service in replies[0].list_services_response.service}
    assert {"test.Contract", "grpc.health.v1.Health"} <= names


async def test_stopping_lets_calls_finish_and_takes_no_new_ones(seen: Seen, tmp_path: Path, engine: Engine) -> None:
    async with (
        serving(seen, engine, f"unix://{tmp_path}/s.sock") as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        client = Client(channel)
        unary = client.unary("wait")
        stream = client.echo("a", "wait", "b")
        replies = aiter(stream)
        assert [(await anext(replies)).value for _ in range(2)] == ["a", "a"]
        stopping = asyncio.create_task(server.stop(10))
        await until(lambda: channel.get_state() is not grpc.ChannelConnectivity.READY)
        assert await code_of(client.unary("too late")) == grpc.StatusCode.UNAVAILABLE
        assert not stopping.done()
        seen.gate.set()
        assert (await unary).value == "wait"
        assert [reply.value async for reply in replies] == ["wait", "b", "b", "end"]
        async with asyncio.timeout(5):
            await stopping


async def test_stopping_cuts_what_outlives_its_grace(seen: Seen, tmp_path: Path, engine: Engine) -> None:
    async with serving(seen, engine, f"unix://{tmp_path}/s.sock") as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            call = Client(channel).echo()
            await call.write(StringValue(value="a"))
            assert (await call.read()).value == "a"
            async with asyncio.timeout(5):
                await server.stop(0.1)
        await until(lambda: seen.closed == ["echo"])


async def test_stopping_hears_the_last_words_of_calls_without_an_end_and_waits_no_longer(
    seen: Seen, tmp_path: Path
) -> None:
    # grpc.aio knows no such calls: it waits for them as for all others.
    async with (
        serving(seen, "native", f"unix://{tmp_path}/s.sock") as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        call = Client(channel).echo(method="EchoForGood")
        await call.write(StringValue(value="a"))
        assert (await call.read()).value == "a"
        stopping = asyncio.create_task(server.stop(30))
        await asyncio.sleep(0.5)
        await call.write(StringValue(value="b"))
        assert (await call.read()).value == "a"
        assert (await call.read()).value == "b"
        async with asyncio.timeout(5):
            await stopping


async def test_an_address_in_use_is_a_clear_error(engine: Engine) -> None:
    async with serving(Seen(), engine, "127.0.0.1:0") as first:
        with pytest.raises(ConfigError, match="cannot bind"):
            await GrpcServer([contract(Seen())], listen=first.address, engine=engine).start()
