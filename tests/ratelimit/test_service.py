"""The service over messages, and its rule files."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from ratelimit import settings
from ratelimit.limiter import Decision, Limiter
from ratelimit.rules import Descriptor, Mode, Node, Rate, Rule, RuleSet, Unit
from ratelimit.server import Presentation, rate_limit_service
from ratelimit.storage import MemoryStore
from ratelimit.storage.base import Count, Operation
from ratelimit.wire import RateLimitRequest, RateLimitResponse
from sidecar.errors import ConfigError, RpcError, StatusCode, StoreError
from sidecar.protowire import Encoded
from sidecar.rpc import CallContext, UnaryMethod

RULES = RuleSet(
    {
        "d": (
            Node("k", "c", Rule(Rate(2, Unit.HOUR), name="named", label="c")),
            Node("k", "r", Rule(Rate(2, Unit.HOUR), Mode.RESERVE, label="r")),
        )
    }
)


def request(*values: str, domain: str = "d", hits: int | None = None) -> RateLimitRequest:
    message = RateLimitRequest(domain=domain)
    for value in values:
        descriptor = message.descriptors.add()
        descriptor.entries.add(key="k", value=value)
        if hits is not None:
            descriptor.hits_addend.value = hits
    return message


class Service:
    def __init__(self, store: object = None) -> None:
        limiter = Limiter(store or MemoryStore(), lambda: 1_700_000_000)  # type: ignore[arg-type]
        service = rate_limit_service(limiter, lambda: RULES, self.present)
        method = service.methods[0]
        assert isinstance(method, UnaryMethod)
        self.handle = method.handle

    @staticmethod
    def present(decision: Decision) -> Presentation:
        return Presentation((("x-over", str(decision.over)),), b"body" if decision.over else b"")

    def __call__(self, message: RateLimitRequest) -> RateLimitResponse:
        reply = self.handle(message.SerializeToString(), CallContext("/x"))
        assert isinstance(reply, Encoded)
        return RateLimitResponse.FromString(reply.SerializeToString())


def test_an_answer_in_full() -> None:
    service = Service()
    reply = service(request("c", "nothing"))
    assert reply.overall_code == RateLimitResponse.OK
    limited, free = reply.statuses
    assert (limited.current_limit.requests_per_unit, limited.current_limit.unit, limited.current_limit.name) == (
        2,
        3,
        "named",
    )
    assert limited.limit_remaining == 1
    assert limited.duration_until_reset.seconds == 3600 - 1_700_000_000 % 3600
    assert free.code == RateLimitResponse.OK
    assert not free.HasField("current_limit")
    assert [(one.key, one.value) for one in reply.response_headers_to_add] == [("x-over", "False")]
    assert not reply.HasField("dynamic_metadata")
    service(request("c"))
    over = service(request("c"))
    assert (over.overall_code, over.statuses[0].code, over.raw_body) == (
        RateLimitResponse.OVER_LIMIT,
        RateLimitResponse.OVER_LIMIT,
        b"body",
    )


def test_a_reservation_is_handed_out_when_it_was_made() -> None:
    service = Service()
    assert dict(service(request("r", hits=2)).dynamic_metadata) == {"reservation.r": "2@1700000000"}
    assert not service(request("r", hits=1)).HasField("dynamic_metadata")


def test_hits_of_zero_are_a_check() -> None:
    service = Service()
    for _ in range(5):
        assert service(request("c", hits=0)).statuses[0].limit_remaining == 2


@pytest.mark.parametrize(("own", "of_the_request", "given_back"), [(None, 0, 1), (None, 2, 2), (1, 2, 1)])
def test_negative_hits_are_the_descriptors_own_else_the_requests(
    own: int | None, of_the_request: int, given_back: int
) -> None:
    service = Service()
    service(request("c", hits=2))
    message = request("c", hits=own)
    message.hits_addend = of_the_request
    message.descriptors[0].is_negative_hits = True
    assert service(message).statuses[0].limit_remaining == given_back


@pytest.mark.parametrize("hits", [2**32 - 1, 2**63, 2**64 - 1])
def test_absurd_hits_do_not_break_it(hits: int) -> None:
    assert Service()(request("c", hits=hits)).overall_code == RateLimitResponse.OVER_LIMIT


@pytest.mark.parametrize(("message", "text"), [(request("c", domain=""), "domain"), (request(), "descriptor list")])
def test_wrong_questions_are_unknown(message: RateLimitRequest, text: str) -> None:
    with pytest.raises(RpcError, match=text) as caught:
        Service()(message)
    assert caught.value.code == StatusCode.UNKNOWN


def test_an_override_without_a_unit_is_an_error() -> None:
    message = request("c")
    message.descriptors[0].limit.requests_per_unit = 5
    with pytest.raises(RpcError, match="has no unit"):
        Service()(message)
    message.descriptors[0].limit.unit = 2
    assert Service()(message).statuses[0].current_limit.requests_per_unit == 5


def test_a_thousand_descriptors() -> None:
    assert len(Service()(request(*["c"] * 1_000)).statuses) == 1_000


class Broken:
    def apply(self, operations: list[Operation], now: float) -> list[Count]:
        raise StoreError("a password in the message of a driver", transient=True)


class BrokenLater:
    async def apply(self, operations: list[Operation], now: float) -> list[Count]:
        raise StoreError("a password in the message of a driver", transient=True)


@pytest.mark.parametrize("store", [Broken(), BrokenLater()])
async def test_a_failed_store_is_an_error_and_never_a_verdict(store: object) -> None:
    async def call() -> None:
        reply = Service(store).handle(request("c").SerializeToString(), CallContext("/x"))
        if inspect.isawaitable(reply):
            await reply

    with pytest.raises(RpcError) as caught:
        await call()
    assert caught.value.code == StatusCode.UNKNOWN
    assert "password" not in caught.value.message


FILE = """
domain: mesh
descriptors:
  - key: 404
    value: no
    rate_limit: {unit: Minute, requests_per_unit: 5, name: n}
  - key: path
    descriptors:
      - key: user
        value: vip
        rate_limit: {unlimited: true}
"""


def load(tmp_path: Path, text: str) -> RuleSet:
    (tmp_path / "rules.yaml").write_text(text)
    return settings.load(tmp_path)


def test_a_rule_file(tmp_path: Path) -> None:
    rules = load(tmp_path, FILE)
    first = rules.match("mesh", Descriptor((("404", "no"),)))
    assert first is not None
    assert first.rule == Rule(Rate(5, Unit.MINUTE), Mode.CONSUME, "n", "mesh.404_no")
    second = rules.match("mesh", Descriptor((("path", "/x"), ("user", "vip"))))
    assert second is not None
    assert second.rule.unlimited
    assert settings.load(tmp_path / "rules.yaml") == rules


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "error loading config file: "),
        ("- a", "error loading config file: "),
        ("descriptors: []", "config file cannot have empty domain"),
        ("domain: d\nfoo: 1", "config error, unknown key 'foo'"),
        ("domain: d\ndescriptors: [{value: x}]", "descriptor has empty key"),
        ("domain: d\ndescriptors: [x]", "config error, yaml file contains list of type other than map: x"),
        ("domain: d\ndescriptors: [{key: a}, {key: a}]", "duplicate descriptor composite key 'd.a'"),
        (
            "domain: d\ndescriptors: [{key: a, value: b}, {key: a, value: b}]",
            "duplicate descriptor composite key 'd.a_b'",
        ),
        (
            "domain: d\ndescriptors: [{key: a, rate_limit: {unit: eon, requests_per_unit: 1}}]",
            "invalid rate limit unit 'eon'",
        ),
        (
            "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, unlimited: true}}]",
            "should not specify rate limit unit when unlimited",
        ),
        (
            "domain: d\ndescriptors: [{key: a, limits: [{unit: day, atomic: true}], descriptors: [{key: settle}]}]",
            "'settle' is reserved",
        ),
        ("domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: -1}}]", "is no whole number"),
    ],
)
def test_bad_rule_files(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith("rules.yaml: ")
    assert reason in str(caught.value)


def test_a_domain_in_two_files_is_an_error_and_dot_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / ".hidden.yaml").write_text("{")
    (tmp_path / "other.yml").write_text("domain: other")
    assert set(load(tmp_path, FILE).domains) == {"mesh", "other"}
    (tmp_path / "again.yaml").write_text("domain: mesh")
    with pytest.raises(ConfigError, match="duplicate domain 'mesh'"):
        settings.load(tmp_path)
