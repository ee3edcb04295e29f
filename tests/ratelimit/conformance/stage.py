"""Where cases run: stores and real gRPC servers, started once, in a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import re
import tempfile
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import ResponseError

from ratelimit.description import describe
from ratelimit.limiter import Limiter
from ratelimit.messages import Payload
from ratelimit.presenter import presenter
from ratelimit.rules import Limit, RuleSet
from ratelimit.server import rate_limit_service
from ratelimit.settings import build
from ratelimit.stats import Stats
from ratelimit.storage import MemoryStore, Operation, Store, open_store
from ratelimit.storage.base import MAX_COUNT, Action, Count
from sidecar.errors import ConfigError, StoreError
from sidecar.reload import Current
from sidecar.rpc import CallContext, Reply, Service, UnaryMethod
from sidecar.server import Engine, GrpcServer
from tests.ratelimit.conformance.suite import Answer, Case, Client, Step, differences, files, request

_PATIENT = "socket_timeout=5&socket_connect_timeout=5"  # a busy machine may be slow
_COUNTED = re.compile(r"ratelimit_service_rate_limit_(\w+)(?:\{.*\})? (\d+)")
_WINDOW = re.compile(r"(.*)_(\d+)")
_numbers = itertools.count()
T = TypeVar("T")


class Seen:
    """The limiter's observer: the service's own counting, apart for every limit's key."""

    def __init__(self, near_ratio: float) -> None:
        self._near_ratio = near_ratio
        self._stats: dict[str, Stats] = {}
        self.unknown: dict[str, int] = {}
        self.overruled_calls = 0

    def _of(self, limit: Limit) -> Stats:
        return self._stats.setdefault(limit.stat, Stats(self._near_ratio))

    def decided(self, limit: Limit, hits: int, count: int, over: bool, local: bool) -> None:
        self._of(limit).decided(limit, hits, count, over, local)

    def degraded(self, limit: Limit) -> None:
        self._of(limit).degraded(limit)

    def domain_not_found(self, domain: str) -> None:
        self.unknown[domain] = self.unknown.get(domain, 0) + 1

    def overruled(self) -> None:
        self.overruled_calls += 1

    def store_seconds(self, seconds: float) -> None:
        """Nothing."""

    def store_failed(self, error: StoreError) -> None:
        """Nothing."""

    def lines(self) -> str:
        """What the metrics show of all keys."""
        return "".join(line for stats in self._stats.values() for line in stats.lines())

    def counted(self) -> dict[str, dict[str, int]]:
        """By key, what is not 0."""
        found = {}
        for stat, stats in self._stats.items():
            lines = _COUNTED.findall("".join(stats.lines()))
            found[stat] = {name: int(number) for name, number in lines if name != "domain_not_found"}
        return {stat: counts for stat, counts in found.items() if counts}


class Watched:
    """A case's store: counts what it is asked, and fails when told to, as its like does (at once, or when awaited)."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.asked = 0
        self.down = False

    def apply(self, operations: Sequence[Operation], now: float) -> list[Count] | Awaitable[Sequence[Count]]:
        self.asked += 1
        if not self.down:
            return self.inner.apply(operations, now)
        if isinstance(self.inner, MemoryStore):
            raise StoreError("down", transient=True)
        return self._fail()

    @staticmethod
    async def _fail() -> Sequence[Count]:
        raise StoreError("down", transient=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@dataclass(frozen=True)
class Shelf:
    """A store, one for limits per second, and Redis clients to look at each with (none: they are embedded)."""

    store: Store | None
    per_second: Store | None
    nodes: Callable[[], list[Redis]] | None
    per_second_nodes: Callable[[], list[Redis]] | None


def counters(nodes: Sequence[Redis], prefix: str) -> dict[str, tuple[str, int]]:
    """Value and time to live of everything that begins with `prefix`, whose names are shown without it."""
    found = {}
    for node in nodes:
        keys: list[bytes] = node.keys(f"{prefix}*")  # type: ignore[assignment] # servers of our own, with a few keys
        for key in keys:
            raw = node.get(key) if node.type(key) == b"string" else b"any"
            assert isinstance(raw, bytes)
            found[key.decode().removeprefix(prefix)] = (raw.decode(), int(node.ttl(key)))
    return found


class Seat:
    """One server over one store: cases take their turn on it."""

    def __init__(self, stage: Stage, shelf: Shelf, engine: Engine) -> None:
        self.shelf = shelf
        self.stage = stage
        self._engine = engine
        self._handle: Callable[[Any, CallContext], Reply | Awaitable[Reply]] | None = None

    async def start(self) -> Seat:
        def handle(message: Any, context: CallContext) -> Reply | Awaitable[Reply]:
            assert self._handle is not None
            return self._handle(message, context)

        service = Service(
            "envoy.service.ratelimit.v3.RateLimitService", (UnaryMethod("ShouldRateLimit", Payload, handle),)
        )
        self.server = GrpcServer([service], listen="127.0.0.1:0", engine=self._engine)
        await self.server.start()
        self.client = Client(self.server.address)
        return self

    def ask(self, service: Service, message: Any) -> Answer:
        """Have `service` answer one call."""
        method = service.methods[0]
        assert isinstance(method, UnaryMethod)
        self._handle = method.handle
        return self.client.ask(message)


class Stage:
    """A context manager around the loop, the stores and the servers. `stop` what else was opened, first."""

    def __enter__(self) -> Stage:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="conformance", daemon=True)
        self._thread.start()
        self._shelves: dict[str, Shelf] = {}
        self._seats: dict[tuple[str, Engine], Seat] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="hg-conformance-")
        self.folder = Path(self._folder.name)
        return self

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it in the loop's thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def open(self, url: str) -> Store:
        """A Redis store of the loop."""

        async def opened() -> Store:
            return open_store(f"{url}{'&' if '?' in url else '?'}{_PATIENT}")

        return self.run(opened())

    def seat(self, name: str, shelf: Callable[[], Shelf], engine: Engine) -> Seat:
        """The seat of that name and engine, made when it is first asked for."""
        if name not in self._shelves:
            self._shelves[name] = shelf()
        if (name, engine) not in self._seats:
            self._seats[name, engine] = self.run(Seat(self, self._shelves[name], engine).start())
        return self._seats[name, engine]

    def __exit__(self, *_: object) -> None:
        for seat in self._seats.values():
            seat.client.close()
            self.run(seat.server.stop(0))
        for shelf in self._shelves.values():
            for store in (shelf.store, shelf.per_second):
                if store is not None:
                    self.run(store.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._folder.cleanup()


class Performance:
    """One case on one seat. Its counters begin with a prefix of its own, so that cases never meet."""

    def __init__(
        self, case: Case, seat: Seat, clock: Callable[[], float] | None = None, prefix: str | None = None
    ) -> None:
        self._case = case
        self._seat = seat
        self._prefix = (f"{next(_numbers)}~" if seat.shelf.store is not None else "") if prefix is None else prefix
        self._now = case.at
        self._clock = clock or (lambda: self._now)
        self._options = replace(case.options, key_prefix=self._prefix + case.options.key_prefix)
        self._rules: Current[RuleSet | None] = Current(build(case.config, merge=case.merge) if case.config else None)
        self.seen = Seen(case.options.near_ratio)
        self._main = seat.shelf.store or MemoryStore()
        self._per_second = (seat.shelf.per_second or MemoryStore()) if case.split else None
        self._store = Watched(self._joined())
        self._services: dict[str, Service] = {}

    def _joined(self) -> Store:
        if self._per_second is None:
            return self._main
        from ratelimit.storage.split import SplitStore

        return SplitStore(self._main, self._per_second)

    def _service(self, process: str) -> Service:
        """That of one process: a limiter of its own over the same store."""
        if process not in self._services:
            limiter = Limiter(self._store, self._clock, self.seen, options=self._options, dice=lambda: self._case.dice)
            self._services[process] = rate_limit_service(
                limiter,
                self._rules.get,
                presenter(self._options),
                describe=describe if self._options.metadata else None,
            )
        return self._services[process]

    def ask(self, step: Step) -> Answer:
        """The step's call, so many times: the last answer."""
        service = self._service(step.by)
        message = request(self._case, step)
        for _ in range(step.times - 1):
            self._seat.ask(service, message)
        return self._seat.ask(service, message)

    def play(self) -> None:
        """Every step. Raises `AssertionError` with all that was seen otherwise."""
        for number, step in enumerate(self._case.steps, 1):
            found = self._step(step)
            assert not found, f"step {number} of '{self._case.name}' ({self._case.why}): {found}"

    def _step(self, step: Step) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        if step.at is not None:
            self._now = step.at
        if step.store:
            self._store.down = step.store == "down"
        if step.given:
            self._give(step.given)
        if step.reload:
            seen["refused"] = self._reload(step)
        if step.ask is not None:
            asked = self._store.asked
            given = self.ask(step)
            assert not given.body
            seen |= {word: getattr(given, word) for word in ("gives", "each", "fails", "headers", "metadata")}
            if step.reserved is not None:
                seen["reserved"] = given.reserved
            if step.asks is not None:
                seen["asks"] = self._store.asked - asked
        if step.stored is not None:
            seen["stored"] = self._counters(self._main, self._seat.shelf.nodes, step.stored)
        if step.per_second is not None:
            assert self._per_second is not None
            seen["per_second"] = self._counters(self._per_second, self._seat.shelf.per_second_nodes, step.per_second)
        if step.stats is not None:
            seen["stats"] = self.seen.counted()
        if step.unknown is not None:
            seen["unknown"] = self.seen.unknown
        if step.overruled is not None:
            seen["overruled"] = self.seen.overruled_calls
        return differences(step, seen) | self._lives(step)

    def _reload(self, step: Step) -> str:
        try:
            self._rules.swap(build(files(step.reload), merge=self._case.merge))
        except ConfigError as error:
            return str(error)
        return ""

    def _give(self, given: Mapping[str, int]) -> None:
        nodes = self._seat.shelf.nodes
        if nodes is None:
            self._main.apply(
                [Operation(self._prefix + key, Action.ADD, n, 0, 3_600) for key, n in given.items()], self._now
            )
            return
        for key, value in given.items():
            for node in nodes():
                with contextlib.suppress(ResponseError):  # another node of the cluster holds it
                    node.set(self._prefix + key, value, ex=3_600)

    def _counters(
        self, store: Store, nodes: Callable[[], list[Redis]] | None, said: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Every counter of the case that is not 0."""
        if nodes is not None:
            found = {key: value for key, (value, _) in counters(nodes(), self._prefix).items()}
            return {key: int(value) if value.isdigit() else value for key, value in found.items() if value != "0"}
        assert isinstance(store, MemoryStore)
        alive = {key: self._value(store, key) for key in store._counters} | dict.fromkeys(store._logs, "any")
        # What belongs to a window that is over may be gone: nothing reads it any more.
        gone = {key: value for key, value in said.items() if any(_older(key, other) for other in said)}
        return gone | {key: value for key, value in alive.items() if value}

    def _value(self, store: MemoryStore, key: str) -> int:
        look = Operation(key, Action.ADD, 0, MAX_COUNT, 1)
        counts = store.apply([look], self._now)
        assert not inspect.isawaitable(counts)
        return counts[0].value

    def _lives(self, step: Step) -> dict[str, Any]:
        nodes = self._seat.shelf.nodes
        if not step.lives or nodes is None:
            return {}
        found = counters(nodes(), self._prefix)
        wrong = {}
        for key, (least, most) in step.lives.items():
            lives = found[key][1] if key in found else -2
            # Redis' own clock has gone on for a moment since.
            if not least - 2 <= lives <= most:
                wrong[key] = {"said": (least, most), "seen": lives}
        return {"lives": wrong} if wrong else {}


def _older(key: str, other: str) -> bool:
    """Whether both are one counter's windows, and the first began earlier."""
    one, two = _WINDOW.fullmatch(key), _WINDOW.fullmatch(other)
    return bool(one and two and one.group(1) == two.group(1) and int(one.group(2)) < int(two.group(2)))
