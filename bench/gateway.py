"""What the benchmark configures Headgate with, as plain data that an arm lays its own over."""

from __future__ import annotations

import json
import sys
from typing import Any

import psutil
import yaml

from bench.processes import Processes, free_port
from bench.workloads import KEY, MODEL, digest, key
from sidecar.settings import merge

Config = dict[str, Any]
AMOUNT = 4_000_000_000  # of requests and of tokens per year: counted, never reached


def base(upstream_port: int, *, keys: int = 1, **overlay: Any) -> Config:
    """One provider, one model, `keys` keys with limits on requests and tokens; `overlay` is laid over it."""
    limits = {"requests": f"{AMOUNT}/year", "tokens": f"{AMOUNT}/year"}
    plain: Config = {
        "providers": {"fake": {"dialect": "openai", "base_url": f"http://127.0.0.1:{upstream_port}/v1"}},
        "models": {MODEL: {"provider": "fake"}},
        "keys": [{"name": f"bench-{index}", "sha256": digest(key(index)), "limits": limits} for index in range(keys)],
        "envoy": {"concurrency": 1},
    }
    merged: Config = merge(plain, overlay)
    return merged


def native(enforce: str) -> Config:
    """The native engine, with limits enforced so (`envoy` or `in_process`)."""
    return {"engine": "native", "limits": {"enforce": enforce}}


class Running:
    """A gateway as a user runs it (`headgate up`), with `config` and ports of its own. `roles` are its processes."""

    def __init__(self, processes: Processes, config: Config) -> None:
        self.port, admin = free_port(), free_port()
        whole = {**config, "listen": f"127.0.0.1:{self.port}", "admin": f"127.0.0.1:{admin}"}
        path = processes.folder / "headgate.yaml"
        path.write_text(yaml.safe_dump({**whole, "log": {"requests": False, "level": "error"}}))
        up = processes.spawn([sys.executable, "-m", "headgate", "up", "-c", str(path)])
        processes.until_ok(f"http://127.0.0.1:{admin}/readyz")
        commands = {child: " ".join(child.cmdline()) for child in up.children(recursive=True)}
        envoy = next(child for child, command in commands.items() if "bootstrap.json" in command)
        sidecar = next(child for child, command in commands.items() if " serve " in command)
        self.roles: dict[str, psutil.Process] = {"envoy": envoy, "python": sidecar}


def spawn_provider(processes: Processes) -> tuple[int, psutil.Process]:
    """A fake provider that remembers nothing: its port and its process."""
    port = free_port()
    process = processes.spawn([sys.executable, "-m", "headgate", "fake-provider", "--port", str(port), "--no-record"])
    processes.until_listening(port)
    return port, process


def chat_request(body: dict[str, Any], fake: str) -> bytes:
    """A chat request with the first gateway key, as bytes; `fake` is what the provider is to do."""
    raw = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        f"x-fake: {fake}\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw
