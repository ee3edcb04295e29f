from __future__ import annotations

from typing import Any

import pytest

from bench.arms import Direct
from bench.measure import Figures
from bench.probe import Seen, counted
from bench.processes import FLOATING, Processes, UnavailableError
from bench.report import sheet
from bench.sheet import Sheet, Spread
from bench.suite import Options, Results, Suite
from bench.verdicts import verdict
from bench.workloads import JSON


class Counting(Direct):
    counts = True
    settles = True


def figures(rate: float, **fields: Any) -> Figures:
    return Figures(rate, {"envoy": 40.0, "python": 20.0}, **fields)


def test_a_spread_is_the_median_and_both_ends() -> None:
    assert f"{Spread.of([3.0, 1.0, 2.0]):.1f}" == "2.0 (1.0-3.0)"
    assert f"{Spread.of([2.0]):.0f}" == "2"


def test_markdown_has_a_row_for_every_row() -> None:
    text = Sheet("title", ("a", "b", "c"), (("1", "2", "3"),), ("note",)).markdown()
    assert "| a | b | c |\n| --- | --- | ---: |\n| 1 | 2 | 3 |" in text
    assert text.endswith("- note\n")


def test_a_verdict_says_whether_it_is_reached() -> None:
    assert verdict("x", 1.0, 2.0, "us").endswith("1.0 us (at most 2: reached)")
    assert verdict("x", 1.0, 2.0, "times", at_least=True).endswith("(at least 2: NOT reached)")


def test_what_failed_and_what_is_missing_stand_in_the_table() -> None:
    results = Results(
        {
            (JSON.name, "bare envoy"): [figures(100.0), figures(100.0)],
            (JSON.name, "direct"): [figures(50.0, problems=("not 200",), failed=2), figures(70.0)],
        },
        {"other": "no such key"},
    )
    shown = sheet(Suite("x", "X", []), results, Options(2, 1.0, (), FLOATING))
    assert shown.rows[1][2:4] == ("60 (50-70)", "0.6")
    assert shown.rows[1][-1] == "not 200; 2 failed"
    assert "not available: other: no such key" in shown.notes
    assert results.failed()
    assert not results.failed(tolerated=("direct",))


def test_a_limit_that_was_not_counted_is_a_problem() -> None:
    arm = Counting()
    before = Seen("", requests_left=1000, tokens_left=100_000, usage=450)
    after = Seen("", requests_left=899, tokens_left=100_000 - 101 * 450, usage=450)
    assert counted(arm, JSON, before, after, 100) == ""
    assert "requests were counted" in counted(arm, JSON, before, after, 200)
    assert "does not say" in counted(arm, JSON, Seen(""), after, 100)
    unsettled = Seen("", requests_left=899, tokens_left=100_000 - 101 * 700, usage=450)
    assert "tokens were charged" in counted(arm, JSON, before, unsettled, 100)


def test_no_path_of_this_machine_is_written() -> None:
    processes = Processes()
    processes.spawn(["sh", "-c", f"echo {processes.folder}/headgate.yaml: wrong; exit 3"])
    with pytest.raises(UnavailableError, match=r"^ended with status 3: headgate\.yaml: wrong$"):
        processes.until(lambda: False, "it", 5)
    processes.stop()
