"""Limits inside ext_proc: asked before, settled after, with the limiter itself and the embedded store."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse

from extproc.accesslog import RequestRecord
from extproc.balance.health import Health
from extproc.limits import DOMAIN, KEY, LIMIT, REQUESTS, TOKENS, Limits
from extproc.processor import Processor
from extproc.server import external_processor
from headgate.limits import present
from ratelimit.limiter import Limiter
from ratelimit.rules import Mode, Node, Rate, Rule, RuleSet, Unit
from ratelimit.storage import Count, MemoryStore, Operation
from sidecar.errors import StoreError
from sidecar.rpc import CallContext, Step, StreamMethod
from tests.extproc.factories import policy

NOW = 1_700_000_000.0


def rules(requests: int = 2, tokens: int = 1000) -> RuleSet:
    def limit(what: str, amount: int) -> Node:
        return Node(LIMIT, what, Rule(Rate(amount, Unit.HOUR), Mode.RESERVE, label=what))

    return RuleSet({DOMAIN: (Node(KEY, "a", children=(limit(REQUESTS, requests), limit(TOKENS, tokens))),)})


class Failing(MemoryStore):
    def apply(self, operations: Sequence[Operation], now: float) -> list[Count]:
        raise StoreError("gone", transient=True)


class Waiting(MemoryStore):
    """Answers later, as Redis does."""

    def apply(self, operations: Sequence[Operation], now: float) -> Any:
        return self._later(operations, now)

    async def _later(self, operations: Sequence[Operation], now: float) -> Sequence[Count]:
        return super().apply(operations, now)


class WaitingThenFailing(MemoryStore):
    def apply(self, operations: Sequence[Operation], now: float) -> Any:
        return self._later()

    async def _later(self) -> Sequence[Count]:
        raise StoreError("gone", transient=True)


class Unobserved:
    def decided_request(self, outcome: str, seconds: float) -> None:
        """Nothing."""

    def message(self) -> None:
        """Nothing."""

    def forwarded(self, cluster: str) -> None:
        """Nothing."""


class House:
    def __init__(self, store: MemoryStore | None = None, *, admits: bool = True, **limits: int) -> None:
        self.store = MemoryStore() if store is None else store
        self.rules = rules(**limits)
        self.limits = Limits(Limiter(self.store, lambda: NOW), lambda: self.rules, present, lambda: admits)
        made = policy()
        service = external_processor(
            Processor(lambda: made, lambda: 0.0, Health(lambda: 0.0)), lambda: 0.0, Unobserved(), self.limits
        )
        method = service.methods[0]
        assert isinstance(method, StreamMethod)
        self._open = method.open

    async def ask(self, key: str = "sk-a", **fields: Any) -> ProcessingResponse:
        stream = self._open(CallContext("/x"))
        head = ProcessingRequest()
        values = {":method": "POST", ":path": "/v1/chat/completions", "authorization": f"Bearer {key}"}
        for name, value in values.items():
            head.request_headers.headers.headers.add(key=name, raw_value=value.encode())
        body = ProcessingRequest()
        body.request_body.body = json.dumps({"model": "gpt-4o", "messages": [], **fields}).encode()
        for message in (head, body):
            step = stream.on_message(message)
            if isinstance(step, Awaitable):
                step = await step
        assert isinstance(step, Step)
        assert step.done
        stream.on_close()
        return ProcessingResponse.FromString(step.replies[0].SerializeToString())

    def used(self, what: str) -> int:
        key = f"{{headgate_key_a}}_limit_{what}_{int(NOW) - int(NOW) % 3600}"
        return self.store._value(key, int(NOW))


def record(**changes: Any) -> RequestRecord:
    empty = dict.fromkeys(RequestRecord._fields)
    return RequestRecord(**{**empty, "key": "a", "reservation": "", **changes})


def facts(reply: ProcessingResponse) -> dict[str, Any]:
    return dict(reply.dynamic_metadata["headgate"])


@pytest.mark.parametrize("store", [MemoryStore, Waiting])
async def test_a_request_within_its_limits_goes_on_with_what_envoy_must_know(store: type[MemoryStore]) -> None:
    house = House(store())
    reply = await house.ask(max_tokens=100)
    assert reply.WhichOneof("response") == "request_body"
    shown = facts(reply)
    reserved = int(shown["reservation"].partition("@")[0])
    assert shown["reservation"] == f"{reserved}@{int(NOW)}"
    reset = 3600 - int(NOW) % 3600
    usage: Any = reply.dynamic_metadata["headgate.usage"]
    assert usage["limits"] == f"requests 2 1 {reset}s,tokens 1000 {1000 - reserved} {reset}s"
    assert (house.used(REQUESTS), house.used(TOKENS)) == (1, reserved)


@pytest.mark.parametrize("store", [MemoryStore, Waiting])
async def test_over_the_limit_the_answer_is_ours(store: type[MemoryStore]) -> None:
    house = House(store(), requests=1)
    await house.ask()
    reply = (await house.ask()).immediate_response
    assert reply.status.code == 429
    headers = {option.header.key: option.header.raw_value.decode() for option in reply.headers.set_headers}
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert int(headers["retry-after"]) > 0
    assert headers["content-type"] == "application/json"
    assert json.loads(reply.body)["error"]["code"] == "rate_limit_exceeded"
    assert house.used(REQUESTS) == 1


async def test_a_key_without_limits_is_not_asked_about() -> None:
    house = House(Failing())
    reply = await house.ask("sk-b")
    assert reply.WhichOneof("response") == "request_body"
    assert "reservation" not in facts(reply)


@pytest.mark.parametrize("store", [Failing, WaitingThenFailing])
@pytest.mark.parametrize("admits", [True, False])
async def test_a_store_that_fails_follows_the_policy(store: type[MemoryStore], admits: bool) -> None:
    reply = await House(store(), admits=admits).ask()
    if admits:
        assert reply.WhichOneof("response") == "request_body"
        assert "reservation" not in facts(reply)
    else:
        assert reply.immediate_response.status.code == 503
        assert json.loads(reply.immediate_response.body)["error"]["code"] == "gateway_unavailable"


@pytest.mark.parametrize("store", [MemoryStore, Waiting])
@pytest.mark.parametrize("charged", [0, 7, 900])
async def test_what_was_used_replaces_what_was_reserved(store: type[MemoryStore], charged: int) -> None:
    house = House(store())
    reservation = facts(await house.ask(max_tokens=100))["reservation"]
    waiting = house.limits.settle([record(reservation=reservation, charged=charged), record(charged=50)])
    if waiting is not None:
        await waiting
    assert house.used(TOKENS) == charged
    assert house.used(REQUESTS) == 1


async def test_a_store_that_fails_leaves_it_charged() -> None:
    house = House()
    reservation = facts(await house.ask(max_tokens=100))["reservation"]
    before = house.used(TOKENS)
    for store in (Failing(), WaitingThenFailing()):
        waiting = House(store).limits.settle([record(reservation=reservation, charged=1)])
        if waiting is not None:
            await waiting
    assert house.used(TOKENS) == before
