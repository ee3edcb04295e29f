"""A pod as Kubernetes runs it: Envoy and the sidecar are processes of their own that share a folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.gateway import chat, free_port, key_entry, post
from tests.mount import Mount
from tests.provider_thread import ProviderThread

START_SECONDS = 40


class Pod:
    """`headgate render files`, `headgate envoy` and `headgate up` with `envoy.start: false`, as containers run them."""

    def __init__(self, base_url: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hg-pod-")
        folder = Path(self._folder.name)
        self.base_url = base_url
        self.keys = Mount(folder / "keys", {"fake": "sk-one"})
        self.config = Mount(folder / "config", {"headgate.yaml": self.text()})
        self.path = self.config.folder / "headgate.yaml"
        self.listen, self.probes, self.stats, admin = (f"127.0.0.1:{free_port()}" for _ in range(4))
        self.environment = {
            **os.environ,
            "HEADGATE_RUN_DIR": str(folder / "run"),
            "HEADGATE_LISTEN": self.listen,
            "HEADGATE_ADMIN": admin,
            "HEADGATE_PROBES": self.probes,
            "HEADGATE_ENVOY__START": "false",
            "HEADGATE_ENVOY__STATS": self.stats,
            "HEADGATE_ENVOY__CONCURRENCY": "1",
            "HEADGATE_DRAIN_DELAY": "1",
            "HEADGATE_DRAIN_TIMEOUT": "20",
        }
        self._log = folder / "log"
        self.up: subprocess.Popen[bytes] | None = None
        self.envoy: subprocess.Popen[bytes] | None = None

    def text(self, **changes: Any) -> str:
        provider = {"dialect": "openai", "base_url": self.base_url, "api_key": f"${{file:{self.keys.folder}/fake}}"}
        config = {
            "providers": {"fake": provider},
            "models": {"gpt-4o": {"provider": "fake"}},
            "keys": [key_entry("team-a", limits={"tokens": "100000000/min"})],
            **changes,
        }
        return yaml.safe_dump(config)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "headgate", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(self.command(*arguments), env=self.environment, stdout=log, stderr=log)

    def start_up(self) -> None:
        self.up = self._start("up", "-c", str(self.path))

    def start_envoy(self) -> None:
        self.envoy = self._start("envoy")

    def log(self) -> str:
        return self._log.read_text()

    def probe(self, address: str, path: str, method: str = "GET") -> int:
        try:
            request = urllib.request.Request(f"http://{address}{path}", method=method)
            with urllib.request.urlopen(request, timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def until(self, check: Any, seconds: float = START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if check():
                return
            time.sleep(0.05)
        raise AssertionError(f"it did not come true within {seconds} s:\n{self.log()[-4000:]}")

    def until_ready(self) -> None:
        self.until(lambda: self.probe(self.probes, "/readyz") == 200)

    def __enter__(self) -> Pod:
        prepared = self.run("render", "files", "-c", str(self.path))
        assert prepared.returncode == 0, prepared.stderr
        try:
            self.start_envoy()
            self.start_up()
            self.until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self.envoy, self.up):
            if process is not None:
                process.kill()
                process.wait()
        with contextlib.suppress(OSError):
            self._folder.cleanup()


@pytest.fixture
def provider() -> Iterator[ProviderThread]:
    with ProviderThread() as one:
        yield one


@pytest.fixture
def pod(provider: ProviderThread) -> Iterator[Pod]:
    with Pod(provider.base_url) as one:
        yield one


def test_probes_and_statistics_show_what_they_are_for_and_nothing_else(pod: Pod) -> None:
    assert post(pod.listen, chat()).status == 200
    assert [pod.probe(pod.probes, path) for path in ("/healthz", "/readyz", "/metrics")] == [200] * 3
    assert [pod.probe(pod.probes, path) for path in ("/status", "/cache", "/report")] == [404] * 3
    assert pod.probe(pod.probes, "/cache/purge", "POST") == 404
    assert [pod.probe(pod.stats, path) for path in ("/healthz", "/ready", "/stats/prometheus")] == [200] * 3
    others = ("/quitquitquit", "/config_dump", "/stats", "/ready/../config_dump", "/certs", "/")
    assert [pod.probe(pod.stats, path) for path in others] == [404] * len(others)
    assert pod.probe(pod.stats, "/ready", "POST") == 404


def test_mounted_files_are_swapped_under_load_and_nothing_is_lost(pod: Pod, provider: ProviderThread) -> None:
    statuses: list[int] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            statuses.append(post(pod.listen, chat()).status)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    pod.config.swap({"headgate.yaml": pod.text(keys=[key_entry("team-a"), key_entry("team-b")])})
    pod.until(lambda: post(pod.listen, chat(), key="sk-team-b").status == 200)
    pod.keys.swap({"fake": "sk-two"})

    def uses_the_new_key() -> bool:
        provider.requests.clear()
        post(pod.listen, chat())
        return any(one.header("authorization") == "Bearer sk-two" for one in provider.requests)

    pod.until(uses_the_new_key)
    pod.config.swap({"headgate.yaml": "models: {gpt-4o: {provider: nobody}}\n"})
    pod.until(lambda: "config_rejected" in pod.log())
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}
    assert len(statuses) > 20


def test_each_part_may_start_again_while_the_file_is_broken(pod: Pod) -> None:
    pod.config.swap({"headgate.yaml": "nonsense"})
    assert pod.envoy is not None
    pod.envoy.kill()
    pod.envoy.wait()
    pod.until(lambda: pod.probe(pod.probes, "/readyz") == 503)
    pod.start_envoy()
    pod.until_ready()
    assert post(pod.listen, chat()).status == 200

    pod.config.swap({"headgate.yaml": pod.text()})
    assert pod.up is not None
    pod.up.kill()
    pod.up.wait()
    pod.start_up()
    pod.until_ready()
    pod.until(lambda: post(pod.listen, chat()).status == 200)


def test_a_sidecar_whose_supervisor_was_killed_is_waited_for(pod: Pod) -> None:
    assert pod.up is not None
    (sidecar,) = psutil.Process(pod.up.pid).children()
    sidecar.suspend()  # a busy machine: it does not even get to hear that it should go
    pod.up.kill()
    pod.up.wait()
    pod.start_up()
    pod.until(lambda: "waiting: somebody has" in pod.log())
    sidecar.resume()
    pod.until(lambda: pod.log().count('"event":"serving"') == 2)
    pod.until_ready()
    assert post(pod.listen, chat()).status == 200


def test_the_end_of_a_pod_cuts_no_stream(pod: Pod, provider: ProviderThread) -> None:
    provider.behave("chunks=40,chunk_delay_ms=100")
    answers: list[bytes] = []
    started = time.monotonic()
    thread = threading.Thread(target=lambda: answers.append(post(pod.listen, chat(stream=True)).body))
    thread.start()
    pod.until(lambda: len(provider.requests) == 1)
    assert pod.up is not None
    assert pod.envoy is not None
    pod.up.send_signal(signal.SIGTERM)  # both containers are told at once; Envoy's preStop hook holds its signal back
    pod.until(lambda: pod.probe(pod.probes, "/readyz") == 503, 5)
    provider.behave("")
    assert post(pod.listen, chat()).status == 200  # who has not yet heard of it is still served
    hook = pod.run("drain")
    assert hook.returncode == 0, hook.stderr
    assert time.monotonic() - started > 3.5
    pod.envoy.send_signal(signal.SIGTERM)
    thread.join()
    assert answers[0].rstrip().endswith(b"data: [DONE]")
    assert pod.envoy.wait(10) == 0
    assert pod.up.wait(15) == 0
    used = [json.loads(line) for line in pod.log().splitlines() if '"event":"request"' in line]
    assert len(used) == 2  # what Envoy had to say at its end was heard


def test_drain_says_what_was_left(pod: Pod, provider: ProviderThread) -> None:
    provider.behave("chunks=100,chunk_delay_ms=100")
    thread = threading.Thread(target=lambda: post(pod.listen, chat(stream=True)), daemon=True)
    thread.start()
    pod.until(lambda: len(provider.requests) == 1)
    hook = pod.run("drain", "--delay", "0", "--timeout", "0.5")
    assert hook.returncode == 1
    assert "1 request(s) were still open" in hook.stderr


def test_without_files_there_is_a_clear_word(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headgate"]
    nowhere = {**os.environ, "HEADGATE_RUN_DIR": ""}
    nowhere.pop("HEADGATE_RUN_DIR")
    found = subprocess.run([*command, "envoy"], env=nowhere, capture_output=True, text=True, timeout=30, check=False)
    assert found.returncode == 1
    assert "HEADGATE_RUN_DIR" in found.stderr
    hook = [*command, "drain", "--run-dir", str(tmp_path / "nowhere")]
    found = subprocess.run(hook, env=nowhere, capture_output=True, text=True, timeout=30, check=False)
    assert found.returncode == 1
    assert "is no run folder of an Envoy" in found.stderr
    path = tmp_path / "headgate.yaml"
    path.write_text("models: {gpt-4o: {provider: nobody}}\n")
    files = [*command, "render", "files", "-c", str(path), "--run-dir", str(tmp_path / "run")]
    found = subprocess.run(files, capture_output=True, text=True, timeout=30, check=False)
    assert found.returncode == 1
    assert f"{path}:1" in found.stderr
    assert not (tmp_path / "run").exists()
    path.write_text("providers: {}\n")
    serve = [*command, "up", "-c", str(path)]
    apart = {**os.environ, "HEADGATE_ENVOY__START": "false"}
    found = subprocess.run(serve, env=apart, capture_output=True, text=True, timeout=30, check=False)
    assert found.returncode == 1
    assert "name the folder that Envoy reads" in found.stderr
