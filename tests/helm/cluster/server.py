"""etcd and kube-apiserver on this machine, alone: objects are admitted and kept, and nobody acts on them.

There is no scheduler, no controller and no kubelet: a Deployment makes no pods. Whoever comes may do everything
(`AlwaysAllow`); only this machine can come.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.gateway import free_port
from tests.helm.tools import tools

VARIABLE = "KUBE_APISERVER"
DEFAULT = Path(sys.prefix) / "tools" / "kube-apiserver"
START_SECONDS = 90
# What a namespace says of whom it lets in.
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}

_EVERYWHERE = ("Namespace", "CustomResourceDefinition")  # kinds that are in no namespace


def _placed(one: dict[str, Any], namespace: str) -> dict[str, Any]:
    return {**one, "metadata": {"namespace": namespace, **one["metadata"]}}


def wanted() -> bool:
    """Whether somebody has named a binary, or both are there."""
    return VARIABLE in os.environ or (DEFAULT.is_file() and shutil.which("etcd") is not None)


class ClusterError(Exception):
    """A command failed; the text is what it said."""


class Cluster:
    """A running API server. A context manager."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="hg-kube-")
        self._folder = Path(self._temporary.name)
        self._processes: list[subprocess.Popen[bytes]] = []
        self.kubeconfig = self._folder / "kubeconfig"
        self._environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self._folder)}

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._temporary.cleanup()

    def _start(self) -> None:
        etcd, peer, port = free_port(), free_port(), free_port()
        address = f"http://127.0.0.1:{etcd}"
        self._run(
            "etcd",
            "etcd", "--data-dir", str(self._folder / "etcd"), "--unsafe-no-fsync",
            "--listen-client-urls", address, "--advertise-client-urls", address,
            "--listen-peer-urls", f"http://127.0.0.1:{peer}",
        )  # fmt: skip
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (self._folder / "accounts.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
        )
        token = secrets.token_hex(16)
        (self._folder / "tokens").write_text(f'{token},tester,tester,"system:masters"\n')
        self._run(
            "kube-apiserver",
            os.environ.get(VARIABLE, str(DEFAULT)),
            f"--etcd-servers={address}", f"--cert-dir={self._folder / 'certificates'}",
            "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={port}",
            "--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=AlwaysAllow",
            f"--token-auth-file={self._folder / 'tokens'}", "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._folder / 'accounts.pem'}",
            f"--service-account-signing-key-file={self._folder / 'accounts.pem'}",
        )  # fmt: skip
        server = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
        self.kubeconfig.write_text(
            json.dumps({
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "clusters": [{"name": "here", "cluster": server}],
                "users": [{"name": "tester", "user": {"token": token}}],
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "tester"}}],
            })
        )  # fmt: skip
        self._await()

    def _run(self, name: str, *command: str) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder))

    def _await(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.kubectl("get", "--raw", "/readyz")
                return
            except ClusterError as error:
                dead = [process.args for process in self._processes if process.poll() is not None]
                if dead or time.monotonic() > deadline:
                    logs = [path.read_text()[-3000:] for path in self._folder.glob("*.log")]
                    raise ClusterError(f"{error}\n{dead}\n{logs}") from error
                time.sleep(0.3)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """What it prints. Raises `ClusterError`."""
        return self._call([str(tools().kubectl), *arguments], stdin)

    def helm(self, *arguments: str, stdin: str = "", client: Path | None = None) -> str:
        """What it prints. Raises `ClusterError`."""
        return self._call([str(client or tools().helm), *arguments], stdin)

    def _call(self, command: list[str], stdin: str) -> str:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=100, env=self._environment, check=False
        )
        if done.returncode:
            raise ClusterError(done.stderr + done.stdout)
        return done.stdout + done.stderr

    def get(self, namespace: str, *what: str) -> dict[str, Any]:
        """Objects as they are kept."""
        return dict(json.loads(self.kubectl("-n", namespace, "get", *what, "-o", "json")))

    def apply(self, *objects: dict[str, Any], namespace: str = "default", dry: bool = False) -> str:
        """Create or change objects, or only see whether they are admitted."""
        placed = [one if one["kind"] in _EVERYWHERE else _placed(one, namespace) for one in objects]
        mode = ["--dry-run=server"] if dry else []
        text = "\n---\n".join(json.dumps(one) for one in placed)
        return self.kubectl("apply", "--server-side", *mode, "-f", "-", stdin=text)

    def namespace(self, name: str) -> str:
        """A namespace that admits what is `restricted`, with the account that every namespace has."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
        self.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}, namespace=name)
        return name
