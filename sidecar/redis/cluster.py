"""A Redis Cluster: one link per master, requests sent to the node of their key's slot.

The map of slots is not waited for. Until it is there requests go to a node that the URL names, whose MOVED says
where they belong; every MOVED, and every node that is lost, has the map read again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Sequence

from hiredis import ReplyError

from sidecar.errors import StoreError
from sidecar.redis.backoff import Backoff
from sidecar.redis.errors import code, store_error
from sidecar.redis.link import MAX_IN_FLIGHT, Link, LinkState, Resolve
from sidecar.redis.request import Request, pack
from sidecar.redis.slots import SLOTS, key_slot
from sidecar.redis.transport import Session, ask
from sidecar.redis.url import Address

_ASKING = pack("ASKING")


class _Asking:
    """Lets the next request into a slot that is being moved. Its reply says nothing."""

    packed, key, redirected = _ASKING, "", False

    def answer(self, reply: object) -> None:
        """Nothing."""

    def fail(self, error: StoreError) -> None:
        """Nothing: the request that follows fails too."""


class Cluster:
    """A redirection is followed once; a second one fails the request as transient.

    At most `max_in_flight` requests are unanswered per node.
    """

    clustered = True

    def __init__(self, seeds: Sequence[Address], session: Session, *, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        self._seeds = tuple(seeds)
        self._session = session
        self._max = max_in_flight
        self._links: dict[Address, Link] = {}
        turn = itertools.cycle(self._seeds)

        async def seed() -> Address:
            return next(turn)

        self._seed = self._link(seed)
        self._slots: list[Link] = [self._seed] * SLOTS
        self._seed_gone = False
        self._refresh: asyncio.Task[None] | None = None
        self._stale = False  # something happened since the map was last asked for
        self._retired: set[Link] = set()  # without slots, until closed
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    def send(self, request: Request) -> None:
        """Send `request` to the node of its key. Raises `StoreError` when it is refused: not sent."""
        request.redirected = False
        self._slots[key_slot(request.key)].send(request)

    def add_prelude(self, *command: str | bytes) -> None:
        """Send `command` on every new connection, whatever Redis says to it."""
        self._session = dataclasses.replace(self._session, prelude=(*self._session.prelude, command))
        for link in (self._seed, *self._links.values()):
            link.add_prelude(*command)

    async def ping(self) -> None:
        """Raise `StoreError` when a master that holds slots does not answer."""
        for outcome in await asyncio.gather(*(link.ping() for link in self._used()), return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def masters(self) -> Sequence[Link]:
        """Every master that holds slots. Raises `StoreError` when no node tells who they are."""
        if not await self._read_from_any():
            raise StoreError("Redis: no node tells the cluster's map", transient=True)
        return self._used()

    async def close(self) -> None:
        """Fail what is in flight, and let go of every connection."""
        self._closed = True
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.wait([self._refresh])
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await asyncio.gather(*(link.close() for link in {self._seed, *self._links.values(), *self._retired}))

    @property
    def nodes(self) -> tuple[LinkState, ...]:
        """A picture of the moment, by master; while the map is not known, of the node that is asked first."""
        return tuple(link.state for link in self._used())

    def _used(self) -> list[Link]:
        return list(dict.fromkeys(self._slots))

    def _link(self, resolve: Resolve) -> Link:
        return Link(
            resolve,
            self._session,
            max_in_flight=self._max,
            on_redirect=self._redirect,
            on_down=self._look_again,
        )

    # redirections

    def _redirect(self, link: Link, request: Request, reply: ReplyError) -> None:
        """MOVED or ASK: `<word> <slot> <host>:<port>`."""
        if request.redirected:
            self._look_again()
            request.fail(store_error(reply))
            return
        try:
            slot, address = _destination(reply, link)
        except ValueError:
            request.fail(StoreError("Redis: a redirection that cannot be read", transient=False))
            return
        there = self._node(address)
        request.redirected = True
        if code(reply) == "MOVED":
            self._slots[slot] = there
            self._look_again()
        try:
            if code(reply) == "ASK":
                there.send(_Asking())
            there.send(request)
        except StoreError as error:
            request.fail(error)

    def _node(self, address: Address) -> Link:
        link = self._links.get(address)
        if link is None:

            async def resolve() -> Address:
                return address

            link = self._links[address] = self._link(resolve)
        return link

    # the map

    def _look_again(self) -> None:
        """Read the map of slots again, soon. One reading at a time."""
        self._stale = True
        if self._refresh is None and not self._closed:
            self._refresh = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        backoff = Backoff()
        try:
            while self._stale:
                self._stale = False
                await asyncio.sleep(backoff.delay())
                self._stale = not await self._read_from_any() or self._stale
        finally:
            self._refresh = None

    async def _read_from_any(self) -> bool:
        """Whether a node told its map. Nodes that are connected are asked first."""
        session = dataclasses.replace(self._session, prelude=())
        near_first = sorted(self._links, key=lambda address: not self._links[address].state.connected)
        for address in dict.fromkeys((*near_first, *self._seeds)):
            try:
                self._take(await ask(address, session, "CLUSTER", "SLOTS"), address)
            except StoreError:
                continue
            return True
        return False

    def _take(self, reply: object, asked: Address) -> None:
        """Use the map that `asked` told, and let go of nodes without slots. Raises `StoreError` for no map."""
        slots = list(self._slots)
        for first, last, address in _ranges(reply, asked):
            slots[first : last + 1] = [self._node(address)] * (last - first + 1)
        self._slots = slots
        used = set(slots)
        for address, link in list(self._links.items()):
            if link not in used:
                del self._links[address]
                self._let_go(link)
        if self._seed not in used and not self._seed_gone:
            self._seed_gone = True
            self._let_go(self._seed)

    def _let_go(self, link: Link) -> None:
        """Close `link` when all that is in flight has been answered or has failed."""

        async def close() -> None:
            await asyncio.sleep(2 * self._session.timeout)
            await link.close()
            self._retired.discard(link)

        self._retired.add(link)
        task = asyncio.get_running_loop().create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _destination(reply: ReplyError, link: Link) -> tuple[int, Address]:
    """Slot and node of `MOVED 3999 10.0.0.1:6381`; without a host it is the host that replied."""
    _, slot, place = str(reply).split(" ")
    host, _, port = place.rpartition(":")
    if not 0 <= int(slot) < SLOTS:
        raise ValueError(slot)
    return int(slot), Address(host or link.host, int(port))


def _ranges(reply: object, asked: Address) -> list[tuple[int, int, Address]]:
    """First slot, last slot and master of every range in the reply to CLUSTER SLOTS."""
    try:
        ranges = []
        for first, last, (host, port, *_), *_ in reply:  # type: ignore[attr-defined]
            known = host.decode() if host and host != b"?" else asked.host
            if not 0 <= first <= last < SLOTS:
                raise ValueError(first)
            ranges.append((first, last, Address(known, int(port))))
    except (TypeError, ValueError, AttributeError):
        raise StoreError("Redis: a map of slots that cannot be read", transient=True) from None
    if not ranges:
        raise StoreError("Redis: the cluster has no slots", transient=True)
    return ranges
