"""The pods of `helm test`: their commands, run here against services that run here."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from headgate.demo import DEMO_KEY
from tests.gateway import Gateway, free_port
from tests.helm.chart import CASES, CONFIG, Json, Objects, render
from tests.provider_thread import ProviderThread
from tests.sidecar.certificates import Authority


def _tests(objects: Objects) -> dict[str, Json]:
    """The container of every test, by the test's name."""
    pods = {one["metadata"]["name"].rpartition("-test-")[2]: one for one in objects.of("Pod")}
    for one in pods.values():
        assert one["metadata"]["annotations"]["helm.sh/hook"] == "test"
        assert one["spec"]["restartPolicy"] == "Never"
    return {name: one["spec"]["containers"][0] for name, one in pods.items()}


def run_test(container: Json, **instead: str) -> subprocess.CompletedProcess[str]:
    """As in the pod, with names and paths of the cluster replaced by those of this machine."""

    def here(text: str) -> str:
        for there, replacement in instead.items():
            text = text.replace(PLACES[there], replacement)
        return text

    program, *arguments = container["command"]
    command = [sys.executable, *(["-m", "headgate"] if program == "headgate" else []), *map(here, arguments)]
    environment = {one["name"]: here(one["value"]) for one in container.get("env", [])}
    return subprocess.run(
        command,
        env={"PYTHONPATH": ":".join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


PLACES = {
    "extproc": "rel-headgate.ns.svc:9001",
    "ratelimit": "rel-headgate.ns.svc:9002",
    "certificates": "/etc/headgate-grpc",
    "ready": "rel-headgate-metrics:10002",
    "gateway": "http://rel-headgate:80",
}


@pytest.mark.parametrize("case", CASES)
def test_which_test_pods_there_are(case: str) -> None:
    expected = {
        "default": {"ready", "chat"},
        "gateway-production": {"ready", "chat"},
        "policy": {"health", "ratelimit", "chat"},
        "policy-mtls": {"health", "ratelimit"},
        "policy-certmanager": {"health", "ratelimit"},
        "istio": {"health", "ratelimit"},
        "envoy-gateway": {"health"},
        "sidecar": set(),
    }
    assert set(_tests(render(case=case))) == expected.get(case, {"ready"})
    assert not _tests(render({"tests": {"enabled": False}}, case=case))


@contextmanager
def served(folder: Path, tls: Json | None = None) -> Iterator[dict[str, str]]:
    """`headgate serve` with both services on this machine's ports."""
    places = {"extproc": f"127.0.0.1:{free_port()}", "ratelimit": f"127.0.0.1:{free_port()}"}
    services = {**places, **({"tls": tls} if tls else {})}
    config = {**CONFIG, "admin": f"127.0.0.1:{free_port()}", "run_dir": str(folder / "run"), "services": services}
    (folder / "headgate.yaml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen([sys.executable, "-m", "headgate", "serve", "-c", str(folder / "headgate.yaml")])
    try:
        for place in places.values():
            _await(int(place.rpartition(":")[2]))
        yield places
    finally:
        process.terminate()
        process.wait(20)


def _await(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def _passes(container: Json, **instead: str) -> str:
    """What it prints."""
    done = run_test(container, **instead)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_test_pods_pass_against_running_services(tmp_path: Path) -> None:
    tests = _tests(render({"mode": "policy", "config": CONFIG}))
    with served(tmp_path) as places:
        said = _passes(tests["health"], **places)
        assert said.count("SERVING") == 2
        assert "OK" in _passes(tests["ratelimit"], **places)
    assert run_test(tests["health"], **places).returncode != 0
    assert run_test(tests["ratelimit"], **places).returncode != 0


def test_the_test_pods_show_their_certificate(tmp_path: Path) -> None:
    tests = _tests(render(case="policy-mtls"))
    authority = Authority()
    certificate, key = authority.sign()
    for name, content in (("ca.crt", authority.pem), ("tls.crt", certificate), ("tls.key", key)):
        (tmp_path / name).write_bytes(content)
    files = {
        "cert": "tls.crt",
        "key": "tls.key",
        "client_ca": "ca.crt",
        "client_cert": "tls.crt",
        "client_key": "tls.key",
    }
    with served(tmp_path, {name: str(tmp_path / file) for name, file in files.items()}) as places:
        assert _passes(tests["health"], **places, certificates=str(tmp_path)).count("SERVING") == 2
        assert "OK" in _passes(tests["ratelimit"], **places, certificates=str(tmp_path))
        bare = _tests(render({"mode": "policy", "config": CONFIG}))
        assert run_test(bare["health"], **places).returncode != 0


def test_the_test_pods_of_a_gateway_pass() -> None:
    objects = render()
    tests = _tests(objects)
    with ProviderThread() as provider:
        config = objects.config
        config["providers"]["fake"]["base_url"] = provider.base_url
        with Gateway(config) as gateway:
            # The probes' port tells of readiness what the admin port tells.
            assert '"ready": true' in _passes(tests["ready"], ready=gateway.admin)
            said = _passes(tests["chat"], gateway=gateway.url)
            assert "x-ratelimit-limit-requests" in said
            wrong = {
                **tests["chat"],
                "env": [{**one, "value": one["value"].replace(DEMO_KEY, "sk-wrong")} for one in tests["chat"]["env"]],
            }
            assert run_test(wrong, gateway=gateway.url).returncode != 0
