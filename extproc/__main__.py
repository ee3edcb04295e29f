"""`python -m extproc`: the ext_proc service alone. Reads providers, models and keys from `headgate.yaml`."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from pathlib import Path

from extproc.balance.health import Health
from extproc.policy import Policy, build
from extproc.processor import Processor
from extproc.server import external_processor
from extproc.settings import DEFERRED, PolicySettings
from sidecar import configfile
from sidecar.configfile import ConfigFile
from sidecar.lifecycle import run, serve
from sidecar.reload import Current
from sidecar.server import Engine, GrpcServer
from sidecar.settings import load

_HEADROOM = 1 << 20


class _Unobserved:
    def decided_request(self, outcome: str, seconds: float) -> None:
        """Nothing is counted here."""

    def message(self) -> None:
        """Nothing is counted here."""

    def forwarded(self, cluster: str) -> None:
        """Nothing is counted here."""


def _policy(path: Path, max_body: int) -> Policy:
    """The policy in the file; its other sections are for other services."""
    file = configfile.read(path, os.environ, deferred=DEFERRED)
    own = {name: value for name, value in file.values.items() if name in PolicySettings.model_fields}
    settings = load(PolicySettings, ConfigFile(file.name, own, file.lines, file.text), {})
    return build(settings, max_body_bytes=max_body, created=int(time.time()))


async def _run(path: Path, listen: str, max_body: int, engine: Engine, grace: float) -> None:
    policy = Current(_policy(path, max_body))
    health = Health(time.monotonic)  # nobody tells it anything: every target is available
    service = external_processor(Processor(policy.get, random.random, health), time.perf_counter, _Unobserved())
    server = GrpcServer([service], listen=listen, max_message_bytes=max_body + _HEADROOM, engine=engine)
    await serve(server, grace=grace, reload=lambda: policy.swap(_policy(path, max_body)))


def main() -> int:
    """Run it. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m extproc", description=__doc__)
    parser.add_argument("-c", "--config", type=Path, required=True, help="headgate.yaml; SIGHUP reads it again")
    parser.add_argument("--listen", default="127.0.0.1:9002", help="host:port or unix:///path")
    parser.add_argument("--max-body", type=int, default=20 << 20, help="bytes a request body may have")
    parser.add_argument("--engine", choices=("native", "grpcio"), default="native", help="what carries the service")
    parser.add_argument("--grace", type=float, default=10.0, help="seconds for running calls when stopping")
    arguments = parser.parse_args()
    return run(_run(arguments.config, arguments.listen, arguments.max_body, arguments.engine, arguments.grace))


if __name__ == "__main__":
    sys.exit(main())
