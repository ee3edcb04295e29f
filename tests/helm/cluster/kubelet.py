"""A stand-in for the kubelet: it runs the pods of `helm test` as processes of this machine, and says how they ended."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Mapping

from tests.helm.cluster.server import Cluster, ClusterError


class Kubelet:
    """A context manager. `there` are the cluster's names and what stands for them here."""

    def __init__(self, cluster: Cluster, namespace: str, there: Mapping[str, str]) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._there = there
        self._stopping = threading.Event()
        self._seen: set[str] = set()
        self._thread = threading.Thread(target=self._watch, name="kubelet")

    def __enter__(self) -> Kubelet:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(0.2):
            with contextlib.suppress(ClusterError):  # a pod may be gone by now
                for pod in self._cluster.get(self._namespace, "pods")["items"]:
                    if pod["metadata"]["uid"] not in self._seen and "deletionTimestamp" not in pod["metadata"]:
                        self._seen.add(pod["metadata"]["uid"])
                        self._run(pod["metadata"]["name"], pod["spec"]["containers"][0])
                    elif "deletionTimestamp" in pod["metadata"]:
                        self._kubectl("delete", "pod", pod["metadata"]["name"], "--force", "--grace-period=0")

    def _run(self, name: str, container: dict[str, object]) -> None:
        command, environment = container["command"], container.get("env", [])
        assert isinstance(command, list)
        assert isinstance(environment, list)
        program, *arguments = (self._here(one) for one in command)
        here = [sys.executable, *(["-m", "headgate"] if program == "headgate" else []), *arguments]
        told = {one["name"]: self._here(one["value"]) for one in environment}
        code = subprocess.run(here, env={"PYTHONPATH": ":".join(sys.path), **told}, timeout=60, check=False).returncode
        status = {"phase": "Failed" if code else "Succeeded"}
        self._kubectl("patch", "pod", name, "--subresource=status", "-p", json.dumps({"status": status}))

    def _here(self, text: str) -> str:
        for name, place in self._there.items():
            text = text.replace(name, place)
        return text

    def _kubectl(self, *arguments: str) -> None:
        self._cluster.kubectl("-n", self._namespace, *arguments)
