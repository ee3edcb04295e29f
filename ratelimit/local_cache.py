"""Keys that are over their limit: until their window ends the store need not be asked again."""

from __future__ import annotations

_ENTRY_BYTES = 150  # what an entry costs besides its key: dict, string header, expiry


class LocalCache:
    """At most `size` bytes, near enough; the oldest entries go first. Holds keys of fixed windows alone.

    Weakness: hits that another process gives back (a refund) are not seen until the window ends.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._bytes = 0
        self._expiries: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._expiries)

    def over(self, key: str, now: int) -> bool:
        """Whether the key is known to be over its limit at `now` (unix seconds)."""
        expiry = self._expiries.get(key)
        return expiry is not None and expiry > now

    def put(self, key: str, expiry: int) -> None:
        """The key is over its limit until `expiry`."""
        if key not in self._expiries:
            self._bytes += len(key) + _ENTRY_BYTES
        self._expiries[key] = expiry
        while self._bytes > self._size and self._expiries:
            oldest = next(iter(self._expiries))
            self.discard(oldest)

    def discard(self, key: str) -> None:
        """Nothing is known of the key any more."""
        if self._expiries.pop(key, None) is not None:
            self._bytes -= len(key) + _ENTRY_BYTES
