"""Decisions with a cache: what Envoy is told while somebody waits, and what is left behind by clients that go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse

from extproc.balance.health import Health
from extproc.limits import Limits
from extproc.processor import Processor
from extproc.server import Patience, external_processor
from headgate.limits import present
from ratelimit.limiter import Limiter
from ratelimit.storage import MemoryStore, Operation
from sidecar.rpc import CallContext, Step, StreamMethod
from tests.extproc.cache.test_cache import House, answer
from tests.extproc.factories import digest, policy
from tests.extproc.test_limits import Unobserved, rules

MODELS = {"gpt-4o": {"targets": [{"provider": "openai"}], "cache": {}}}


class Silent(MemoryStore):
    """Never answers."""

    def apply(self, operations: Sequence[Operation], now: float) -> Any:
        return asyncio.get_running_loop().create_future()


class Server:
    """A service whose cache is a `House`."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.house = House()
        made = policy(models=MODELS, keys=policy_keys())
        limits = Limits(Limiter(MemoryStore() if store is None else store, lambda: 0.0), rules, present, lambda: True)
        service = external_processor(
            Processor(lambda: made, lambda: 0.0, Health(lambda: 0.0)), lambda: 0.0, Unobserved(), limits,
            cache=self.house.cache, hit_limits=limits, patience=Patience.of(0.04, 30),
        )  # fmt: skip
        method = service.methods[0]
        assert isinstance(method, StreamMethod)
        self._open = method.open

    def asks(self) -> tuple[Any, Step | Awaitable[Step]]:
        """A stream, and what its body leads to."""
        stream = self._open(CallContext("/x"))
        head, body = ProcessingRequest(), ProcessingRequest()
        values = {":method": "POST", ":path": "/v1/chat/completions", "authorization": "Bearer sk-a"}
        for name, value in values.items():
            head.request_headers.headers.headers.add(key=name, raw_value=value.encode())
        body.request_body.body = json.dumps({"model": "gpt-4o", "messages": [], "temperature": 0}).encode()
        stream.on_message(head)
        return stream, stream.on_message(body)


def policy_keys() -> list[dict[str, Any]]:
    return [{"name": "a", "sha256": digest("sk-a"), "limits": {"requests": "1000/min"}}]


def read(step: Step) -> list[ProcessingResponse]:
    return [ProcessingResponse.FromString(reply.SerializeToString()) for reply in step.replies]


def ticket(response: ProcessingResponse) -> str:
    return str(response.dynamic_metadata["headgate.cache"]["ticket"])


async def finished(step: Step | Awaitable[Step]) -> Step:
    return step if isinstance(step, Step) else await step


async def test_envoy_is_asked_for_more_time() -> None:
    server = Server()
    _, first = server.asks()
    (response,) = read(await finished(first))
    stream, waiting = server.asks()
    step = await finished(waiting)
    (patience,) = read(step)
    assert patience.override_message_timeout.ToMilliseconds() == 30_040
    assert patience.WhichOneof("response") is None
    assert step.done
    assert step.more is not None
    server.house.cache.keep(ticket(response), answer(b"body"))
    replies = [ProcessingResponse.FromString(reply.SerializeToString()) async for reply in step.more]
    assert [reply.immediate_response.body for reply in replies] == [b"body"]
    stream.on_close()


async def test_who_does_not_wait_long_says_nothing() -> None:
    server = Server()
    _, first = server.asks()
    (response,) = read(await finished(first))
    _, waiting = server.asks()
    task = asyncio.ensure_future(finished(waiting))
    await asyncio.sleep(0)
    server.house.cache.keep(ticket(response), answer(b"body"))
    (reply,) = read(await task)
    assert reply.immediate_response.body == b"body"


async def test_only_who_is_given_it_has_saved_something() -> None:
    server = Server()  # two requests an hour
    _, first = server.asks()
    (response,) = read(await finished(first))
    server.house.cache.keep(ticket(response), answer(b"body"))
    statuses = []
    for _ in range(3):
        _, step = server.asks()
        statuses += [one.immediate_response.status.code for one in read(await finished(step))]
    assert statuses == [200, 429, 429]
    assert [one for one in server.house.seen.told if one.startswith("saved")] == ["saved 3 None"]


async def test_a_client_that_leaves_while_its_limits_are_decided() -> None:
    """Envoy never learns of its ticket, so nothing else would tell of its end."""
    server = Server(Silent())
    stream, deciding = server.asks()
    assert not isinstance(deciding, Step)
    task = asyncio.ensure_future(finished(deciding))
    await asyncio.sleep(0)
    assert len(server.house.flights) == 1
    task.cancel()
    stream.on_close()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(server.house.flights) == 0


async def test_a_client_that_leaves_while_it_waits() -> None:
    server = Server()
    _, first = server.asks()
    (response,) = read(await finished(first))
    stream, waiting = server.asks()
    step = await finished(waiting)
    assert step.more is not None
    task = asyncio.ensure_future(anext(step.more))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stream.on_close()
    server.house.cache.lost(ticket(response))
    assert len(server.house.flights) == 0  # nobody is left to take over


async def test_a_decision_that_was_sent_is_the_access_logs_to_end() -> None:
    server = Server()
    stream, first = server.asks()
    (response,) = read(await finished(first))
    stream.on_close()
    assert len(server.house.flights) == 1
    server.house.cache.lost(ticket(response))
    assert len(server.house.flights) == 0
