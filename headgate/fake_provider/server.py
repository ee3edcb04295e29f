"""The fake provider as a server: who answers what, from a port of its own."""

from __future__ import annotations

import asyncio
import signal
import ssl
from types import TracebackType

import uvloop

from headgate.fake_provider import asked, audio, images, moderation, replies
from headgate.fake_provider.answer import Answer, encode, error
from headgate.fake_provider.asked import Asked, BadRequestError
from headgate.fake_provider.behaviour import Behaviour
from headgate.fake_provider.connection import Connection
from headgate.fake_provider.realtime import is_handshake
from headgate.fake_provider.recorder import Received, Recorder
from headgate.fake_provider.sequence import Sequence
from headgate.fake_provider.stored import Stored

_CACHE_SIZE = 256
_CACHED_BODY = 65_536
_ECHOED = 65_536
_CONTROLLED = ("/__fake/", "/health")


class FakeProvider:
    """A fake provider on a port of its own. An async context manager.

    `requests` holds what it was asked, `checks` the health checks.
    """

    def __init__(
        self,
        name: str = "fake",
        defaults: Behaviour | None = None,
        *,
        record: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        self.requests = Recorder(record)
        self.checks = Recorder(record)
        self.port = 0
        self.connections: set[Connection] = set()
        self._defaults = defaults or Behaviour()
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._sequence = Sequence()
        self._stored = Stored()
        self._cache: dict[tuple[str, bytes, str], tuple[Answer, Behaviour]] = {}

    @property
    def base_url(self) -> str:
        """What a client takes as its base URL."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"

    @property
    def defaults(self) -> Behaviour:
        """What every request gets; may be replaced at any time, and what is counted begins again."""
        return self._defaults

    @defaults.setter
    def defaults(self, behaviour: Behaviour) -> None:
        self._defaults = behaviour
        self._sequence.clear()
        self._cache.clear()

    def forget(self) -> None:
        """Forget what was received, counted and stored."""
        self.requests.clear()
        self.checks.clear()
        self._sequence.clear()
        self._stored.clear()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Bind and serve."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), host, port, ssl=self._tls, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut everything."""
        if self._server is not None:
            self._server.close()
            for connection in tuple(self.connections):
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

    def control(self, received: Received) -> Answer | None:
        """The answer to what is for the tool itself, and to health checks; None for everything else."""
        if not received.path.startswith(_CONTROLLED) and received.path.partition("?")[0] != "/":
            return None
        path, method = received.path.partition("?")[0], received.method
        if path in ("/", "/health") and method in ("GET", "HEAD"):
            self.checks.add(received)
            status = self._defaults.health if path == "/health" else 200
            return Answer(status, "application/json", (encode({"status": "ok" if status < 400 else "failing"}),))
        if path == "/__fake/requests":
            if method == "DELETE":
                self.forget()
            return Answer(200, "application/json", (self.requests.as_json(),))
        if path == "/__fake/behaviour":
            if method == "PUT":
                try:
                    self.defaults = Behaviour.parse(received.body.decode("utf-8", "replace"))
                except ValueError as problem:
                    return error(400, str(problem), "unknown_behaviour")
            return Answer(200, "application/json", (encode({"behaviour": self._defaults.describe()}),))
        return None

    def decide(self, received: Received) -> tuple[Answer, Behaviour]:
        """The answer to a request, and how it is to be sent."""
        body = received.body
        if self.requests.on or received.method != "POST" or not body.startswith(b"{") or len(body) > _CACHED_BODY:
            answer, behaviour, _ = self._decide(received)
            return answer, behaviour
        key = (received.path, body, received.header("x-fake") or "")
        if key in self._cache:
            return self._cache[key]
        answer, behaviour, same = self._decide(received)
        if same and len(self._cache) < _CACHE_SIZE:
            self._cache[key] = (answer, behaviour)
        return answer, behaviour

    def _decide(self, received: Received) -> tuple[Answer, Behaviour, bool]:
        """The same, and whether the next such request gets the same."""
        placed = asked.place(received)
        problem: BadRequestError | None = None
        try:
            placed = asked.read(placed, received)
        except BadRequestError as bad:
            problem = bad
        named = placed.model.removeprefix("fake:") if placed.model.startswith("fake:") else ""
        layers = (received.header("x-fake") or "", named)
        try:
            behaviour, same = self._sequence.lay(self._defaults, layers, received.header("x-fake-id") or "")
        except ValueError as unknown:
            return error(400, str(unknown), "unknown_behaviour"), Behaviour(), True
        if problem is not None:
            return error(400, str(problem)), behaviour, same
        if behaviour.status >= 400:
            told = f"The fake provider was told to answer {behaviour.status}."
            return error(behaviour.status, told, "fake"), behaviour, same
        try:
            return self._answer(placed, received, behaviour), behaviour, same and not _keeps(placed)
        except BadRequestError as bad:
            return error(400, str(bad)), behaviour, same

    def _answer(self, placed: Asked, received: Received, behaviour: Behaviour) -> Answer:
        kind = placed.operation.partition("/")[0]
        if not kind:
            return _echo(received, behaviour) if behaviour.echo else _unknown(placed)
        if _keeps(placed):
            return self._stored.answer(placed, behaviour)
        if kind == "models":
            return replies.models()
        if kind == "images":
            return images.answer(placed, behaviour)
        if kind == "moderations":
            return moderation.answer(placed, behaviour)
        if kind == "audio":
            return (audio.speech if placed.operation == "audio/speech" else audio.transcript)(placed, behaviour)
        if kind == "realtime":
            if not is_handshake(received):
                return error(426, "A realtime session begins with a WebSocket handshake.")
            return Answer(101, "", ())
        return replies.answer(placed, behaviour)


def _keeps(placed: Asked) -> bool:
    return placed.operation.startswith(("files", "batches"))


def _unknown(placed: Asked) -> Answer:
    return error(404, f"The fake provider does not know {placed.path}")


def _echo(received: Received, behaviour: Behaviour) -> Answer:
    body = received.body[:_ECHOED].decode("utf-8", "replace")
    value = {"object": "echo", "method": received.method, "path": received.path, "headers": received.headers,
             "body": body, "bytes": len(received.body)}  # fmt: skip
    return Answer(200, "application/json", (encode(value),))


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
