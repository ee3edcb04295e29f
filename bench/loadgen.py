"""The load generator: raw HTTP/1.1 over keep-alive connections, so that it is not what is measured.

`closed` keeps every connection busy (throughput and CPU). `paced` sends at a fixed rate whatever comes back
(latency, and CPU at equal rates). Both are bounded by time, `closed` also by a count.

An answer is good when its status is 200, its body is complete and, for a stream, every event has arrived.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

_EVENT = b"data: "
_LAST_SECONDS = 30.0  # how long answers that are under way may still take


@dataclass(frozen=True, slots=True)
class Target:
    """Where to, and the exact bytes of the requests, taken in turn.

    `events` is how many server-sent events a good answer has (0: not a stream).
    """

    host: str
    port: int
    requests: tuple[bytes, ...]
    events: int = 0


@dataclass(slots=True)
class Load:
    """What came back.

    Latencies are in seconds from the moment when the request left, or, when every connection was busy at that
    moment (`late`), from when it should have left. `lag` is by how much our own timer was behind, in seconds.
    `cpu` is the generator's own, in seconds.
    """

    seconds: float = 0.0
    done: int = 0
    failed: int = 0
    late: int = 0
    cpu: float = 0.0
    latencies: array[float] = field(default_factory=lambda: array("d"))
    lag: array[float] = field(default_factory=lambda: array("d"))
    complaint: str = ""  # about the first answer that was not good


class _Client(asyncio.Protocol):
    """One connection, one request at a time."""

    __slots__ = (
        "_answered", "_events", "_expected", "_head", "_missing", "_status_ok", "_tail", "_transport", "busy", "since",
    )  # fmt: skip

    def __init__(self, answered: Answered, events: int) -> None:
        self._answered = answered
        self._expected = events
        self._transport: asyncio.Transport | None = None
        self._head = b""  # what has arrived of a head that is not complete
        self._missing = -1  # bytes; -1: in the head; -2: chunked
        self._tail = b""
        self._events = 0
        self._status_ok = False
        self.since = 0.0
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.busy:
            self._finish("the connection was closed")

    def send(self, request: bytes, since: float) -> None:
        self.busy, self.since = True, since
        self._missing = -1
        if self._transport is None:
            self._finish("the connection is closed")
        else:
            self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._missing == -1:
            if self._head:
                data, self._head = self._head + data, b""
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._head = data
                return
            self._status_ok = data.startswith(b"HTTP/1.1 200")
            at = data.find(b"content-length: ", 0, end)
            if at < 0:
                self._missing, self._tail, self._events = -2, b"", 0
                data = data[end + 4 :]
            else:
                self._missing = int(data[at + 16 : data.find(b"\r", at)]) + end + 4
        if self._missing >= 0:
            self._missing -= len(data)
            if self._missing <= 0:
                self._finish("" if self._status_ok and not self._expected else "not 200, or no stream")
            return
        seen = self._tail + data
        if self._expected:
            self._events += seen.count(_EVENT)
        self._tail = seen[-5:]  # shorter than an event's beginning, so none is counted twice
        if self._tail == b"0\r\n\r\n":
            self._finish(self._judge())

    def _judge(self) -> str:
        if not self._status_ok:
            return "not 200"
        if self._expected and self._events != self._expected:
            return f"{self._events} events instead of {self._expected}"
        return ""

    def _finish(self, complaint: str) -> None:
        self.busy = False
        self._answered.answered(self, complaint)


class Answered:
    """Told when a client's answer is complete; `complaint` is empty when it is good."""

    def answered(self, client: _Client, complaint: str) -> None:
        raise NotImplementedError


class _Closed(Answered):
    def __init__(self, requests: Sequence[bytes], deadline: float, count: int, load: Load) -> None:
        self._requests = requests
        self._deadline = deadline
        self._left = count
        self._load = load
        self._next = 0
        self.idle = asyncio.Event()
        self.running = 0

    def begin(self, clients: Sequence[_Client]) -> None:
        self.running = len(clients)
        for client in clients:
            self._send(client, time.perf_counter())

    def _send(self, client: _Client, now: float) -> None:
        self._left -= 1
        self._next = (self._next + 1) % len(self._requests)
        client.send(self._requests[self._next], now)

    def answered(self, client: _Client, complaint: str) -> None:
        now = time.perf_counter()
        self._load.latencies.append(now - client.since)
        if complaint:
            self._load.failed += 1
            self._load.complaint = self._load.complaint or complaint
        else:
            self._load.done += 1
        if now < self._deadline and self._left > 0 and not complaint:
            self._send(client, now)
        else:
            self.running -= 1
            if self.running == 0:
                self.idle.set()


async def closed(target: Target, *, connections: int, seconds: float, count: int = 1 << 60) -> Load:
    """Keep `connections` busy for `seconds` or `count` requests. A connection whose answer is not good stops."""
    load = Load()
    state = _Closed(target.requests, time.perf_counter() + seconds, count, load)
    clients = await _connect(target, state, connections)
    used, started = time.process_time(), time.perf_counter()
    state.begin(clients[:count])
    await asyncio.wait_for(state.idle.wait(), seconds + _LAST_SECONDS)
    load.seconds = time.perf_counter() - started
    load.cpu = time.process_time() - used
    for client in clients:
        client.close()
    return load


class _Paced(Answered):
    def __init__(self, requests: Sequence[bytes], load: Load) -> None:
        self._requests = requests
        self._load = load
        self._next = 0
        self._waiting: deque[float] = deque()
        self.free: deque[_Client] = deque()

    def leave(self, now: float) -> None:
        """One request is to leave now."""
        if self.free:
            self._send(self.free.popleft(), now)
        else:
            self._load.late += 1
            self._waiting.append(now)

    def _send(self, client: _Client, since: float) -> None:
        self._next = (self._next + 1) % len(self._requests)
        client.send(self._requests[self._next], since)

    def answered(self, client: _Client, complaint: str) -> None:
        self._load.latencies.append(time.perf_counter() - client.since)
        if complaint:
            self._load.failed += 1
            self._load.complaint = self._load.complaint or complaint
            return  # the connection is not used again
        self._load.done += 1
        if self._waiting:
            self._send(client, self._waiting.popleft())
        else:
            self.free.append(client)


async def paced(target: Target, *, rate: float, connections: int, seconds: float) -> Load:
    """Send `rate` requests per second, evenly, for `seconds`, and wait for their answers."""
    load = Load()
    state = _Paced(target.requests, load)
    clients = await _connect(target, state, connections)
    state.free.extend(clients)
    used, started = time.process_time(), time.perf_counter()
    total = int(rate * seconds)
    sent = 0
    while sent < total:
        now = time.perf_counter()
        due = started + sent / rate
        if now < due:
            await asyncio.sleep(due - now)
            continue
        load.lag.append(now - due)
        state.leave(now)
        sent += 1
    deadline = time.perf_counter() + _LAST_SECONDS
    while load.done + load.failed < total and time.perf_counter() < deadline and load.failed < len(clients):
        await asyncio.sleep(0.005)
    load.failed += total - load.done - load.failed
    load.seconds = time.perf_counter() - started
    load.cpu = time.process_time() - used
    for client in clients:
        client.close()
    return load


async def _connect(target: Target, state: Answered, connections: int) -> list[_Client]:
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: _Client(state, target.events), target.host, target.port)
        clients.append(client)
    return clients
