"""One HTTP/2 connection, server side: frames in, calls, frames out (RFC 9113).

The frame loop serves by itself what peers like Envoy send all day, and passes everything else on: to `opening` what
opens or fills a call in a way that needs a closer look, to `control` what carries no call. The same rules hold on both
ways.
Section numbers in comments and errors are RFC 9113's.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import Callable
from typing import cast

import structlog

from sidecar import peername
from sidecar.native import control, flow, opening, wire
from sidecar.native.call import Call
from sidecar.native.errors import ConnectionFault, ErrorCode, StreamFault
from sidecar.native.floods import Floods
from sidecar.native.headers import HeaderBlocks, Methods
from sidecar.native.lifetime import Lifetime
from sidecar.native.limits import Limits, Recent
from sidecar.native.streaming import StreamCall
from sidecar.native.unary import UnaryCall, whole

_log = structlog.get_logger("grpc")

_RARE = {
    wire.DATA: opening.data,
    wire.HEADERS: opening.headers,
    wire.CONTINUATION: opening.continuation,
    wire.RST_STREAM: control.rst_stream,
    wire.WINDOW_UPDATE: control.window_update,
    wire.SETTINGS: control.settings,
    wire.PING: control.ping,
    wire.GOAWAY: control.goaway,
    wire.PRIORITY: control.priority,
    wire.PUSH_PROMISE: control.push_promise,
}


class Connection(asyncio.Protocol):
    """Everything read at once is answered with one write.

    `on_made` is told when the transport is there, `on_lost` when it is gone. What is public here is for the modules of
    this package only.
    """

    __slots__ = (
        "_flush_comes",
        "_on_lost",
        "_on_made",
        "_preface_seen",
        "_unread",
        "block",
        "blocked",
        "blocks",
        "buffered",
        "calls",
        "ended_first",
        "floods",
        "greeted",
        "half_window",
        "last_stream",
        "life",
        "limits",
        "loop",
        "max_streams",
        "out",
        "paused",
        "peer_window",
        "reserve",
        "send_window",
        "transport",
        "unacked",
        "whole_limit",
    )

    def __init__(
        self,
        methods: Methods,
        limits: Limits,
        on_made: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self._on_made = on_made
        self._on_lost = on_lost
        # reading
        self._unread = b""
        self._preface_seen = False
        self.greeted = False  # the preface and the first SETTINGS have come
        self.blocks = HeaderBlocks(limits, methods)
        self.block: opening.Block | None = None  # a header block whose end has not come
        # writing
        self.out: list[bytes] = []
        self._flush_comes = False
        self.paused = False  # the transport holds enough
        # calls
        self.calls: dict[int, Call] = {}
        self.max_streams = limits.max_streams  # 0 when no more are taken
        self.last_stream = 0
        self.ended_first = Recent(1_024)  # calls that we ended before the peer did: frames under way are ignored
        self.buffered = 0  # bytes that calls keep for their handlers
        self.whole_limit = min(limits.stream_window, limits.max_message + wire.MESSAGE_HEAD_SIZE, wire.MAX_FRAME)
        # flow control (`flow`)
        self.unacked = 0
        self.half_window = limits.connection_window >> 1
        self.send_window = wire.DEFAULT_WINDOW
        self.reserve = 0
        self.peer_window = wire.DEFAULT_WINDOW
        self.blocked: OrderedDict[Call, None] = OrderedDict()  # wait for the connection's window, in order
        self.floods = Floods(self.loop)
        self.life = Lifetime(self)

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._on_made(self)
        secure = transport.get_extra_info("ssl_object")
        if isinstance(secure, ssl.SSLObject) and secure.selected_alpn_protocol() != "h2":
            self.transport.abort()  # 3.2: h2 is chosen by ALPN
            return
        if self.limits.client_name and not peername.fits(self.limits.client_name, peername.of_certificate(secure)):
            _log.warning("client_refused", wanted=self.limits.client_name)
            self.transport.abort()
            return
        self.life.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.life.end()
        self._reset_calls()
        self._on_lost(self)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        """The peer does not read: take nothing more from it until it does, but not for ever."""
        self.paused = True
        if self.transport is not None:
            self.transport.pause_reading()
            self.life.stuck()

    def resume_writing(self) -> None:
        self.paused = False
        self.life.moving()
        if self.transport is not None:
            self.transport.resume_reading()
            flow.refill(self)

    def data_received(self, data: bytes) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        self.life.last_read = self.loop.time()
        if self._unread:
            data = self._unread + data
        planned, self._flush_comes = self._flush_comes, True
        try:
            position = self._frames(data)
            self._unread = data[position:]
        except ConnectionFault as fault:
            self._fail(fault)
        finally:
            self._flush_comes = planned
            self._flush()

    # frames

    def _frames(self, data: bytes) -> int:
        """Handle every whole frame. Returns how many bytes were used.

        Numbers stand here for names of `wire`: this loop runs for every frame, and looking names up is what it would do
        most of the time.
        """
        position, size = 0, len(data)
        if not self._preface_seen:
            position = self._read_preface(data)
            if not self._preface_seen:
                return 0
        read_head, read_message_frame = wire.read_head, wire.read_message_frame
        calls, known = self.calls, self.blocks.known
        orderly = self.greeted and self.block is None
        while size - position >= 9:
            high, length, kind, flags, stream = read_head(data, position)
            if high or length > 16_384:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame larger than SETTINGS_MAX_FRAME_SIZE (4.2)")
            start = position + 9
            end = start + length
            if end > size:
                break
            position = end
            try:
                if orderly:
                    if kind == 0 and flags <= 1:  # DATA without padding
                        call = calls.get(stream)
                        if call is not None:
                            self.data(call, data, start, end, length, flags)
                            continue
                    elif kind == 1 and flags == 4:  # HEADERS with END_HEADERS, without padding or priority
                        request = known.get(data[start:end])
                        if (
                            request is not None
                            and stream & 1
                            and self.last_stream < stream <= 0x7FFFFFFF
                            and len(calls) < self.max_streams
                        ):
                            unary, streaming = request.unary, request.streaming
                            if streaming is not None:
                                self.last_stream = stream
                                calls[stream] = call = StreamCall(self, stream, request, streaming)
                                call.start()
                                continue
                            if unary is not None:
                                self.last_stream = stream
                                if size - position >= 14:
                                    high, length, kind, flags, same, compressed, message = read_message_frame(
                                        data, position
                                    )
                                    end = position + 9 + length
                                    if (
                                        same == stream
                                        and kind == 0
                                        and flags == 1
                                        and end <= size
                                        and message + 5 == length <= self.whole_limit
                                        and not compressed
                                        and not high
                                        and (request.length is None or request.length == length)
                                    ):
                                        # The next frame is DATA with END_STREAM and exactly one message.
                                        payload = data[position + 14 : end]
                                        position = end
                                        whole(self, stream, request, unary, payload)
                                        continue
                                calls[stream] = call = UnaryCall(self, stream, request, unary)
                                call.start()
                                continue
                self._rare(kind, flags, stream & wire.MAX_STREAM, data[start:end])  # 4.1: the reserved bit is ignored
            except StreamFault as fault:
                self._reset_stream(fault)
            orderly = self.greeted and self.block is None
        return position

    def _read_preface(self, data: bytes) -> int:
        if not wire.PREFACE.startswith(data[: len(wire.PREFACE)]):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "not the HTTP/2 preface (3.4)")
        if len(data) < len(wire.PREFACE):
            return 0
        self._preface_seen = True
        return len(wire.PREFACE)

    def _rare(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """A frame that the loop does not serve by itself."""
        if not self.greeted:
            if kind != wire.SETTINGS or flags & wire.ACK:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS (3.4)")
            self.greeted = True
            self.life.greeted()
        if self.block is not None and (kind != wire.CONTINUATION or stream != self.block.stream):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame within a header block (6.2)")
        _RARE.get(kind, control.unknown)(self, flags, stream, payload)

    def data(self, call: Call, data: bytes, start: int, end: int, length: int, end_stream: int) -> None:
        """DATA on an open stream (6.1): `data[start:end]`, in a frame of `length` bytes."""
        if end_stream and call.__class__ is UnaryCall and call.untouched and not call.unacked:
            size = end - start
            if size == length and size >= 5 and (call.missing is None or call.missing == size):
                compressed, message = wire.read_message_head(data, start)
                if message + 5 == size <= self.whole_limit and not compressed:
                    whole(self, call.stream, call.request, call.method, data[start + 5 : end], call)
                    return
        self.unacked += length
        if self.unacked >= self.half_window:
            flow.settle(self)
        if call.ended:
            raise StreamFault(call.stream, ErrorCode.STREAM_CLOSED, "DATA after END_STREAM (5.1)")
        call.unacked += length
        if call.unacked > self.limits.stream_window:
            raise StreamFault(call.stream, ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window (6.9.1)")
        if end_stream:
            call.ended = True
        if start < end:
            call.receive(data, start, end)
        elif not end_stream:
            self.floods.spend()
        if end_stream:
            call.half_closed()
        elif not call.finished:
            flow.return_window(self, call)

    # calls

    def closed(self, call: Call) -> None:
        """`call` has written its last frame."""
        self.calls.pop(call.stream, None)
        self.floods.ended_well += 1
        if not call.ended:
            # We are done before the peer is: tell it to stop (8.1), and bear what is already under way.
            self.write(wire.stop_sending(call.stream))
            self.ended_first.add(call.stream)

    def _reset_stream(self, fault: StreamFault) -> None:
        call = self.calls.pop(fault.stream, None)
        self.write(wire.rst_stream(fault.stream, fault.code))
        if call is not None:
            call.reset()
            self.ended_first.add(fault.stream)
            self.floods.spend_reset()

    def _reset_calls(self) -> None:
        calls = tuple(self.calls.values())
        self.calls.clear()
        for call in calls:
            call.reset()

    # writing

    def write(self, data: bytes) -> None:
        """Send `data` with everything else of this turn."""
        self.out.append(data)
        if not self._flush_comes:
            self._flush_comes = True
            self.loop.call_soon(self._planned_flush)

    def _planned_flush(self) -> None:
        self._flush_comes = False
        self._flush()

    def _flush(self) -> None:
        out, transport = self.out, self.transport
        if transport is None or transport.is_closing():
            out.clear()
            return
        if out:
            data = b"".join(out)
            out.clear()
            transport.write(data)
        if self.reserve and self.send_window <= flow.BURST >> 1:
            flow.refill(self)
        if self.life.refusing and not self.calls and not out:
            self.life.end()
            transport.close()

    # the end

    def _fail(self, fault: ConnectionFault) -> None:
        _log.warning("connection_refused", code=fault.code.name, rule=fault.rule)
        self._reset_calls()
        self.write(wire.goaway(self.last_stream, fault.code, fault.rule))
        self._flush()
        self.life.end()
        if self.transport is not None:
            self.transport.close()

    def drain(self) -> None:
        """Take no new calls, let open ones finish, then close."""
        self.life.drain()

    def abort(self) -> None:
        """Cut it, whatever is open."""
        if self.transport is not None:
            self.transport.abort()
