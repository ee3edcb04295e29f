"""Several keys and endpoints of one provider: the load is spread, a rate limit is one key's, files are read again."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import Answer, Gateway, chat, key_entry, post
from tests.provider_thread import ProviderThread

KEYS = ["sk-one", "sk-two"]


@dataclass(frozen=True)
class Farm:
    gateway: Gateway
    north: ProviderThread
    south: ProviderThread

    def ask(self, model: str, fake: str = "", **fields: Any) -> Answer:
        return post(self.gateway.listen, chat(model, **fields), headers=(("x-fake", fake),))

    def keys(self) -> list[str]:
        """The keys that the north has seen, in order."""
        return [str(one.header("authorization")).removeprefix("Bearer ") for one in self.north.requests]

    def states(self, model: str) -> Counter[str]:
        return Counter(one["state"] for one in self.gateway.targets(model))

    def wait_for(self, model: str, **states: int) -> None:
        self.gateway.wait_for(lambda: self.states(model) == Counter(states))


@pytest.fixture(scope="module")
def shared_farm() -> Iterator[Farm]:
    with ProviderThread("north") as north, ProviderThread("south") as south:

        def provider(**changes: Any) -> dict[str, Any]:
            return {"dialect": "openai", "base_url": north.base_url, "api_keys": KEYS, **changes}

        pairs = [f"pair-{number}" for number in range(5)]
        singles = [f"single-{number}" for number in range(5)]
        config = {
            "providers": {
                "grid": {"dialect": "openai", "base_urls": [north.base_url, south.base_url], "api_keys": KEYS},
                **{name: provider() for name in pairs},
                **{name: provider(api_keys=["sk-single"]) for name in singles},
            },
            "models": {
                "turns": {"strategy": "round_robin", "targets": [{"provider": "grid"}]},
                "chance": {"targets": [{"provider": "grid", "model": "x"}]},
                **{name: {"provider": name} for name in (*pairs, *singles)},
            },
            "keys": [key_entry("team-a")],
        }
        with Gateway(config) as gateway:
            yield Farm(gateway, north, south)


@pytest.fixture
def farm(shared_farm: Farm) -> Farm:
    shared_farm.north.forget()
    shared_farm.south.forget()
    return shared_farm


@pytest.mark.parametrize(("model", "low", "high"), [("turns", 50, 50), ("chance", 20, 80)])
def test_the_load_is_spread_over_endpoints_and_keys(farm: Farm, model: str, low: int, high: int) -> None:
    """By chance each has 50 +- 6 (five standard deviations are 31)."""
    for _ in range(200):
        assert farm.ask(model).status == 200
    counts = Counter(
        (name, one.header("authorization"))
        for name, provider in (("north", farm.north), ("south", farm.south))
        for one in provider.requests
    )
    assert len(counts) == 4
    assert low <= min(counts.values()) <= max(counts.values()) <= high


def test_a_rate_limit_cools_one_key_until_it_is_over(farm: Farm) -> None:
    answer = farm.ask("pair-0", "status=429,retry_after=2,first=1")
    assert (answer.status, answer.header("x-headgate-attempts")) == (200, "2")
    refused, served = farm.keys()
    assert {refused, served} == set(KEYS)
    farm.wait_for("pair-0", cooling=1, available=1)
    cooling = next(one for one in farm.gateway.targets("pair-0") if one["state"] == "cooling")
    assert KEYS[cooling["key"]] == refused
    assert 0 < cooling["seconds_left"] <= 2
    assert "429" in cooling["why"]
    farm.north.forget()
    answers = [farm.ask("pair-0") for _ in range(10)]
    if farm.states("pair-0")["cooling"]:  # a very slow machine may be late
        assert {one.header("x-headgate-attempts") for one in answers} == {"1"}
        assert set(farm.keys()) == {served}
    farm.wait_for("pair-0", available=2)
    farm.north.forget()
    for _ in range(30):
        farm.ask("pair-0")
    assert set(farm.keys()) == set(KEYS)


def test_when_all_are_cooled_they_are_tried_all_the_same(farm: Farm) -> None:
    answer = farm.ask("pair-1", "status=429,retry_after=60")
    assert answer.status == 429
    assert answer.header("retry-after") == "60"
    assert len(farm.north.requests) == 3
    farm.wait_for("pair-1", cooling=2)
    answer = farm.ask("pair-1")
    assert (answer.status, answer.header("x-headgate-attempts")) == (200, "1")


@pytest.mark.parametrize(
    ("model", "fake", "least", "most"),
    [
        ("single-0", "ratelimit_remaining=0,ratelimit_reset=1m30s", 80, 90),
        ("single-1", "retry_after_ms=45000,retry_after=1", 35, 45),
        ("single-2", "ratelimit_remaining=7,ratelimit_reset=1m30s", 1, 5),  # nothing is used up: a guess
        ("single-3", "retry_after=86400", 290, 300),  # never longer than that
    ],
)
def test_what_the_last_answer_says_of_its_limits_is_heard(
    farm: Farm, model: str, fake: str, least: float, most: float
) -> None:
    """The client is shown none of the provider's counters, but Envoy's log of the attempt has them."""
    answer = farm.ask(model, f"status=429,{fake}")
    assert answer.status == 429
    assert len(farm.north.requests) == 1
    assert not [name for name, _ in answer.headers if name.startswith("x-ratelimit")]
    farm.wait_for(model, cooling=1)
    (target,) = farm.gateway.targets(model)
    assert least <= target["seconds_left"] <= most


def test_what_a_retried_answer_says_of_its_limits_is_heard(farm: Farm) -> None:
    answer = farm.ask("pair-2", "status=429,ratelimit_remaining=0,ratelimit_reset=1m30s,first=1")
    assert answer.status == 200
    farm.wait_for("pair-2", cooling=1, available=1)
    (left,) = [one["seconds_left"] for one in farm.gateway.targets("pair-2") if one["state"] == "cooling"]
    assert 80 < left <= 90


def test_a_failing_key_is_no_reason_to_leave_an_endpoint_out(farm: Farm) -> None:
    """401 says something of the key, nothing of the target: it is the client's answer, after one attempt."""
    for _ in range(5):
        assert farm.ask("pair-3", "status=401").status == 401
    assert len(farm.north.requests) == 5
    farm.gateway.wait_for(lambda: farm.gateway.metric("headgate_attempts_total", reason="refused") >= 5)
    assert farm.states("pair-3") == Counter(available=2)


def test_three_failures_eject_and_a_trial_brings_back(farm: Farm) -> None:
    for number in range(3):
        assert farm.ask("single-4", f"status=500,first=2,chunks={number + 1}").status == 500
    farm.wait_for("single-4", ejected=1)
    assert farm.ask("single-4").status == 200  # the only one is tried all the same
    assert farm.gateway.metric("headgate_target_available", provider="single-4") == 0
    assert farm.gateway.metric("headgate_target_available", provider="pair-3") == 2


class Rotation:
    """Requests in a row, in a thread, while something is replaced."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.statuses: Counter[int] = Counter()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.statuses[post(self._gateway.listen, chat("m")).status] += 1
            time.sleep(0.005)

    def __enter__(self) -> Rotation:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)


def kubernetes_secret(folder: Path, number: int, **contents: str) -> None:
    """Write `contents` as the kubelet does: a new folder, and one link swapped."""
    data = folder / f"..2026_{number}"
    data.mkdir(parents=True)
    for name, content in contents.items():
        (data / name).write_text(content)
    fresh = folder / "..data_tmp"
    fresh.symlink_to(data.name)
    fresh.replace(folder / "..data")
    for name in contents:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


def test_keys_in_files_are_replaced_while_running() -> None:
    with ProviderThread("north") as north:
        config = {
            "providers": {
                "north": {
                    "dialect": "openai", "base_url": north.base_url,
                    "api_keys": ["${file:plain/key}", "${file:kube/key}"],
                }
            },
            "models": {"m": {"strategy": "round_robin", "targets": [{"provider": "north"}]}},
            "keys": [key_entry("team-a")],
        }  # fmt: skip
        gateway = Gateway(config)
        plain, kube = gateway.folder / "plain" / "key", gateway.folder / "kube"
        plain.parent.mkdir()
        plain.write_text("sk-plain-1\n")
        kubernetes_secret(kube, 1, key="sk-kube-1\n")

        def seen() -> set[str]:
            return {str(one.header("authorization")) for one in list(north.requests)[-4:]}

        with gateway, Rotation(gateway) as rotation:
            gateway.wait_for(lambda: seen() == {"Bearer sk-plain-1", "Bearer sk-kube-1"})
            started = time.monotonic()
            kubernetes_secret(kube, 2, key="sk-kube-2\n")
            gateway.wait_for(lambda: seen() == {"Bearer sk-plain-1", "Bearer sk-kube-2"})
            fresh = plain.with_suffix(".new")
            fresh.write_text("sk-plain-2\n")
            fresh.replace(plain)
            gateway.wait_for(lambda: seen() == {"Bearer sk-plain-2", "Bearer sk-kube-2"})
            assert time.monotonic() - started < 12
            plain.unlink()  # for a moment there is no key: the old one stays in force
            time.sleep(2.5)
            plain.write_text("sk-plain-3\n")
            gateway.wait_for(lambda: seen() == {"Bearer sk-plain-3", "Bearer sk-kube-2"})
            north.forget()
            gateway.wait_for(lambda: len(north.requests) > 20)
            assert {one.header("authorization") for one in north.requests} == {"Bearer sk-plain-3", "Bearer sk-kube-2"}
            log = gateway.log()
        assert set(rotation.statuses) == {200}
        assert "configuration" in log
        assert not any(key in log for key in ("sk-plain", "sk-kube"))
