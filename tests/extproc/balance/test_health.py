"""When a target is left out, for how long, and how it comes back."""

from __future__ import annotations

import pytest

from extproc.balance.attempt import Reason
from extproc.balance.health import Health
from extproc.balance.notice import Kind, Notice
from extproc.balance.standing import State, Use
from tests.extproc.balance.factories import Clock, attempt, choice, eject, healthy, limited, unreachable


def state(health: Health, cluster: str = "a") -> State:
    return health.standing(cluster).state


def left(health: Health, cluster: str = "a") -> float | None:
    return health.standing(cluster).seconds_left


# rate limits


def test_a_429_cools_its_cluster_alone_for_as_long_as_it_says() -> None:
    clock = Clock()
    health = healthy(clock, choice("a"), choice("b", endpoint="a.test:443"))
    health.failed(limited("a", 7))
    assert (state(health), left(health), state(health, "b")) == (State.COOLING, 7, State.AVAILABLE)
    assert health.standing("a").why == "rate_limited (429)"
    clock.advance(6.9)
    assert state(health) is State.COOLING
    clock.advance(0.1)
    assert state(health) is State.AVAILABLE


@pytest.mark.parametrize(("asked", "seconds"), [(0, 0.5), (0.1, 0.5), (86_400, 300)])
def test_what_it_says_has_bounds(asked: float, seconds: float) -> None:
    health = healthy(Clock())
    health.failed(limited("a", asked))
    assert left(health) == seconds


def test_a_429_that_says_nothing_cools_twice_as_long_each_time() -> None:
    clock = Clock()
    health = healthy(clock)
    found = []
    for _ in range(6):
        health.failed(limited())
        seconds = left(health)
        assert seconds is not None
        found.append(seconds)
        clock.advance(seconds + 1)
    assert found == [5, 10, 20, 40, 60, 60]
    health.succeeded("a")
    health.failed(limited())
    assert left(health) == 5


def test_reports_of_what_was_sent_before_say_nothing_new() -> None:
    clock = Clock()
    health = healthy(clock)
    for _ in range(20):
        health.failed(limited())
    assert left(health) == 5
    clock.advance(6)
    health.failed(limited(seconds=3))  # it began while the target cooled
    assert state(health) is State.AVAILABLE


def test_a_shorter_time_does_not_shorten() -> None:
    health = healthy(Clock())
    health.failed(limited("a", 60))
    health.failed(limited("a", 1))
    assert left(health) == 60


def test_an_overloaded_target_that_names_a_time_cools_and_has_failed() -> None:
    clock = Clock()
    health = healthy(clock)
    overloaded = attempt("a", Reason.OVERLOADED, 503, 2)
    health.failed(overloaded)
    assert state(health) is State.COOLING
    health.failed(overloaded)
    health.failed(overloaded)
    assert state(health) is State.EJECTED


# failures


def test_three_failures_in_a_row_eject() -> None:
    health = healthy(Clock())
    health.failed(attempt())
    health.failed(attempt())
    health.succeeded("a")
    health.failed(attempt())
    health.failed(attempt())
    assert state(health) is State.AVAILABLE
    health.failed(attempt())
    assert (state(health), left(health)) == (State.EJECTED, 5)
    assert health.standing("a").why == "3 failures in a row, at last: server_error (500)"
    assert state(health, "b") is State.AVAILABLE


def test_half_of_ten_eject() -> None:
    clock = Clock()
    health = healthy(clock)
    for _ in range(4):
        health.succeeded("a")
        health.failed(attempt())
        clock.advance(2)
    health.succeeded("a")
    assert state(health) is State.AVAILABLE
    health.failed(attempt())
    assert state(health) is State.EJECTED
    assert "5 of 10 failed" in health.standing("a").why


def test_old_failures_are_forgotten() -> None:
    clock = Clock()
    health = healthy(clock)
    for _ in range(20):
        health.succeeded("a")
        health.failed(attempt())
        clock.advance(31)
    assert state(health) is State.AVAILABLE


def test_three_in_a_row_are_chance_in_dense_traffic() -> None:
    clock = Clock()
    health = healthy(clock)
    for _ in range(100):
        health.succeeded("a")
    for _ in range(3):
        health.failed(attempt())
    assert state(health) is State.AVAILABLE
    clock.advance(2)
    health.failed(attempt())
    assert state(health) is State.EJECTED


@pytest.mark.parametrize("reason", [Reason.CONNECT, Reason.DNS, Reason.TLS])
def test_an_endpoint_that_cannot_be_reached_is_so_for_every_target(reason: Reason) -> None:
    health = healthy(Clock(), choice("a"), choice("b", endpoint="a.test:443"), choice("c"))
    health.failed(unreachable("a", reason))
    health.failed(unreachable("b", reason))
    health.failed(unreachable("a", reason))
    assert [state(health, name) for name in "abc"] == [State.EJECTED, State.EJECTED, State.AVAILABLE]
    assert [notice.kind for notice in health.news()] == [Kind.UNREACHABLE]


@pytest.mark.parametrize("reason", [Reason.RESET, Reason.TIMEOUT, Reason.OVERLOADED, Reason.SERVER_ERROR])
def test_other_failures_are_the_clusters_own(reason: Reason) -> None:
    health = healthy(Clock(), choice("a"), choice("b", endpoint="a.test:443"))
    for _ in range(3):
        health.failed(attempt("a", reason, 0))
    assert [state(health, name) for name in "ab"] == [State.EJECTED, State.AVAILABLE]


@pytest.mark.parametrize("reason", [Reason.CANCELLED, Reason.STATUS, Reason.REFUSED])
def test_what_a_client_can_bring_about_takes_no_target_away(reason: Reason) -> None:
    health = healthy(Clock())
    for _ in range(100):
        health.failed(attempt("a", reason, 404))
    assert state(health) is State.AVAILABLE


def test_an_answer_shows_that_the_endpoint_was_reached() -> None:
    health = healthy(Clock())
    health.failed(unreachable())
    health.failed(unreachable())
    health.failed(limited("a", 1))
    health.failed(unreachable())
    assert state(health) is State.COOLING


# the way back


def test_trial_and_restoration() -> None:
    clock = Clock()
    health = healthy(clock)
    eject(health)
    clock.advance(5)
    assert state(health) is State.TRIAL
    assert health.rank(choice("a")).use is Use.TRIAL
    assert [health.grants("a"), health.grants("a")] == [True, False]
    clock.advance(1)
    assert health.grants("a")
    for _ in range(4):
        health.succeeded("a")
    assert state(health) is State.TRIAL
    health.succeeded("a")
    assert state(health) is State.AVAILABLE


def test_targets_of_one_endpoint_share_its_tries() -> None:
    clock = Clock()
    health = healthy(clock, choice("a"), choice("b", endpoint="a.test:443"))
    for _ in range(3):
        health.failed(unreachable())
    clock.advance(5)
    assert [health.grants("a"), health.grants("b")] == [True, False]


def test_every_relapse_ejects_for_twice_as_long() -> None:
    clock = Clock()
    health = healthy(clock)
    eject(health)
    found = []
    for _ in range(7):
        seconds = left(health)
        assert seconds is not None
        found.append(seconds)
        clock.advance(seconds)
        health.failed(attempt(seconds=0))
    assert found == [5, 10, 20, 40, 80, 120, 120]


@pytest.mark.parametrize(("well", "seconds"), [(100, 10), (121, 5)])
def test_who_was_well_for_long_begins_anew(well: float, seconds: float) -> None:
    clock = Clock()
    health = healthy(clock)
    eject(health)
    clock.advance(5)
    for _ in range(5):
        health.succeeded("a")
    clock.advance(well)
    eject(health)
    assert left(health) == seconds


def test_attempts_from_before_the_trial_do_not_count() -> None:
    clock = Clock()
    health = healthy(clock)
    eject(health)
    clock.advance(6)
    health.failed(attempt(seconds=30))
    for _ in range(9):
        health.succeeded("a", seconds=30)
    assert state(health) is State.TRIAL


def test_a_last_resort_that_works_is_restored() -> None:
    clock = Clock()
    health = healthy(clock)
    eject(health)
    clock.advance(1)
    for _ in range(19):
        health.succeeded("a")
    assert state(health) is State.EJECTED
    health.succeeded("a")
    assert state(health) is State.AVAILABLE


def test_the_active_check() -> None:
    clock = Clock()
    health = healthy(clock)
    health.checked("a.test:443", up=True)
    assert state(health) is State.AVAILABLE
    health.checked("a.test:443", up=False, reason="connection refused")
    assert health.standing("a").why == "connection refused"
    assert (state(health), left(health)) == (State.DOWN, None)
    health.checked("a.test:443", up=True)
    assert state(health) is State.TRIAL
    health.checked("unknown:1", up=False)


# what others say


def test_what_is_heard_never_shortens() -> None:
    clock = Clock()
    health = healthy(clock)
    health.failed(limited("a", 60))
    health.cooled("a", 10, "rate_limited")
    assert left(health) == 60
    health.cooled("a", 90, "rate_limited")
    assert left(health) == 90
    health.cooled("a", 1e9, "rate_limited")
    assert left(health) == 300
    eject(health, "b")
    health.heard(Notice(Kind.EJECTED, "b", 1, "x"))
    assert left(health, "b") == 5
    health.heard(Notice(Kind.EJECTED, "b", 30, "x"))
    assert left(health, "b") == 30


def test_what_is_heard_is_no_news() -> None:
    health = healthy(Clock())
    health.heard(Notice(Kind.COOLING, "a", 30, "x"))
    health.heard(Notice(Kind.EJECTED, "b", 30, "x"))
    health.heard(Notice(Kind.UNREACHABLE, "c.test:443", 30, "x"))
    assert [state(health, name) for name in "abc"] == [State.COOLING, State.EJECTED, State.EJECTED]
    assert health.news() == ()


def test_one_who_heard_of_an_ejection_tries_with_care() -> None:
    clock = Clock()
    health = healthy(clock)
    health.heard(Notice(Kind.EJECTED, "a", 40, "x"))
    clock.advance(40)
    assert state(health) is State.TRIAL
    health.failed(attempt(seconds=0))
    assert left(health) == 80


def test_news() -> None:
    health = healthy(Clock())
    health.failed(limited("a", 30))
    eject(health, "b")
    assert health.news() == (
        Notice(Kind.COOLING, "a", 30, "rate_limited (429)"),
        Notice(Kind.EJECTED, "b", 5, "3 failures in a row, at last: server_error (500)"),
    )
    assert health.news() == ()


# what there is


def test_unknown_targets_leave_nothing_behind() -> None:
    health = healthy(Clock())
    health.failed(attempt("x"))
    health.succeeded("x", 1.0)
    health.began("x")
    health.ended("x")
    health.cooled("x", 9, "x")
    health.heard(Notice(Kind.EJECTED, "x", 9, "x"))
    assert (health.in_flight("x"), health.first_byte("x"), state(health, "x")) == (0, None, State.AVAILABLE)
    assert set(health.snapshot()) == {"a", "b", "c"}


def test_reloads_keep_what_stays_and_forget_what_goes() -> None:
    health = healthy(Clock())
    health.failed(limited("a", 30))
    health.failed(limited("b", 30))
    health.keep([choice("a")])
    assert set(health.snapshot()) == {"a"}
    assert state(health) is State.COOLING
    health.keep([choice("a"), choice("b")])
    assert state(health, "b") is State.AVAILABLE


def test_the_snapshot() -> None:
    clock = Clock()
    health = healthy(clock)
    for _ in range(3):
        health.succeeded("a", 0.2)
    health.succeeded("b")
    health.failed(limited("b", 30))
    health.began("a")
    reports = health.snapshot()
    assert reports["a"].first_byte_seconds == pytest.approx(0.2)
    assert (reports["a"].served, reports["a"].failed, reports["a"].share, reports["a"].in_flight) == (3, 0, 0.75, 1)
    assert (reports["b"].served, reports["b"].failed, reports["b"].first_byte_seconds) == (1, 1, None)
    assert reports["b"].standing.seconds_left == 30
    clock.advance(301)
    assert health.snapshot()["a"].served == 0


def test_the_version_changes_with_the_ranks_and_only_then() -> None:
    clock = Clock()
    health = healthy(clock)
    version = health.version
    health.succeeded("a", 0.2)
    health.failed(attempt())
    health.began("a")
    assert health.version == version
    health.failed(limited("a", 3))
    assert health.version != version
    version = health.version
    clock.advance(2.9)
    assert health.version == version
    clock.advance(0.1)
    assert health.version != version
