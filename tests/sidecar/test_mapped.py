"""What becomes of a future: awaited, or by a call of the native engine without a task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from sidecar.errors import RpcError, StatusCode
from sidecar.native import wire
from sidecar.rpc import CallContext, UnaryMethod
from sidecar.waiting import Mapped
from tests.sidecar.native.peer import Peer
from tests.sidecar.native.test_plain_calls import UNARY, echoed, status, warm


class Waiting:
    """A future, and what becomes of it."""

    def __init__(self) -> None:
        self.future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.told = 0

    def then(self, done: asyncio.Future[str]) -> StringValue:
        self.told += 1
        try:
            return StringValue(value=done.result().upper())
        except ValueError as error:
            raise RpcError(StatusCode.ABORTED, "mapped") from error

    def mapped(self) -> Mapped[StringValue]:
        return Mapped(self.future, self.then)


async def test_awaited() -> None:
    one = Waiting()
    task = asyncio.ensure_future(one.mapped())
    await asyncio.sleep(0)
    one.future.set_result("late")
    assert (await task).value == "LATE"
    assert (await one.mapped()).value == "LATE"


async def test_a_failure_is_for_then() -> None:
    one = Waiting()
    task = asyncio.ensure_future(one.mapped())
    await asyncio.sleep(0)
    one.future.set_exception(ValueError())
    with pytest.raises(RpcError, match="mapped"):
        await task


async def test_who_awaits_is_cancelled() -> None:
    one = Waiting()
    task = asyncio.ensure_future(one.mapped())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert one.future.cancelled()
    assert one.told == 1


async def test_who_awaits_is_cancelled_when_the_future_is_done_already() -> None:
    one = Waiting()
    task = asyncio.ensure_future(one.mapped())
    await asyncio.sleep(0)
    one.future.set_result("late")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert one.told == 0


def served(**extra: str) -> tuple[Peer, list[Waiting]]:
    """A peer whose unary calls wait for a future each."""
    waiting: list[Waiting] = []

    def unary(_request: StringValue, _context: CallContext) -> Awaitable[StringValue]:
        waiting.append(Waiting())
        return waiting[-1].mapped()

    peer = warm(None, UNARY, **extra)
    peer.connection.blocks._methods = {UNARY: UnaryMethod("Unary", StringValue, unary)}
    peer.connection.blocks.known.clear()
    return peer, waiting


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_call_goes_on_without_a_task() -> None:
    peer, waiting = served()
    peer.send(b"".join(peer.headers(n) + peer.message(n, "x", end=True) for n in (5, 7)))
    assert len(asyncio.all_tasks()) == 1
    waiting[1].future.set_result("second")
    waiting[0].future.set_result("first")
    await turn()
    assert echoed(peer.frames()) == ["SECOND", "FIRST"]
    assert not peer.connection.calls


async def test_a_call_whose_future_fails_or_is_cancelled() -> None:
    peer, waiting = served()
    for stream, want in ((5, "10"), (7, "13")):
        peer.send(peer.headers(stream) + peer.message(stream, "x", end=True))
        if want == "10":
            waiting[-1].future.set_exception(ValueError())
        else:
            waiting[-1].future.cancel()
        await turn()
        assert status(peer) == want
    assert not peer.connection.calls


async def test_a_call_that_is_reset_gives_its_future_up() -> None:
    peer, waiting = served()
    peer.send(peer.headers(5) + peer.message(5, "x", end=True) + wire.rst_stream(5, 8))
    await turn()
    assert waiting[0].future.cancelled()
    assert waiting[0].told == 1
    assert peer.frames() == []


async def test_a_deadline_that_passes_before_the_future_is_done() -> None:
    peer, waiting = served(grpc_timeout="20m")
    peer.send(peer.headers(5, UNARY, end=False, grpc_timeout="20m") + peer.message(5, "x", end=True))
    await asyncio.sleep(0.05)
    assert status(peer) == "4"
    assert waiting[0].future.cancelled()
