"""What stands behind the gateway: targets of different cases never share a fault."""

from __future__ import annotations

import json

import pytest

from tests.faults.__main__ import main
from tests.faults.house import FaultHouse
from tests.faults.runner import ask
from tests.faults.table import Received, table

NAMES = ("none-2-plain", "status_500-3-stream", "refuse-3-plain", "tls_failure-1-plain", "dns_failure-2-stream")
CASES = tuple(case for case in table() if case.name in NAMES)


def test_each_case_has_a_model_whose_targets_are_its_own() -> None:
    with FaultHouse(CASES) as house:
        config = json.loads(json.dumps(house.config()))
    models, providers = config["models"], config["providers"]
    assert set(models) == set(NAMES)
    assert models["status_500-3-stream"] == {
        "strategy": "weighted",
        "targets": [
            {"provider": "a", "model": "fake:status=500,tag=status_500-3-stream-a", "priority": 0},
            {"provider": "b", "model": "fake:status=500,tag=status_500-3-stream-b", "priority": 1},
            {"provider": "c", "model": "fake:tag=status_500-3-stream-c", "priority": 2},
        ],
        "attempts": 3,
        "timeouts": {"first_byte": 1, "idle": 1},
    }
    assert [one["provider"] for one in models["refuse-3-plain"]["targets"]] == [
        "a-refuse-3-plain",
        "b-refuse-3-plain",
        "c",
    ]
    assert providers["a-refuse-3-plain"]["base_url"] != providers["b-refuse-3-plain"]["base_url"]
    assert providers["a-tls_failure-1-plain"]["base_url"].startswith("https://127.0.0.1:")
    assert providers["a-dns_failure-2-stream"]["base_url"] == "http://a-dns-failure-2-stream.invalid:80/v1"
    faulty = [
        target["model"] + target["provider"] for model in models.values() for target in model["targets"]
    ]  # fmt: skip
    assert len(faulty) == len(set(faulty))


def test_only_a_cases_own_requests_are_counted() -> None:
    with FaultHouse(CASES) as house:
        address = house.config()["providers"]["b"]["base_url"].removeprefix("http://").removesuffix("/v1")
        ask(address, "fake:status=500,tag=status_500-3-stream-b", stream=False)
        counted = {case.name: house.received(case) for case in CASES}
    assert counted.pop("status_500-3-stream") == Received(0, 1, 0)
    assert set(counted.values()) == {Received()}


@pytest.mark.parametrize("arguments", [["--only", "nothing of the kind"], ["--only", "hang", "--write", "x.md"]])
def test_what_cannot_be_run_is_said_at_once(arguments: list[str]) -> None:
    assert main(arguments) == 2
