"""`python -m bench.redis_clients`: what one decision over a real Redis costs Python, by client.

Every arm runs the same script with the same two keys of one slot. Rounds are interleaved, the figures are medians.
CPU is this process' alone; the server has a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib
import importlib.util
import statistics
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import hiredis
import uvloop
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from bench.machine import machine
from ratelimit.storage import open_store
from ratelimit.storage.base import Action, Operation
from tests.redis_server import RedisServer

IN_FLIGHT = (1, 100)
_WIDTH = 110  # of the table; a narrower terminal wraps it
_SCRIPT = resources.files("ratelimit.scripts").joinpath("fixed_window.lua").read_bytes()
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()
_OPERATIONS = (
    Operation("{bench_key_team}_limit_requests_0", Action.RESERVE, 1, 10**12, 600),
    Operation("{bench_key_team}_limit_tokens_0", Action.RESERVE, 100, 10**14, 600),
)
_KEYS = tuple(one.key for one in _OPERATIONS)
_ARGUMENTS = tuple(part for o in _OPERATIONS for part in (o.action.value, o.hits, o.limit, o.ttl))

Decide: TypeAlias = Callable[[], Awaitable[Any]]
Arm: TypeAlias = Callable[[str], AbstractAsyncContextManager[Decide]]


class Figures(NamedTuple):
    """One run of one arm: CPU microseconds of this process per decision, decisions per second."""

    cpu_us: float
    per_second: float


@asynccontextmanager
async def redis_py(socket: str) -> AsyncIterator[Decide]:
    """One EVALSHA, one connection of the pool, one round trip."""
    async with Redis(unix_socket_path=socket, max_connections=128) as client:
        await client.script_load(_SCRIPT)
        yield lambda: client.evalsha(_SHA, 2, *_KEYS, *_ARGUMENTS)


@asynccontextmanager
async def redis_py_coalesced(socket: str) -> AsyncIterator[Decide]:
    """The decisions of one loop tick are one pipeline, one task."""
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[Any]] = []
    running: set[asyncio.Task[None]] = set()
    async with Redis(unix_socket_path=socket, max_connections=128) as client:
        await client.script_load(_SCRIPT)

        async def send() -> None:
            batch, waiting[:] = waiting[:], []
            pipeline = client.pipeline(transaction=False)
            for _ in batch:
                pipeline.evalsha(_SHA, 2, *_KEYS, *_ARGUMENTS)
            for future, reply in zip(batch, await pipeline.execute(), strict=True):
                future.set_result(reply)

        def flush() -> None:
            task = loop.create_task(send())
            running.add(task)
            task.add_done_callback(running.discard)

        def decide() -> Awaitable[Any]:
            if not waiting:
                loop.call_soon(flush)
            future = loop.create_future()
            waiting.append(future)
            return future

        yield decide


@asynccontextmanager
async def coredis(socket: str) -> AsyncIterator[Decide]:
    """Another client, which sends concurrent commands down one connection by itself."""
    client = importlib.import_module("coredis").Redis(unix_socket_path=socket)
    async with client:
        await client.script_load(_SCRIPT)
        yield lambda: cast("Awaitable[Any]", client.evalsha(_SHA, _KEYS, _ARGUMENTS))


class _Bare(asyncio.Protocol):
    """The least that works: no timeouts, no errors, no reconnects. What a client of our own is measured against."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._unsent: list[bytes] = []
        self._waiting: deque[asyncio.Future[Any]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._waiting.popleft().set_result(reply)

    def call(self, *command: Any) -> asyncio.Future[Any]:
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(hiredis.pack_command(command))
        future = self._loop.create_future()
        self._waiting.append(future)
        return future

    def _flush(self) -> None:
        self.transport.write(b"".join(self._unsent))
        self._unsent.clear()


@asynccontextmanager
async def bare(socket: str) -> AsyncIterator[Decide]:
    """One pipelined connection and nothing else."""
    transport, connection = await asyncio.get_running_loop().create_unix_connection(_Bare, socket)
    await connection.call("SCRIPT", "LOAD", _SCRIPT)
    yield lambda: connection.call("EVALSHA", _SHA, 2, *_KEYS, *_ARGUMENTS)
    transport.close()


@asynccontextmanager
async def product(socket: str) -> AsyncIterator[Decide]:
    """The store as it ships: operations in, counts out."""
    store = open_store(f"unix://{socket}")
    yield lambda: cast("Awaitable[Any]", store.apply(_OPERATIONS, 0))
    await store.close()


ARMS: dict[str, Arm] = {
    "redis-py, one call each": redis_py,
    "redis-py, one pipeline per tick": redis_py_coalesced,
    "coredis": coredis,
    "bare pipelined connection": bare,
    "the store (operations to counts)": product,
}


async def measure(arm: Arm, socket: str, in_flight: int, decisions: int) -> Figures:
    """Run so many decisions with so many in flight, after a tenth of them as warm-up."""

    async def some(decide: Decide, number: int) -> None:
        for _ in range(number):
            await decide()

    async with arm(socket) as decide:
        for number in (decisions // 10, decisions):
            each = max(1, number // in_flight)
            started, used = time.perf_counter(), time.process_time()
            await asyncio.gather(*(some(decide, each) for _ in range(in_flight)))
            used, seconds = time.process_time() - used, time.perf_counter() - started
    return Figures(used / (each * in_flight) * 1e6, each * in_flight / seconds)


def _middle(rounds: Sequence[Figures]) -> Figures:
    return Figures(statistics.median(one.cpu_us for one in rounds), statistics.median(one.per_second for one in rounds))


def main() -> int:
    """Run it. A few seconds a round."""
    parser = argparse.ArgumentParser(prog="python -m bench.redis_clients", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--decisions", type=int, default=10_000, help="of each run with 100 in flight; alone a third")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    arguments = parser.parse_args()
    console = Console()
    if console.width < _WIDTH:
        console = Console(width=_WIDTH)
    arms = dict(ARMS)
    missing = importlib.util.find_spec("coredis") is None
    if missing:
        del arms["coredis"]
    run = uvloop.run if arguments.loop == "uvloop" else asyncio.run
    results: dict[tuple[str, int], list[Figures]] = {(name, n): [] for name in arms for n in IN_FLIGHT}
    with tempfile.TemporaryDirectory(prefix="hg-bench-") as folder, RedisServer(Path(folder)) as server:
        for _ in range(arguments.rounds):
            for (name, in_flight), rounds in results.items():
                decisions = arguments.decisions if in_flight > 1 else arguments.decisions // 3
                rounds.append(run(measure(arms[name], str(server.socket), in_flight, decisions)))
    shown = Table(title=f"medians of {arguments.rounds} rounds, {arguments.loop}; {machine()}")
    shown.add_column("client")
    for number in IN_FLIGHT:
        shown.add_column(f"CPU us, {number} in flight", justify="right")
        shown.add_column("decisions/s", justify="right")
    for name in arms:
        middles = [_middle(results[name, number]) for number in IN_FLIGHT]
        shown.add_row(name, *(part for one in middles for part in (f"{one.cpu_us:.1f}", f"{one.per_second:,.0f}")))
    console.print(shown)
    if missing:
        console.print("coredis is not installed: not measured (pip install coredis)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
