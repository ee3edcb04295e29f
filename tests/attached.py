"""Headgate attached to an Envoy that somebody else runs: `headgate serve` beside it, and that Envoy with our parts."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from headgate.up.envoy import envoy_binary
from tests.gateway import Answer, free_port, post

START_SECONDS = 40
DOMAIN = "llm.example.com"


class Shop(http.server.ThreadingHTTPServer):
    """The backend that the owner's Envoy had before: it answers with the request's headers; `/teapot` with 418."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ShopHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _ShopHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(418 if self.path == "/teapot" else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-request-id", "the-shops-own")
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the name that the server looks for

    def log_message(self, *_: Any) -> None:
        pass


class Process:
    """A child process with its log. A context manager."""

    def __init__(self, command: list[str], log: Path, ready: Callable[[], bool]) -> None:
        self.log = log
        self._file = log.open("ab")
        self.process = subprocess.Popen(command, stdout=self._file, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{command} did not start:\n{log.read_text(errors='replace')[-6000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._file.close()


def headgate(*arguments: str) -> str:
    """What a `headgate` command prints."""
    found = subprocess.run([sys.executable, "-m", "headgate", *arguments], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout


def answers(url: str) -> Callable[[], bool]:
    """Whether `url` answers with 200."""

    def ask() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
        return False

    return ask


class Attached:
    """`headgate serve` and an Envoy of somebody's. A context manager.

    `config` is headgate.yaml without addresses; `services` what stands there; `make` turns the path of headgate.yaml and
    a folder into the Envoy's bootstrap (text), once that file is written.
    """

    def __init__(
        self,
        config: dict[str, Any],
        make: Callable[[Path, Path], str],
        *,
        listen_port: int,
        envoy_admin: int,
        domain: str = DOMAIN,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hga-")
        self.folder = Path(self._folder.name)
        self.admin = f"127.0.0.1:{free_port()}"
        self.listen = f"127.0.0.1:{listen_port}"
        self.domain = domain
        self._envoy_admin = envoy_admin
        self._stack = contextlib.ExitStack()
        self.config_path = self.folder / "headgate.yaml"
        values = {"admin": self.admin, "run_dir": str(self.folder / "run"), **config}
        self.config_path.write_text(yaml.safe_dump(values, sort_keys=False))
        self._make = make

    def __enter__(self) -> Attached:
        try:
            serve = [sys.executable, "-m", "headgate", "serve", "-c", str(self.config_path)]
            self.sidecar = Process(serve, self.folder / "serve.log", answers(f"http://{self.admin}/readyz"))
            self._stack.callback(self.sidecar.stop)
            bootstrap = self.folder / "envoy.yaml"
            bootstrap.write_text(self._make(self.config_path, self.folder))
            command = [str(envoy_binary()), "-c", str(bootstrap), "--concurrency", "1", "--log-level", "warning"]
            command += ["--use-dynamic-base-id"]
            ready = answers(f"http://127.0.0.1:{self._envoy_admin}/ready")
            self._stack.callback(Process(command, self.folder / "envoy.log", ready).stop)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._folder.cleanup()

    def post(self, body: bytes | dict[str, Any], **options: Any) -> Answer:
        """A request to Headgate's virtual host over a connection of its own."""
        host = options.pop("host", self.domain)
        return post(self.listen, body, host=host, **options)

    def envoy_stat(self, name: str) -> int:
        """A counter or gauge of the Envoy."""
        url = f"http://127.0.0.1:{self._envoy_admin}/stats?filter=^{re.escape(name)}$"
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.read().decode().rpartition(": ")[2])

    def get_admin(self, path: str) -> str:
        """A GET of Headgate's admin port."""
        with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=5) as response:
            return str(response.read().decode())

    def log(self) -> str:
        """What `headgate serve` and the Envoy have said."""
        return "".join(one.read_text(errors="replace") for one in sorted(self.folder.glob("*.log")))
