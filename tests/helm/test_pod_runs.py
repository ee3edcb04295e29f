"""The containers of a gateway's pod, run here as processes in the order that Kubernetes keeps, with the chart's own commands,
variables, probes and preStop. What is not here: namespaces, cgroups, the image.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.gateway import free_port
from tests.helm.chart import Json, Objects, containers, render
from tests.helm.test_test_pods import run_test
from tests.provider_thread import ProviderThread

START_SECONDS = 60
PORTS = (10000, 10001, 10002, 9902)


class Pod:
    """A context manager: init containers run, the others started, each started one waited for by its own startup probe."""

    def __init__(self, objects: Objects, folder: Path) -> None:
        self._folder = folder
        self._spec = objects.pod
        self.ports = {port: free_port() for port in PORTS}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "etc").mkdir()
        (folder / "run").mkdir()
        (folder / "etc" / "headgate.yaml").write_text(yaml.safe_dump(objects.config))

    def __enter__(self) -> Pod:
        try:
            for one in containers(self._spec):
                is_init = one in self._spec["initContainers"] and one.get("restartPolicy") != "Always"
                process = self._start(one)
                if is_init:
                    assert process.wait(START_SECONDS) == 0, one["name"]
                else:
                    self.processes[one["name"]] = process
                    self._await(one["startupProbe"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes.values()):
            if process.poll() is None:
                process.kill()
                process.wait()

    def here(self, text: str) -> str:
        """Paths and addresses of the pod as they are on this machine."""
        text = text.replace("/etc/headgate/", f"{self._folder}/etc/").replace(
            "/run/headgate", f"{self._folder}/run/headgate"
        )
        return re.sub(
            r"(?:0\.0\.0\.0|127\.0\.0\.1):(\d+)", lambda match: f"127.0.0.1:{self.ports[int(match[1])]}", text
        )

    def command(self, command: list[str]) -> list[str]:
        """The image's `headgate` is this one."""
        assert command[0] == "headgate"
        return [sys.executable, "-m", "headgate", *map(self.here, command[1:])]

    def environment(self, container: Json) -> dict[str, str]:
        told = {one["name"]: self.here(one["value"]) for one in container["env"]}
        return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(self._folder), **told}

    def _start(self, container: Json) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(container["command"]),
            env=self.environment(container),
            cwd=self._folder,
            start_new_session=True,
        )

    def probe(self, probe: Json) -> int:
        """The status, 0 for no answer."""
        got = probe["httpGet"]
        return self.get(got["port"], got["path"])[0]

    def get(self, port: int, path: str) -> tuple[int, str]:
        """Status and body; 0 for no answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[port]}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    def _await(self, probe: Json) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.probe(probe) != 200:
            assert time.monotonic() < deadline, probe
            time.sleep(0.1)

    def await_ready(self) -> None:
        """By every container's readiness probe."""
        for one in containers(self._spec):
            if "readinessProbe" in one:
                self._await(one["readinessProbe"])

    def container(self, name: str) -> Json:
        return next(one for one in containers(self._spec) if one["name"] == name)

    def end(self, name: str, seconds: float) -> int:
        """SIGTERM, and how the process ended."""
        self.processes[name].send_signal(signal.SIGTERM)
        return self.processes[name].wait(seconds)


@pytest.fixture
def provider() -> Iterator[ProviderThread]:
    with ProviderThread() as one:
        yield one


def _objects(provider: ProviderThread) -> Objects:
    objects = render({"drain": {"delay": 1, "timeout": 30}})
    configured = objects.one("ConfigMap")["data"]
    configured["headgate.yaml"] = configured["headgate.yaml"].replace(
        "http://rel-headgate-fake-provider:9101/v1", provider.base_url
    )
    return objects


def _test_pod(objects: Objects, name: str) -> Json:
    pod = next(one for one in objects.of("Pod") if one["metadata"]["name"].endswith(f"-test-{name}"))
    return dict(pod["spec"]["containers"][0])


def test_the_pod_begins_serves_drains_and_ends(provider: ProviderThread, tmp_path: Path) -> None:
    objects = _objects(provider)
    with Pod(objects, tmp_path) as pod:
        pod.await_ready()
        gateway = f"http://127.0.0.1:{pod.ports[10000]}"
        for name in ("ready", "chat"):
            done = run_test(_test_pod(objects, name), ready=f"127.0.0.1:{pod.ports[10002]}", gateway=gateway)
            assert done.returncode == 0, done.stdout + done.stderr
        # Only what may be looked at.
        assert "headgate_decisions_total" in pod.get(10002, "/metrics")[1]
        assert "envoy_" in pod.get(9902, "/stats/prometheus")[1]
        assert [pod.get(10002, path)[0] for path in ("/status", "/cache", "/report")] == [404, 404, 404]
        assert pod.get(9902, "/config_dump")[0] == 404
        assert (tmp_path / "run" / "headgate").stat().st_mode & 0o777 == 0o700

        # A stream is open while the pod is told to end.
        provider.behave("chunks=30,chunk_delay_ms=150")
        stream: dict[str, str] = {}
        client = threading.Thread(target=lambda: stream.update(text=_stream(gateway)))
        client.start()
        time.sleep(1)
        envoy = pod.container("envoy")
        began = time.monotonic()
        stop = subprocess.Popen(
            pod.command(envoy["lifecycle"]["preStop"]["exec"]["command"]), env=pod.environment(envoy)
        )
        _until(lambda: pod.probe(pod.container("headgate")["readinessProbe"]) == 503)
        assert stop.wait(40) == 0
        client.join(10)
        assert stream["text"].rstrip().endswith("data: [DONE]")
        assert 2 < time.monotonic() - began < 30
        # Kubernetes' order: containers, then those that restart among the init containers.
        assert pod.end("envoy", 10) == 0
        assert pod.end("headgate", 15) == 0


def test_a_broken_configuration_stops_the_pod_before_anything_runs(provider: ProviderThread, tmp_path: Path) -> None:
    objects = _objects(provider)
    pod = Pod(objects, tmp_path)
    (tmp_path / "etc" / "headgate.yaml").write_text("modles: {}\n")
    with pytest.raises(AssertionError, match="headgate-check"), pod:
        pass
    assert not pod.processes


def _until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _stream(gateway: str) -> str:
    body = b'{"model": "demo", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'
    headers = {"content-type": "application/json", "authorization": "Bearer sk-headgate-demo"}
    request = urllib.request.Request(f"{gateway}/v1/chat/completions", body, headers)
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=40) as answer:
        return str(answer.read().decode())
    return ""
