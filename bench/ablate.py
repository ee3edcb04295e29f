"""`python -m bench.ablate`: what each feature of our Envoy configuration costs Envoy, in CPU per request.

The product's own static bootstrap is rendered, one feature at a time is taken out of it, and every variant runs
before the same sidecar: Envoy and sidecar on one core, generator and provider on the other, rounds interleaved. A
difference is the median of the rounds' differences to the whole chain of the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import uvloop
from rich.console import Console
from rich.progress import Progress

from bench import envoy
from bench.ablations import ABLATIONS, Ablation
from bench.arms import Arm, BareEnvoy, Upstream, write_config
from bench.cpu import Account, python_us
from bench.gateway import base
from bench.loadgen import closed
from bench.machine import machine
from bench.probe import probe
from bench.processes import FLOATING, Placement, Processes, UnavailableError, free_port
from bench.report import publish
from bench.sheet import Sheet
from bench.suite import Options
from bench.workloads import BURST_50, BURST_500, JSON, Workload
from headgate.render.bootstrap import static_bootstrap
from headgate.render.layout import Layout
from headgate.render.secrets import credentials
from headgate.render.values import Json
from headgate.settings import load_settings

_WORKLOADS = {"json": JSON, "50": BURST_50, "500": BURST_500}
_WHOLE = "whole chain"
_CONNECTIONS = 32
_WARM_SECONDS = 0.3
_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Round:
    """One variant in one round: CPU microseconds per request, requests per second, requests that failed."""

    envoy_us: float
    python_us: float
    rate: float
    failed: int


class Sidecar:
    """`headgate serve` over the native engine, and the bootstrap that goes with it."""

    def __init__(self, overlay: Json) -> None:
        self._processes = Processes()
        self._overlay = overlay

    def start(self, upstream_port: int, placement: Placement) -> tuple[Json, psutil.Process]:
        """Bring it up: the whole bootstrap and the Python process."""
        folder, admin = self._processes.folder, free_port()
        config = base(
            upstream_port,
            **{
                "engine": "native",
                "admin": f"127.0.0.1:{admin}",
                "run_dir": str(folder),
                # A key, so that there is a credential to inject.
                "providers": {"fake": {"api_key": "sk-provider"}},
                **self._overlay,
            },
        )
        path = write_config(folder, config)
        process = self._processes.spawn([sys.executable, "-m", "headgate", "serve", "-c", str(path)], placement.gateway)
        self._processes.until_ok(f"http://127.0.0.1:{admin}/readyz")
        settings, file = load_settings(path, os.environ)
        whole = static_bootstrap(settings, Layout(folder), credentials(settings, file), admin="127.0.0.1:0")
        return whole, process

    def stop(self) -> None:
        """End it."""
        self._processes.stop()


class Variant(Arm):
    """An Envoy with one bootstrap, before the sidecar of all."""

    def __init__(self, name: str, bootstrap: Json) -> None:
        super().__init__(name)
        self._bootstrap = bootstrap

    def start(self, upstream_port: int, placement: Placement) -> None:
        self.port = free_port()
        listener = self._bootstrap["static_resources"]["listeners"][0]
        listener["address"]["socket_address"]["port_value"] = self.port
        self.roles["envoy"] = envoy.spawn(self.processes, self._bootstrap, placement)
        self.processes.until_listening(self.port)


def variants(whole: Json, ablations: Sequence[Ablation]) -> tuple[list[Arm], dict[str, str]]:
    """The whole chain, each ablation of it and the bare Envoy; and why an ablation cannot be made."""
    made: list[Arm] = [Variant(_WHOLE, deepcopy(whole))]
    impossible: dict[str, str] = {}
    for ablation in ablations:
        changed = deepcopy(whole)
        try:
            ablation.apply(changed)
        except (LookupError, ValueError):
            impossible[ablation.name] = "there is no such feature"
            continue
        if changed == whole:
            impossible[ablation.name] = "nothing to change"
        else:
            made.append(Variant(ablation.name, changed))
    return [*made, BareEnvoy()], impossible


def check(arm: Arm, workload: Workload) -> None:
    """Look closely once. Raises `UnavailableError` when a variant does not serve, or the whole chain does not limit."""
    seen = probe(arm, workload)
    limits = seen.requests_left is not None and seen.tokens_left is not None
    if seen.problem or (arm.name == _WHOLE and not limits):
        raise UnavailableError(seen.problem or "the answer does not say what is left of the limits")


def measure(arm: Arm, sidecar: psutil.Process, workload: Workload, seconds: float) -> Round:
    """One variant, saturated."""
    target = workload.target(arm.port)
    uvloop.run(closed(target, connections=_CONNECTIONS, seconds=_WARM_SECONDS))
    account = Account({**arm.roles, "python": sidecar})
    load = uvloop.run(closed(target, connections=_CONNECTIONS, seconds=seconds))
    used = account.us_per(load.done)
    return Round(used["envoy"], python_us(used), load.done / load.seconds, load.failed)


def sheet(rounds: dict[str, list[Round]], title: str, left_out: dict[str, str]) -> Sheet:
    """Medians, and differences to the whole chain of the same round."""
    rows = []
    for name, own in rounds.items():
        differences = [one.envoy_us - whole.envoy_us for one, whole in zip(own, rounds[_WHOLE], strict=True)]
        rows.append(
            (
                name,
                f"{statistics.median(one.envoy_us for one in own):.1f}",
                "" if name == _WHOLE else f"{statistics.median(differences):+.1f}",
                "" if name == _WHOLE else f"{min(differences):+.1f} to {max(differences):+.1f}",
                f"{statistics.median(one.python_us for one in own):.1f}",
                f"{statistics.median(one.rate for one in own):,.0f}",
                str(sum(one.failed for one in own)),
            )
        )
    columns = ("variant", "Envoy us", "difference", "lowest to highest", "Python us", "requests/s", "failed")
    notes = tuple(f"not available: {name}: {reason}" for name, reason in left_out.items())
    return Sheet(title, columns, tuple(rows), notes, left=1)


def run(
    chosen: Sequence[Ablation], overlay: Json, workload: Workload, options: Options, console: Console
) -> tuple[dict[str, list[Round]], dict[str, str]]:
    """Measure the chosen ablations: the rounds by variant, and why a variant is not there.

    Raises `UnavailableError` when the whole chain itself cannot be measured.
    """
    options.placement.settle()
    upstream, sidecar = Upstream(options.placement), Sidecar(overlay)
    started: list[Arm] = []
    try:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("starting", total=None)
            upstream.start()
            whole, python = sidecar.start(upstream.port, options.placement)
            arms, left_out = variants(whole, chosen)
            for arm in arms:
                started.append(arm)
                try:
                    arm.start(upstream.port, options.placement)
                    check(arm, workload)
                except UnavailableError as error:
                    if arm.name == _WHOLE:
                        raise
                    left_out[arm.name] = str(error)
            running = [arm for arm in arms if arm.name not in left_out]
            rounds: dict[str, list[Round]] = {arm.name: [] for arm in running}
            progress.update(task, total=options.rounds * len(running))
            for number in range(options.rounds):
                for arm in running:
                    progress.update(task, description=f"round {number + 1}: {arm.name}", advance=1)
                    rounds[arm.name].append(measure(arm, python, workload, options.seconds))
    finally:
        for arm in started:
            arm.stop()
        sidecar.stop()
        upstream.stop()
    return rounds, left_out


def main() -> int:
    """Run it; the exit status is 1 when a request failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.ablate", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run")
    parser.add_argument("--workload", choices=_WORKLOADS, default="json")
    parser.add_argument("--only", default="", help="only the variants that hold one of these words (comma-separated)")
    parser.add_argument("--config", type=json.loads, default={}, help="JSON, laid over the gateway's configuration")
    parser.add_argument("--no-pin", action="store_true", help="let everything float over every core")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    words = [word for word in arguments.only.split(",") if word]
    chosen = [one for one in ABLATIONS if not words or any(word in one.name for word in words)]
    console = Console()
    if console.width < _WIDTH:
        console = Console(width=_WIDTH)
    workload = _WORKLOADS[arguments.workload]
    options = Options(arguments.rounds, arguments.seconds, (), FLOATING if arguments.no_pin else Placement.pinned())
    try:
        rounds, left_out = run(chosen, arguments.config, workload, options, console)
    except UnavailableError as error:
        console.print(f"the whole chain cannot be measured: {error}", highlight=False, markup=False)
        return 1
    shown = sheet(rounds, f"{workload.name}; CPU per request; {machine()}", left_out)
    raw = {name: [asdict(one) for one in own] for name, own in rounds.items()}
    publish(
        f"ablate-{arguments.workload}", shown, {"options": options.as_json(), "rounds": raw}, arguments.output, console
    )
    return 1 if any(one.failed for own in rounds.values() for one in own) else 0


if __name__ == "__main__":
    raise SystemExit(main())
