"""Conformance as data: what the files beside this one say, and how it is put to a service and compared.

A file is one topic. `config` (rule files, as text), `options` and `at` stand at its top for all of its cases, or in a
case for that one. A case has a `name`, a `why` (where it comes from: a section of docs/reference, or `ours`) and steps.
A step does what it names, in this order:

    at: 1702944000        unix seconds: time stands there until another step moves it, nothing ever sleeps
    store: down | up      the store fails, or answers again
    given: counters       are in the store already, as another service of the fleet left them
    reload: rule files    other rules; `refused` is the error that keeps the old ones
    ask: descriptors      a call over gRPC, `times` times (the last one is looked at). A descriptor is `key=value,key=value`
                          or a mapping: entries (that, or a list), hits, negative, limit (`5/minute`). Besides: `domain`
                          (that of the first rule file), `hits` of the request, `by` (one of several processes).

and then compares all that it says:

    gives, each           OK or OVER, and for every descriptor `OK 9 of 10/minute as name, 60s`, `OK`, `OK unlimited`
    fails                 the gRPC error instead: `UNKNOWN: text`
    headers, metadata     of the answer; none where a step names none
    reserved              what can be settled, by label: `5@1702944000`
    asks                  round trips to the store that the call took
    stored, per_second    every counter of the case in the store (that of SECOND limits) that is not 0: `any` is any value
    lives                 [least, most] seconds that a counter in Redis lives
    stats                 by the limit's key in the metrics, what is counted there; what is 0 is left out
    unknown, overruled    calls of a domain without rules by domain; calls that SHADOW_MODE let through
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import yaml
from google.protobuf import json_format

from ratelimit.options import Options
from ratelimit.rules import OnError
from ratelimit.settings import RuleFile
from ratelimit.wire import RateLimitRequest, RateLimitResponse

FOLDER = Path(__file__).parent
START = 1_702_944_000  # a minute, hour, day, month (of 30 days) and year (of 365) of the epoch begin; 2 days left of the week
HEADERS = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
UNITS = ("unknown", "second", "minute", "hour", "day", "month", "year", "week")
_UNLIMITED = 0xFFFFFFFF
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Step:
    """See the text of this module."""

    at: float | None = None
    store: str = ""
    given: Mapping[str, int] = dataclasses.field(default_factory=dict)
    reload: str | Sequence[str] = ()
    refused: str = ""
    ask: Sequence[Any] | None = None
    times: int = 1
    domain: str | None = None
    hits: int = 0
    by: str = ""
    gives: str = ""
    each: Sequence[str] = ()
    fails: str = ""
    headers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reserved: Mapping[str, str] | None = None
    asks: int | None = None
    stored: Mapping[str, Any] | None = None
    per_second: Mapping[str, Any] | None = None
    lives: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    stats: Mapping[str, Mapping[str, int]] | None = None
    unknown: Mapping[str, int] | None = None
    overruled: int | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One case; `error` is what its rule files are refused with, instead of steps.

    `split`: a store for SECOND limits. `peer`: how envoyproxy/ratelimit differs, and who is right (`against_peer`).
    """

    topic: str
    name: str
    why: str
    config: tuple[RuleFile, ...]
    options: Options
    steps: tuple[Step, ...] = ()
    at: float = START
    error: str = ""
    merge: bool = False
    dice: float = 0.5
    split: bool = False
    peer: str = ""

    @property
    def id(self) -> str:
        """What tests call it."""
        return f"{self.topic}/{self.name.replace(' ', '_')}"

    @property
    def domain(self) -> str:
        """That of the first rule file."""
        if not self.config:
            return ""
        words = [line.partition(":")[2] for line in str(self.config[0].content).splitlines() if line[:7] == "domain:"]
        return words[0].strip() if words else ""


def files(config: str | Sequence[str]) -> tuple[RuleFile, ...]:
    """Rule files called `rules.yaml`, or `1.yaml`, `2.yaml`."""
    if isinstance(config, str):
        return (RuleFile("rules.yaml", config),)
    return tuple(RuleFile(f"{number}.yaml", text) for number, text in enumerate(config, 1))


def load(folder: Path = FOLDER) -> list[Case]:
    """Every case of every topic. Raises `ValueError` for one that says nothing or could not fail."""
    cases = [case for path in sorted(folder.glob("*.yaml")) for case in _topic(path)]
    ids = [case.id for case in cases]
    if len(set(ids)) < len(ids):
        raise ValueError(f"twice: {sorted(one for one in set(ids) if ids.count(one) > 1)}")
    return cases


def _topic(path: Path) -> Iterator[Case]:
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    shared = {key: value for key, value in content.items() if key != "cases"}
    for one in content["cases"]:
        told = shared | one
        told["options"] = _options(shared.get("options", {}) | one.get("options", {}))
        told["config"] = files(told.get("config", ()))
        try:
            told["steps"] = tuple(Step(**step) for step in told.get("steps", ()))
            case = Case(topic=path.stem, **told)
            _check(case)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path.name}: {one.get('name')}: {error}") from error
        yield case


def _options(told: Mapping[str, Any]) -> Options:
    fields = dict(told)
    if fields.get("headers") is True:
        fields["headers"] = HEADERS
    elif fields.get("headers"):
        fields["headers"] = tuple(fields["headers"])
    if "on_error" in fields:
        fields["on_error"] = OnError(fields["on_error"])
    return Options(**fields)


def _check(case: Case) -> None:
    if not case.why or bool(case.steps) == bool(case.error):
        raise ValueError("a case has a why, and steps or an error")
    for step in case.steps:
        if step.ask is not None and bool(step.fails) == bool(step.gives):
            raise ValueError("a call gives something or fails")
        if step.gives and len(step.each) != len(step.ask or ()):
            raise ValueError("what each descriptor gives")


# asking


def request(case: Case, step: Step) -> Any:
    """The step's call as a message."""
    assert step.ask is not None
    message = RateLimitRequest(domain=case.domain if step.domain is None else step.domain, hits_addend=step.hits)
    for one in step.ask:
        told = one if isinstance(one, dict) else {"entries": one}
        descriptor = message.descriptors.add()
        listed = told["entries"]
        for entry in listed.split(",") if isinstance(listed, str) else listed:
            key, _, value = entry.partition("=")
            if entry:
                descriptor.entries.add(key=key, value=value)
        if "hits" in told:
            descriptor.hits_addend.value = told["hits"]
        if "limit" in told:
            amount, _, unit = told["limit"].partition("/")
            descriptor.limit.requests_per_unit = int(amount)
            descriptor.limit.unit = UNITS.index(unit)
        descriptor.is_negative_hits = told.get("negative", False)
        unread = set(told) - {"entries", "hits", "limit", "negative"}
        if unread:
            raise ValueError(f"a descriptor has no {unread}")
    return message


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, in the words of the files."""

    gives: str = ""
    each: Sequence[str] = ()
    fails: str = ""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reserved: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""


class Client:
    """A real gRPC client of one service."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._call = self._channel.unary_unary(
            "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
            RateLimitRequest.SerializeToString,
            RateLimitResponse.FromString,
        )

    def ask(self, message: Any, *, wait: bool = False) -> Answer:
        """One call. `wait` until there is a server."""
        try:
            return answer(self._call(message, timeout=10, wait_for_ready=wait))
        except grpc.RpcError as error:
            return Answer(fails=f"{error.code().name}: {error.details()}")

    def close(self) -> None:
        self._channel.close()


def answer(reply: Any) -> Answer:
    """A response in the words of the files."""
    metadata = json_format.MessageToDict(reply.dynamic_metadata)
    reserved = {name: metadata.pop(name) for name in list(metadata) if name.startswith("reservation.")}
    return Answer(
        _code(reply.overall_code),
        [_status(one) for one in reply.statuses],
        "",
        {header.key: header.value for header in reply.response_headers_to_add},
        metadata,
        {name.removeprefix("reservation."): text for name, text in reserved.items()},
        reply.raw_body,
    )


def _code(code: int) -> str:
    return {RateLimitResponse.OK: "OK", RateLimitResponse.OVER_LIMIT: "OVER"}.get(code, f"code {code}")


def _status(status: Any) -> str:
    code, left = _code(status.code), status.limit_remaining
    reset = (
        f", {json_format.MessageToDict(status.duration_until_reset)}" if status.HasField("duration_until_reset") else ""
    )
    if not status.HasField("current_limit"):
        return code + {0: "", _UNLIMITED: " unlimited"}.get(left, f" {left}") + reset
    limit = status.current_limit
    name = f" as {limit.name}" if limit.name else ""
    return f"{code} {left} of {limit.requests_per_unit}/{UNITS[limit.unit]}{name}{reset}"


# comparing


def differences(step: Step, seen: Mapping[str, Any]) -> dict[str, Any]:
    """What was seen otherwise than the step says: both, by the step's word."""
    found: dict[str, Any] = {}
    for word, was in seen.items():
        said = getattr(step, word)
        if word == "headers":
            said = {name: str(value) for name, value in said.items()}
        if isinstance(said, Mapping) and isinstance(was, Mapping):
            was = {key: "any" if said.get(key) == "any" else value for key, value in was.items()}
        if said != was:
            found[word] = {"said": said, "seen": was}
    return found
