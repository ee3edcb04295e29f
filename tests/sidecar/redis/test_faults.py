"""Peers that are no Redis, or a broken one: a fake TCP peer misbehaves on demand."""

from __future__ import annotations

import asyncio
import time

import pytest

from sidecar.errors import StoreError
from sidecar.redis import connect
from tests.sidecar.redis.conftest import FakePeer
from tests.sidecar.redis.factories import ask, outcome


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak Redis' protocol"),
        (b"*-5\r\n", "does not speak Redis' protocol"),
        (b"$x\r\n", "does not speak Redis' protocol"),
        (b"$100\r\nhalf a repl", "the connection was lost"),
        (b"*2\r\n:1\r\n", "the connection was lost"),
        (b"", "the connection was lost"),
    ],
)
async def test_garbage_and_half_replies_end_the_connection_and_all_that_it_owes(reply: bytes, text: str) -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"two\r\n")
        writer.write(reply)

    async with FakePeer(broken) as peer:
        client = connect(peer.url)
        errors = await asyncio.gather(outcome(client, "ECHO", "one"), outcome(client, "ECHO", "two"))
        assert all(text in str(error) and error.transient for error in errors)
        await client.close()


async def test_a_reply_too_many_ends_the_connection_before_it_answers_another() -> None:
    async def generous(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"one\r\n")
        writer.write(b"+one\r\n+nobody asked\r\n")
        await reader.read()

    async with FakePeer(generous) as peer:
        client = connect(peer.url)
        assert await ask(client, "ECHO", "one") == b"one"
        error = await outcome(client, "ECHO", "two")
        assert isinstance(error, StoreError)
        assert not client.nodes[0].connected
        await client.close()


async def test_replies_may_come_byte_by_byte() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"two\r\n")
        for byte in b"+one\r\n*2\r\n:1\r\n$3\r\ntwo\r\n":
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()

    async with FakePeer(slow) as peer:
        client = connect(peer.url, timeout=2)
        assert await asyncio.gather(*(ask(client, "ECHO", name) for name in ("one", "two"))) == [b"one", [1, b"two"]]
        await client.close()


async def test_a_peer_that_never_answers_is_left_after_the_timeout() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with FakePeer(silent) as peer:
        client = connect(peer.url)
        started = time.monotonic()
        error = await outcome(client, "ECHO", "one")
        assert 0.09 < time.monotonic() - started < 0.9
        assert error.transient
        while peer.connections < 2:  # it is connected to again
            await asyncio.sleep(0.001)
        await client.close()


async def test_a_peer_that_dribbles_and_never_ends_a_reply_is_silent_too() -> None:
    async def dribbling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"one\r\n")
        writer.write(b"$1000000\r\n")
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.005)

    async with FakePeer(dribbling) as peer:
        client = connect(peer.url)
        assert "no reply in time" in str(await outcome(client, "ECHO", "one"))
        while client.nodes[0].connected:
            await asyncio.sleep(0.001)
        await client.close()


async def test_a_handshake_that_is_never_answered_holds_nobody_up() -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    client = connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    started = time.monotonic()
    assert "not sent in time" in str(await outcome(client, "PING"))
    assert time.monotonic() - started < 0.9
    started = time.monotonic()
    for _ in range(100):
        assert isinstance(await outcome(client, "PING"), StoreError)
    assert time.monotonic() - started < 1
    await client.close()
    server.close()


async def test_too_many_clients_is_no_wrong_password() -> None:
    async def full(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR max number of clients reached\r\n")
        writer.close()

    server = await asyncio.start_server(full, "127.0.0.1", 0)
    client = connect(f"redis://:hunter2@127.0.0.1:{server.sockets[0].getsockname()[1]}")
    error = await outcome(client, "PING")
    assert isinstance(error, StoreError)
    assert error.transient
    await client.close()
    server.close()


async def test_a_proxy_that_repeats_the_password_does_not_tell_it() -> None:
    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"headgate\r\n")
        writer.write(b"-ERR unknown command AUTH, with args beginning with: hunter2\r\n-ERR unknown command\r\n")
        await reader.read()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    client = connect(f"redis://:hunter2@127.0.0.1:{server.sockets[0].getsockname()[1]}")
    error = await outcome(client, "PING")
    assert not error.transient
    assert "hunter2" not in str(error)
    assert "hunter2" not in client.nodes[0].error
    await client.close()
    server.close()


@pytest.mark.parametrize(
    ("reply", "transient"),
    [
        ("LOADING Redis is loading the dataset in memory", True),
        ("MASTERDOWN Link with MASTER is down", True),
        ("CLUSTERDOWN The cluster is down", True),
        ("TRYAGAIN Multiple keys request during rehashing of slot", True),
        ("BUSY Redis is busy running a script", True),
        ("READONLY You can't write against a read only replica.", True),
        ("ERR max number of things", False),
        ("WRONGTYPE Operation against a key", False),
        ("NOPERM this user has no permissions", False),
    ],
)
async def test_which_replies_may_pass_by_themselves(reply: str, transient: bool) -> None:
    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"one\r\n")
        writer.write(f"-{reply}\r\n".encode())
        await reader.read()

    async with FakePeer(one) as peer:
        client = connect(peer.url)
        error = await outcome(client, "ECHO", "one")
        assert (str(error), error.transient) == (f"Redis: {reply}", transient)
        await client.close()
