"""The fault table against a running gateway. `python -m tests.faults` shows the same as a table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults import runner
from tests.faults.house import FaultHouse
from tests.faults.table import Case, table
from tests.gateway import Gateway


@pytest.fixture(scope="module")
def house() -> Iterator[FaultHouse]:
    with FaultHouse(table()) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(house: FaultHouse) -> Iterator[Gateway]:
    with Gateway(house.config()) as made:
        yield made


@pytest.mark.parametrize("case", table(), ids=lambda case: case.name)
def test_what_comes_of_a_fault(gateway: Gateway, house: FaultHouse, case: Case) -> None:
    assert runner.run(gateway.listen, house, case).differences(case.expected) == ()
