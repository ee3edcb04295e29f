"""The rate-limit service as a process of its own, started from its environment, as an operator would."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from ratelimit.wire import RateLimitRequest, RateLimitResponse
from tests.gateway import free_port

OK, OVER = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT
PATIENCE = 20.0


def rules(amount: int, unit: str = "year", domain: str = "mesh", key: str = "user") -> str:
    return (
        f"domain: {domain}\ndescriptors: [{{key: {key}, rate_limit: {{unit: {unit}, requests_per_unit: {amount}}}}}]\n"
    )


def until(true: Callable[[], bool], what: str) -> None:
    """Look again and again until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)


def layout(folder: Path, text: str = rules(2)) -> dict[str, str]:
    """Rules where envoyproxy/ratelimit expects them, and the variables that say so."""
    (folder / "ratelimit" / "config").mkdir(parents=True)
    (folder / "ratelimit" / "config" / "mesh.yaml").write_text(text)
    return {"RUNTIME_ROOT": str(folder), "RUNTIME_SUBDIRECTORY": "ratelimit"}


class Service:
    """One process. `variables` are all of its environment, besides ports of its own."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        ports = {name: str(free_port()) for name in ("PORT", "DEBUG_PORT", "GRPC_PORT")}
        hosts = dict.fromkeys(("HOST", "DEBUG_HOST", "GRPC_HOST"), "127.0.0.1")
        self.variables = {"LOG_LEVEL": "info", **hosts, **ports, **variables}
        self.log = folder / f"service-{ports['PORT']}.log"
        path = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ratelimit", *arguments], env={**path, **self.variables}, stderr=log
            )
        uds = self.variables.get("GRPC_UDS")
        self.address = f"unix://{uds}" if uds else f"127.0.0.1:{self.variables['GRPC_PORT']}"
        self.channel = grpc.insecure_channel(self.address)

    def http(self, path: str, port: str = "PORT", body: str | None = None) -> tuple[int, str]:
        """Status and body; (0, "") when nobody listens."""
        url = f"http://127.0.0.1:{self.variables[port]}{path}"
        try:
            with urllib.request.urlopen(url, None if body is None else body.encode(), timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def health(self, name: str = "ratelimit") -> int:
        """What gRPC health says of it; -1 when nobody listens."""
        try:
            reply = health_pb2_grpc.HealthStub(self.channel).Check(
                health_pb2.HealthCheckRequest(service=name), timeout=5
            )
        except grpc.RpcError:
            return -1
        return int(reply.status)

    def ready(self) -> None:
        """Wait until it says that it is healthy, by HTTP and by gRPC."""
        until(lambda: self.running() and self.http("/healthcheck") == (200, "OK"), "healthy")
        until(lambda: self.health() == health_pb2.HealthCheckResponse.SERVING, "serving")

    def running(self) -> bool:
        """True; fails with what it said when it has ended."""
        assert self._process.poll() is None, self.log.read_text()
        return True

    def call(self, *descriptors: dict[str, str], domain: str = "mesh", timeout: float = 5.0) -> Any:
        """A decision; `.result()` to await it."""
        request = RateLimitRequest(domain=domain)
        for entries in descriptors:
            descriptor = request.descriptors.add()
            for key, value in entries.items():
                descriptor.entries.add(key=key, value=value)
        call = self.channel.unary_unary(
            "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
            request_serializer=RateLimitRequest.SerializeToString,
            response_deserializer=RateLimitResponse.FromString,
        )
        return call.future(request, timeout=timeout)

    def ask(self, *descriptors: dict[str, str], domain: str = "mesh") -> Any:
        """A decision."""
        return self.call(*descriptors, domain=domain).result()

    def metrics(self, port: str = "DEBUG_PORT", path: str = "/metrics") -> dict[tuple[str, tuple[str, ...]], float]:
        """Samples by name and the values of their labels."""
        families = list(text_string_to_metric_families(self.http(path, port)[1]))
        # This parser ends every counter's name in `_total`, as Prometheus itself does not.
        return {
            (
                one.name.removesuffix("_total") if family.type == "counter" else one.name,
                tuple(one.labels.values()),
            ): one.value
            for family in families
            for one in family.samples
        }

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def ended(self) -> int:
        """Wait for its end: the exit status."""
        return self._process.wait(PATIENCE)

    def kill(self) -> None:
        """Whatever it does, it ends."""
        self.channel.close()
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def service(folder: Path, *arguments: str, **variables: str) -> Iterator[Service]:
    """The service while it runs, then told to stop: it must end well, and without a traceback."""
    one = Service(folder, *arguments, **variables)
    try:
        yield one
        one.tell(signal.SIGTERM)
        assert one.ended() == 0, one.log.read_text()
        assert "Traceback" not in one.log.read_text()
    finally:
        one.kill()
