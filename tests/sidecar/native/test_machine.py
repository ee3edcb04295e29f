"""A short run of the state machine; `make fuzz` runs it at length."""

from __future__ import annotations

from tests.sidecar.native import machine


def test_no_order_of_events_breaks_a_promise() -> None:
    machine.check(examples=100, steps=60)
