"""Who settles: what is rendered, what is served, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from extproc.accesslog import RequestRecord
from extproc.limits import Limits
from headgate.app import Sidecar, _sink
from headgate.render.layout import Layout
from headgate.reporting import Reporter
from headgate.settings import Settings
from headgate.settling import Only, attached, check_only, settles_in_log
from headgate.target_watch import TargetWatch
from sidecar.errors import ConfigError
from tests.gateway import free_port, key_entry

TOKENS, REQUESTS = {"tokens": "1000/hour"}, {"requests": "1000/hour"}


def settings(of_key: dict[str, str] = TOKENS, **changes: Any) -> Settings:
    return Settings.model_validate({"keys": [key_entry("a", limits=of_key)], **changes})


@pytest.mark.parametrize(
    ("changes", "in_log", "in_log_attached"),
    [
        ({}, True, False),
        ({"store": "redis://r"}, True, True),
        ({"workers": 2}, False, False),
        ({"workers": 2, "store": "redis://r"}, True, True),
        ({"limits": {"settle": "call"}}, False, False),
        ({"limits": {"settle": "log"}}, True, True),
        ({"limits": {"enforce": "in_process"}}, True, True),
    ],
)
def test_the_log_settles_where_it_reaches_the_counters(
    changes: dict[str, Any], in_log: bool, in_log_attached: bool
) -> None:
    made = settings(**changes)
    assert (settles_in_log(made), settles_in_log(attached(made))) == (in_log, in_log_attached)


@pytest.mark.parametrize(
    ("only", "limits", "changes", "fits"),
    [
        (None, TOKENS, {}, True),
        ("extproc", REQUESTS, {}, True),
        ("extproc", TOKENS, {}, False),
        ("extproc", TOKENS, {"limits": {"settle": "call"}}, True),
        ("extproc", TOKENS, {"store": "redis://r"}, True),
        ("extproc", TOKENS, {"limits": {"enforce": "in_process"}}, True),
        ("ratelimit", TOKENS, {}, True),
        ("ratelimit", TOKENS, {"limits": {"enforce": "in_process"}}, False),
    ],
)
def test_one_service_alone(only: Only | None, limits: dict[str, str], changes: dict[str, Any], fits: bool) -> None:
    if fits:
        check_only(only, settings(limits, **changes))
        return
    with pytest.raises(ConfigError, match="--only"):
        check_only(only, settings(limits, **changes))


async def test_a_reload_cannot_bring_what_nobody_would_settle(tmp_path: Path) -> None:
    path = tmp_path / "headgate.yaml"

    def write(limits: dict[str, str]) -> Settings:
        made = settings(limits, admin=f"127.0.0.1:{port}")
        path.write_text(json.dumps({"admin": made.admin, "keys": [key_entry("a", limits=limits)]}))
        return made

    port = free_port()
    sidecar = Sidecar(path, write(REQUESTS), Layout(tmp_path), only="extproc")
    write(TOKENS)
    assert sidecar.reload() is False
    write({"requests": "2000/hour"})
    assert sidecar.reload() is True


@pytest.mark.parametrize(("only", "served"), [("extproc", {"extproc"}), ("ratelimit", {"ratelimit"})])
async def test_one_service_alone_is_one(tmp_path: Path, only: Only, served: set[str]) -> None:
    made = settings(store="redis://127.0.0.1:1", admin=f"127.0.0.1:{free_port()}")
    (tmp_path / "headgate.yaml").write_text("{}")
    sidecar = Sidecar(tmp_path / "headgate.yaml", made, Layout(tmp_path), only=only)
    assert set(sidecar._servers) == served


def test_what_is_reported_cannot_keep_anything_from_being_settled() -> None:
    settled: list[Sequence[RequestRecord]] = []

    class Settler(Limits):
        def __init__(self) -> None: ...

        def settle(self, records: Any) -> None:
            settled.append(records)

    class Broken(Reporter):
        def __init__(self) -> None: ...

        def finished(self, records: Sequence[RequestRecord]) -> None:
            raise OSError("no space left")

    with pytest.raises(OSError, match="space"):
        _sink(Broken(), TargetWatch.__new__(TargetWatch), Settler())([])
    assert settled == [[]]
