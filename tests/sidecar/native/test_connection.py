"""RFC 9113 and gRPC over HTTP/2, rule by rule, with a hostile peer made of bytes."""

from __future__ import annotations

import asyncio
import gzip
import struct

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from sidecar.native import wire
from sidecar.native.errors import ErrorCode
from sidecar.native.limits import Limits
from tests.sidecar.native import fuzz
from tests.sidecar.native.peer import Frame, Peer


def goaway(peer: Peer) -> ErrorCode:
    """The code with which the connection was ended."""
    last = [frame for frame in peer.frames() if frame.kind == wire.GOAWAY]
    assert len(last) == 1
    assert peer.wire.closed
    return ErrorCode(last[0].number)


def resets(frames: list[Frame]) -> list[tuple[int, ErrorCode]]:
    return [(frame.stream, ErrorCode(frame.number)) for frame in frames if frame.kind == wire.RST_STREAM]


def trailers(peer: Peer, frame: Frame) -> dict[str, str]:
    from hpack import Decoder

    return {str(name): str(value) for name, value in Decoder().decode(frame.payload)}


async def test_a_unary_call_is_three_frames() -> None:
    peer = Peer()
    peer.send(peer.headers(1) + peer.message(1, "hi", end=True))
    head, data, tail = peer.frames()
    assert (head.kind, data.kind, tail.kind) == (wire.HEADERS, wire.DATA, wire.HEADERS)
    assert StringValue.FromString(data.payload[5:]).value == "hi"
    assert tail.flags == wire.END_STREAM | wire.END_HEADERS
    assert trailers(peer, tail) == {"grpc-status": "0"}


async def test_any_cut_of_the_bytes_gives_the_same_answer() -> None:
    whole = Peer(greet=False)
    data = (
        wire.PREFACE
        + wire.settings({})
        + whole.headers(1, "/t.T/Stream")
        + whole.message(1, "a")
        + whole.message(1, "done", end=True)
    )
    whole.send(data)
    expected = whole.frames()
    for size in (1, 2, 7, 10):
        peer = Peer(greet=False)
        for start in range(0, len(data), size):
            peer.send(data[start : start + size])
        assert peer.frames() == expected


CONNECTION_FAULTS = {
    "no preface": (b"GET / HTTP/1.1\r\n\r\n", ErrorCode.PROTOCOL_ERROR),
    "no SETTINGS first (3.4)": (wire.PREFACE + wire.frame(wire.PING, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", CONNECTION_FAULTS)
async def test_bad_beginnings(name: str) -> None:
    data, code = CONNECTION_FAULTS[name]
    peer = Peer(greet=False)
    peer.send(data)
    assert goaway(peer) == code


FAULTS: dict[str, tuple[bytes, ErrorCode]] = {
    "a frame too large (4.2)": (wire.frame(wire.DATA, 0, 1, bytes(16_385)), ErrorCode.FRAME_SIZE_ERROR),
    "DATA on stream 0 (6.1)": (wire.frame(wire.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "DATA on an idle stream (5.1)": (wire.frame(wire.DATA, 0, 5, b"x"), ErrorCode.PROTOCOL_ERROR),
    "padding too long (6.1)": (wire.frame(wire.DATA, wire.PADDED, 1, b"\x05abc"), ErrorCode.PROTOCOL_ERROR),
    "HEADERS on an even stream (5.1.1)": (wire.frame(wire.HEADERS, 4, 2, b"\x82"), ErrorCode.PROTOCOL_ERROR),
    "HEADERS on stream 0 (6.2)": (wire.frame(wire.HEADERS, 0, 0, b"\x82"), ErrorCode.PROTOCOL_ERROR),
    "HEADERS that cannot be decoded (4.3)": (
        wire.frame(wire.HEADERS, 4, 3, b"\xff\xff\xff\xff\xff\xff"),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "a table size beyond SETTINGS (7541 4.2)": (
        wire.frame(wire.HEADERS, 4, 3, b"\x3f\xe1\xff\x03\x82"),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "CONTINUATION alone (6.10)": (wire.frame(wire.CONTINUATION, 4, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "a frame within a header block (6.2)": (
        wire.frame(wire.HEADERS, 0, 3, b"\x82") + wire.frame(wire.PING, 0, 0, bytes(8)),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "CONTINUATION of another stream (6.10)": (
        wire.frame(wire.HEADERS, 0, 3, b"\x82") + wire.frame(wire.CONTINUATION, 4, 5, b""),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "PRIORITY on stream 0 (6.3)": (wire.frame(wire.PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM on stream 0 (6.4)": (wire.rst_stream(0, 0), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM on an idle stream (6.4)": (wire.rst_stream(9, 0), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM of another size (6.4)": (wire.frame(wire.RST_STREAM, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "SETTINGS on a stream (6.5)": (wire.frame(wire.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS of another size (6.5)": (wire.frame(wire.SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    "SETTINGS ACK with content (6.5)": (wire.frame(wire.SETTINGS, 1, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    "ENABLE_PUSH of 2 (6.5.2)": (wire.settings({wire.ENABLE_PUSH: 2}), ErrorCode.PROTOCOL_ERROR),
    "a window of 2^31 (6.5.2)": (wire.settings({wire.INITIAL_WINDOW_SIZE: 1 << 31}), ErrorCode.FLOW_CONTROL_ERROR),
    "a frame size of 1 (6.5.2)": (wire.settings({wire.MAX_FRAME_SIZE: 1}), ErrorCode.PROTOCOL_ERROR),
    "PUSH_PROMISE (8.4)": (wire.frame(wire.PUSH_PROMISE, 4, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "PING on a stream (6.7)": (wire.frame(wire.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "PING of another size (6.7)": (wire.frame(wire.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "GOAWAY on a stream (6.8)": (wire.frame(wire.GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "GOAWAY too short (6.8)": (wire.frame(wire.GOAWAY, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of 0 (6.9)": (wire.window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE too far (6.9.1)": (wire.window_update(0, wire.MAX_WINDOW), ErrorCode.FLOW_CONTROL_ERROR),
    "WINDOW_UPDATE of another size (6.9)": (wire.frame(wire.WINDOW_UPDATE, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE on an idle stream (5.1)": (wire.window_update(7, 1), ErrorCode.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_what_ends_a_connection(name: str) -> None:
    data, code = FAULTS[name]
    peer = Peer()
    peer.send(peer.headers(1, "/t.T/Stream"))
    peer.send(data)
    assert goaway(peer) == code
    assert (peer.seen.opened, peer.seen.closed) == (1, 1)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"Upper": "x"}, "8.2.1"),
        ({"connection": "close"}, "8.2.2"),
        ({"te": "gzip"}, "8.2.2"),
        ({":late": "x"}, "8.3"),
        ({":path": ""}, "8.3.1"),
        ({"x-bad": "a\0b"}, "8.2.1"),
        ({"content-length": "x"}, "8.1.1"),
    ],
)
async def test_malformed_requests_end_their_stream_only(extra: dict[str, str], reason: str) -> None:
    peer = Peer()
    peer.send(peer.headers(1, end=True, **extra))
    assert resets(peer.frames()) == [(1, ErrorCode.PROTOCOL_ERROR)], reason
    peer.send(peer.headers(3) + peer.message(3, "still here", end=True))
    assert peer.seen.messages == ["still here"]


async def test_frames_on_closed_streams() -> None:
    peer = Peer()
    peer.send(peer.headers(1) + peer.message(1, "x", end=True))
    peer.frames()
    peer.send(wire.window_update(1, 1) + wire.rst_stream(1, 0))
    assert peer.frames() == []
    peer.send(wire.frame(wire.DATA, 0, 1, b"late"))
    assert resets(peer.frames()) == [(1, ErrorCode.STREAM_CLOSED)]
    peer.send(peer.headers(1, end=True))
    assert goaway(peer) == ErrorCode.STREAM_CLOSED


async def test_a_call_that_we_end_first_bears_what_is_under_way() -> None:
    peer = Peer()
    peer.send(peer.headers(1, "/t.T/Stream") + peer.message(1, "done"))
    frames = peer.frames()
    assert resets(frames) == [(1, ErrorCode.NO_ERROR)]
    peer.send(peer.message(1, "late") + wire.frame(wire.DATA, wire.END_STREAM, 1))
    assert peer.frames() == []
    assert not peer.wire.closed


async def test_more_data_than_the_windows() -> None:
    peer = Peer(Limits(stream_window=1_000, connection_window=70_000))
    peer.send(peer.headers(1, "/t.T/Stream") + wire.frame(wire.DATA, 0, 1, bytes(1_001)))
    assert resets(peer.frames()) == [(1, ErrorCode.FLOW_CONTROL_ERROR)]
    peer = Peer(Limits(stream_window=1 << 20, connection_window=70_000))
    peer.connection.unacked = 70_000 - 10
    peer.send(peer.headers(1, "/t.T/Stream") + wire.frame(wire.DATA, 0, 1, bytes(11)))
    assert goaway(peer) == ErrorCode.FLOW_CONTROL_ERROR


async def test_windows_are_given_back_while_a_large_message_comes() -> None:
    peer = Peer(Limits(stream_window=32_768, connection_window=131_072, max_message=1 << 20))
    text = "x" * 600_000
    payload = wire.message(StringValue(value=text).SerializeToString())
    peer.send(peer.headers(1))
    for start in range(0, len(payload), 16_384):
        piece = payload[start : start + 16_384]
        peer.send(wire.frame(wire.DATA, wire.END_STREAM if start + 16_384 >= len(payload) else 0, 1, piece))
    assert peer.seen.messages == [text]
    updates = [frame.stream for frame in peer.frames() if frame.kind == wire.WINDOW_UPDATE]
    assert 0 in updates
    assert 1 in updates


async def test_a_waiting_handler_holds_the_peer_back() -> None:
    peer = Peer(Limits(stream_window=1_000))
    peer.send(peer.headers(1, "/t.T/Stream") + peer.message(1, "wait"))
    peer.send(b"".join(peer.message(1, "x" * 80) for _ in range(10)))
    assert not [frame for frame in peer.frames() if frame.kind == wire.WINDOW_UPDATE and frame.stream == 1]
    assert peer.seen.messages == ["wait"]
    peer.seen.gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(peer.seen.messages) == 11
    assert [frame.stream for frame in peer.frames() if frame.kind == wire.WINDOW_UPDATE] == [1]


async def test_replies_wait_for_the_windows_of_stream_and_connection() -> None:
    peer = Peer()
    peer.send(wire.settings({wire.INITIAL_WINDOW_SIZE: 10}) + peer.headers(1) + peer.message(1, "big", end=True))
    data = [frame for frame in peer.frames() if frame.kind == wire.DATA]
    assert [len(frame.payload) for frame in data] == [10]
    peer.send(wire.window_update(1, 1_000_000))
    received = sum(len(frame.payload) for frame in peer.frames() if frame.kind == wire.DATA)
    assert received == wire.DEFAULT_WINDOW - 10  # the connection's window is spent
    peer.send(wire.window_update(0, 1_000_000))
    frames = peer.frames()
    assert 10 + received + sum(len(frame.payload) for frame in frames if frame.kind == wire.DATA) == 200_000 + 4 + 5
    assert frames[-1].kind == wire.HEADERS


async def test_a_change_of_the_initial_window_reaches_open_streams() -> None:
    peer = Peer()
    peer.send(wire.settings({wire.INITIAL_WINDOW_SIZE: 0}) + peer.headers(1) + peer.message(1, "hi", end=True))
    assert wire.DATA not in peer.kinds()
    peer.send(wire.settings({wire.INITIAL_WINDOW_SIZE: 3}))
    assert [len(frame.payload) for frame in peer.frames() if frame.kind == wire.DATA] == [3]


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda peer, _n: wire.frame(wire.PING, 0, 0, bytes(8)), 20_000),
        (lambda peer, _n: wire.settings({}), 20_000),
        (lambda peer, _n: wire.frame(wire.PRIORITY, 0, 1, bytes(5)), 20_000),
        (lambda peer, _n: wire.frame(wire.DATA, 0, 1), 20_000),
        (lambda peer, _n: wire.frame(0x77, 0, 1, b"x"), 20_000),
        (lambda peer, _n: wire.window_update(0, 1), 60_000),
        (lambda peer, n: peer.headers(n * 2 + 3) + wire.rst_stream(n * 2 + 3, 8), 20_000),
        (lambda peer, n: peer.headers(n * 2 + 3, Upper="x"), 20_000),
    ],
    ids=["ping", "settings", "priority", "empty data", "unknown", "window update", "rapid reset", "malformed"],
)
async def test_floods_run_out_of_budget(make: object, count: int) -> None:
    peer = Peer()
    peer.send(peer.headers(1, "/t.T/Stream"))
    for number in range(count):
        peer.send(make(peer, number))  # type: ignore[operator]
        if peer.wire.closed:
            break
    assert goaway(peer) == ErrorCode.ENHANCE_YOUR_CALM
    assert number < 15_000


async def test_a_header_block_without_end() -> None:
    peer = Peer()
    peer.send(
        wire.frame(wire.HEADERS, 0, 1, b"\x82") + b"".join(wire.frame(wire.CONTINUATION, 0, 1, b"") for _ in range(100))
    )
    assert goaway(peer) == ErrorCode.ENHANCE_YOUR_CALM
    peer = Peer()
    peer.send(
        wire.frame(wire.HEADERS, 0, 1, bytes(16_000))
        + b"".join(wire.frame(wire.CONTINUATION, 0, 1, bytes(16_000)) for _ in range(10))
    )
    assert goaway(peer) == ErrorCode.ENHANCE_YOUR_CALM


async def test_a_header_list_too_large_once_decoded() -> None:
    peer = Peer(Limits(max_header_list=2_000))
    fields = [(f"x-{number}", "y" * 100) for number in range(30)]
    block = peer.block() + bytes(peer.encoder.encode(fields))
    peer.send(wire.frame(wire.HEADERS, wire.END_HEADERS, 1, block))
    assert goaway(peer) == ErrorCode.COMPRESSION_ERROR


async def test_more_streams_than_allowed_are_refused_and_hpack_stays_in_step() -> None:
    peer = Peer(Limits(max_streams=2))
    for stream in (1, 3, 5):
        peer.send(peer.headers(stream, "/t.T/Stream", x_new=f"value-{stream}"))
    assert resets(peer.frames()) == [(5, ErrorCode.REFUSED_STREAM)]
    peer.send(wire.rst_stream(1, 8) + peer.headers(7, "/t.T/Stream", x_new="value-5") + peer.message(7, "ok"))
    assert peer.seen.messages == ["ok"]


async def test_cached_blocks_never_survive_a_change_of_the_table() -> None:
    """Index 62 means another field after each insertion: a cached answer would be the wrong one."""
    peer = Peer()
    for number in range(1, 60, 2):
        peer.send(peer.headers(number, "/t.T/Stream", x_number=str(number)))
        peer.send(peer.headers(number + 100, "/t.T/Stream", x_number=str(number)) if number == 59 else b"")
        call = peer.connection.calls[number]
        assert call.request.context.metadata["x-number"] == str(number)


async def test_compressed_messages() -> None:
    peer = Peer(Limits(max_message=1_000))

    def send(stream: int, encoding: str, flag: int, payload: bytes) -> dict[str, str]:
        peer.send(
            peer.headers(stream, grpc_encoding=encoding)
            + wire.frame(wire.DATA, 1, stream, struct.pack(">BI", flag, len(payload)) + payload)
        )
        return trailers(peer, [frame for frame in peer.frames() if frame.kind == wire.HEADERS][-1])

    hello = StringValue(value="hello").SerializeToString()
    bomb = gzip.compress(StringValue(value="x" * 1_000_000).SerializeToString())
    assert send(1, "gzip", 1, gzip.compress(hello))["grpc-status"] == "0"
    assert send(3, "gzip", 0, hello)["grpc-status"] == "0"
    assert peer.seen.messages == ["hello", "hello"]
    assert send(5, "identity", 1, hello)["grpc-status"] == "13"
    assert send(7, "gzip", 1, b"not gzip")["grpc-status"] == "13"
    assert send(9, "gzip", 1, gzip.compress(hello)[:-9])["grpc-status"] == "13"
    assert send(11, "gzip", 1, bomb[:990] if len(bomb) > 1_000 else bomb)["grpc-status"] in ("8", "13")
    assert send(13, "gzip", 2, hello)["grpc-status"] == "13"
    peer.send(peer.headers(15, grpc_encoding="zstd") + peer.message(15, "x", end=True))
    answer = [trailers(peer, frame) for frame in peer.frames() if frame.kind == wire.HEADERS][-1]
    assert (answer["grpc-status"], answer["grpc-accept-encoding"]) == ("12", "identity,gzip")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", "13"),
        (b"\0\0", "13"),
        (b"\0\0\0\0\x05abc", "13"),
        (b"\0\0\0\0\x02\xff\xff", "3"),
        (b"\0\x7f\xff\xff\xff", "8"),
    ],
)
async def test_messages_that_are_none(data: bytes, status: str) -> None:
    peer = Peer()
    peer.send(peer.headers(1) + wire.frame(wire.DATA, wire.END_STREAM, 1, data))
    last = [frame for frame in peer.frames() if frame.kind == wire.HEADERS][-1]
    assert trailers(peer, last)["grpc-status"] == status


async def test_two_messages_for_a_unary_method() -> None:
    peer = Peer()
    peer.send(peer.headers(1) + peer.message(1, "a") + peer.message(1, "b", end=True))
    assert trailers(peer, peer.frames()[-1])["grpc-status"] == "13"


async def test_a_crash_says_nothing_to_the_peer() -> None:
    peer = Peer()
    peer.send(peer.headers(1) + peer.message(1, "crash", end=True))
    assert trailers(peer, peer.frames()[-1]) | {"grpc-message": "internal error", "grpc-status": "13"} == trailers(
        peer, Frame(1, 0, 1, wire.error_trailers(1, 13, "internal error", alone=True)[9:])
    )


@pytest.mark.parametrize(("path", "end"), [("/t.T/Unary", True), ("/t.T/Stream", False)])
async def test_the_deadline_ends_a_call_and_its_task(path: str, end: bool) -> None:
    peer = Peer()
    peer.send(peer.headers(1, path, grpc_timeout="20m") + peer.message(1, "wait", end=end))
    await asyncio.sleep(0.05)
    frames = [frame for frame in peer.frames() if frame.kind == wire.HEADERS]
    assert trailers(peer, frames[-1])["grpc-status"] == "4"
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1
    assert peer.seen.opened == peer.seen.closed


async def test_a_reset_cancels_the_handler() -> None:
    peer = Peer()
    peer.send(peer.headers(1, "/t.T/Stream") + peer.message(1, "wait"))
    await asyncio.sleep(0)
    peer.send(wire.rst_stream(1, 8))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (peer.seen.closed, len(asyncio.all_tasks())) == (1, 1)


async def test_draining_serves_what_was_opened_before_the_peer_knew() -> None:
    peer = Peer()
    peer.send(peer.headers(1, "/t.T/Stream"))
    peer.frames()
    peer.connection.drain()
    await asyncio.sleep(0)
    first, ping = peer.frames()
    assert (first.kind, int.from_bytes(first.payload[:4], "big")) == (wire.GOAWAY, wire.MAX_WINDOW)
    peer.send(peer.headers(3) + peer.message(3, "before", end=True))
    assert peer.seen.messages == ["before"]
    peer.send(wire.frame(wire.PING, wire.ACK, 0, ping.payload))
    peer.send(peer.headers(5) + peer.message(5, "after", end=True))
    assert (5, ErrorCode.REFUSED_STREAM) in resets(peer.frames())
    assert not peer.wire.closed
    peer.send(peer.message(1, "done", end=True))
    assert peer.wire.closed
    assert peer.seen.messages == ["before", "done"]


async def test_a_silent_peer_is_asked_and_left() -> None:
    peer = Peer(Limits(keepalive_time=0.02, keepalive_timeout=0.02))
    await asyncio.sleep(0.03)
    assert wire.PING in peer.kinds()
    await asyncio.sleep(0.03)
    assert peer.wire.closed


async def test_a_peer_that_never_begins_is_left() -> None:
    peer = Peer(Limits(handshake_timeout=0.02), greet=False)
    peer.send(wire.PREFACE[:10])
    await asyncio.sleep(0.03)
    assert peer.wire.closed


async def test_a_peer_that_does_not_read_is_not_read_from_and_left() -> None:
    peer = Peer(Limits(write_timeout=0.02))
    peer.connection.pause_writing()
    assert peer.wire.paused
    peer.connection.resume_writing()
    assert not peer.wire.paused
    peer.connection.pause_writing()
    await asyncio.sleep(0.03)
    assert peer.wire.closed


async def test_random_frames_break_nothing() -> None:
    """A short run of what `make fuzz` does at length."""
    frames, connections = await fuzz.run(20_000, seed=1)
    assert frames >= 20_000
    assert connections > 20
