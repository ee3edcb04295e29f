"""Several workers shown as one, over real admin sockets; one of them may be gone."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headgate.admin import AdminServer, AdminSources, Dependency
from headgate.worker_reports import WorkerReport, WorkerReports
from sidecar.metrics import Metrics


class Worker:
    """A worker's admin socket, and what it says there."""

    def __init__(self, folder: Path, number: int) -> None:
        self.address = f"unix://{folder / f'admin-{number}.sock'}"
        self.store = Dependency("answers", ready=True)
        self.hash = "abc"
        self.metrics = Metrics(number)
        self.server = AdminServer(
            self.address, AdminSources(self.dependencies, self.exposition, self.status, self.report)
        )

    async def dependencies(self) -> Mapping[str, Dependency]:
        return {"extproc": Dependency("serving", ready=True), "store": self.store}

    async def exposition(self) -> bytes:
        return self.metrics.exposition()

    async def status(self) -> Mapping[str, Any]:
        return {"version": "1", "config": {"file": "x", "hash": self.hash}}

    async def report(self) -> bytes:
        report = WorkerReport(await self.dependencies(), self.metrics.snapshot(), await self.status())
        return msgspec.json.encode(report)


@pytest.fixture
async def workers() -> AsyncIterator[list[Worker]]:
    with tempfile.TemporaryDirectory(prefix="hg-") as folder:  # short: a socket's path has a limit
        made = [Worker(Path(folder), number) for number in range(2)]
        for worker in made:
            await worker.server.start()
        yield made
        for worker in made:
            await worker.server.stop()


async def test_where_workers_agree_it_is_said_once(workers: list[Worker]) -> None:
    reports = WorkerReports([worker.address for worker in workers])
    assert await reports.answers() == [True, True]
    found = await reports.dependencies()
    assert found == {"extproc": Dependency("serving", ready=True), "store": Dependency("answers", ready=True)}
    status = await reports.status()
    assert status["config"]["hash"] == "abc"
    assert status["workers"] == [{"config": "abc"}, {"config": "abc"}]


async def test_a_worker_that_differs_is_named(workers: list[Worker]) -> None:
    workers[1].store = Dependency("down", ready=False)
    workers[1].hash = "def"
    reports = WorkerReports([worker.address for worker in workers])
    assert (await reports.dependencies())["store (worker 1)"] == Dependency("down", ready=False)
    status = await reports.status()
    assert status["config"]["hash"] == ""
    assert status["workers"] == [{"config": "abc"}, {"config": "def"}]


async def test_a_worker_that_is_gone_is_missed(workers: list[Worker]) -> None:
    await workers[0].server.stop()
    reports = WorkerReports([worker.address for worker in workers])
    assert await reports.answers() == [False, True]
    assert (await reports.dependencies())["worker 0"] == Dependency("does not answer", ready=True)
    status = await reports.status()
    assert (status["config"]["hash"], status["workers"]) == ("", [None, {"config": "abc"}])
    await workers[1].server.stop()
    assert (await reports.status()) == {"workers": [None, None]}
    assert not any(one.ready for one in (await reports.dependencies()).values())


async def test_their_series_are_added(workers: list[Worker]) -> None:
    for count, worker in enumerate(workers, 2):
        worker.metrics.decisions.labels("forward").inc(count)
        worker.metrics.decision_seconds.observe(1e-5)
    text = (await WorkerReports([worker.address for worker in workers]).metrics()).decode()
    assert 'headgate_decisions_total{outcome="forward"} 5.0' in text
    assert 'headgate_worker_decisions_total{worker="1"} 3.0' in text
    assert "headgate_decision_duration_seconds_count 2.0" in text
