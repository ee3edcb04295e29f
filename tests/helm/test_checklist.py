"""The checklist is whole, and every yes has its proof."""

from __future__ import annotations

import re
from pathlib import Path

from tests.helm.chart_readme import checklist


def test_every_point_is_answered() -> None:
    points = checklist()
    assert [one["point"] for one in points] == list(range(1, 41))
    for one in points:
        assert set(one) == {"point", "what", "answer", "why", "proof"}
        assert one["answer"] in ("yes", "no", "partly")
        assert one["why"]


def test_every_proof_is_a_test() -> None:
    here = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    tests = set(re.findall(r"^(?:async )?def (test_\w+)", here, re.MULTILINE))
    for one in checklist():
        assert one["proof"] or one["answer"] == "no"
        assert set(one["proof"]) <= tests, one["point"]
