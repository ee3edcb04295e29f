"""One reference that is swapped, and the watch that tells when to try."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Generic, TypeVar

from watchfiles import awatch

T = TypeVar("T")
_LOOK_MS = 2000


class Current(Generic[T]):
    """Holds the current value of an immutable snapshot. Readers take it once and keep what they took."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def get(self) -> T:
        """The snapshot of this moment."""
        return self._value

    def swap(self, value: T) -> None:
        """Make `value` the current one for everybody who asks from now on."""
        self._value = value


def fingerprint(path: Path) -> str:
    """A short hash of the file's content; empty when it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError:
        return ""


async def changes(path: Path, stop: asyncio.Event, seen: str) -> AsyncIterator[None]:
    """Yields whenever the content of the file has changed, until `stop` is set. `seen` is its fingerprint when read.

    The folder is watched, not the file, so that editors that replace it and Kubernetes' ConfigMap symlink
    swaps are seen; the content decides whether anything changed. It is looked at every few seconds besides: what
    changes before the watch stands, or where the system tells nothing of it, is found a little later.
    """
    folder = path.absolute().parent
    async for _ in awatch(
        folder, stop_event=stop, recursive=False, step=50, debounce=200, rust_timeout=_LOOK_MS, yield_on_timeout=True
    ):
        now = fingerprint(path)
        if now and now != seen:
            seen = now
            yield
