from __future__ import annotations

import threading
import time

import psutil

from bench.cpu import Account, Reading, python_us, seconds


def burn(cpu_seconds: float) -> None:
    until = time.thread_time() + cpu_seconds
    while time.thread_time() < until:
        pass


def test_the_cpu_of_every_thread_counts_also_of_one_that_has_ended() -> None:
    account = Account({"me": psutil.Process()})
    thread = threading.Thread(target=burn, args=(0.15,))
    thread.start()
    thread.join()
    burn(0.1)
    assert 0.2 < account.seconds()["me"] < 0.6
    assert 20_000 < account.us_per(10)["me"] < 60_000


def test_a_short_time_is_seen_that_a_tick_would_not_show() -> None:
    account = Account({"me": psutil.Process()})
    burn(0.003)
    assert 0.002 < account.seconds()["me"] < 0.1


def test_ticks_win_when_they_know_of_more() -> None:
    assert seconds(Reading(1.0, {1: 0}), Reading(2.0, {1: 100_000_000})) == 1.0
    assert seconds(Reading(1.0, {1: 0}), Reading(1.1, {1: 100_000_000})) == 0.1
    assert seconds(Reading(1.0, {}), Reading(1.5, {})) == 0.5


def test_python_is_every_worker_and_the_supervisor() -> None:
    assert python_us({"envoy": 1, "redis": 2, "python 1": 4, "python 2": 8, "supervisor": 16}) == 28
