"""Two gateways that want the same: one has it, the other says so and leaves the first alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.gateway import chat, free_port, key_entry, post
from tests.provider_thread import ProviderThread

READY, SECONDS = "Ctrl-C stops it", 60


class Up:
    """`headgate up` at these addresses, its words in a file."""

    def __init__(self, path: Path, listen: str, admin: str, out: Path, run_dir: Path | None = None) -> None:
        self._out = out
        environment = {**os.environ, "HEADGATE_LISTEN": listen, "HEADGATE_ADMIN": admin}
        if run_dir is not None:
            environment["HEADGATE_RUN_DIR"] = str(run_dir)
        with out.open("wb") as file:
            command = [sys.executable, "-m", "headgate", "up", "-c", str(path)]
            self.process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)

    def said(self) -> str:
        return self._out.read_text()

    def started(self) -> bool:
        """Whether it came up; waits until that is known."""
        while READY not in self.said():
            try:
                self.process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            return False
        return True

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(SECONDS)


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[Path]:
    with ProviderThread() as provider:
        path = tmp_path / "headgate.yaml"
        config = {
            "providers": {"fake": {"dialect": "openai", "base_url": provider.base_url, "api_key": "sk"}},
            "models": {"gpt-4o": {"provider": "fake"}},
            "keys": [key_entry("team-a")],
        }
        path.write_text(yaml.safe_dump(config))
        yield path


def addresses() -> tuple[str, str]:
    return f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_at_the_same_moment_at_the_same_addresses(
    configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("HEADGATE_WORKERS", workers)
    listen, admin = addresses()
    both = [Up(configured, listen, admin, tmp_path / name) for name in ("one", "other")]
    try:
        came = [one.started() for one in both]
        assert sorted(came) == [False, True], both[0].said() + both[1].said()
        lost, won = both[came.index(False)], both[came.index(True)]
        assert lost.process.returncode == 1
        assert f"cannot bind {admin}" in lost.said()
        assert {post(listen, chat()).status for _ in range(20)} == {200}
        assert won.process.poll() is None
    finally:
        for one in both:
            one.stop()


def test_with_the_same_run_folder(configured: Path, tmp_path: Path) -> None:
    listen, admin = addresses()
    folder = tmp_path / "run"
    first = Up(configured, listen, admin, tmp_path / "one", folder)
    try:
        assert first.started(), first.said()
        before = {path.name: path.read_bytes() for path in folder.glob("*.json")}
        second = Up(configured, *addresses(), tmp_path / "other", folder)
        assert not second.started()
        assert second.process.returncode == 1
        assert f"run_dir: the gateway of process {first.process.pid} has {folder}" in second.said()
        assert {path.name: path.read_bytes() for path in folder.glob("*.json")} == before
        assert post(listen, chat()).status == 200
    finally:
        first.stop()
    third = Up(configured, listen, admin, tmp_path / "third", folder)
    try:
        assert third.started(), third.said()
    finally:
        third.stop()
