"""The load generator: raw HTTP/1.1 over keep-alive connections, so that it is not what is measured.

`closed` keeps every connection busy (throughput and CPU). `paced` sends at a fixed rate whatever comes back
(latency at a rate that no arm saturates; requests that found no free connection are counted as late).
Both are bounded by time.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Target:
    """Where to, and the exact bytes of one request."""

    host: str
    port: int
    request: bytes


@dataclass(slots=True)
class Load:
    """What came back. Latencies are in seconds."""

    seconds: float = 0.0
    done: int = 0
    failed: int = 0
    late: int = 0
    latencies: list[float] = field(default_factory=list)


class _Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, answered: Answered) -> None:
        self._answered = answered
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._missing = -1
        self._chunked = False
        self._status_ok = False
        self.sent_at = 0.0
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.busy:
            self._finish(ok=False)

    def send(self, request: bytes, due: float) -> None:
        self.busy, self.sent_at = True, due
        self._received, self._missing, self._chunked = b"", -1, False
        if self._transport is None:
            self._finish(ok=False)
        else:
            self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._missing < 0 and not self._chunked:
            self._received += data
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data = self._received[:end].lower(), self._received[end + 4 :]
            self._status_ok = head.startswith(b"http/1.1 200")
            at = head.find(b"content-length: ")
            if at >= 0:
                self._missing = int(head[at + 16 : (head.find(b"\r\n", at) + 1 or len(head) + 1) - 1])
            else:
                self._chunked = True
            self._received = b""
        if self._chunked:
            self._received = (self._received + data)[-5:]
            if self._received == b"0\r\n\r\n":
                self._finish(ok=self._status_ok)
        else:
            self._missing -= len(data)
            if self._missing <= 0:
                self._finish(ok=self._status_ok)

    def _finish(self, *, ok: bool) -> None:
        self.busy = False
        self._answered.answered(self, ok)


class Answered:
    """Told when a client's answer is complete."""

    def answered(self, client: _Client, ok: bool) -> None:
        raise NotImplementedError


class _Closed(Answered):
    def __init__(self, target: Target, deadline: float, load: Load) -> None:
        self._target = target
        self._deadline = deadline
        self._load = load
        self.idle = asyncio.Event()
        self.running = 0

    def begin(self, client: _Client) -> None:
        self.running += 1
        client.send(self._target.request, time.perf_counter())

    def answered(self, client: _Client, ok: bool) -> None:
        now = time.perf_counter()
        self._load.done += ok
        self._load.failed += not ok
        self._load.latencies.append(now - client.sent_at)
        if now < self._deadline and ok:
            client.send(self._target.request, now)
        else:
            self.running -= 1
            if self.running == 0:
                self.idle.set()


async def closed(target: Target, *, connections: int, seconds: float) -> Load:
    """Keep `connections` busy for `seconds`."""
    load = Load()
    started = time.perf_counter()
    state = _Closed(target, started + seconds, load)
    clients = await _connect(target, state, connections)
    started = time.perf_counter()
    for client in clients:
        state.begin(client)
    await asyncio.wait_for(state.idle.wait(), seconds + 30)
    load.seconds = time.perf_counter() - started
    for client in clients:
        client.close()
    return load


class _Paced(Answered):
    def __init__(self, load: Load) -> None:
        self._load = load
        self.free: deque[_Client] = deque()

    def answered(self, client: _Client, ok: bool) -> None:
        self._load.done += ok
        self._load.failed += not ok
        self._load.latencies.append(time.perf_counter() - client.sent_at)
        self.free.append(client)


async def paced(target: Target, *, rate: float, connections: int, seconds: float) -> Load:
    """Send `rate` requests per second for `seconds`. A request that finds no free connection counts as late."""
    load = Load()
    state = _Paced(load)
    clients = await _connect(target, state, connections)
    state.free.extend(clients)
    started = time.perf_counter()
    due = started
    while due < started + seconds:
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        if state.free:
            # A request is timed from when it leaves: the lag of our own timer is not the arm's.
            state.free.popleft().send(target.request, time.perf_counter())
        else:
            load.late += 1
        due += 1 / rate
    deadline = time.perf_counter() + 10
    while len(state.free) < len(clients) and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)
    load.seconds = time.perf_counter() - started
    for client in clients:
        client.close()
    return load


async def _connect(target: Target, state: Answered, connections: int) -> list[_Client]:
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: _Client(state), target.host, target.port)
        clients.append(client)
    return clients
