"""The cases that real time allows, asked of envoyproxy/ratelimit's own binary and of our service: what differs.

    python -m tests.ratelimit.conformance.against_peer --binary PATH [--only WORD] [--all]

Each side has a Redis of its own. Compared are the answers (a reset may differ by a second or two), the counters in
Redis and those of the metrics. A case says in `peer` where the two are known to differ and who is right; a difference
that no case tells of, or one that is told of and is not there, makes the exit status 1.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from redis import Redis
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ratelimit.options import Options
from ratelimit.settings import _OURS, build
from sidecar.errors import ConfigError
from tests.ratelimit.conformance.stage import Performance, Seat, Shelf, Stage, counters
from tests.ratelimit.conformance.suite import Answer, Case, Client, load, request
from tests.redis_server import RedisServer, free_port

_OURS_ALONE = re.compile(rf"\b({'|'.join(_OURS.split())}):|\bunit: *[0-9]|[0-9]_[0-9]|900719925474099")
_RESET = re.compile(r", ([0-9]+)s$")
_SERIES = re.compile(r"^ratelimit_service_rate_limit_(\w+)(\{.*\})? ([0-9.e+]+)$", re.MULTILINE)


def why_not(case: Case) -> str:
    """Why a case cannot be asked of both, empty when it can."""
    if any(_OURS_ALONE.search(str(file.content)) for file in case.config):
        return "rules that only we have"
    if not case.config:
        return "no rules at first"
    if any(step.at is not None for step in case.steps[1:]):
        return "time moves"
    if any(step.store or step.by or step.given or step.reload for step in case.steps):
        return "a store that fails, several processes, a reload"
    return ""


def environment(options: Options, *, merge: bool, split: Path | None) -> dict[str, str]:
    """`options` as the peer's variables."""
    names = options.headers or ("", "", "")
    told = {
        "SHADOW_MODE": str(options.shadow).lower(),
        "QUOTA_MODE": str(options.quota).lower(),
        "NEAR_LIMIT_RATIO": str(options.near_ratio),
        "CACHE_KEY_PREFIX": options.key_prefix,
        "EXPIRATION_JITTER_MAX_SECONDS": str(options.jitter),
        "LOCAL_CACHE_SIZE_IN_BYTES": str(options.local_cache_bytes),
        "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT": str(options.stop_when_over).lower(),
        "RESPONSE_DYNAMIC_METADATA": str(options.metadata).lower(),
        "MERGE_DOMAIN_CONFIG": str(merge).lower(),
        "LIMIT_RESPONSE_HEADERS_ENABLED": str(options.headers is not None).lower(),
    }
    headers = zip(("LIMIT_LIMIT_HEADER", "LIMIT_REMAINING_HEADER", "LIMIT_RESET_HEADER"), names, strict=True)
    told |= {variable: name for variable, name in headers if name}
    if split is not None:
        told |= {"REDIS_PERSECOND": "true", "REDIS_PERSECOND_SOCKET_TYPE": "unix", "REDIS_PERSECOND_URL": str(split)}
    return told


class Peer:
    """The binary over one Redis: a process for each case, because its options are its environment."""

    def __init__(self, binary: Path, folder: Path, redis: RedisServer, per_second: RedisServer) -> None:
        self._binary = binary
        self._folder = folder
        self._redis = redis
        self._per_second = per_second
        self._ports = {name: free_port() for name in ("PORT", "GRPC_PORT", "DEBUG_PORT", "METRICS")}

    def _write(self, case: Case) -> Path:
        rules = self._folder / "ratelimit" / "config"
        rules.mkdir(parents=True, exist_ok=True)
        for old in rules.iterdir():
            old.unlink()
        for file in case.config:
            (rules / file.name).write_text(str(file.content), encoding="utf-8")
        return rules

    def refusal(self, case: Case) -> str:
        """What its `config_check_cmd` says of the rules: the file's name and the error, empty when it takes them."""
        rules = self._write(case)
        command = [self._binary.with_name("config_check_cmd"), "-config_dir", rules]
        command += ["-merge_domain_configs"] if case.merge else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return ""
        # Printed, or the text of a panic.
        said = re.search(rf"(?:error loading rate limit configs|panic): .*?{rules}/(.*)", done.stdout + done.stderr)
        text = said.group(1) if said else done.stderr[:300]
        return re.sub(r'"\)$| \[recovered.*$', "", text).replace('\\"', '"')

    @contextmanager
    def serving(self, case: Case) -> Iterator[Client]:
        """A process with the case's rules and options."""
        self._write(case)
        split = self._per_second.socket if case.split else None
        told = environment(case.options, merge=case.merge, split=split) | {
            "RUNTIME_ROOT": str(self._folder),
            "RUNTIME_SUBDIRECTORY": "ratelimit",
            "RUNTIME_WATCH_ROOT": "false",
            "USE_STATSD": "false",
            "USE_PROMETHEUS": "true",
            "PROMETHEUS_ADDR": f"127.0.0.1:{self._ports['METRICS']}",
            "STATS_FLUSH_INTERVAL": "50ms",
            "REDIS_SOCKET_TYPE": "unix",
            "REDIS_URL": str(self._redis.socket),
            "LOG_LEVEL": "FATAL",
            **{name: "127.0.0.1" for name in ("HOST", "GRPC_HOST", "DEBUG_HOST")},
            **{name: str(port) for name, port in self._ports.items()},
        }
        process = subprocess.Popen(
            [self._binary], env=os.environ | told, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        client = Client(f"127.0.0.1:{self._ports['GRPC_PORT']}")
        try:
            yield client
        finally:
            client.close()
            process.kill()
            process.wait()

    def metrics(self) -> str:
        """What it exposes, after it has been flushed."""
        time.sleep(0.15)
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self._ports['METRICS']}/metrics") as page:
            return str(page.read().decode())
        return ""


def series(text: str) -> dict[str, int]:
    """The counters of limits that are not 0."""
    found: dict[str, int] = {}
    for name, labels, value in _SERIES.findall(text):
        found[name + labels] = found.get(name + labels, 0) + int(float(value))
    return {name: value for name, value in found.items() if value}


def stored(node: Redis) -> dict[str, str]:
    """Every counter that is not 0."""
    return {key: value for key, (value, _) in counters([node], "").items() if value != "0"}


def alike(ours: Answer, theirs: Answer) -> Answer:
    """Theirs, with our resets where they differ by no more than the calls are apart."""
    if theirs.fails:
        return theirs
    each = [_same_reset(one, other) for one, other in zip(ours.each, theirs.each, strict=False)]
    headers = dict(theirs.headers)
    for name, value in ours.headers.items():
        if "reset" in name.lower() and abs(int(value) - int(headers.get(name, -9))) <= 2:
            headers[name] = value
    return replace(theirs, each=[*each, *theirs.each[len(each) :]], headers=headers, metadata=_plain(theirs.metadata))


def _same_reset(ours: str, theirs: str) -> str:
    one, other = _RESET.search(ours), _RESET.search(theirs)
    if one and other and abs(int(one.group(1)) - int(other.group(1))) <= 2:
        return theirs[: other.start()] + one.group()
    return theirs


def _plain(metadata: Any) -> Any:
    """Go's text of a message has now one space and now two, so that nobody compares it."""
    if isinstance(metadata, Mapping):
        return {key: _plain(value) for key, value in metadata.items()}
    if isinstance(metadata, list):
        return [_plain(one) for one in metadata]
    return re.sub(" +", " ", metadata) if isinstance(metadata, str) else metadata


def between(ours: Mapping[str, Any], theirs: Mapping[str, Any], where: str) -> list[tuple[str, str, str]]:
    """Where, what is ours and what is theirs, wherever they differ."""
    keys = [*ours, *(key for key in theirs if key not in ours)]
    found = [(key, ours.get(key), theirs.get(key)) for key in keys]
    return [(f"{where}{key}", str(one), str(other)) for key, one, other in found if one != other]


class Comparison:
    """Both sides."""

    def __init__(self, binary: Path, folder: Path, stage: Stage, redis: list[RedisServer]) -> None:
        self._peer = Peer(binary, folder, redis[0], redis[1])
        self._redis = [server.client() for server in redis]
        self._shelf = Shelf(stage.open(redis[2].url), stage.open(redis[3].url), None, None)
        self._seat: Seat = stage.seat("ours", lambda: self._shelf, "native")

    def differences(self, case: Case) -> list[tuple[str, str, str]]:
        """All of one case."""
        try:
            build(case.config, merge=case.merge)
            ours = ""
        except ConfigError as error:
            ours = str(error)
        theirs = self._peer.refusal(case)
        if ours or theirs:
            return [("rules", ours, theirs)] if ours != theirs else []
        for redis in self._redis:
            redis.flushall()
        performance = Performance(case, self._seat, clock=time.time, prefix="")
        found: list[tuple[str, str, str]] = []
        with self._peer.serving(case) as client:
            client.ask(request(case, replace(case.steps[0], ask=[])), wait=True)
            _wait_for_a_good_time(case)
            for number, step in enumerate(case.steps, 1):
                if step.ask is None:
                    continue
                for _ in range(step.times):
                    other = client.ask(request(case, step))
                one = performance.ask(step)
                found += between(asdict(one), asdict(alike(one, other)), f"{number}: ")
            found += between(stored(self._redis[2]), stored(self._redis[0]), "Redis: ")
            found += between(stored(self._redis[3]), stored(self._redis[1]), "Redis per second: ")
            found += between(series(performance.seen.lines()), series(self._peer.metrics()), "metrics: ")
        return found


def _wait_for_a_good_time(case: Case) -> None:
    """Not the end of a minute, and the start of a second when it matters: both sides then see the same windows."""
    fine = "second" in str([file.content for file in case.config]) + str([step.ask for step in case.steps])
    while time.time() % 60 > 55 or (fine and time.time() % 1 > 0.1):
        time.sleep(0.01)


def main() -> int:
    """Compare. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="against_peer", description=__doc__)
    parser.add_argument("--binary", type=Path, required=True, help="service_cmd; config_check_cmd lies beside it")
    parser.add_argument("--only", default="", help="cases whose topic or name holds this")
    parser.add_argument("--all", action="store_true", help="list the cases that agree, too")
    arguments = parser.parse_args()
    console = Console(width=int(os.environ.get("COLUMNS", "160")))
    cases = [case for case in load() if arguments.only in case.id]
    left_out = {case.id: why for case in cases if (why := why_not(case))}
    table = Table("case", "where", "ours", "envoyproxy/ratelimit", "who is right", show_lines=True)
    agreed, known, unknown, stale = 0, 0, 0, 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hg-peer-")))
        servers = []
        for number in range(4):
            (folder / str(number)).mkdir()
            servers.append(stack.enter_context(RedisServer(folder / str(number))))
        stage = stack.enter_context(Stage())
        comparison = Comparison(arguments.binary.absolute(), folder / "runtime", stage, servers)
        for case in cases:
            if case.id in left_out:
                continue
            found = comparison.differences(case)
            agreed += not found
            known += bool(found and case.peer)
            unknown += bool(found and not case.peer)
            stale += bool(case.peer and not found)
            verdict = case.peer or "[bold red]not told[/]"
            for where, ours, theirs in found:
                table.add_row(case.id, where, escape(ours[:300]), escape(theirs[:300]), verdict)
                verdict = '"'
            if case.peer and not found:
                table.add_row(case.id, "", "", "", f"[bold red]no difference, but: {case.peer}[/]")
            elif arguments.all and not found:
                table.add_row(case.id, "", "", "", "[green]alike[/]")
    console.print(table)
    reasons: dict[str, int] = {}
    for why in left_out.values():
        reasons[why] = reasons.get(why, 0) + 1
    console.print(f"{agreed} alike, {known} differ as told, {unknown} differ and no case tells, {stale} told in vain")
    console.print(f"{len(left_out)} left out: " + ", ".join(f"{why} {number}" for why, number in reasons.items()))
    return 1 if unknown or stale else 0


if __name__ == "__main__":
    sys.exit(main())
