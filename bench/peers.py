"""Other gateways beside ours: the same provider, the same requests, one run. CPU and RSS over their process trees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import psutil
from rich.console import Console

from bench import installs
from bench.arms import Arm, BareEnvoy, Direct
from bench.chain import gateways
from bench.processes import Placement, free_port
from bench.report import run_and_write
from bench.suite import Options, Results, Suite
from bench.workloads import KEY, MODEL, Workload

_START_SECONDS = 120.0
_LEAST_SECONDS = 4.0
# Rates that the slowest arm can still keep: at a rate beyond it, its queue is measured and not its added time.
JSON = Workload("JSON, 2 KB request", rate=50.0)
STREAM = Workload("50 chunks at once", stream=True, rate=10.0)


class Peer(Arm):
    """A gateway of others. Its whole process tree is accounted for."""

    reframes = True
    version = ""

    def adopt(self, root: psutil.Process) -> None:
        """Note every process of it, once it is up."""
        children = sorted(root.children(recursive=True), key=lambda one: one.pid)
        self.roles = {f"process {number}": one for number, one in enumerate([root, *children], 1)}


class LiteLlm(Peer):
    """LiteLLM's proxy without a database, set up as its documentation advises for production.

    https://docs.litellm.ai/docs/proxy/prod: a master key, `LITELLM_MODE=PRODUCTION` (no dotenv), `LITELLM_LOG=ERROR`,
    `set_verbose: false`, `json_logs: true`, `request_timeout: 600`, no error logs to a database, one Uvicorn worker per
    container and then more of them; here also two workers, one for each core. Left out: alerting, Redis and what tunes
    a database. The price list is the packaged one and telemetry is off, since nothing here reaches a network.
    """

    headers = (f"authorization: Bearer {KEY}",)

    def __init__(self, workers: int) -> None:
        super().__init__(f"LiteLLM ({workers} worker{'s' if workers > 1 else ''})")
        self._workers = workers

    def start(self, upstream_port: int, placement: Placement) -> None:
        home = installs.litellm()
        self.version = installs.litellm_version(home)
        self.port = free_port()
        upstream = {
            "model": f"openai/{MODEL}",
            "api_key": "sk-fake",
            "api_base": f"http://127.0.0.1:{upstream_port}/v1",
        }
        path = self.processes.folder / "config.yaml"
        path.write_text(
            json.dumps(
                {
                    "model_list": [{"model_name": MODEL, "litellm_params": upstream}],
                    "general_settings": {"master_key": KEY, "disable_error_logs": True},
                    "litellm_settings": {"request_timeout": 600, "set_verbose": False, "json_logs": True},
                }
            )
        )
        root = self.processes.spawn(
            [
                str(home / "bin" / "litellm"), "--config", str(path), "--host", "127.0.0.1", "--port", str(self.port),
                "--num_workers", str(self._workers), "--telemetry", "False",
            ],
            placement.gateway,
            environment={
                "LITELLM_MODE": "PRODUCTION",
                "LITELLM_LOG": "ERROR",
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "PYTHONPATH": "",
            },
        )  # fmt: skip
        self.processes.until_ok(f"http://127.0.0.1:{self.port}/health/liveliness", _START_SECONDS)
        self.adopt(root)


class Portkey(Peer):
    """Portkey's gateway, run as its documentation says for a node server of one's own.

    https://github.com/Portkey-AI/gateway/blob/main/docs/installation-deployments.md: `node build/start-server.js`, here
    with `--headless` (no console) and `NODE_ENV=production`. It has no keys and no limits of its own: the client names
    the provider.
    """

    def __init__(self) -> None:
        super().__init__("Portkey")

    def start(self, upstream_port: int, placement: Placement) -> None:
        package = installs.portkey()
        self.version = f"{installs.portkey_version(package)}, {installs.node_version()}"
        self.port = free_port()
        self.headers = (
            f"authorization: Bearer {KEY}",
            "x-portkey-provider: openai",
            f"x-portkey-custom-host: http://127.0.0.1:{upstream_port}/v1",
        )
        root = self.processes.spawn(
            ["node", str(package / "build" / "start-server.js"), "--headless", f"--port={self.port}"],
            placement.gateway,
            # It refuses hosts on loopback unless they are named.
            environment={"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"},
        )
        self.processes.until_listening(self.port, _START_SECONDS)
        self.adopt(root)


_NOTES = (
    "A peer's CPU and RSS are all of its processes'. Ours checks a key, counts requests and tokens, meters and "
    "settles, and logs each request; LiteLLM checks one master key and counts cost; Portkey checks nothing.",
)


def suite() -> Suite:
    """`python -m bench peers`."""
    peers: list[Peer] = [LiteLlm(1), LiteLlm(2), Portkey()]
    arms: list[Arm] = [Direct(), BareEnvoy(), *gateways(), *peers]

    def versions(_: Results) -> list[str]:
        return [*dict.fromkeys(peer.version for peer in peers if peer.version), *_NOTES]

    return Suite(
        "peers",
        "Beside other gateways, 32 connections",
        [(arm, (JSON, STREAM)) for arm in arms],
        versions,
        tolerated=tuple(peer.name for peer in peers),
    )


def main(options: Options, folder: Path, console: Console) -> bool:
    """Run it and report. Returns whether something failed; a peer's failure is reported and is not ours."""
    options = replace(options, seconds=max(options.seconds, _LEAST_SECONDS))
    return run_and_write(suite(), options, folder, console)
