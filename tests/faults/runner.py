"""Runs cases of the fault table against a running gateway."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.faults.house import FaultHouse
from tests.faults.outcome import Outcome, Seen, understand
from tests.faults.table import Case, Received
from tests.gateway import Answer, chat, post

_SECONDS = 20.0  # a client's patience; no case takes that long
AT_ONCE = 4


def run(address: str, house: FaultHouse, case: Case) -> Outcome:
    """One case: a real request over a connection of its own, and what it did to the providers."""
    before = house.received(case)
    seen, seconds = ask(address, case.name, stream=case.shape == "stream")
    after = house.received(case)
    return Outcome(seen, Received(after.a - before.a, after.b - before.b, after.c - before.c), seconds)


def run_all(
    address: str, house: FaultHouse, cases: tuple[Case, ...], done: Callable[[], None] = lambda: None
) -> Iterator[tuple[Case, Outcome]]:
    """All of them, a few at a time, in order."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for case, outcome in zip(cases, pool.map(lambda case: run(address, house, case), cases), strict=True):
            done()
            yield case, outcome


def ask(address: str, model: str, *, stream: bool) -> tuple[Seen, float]:
    """What a client sees of a chat request, and after how long it has seen everything."""
    answer: Answer | None = None
    started = time.monotonic()
    try:
        answer = post(address, chat(model, **({"stream": True} if stream else {})), timeout=_SECONDS)
    except (OSError, ValueError):  # no connection, or an end before there was a status
        answer = None
    return understand(answer), time.monotonic() - started
