"""Metrics: envoyproxy/ratelimit's names, labels and arithmetic, and a bound for everything that requests choose."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from ratelimit import stats as stats_module
from ratelimit.rules import Limit, Rate, Rule, Unit
from ratelimit.stats import Stats, key_labels, near_threshold


def limit(stat: str = "mesh.user_a", amount: int = 20, *, shadow: bool = False) -> Limit:
    return Limit(Rule(Rate(amount, Unit.MINUTE), shadow=shadow), "counter", stat)


def shown(stats: Stats) -> dict[str, str]:
    """What is exposed: each series and its value."""
    lines = "".join(stats.lines()).split("\n")
    return dict(line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))


def hits(stats: Stats) -> dict[str, int]:
    """The counters of limits, by their last words."""
    return {
        name.partition("{")[0].removeprefix("ratelimit_service_rate_limit_"): int(value)
        for name, value in shown(stats).items()
        if name.startswith("ratelimit_service_rate_limit_")
    }


@pytest.mark.parametrize(
    ("n", "count", "over", "expected"),
    [
        (1, 1, False, {"total_hits": 1, "within_limit": 1}),
        (1, 16, False, {"total_hits": 1, "within_limit": 1}),
        (1, 17, False, {"total_hits": 1, "within_limit": 1, "near_limit": 1}),
        (5, 18, False, {"total_hits": 5, "within_limit": 5, "near_limit": 2}),
        (3, 20, False, {"total_hits": 3, "within_limit": 3, "near_limit": 3}),
        (7, 22, True, {"total_hits": 7, "over_limit": 2, "near_limit": 4}),
        (3, 22, True, {"total_hits": 3, "over_limit": 2, "near_limit": 1}),
        (7, 27, True, {"total_hits": 7, "over_limit": 7}),
        (7, 40, True, {"total_hits": 7, "over_limit": 7}),
        (30, 30, True, {"total_hits": 30, "over_limit": 10, "near_limit": 4}),
        (7, 18, True, {"total_hits": 7, "over_limit": 7}),  # denied as a whole, and not counted
        (0, 5, False, {}),
        (-3, 5, False, {}),
    ],
)
def test_hits_are_split_at_the_borders(n: int, count: int, over: bool, expected: dict[str, int]) -> None:
    stats = Stats()
    stats.decided(limit(), n, count, over, False)
    assert hits(stats) == expected


def test_the_local_cache_and_shadows() -> None:
    stats = Stats()
    stats.decided(limit(), 3, 0, True, True)
    assert hits(stats) == {"total_hits": 3, "over_limit": 3, "over_limit_with_local_cache": 3}
    stats = Stats()
    stats.decided(limit(shadow=True), 7, 22, True, False)
    assert hits(stats) == {"total_hits": 7, "over_limit": 2, "near_limit": 4, "shadow_mode": 2}


@pytest.mark.parametrize(
    ("amount", "ratio", "near"),
    [(20, 0.8, 16), (10, 0.8, 8), (3, 0.8, 2), (1, 0.8, 0), (0, 0.8, 0), (15, 0.8, 12), (100, 0.29, 29), (10, 0.7, 7), (2**32 - 1, 0.8, 3435973888)],
)  # fmt: skip
def test_near_is_in_single_precision(amount: int, ratio: float, near: int) -> None:
    assert near_threshold(amount, ratio) == near


@pytest.mark.parametrize(
    ("stat", "labels"),
    [
        ("mesh.user", ("mesh", "user", "")),
        ("mesh.user_a.path_b", ("mesh", "user_a", "path_b")),
        ("mesh.user_a.path_b.more.and_more", ("mesh", "user_a", "path_b")),
        ("mongo.cps.database_users", ("mongo", "cps", "database_users")),
        ("mesh.ip_10.1.2.3", ("mesh", "ip_10_1_2_3", "")),
        ("mesh.a:b|c.d", ("mesh", "a_b_c", "d")),
        ("mesh.", ("mesh", "", "")),
    ],
)
def test_labels(stat: str, labels: tuple[str, ...]) -> None:
    assert key_labels(stat) == labels


def test_the_exposition() -> None:
    stats = Stats()
    stats.decided(limit('mesh.ip_a d"e\\f\nx é'), 3, 3, False, False)
    stats.loaded(taken=True)
    stats.failed("service_error")
    calls, seconds = stats.calls("ShouldRateLimit")
    calls.inc()
    seconds.observe(0.0031)
    stats.domain_not_found("nowhere")
    stats.overruled()
    stats.degraded(limit())
    text = "".join(stats.lines())
    # No `_total`: dashboards hold the names as they are.
    assert "# TYPE ratelimit_service_rate_limit_total_hits counter\n" in text
    assert 'ratelimit_service_rate_limit_total_hits{domain="mesh",key1="ip_a d\\"e\\\\f\\nx é"} 3\n' in text
    series = shown(stats)
    assert series["ratelimit_service_config_load_success"] == "1"
    assert series["ratelimit_service_config_load_error"] == "0"
    assert series['ratelimit_service_should_rate_limit_error{err_type="service_error"}'] == "1"
    assert series['ratelimit_service_total_requests{grpc_method="ShouldRateLimit"}'] == "1"
    bucket = 'ratelimit_service_response_time_seconds_bucket{grpc_method="ShouldRateLimit",le='
    assert series[f'{bucket}"0.0025"}}'] == "0"
    assert [series[f'{bucket}"{bound}"}}'] for bound in ("0.005", "1", "10", "+Inf")] == ["1"] * 4
    assert series['ratelimit_service_response_time_seconds_count{grpc_method="ShouldRateLimit"}'] == "1"
    assert series['ratelimit_service_rate_limit_domain_not_found{domain="nowhere"}'] == "1"
    assert series["ratelimit_service_global_shadow_mode"] == "1"
    assert series['ratelimit_service_rate_limit_without_store{domain="mesh",key1="user_a"}'] == "1"


def test_what_prometheus_itself_reads() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    stats = Stats()
    stats.decided(limit('mesh.a"\\\n'), 3, 3, False, False)
    stats.calls("ShouldRateLimit")[1].observe(1)
    families = {one.name: one for one in text_string_to_metric_families("".join(stats.lines()))}
    (sample,) = families["ratelimit_service_rate_limit_total_hits"].samples
    assert sample.labels == {"domain": "mesh", "key1": 'a"\\\n'}
    assert families["ratelimit_service_response_time_seconds"].type == "histogram"


def test_keys_of_requests_do_not_grow_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_module, "MOST_KEYS", 1_000)
    stats = Stats()

    def ask(number: int) -> None:
        one = limit(f"mesh.user_{number}.path_{number}.deep_{random.random()}", amount=number)
        stats.decided(one, 1, 1, False, False)
        stats.degraded(one)
        stats.domain_not_found(f"domain-{number}")

    for number in range(5_000):
        ask(number)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(5_000, 15_000):
        ask(number)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 400_000
    series = shown(stats)
    assert len([name for name in series if name.startswith("ratelimit_service_rate_limit_total_hits")]) == 1_001
    assert series['ratelimit_service_rate_limit_total_hits{domain="mesh",key1="other"}'] == "14000"
    assert len([name for name in series if "domain_not_found" in name]) == 1_001
    assert int(series["ratelimit_service_metric_keys_overflow"]) >= 14_000


def test_long_keys_are_other() -> None:
    stats = Stats()
    stats.decided(limit("mesh.user_" + "x" * 1_000_000), 1, 1, False, False)
    stats.domain_not_found("x" * 1_000_000)
    text = "".join(stats.lines())
    assert len(text) < 10_000
    assert 'total_hits{domain="mesh",key1="other"} 1' in text
    assert 'domain_not_found{domain="other"} 1' in text


def test_keys_that_differ_only_further_down_share_a_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_module, "MOST_KEYS", 100)
    stats = Stats()
    for number in range(1_000):
        stats.decided(limit(f"mesh.a.b.c_{number}"), 1, 1, False, False)
    assert shown(stats)['ratelimit_service_rate_limit_total_hits{domain="mesh",key1="a",key2="b"}'] == "1000"
    assert shown(stats)["ratelimit_service_metric_keys_overflow"] == "0"
