"""Arms: what stands between the load generator and the fake provider. Add one by adding a class to `ARMS`."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import ClassVar

import psutil

from headgate.render.values import Json
from headgate.up.supervisor import envoy_binary

KEY = "sk-bench"
_START_SECONDS = 40


def free_port() -> int:
    """A TCP port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Processes:
    """Child processes of the benchmark, stopped together."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="hg-bench-")
        self._running: list[subprocess.Popen[bytes]] = []

    def spawn(self, command: list[str]) -> psutil.Process:
        log = (Path(self.folder.name) / f"{len(self._running)}.log").open("wb")
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
        self._running.append(process)
        return psutil.Process(process.pid)

    def stop(self) -> None:
        for process in reversed(self._running):
            process.send_signal(signal.SIGINT)
        for process in self._running:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
        self.folder.cleanup()


def wait_for_port(port: int) -> None:
    """Return when somebody listens."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


class Upstream:
    """The fake provider in a process of its own, not recording."""

    def __init__(self, chunks: int) -> None:
        self._processes = Processes()
        self.port = free_port()
        self._chunks = chunks

    def start(self) -> None:
        command = [sys.executable, "-m", "headgate", "fake-provider", "--port", str(self.port), "--no-record"]
        self._processes.spawn([*command, "--behaviour", f"chunks={self._chunks}"])
        wait_for_port(self.port)

    def stop(self) -> None:
        self._processes.stop()


class Arm:
    """One way from the generator to the provider. `roles` names its processes."""

    name: ClassVar[str]

    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self.port = upstream_port
        self.processes = Processes()
        self.roles: dict[str, psutil.Process] = {}

    def start(self) -> None:
        """Bring it up; `roles` and `port` are set afterwards."""

    def stop(self) -> None:
        self.processes.stop()


class Direct(Arm):
    """No gateway: what the generator and the provider can do."""

    name = "direct"


class BareEnvoy(Arm):
    """Envoy with a router and nothing else."""

    name = "bare envoy"

    def start(self) -> None:
        self.port = free_port()
        path = Path(self.processes.folder.name) / "envoy.json"
        path.write_text(json.dumps(_bare(self.port, self.upstream_port)))
        command = [
            str(envoy_binary()),
            "-c",
            str(path),
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "error",
        ]
        self.roles = {"envoy": self.processes.spawn(command)}
        wait_for_port(self.port)


class Headgate(Arm):
    """`headgate up`: authentication, route, request and token limits, metering, settlement, access log."""

    name = "headgate"
    engine: ClassVar[str] = "grpcio"

    def start(self) -> None:
        self.port = free_port()
        admin = free_port()
        path = Path(self.processes.folder.name) / "headgate.yaml"
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        path.write_text(
            json.dumps(
                {
                    "listen": f"127.0.0.1:{self.port}",
                    "admin": f"127.0.0.1:{admin}",
                    "providers": {
                        "fake": {"dialect": "openai", "base_url": f"http://127.0.0.1:{self.upstream_port}/v1"}
                    },
                    "models": {"bench": {"provider": "fake"}},
                    "keys": [
                        {
                            "name": "bench",
                            "sha256": digest,
                            "limits": {"requests": "4000000000/hour", "tokens": "4000000000/hour"},
                        }
                    ],
                    "engine": self.engine,
                    "envoy": {"concurrency": 1},
                }
            )
        )
        supervisor = self.processes.spawn([sys.executable, "-m", "headgate", "up", "-c", str(path)])
        _wait_until_ready(admin)
        wait_for_port(self.port)
        for child in supervisor.children(recursive=True):
            self.roles["python" if " serve " in " ".join(child.cmdline()) else "envoy"] = child


class HeadgateNative(Headgate):
    """The same over our own gRPC engine."""

    name = "headgate, native engine"
    engine = "native"


def _wait_until_ready(admin: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=2) as response:
                if response.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError("headgate is not ready")


def _bare(port: int, upstream: int) -> Json:
    def at(value: int) -> Json:
        return {"socket_address": {"address": "127.0.0.1", "port_value": value}}

    manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    connection_manager = {
        "@type": manager,
        "stat_prefix": "bare",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "fake", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    listener = {
        "name": "bare",
        "address": at(port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connection_manager}]}
        ],
    }
    cluster = {
        "name": "fake",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "fake",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(upstream)}}]}],
        },
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


ARMS: tuple[type[Arm], ...] = (Direct, BareEnvoy, Headgate, HeadgateNative)
