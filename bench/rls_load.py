"""A load generator for the rate-limit service: gRPC over HTTP/2 in bytes that are made once, so that it is cheap.

`python -m bench.rls_load --address H:P --descriptors N --in-flight N --seconds S [--rate R]` prints one JSON object.
Calls are `ShouldRateLimit` with that many descriptors (`user=<number>`, out of `--keys` users). Without a rate it keeps
`--in-flight` calls open; with one it sends at that rate, whatever comes back, and measures from when a call was due.

A call is good when its status is 0 and its answer begins with an overall code; every answer is looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from array import array
from collections import deque
from typing import cast

import hpack
import uvloop
from hpack.struct import NeverIndexedHeaderTuple

from ratelimit.wire import RateLimitRequest

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS, _HEADERS, _DATA, _PING, _GOAWAY, _WINDOW_UPDATE = 4, 1, 0, 6, 7, 8
_END_HEADERS, _END_STREAM, _ACK = 4, 1, 1
_WINDOW = (1 << 31) - 1
_REFILL = 1 << 29


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _head() -> bytes:
    """The headers of every call, without a trace in the peer's table."""
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"),
        (":authority", "ratelimit"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    return bytes(hpack.Encoder().encode([NeverIndexedHeaderTuple(*one) for one in headers], huffman=False))


def messages(descriptors: int, keys: int) -> list[bytes]:
    """gRPC messages for as many users, `descriptors` of them in each."""
    made = []
    for number in range(keys):
        message = RateLimitRequest(domain="bench")
        for offset in range(descriptors):
            message.descriptors.add().entries.add(key="user", value=str(number * descriptors + offset))
        payload = message.SerializeToString()
        made.append(b"\0" + len(payload).to_bytes(4, "big") + payload)
    return made


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, messages: list[bytes]) -> None:
        self._head = _head()
        self._messages = messages
        self._next = 0
        self._stream = 1
        self._buffer = b""
        self._owed = 0
        self._decoder = hpack.Decoder()
        self._due: dict[int, float] = {}
        self._out: list[bytes] = []
        self.closed_loop = False
        self.done = 0
        self.failed = 0
        self.complaint = ""
        self.latencies = array("d")
        self.idle = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        update = _frame(_WINDOW_UPDATE, 0, 0, (_WINDOW - 65_535).to_bytes(4, "big"))
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, b"") + update)

    def call(self, due: float) -> None:
        """Send one call with the next bytes that go out."""
        stream, message = self._stream, self._messages[self._next]
        self._stream += 2
        self._next = (self._next + 1) % len(self._messages)
        self._due[stream] = due
        self._out.append(_frame(_HEADERS, _END_HEADERS, stream, self._head))
        self._out.append(_frame(_DATA, _END_STREAM, stream, message))

    def flush(self) -> None:
        """Write what is to be sent."""
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    @property
    def open(self) -> int:
        """Calls without an answer."""
        return len(self._due)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at, end = 0, len(buffer)
        now = time.perf_counter()
        while end - at >= 9:
            length = buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]
            if end - at < 9 + length:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big")
            at += 9 + length
            if kind == _DATA:
                self._owed += length
                if buffer[at - length + 5 : at - length + 6] != b"\x08":  # field 1: the overall code
                    self._fail(f"an answer without a code: {buffer[at - length : at][:40]!r}")
            elif kind == _HEADERS:
                headers = self._decoder.decode(buffer[at - length : at])
                if flags & _END_STREAM:
                    self._end(stream, {str(name): str(value) for name, value in headers}, now)
            elif kind == _SETTINGS and not flags & _ACK:
                self._out.append(_frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _PING and not flags & _ACK:
                self._out.append(_frame(_PING, _ACK, 0, buffer[at - length : at]))
            elif kind == _GOAWAY:
                self._fail("the peer goes away")
        self._buffer = buffer[at:]
        if self._owed > _REFILL:
            self._out.append(_frame(_WINDOW_UPDATE, 0, 0, self._owed.to_bytes(4, "big")))
            self._owed = 0
        self.flush()

    def _end(self, stream: int, trailers: dict[str, str], now: float) -> None:
        if trailers.get("grpc-status") != "0":
            self._fail(f"status {trailers.get('grpc-status')}: {trailers.get('grpc-message')}")
        self.latencies.append(now - self._due.pop(stream))
        self.done += 1
        if self.closed_loop:
            self.call(now)
        elif not self._due:
            self.idle.set()

    def _fail(self, what: str) -> None:
        self.failed += 1
        self.complaint = self.complaint or what


async def _connect(address: str, messages: list[bytes]) -> Client:
    loop = asyncio.get_running_loop()
    if address.startswith("unix:"):
        _, client = await loop.create_unix_connection(lambda: Client(messages), address.removeprefix("unix://"))
    else:
        host, _, port = address.rpartition(":")
        _, client = await loop.create_connection(lambda: Client(messages), host, int(port))
    return client


async def _drain(client: Client) -> None:
    client.closed_loop = False
    while client.open:
        client.idle.clear()
        await asyncio.wait_for(client.idle.wait(), 30)


async def closed(client: Client, in_flight: int, seconds: float) -> float:
    """Keep so many calls open; the seconds that it took."""
    client.closed_loop = True
    started = time.perf_counter()
    for _ in range(in_flight):
        client.call(started)
    client.flush()
    await asyncio.sleep(seconds)
    await _drain(client)
    return time.perf_counter() - started


async def paced(client: Client, rate: float, seconds: float) -> float:
    """Send at that rate."""
    started = time.perf_counter()
    sent, total = 0, int(rate * seconds)
    waiting: deque[float] = deque(started + number / rate for number in range(total))
    while waiting:
        now = time.perf_counter()
        while waiting and waiting[0] <= now:
            client.call(waiting.popleft())
            sent += 1
        client.flush()
        await asyncio.sleep(max(0.0, min(0.001, waiting[0] - time.perf_counter())) if waiting else 0)
    await _drain(client)
    return time.perf_counter() - started


async def _run(arguments: argparse.Namespace) -> dict[str, object]:
    client = await _connect(arguments.address, messages(arguments.descriptors, arguments.keys))
    await closed(client, arguments.in_flight, min(1.0, arguments.seconds / 2))  # warm-up
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, input)
    client.done, client.latencies = 0, array("d")
    used = time.process_time()
    if arguments.rate:
        took = await paced(client, arguments.rate, arguments.seconds)
    else:
        took = await closed(client, arguments.in_flight, arguments.seconds)
    latencies = sorted(client.latencies)
    return {
        "done": client.done,
        "failed": client.failed,
        "complaint": client.complaint,
        "seconds": took,
        "generator_us": (time.process_time() - used) / max(1, client.done) * 1e6,
        "p50_ms": latencies[len(latencies) // 2] * 1e3,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
    }


def main() -> int:
    """Run it: says `ready` when warm, goes on at a line of input, prints the result."""
    parser = argparse.ArgumentParser(prog="python -m bench.rls_load", description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--descriptors", type=int, default=1)
    parser.add_argument("--keys", type=int, default=1_000)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=0.0)
    print(json.dumps(uvloop.run(_run(parser.parse_args()))), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
