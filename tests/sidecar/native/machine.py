"""`python -m tests.sidecar.native.machine [EXAMPLES]`: a client that keeps every rule, in any order, against a connection.

The client is `h2`, so windows that we exceed, frames out of place and header blocks that cannot be decoded are its
errors. After every step and at the end the machine checks what no order of events may break: each call ends exactly
once, handlers get each message once and in order, nothing is kept for calls that are over.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import structlog
from google.protobuf.wrappers_pb2 import StringValue
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.settings import SettingCodes
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sidecar.native import flow, wire
from sidecar.native.limits import Limits
from sidecar.native.streaming import StreamCall
from tests.sidecar.native.peer import Frame, Peer

LIMITS = Limits(
    max_message=50_000,
    max_streams=6,
    stream_window=20_000,
    connection_window=70_000,
    max_buffered=100_000,
    max_unsent=30_000,
)
PATHS = ("/t.T/Stream",) * 6 + ("/t.T/Unary",) * 3 + ("/t.T/None",)
WORDS = ("hello", "hello", "big", "hello", "wait", "big", "wait", "hello", "big", "done", "fail", "crash")
WORD_LISTS: st.SearchStrategy[list[str]] = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4) | st.just([])
SIZES = (0, 3, 300, 3_000, 9_000, 45_000)
SHARES = (1.0, 1.0, 1.0, 0.7, 0.3, 0.05)
CUTS = (0, 0, 0, 1, 10, 5_000)


@dataclass
class Stream:
    """What the client knows of one of its streams."""

    number: int
    path: str
    sent: list[str] = field(default_factory=list)
    waiting: bytes = b""  # of messages, not sent yet
    gone: int = 0  # bytes of messages that were sent
    half_closed: bool = False
    given_up: bool = False  # reset by the client
    ends: int = 0  # END_STREAM or RST_STREAM with an error from the server
    status: str = ""
    received: bytes = b""

    @property
    def open(self) -> bool:
        return not self.ends and not self.given_up

    @property
    def sending(self) -> bool:
        return self.open and not self.half_closed


class Machine(RuleBasedStateMachine):
    """A connection between `h2` and ours, without sockets."""

    def __init__(self) -> None:
        super().__init__()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
        self.loop = asyncio.new_event_loop()
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.streams: dict[int, Stream] = {}
        self.unread = b""  # of the client's bytes
        self.goaways: list[int] = []
        self.paused = False
        self.draining = False

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(work)

    @initialize(window=st.sampled_from((1_000_000, 1_000_000, 65_535, 10, 0)))
    def begin(self, window: int) -> None:
        async def begin() -> None:
            self.peer = Peer(LIMITS, greet=False)
            self.client.initiate_connection()
            self.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})

        self.run(begin())
        self.exchange(0)

    def exchange(self, cut: int) -> None:
        """The client's bytes come in pieces of `cut` bytes (0: all at once), and the answers go back."""

        async def exchange() -> None:
            self.unread += self.client.data_to_send()
            while self.unread and not self.peer.wire.paused and not self.peer.wire.closed:
                size = cut or len(self.unread)
                piece, self.unread = self.unread[:size], self.unread[size:]
                self.peer.connection.data_received(piece)
            for _ in range(3):
                await asyncio.sleep(0)
                self.take(self.peer.frames())

        self.run(exchange())

    def take(self, frames: list[Frame]) -> None:
        for frame in frames:
            if frame.kind == wire.GOAWAY:
                # h2 ends the whole connection at a GOAWAY, a graceful one, too: it is not shown to it.
                assert frame.number == 0, "a fault was found in what a client did that keeps the rules"
                self.goaways.append(int.from_bytes(frame.payload[:4], "big"))
                continue
            for event in self.client.receive_data(wire.frame(frame.kind, frame.flags, frame.stream, frame.payload)):
                self.happened(event)

    def happened(self, event: Event) -> None:
        stream = self.streams.get(getattr(event, "stream_id", 0) or 0)
        if stream is None:
            return
        if isinstance(event, DataReceived):
            assert stream.open or stream.given_up
            stream.received += event.data
        elif isinstance(event, (ResponseReceived, TrailersReceived)):
            fields = {str(name): str(value) for name, value in event.headers}
            stream.status = fields.get("grpc-status", stream.status)
        elif isinstance(event, StreamEnded):
            stream.ends += 1
        elif isinstance(event, StreamReset) and event.remote_reset:
            if event.error_code == 0:
                assert stream.ends == 1, "NO_ERROR before the reply was whole"
            else:
                stream.ends += 1

    def chosen(self, data: st.DataObject, *, sending: bool = False) -> Stream | None:
        there = [one for one in self.streams.values() if (one.sending if sending else one.open)]
        return data.draw(st.sampled_from(there)) if there else None

    # what a client may do

    @rule(
        path=st.sampled_from(PATHS),
        words=WORD_LISTS,
        size=st.sampled_from(SIZES),
        share=st.sampled_from(SHARES),
        cut=st.sampled_from(CUTS),
        end=st.booleans(),
    )
    def open(self, path: str, words: list[str], size: int, share: float, cut: int, end: bool) -> None:
        """A new call, and what is said first."""
        self.begin_call(path, words, size, share, end)
        self.exchange(cut)

    def begin_call(self, path: str, words: list[str], size: int, share: float, end: bool) -> None:
        if self.client.open_outbound_streams >= LIMITS.max_streams or self.draining:
            return
        number = self.client.get_next_available_stream_id()
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x")]
        self.client.send_headers(number, [*fields, ("te", "trailers"), ("content-type", "application/grpc")])
        self.streams[number] = stream = Stream(number, path)
        self.say(stream, words[:1] if path == "/t.T/Unary" else words, size)
        self.write(stream, share, None, end)

    @rule(
        data=st.data(),
        words=WORD_LISTS,
        size=st.sampled_from(SIZES),
        share=st.sampled_from(SHARES),
        padding=st.sampled_from((None, None, 0, 9)),
        cut=st.sampled_from(CUTS),
        end=st.booleans(),
    )
    def go_on(
        self,
        data: st.DataObject,
        words: list[str],
        size: int,
        share: float,
        padding: int | None,
        cut: int,
        end: bool,
    ) -> None:
        """More on an open call."""
        stream = self.chosen(data, sending=True)
        if stream is None:
            return
        if len(stream.waiting) < 100_000:
            self.say(stream, words, size)
        self.write(stream, share, padding, end)
        self.exchange(cut)

    @rule(path=st.sampled_from(PATHS), words=WORD_LISTS, size=st.sampled_from(SIZES))
    def open_plainly(self, path: str, words: list[str], size: int) -> None:
        """A new call as most peers make it: in one go."""
        self.begin_call(path, words, size, 1.0, True)
        self.exchange(0)

    @rule(data=st.data(), padding=st.sampled_from((None, 0, 9)), end=st.booleans(), half_close=st.booleans())
    def send_what_waits(self, data: st.DataObject, padding: int | None, end: bool, half_close: bool) -> None:
        """The rest, or the end of a call, whether there is a rest or not."""
        stream = self.chosen(data, sending=True)
        if stream is None:
            return
        self.write(stream, 1.0, padding, end)
        if half_close and stream.sending:
            stream.half_closed = True
            self.client.end_stream(stream.number)
        self.exchange(0)

    def say(self, stream: Stream, words: list[str], size: int) -> None:
        for word in words:
            text = f"{word}:{stream.number}:{len(stream.sent)}:{'x' * size}"
            stream.sent.append(text)
            stream.waiting += wire.message(StringValue(value=text).SerializeToString())

    def write(self, stream: Stream, share: float, padding: int | None, end: bool) -> None:
        """Send this share of what waits, as far as the windows allow."""
        size = int(len(stream.waiting) * share)
        while size:
            room = self.client.local_flow_control_window(stream.number) - (0 if padding is None else padding + 1)
            part = min(size, room, 10_000)
            if part <= 0:
                return
            piece, stream.waiting = stream.waiting[:part], stream.waiting[part:]
            size -= part
            stream.gone += part
            stream.half_closed = end and not stream.waiting
            self.client.send_data(stream.number, piece, end_stream=stream.half_closed, pad_length=padding)

    @precondition(lambda self: len(self.streams) > 3)
    @rule(data=st.data(), late=st.booleans())
    def give_up(self, data: st.DataObject, late: bool) -> None:
        stream = self.chosen(data)
        if stream is not None:
            stream.given_up = True
            self.client.reset_stream(stream.number, 8)
            if not late:
                self.exchange(0)

    @rule(data=st.data(), increment=st.sampled_from((1, 1_000, 100_000)), whole=st.booleans())
    def widen(self, data: st.DataObject, increment: int, whole: bool) -> None:
        stream = None if whole else self.chosen(data)
        if stream is None and not whole:
            return
        self.client.increment_flow_control_window(increment, stream.number if stream else None)
        self.exchange(0)

    @rule(window=st.sampled_from((None, None, 0, 1, 5_000, 65_535, 300_000)))
    def ask(self, window: int | None) -> None:
        """A PING, or a SETTINGS frame with another window for every stream."""
        if window is None:
            self.client.ping(b"12345678")
        else:
            self.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.exchange(0)

    @rule()
    def let_handlers_go_on(self) -> None:
        self.peer.seen.gate.set()
        self.exchange(0)
        self.peer.seen.gate.clear()

    @rule()
    def stop_or_read_again(self) -> None:
        """The transport's buffer becomes full, or has room again."""
        if self.paused:
            self.read_again()
        else:
            self.paused = True
            self.peer.connection.pause_writing()

    def read_again(self) -> None:
        async def resume() -> None:
            self.peer.connection.resume_writing()

        self.paused = False
        self.run(resume())
        self.exchange(0)

    @precondition(lambda self: not self.draining and len(self.streams) > 4)
    @rule()
    def drain(self) -> None:
        async def drain() -> None:
            self.peer.connection.drain()

        self.draining = True
        self.run(drain())
        self.exchange(0)

    # what never breaks

    @invariant()
    def counters_are_those_of_open_calls(self) -> None:
        if not hasattr(self, "peer"):
            return
        connection = self.peer.connection
        assert connection.buffered == sum(call._held for call in connection.calls.values())
        assert 0 <= connection.send_window <= max(flow.BURST, wire.DEFAULT_WINDOW)
        assert connection.reserve >= 0
        assert 0 <= connection.unacked < LIMITS.connection_window
        assert len(connection.calls) <= LIMITS.max_streams
        handled = sum(1 for call in connection.calls.values() if isinstance(call, StreamCall) and call._handler)
        assert self.peer.seen.opened - self.peer.seen.closed == handled
        assert all(call._outbox is None or len(call._outbox) < 400_000 for call in connection.calls.values())

    @invariant()
    def a_call_ends_at_most_once(self) -> None:
        for stream in self.streams.values():
            assert stream.ends <= 1
            if stream.ends:
                assert stream.number not in self.peer.connection.calls

    @invariant()
    def messages_arrive_once_and_in_order(self) -> None:
        handled: dict[int, list[str]] = {}
        for text in self.peer.seen.messages if hasattr(self, "peer") else ():
            handled.setdefault(int(text.split(":")[1]), []).append(text)
        for number, texts in handled.items():
            assert texts == self.streams[number].sent[: len(texts)]

    def teardown(self) -> None:
        if hasattr(self, "peer"):
            self.finish()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        structlog.reset_defaults()

    def finish(self) -> None:
        """The client reads all, sends the rest, ends its side; then every call has an end."""
        self.peer.seen.gate.set()
        if self.paused:
            self.read_again()
        self.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 24})
        self.client.increment_flow_control_window(1 << 24)
        for _ in range(60):
            self.exchange(0)
            sending = [stream for stream in self.streams.values() if stream.sending]
            for stream in sending:
                self.write(stream, 1.0, None, False)
                if not stream.waiting:
                    stream.half_closed = True
                    self.client.end_stream(stream.number)
            if not sending:
                break
        self.exchange(0)
        connection = self.peer.connection
        for stream in self.streams.values():
            assert stream.given_up or stream.ends == 1, stream
            if stream.status == "0" and stream.open is False and not stream.given_up:
                self.replies_are_whole(stream)
        assert not connection.calls
        assert not connection.blocked
        assert connection.buffered == 0
        assert self.peer.seen.opened == self.peer.seen.closed
        assert not asyncio.all_tasks(self.loop)
        if self.draining:
            assert self.goaways[:2] == [wire.MAX_STREAM, max(self.streams)]
            assert self.peer.wire.closed
        else:
            assert not self.peer.wire.closed
        self.run(self.lose())
        assert self.peer.lost
        assert not connection.life._timers

    async def lose(self) -> None:
        self.peer.lose()

    def replies_are_whole(self, stream: Stream) -> None:
        """A call that ended well was answered message by message."""
        replies, rest = [], stream.received
        while rest:
            compressed, size = wire.read_message_head(rest, 0)
            assert not compressed
            replies.append(StringValue.FromString(rest[5 : 5 + size]).value)
            rest = rest[5 + size :]
        expected = []
        gone = stream.gone
        for text in stream.sent:
            gone -= len(wire.message(StringValue(value=text).SerializeToString()))
            if gone < 0:
                break  # the client ended its side before this one
            expected.append("waited" if text.startswith("wait") else "x" * 200_000 if text.startswith("big") else text)
            if text.startswith("done") and stream.path == "/t.T/Stream":
                break
        assert replies == expected


def check(examples: int, steps: int) -> None:
    """Run so many orders of so many steps. Raises what the first broken promise raises."""
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    check(wanted, 80)
    print(f"{wanted:,} orders of up to 80 steps: every call ended once, nothing was left")
