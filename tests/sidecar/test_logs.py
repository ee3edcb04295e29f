"""Log lines of processes that share a stream, as the workers of one gateway do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import structlog
from sidecar import logs
logs.configure("info", "json")
for number in range(2000):
    structlog.get_logger().info("line", process=PROCESS, number=number)
"""


@pytest.mark.parametrize("flags", [[], ["-u"]], ids=["buffered", "unbuffered"])
def test_lines_of_several_processes_stay_whole(tmp_path: Path, flags: list[str]) -> None:
    path = tmp_path / "log"
    with path.open("wb") as stream:
        processes = [
            subprocess.Popen([sys.executable, *flags, "-c", SCRIPT.replace("PROCESS", str(process))], stderr=stream)
            for process in range(3)
        ]
        assert [process.wait(60) for process in processes] == [0, 0, 0]
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    told = {(line["process"], line["number"]) for line in lines}
    assert told == {(process, number) for process in range(3) for number in range(2000)}
    assert len(lines) == 6000
