"""The contract of a gRPC engine, continued: large messages, slow peers, old connections."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from sidecar.options import ServerOptions
from sidecar.server import DEFAULT_MAX_MESSAGE_BYTES, Engine
from tests.sidecar.contract import Client, Seen, code_of, serving, settled, until

_OVERHEAD = 5  # of a BytesValue with megabytes in it
_PIECE = 65_536


async def test_the_largest_message_both_ways(any_client: Client) -> None:
    value = bytes(range(256)) * ((DEFAULT_MAX_MESSAGE_BYTES - 1_024) // 256)
    assert (await any_client.data(value)).value == value


async def test_one_byte_over_the_limit(client: Client) -> None:
    most = DEFAULT_MAX_MESSAGE_BYTES - _OVERHEAD
    assert len((await client.data(bytes(most))).value) == most
    assert await code_of(client.data(bytes(most + 1))) == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await client.unary("still here")).value == "STILL HERE"


async def test_a_slow_reader_holds_the_handler_back(seen: Seen, engine: Engine, tmp_path: Path) -> None:
    """The client reads one of 400 messages (25 MB), then nothing for a while, then the rest."""
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", _PIECE)]
    async with (
        serving(seen, engine, f"unix://{tmp_path}/s.sock") as server,
        grpc.aio.insecure_channel(server.address, options=options) as channel,
    ):
        call = Client(channel).produce(400)
        replies = aiter(call)
        first = await anext(replies)
        assert await settled(lambda: seen.produced) < 100
        numbers = [int.from_bytes(reply.value[:4], "big") for reply in [first] + [one async for one in replies]]
        assert numbers == list(range(400))


async def test_a_slow_handler_holds_the_client_back(client: Client, seen: Seen) -> None:
    written = 0
    call = client.swallow()

    async def write() -> None:
        nonlocal written
        for number in range(300):
            await call.write(BytesValue(value=number.to_bytes(4, "big") + bytes(_PIECE - 4)))
            written += 1
        await call.done_writing()

    writing = asyncio.create_task(write())
    assert await settled(lambda: written) < 200
    seen.gate.set()
    await writing
    assert (await call).value == 300
    assert seen.taken == list(range(300))


async def test_a_reader_that_never_reads_does_not_hold_back_others(client: Client, seen: Seen) -> None:
    stuck = [client.produce(200) for _ in range(3)]
    await settled(lambda: seen.produced)
    assert (await client.unary("others")).value == "OTHERS"
    for call in stuck:
        call.cancel()
    await until(lambda: sorted(seen.closed) == ["generator"] * 3 + ["produce"] * 3)


async def test_an_old_connection_is_drained_without_a_failed_call(seen: Seen, engine: Engine) -> None:
    async with (
        serving(seen, engine, "127.0.0.1:0", ServerOptions(max_connection_age=0.3)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        client = Client(channel)
        running = client.unary("wait")
        await client.unary("connected")
        ended = asyncio.create_task(channel.wait_for_state_change(grpc.ChannelConnectivity.READY))
        calls = 0
        async with asyncio.timeout(10):
            while not ended.done():
                assert (await client.unary("again")).value == "AGAIN"
                assert await client.echoed("a", "done") == ["a", "a", "bye"]
                calls += 1
        assert calls > 1
        assert (await client.unary("on a new connection")).value == "ON A NEW CONNECTION"
        seen.gate.set()
        assert (await running).value == "wait"


async def test_an_old_connection_is_cut_after_its_grace(seen: Seen, engine: Engine) -> None:
    options = ServerOptions(max_connection_age=0.1, max_connection_age_grace=0.1)
    async with (
        serving(seen, engine, "127.0.0.1:0", options) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        assert await code_of(Client(channel).unary("wait", timeout=10)) == grpc.StatusCode.UNAVAILABLE


async def test_more_streams_than_allowed_wait_their_turn(seen: Seen, engine: Engine, tmp_path: Path) -> None:
    """The limit is announced: a client keeps to it by itself."""
    async with (
        serving(seen, engine, f"unix://{tmp_path}/s.sock", ServerOptions(max_concurrent_streams=2)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        client = Client(channel)
        await client.unary("the settings have come")
        waiting = [client.unary("wait") for _ in range(2)]
        third = asyncio.ensure_future(client.unary("third", timeout=0.3))
        assert await code_of(third) == grpc.StatusCode.DEADLINE_EXCEEDED
        seen.gate.set()
        assert [(await call).value for call in waiting] == ["wait", "wait"]
        assert (await client.unary("third")).value == "THIRD"


def test_options_that_no_server_could_honour() -> None:
    everything: list[dict[str, Any]] = [
        {"max_connection_age": -1},
        {"max_connection_age_grace": -1},
        {"keepalive_time": -1},
        {"keepalive_timeout": 0},
        {"max_concurrent_streams": 0},
    ]
    for wrong in everything:
        with pytest.raises(ValueError, match=r"1 or more|not negative"):
            ServerOptions(**wrong)
