"""When a target is left out, and for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """All times are in seconds.

    Rate limits: a 429 that names no time cools a target for `cool_down`, doubled up to `longest_guess` for every
    further one without a success between. A time that it names counts from `shortest_cool_down` (reports are late by
    up to a quarter of a second, so less has passed already) to `longest_cool_down`: providers name hours for a daily
    quota, or nonsense, and one request in five minutes is a small price to learn that it works again.

    Failures: `failures_in_a_row`, or `failure_share` of at least `least_attempts` within `window`, eject a target for
    `ejection`, and for twice as long, up to `longest_ejection`, each time that it fails again before it has been well
    for `longest_ejection`. Then it is on trial: one request in `trial_interval` (of this process) tries it first,
    `trial_successes` restore it, one failure ejects it.
    """

    cool_down: float = 5.0
    longest_guess: float = 60.0
    shortest_cool_down: float = 0.5
    longest_cool_down: float = 300.0
    failures_in_a_row: int = 3
    failure_share: float = 0.5
    least_attempts: int = 10
    window: int = 30
    ejection: float = 5.0
    longest_ejection: float = 120.0
    trial_interval: float = 1.0
    trial_successes: int = 5
    latency_fade: float = 30.0  # after this long a sample of the time to the first byte weighs 1/e
