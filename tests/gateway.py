"""The product as a user runs it: `headgate up -c FILE`, with the real Envoy."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families

START_SECONDS = 40
_given: set[int] = set()
# Below the ports that the kernel takes for clients; each of the test processes side by side has its own.
_FIRST_PORT = 10_100 + 1_900 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 5)


def digest(key: str) -> str:
    """What `keys:` holds of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def key_entry(name: str, **fields: Any) -> dict[str, Any]:
    """An entry of `keys:` whose secret is `sk-<name>`."""
    return {"name": name, "sha256": digest(f"sk-{name}"), **fields}


def free_port() -> int:
    """A port that nobody uses, and that neither the kernel nor another test process will give away meanwhile."""
    while True:
        port = random.randrange(_FIRST_PORT, _FIRST_PORT + 1_900)
        if port in _given:
            continue
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port


class Gateway:
    """A running gateway. A context manager; `config` is the content of headgate.yaml without addresses."""

    def __init__(self, config: dict[str, Any], environment: dict[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hg-")
        self.folder = Path(self._folder.name)
        self.listen = f"127.0.0.1:{free_port()}"
        self.admin = f"127.0.0.1:{free_port()}"
        self.run_dir = self.folder / "run"
        self.config_path = self.folder / "headgate.yaml"
        self._base = {
            "listen": self.listen,
            "admin": self.admin,
            "run_dir": str(self.run_dir),
            "envoy": {"concurrency": 1},
        }
        self.config = {**self._base, **config}
        self.write_config(self.config)
        self._environment = {**os.environ, **(environment or {})}
        self._log = (self.folder / "log").open("wb")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.config.get('tls') else 'http'}://{self.listen}"

    def write_config(self, config: dict[str, Any]) -> None:
        """Replace headgate.yaml in one move, as an editor or a ConfigMap does."""
        self.write_text(yaml.safe_dump({**self._base, **config}, sort_keys=False))

    def write_text(self, text: str) -> None:
        temporary = self.config_path.with_suffix(".new")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.config_path)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "headgate", "up", "-c", str(self.config_path)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=self._environment,
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the gateway ended with {self.process.returncode}:\n{self.log()}")
            if "Ctrl-C stops it" in self.log():
                return
            time.sleep(0.05)
        raise RuntimeError(f"the gateway did not start:\n{self.log()}")

    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def log_lines(self, event: str) -> list[dict[str, Any]]:
        """The JSON log lines with this event."""
        found = []
        for line in self.log().splitlines():
            if line.startswith("{"):
                value = json.loads(line)
                if value.get("event") == event:
                    found.append(value)
        return found

    def child(self, name: str) -> psutil.Process:
        """The process of `envoy` or `sidecar`."""
        assert self.process is not None
        for child in psutil.Process(self.process.pid).children(recursive=True):
            command = " ".join(child.cmdline())
            if (name == "envoy" and "bootstrap.json" in command) or (name == "sidecar" and " serve " in command):
                return child
        raise RuntimeError(f"no {name} runs")

    def get(self, path: str) -> tuple[int, str]:
        """A GET of the admin port."""
        try:
            with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    total += sample.value
        return total

    def targets(self, model: str) -> list[dict[str, Any]]:
        """What `/status` says of a model's targets."""
        return list(json.loads(self.get("/status")[1])["targets"][model])

    def wait_for(self, check: Any, seconds: float = 10.0) -> None:
        """Wait until `check()` is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if check():
                return
            time.sleep(0.05)
        raise AssertionError(f"it did not come true within {seconds} s; log:\n{self.log()[-4000:]}")

    def envoy_stat(self, name: str) -> int:
        """A counter or gauge of Envoy itself, read over its admin socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.run_dir / "envoy-admin.sock"))
            query = f"GET /stats?filter=^{re.escape(name)}$ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            connection.sendall(query.encode())
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        match = re.search(rf"{re.escape(name)}: (\d+)", answer.decode())
        if match is None:
            raise LookupError(f"Envoy has no statistic {name}: {answer!r}")
        return int(match.group(1))

    def stop(self) -> int:
        """Ctrl-C, and wait."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def __enter__(self) -> Gateway:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self.kill()

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.kill()
            self.process.kill()
            self.process.wait()
        self._log.close()
        self._folder.cleanup()


class Answer:
    """A raw HTTP/1.1 answer: status, headers (lower-case names, repeated ones kept) and body."""

    def __init__(self, raw: bytes) -> None:
        head, _, rest = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.raw = raw
        self.version, status = lines[0].split(" ")[:2]
        self.status = int(status)
        self.headers: list[tuple[str, str]] = []
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers.append((name.strip().lower(), value.strip()))
        self.body = _unchunk(rest) if self.header("transfer-encoding") == "chunked" else rest

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object of an OpenAI-shaped answer, its shape checked."""
        assert self.header("content-type") == "application/json", self.raw[:2000]
        assert self.header("x-request-id"), self.raw[:2000]
        error = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return dict(error)


def _unchunk(data: bytes) -> bytes:
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size or b"0", 16)
        if length == 0:
            break
        body += data[:length]
        data = data[length + 2 :]
    return body


def raw_request(address: str, request: bytes, *, timeout: float = 20.0) -> Answer:
    """Send bytes as they are, read to the end (ask for `connection: close`)."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)  # refused early: the answer is still there to be read
        answer = b""
        while True:
            try:
                chunk = connection.recv(65536)
            except ConnectionResetError:
                break
            if not chunk:
                break
            answer += chunk
    return Answer(answer)


def post(
    address: str,
    body: bytes | dict[str, Any],
    *,
    path: str = "/v1/chat/completions",
    key: str | None = "sk-team-a",
    headers: tuple[tuple[str, str], ...] = (),
    method: str = "POST",
    host: str = "",
    timeout: float = 20.0,
) -> Answer:
    """A plain request over a connection of its own."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"{method} {path} HTTP/1.1",
        f"host: {host or address}",
        "connection: close",
        f"content-length: {len(raw)}",
    ]
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    lines += [f"{name}: {value}" for name, value in headers]
    return raw_request(address, ("\r\n".join(lines) + "\r\n\r\n").encode() + raw, timeout=timeout)


def chat(model: str = "gpt-4o", **fields: Any) -> dict[str, Any]:
    """A chat request of one short message."""
    return {"model": model, "messages": [{"role": "user", "content": "Hi"}], **fields}
