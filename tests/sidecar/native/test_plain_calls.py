"""The short road of the frame loop, for calls whose header block is known: the same rules as on the long one."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from sidecar.native import wire
from sidecar.native.errors import ErrorCode
from sidecar.native.limits import Limits
from sidecar.rpc import NOTHING, CallContext, Step, StreamMethod, UnaryMethod
from tests.sidecar.native.peer import Frame, Peer
from tests.sidecar.native.test_connection import goaway, resets, trailers

UNARY, STREAM = "/t.T/Unary", "/t.T/Stream"


def warm(limits: Limits | None = None, path: str = UNARY, **extra: str) -> Peer:
    """A peer whose next call with `path` has a block that is known. Streams 1 and 3 are used."""
    peer = Peer(limits)
    for stream in (1, 3):
        peer.send(peer.headers(stream, path, end=False, **extra) + wire.rst_stream(stream, 8))
    assert peer.block(path, **extra) in peer.connection.blocks.known
    peer.frames()
    return peer


def status(peer: Peer) -> str:
    """The status of the last trailers."""
    return trailers(peer, [frame for frame in peer.frames() if frame.kind == wire.HEADERS][-1])["grpc-status"]


def echoed(frames: list[Frame]) -> list[str]:
    """The messages in DATA frames that hold exactly one."""
    return [StringValue.FromString(frame.payload[5:]).value for frame in frames if frame.kind == wire.DATA]


async def test_many_calls_of_one_read_are_answered_with_one_write() -> None:
    peer = warm()
    writes: list[bytes] = []
    peer.wire.write = lambda data: writes.append(bytes(data))  # type: ignore[method-assign]
    peer.send(b"".join(peer.headers(n) + peer.message(n, str(n), end=True) for n in range(5, 205, 2)))
    assert len(writes) == 1
    peer.wire.written += writes[0]
    assert echoed(peer.frames()) == [str(n) for n in range(5, 205, 2)]
    assert not peer.connection.calls


@pytest.mark.parametrize("size", [1, 5, 9, 20, 60])
async def test_any_cut_gives_the_same_answer(size: int) -> None:
    peer = warm()
    data = b"".join(peer.headers(n) + peer.message(n, f"call {n}", end=True) for n in (5, 7, 9))
    for start in range(0, len(data), size):
        peer.send(data[start : start + size])
    assert echoed(peer.frames()) == ["call 5", "call 7", "call 9"]


async def test_data_after_the_headers_of_others() -> None:
    peer = warm()
    peer.send(b"".join(peer.headers(n) for n in (5, 7)) + b"".join(peer.message(n, str(n), end=True) for n in (7, 5)))
    assert echoed(peer.frames()) == ["7", "5"]


async def test_the_reserved_bit_is_ignored() -> None:
    """Section 4.1."""
    peer = warm()
    data = bytearray(peer.headers(5) + peer.message(5, "hi", end=True))
    data[5] |= 0x80
    peer.send(bytes(data))
    assert echoed(peer.frames()) == ["hi"]
    assert peer.connection.last_stream == 5


async def test_an_even_stream() -> None:
    peer = warm()
    peer.send(peer.headers(6))
    assert goaway(peer) == ErrorCode.PROTOCOL_ERROR


async def test_a_stream_number_that_was_used() -> None:
    peer = warm()
    peer.send(peer.headers(5) + peer.message(5, "hi", end=True) + peer.headers(5))
    assert goaway(peer) == ErrorCode.STREAM_CLOSED


@pytest.mark.parametrize("path", [UNARY, STREAM])
async def test_more_streams_than_allowed(path: str) -> None:
    peer = warm(Limits(max_streams=2), path)
    peer.send(b"".join(peer.headers(n, path) for n in (5, 7, 9)))
    assert resets(peer.frames()) == [(9, ErrorCode.REFUSED_STREAM)]


async def test_a_draining_connection_refuses() -> None:
    peer = warm()
    peer.send(peer.headers(5))
    peer.connection.drain()
    peer.connection.life._refuse()
    peer.send(peer.headers(7) + peer.message(7, "hi", end=True))
    assert resets(peer.frames()) == [(7, ErrorCode.REFUSED_STREAM)]


async def test_a_message_over_the_limit() -> None:
    peer = warm(Limits(max_message=100))
    peer.send(peer.headers(5) + peer.message(5, "x" * 98, end=True))
    assert status(peer) == "0"
    peer.send(peer.headers(7) + peer.message(7, "x" * 99, end=True))
    assert status(peer) == "8"


async def test_more_than_the_streams_window() -> None:
    peer = warm(Limits(stream_window=100))
    peer.send(peer.headers(5) + peer.message(5, "x" * 93, end=True))
    assert status(peer) == "0"
    peer.send(peer.headers(7) + peer.message(7, "x" * 94, end=True))
    assert resets(peer.frames()) == [(7, ErrorCode.FLOW_CONTROL_ERROR)]


async def test_more_than_the_connections_window() -> None:
    peer = warm(Limits(connection_window=70_000))
    peer.connection.unacked = 70_000 - 10
    peer.send(peer.headers(5) + peer.message(5, "more than ten", end=True))
    assert goaway(peer) == ErrorCode.FLOW_CONTROL_ERROR


async def test_the_connections_window_is_given_back() -> None:
    peer = warm(Limits(connection_window=70_000))
    peer.send(b"".join(peer.headers(n) + peer.message(n, "x" * 10_000, end=True) for n in (5, 7, 9, 11)))
    given = [frame.number for frame in peer.frames() if frame.kind == wire.WINDOW_UPDATE and frame.stream == 0]
    assert sum(given) + peer.connection.unacked == 4 * (10_000 + 5 + 3)
    assert given


async def test_a_compressed_message() -> None:
    peer = warm(grpc_encoding="gzip")
    payload = gzip.compress(StringValue(value="hello").SerializeToString())
    data = b"\x01" + len(payload).to_bytes(4, "big") + payload
    peer.send(peer.headers(5, grpc_encoding="gzip") + wire.frame(wire.DATA, wire.END_STREAM, 5, data))
    assert echoed(peer.frames()) == ["hello"]


async def test_a_reply_keeps_to_the_streams_window() -> None:
    peer = warm()
    peer.send(wire.settings({wire.INITIAL_WINDOW_SIZE: 6}))
    peer.frames()
    peer.send(peer.headers(5) + peer.message(5, "hello", end=True))
    assert [(frame.kind, len(frame.payload)) for frame in peer.frames()][1:] == [(wire.DATA, 6)]
    peer.send(wire.window_update(5, 100))
    data, last = peer.frames()
    assert (data.kind, len(data.payload), last.kind) == (wire.DATA, 6, wire.HEADERS)


async def test_a_reply_keeps_to_the_connections_window_and_its_turn() -> None:
    peer = warm()
    peer.send(wire.settings({wire.INITIAL_WINDOW_SIZE: 1_000_000}))
    peer.send(peer.headers(5, STREAM) + peer.message(5, "big"))  # takes the whole window of the connection
    peer.frames()
    peer.send(peer.headers(7) + peer.message(7, "later", end=True))
    assert wire.DATA not in peer.kinds()
    peer.send(wire.window_update(0, 10_000_000))
    data = [frame.stream for frame in peer.frames() if frame.kind == wire.DATA]
    assert data[-1] == 7
    assert set(data[:-1]) == {5}


async def test_a_deadline_while_the_handler_waits() -> None:
    peer = warm(grpc_timeout="20m")
    peer.send(peer.headers(5, grpc_timeout="20m") + peer.message(5, "wait", end=True))
    await asyncio.sleep(0.05)
    assert status(peer) == "4"
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("path", [UNARY, STREAM])
async def test_a_deadline_without_any_message(path: str) -> None:
    peer = warm(path=path, grpc_timeout="20m")
    peer.send(peer.headers(5, path, grpc_timeout="20m"))
    await asyncio.sleep(0.05)
    frames = peer.frames()
    assert trailers(peer, frames[0])["grpc-status"] == "4"
    assert resets(frames) == [(5, ErrorCode.NO_ERROR)]
    assert not peer.connection.calls


@pytest.mark.parametrize("text", ["crash", "wait"])
async def test_a_crash_or_a_wait_on_the_short_road(text: str) -> None:
    peer = warm()
    peer.send(peer.headers(5) + peer.message(5, text, end=True))
    if text == "crash":
        assert status(peer) == "13"
    else:
        assert list(peer.connection.calls) == [5]
        peer.seen.gate.set()
        for _ in range(3):
            await asyncio.sleep(0)
        assert echoed(peer.frames()) == ["waited"]
    assert not peer.connection.calls


async def test_calls_as_ext_proc_makes_them() -> None:
    """We end each call first, the peer answers with RST_STREAM (as Envoy does): it may do so for ever."""
    peer = warm(path=STREAM)
    peer.send(wire.window_update(0, 100_000_000))
    peer.frames()
    for number in range(5, 20_005, 2):
        peer.send(peer.headers(number, STREAM) + peer.message(number, "a"))
        peer.send(peer.message(number, "done"))
        peer.send(wire.rst_stream(number, 2))
    assert not peer.wire.closed
    frames = peer.frames()
    assert resets(frames) == [(number, ErrorCode.NO_ERROR) for number in range(5, 20_005, 2)]
    assert echoed(frames) == ["a", "done"] * 10_000
    assert peer.seen.opened == peer.seen.closed


# The two ways in which a unary call in one frame comes: its DATA behind its HEADERS, or after those of another call.
ARRIVALS = pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])


def arrived(peer: Peer, apart: bool, text: str, **extra: str) -> bytes:
    """Stream 5 with a message; apart, the HEADERS of stream 7 (which is reset at the end) stand in between."""
    head, data = peer.headers(5, UNARY, end=False, **extra), peer.message(5, text, end=True)
    return head + peer.headers(7, UNARY, end=False, **extra) + data + wire.rst_stream(7, 8) if apart else head + data


@ARRIVALS
async def test_an_announced_length_that_is_true(apart: bool) -> None:
    peer = warm(content_length="9")
    peer.send(arrived(peer, apart, "hi", content_length="9"))
    assert echoed(peer.frames()) == ["hi"]
    assert not peer.connection.calls


@ARRIVALS
@pytest.mark.parametrize("length", ["8", "10"])
async def test_an_announced_length_that_is_not_true(length: str, apart: bool) -> None:
    """Section 8.1.1."""
    peer = warm(content_length=length)
    peer.send(arrived(peer, apart, "hi", content_length=length))
    assert (5, ErrorCode.PROTOCOL_ERROR) in resets(peer.frames())
    assert peer.seen.messages == []


@ARRIVALS
@pytest.mark.parametrize("text", ["crash", "wait", "big"])
async def test_what_is_not_answered_in_one_piece(text: str, apart: bool) -> None:
    peer = warm()
    peer.send(arrived(peer, apart, text))
    assert peer.seen.messages == [text]
    if text == "crash":
        assert status(peer) == "13"
    elif text == "wait":
        assert list(peer.connection.calls) == [5]
        peer.seen.gate.set()
        for _ in range(3):
            await asyncio.sleep(0)
        assert echoed(peer.frames()) == ["waited"]
    else:
        peer.send(wire.settings({wire.INITIAL_WINDOW_SIZE: 1_000_000}) + wire.window_update(0, 1_000_000))
        assert sum(len(frame.payload) for frame in peer.frames() if frame.kind == wire.DATA) == 200_000 + 4 + 5
    assert not peer.connection.calls


@ARRIVALS
async def test_a_call_that_was_answered_has_no_deadline(apart: bool) -> None:
    peer = warm(grpc_timeout="20m")
    peer.send(arrived(peer, apart, "hi", grpc_timeout="20m"))
    assert echoed(peer.frames()) == ["hi"]
    await asyncio.sleep(0.05)
    assert peer.frames() == []


@ARRIVALS
async def test_a_deadline_while_a_handler_waits_for_either(apart: bool) -> None:
    peer = warm(grpc_timeout="20m")
    peer.send(arrived(peer, apart, "wait", grpc_timeout="20m"))
    await asyncio.sleep(0.05)
    assert status(peer) == "4"
    assert not peer.connection.calls


async def test_the_time_runs_from_the_headers_on() -> None:
    peer = warm(grpc_timeout="60m")
    peer.send(b"".join(peer.headers(n, UNARY, end=False, grpc_timeout="60m") for n in (5, 7)))
    began = asyncio.get_running_loop().time()
    await asyncio.sleep(0.04)
    peer.send(peer.message(5, "wait", end=True))
    while 5 in peer.connection.calls:
        await asyncio.sleep(0.001)
    assert asyncio.get_running_loop().time() - began < 0.09
    assert status(peer) == "4"


@ARRIVALS
async def test_no_message_in_the_frame(apart: bool) -> None:
    peer = warm()
    head, data = peer.headers(5), wire.frame(wire.DATA, wire.END_STREAM, 5, b"\0\0\0\0\2\xff\xff")
    peer.send(head + peer.headers(7) + data + wire.rst_stream(7, 8) if apart else head + data)
    assert status(peer) == "3"
    assert not peer.connection.calls


async def test_the_end_of_a_message_that_looks_like_one() -> None:
    peer = warm()
    text = "a\0\0\0\0\3\n\1b"
    whole = peer.message(5, text, end=True)[9:]
    first, second = whole[:8], whole[8:]
    assert second == b"\0\0\0\0\3\n\1b"
    peer.send(peer.headers(5) + wire.frame(wire.DATA, 0, 5, first))
    peer.send(wire.frame(wire.DATA, wire.END_STREAM, 5, second))
    assert echoed(peer.frames()) == [text]


async def test_padding_counts_and_is_no_message() -> None:
    peer = warm()
    before = peer.connection.unacked
    padded = wire.frame(wire.DATA, wire.END_STREAM | wire.PADDED, 5, b"\3" + peer.message(5, "hi")[9:] + b"\0\0\0")
    peer.send(peer.headers(5) + padded)
    assert echoed(peer.frames()) == ["hi"]
    assert peer.connection.unacked - before == 9 + 4


class _Cancelled:
    """A handler that is cancelled from within, and one whose replies go on after their call."""

    def on_message(self, message: StringValue) -> Step:
        return Step(more=self._stubborn())

    async def _stubborn(self) -> AsyncIterator[StringValue]:
        while True:
            try:
                await asyncio.sleep(3_600)
            except asyncio.CancelledError:
                yield StringValue(value="too late")

    def on_end(self) -> Step:
        return NOTHING

    def on_close(self) -> None:
        return


async def test_handlers_that_misuse_cancellation() -> None:
    async def cancelled() -> StringValue:
        raise asyncio.CancelledError

    def unary(_request: StringValue, _context: CallContext) -> Awaitable[StringValue]:
        return cancelled()

    peer = Peer()
    peer.connection.blocks._methods = {
        UNARY: UnaryMethod("Unary", StringValue, unary),
        STREAM: StreamMethod("Stream", StringValue, lambda _context: _Cancelled()),
    }
    peer.send(peer.headers(1) + peer.message(1, "x", end=True))
    await asyncio.sleep(0.01)
    assert status(peer) == "13"
    peer.send(peer.headers(3, STREAM) + peer.message(3, "x"))
    await asyncio.sleep(0)
    peer.send(wire.rst_stream(3, 8))
    await asyncio.sleep(0.01)
    assert peer.frames() == []
    assert len(asyncio.all_tasks()) == 1
