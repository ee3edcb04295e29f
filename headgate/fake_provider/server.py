"""The fake provider's HTTP/1.1 server: a raw protocol, so that every byte on the wire is its own choice."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import signal
import socket
import ssl
import struct
from collections import deque
from functools import lru_cache
from types import TracebackType
from typing import Any, cast

import httptools
import msgspec
import uvloop

from headgate.fake_provider import replies
from headgate.fake_provider.behaviour import Behaviour
from headgate.fake_provider.recorder import Received, Recorder
from headgate.fake_provider.replies import Answer

_OPERATIONS = {
    "/chat/completions": "chat",
    "/completions": "completions",
    "/embeddings": "embeddings",
    "/responses": "responses",
}
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 429: "Too Many Requests", 503: "Service Unavailable"}
_CACHE_SIZE = 256


class FakeProvider:
    """A fake provider on a port of its own. An async context manager."""

    def __init__(
        self,
        name: str = "fake",
        defaults: Behaviour | None = None,
        *,
        record: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        self.defaults = defaults or Behaviour()
        self.requests = Recorder(record)
        self.port = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._cache: dict[tuple[str, bytes, str], tuple[Answer, Behaviour]] = {}

    @property
    def base_url(self) -> str:
        """What a client takes as its base URL."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Bind and serve."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), host, port, ssl=self._tls, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut everything."""
        if self._server is not None:
            self._server.close()
            for connection in tuple(self._connections):
                connection.abort()
            await self._server.wait_closed()
            self._server = None

    async def __aenter__(self) -> FakeProvider:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def decide(self, path: str, body: bytes, directive: str) -> tuple[Answer, Behaviour]:
        """The answer to a request, and how it is to be sent."""
        key = (path, body, directive)
        if not self.requests.on and key in self._cache:
            return self._cache[key]
        found = self._decide(path, body, directive)
        if not self.requests.on and len(self._cache) < _CACHE_SIZE:
            self._cache[key] = found
        return found

    def _decide(self, path: str, body: bytes, directive: str) -> tuple[Answer, Behaviour]:
        plain = path.partition("?")[0]
        operation = next((name for end, name in _OPERATIONS.items() if plain.endswith(end)), None)
        try:
            behaviour = Behaviour.parse(directive, self.defaults)
        except ValueError as error:
            return replies.error(400, str(error), "unknown_behaviour"), self.defaults
        if operation is None:
            if plain.endswith("/models"):
                return replies.models(), behaviour
            return replies.error(404, f"The fake provider does not know {plain}"), behaviour
        try:
            value = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError):
            return replies.error(400, "The body is not JSON."), behaviour
        if not isinstance(value, dict):
            return replies.error(400, "The body is not a JSON object."), behaviour
        model = value.get("model")
        if isinstance(model, str) and model.startswith("fake:"):
            try:
                behaviour = Behaviour.parse(model.removeprefix("fake:"), behaviour)
            except ValueError as error:
                return replies.error(400, str(error), "unknown_behaviour"), behaviour
        return replies.answer(operation, value, behaviour), behaviour


class _Connection(asyncio.Protocol):
    """One client connection. Requests are answered one after the other, in order."""

    def __init__(self, provider: FakeProvider) -> None:
        self._provider = provider
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[Received, bool, str]] = deque()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._current: Received | None = None
        self._url = b""
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._provider._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._provider._connections.discard(self)
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
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            self._write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            if self._transport is not None:
                self._transport.close()

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
        directive = received.header("x-fake") or ""
        self._waiting.append((received, self._parser.should_keep_alive(), directive))
        if not self._busy:
            self._next()

    # answering

    def _next(self) -> None:
        while self._waiting and not self._busy and self._transport is not None:
            received, keep_alive, directive = self._waiting.popleft()
            if received.path == "/__fake/requests":
                self._control(received, keep_alive)
                continue
            self._provider.requests.add(received)
            answer, behaviour = self._provider.decide(received.path, received.body, directive)
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

    def _control(self, received: Received, keep_alive: bool) -> None:
        if received.method == "DELETE":
            self._provider.requests.clear()
        body = self._provider.requests.as_json()
        self._write(_head(200, "application/json", (), len(body)) + body)
        self._finish(keep_alive)

    def _send(self, received: Received, answer: Answer, behaviour: Behaviour, keep_alive: bool) -> None:
        extra = _extra_headers(behaviour)
        if not answer.stream:
            body = answer.pieces[0]
            if behaviour.gzip:
                body, extra = gzip.compress(body), (*extra, ("content-encoding", "gzip"))
            head = _head(answer.status, answer.content_type, extra, len(body))
            if behaviour.reset == "headers":
                self._write(head)
                self._later(10, self.abort)
                return
            if behaviour.reset == "body":
                self._write(head + body[: len(body) // 2])
                self._later(10, self.abort)
                return
            self._write(head + body)
            self._finish(keep_alive and not behaviour.close)
            return
        self._write(_head(answer.status, answer.content_type, extra, None))
        if behaviour.reset == "headers":
            self._later(10, self.abort)
            return
        self._busy = True
        self._stream(received, answer.pieces, 0, behaviour, keep_alive)

    def _stream(
        self, received: Received, pieces: tuple[bytes, ...], start: int, behaviour: Behaviour, keep_alive: bool
    ) -> None:
        index = start
        paced = behaviour.chunk_delay_ms or (1 if behaviour.split or behaviour.usage == "split" else 0)
        if not paced and not behaviour.reset and behaviour.stall_after < 0 and behaviour.truncate_after < 0:
            received.chunks_sent = len(pieces)
            self._write(_chunked(pieces))
            self._finish(keep_alive and not behaviour.close)
            return
        out: list[bytes] = []
        while index < len(pieces):
            cut = behaviour.reset == "body" and index >= len(pieces) // 2
            if cut or index in (behaviour.stall_after, behaviour.truncate_after):
                self._write(b"".join(out))
                if cut:
                    self._later(10, self.abort)
                elif index == behaviour.truncate_after and self._transport is not None:
                    self._transport.close()
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
        self._finish(keep_alive and not behaviour.close)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and data:
            self._transport.write(data)

    def _finish(self, keep_alive: bool) -> None:
        self._busy, self._current = False, None
        if not keep_alive and self._transport is not None:
            self._transport.close()
        elif self._waiting:
            asyncio.get_running_loop().call_soon(self._next)


@lru_cache(maxsize=64)
def _chunked(pieces: tuple[bytes, ...]) -> bytes:
    """A whole body in HTTP/1.1's chunked coding, one chunk per piece."""
    return b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]) + b"0\r\n\r\n"


def _extra_headers(behaviour: Behaviour) -> tuple[tuple[str, str], ...]:
    extra: tuple[tuple[str, str], ...] = ()
    if behaviour.retry_after:
        extra += (("retry-after", str(behaviour.retry_after)),)
    if behaviour.ratelimit:
        extra += (
            ("x-ratelimit-limit-requests", "5000"),
            ("x-ratelimit-remaining-requests", "4999"),
            ("x-ratelimit-limit-tokens", "160000"),
            ("x-ratelimit-remaining-tokens", "159976"),
            ("x-request-id", "req_fake"),
        )
    return extra


def _head(status: int, content_type: str, extra: tuple[tuple[str, str], ...], length: int | None) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}", f"content-type: {content_type}"]
    lines.append("transfer-encoding: chunked" if length is None else f"content-length: {length}")
    lines += [f"{name}: {value}" for name, value in extra]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def run(*, host: str, port: int, name: str, behaviour: Behaviour, record: bool = True) -> None:
    """Serve until SIGTERM or SIGINT."""

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        provider = FakeProvider(name, behaviour, record=record)
        await provider.start(host, port)
        await stop.wait()
        await provider.stop()

    uvloop.run(serve())
