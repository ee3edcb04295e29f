"""One HTTP/2 connection, server side: the frame loop, flow control, and what a hostile peer may not do (RFC 9113).

Section numbers in comments and errors are RFC 9113's.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import cast

import structlog
from google.protobuf.empty_pb2 import Empty

from sidecar.errors import StatusCode
from sidecar.native import wire
from sidecar.native.call import Call
from sidecar.native.errors import ConnectionFault, ErrorCode, StreamFault
from sidecar.native.headers import HeaderBlocks, Request
from sidecar.native.limits import Budget, Limits
from sidecar.rpc import StreamMethod, UnaryMethod

_log = structlog.get_logger("grpc")
_REMEMBERED = 1_024  # streams that we ended first: frames that were under way are ignored
_DRAIN_PING = b"headgate"
_DRAIN_SECONDS = 1.0  # a peer that does not answer the drain's PING is not waited for longer

_NO_METHOD = UnaryMethod("", Empty, lambda _request, _context: Empty())

Methods = Mapping[str, UnaryMethod | StreamMethod]


class Connection(asyncio.Protocol):
    """Frames in, calls, frames out. Everything read at once is answered with one write."""

    def __init__(self, methods: Methods, limits: Limits, on_lost: Callable[[Connection], None]) -> None:
        self._methods = methods
        self.limits = limits
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._unread = b""
        self._out: list[bytes] = []
        self._reading = False
        self._flush_planned = False
        self._greeted = False  # the preface and the first SETTINGS have come
        self._preface_seen = False
        self._blocks = HeaderBlocks(limits)
        self._block: tuple[int, int, bytearray, int] | None = None  # (stream, flags, bytes, frames) until END_HEADERS
        self._calls: dict[int, Call] = {}
        self._last_stream = 0
        self._ended_first: OrderedDict[int, None] = OrderedDict()
        self._unacked = 0
        self._recv_window = limits.connection_window
        self.send_window = wire.DEFAULT_WINDOW
        self.peer_window = wire.DEFAULT_WINDOW
        self.blocked: deque[Call] = deque()
        self.buffered = 0  # bytes of unfinished messages
        self._control = Budget(2_000, 500)  # frames that make work and carry nothing (10.5)
        self._resets = Budget(1_000, 200)  # streams that the peer resets (rapid reset)
        self._draining = False
        self._refusing = False
        self._last_read = self._loop.time()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        secure = transport.get_extra_info("ssl_object")
        if isinstance(secure, ssl.SSLObject) and secure.selected_alpn_protocol() != "h2":
            self._transport.abort()  # 3.2: h2 is chosen by ALPN
            return
        self.write(
            wire.settings(
                {
                    wire.MAX_CONCURRENT_STREAMS: self.limits.max_streams,
                    wire.INITIAL_WINDOW_SIZE: self.limits.stream_window,
                    wire.MAX_HEADER_LIST_SIZE: self.limits.max_header_list,
                }
            )
        )
        self.write(wire.window_update(0, self.limits.connection_window - wire.DEFAULT_WINDOW))
        self._after("handshake", self.limits.handshake_timeout, self._abort)
        if self.limits.keepalive_time:
            self._after("keepalive", self.limits.keepalive_time, self._keepalive)
        if self.limits.max_connection_age:
            self._after("age", self.limits.max_connection_age, self.drain)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for timer in self._timers.values():
            timer.cancel()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.reset()
        self._on_lost(self)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        """The peer does not read: take nothing more from it until it does, but not for ever."""
        if self._transport is not None:
            self._transport.pause_reading()
            self._after("write", self.limits.write_timeout, self._abort)

    def resume_writing(self) -> None:
        self._cancel("write")
        if self._transport is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        self._last_read = self._loop.time()
        if self._unread:
            data = self._unread + data
        self._reading = True
        try:
            position = self._frames(data)
            self._unread = data[position:]
        except ConnectionFault as fault:
            self._fail(fault)
        finally:
            self._reading = False
            self._flush()

    def _frames(self, data: bytes) -> int:
        """Handle every whole frame. Returns how many bytes were used."""
        position, size = 0, len(data)
        if not self._preface_seen:
            position = self._read_preface(data)
            if not self._preface_seen:
                return 0
        calls = self._calls
        while size - position >= wire.HEAD_SIZE:
            high, low, kind, flags, stream = wire.read_head(data, position)
            length = high << 16 | low
            if length > wire.MAX_FRAME:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame larger than SETTINGS_MAX_FRAME_SIZE (4.2)")
            start = position + wire.HEAD_SIZE
            end = start + length
            if end > size:
                break
            position = end
            stream &= wire.MAX_WINDOW  # 4.1: the reserved bit is ignored
            if not self._greeted:
                if kind != wire.SETTINGS or flags & wire.ACK:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS (3.4)")
                self._greeted = True
                self._cancel("handshake")
            if self._block is not None and (kind != wire.CONTINUATION or stream != self._block[0]):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame within a header block (6.2)")
            try:
                # The plain frames of a call first: no padding, no priority.
                if kind == wire.DATA and not flags & wire.PADDED and stream in calls:
                    self._data(calls[stream], data[start:end], length, flags)
                elif kind == wire.HEADERS and flags & 0x2C == wire.END_HEADERS:
                    self._headers(stream, flags, data[start:end])
                else:
                    self._other(kind, flags, stream, data[start:end])
            except StreamFault as fault:
                self._reset_stream(fault)
            if self._transport is None or self._transport.is_closing():
                return size
        return position

    def _read_preface(self, data: bytes) -> int:
        if not wire.PREFACE.startswith(data[: len(wire.PREFACE)]):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "not the HTTP/2 preface (3.4)")
        if len(data) < len(wire.PREFACE):
            return 0
        self._preface_seen = True
        return len(wire.PREFACE)

    def _other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Every frame that is not a plain one of a call."""
        if kind == wire.DATA:
            self._rare_data(flags, stream, payload)
        elif kind == wire.HEADERS:
            self._rare_headers(flags, stream, payload)
        elif kind == wire.CONTINUATION:
            self._continuation(flags, payload, stream)
        elif kind == wire.WINDOW_UPDATE:
            self._window_update(stream, payload)
        elif kind == wire.RST_STREAM:
            self._rst_stream(stream, payload)
        elif kind == wire.SETTINGS:
            self._settings(flags, stream, payload)
        elif kind == wire.PING:
            self._ping(flags, stream, payload)
        elif kind == wire.GOAWAY:
            self._goaway(stream, payload)
        elif kind == wire.PRIORITY:
            self._priority(stream, payload)
        elif kind == wire.PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client (8.4)")
        else:
            self._spend(1)  # 4.1: unknown frames are ignored, but not without end

    # DATA (6.1)

    def _data(self, call: Call, payload: bytes, length: int, flags: int) -> None:
        self._recv_window -= length
        if self._recv_window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window (6.9.1)")
        self._unacked += length
        stream = call.stream
        if call.ended:
            raise StreamFault(stream, ErrorCode.STREAM_CLOSED, "DATA after END_STREAM (5.1)")
        call.recv_window -= length
        if call.recv_window < 0:
            raise StreamFault(stream, ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window (6.9.1)")
        call.unacked += length
        if payload:
            call.receive(payload)
        elif not flags & wire.END_STREAM:
            self._spend(1)
        if self.buffered > self.limits.max_buffered:
            call.end_with(StatusCode.RESOURCE_EXHAUSTED, "too many unfinished messages on this connection")
        if flags & wire.END_STREAM:
            call.end()
        elif not call.finished:
            self.return_window(call)
        if self._unacked >= self.limits.connection_window >> 1:
            self._return_connection_window()

    def _rare_data(self, flags: int, stream: int, payload: bytes) -> None:
        if stream == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on stream 0 (6.1)")
        length = len(payload)
        if flags & wire.PADDED:
            payload = _unpadded(payload)
        call = self._calls.get(stream)
        if call is not None:
            self._data(call, payload, length, flags)
            return
        self._must_not_be_idle(stream, "DATA")
        # Flow control counts frames of closed streams too (6.9).
        self._recv_window -= length
        if self._recv_window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window (6.9.1)")
        self._unacked += length
        if self._unacked >= self.limits.connection_window >> 1:
            self._return_connection_window()
        if stream in self._ended_first:
            if flags & wire.END_STREAM:
                del self._ended_first[stream]
            return
        self._spend(1)
        raise StreamFault(stream, ErrorCode.STREAM_CLOSED, "DATA on a closed stream (5.1)")

    def return_window(self, call: Call) -> None:
        """Let the peer send more on a stream whose handler keeps up."""
        if call.unacked >= self.limits.stream_window >> 1 and not call.ended and call.consuming():
            self.write(wire.window_update(call.stream, call.unacked))
            call.recv_window += call.unacked
            call.unacked = 0

    def _return_connection_window(self) -> None:
        self.write(wire.window_update(0, self._unacked))
        self._recv_window += self._unacked
        self._unacked = 0

    # HEADERS and CONTINUATION (6.2, 6.10)

    def _rare_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if flags & wire.PADDED:
            payload = _unpadded(payload)
        dependency = -1
        if flags & wire.HAS_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority (6.2)")
            dependency = wire.read_u32(payload, 0)[0] & wire.MAX_WINDOW
            payload = payload[5:]
        if not flags & wire.END_HEADERS:
            if stream == 0:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0 (6.2)")
            self._block = (stream, flags, bytearray(payload), 0)
            return
        self._headers(stream, flags, payload, depends_on_itself=dependency == stream)

    def _continuation(self, flags: int, payload: bytes, stream: int) -> None:
        if self._block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without a header block (6.10)")
        stream, first_flags, block, frames = self._block
        block += payload
        if len(block) > self.limits.max_header_block or frames >= self.limits.max_continuations:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block without end (10.5.1)")
        if flags & wire.END_HEADERS:
            self._block = None
            self._headers(stream, first_flags, bytes(block))
        else:
            self._block = (stream, first_flags, block, frames + 1)

    def _headers(self, stream: int, flags: int, block: bytes, *, depends_on_itself: bool = False) -> None:
        if not stream & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client's stream is odd (5.1.1)")
        call = self._calls.get(stream)
        if call is not None:
            self._trailers(call, flags, block)
            return
        if stream <= self._last_stream:
            self._late_headers(stream, block)
            return
        self._last_stream = stream
        if self._refusing or len(self._calls) >= self.limits.max_streams:
            self._blocks.skip(block)
            self._spend(1)
            raise StreamFault(stream, ErrorCode.REFUSED_STREAM, "no more streams now (5.1.2)")
        request = self._blocks.request(block)
        if request.malformed or depends_on_itself:
            self._spend(1)
            raise StreamFault(
                stream, ErrorCode.PROTOCOL_ERROR, request.malformed or "a stream depends on itself (5.3.1)"
            )
        self._open(stream, request, ended=bool(flags & wire.END_STREAM))

    def _open(self, stream: int, request: Request, *, ended: bool) -> None:
        method = self._methods.get(request.context.path)
        call = Call(self, stream, method or _NO_METHOD, request)
        self._calls[stream] = call
        if request.http_status:
            if ended:
                call.end()
        elif method is None:
            call.ended = ended
            call.end_with(StatusCode.UNIMPLEMENTED, f"the method {request.context.path} is not served here")
        elif request.encoding not in ("identity", "gzip"):
            call.ended = ended
            call.end_with(StatusCode.UNIMPLEMENTED, f"the encoding '{request.encoding}' is not served here")
        else:
            call.start()
            if ended and not call.finished:
                call.end()

    def _trailers(self, call: Call, flags: int, block: bytes) -> None:
        broken = self._blocks.trailers(block)
        if call.ended:
            raise StreamFault(call.stream, ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM (5.1)")
        if broken or not flags & wire.END_STREAM:
            raise StreamFault(call.stream, ErrorCode.PROTOCOL_ERROR, broken or "trailers without END_STREAM (8.1)")
        call.end()

    def _late_headers(self, stream: int, block: bytes) -> None:
        self._blocks.skip(block)
        if stream in self._ended_first:
            return
        raise ConnectionFault(ErrorCode.STREAM_CLOSED, "HEADERS on a closed stream (5.1)")

    # the rest

    def _priority(self, stream: int, payload: bytes) -> None:
        if stream == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0 (6.3)")
        self._spend(1)
        if len(payload) != 5:
            raise StreamFault(stream, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is five bytes (6.3)")
        if wire.read_u32(payload, 0)[0] & wire.MAX_WINDOW == stream:
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR, "a stream depends on itself (5.3.1)")

    def _rst_stream(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is four bytes (6.4)")
        if stream == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on stream 0 (6.4)")
        self._must_not_be_idle(stream, "RST_STREAM")
        self._ended_first.pop(stream, None)
        call = self._calls.pop(stream, None)
        if call is not None:
            call.reset()
        if not self._resets.spend(self._loop.time()):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "streams are opened to be reset (10.5)")
        self._closed_when_drained()

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream != 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream (6.5)")
        if flags & wire.ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS that acknowledge are empty (6.5)")
            return
        if len(payload) % 6:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS are six bytes each (6.5)")
        self._spend(1 + len(payload) // 60)
        self.write(wire.SETTINGS_ACK)
        for at in range(0, len(payload), 6):
            self._setting(payload[at] << 8 | payload[at + 1], wire.read_u32(payload, at + 2)[0])

    def _setting(self, name: int, value: int) -> None:
        if name == wire.ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is 0 or 1 (6.5.2)")
        if name == wire.MAX_FRAME_SIZE and not wire.MAX_FRAME <= value <= 0xFFFFFF:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE is out of range (6.5.2)")
        if name != wire.INITIAL_WINDOW_SIZE:
            return
        if value > wire.MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is out of range (6.5.2)")
        difference, self.peer_window = value - self.peer_window, value
        for call in list(self._calls.values()):
            call.send_window += difference
            if call.send_window > wire.MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1 (6.9.2)")
            if difference > 0:
                call.pump()

    def _ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream != 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream (6.7)")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING is eight bytes (6.7)")
        if not flags & wire.ACK:
            self._spend(1)
            self.write(wire.frame(wire.PING, wire.ACK, 0, payload))
        elif payload == _DRAIN_PING and self._draining:
            self._refuse()

    def _goaway(self, stream: int, payload: bytes) -> None:
        if stream != 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream (6.8)")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is eight bytes or more (6.8)")
        self._spend(1)

    def _window_update(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is four bytes (6.9)")
        increment = wire.read_u32(payload, 0)[0] & wire.MAX_WINDOW
        self._spend(0.25)
        if stream == 0:
            if increment == 0:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "an increment of 0 (6.9)")
            self.send_window += increment
            if self.send_window > wire.MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1 (6.9.1)")
            self._unblock()
            return
        call = self._calls.get(stream)
        if call is None:
            self._must_not_be_idle(stream, "WINDOW_UPDATE")
            return
        if increment == 0:
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR, "an increment of 0 (6.9)")
        call.send_window += increment
        if call.send_window > wire.MAX_WINDOW:
            raise StreamFault(stream, ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1 (6.9.1)")
        call.pump()

    def _must_not_be_idle(self, stream: int, what: str) -> None:
        if stream > self._last_stream or not stream & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what} on an idle stream (5.1)")

    def _spend(self, amount: float) -> None:
        if not self._control.spend(self._loop.time(), amount):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "frames that carry nothing, without end (10.5)")

    # calls' side

    def block(self, call: Call) -> None:
        """`call` waits for the connection's window."""
        if call not in self.blocked:
            self.blocked.append(call)

    def _unblock(self) -> None:
        for _ in range(len(self.blocked)):
            if self.send_window <= 0:
                return
            self.blocked.popleft().pump()

    def closed(self, call: Call) -> None:
        """`call` has sent its last frame."""
        self._calls.pop(call.stream, None)
        if not call.ended:
            self._end_first(call.stream)
        self._control.give(4)
        self._resets.give(1)
        self._closed_when_drained()

    def _end_first(self, stream: int) -> None:
        """We are done before the peer is: tell it to stop (8.1), and bear what is already under way."""
        self.write(wire.rst_stream(stream, ErrorCode.NO_ERROR))
        self._ended_first[stream] = None
        if len(self._ended_first) > _REMEMBERED:
            self._ended_first.popitem(last=False)

    def _reset_stream(self, fault: StreamFault) -> None:
        call = self._calls.pop(fault.stream, None)
        if call is not None:
            call.reset()
            self._ended_first[fault.stream] = None
        self.write(wire.rst_stream(fault.stream, fault.code))
        self._closed_when_drained()

    # writing

    def write(self, data: bytes) -> None:
        """Send `data` with everything else of this turn."""
        self._out.append(data)
        if not self._reading and not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_planned = False
        out = self._out
        if out and self._transport is not None:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._transport.write(data)
        else:
            out.clear()

    # the connection's life

    def _after(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        self._cancel(name)
        self._timers[name] = self._loop.call_later(seconds, action)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _keepalive(self) -> None:
        """Ask a silent peer whether it is still there."""
        silent = self._loop.time() - self._last_read
        if silent < self.limits.keepalive_time:
            self._after("keepalive", self.limits.keepalive_time - silent, self._keepalive)
            return
        asked = self._loop.time()
        self.write(wire.frame(wire.PING, 0, 0, b"are you?"))

        def check() -> None:
            if self._last_read < asked:
                self._abort()
            else:
                self._keepalive()

        self._after("keepalive", self.limits.keepalive_timeout, check)

    def drain(self) -> None:
        """Take no new calls, let open ones finish, then close (6.8: GOAWAY twice, so that none is lost)."""
        if self._draining or self._transport is None:
            return
        if not self._greeted:
            self._abort()
            return
        self.write(wire.goaway(wire.MAX_WINDOW, ErrorCode.NO_ERROR))
        self.write(wire.frame(wire.PING, 0, 0, _DRAIN_PING))
        self._flush()
        self._draining = True
        self._after("drain", _DRAIN_SECONDS, self._refuse)

    def _refuse(self) -> None:
        """The peer knows that we are leaving: what it opened before that is served, nothing after it."""
        if self._transport is None or self._refusing:
            return
        self._refusing = True
        self.write(wire.goaway(self._last_stream, ErrorCode.NO_ERROR))
        self._closed_when_drained()

    def _closed_when_drained(self) -> None:
        if self._refusing and not self._calls and self._transport is not None:
            self._flush()
            self._transport.close()

    def _fail(self, fault: ConnectionFault) -> None:
        _log.warning("connection_refused", code=fault.code.name, rule=fault.rule)
        self.write(wire.goaway(self._last_stream, fault.code, fault.rule))
        self._flush()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.reset()
        if self._transport is not None:
            self._transport.close()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def abort(self) -> None:
        """Cut it, whatever is open."""
        self._abort()


def _unpadded(payload: bytes) -> bytes:
    """A frame's content without its padding (6.1)."""
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding longer than the frame (6.1)")
    return payload[1 : len(payload) - payload[0]]
