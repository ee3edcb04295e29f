"""One client connection of the fake provider: a raw protocol, so that every byte on the wire is its own choice."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import struct
from collections import deque
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Protocol, cast

import httptools

from headgate.fake_provider.answer import Answer
from headgate.fake_provider.behaviour import Behaviour
from headgate.fake_provider.realtime import Realtime, accepted, is_handshake
from headgate.fake_provider.recorder import Received, Recorder

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_SWITCHING = 101
_CUT_AFTER_MS = 10  # what was written before a reset must be out
Headers = tuple[tuple[str, str], ...]


class Provider(Protocol):
    """Who answers."""

    @property
    def name(self) -> str:
        """Told in the header `x-fake-provider`."""
        ...

    @property
    def requests(self) -> Recorder:
        """Where requests are kept."""
        ...

    @property
    def connections(self) -> set[Connection]:
        """The open connections."""
        ...

    def control(self, received: Received) -> Answer | None:
        """The answer to what is for the tool itself, and to health checks."""
        ...

    def decide(self, received: Received) -> tuple[Answer, Behaviour]:
        """The answer to a request, and how it is to be sent."""
        ...


class Connection(asyncio.Protocol):
    """Requests are answered one after the other, in order."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[Received, bool]] = deque()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._current: Received | None = None
        self._realtime: Realtime | None = None
        self._upgrading = False  # what follows is a WebSocket's
        self._early = b""  # of it, before the handshake was answered
        self._url = b""
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._provider.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._provider.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._current is not None:
            self._current.disconnected = True
        self._transport = None

    def abort(self) -> None:
        """Cut the connection with a reset."""
        if self._transport is not None:
            with contextlib.suppress(OSError):
                sock = self._transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._upgrading:
            self._upgraded(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgraded(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._write(self._head(400, (("connection", "close"),), 0))
            self._close()

    def _upgraded(self, data: bytes) -> None:
        if self._realtime is None:
            self._early += data
        else:
            self._talk(self._realtime, data)

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._url, self._headers, self._body = b"", [], []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        if any(name == "expect" and value.lower() == "100-continue" for name, value in self._headers):
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        received = Received(method, self._url.decode("latin-1"), tuple(self._headers), b"".join(self._body))
        self._body = []
        self._upgrading = is_handshake(received)
        self._waiting.append((received, self._parser.should_keep_alive()))
        if not self._busy:
            self._next()

    # answering

    def _next(self) -> None:
        while self._waiting and not self._busy and self._transport is not None:
            received, keep_alive = self._waiting.popleft()
            control = self._provider.control(received)
            if control is not None:
                self._send(received, control, Behaviour(), keep_alive)
                continue
            self._provider.requests.add(received)
            answer, behaviour = self._provider.decide(received)
            if behaviour.hang:
                self._busy, self._current = True, received
                return
            if behaviour.reset == "before":
                self.abort()
                return
            self._current = received
            if behaviour.delay_ms:
                self._busy = True
                self._later(behaviour.delay_ms, self._send, received, answer, behaviour, keep_alive)
                return
            self._send(received, answer, behaviour, keep_alive)

    def _later(self, milliseconds: float, call: Any, *arguments: Any) -> None:
        self._timer = asyncio.get_running_loop().call_later(milliseconds / 1000, call, *arguments)

    def _send(self, received: Received, answer: Answer, behaviour: Behaviour, keep_alive: bool) -> None:
        if answer.status == _SWITCHING:
            self._switch(received, behaviour)
            return
        headers: Headers = (("content-type", answer.content_type), *_told(behaviour))
        keep_alive = keep_alive and not behaviour.close and not self._upgrading
        if self._upgrading:
            headers += (("connection", "close"),)
        body = b"" if answer.stream else answer.pieces[0]
        if behaviour.gzip and not answer.stream:
            body, headers = gzip.compress(body), (*headers, ("content-encoding", "gzip"))
        head = self._head(answer.status, headers, None if answer.stream else len(body))
        if received.method == "HEAD":
            self._write(head)
            self._finish(keep_alive)
            return
        if behaviour.reset == "headers":
            self._write(head)
            self._cut()
            return
        self._busy = True
        late = behaviour.first_chunk_delay_ms
        if answer.stream or late:
            self._write(head)
            head = b""
        if late and answer.stream:
            self._later(late, self._stream, received, answer.pieces, 0, behaviour, keep_alive)
        elif late:
            self._later(late, self._whole, head, body, behaviour, keep_alive)
        elif answer.stream:
            self._stream(received, answer.pieces, 0, behaviour, keep_alive)
        else:
            self._whole(head, body, behaviour, keep_alive)

    def _whole(self, head: bytes, body: bytes, behaviour: Behaviour, keep_alive: bool) -> None:
        broken_off = behaviour.reset == "body" or behaviour.stall_after >= 0 or behaviour.truncate_after >= 0
        if not broken_off:
            self._write(head + body)
            self._finish(keep_alive)
            return
        self._write(head + body[: len(body) // 2])
        if behaviour.reset == "body":
            self._cut()
        elif behaviour.stall_after < 0:
            self._close()

    def _stream(
        self, received: Received, pieces: tuple[bytes, ...], start: int, behaviour: Behaviour, keep_alive: bool
    ) -> None:
        index = start
        paced = behaviour.chunk_delay_ms or (1 if behaviour.split or behaviour.usage == "split" else 0)
        if not paced and not behaviour.reset and behaviour.stall_after < 0 and behaviour.truncate_after < 0:
            received.chunks_sent = len(pieces)
            self._write(_chunked(pieces))
            self._finish(keep_alive)
            return
        out: list[bytes] = []
        while index < len(pieces):
            cut = behaviour.reset == "body" and index >= len(pieces) // 2
            if cut or index in (behaviour.stall_after, behaviour.truncate_after):
                self._write(b"".join(out))
                if cut:
                    self._cut()
                elif index == behaviour.truncate_after:
                    self._close()
                return
            piece = pieces[index]
            out.append(b"%x\r\n%b\r\n" % (len(piece), piece))
            index += 1
            received.chunks_sent = index
            if paced and index < len(pieces):
                self._write(b"".join(out))
                self._later(paced, self._stream, received, pieces, index, behaviour, keep_alive)
                return
        out.append(b"0\r\n\r\n")
        self._write(b"".join(out))
        self._finish(keep_alive)

    def _switch(self, received: Received, behaviour: Behaviour) -> None:
        self._write(self._head(_SWITCHING, accepted(received), None, chunked=False))
        if behaviour.reset == "headers":
            self._cut()
            return
        self._busy, self._realtime = True, Realtime(received, behaviour)
        self._talk(self._realtime, self._early)

    def _talk(self, session: Realtime, data: bytes) -> None:
        self._write(session.feed(data))
        if session.cut:
            self._cut()
        elif session.ended:
            self._close()

    def _head(self, status: int, headers: Headers, length: int | None, *, chunked: bool = True) -> bytes:
        return _head((("x-fake-provider", self._provider.name), *headers), status, length, chunked)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and data:
            self._transport.write(data)

    def _cut(self) -> None:
        self._busy, self._current = True, None
        self._later(_CUT_AFTER_MS, self.abort)

    def _close(self) -> None:
        self._busy, self._current = True, None
        if self._transport is not None:
            self._transport.close()

    def _finish(self, keep_alive: bool) -> None:
        self._busy, self._current = False, None
        if not keep_alive:
            self._close()
        elif self._waiting:
            asyncio.get_running_loop().call_soon(self._next)


@lru_cache(maxsize=256)
def _head(headers: Headers, status: int, length: int | None, chunked: bool) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}", *(f"{name}: {value}" for name, value in headers)]
    if length is not None:
        lines.append(f"content-length: {length}")
    elif chunked:
        lines.append("transfer-encoding: chunked")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@lru_cache(maxsize=64)
def _chunked(pieces: tuple[bytes, ...]) -> bytes:
    """A whole body in HTTP/1.1's chunked coding, one chunk per piece."""
    return b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]) + b"0\r\n\r\n"


def _told(behaviour: Behaviour) -> Headers:
    """What the behaviour says in headers."""
    told: Headers = ()
    if behaviour.retry_after:
        told += (("retry-after", str(behaviour.retry_after)),)
    if behaviour.retry_after_ms:
        told += (("retry-after-ms", str(behaviour.retry_after_ms)),)
    left, reset = behaviour.ratelimit_remaining, behaviour.ratelimit_reset
    if behaviour.ratelimit or left >= 0 or reset:
        told += (
            ("x-ratelimit-limit-requests", "5000"),
            ("x-ratelimit-remaining-requests", str(left if left >= 0 else 4999)),
            ("x-ratelimit-limit-tokens", "160000"),
            ("x-ratelimit-remaining-tokens", str(left if left >= 0 else 159_976)),
            ("x-request-id", "req_fake"),
        )
    if reset:
        told += (("x-ratelimit-reset-requests", reset), ("x-ratelimit-reset-tokens", reset))
    return told
