"""One server: how it is reached, lost and found again. Against a real Redis."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
import uvloop

from sidecar.errors import ConfigError, StoreError
from sidecar.redis import Client, connect, parse
from sidecar.redis.link import Link
from sidecar.redis.transport import Session
from sidecar.redis.url import Address
from tests.redis_relay import Relay
from tests.redis_server import RedisServer, free_port
from tests.sidecar.redis.conftest import Certificates, FakePeer
from tests.sidecar.redis.factories import ask, outcome, recovered


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Client]:
    """A patient client: a busy machine may be slow."""
    client = connect(url, **{"timeout": 2, "connect_timeout": 2, **options})
    yield client
    await client.close()


async def test_over_tcp_and_unix_with_a_database_and_a_name(tmp_path: Path) -> None:
    with RedisServer(tmp_path, port=free_port()) as server:
        for number, url in enumerate((f"{server.tcp_url}/3", f"{server.url}?db=3"), 1):
            async with opened(url) as client:
                assert await ask(client, "INCR", "a") == number
                assert await ask(client, "CLIENT", "GETNAME") == b"headgate"
                await client.ping()
        with server.client() as other:
            assert other.get("a") is None
            other.select(3)
            assert other.get("a") == b"2"


async def test_a_database_that_does_not_exist_is_an_error_that_lasts(redis_server: RedisServer) -> None:
    async with opened(f"{redis_server.url}?db=99") as client:
        error = await outcome(client, "PING")
        assert isinstance(error, StoreError)
        assert not error.transient
        assert "DB index is out of range" in str(error)


async def test_tls_with_a_certificate_on_both_sides(redis_server: RedisServer, certificates: Certificates) -> None:
    async with Relay(redis_server.socket, certificates.server()) as relay:
        async with opened(f"{relay.url}{certificates.query}") as client:
            assert await recovered(client, "ECHO", "over tls") == b"over tls"
        async with opened(relay.url) as client:
            error = await recovered_error(client)
            assert "is not trusted" in str(error)
            assert not error.transient


async def test_an_authority_made_by_hand_is_enough_on_every_python(
    redis_server: RedisServer, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ssl.create_default_context

    def strict(*arguments: Any, **named: Any) -> ssl.SSLContext:
        context = plain(*arguments, **named)
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    async with (
        Relay(redis_server.socket, certificates.server()) as relay,
        opened(f"{relay.url}{certificates.query}") as client,
    ):
        assert await recovered(client, "ECHO", "over tls") == b"over tls"


async def recovered_error(client: Client) -> StoreError:
    """The error once an attempt to connect has failed for its own reason, not for want of time."""
    while not isinstance(error := await outcome(client, "PING"), StoreError) or "in time" in str(error):
        await asyncio.sleep(0.001)
    return error


@pytest.mark.parametrize("query", ["?ssl_ca_certs=/nowhere", "?ssl_certfile=/nowhere"])
def test_certificates_that_cannot_be_read_are_a_wrong_configuration(query: str) -> None:
    with pytest.raises(ConfigError, match="TLS certificates cannot be used: No such file"):
        connect(f"rediss://u:hunter2@h{query}")


async def test_a_user_of_the_acl_and_the_wrong_password(tmp_path: Path) -> None:
    secret = "s3cr et/#:@"
    options = ("--user", "gate", "on", f">{secret.replace(' ', '')}", "~*", "+@all", "--user", "default", "off")
    quoted = "s3cret%2F%23%3A%40"
    with RedisServer(tmp_path, *options, port=free_port()) as server:
        place = f"127.0.0.1:{server.port}"
        async with opened(f"redis://gate:{quoted}@{place}") as client:
            assert await ask(client, "ACL", "WHOAMI") == b"gate"
        for url in (f"redis://gate:hunter2@{place}", f"redis://:hunter2@{place}", f"redis://{place}"):
            async with opened(url) as client:
                errors = [await outcome(client, "PING") for _ in range(2)]
                for error in errors:
                    assert isinstance(error, StoreError)
                    assert not error.transient
                    assert "password" in str(error)
                    assert "hunter2" not in str(error)
                assert not client.nodes[0].connected


async def test_a_password_alone(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--requirepass", "hunter2") as server:
        async with opened(server.url.replace("unix://", "unix://:hunter2@")) as client:
            assert await ask(client, "ECHO", "in") == b"in"


async def test_one_loop_tick_is_one_write_and_replies_find_their_requests(redis_server: RedisServer) -> None:
    async with Relay(redis_server.socket) as relay, opened(relay.url) as client:
        await ask(client, "PING")
        relay.sent.clear()
        replies = await asyncio.gather(*(ask(client, "ECHO", number) for number in range(100)))
        assert replies == [str(number).encode() for number in range(100)]
        assert len(relay.sent) == 1


async def test_error_replies_go_to_their_own_requests(redis_server: RedisServer) -> None:
    domain = f"link-{time.time_ns()}"
    async with opened(redis_server.url) as client:
        good, bad, better = ask(client, "SET", domain, "x"), ask(client, "INCR", domain), ask(client, "GET", domain)
        replies = await asyncio.gather(good, bad, better, return_exceptions=True)
        assert (replies[0], replies[2]) == (b"OK", b"x")
        assert "not an integer" in str(replies[1])


async def test_a_cancelled_request_keeps_its_place(redis_server: RedisServer) -> None:
    async with Relay(redis_server.socket) as relay, opened(relay.url) as client:
        await ask(client, "PING")
        relay.passing.clear()
        first, second = ask(client, "ECHO", "first"), ask(client, "ECHO", "second")
        await asyncio.sleep(0)
        first.cancel()
        relay.passing.set()
        assert await second == b"second"
        assert client.nodes[0].in_flight == 0


async def test_a_killed_server_fails_at_once_and_counts_right_when_it_is_back(own_redis: RedisServer) -> None:
    async with opened(own_redis.url) as client:
        assert await ask(client, "INCR", "a") == 1
        own_redis.kill()
        started = time.monotonic()
        errors = [await outcome(client, "INCR", "a") for _ in range(1000)]
        assert all(isinstance(error, StoreError) and error.transient for error in errors)
        assert time.monotonic() - started < 1
        while "cannot be reached" not in client.nodes[0].error:
            await asyncio.sleep(0.001)
        state = client.nodes[0]
        assert (state.connected, state.in_flight) == (False, 0)
        assert time.time() - state.since < time.monotonic() - started + 0.01
        own_redis.start()
        assert await recovered(client, "INCR", "a") == 1
        assert client.nodes[0].connected
        assert client.nodes[0].reconnects == 1
        assert client.nodes[0].error == ""


async def test_a_loss_is_one_line_in_the_log_and_so_is_the_return(own_redis: RedisServer) -> None:
    with structlog.testing.capture_logs() as lines:
        async with opened(own_redis.url) as client:
            await ask(client, "PING")
            own_redis.kill()
            await lost(client)
            while "cannot be reached" not in client.nodes[0].error:
                await outcome(client, "PING")
                await asyncio.sleep(0.001)
            own_redis.start()
            await recovered(client, "PING")
    assert [line["event"] for line in lines] == ["redis_lost", "redis_connected"]


async def test_an_attempt_that_breaks_is_not_the_last(redis_server: RedisServer) -> None:
    places = iter([None, parse(redis_server.url).addresses[0]])

    async def resolve() -> Address:
        place = next(places)
        if place is None:
            raise RuntimeError("a bug")
        return place

    link = Link(resolve, Session())
    assert "RuntimeError" in str(await outcome(link, "PING"))
    assert await recovered(link, "ECHO", "still there") == b"still there"
    await link.close()


async def test_a_server_that_was_never_there_is_found_when_it_comes(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    async with opened(server.url) as client:
        assert isinstance(await outcome(client, "PING"), StoreError)
        with server:
            assert await recovered(client, "ECHO", "there") == b"there"


async def test_a_connection_that_redis_closes_is_made_again_unnoticed(own_redis: RedisServer) -> None:
    """After a second of life the next attempt is made at once, and what was not sent waits for it."""
    async with opened(own_redis.url) as client:
        await ask(client, "PING")
        await asyncio.sleep(1.01)  # a connection counts as steady after a second
        with own_redis.client() as other:
            other.client_kill_filter(_type="normal", skipme=True)
        await lost(client)
        assert await ask(client, "ECHO", "again") == b"again"
        assert client.nodes[0].reconnects == 1


async def lost(client: Client) -> None:
    while client.nodes[0].connected:
        await asyncio.sleep(0)


async def test_a_server_that_stands_still_is_given_up_and_found_again(own_redis: RedisServer) -> None:
    async with opened(own_redis.url, timeout=0.1, connect_timeout=0.5) as client:
        await ask(client, "PING")
        own_redis.pause()
        started = time.monotonic()
        errors = await asyncio.gather(*(outcome(client, "INCR", f"k{number}") for number in range(50)))
        assert 0.09 < time.monotonic() - started < 0.9
        assert all(isinstance(error, StoreError) and error.transient for error in errors)
        await lost(client)
        at_once = time.monotonic()
        for _ in range(200):
            assert isinstance(await outcome(client, "INCR", "refused"), StoreError)
        assert time.monotonic() - at_once < 1
        own_redis.resume()
        assert await recovered(client, "ECHO", "mine") == b"mine"
        # What was under way may have run, once; what was refused has not.
        values = await asyncio.gather(*(ask(client, "GET", f"k{number}") for number in range(50)))
        assert set(values) <= {None, b"1"}
        assert await ask(client, "EXISTS", "refused") == 0
        replies = await asyncio.gather(*(ask(client, "ECHO", number) for number in range(500)))
        assert replies == [str(number).encode() for number in range(500)]


async def test_a_late_reply_is_thrown_away_and_the_connection_kept() -> None:
    """Redis is slow, not silent: something is answered within every timeout."""
    replies = {name: asyncio.Event() for name in ("first", "late", "next")}

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for name, answered in replies.items():
            await reader.readuntil(f"{name}\r\n".encode())
            await answered.wait()
            writer.write(f"+{name}\r\n".encode())

    async with FakePeer(slow) as peer, opened(peer.url, timeout=0.5) as client:
        first = ask(client, "ECHO", "first")
        await asyncio.sleep(0.15)
        late = ask(client, "ECHO", "late")
        await asyncio.sleep(0.1)
        replies["first"].set()
        assert await first == b"first"
        while not late.done():
            await asyncio.sleep(0.001)
        assert "no reply in time" in str(late.exception())
        following = ask(client, "ECHO", "next")
        replies["late"].set()
        replies["next"].set()
        assert await following == b"next"
        assert (peer.connections, client.nodes[0].reconnects) == (1, 0)


async def _held_up(url: str) -> list[Any]:
    """The replies to what was sent before the loop was held up for three times the timeout, by timers among others."""
    loop = asyncio.get_running_loop()

    def hold_up(times: int) -> None:
        time.sleep(0.02)
        if times:
            loop.call_later(0.0001, hold_up, times - 1)  # due before the sockets are looked at

    async with opened(url, timeout=0.1) as client:
        await ask(client, "PING")
        sent = [asyncio.ensure_future(outcome(client, "ECHO", number)) for number in range(200)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # they are written
        loop.call_later(0.0001, hold_up, 15)
        return await asyncio.gather(*sent)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_loop_that_was_held_up_reads_before_it_complains(own_redis: RedisServer, new_loop: Any) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(_held_up(own_redis.url)) == [str(number).encode() for number in range(200)]


async def test_after_a_stall_nothing_waits_for_the_next_connection(own_redis: RedisServer) -> None:
    """Also when the connection was a steady one: a server that stands still takes connections and answers nothing."""
    async with opened(own_redis.url, timeout=0.1, connect_timeout=0.5) as client:
        await ask(client, "PING")
        await asyncio.sleep(1.01)  # a connection counts as steady after a second
        own_redis.pause()
        assert isinstance(await outcome(client, "PING"), StoreError)
        started = time.monotonic()
        for _ in range(100):
            assert isinstance(await outcome(client, "PING"), StoreError)
        assert time.monotonic() - started < 1
        own_redis.resume()
        await recovered(client, "PING")


async def test_no_more_than_the_bound_is_in_flight(redis_server: RedisServer) -> None:
    async with Relay(redis_server.socket) as relay, opened(relay.url, timeout=2, max_in_flight=1000) as client:
        await recovered(client, "PING")
        relay.passing.clear()
        sent = [asyncio.ensure_future(outcome(client, "ECHO", number)) for number in range(5000)]
        await asyncio.sleep(0.05)
        assert client.nodes[0].in_flight == 1000
        assert sum(one.done() for one in sent) == 4000
        relay.passing.set()
        replies = await asyncio.gather(*sent)
        assert replies[:1000] == [str(number).encode() for number in range(1000)]
        assert all("1000 requests are in flight" in str(error) and error.transient for error in replies[1000:])
        assert client.nodes[0].in_flight == 0


async def test_a_peer_that_does_not_read_is_not_written_to_without_end(redis_server: RedisServer) -> None:
    """What waits for the socket is held, fails in time, and is never sent afterwards."""
    async with Relay(redis_server.socket) as relay, opened(relay.url, timeout=0.3) as client:
        await recovered(client, "PING")
        relay.reading.clear()
        big = "x" * 1_000_000
        flood = []
        for _ in range(30):
            flood.append(asyncio.ensure_future(outcome(client, "ECHO", big)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        held = asyncio.ensure_future(outcome(client, "INCR", "held"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert isinstance(client, Link)
        assert client._held_count > 1
        outcomes = await asyncio.gather(*flood, held)
        assert all(isinstance(one, StoreError) and one.transient for one in outcomes)
        relay.reading.set()
        assert await recovered(client, "GET", "held", within=2) is None


async def test_a_replica_is_left_for_who_else_is_there(own_redis: RedisServer) -> None:
    async with opened(own_redis.url) as client:
        await ask(client, "PING")
        with own_redis.client() as other:
            other.replicaof("127.0.0.1", 1)
            error = await outcome(client, "INCR", "a")
            assert "READONLY" in str(error)
            assert error.transient
            await lost(client)
            other.replicaof("NO", "ONE")
        assert await recovered(client, "INCR", "a") == 1


async def test_a_closed_client_refuses_and_says_so(redis_server: RedisServer) -> None:
    client = connect(redis_server.url)
    await ask(client, "PING")
    waiting = ask(client, "ECHO", "late")
    await client.close()
    assert "closed" in str(waiting.exception())
    with pytest.raises(StoreError, match="closed"):
        ask(client, "PING")
    await client.close()


async def test_closing_while_it_connects(certificates: Certificates, redis_server: RedisServer) -> None:
    async with Relay(redis_server.socket, certificates.server()) as relay:
        client = connect(f"{relay.url}{certificates.query}")
        waiting = ask(client, "PING")
        await asyncio.sleep(0)
        await client.close()
        assert "closed" in str(waiting.exception())


async def test_a_prelude_that_is_refused_is_no_harm(redis_server: RedisServer) -> None:
    async with opened(redis_server.url) as client:
        client.add_prelude("NO", "SUCH", "COMMAND")
        client.add_prelude("SET", "prelude", "sent")
        assert await ask(client, "GET", "prelude") == b"sent"


def test_makes_no_loop_and_no_connection_of_its_own() -> None:
    state = connect("redis://127.0.0.1:1").nodes[0]
    assert (state.connected, state.in_flight, state.reconnects) == (False, 0, 0)
