"""A node in miniature: runs pods as Helm renders them, each container as a process in the image's file system.

What is real: commands, environment, volumes (ConfigMaps and Secrets as links that are swapped), users, read-only roots,
init containers, sidecars (`restartPolicy: Always`), probes, preStop hooks, signals, grace periods, Services with the delay
with which they learn of a pod's end. What is not: one network for all pods, where each has a loopback address of its own
that stands for 0.0.0.0 and for 127.0.0.1; no limits on memory or CPU, no seccomp.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import random
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.image import container
from tests.mount import Mount

Json = dict[str, Any]
# Other test processes have nodes of their own.
_NETWORK = f"127.{10 + os.getpid() % 240}"
_ADDRESSES = itertools.count(10)
_POLL_SECONDS = 0.1
_START_SECONDS = 90.0


class Node:
    """Where pods run. `objects` are what the API server would hold."""

    def __init__(self, rootfs: Path, folder: Path) -> None:
        self.rootfs = rootfs
        self.folder = folder
        self.objects: dict[tuple[str, str], Json] = {}
        self.pods: list[Pod] = []
        self.services: dict[str, Service] = {}

    def apply(self, objects: list[Json]) -> None:
        """Take objects over; running pods see other ConfigMaps and Secrets in their volumes."""
        for one in objects:
            self.objects[one["kind"], one["metadata"]["name"]] = one
        for (kind, name), one in self.objects.items():
            if kind == "Service" and name not in self.services:
                self.services[name] = Service(self, one)
        for pod in self.pods:
            pod.refresh()

    def files(self, volume: Json) -> dict[str, str] | None:
        """The content of a volume that is a ConfigMap or a Secret."""
        sources = volume.get("projected", {}).get("sources") or [volume]
        if not any("configMap" in one or "secret" in one for one in sources):
            return None
        return {name: text for one in sources for name, text in self._source(one).items()}

    def _source(self, source: Json) -> dict[str, str]:
        if "configMap" in source:
            data = dict(self.objects["ConfigMap", source["configMap"]["name"]]["data"])
        else:
            secret = source["secret"]
            data = secret_data(self.objects["Secret", secret.get("secretName") or secret["name"]])
        named = source.get("configMap") or source["secret"]
        data = {key: self.resolve(text) for key, text in data.items()}
        if items := named.get("items"):
            return {item["path"]: data[item["key"]] for item in items}
        return data

    def resolve(self, text: str) -> str:
        """Names of Services as their addresses: there is no name server."""
        for name, service in self.services.items():
            # Not a folder of that name.
            before = r"(?:(?<=://)|(?<![\w./-]))"
            full = rf"{before}{re.escape(name)}(?:\.[a-z0-9-]+\.svc(?:\.cluster\.local)?)?(?=:\d|[/\"])"
            text = re.sub(full, service.address, text)
        return text

    def start(self, pod: Json, labels: Mapping[str, str]) -> Pod:
        """Run a pod's spec; returns at once."""
        made = Pod(self, pod, labels, self.folder / f"pod-{len(self.pods)}")
        self.pods.append(made)
        return made

    def deploy(self, deployment: Json) -> Pod:
        """One pod of a Deployment."""
        template = deployment["spec"]["template"]
        return self.start(template["spec"], template["metadata"]["labels"])

    def close(self) -> None:
        """End everything at once."""
        for service in self.services.values():
            service.close()
        for pod in self.pods:
            pod.kill()


def secret_data(secret: Json) -> dict[str, str]:
    """What a Secret holds."""
    plain = {name: base64.b64decode(text).decode() for name, text in secret.get("data", {}).items()}
    return {**plain, **secret.get("stringData", {})}


class Pod:
    """One pod: starts in a thread of its own, in the order that Kubernetes keeps."""

    def __init__(self, node: Node, spec: Json, labels: Mapping[str, str], folder: Path) -> None:
        self.node = node
        self.spec = spec
        self.labels = labels
        self.address = f"{_NETWORK}.77.{next(_ADDRESSES)}"
        self.folder = folder
        folder.mkdir()
        folder.chmod(0o755)
        self.terminating = False
        self.failed: str | None = None
        self.exit_codes: dict[str, int] = {}
        self._mounts: dict[str, Mount] = {}
        self._volumes = {one["name"]: self._volume(one) for one in spec.get("volumes", [])}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._thread = threading.Thread(target=self._start, daemon=True)
        self._thread.start()

    def _volume(self, volume: Json) -> Path:
        place: Path = self.folder / volume["name"]
        files = self.node.files(volume)
        if files is not None:
            self._mounts[volume["name"]] = Mount(place, files)
        else:
            assert "emptyDir" in volume, volume
            place.mkdir()
            place.chmod(0o777)
        return place

    def refresh(self) -> None:
        """Mounted ConfigMaps and Secrets become what the objects hold by now."""
        for volume in self.spec.get("volumes", []):
            files = self.node.files(volume)
            if files is not None:
                self._mounts[volume["name"]].swap(files)

    def _here(self, text: str) -> str:
        """Addresses of the pod's own network on this machine's."""
        return self.node.resolve(text).replace("0.0.0.0", self.address).replace("127.0.0.1", self.address)

    def environment(self, one: Json) -> dict[str, str]:
        """A container's variables, references resolved."""
        found: dict[str, str] = {}
        for entry in one.get("env", []):
            if "value" in entry:
                value = str(entry["value"])
            else:
                source = entry["valueFrom"]
                if "secretKeyRef" in source:
                    reference = source["secretKeyRef"]
                    value = secret_data(self.node.objects["Secret", reference["name"]])[reference["key"]]
                else:
                    value = {"status.podIP": self.address}[source["fieldRef"]["fieldPath"]]
            for name, known in found.items():
                value = value.replace(f"$({name})", known)
            found[entry["name"]] = self._here(value)
        return found

    def _mounted(self, one: Json) -> dict[str, Path]:
        return {mount["mountPath"]: self._volumes[mount["name"]] for mount in one.get("volumeMounts", [])}

    def _command(self, one: Json) -> list[str]:
        words = [*one.get("command", ["headgate"]), *one.get("args", [])]
        return [self._here(str(word)) for word in words]

    def log(self, name: str) -> str:
        """What a container has said."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.is_file() else ""

    def _run(self, one: Json) -> subprocess.Popen[bytes]:
        with (self.folder / f"{one['name']}.log").open("ab") as log:
            process = container.start(
                self.node.rootfs, self._command(one), self.environment(one), self._mounted(one), log
            )
        self.processes[one["name"]] = process
        return process

    def exec(self, name: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        """A command in a container, as `kubectl exec` and preStop hooks run it."""
        one = next(each for each in self._all() if each["name"] == name)
        words = [self._here(str(word)) for word in command]
        return container.run(self.node.rootfs, words, self.environment(one), self._mounted(one))

    def _all(self) -> list[Json]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def _sidecars(self) -> list[Json]:
        return [one for one in self.spec.get("initContainers", []) if one.get("restartPolicy") == "Always"]

    def _start(self) -> None:
        for one in self.spec.get("initContainers", []):
            process = self._run(one)
            if one.get("restartPolicy") == "Always":
                if not self._until(lambda one=one: self._passes(one, "startupProbe")):  # type: ignore[misc]
                    self.failed = f"{one['name']} did not start:\n{self.log(one['name'])}"
                    return
            elif process.wait() != 0:
                self.failed = f"{one['name']} failed:\n{self.log(one['name'])}"
                return
        for one in self.spec["containers"]:
            self._run(one)

    def _until(self, check: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and not self.terminating:
            if check():
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def _passes(self, one: Json, kind: str) -> bool:
        """Whether a probe of a container succeeds; one that has none is well while it runs."""
        process = self.processes.get(one["name"])
        if process is None or process.poll() is not None:
            return False
        probe = one.get(kind)
        if probe is None:
            return True
        named = {port["name"]: port["containerPort"] for port in one.get("ports", [])}
        if "httpGet" in probe:
            get = probe["httpGet"]
            return _http(f"http://{self.address}:{named.get(get['port'], get['port'])}{get['path']}")
        if "grpc" in probe:
            return _serves(f"{self.address}:{probe['grpc']['port']}", probe["grpc"].get("service", ""))
        if "tcpSocket" in probe:
            return _connects(self.address, int(named.get(probe["tcpSocket"]["port"], probe["tcpSocket"]["port"])))
        return self.exec(one["name"], probe["exec"]["command"]).returncode == 0

    def probe(self, kind: str) -> bool:
        """Whether every container that runs for good passes its probe of this kind."""
        return all(self._passes(one, kind) for one in [*self._sidecars(), *self.spec["containers"]])

    @property
    def ready(self) -> bool:
        """As its Services see it."""
        return not self.terminating and self.probe("readinessProbe")

    def until_ready(self) -> Pod:
        """Wait for it. Raises `AssertionError` with the logs."""
        if not self._until(lambda: self.failed is not None or self.ready) or self.failed:
            logs = "\n".join(f"--- {one['name']}\n{self.log(one['name'])[-3000:]}" for one in self._all())
            raise AssertionError(f"the pod did not become ready: {self.failed}\n{logs}")
        return self

    def wait(self, seconds: float = 120.0) -> dict[str, int]:
        """A pod that ends by itself: the exit status of each container."""
        self._thread.join(seconds)
        return {one["name"]: self.processes[one["name"]].wait(seconds) for one in self.spec["containers"]}

    def delete(self) -> float:
        """End it as Kubernetes does; returns the seconds that took. Raises `AssertionError` when it had to be killed."""
        started = time.monotonic()
        deadline = started + self.spec.get("terminationGracePeriodSeconds", 30)
        self.terminating = True
        enders = [threading.Thread(target=self._end, args=(one, deadline)) for one in self.spec["containers"]]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()
        for one in reversed(self._sidecars()):
            self._end(one, deadline)
        return time.monotonic() - started

    def _end(self, one: Json, deadline: float) -> None:
        hook = one.get("lifecycle", {}).get("preStop", {})
        if "exec" in hook:
            self.exec(one["name"], hook["exec"]["command"])
        elif "sleep" in hook:
            time.sleep(hook["sleep"]["seconds"])
        process = self.processes[one["name"]]
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        if process.poll() is None:
            process.kill()
        self.exit_codes[one["name"]] = process.wait()

    def kill(self) -> None:
        """End it at once."""
        self.terminating = True
        for process in self.processes.values():
            process.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Service:
    """A Service: a loopback address whose connections go to ready pods, of whose end it learns a second late."""

    DELAY = 1.0

    def __init__(self, node: Node, spec: Json) -> None:
        self._node = node
        self._spec = spec["spec"]
        self.address = f"{_NETWORK}.78.{next(_ADDRESSES)}"
        self._pods: list[Pod] = []
        self._loop = asyncio.new_event_loop()
        self._closing = threading.Event()
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        if not started.wait(10):
            raise RuntimeError(f"nothing can listen at {self.address}, ports {list(self.ports)}")
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def ports(self) -> Iterator[tuple[int, int]]:
        """Its ports, and those of the pods."""
        for port in self._spec["ports"]:
            target = port.get("targetPort", port["port"])
            yield port["port"], int(target)

    def _watch(self) -> None:
        selector = self._spec.get("selector", {}).items()
        while not self._closing.wait(0.2):
            chosen = [pod for pod in list(self._node.pods) if selector <= pod.labels.items()]
            ready = [pod for pod in chosen if pod.ready]
            gone = [pod for pod in self._pods if pod not in ready]
            self._pods = [*ready, *gone]
            if gone:
                self._closing.wait(self.DELAY)
                self._pods = [pod for pod in self._pods if pod not in gone]

    def _serve(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)

        async def listen() -> None:
            for port, target in self.ports:
                await asyncio.start_server(
                    lambda reader, writer, target=target: self._proxy(reader, writer, target),  # type: ignore[misc]
                    self.address,
                    port,
                )

        self._loop.run_until_complete(listen())
        started.set()
        self._loop.run_forever()

    async def _proxy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int) -> None:
        if not self._pods:
            writer.close()
            return
        pod = random.choice(self._pods)
        try:
            upstream_reader, upstream = await asyncio.open_connection(pod.address, target)
        except OSError:
            writer.close()
            return
        with contextlib.suppress(asyncio.CancelledError):  # at the end of the service
            await asyncio.gather(_copy(reader, upstream), _copy(upstream_reader, writer))

    def until_ready(self, pods: int = 1) -> None:
        """Wait until so many pods stand behind it."""
        deadline = time.monotonic() + _START_SECONDS
        while len(self._pods) < pods:
            assert time.monotonic() < deadline, "the service has no pods"
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """Stop serving."""
        self._closing.set()
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join()

    def _stop(self) -> None:
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        ended = asyncio.gather(*tasks, return_exceptions=True)
        ended.add_done_callback(lambda _: self._loop.stop())


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


def _http(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status < 400)
    except (OSError, urllib.error.HTTPError):
        return False


def _serves(target: str, service: str) -> bool:
    with grpc.insecure_channel(target) as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=2)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True
