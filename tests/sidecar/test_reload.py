"""Watching one file's content."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sidecar.reload import Current, changes, fingerprint


def test_current_swaps() -> None:
    current = Current(1)
    taken = current.get()
    current.swap(2)
    assert (taken, current.get()) == (1, 2)


def test_fingerprint_of_nothing(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "none") == ""


async def _next_change(path: Path, action: object) -> bool:
    stop = asyncio.Event()
    watcher = changes(path, stop, fingerprint(path))
    waiting = asyncio.ensure_future(anext(watcher))
    await asyncio.sleep(0.3)
    action()  # type: ignore[operator]
    done, _ = await asyncio.wait({waiting}, timeout=1.5)
    stop.set()
    if not done:
        waiting.cancel()
        return False
    return waiting.exception() is None


async def test_a_rewrite_a_move_and_a_symlink_swap_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("1")
    assert await _next_change(path, lambda: path.write_text("2"))

    def move() -> None:
        (tmp_path / "new").write_text("3")
        (tmp_path / "new").replace(path)

    assert await _next_change(path, move)
    # A ConfigMap volume: c.yaml -> ..data/c.yaml, ..data -> a folder that is replaced.
    volume = tmp_path / "volume"
    for version in ("v1", "v2"):
        (volume / version).mkdir(parents=True)
        (volume / version / "c.yaml").write_text(version)
    (volume / "..data").symlink_to("v1")
    (volume / "c.yaml").symlink_to("..data/c.yaml")

    def swap() -> None:
        (volume / "..data_tmp").symlink_to("v2")
        (volume / "..data_tmp").replace(volume / "..data")

    assert await _next_change(volume / "c.yaml", swap)


async def test_what_has_changed_before_the_watch_stands_is_found(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("1")
    read = fingerprint(path)
    path.write_text("2")
    stop = asyncio.Event()
    async with asyncio.timeout(10):
        await anext(changes(path, stop, read))


async def test_the_same_content_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("1")
    assert not await _next_change(path, lambda: path.write_text("1"))
