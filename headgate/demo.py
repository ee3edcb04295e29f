"""The demonstration that `headgate up` runs when it is given no configuration: a fake provider and a known key."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from pathlib import Path

from headgate.render.layout import Layout
from sidecar.errors import HeadgateError

DEMO_PREFIX = "headgate-demo-"  # of its folder
DEMO_KEY = "sk-headgate-demo"
_PATIENCE = 30.0  # seconds

_CONFIG = """\
# DEMONSTRATION ONLY: a fake provider that makes up its answers, and a key that everybody knows.
# Write your own headgate.yaml and start it with: headgate up -c headgate.yaml
listen: 127.0.0.1:10000
admin: 127.0.0.1:10001
store: memory://
providers:
  fake: {{dialect: openai, base_url: "http://127.0.0.1:{port}/v1"}}
models:
  demo: {{provider: fake}}
  demo-split:
    - {{provider: fake, model: demo-large, weight: 80}}
    - {{provider: fake, model: demo-small, weight: 20}}
keys:
  - {{name: demo, sha256: "{digest}", models: ["*"], limits: {{requests: 60/min, tokens: 100000/min}}}}
"""


def demo_config(port: int) -> str:
    """The demo's `headgate.yaml`, with the fake provider on `port`."""
    return _CONFIG.format(port=port, digest=hashlib.sha256(DEMO_KEY.encode()).hexdigest())


def free_port() -> int:
    """A TCP port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until_listening(port: int) -> None:
    """Wait until somebody listens on a port of this machine. Raises `HeadgateError` when nobody does in time."""
    try:
        async with asyncio.timeout(_PATIENCE):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return
    except TimeoutError:
        raise HeadgateError(f"the fake provider does not listen on port {port}: see what it says above") from None


def write_demo(folder: Path, port: int) -> Path:
    """Write the demo's configuration into `folder`, and whose it is: `remove_orphans` asks."""
    Layout(folder).owner.write_text(str(os.getpid()))
    path = folder / "headgate-demo.yaml"
    path.write_text(demo_config(port), encoding="utf-8")
    return path


def curl_line(gateway: str, model: str, key: str) -> str:
    """A line that streams a chat completion through the gateway, as pasted into a shell."""
    body = f'{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'
    return (
        f"curl -N {gateway}/v1/chat/completions -H 'Authorization: Bearer {key}' "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
