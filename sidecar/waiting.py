"""Waiting: for an event, but not for ever; for what becomes of a future, without a task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Mapped(Awaitable[T], Generic[T]):
    """What becomes of `future` when it is done: `then(future)`, which may raise.

    It may be awaited, like a coroutine that awaits the future. Whoever knows it can do without a task, which would cost
    more than most futures' results are worth: it has the future call back, and then calls `then`. Either is done once.
    """

    __slots__ = ("future", "then")

    def __init__(self, future: asyncio.Future[Any], then: Callable[[asyncio.Future[Any]], T]) -> None:
        self.future = future
        self.then = then

    def __await__(self) -> Generator[Any, None, T]:
        try:
            yield from self.future
        except asyncio.CancelledError:
            if not self.future.cancelled():
                raise  # it is who waits that is cancelled
        except Exception:
            if not self.future.done():
                raise  # thrown in
        return self.then(self.future)


_going_on: set[asyncio.Task[Any]] = set()  # nothing else holds them


def unstoppable(work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """The result of `work`, which goes on to its end when whoever waits for it gives up."""
    task = asyncio.get_running_loop().create_task(work)
    told: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def done(ended: asyncio.Task[T]) -> None:
        _going_on.discard(ended)
        if ended.cancelled():
            told.cancel()
        elif (error := ended.exception()) is not None:
            if not told.done():
                told.set_exception(error)
        elif not told.done():
            told.set_result(ended.result())

    _going_on.add(task)
    task.add_done_callback(done)
    return told


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait until `event` is set, at most so long. Returns whether it was; a cancellation is never swallowed."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
