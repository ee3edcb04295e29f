"""Targets, a clock that stands, and failures."""

from __future__ import annotations

from typing import Any

from extproc.balance.attempt import Attempt, Reason
from extproc.balance.choice import Choice
from extproc.balance.health import Health
from extproc.balance.settings import HealthSettings


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def choice(name: str = "a", **changes: Any) -> Choice:
    values: dict[str, Any] = {"provider": name, "endpoint": f"{name}.test:443", "account": f"{name}/0", "model": "m"}
    return Choice(name, **{**values, **changes})


def healthy(clock: Clock, *choices: Choice, **settings: Any) -> Health:
    """A `Health` that knows these targets, by default a, b and c."""
    health = Health(clock, HealthSettings(**settings))
    health.keep(choices or [choice(name) for name in "abc"])
    return health


def attempt(
    cluster: str = "a",
    reason: Reason = Reason.SERVER_ERROR,
    status: int = 500,
    retry_after: float | None = None,
    seconds: float = 0.01,
) -> Attempt:
    return Attempt(cluster, reason, status, retry_after, seconds)


def limited(cluster: str = "a", retry_after: float | None = None, seconds: float = 0.01) -> Attempt:
    return Attempt(cluster, Reason.RATE_LIMITED, 429, retry_after, seconds)


def unreachable(cluster: str = "a", reason: Reason = Reason.CONNECT) -> Attempt:
    return Attempt(cluster, reason, 0, None, 0.01)


def eject(health: Health, cluster: str = "a") -> None:
    """Three failures in a row."""
    for _ in range(3):
        health.failed(attempt(cluster))
