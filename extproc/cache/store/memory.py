"""The embedded store: answers of one process, never more than so many bytes.

What goes for want of room is chosen by S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction",
SOSP 2023). New keys pass through a small queue, a tenth of the room. Those that were asked for again there
move on to the main queue; the others go, and only their hash is remembered: a key that comes back soon goes to the
main queue at once. In the main queue each use (three at most) is one more turn. So a scan of keys that nobody asks
for again takes a tenth of the room, where with LRU it takes all.

Weakness: a key whose uses come further apart than the small queue and the ghosts reach is never found. A turn over
many used keys is cut short, for the sake of the event loop, and may then let a used one go.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from extproc.cache.store.base import ByKeys, ByTag, CacheStats, Selection
from extproc.cache.store.group import Calendar, Group

# Bytes, measured with tracemalloc (tests/extproc/cache_store/test_bound.py) and rounded up.
_ENTRY = 720  # an entry without its value: key, objects, places in a queue and in the calendar, tables that grow
_TAG = 72  # its place among those of a tag
_GROUP = 400  # a tag, whoever has it
_GHOST = 112

_MOST_USES = 3
_PROVEN = 1  # uses that take a key from the small queue to the main one; two were no better in any trace
_MOST_TURNS = 64  # entries that may get another turn before one goes anyway
_AT_ONCE = 16  # expired entries that one call takes away
_HASH = (1 << 60) - 1  # what fits into Python's second smallest integer


class _Entry:
    __slots__ = ("expires", "groups", "size", "uses", "value")

    def __init__(self, value: bytes, expires: float, size: int, groups: tuple[Group, ...]) -> None:
        self.value = value
        self.expires = expires
        self.size = size
        self.groups = groups  # that of the calendar, and one for each tag
        self.uses = 0


class MemoryStore:
    """At most `max_bytes` of values and of what it takes to keep them. `clock` is in seconds and never goes back.

    While a table grows it is there twice: for that moment it may be some percent more.

    What has expired is never given out; it is taken away by later puts, some with each. `get` and `put` never fail
    and never wait. What a `token` says is not asked: in one process there is one leader.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], float]) -> None:
        self._max = max_bytes
        self._max_small = max_bytes // 10
        self._clock = clock
        self._hits = self._misses = self._evictions = self._expirations = 0
        self._clear()

    def _clear(self) -> None:
        self._small: OrderedDict[bytes, _Entry] = OrderedDict()
        self._main: OrderedDict[bytes, _Entry] = OrderedDict()
        self._small_bytes = 0
        self._bytes = 0  # without the ghosts
        self._ghosts: set[int] = set()
        self._old_ghosts: set[int] = set()
        self._tags: dict[str, Group] = {}
        self._calendar = Calendar()

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    def get(self, key: bytes) -> bytes | None:
        """The value, unless it has ended."""
        entry = self._small.get(key)
        if entry is None:
            entry = self._main.get(key)
        if entry is None:
            self._misses += 1
            return None
        if entry.expires <= self._clock():
            self._misses += 1
            self._remove(key)
            self._expirations += 1
            return None
        if entry.uses < _MOST_USES:
            entry.uses += 1
        self._hits += 1
        return entry.value

    def put(
        self,
        key: bytes,
        value: bytes,
        ttl_seconds: float,
        tags: Sequence[str],
        token: int | None = None,
    ) -> bool:
        """Keep `value`; False when its time is over already, or when it alone is larger than the bound."""
        now = self._clock()
        if self._calendar.seconds and self._calendar.seconds[0] <= now:
            self._sweep(now)
        proven = key in self._main
        old = self._remove(key) if proven or key in self._small else None
        size = _ENTRY + len(value)
        if ttl_seconds <= 0 or size > self._max:
            return False
        expires = now + ttl_seconds
        groups = [self._calendar.at(expires, now)]
        for tag in tags if len(tags) < 2 else dict.fromkeys(tags):
            groups.append(self._tags.get(tag) or self._new_tag(tag))
            size += _TAG
        for group in groups:
            group.keys.add(key)
        entry = _Entry(value, expires, size, tuple(groups))
        if old is not None:
            entry.uses = old.uses
        ghost = hash(key) & _HASH
        if proven or ghost in self._ghosts or ghost in self._old_ghosts:
            self._ghosts.discard(ghost)
            self._old_ghosts.discard(ghost)
            self._main[key] = entry
        else:
            self._small[key] = entry
            self._small_bytes += size
        self._bytes += size
        if self._bytes + _GHOST * (len(self._ghosts) + len(self._old_ghosts)) <= self._max:
            return True
        self._make_room(now)
        return key in self._small or key in self._main

    async def purge(self, selection: Selection) -> int:
        """Forget values, and say how many were there."""
        now = self._clock()
        if isinstance(selection, ByKeys):
            keys = set(selection.keys)
        elif isinstance(selection, ByTag):
            group = self._tags.get(selection.tag)
            keys = set() if group is None else set(group.keys)
        else:
            living = sum(entry.expires > now for queue in (self._small, self._main) for entry in queue.values())
            self._clear()
            return living
        gone = [self._remove(key) for key in keys]
        if len(gone) > len(self):  # a dictionary gives back no room by itself
            self._small, self._main = OrderedDict(self._small), OrderedDict(self._main)
        return sum(entry is not None and entry.expires > now for entry in gone)

    def stats(self) -> CacheStats:
        """A picture of the moment. What has expired and was not yet taken away is still in it."""
        size = self._bytes + _GHOST * (len(self._ghosts) + len(self._old_ghosts))
        return CacheStats(len(self), size, self._hits, self._misses, self._evictions, self._expirations)

    async def ping(self) -> None:
        """Always there."""

    async def close(self) -> None:
        """Nothing to let go of."""

    # entries

    def _new_tag(self, tag: str) -> Group:
        group = self._tags[tag] = Group(tag)
        self._bytes += _group_size(tag)
        return group

    def _remove(self, key: bytes) -> _Entry | None:
        """Take the entry out, and out of every index."""
        entry = self._small.pop(key, None)
        if entry is not None:
            self._small_bytes -= entry.size
        else:
            entry = self._main.pop(key, None)
            if entry is None:
                return None
        self._forget(key, entry)
        return entry

    def _forget(self, key: bytes, entry: _Entry) -> None:
        """The entry is in no queue any more. A tag that nobody has any more is forgotten."""
        self._bytes -= entry.size
        for group in entry.groups:
            if not group.discard(key) and group.name.__class__ is str:
                del self._tags[group.name]
                self._bytes -= _group_size(group.name)

    def _sweep(self, now: float) -> None:
        """Take away some of what has expired."""
        for _ in range(_AT_ONCE):
            group = self._calendar.due(now)
            if group is None:
                return
            self._remove(group.pop())
            self._expirations += 1

    # room

    def _make_room(self, now: float) -> None:
        """Let go until it is within the bound: of entries, and of ghosts when there are no entries."""
        while self._bytes + _GHOST * (len(self._ghosts) + len(self._old_ghosts)) > self._max:
            if self._small and (self._small_bytes > self._max_small or not self._main):
                self._evict_small(now)
            elif self._main:
                self._evict_main(now)
            else:
                self._ghosts, self._old_ghosts = set(), set()

    def _evict_small(self, now: float) -> None:
        key, entry = self._small.popitem(last=False)
        self._small_bytes -= entry.size
        if entry.uses >= _PROVEN and entry.expires > now:
            entry.uses = 0
            self._main[key] = entry
            return
        self._gone(key, entry, now)
        if 2 * len(self._ghosts) > len(self._small) + len(self._main):
            self._ghosts, self._old_ghosts = set(), self._ghosts
        self._ghosts.add(hash(key) & _HASH)

    def _evict_main(self, now: float) -> None:
        for _ in range(_MOST_TURNS):
            key = next(iter(self._main))
            entry = self._main[key]
            if not entry.uses or entry.expires <= now:
                break
            entry.uses -= 1
            self._main.move_to_end(key)
        key, entry = self._main.popitem(last=False)
        self._gone(key, entry, now)

    def _gone(self, key: bytes, entry: _Entry, now: float) -> None:
        self._forget(key, entry)
        if entry.expires <= now:
            self._expirations += 1
        else:
            self._evictions += 1


def _group_size(tag: str) -> int:
    return _GROUP + 4 * len(tag)
