"""Flow control beyond its frames: peers that do not read, turns, and what is forgotten."""

from __future__ import annotations

import asyncio

from sidecar.native import flow, wire
from sidecar.native.errors import ErrorCode
from sidecar.native.limits import Limits, Recent
from tests.sidecar.native.peer import Frame, Peer
from tests.sidecar.native.test_connection import goaway, resets

STREAM = "/t.T/Stream"
BIG = 200_000 + 4 + 5  # bytes of the reply to "big" with its prefixes


def greedy() -> Peer:
    """A peer whose windows are as large as windows can be."""
    peer = Peer()
    peer.send(wire.settings({wire.INITIAL_WINDOW_SIZE: wire.MAX_WINDOW}))
    peer.send(wire.window_update(0, wire.MAX_WINDOW - wire.DEFAULT_WINDOW))
    peer.frames()
    return peer


def sizes(frames: list[Frame]) -> int:
    return sum(len(frame.payload) for frame in frames if frame.kind == wire.DATA)


async def test_one_read_leads_to_so_much_at_most() -> None:
    """20 MB of replies are asked for at once: they go in parts, one for each turn of the loop."""
    peer = greedy()
    peer.send(b"".join(peer.headers(n, STREAM) + peer.message(n, "big") for n in range(1, 200, 2)))
    assert sizes(peer.frames()) <= flow.BURST
    total = flow.BURST
    for _ in range(40):
        await asyncio.sleep(0)
        part = sizes(peer.frames())
        assert part <= flow.BURST
        total += part
    assert total == 100 * BIG
    assert not peer.connection.blocked


async def test_a_full_transport_gets_no_more() -> None:
    peer = greedy()
    peer.connection.pause_writing()
    peer.connection.data_received(b"".join(peer.headers(n, STREAM) + peer.message(n, "big") for n in range(1, 200, 2)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert sizes(peer.frames()) <= flow.BURST
    peer.connection.resume_writing()
    for _ in range(40):
        await asyncio.sleep(0)
    assert sizes(peer.frames()) >= 99 * BIG - flow.BURST
    assert not peer.connection.blocked


async def test_a_slow_stream_holds_its_handler_back_but_no_other() -> None:
    peer = Peer(Limits(max_unsent=100_000))
    peer.send(wire.window_update(0, 10_000_000))
    peer.send(peer.headers(1, STREAM) + b"".join(peer.message(1, "big") for _ in range(5)))
    assert peer.seen.messages == ["big"]
    assert peer.connection.buffered == 4 * len(peer.message(1, "big")[14:])
    peer.send(peer.headers(3) + peer.message(3, "other", end=True))
    assert peer.seen.messages == ["big", "other"]
    peer.send(wire.window_update(1, 60_000))  # most of the first reply is gone: the next may be made
    assert peer.seen.messages == ["big", "other", "big"]
    peer.send(wire.window_update(1, 10_000_000))
    assert peer.seen.messages == ["big", "other", "big", "big", "big", "big"]
    assert peer.connection.buffered == 0


async def test_a_call_that_waits_for_the_connection_can_go() -> None:
    """Nothing of it stays in the queue, however it ends, and its turn goes to the next."""
    peer = Peer()
    peer.send(wire.settings({wire.INITIAL_WINDOW_SIZE: 1_000_000}))
    peer.send(b"".join(peer.headers(n, STREAM) + peer.message(n, "big") for n in (1, 3, 5)))
    assert len(peer.connection.blocked) == 3
    peer.send(wire.rst_stream(1, 8) + peer.message(3, "fail"))
    assert [call.stream for call in peer.connection.blocked] == [5]
    peer.frames()
    peer.send(wire.window_update(0, 1_000_000))
    assert {frame.stream for frame in peer.frames() if frame.kind == wire.DATA} == {5}
    assert not peer.connection.blocked


async def test_small_replies_use_up_the_connections_window_and_no_more() -> None:
    for path in (STREAM, "/t.T/Unary"):
        peer = Peer()
        for number in range(1, 11, 2):
            peer.send(peer.headers(number, path) + peer.message(number, "x" * 15_000, end=path != STREAM))
        assert sizes(peer.frames()) == wire.DEFAULT_WINDOW
        peer.send(wire.window_update(0, 100_000))
        assert sizes(peer.frames()) == 5 * (15_000 + 3 + 5) - wire.DEFAULT_WINDOW


async def test_waiting_twice_takes_one_place() -> None:
    peer = Peer()
    peer.send(wire.settings({wire.INITIAL_WINDOW_SIZE: 1_000_000}))
    peer.send(peer.headers(1, STREAM) + peer.message(1, "big"))
    for _ in range(20):
        peer.send(wire.window_update(1, 1_000))
    assert len(peer.connection.blocked) == 1


async def test_too_many_bytes_that_wait_end_their_call() -> None:
    peer = Peer(Limits(max_buffered=10_000))
    peer.send(peer.headers(1, STREAM) + peer.message(1, "wait"))
    await asyncio.sleep(0)
    for _ in range(4):
        peer.send(peer.message(1, "x" * 3_000))
    assert resets(peer.frames()) == [(1, ErrorCode.NO_ERROR)]
    assert peer.connection.buffered == 0
    await asyncio.sleep(0)
    assert (peer.seen.opened, peer.seen.closed) == (1, 1)


async def test_a_flood_of_streams_that_we_must_reset() -> None:
    """CVE-2025-8671: a peer makes us reset its streams instead of doing so itself."""
    peer = Peer()
    for number in range(1, 40_001, 2):
        peer.send(peer.headers(number, STREAM) + wire.window_update(number, 0))
        if peer.wire.closed:
            break
    assert goaway(peer) == ErrorCode.ENHANCE_YOUR_CALM
    assert number < 15_000
    assert peer.seen.opened == peer.seen.closed


def test_recent_numbers() -> None:
    recent = Recent(3)
    for number in range(10):
        recent.add(number)
    assert [number for number in range(10) if number in recent] == [6, 7, 8, 9]
    recent.discard(7)
    recent.discard(9)
    assert [number for number in range(10) if number in recent] == [6, 8]
