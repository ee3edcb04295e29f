"""The chart's pods, run: every process is real, started, probed, reloaded and ended as the rendered objects say."""

from __future__ import annotations

import collections
import http.client
import json
import threading
import time
from typing import Any

import pytest
import yaml

from headgate.demo import DEMO_KEY
from tests.gateway import key_entry, post
from tests.helm.chart import Objects, render
from tests.helm.node import Node, Pod, Service
from tests.provider_thread import ProviderThread

PORT = 8080  # of the gateway's Service: one below 1024 is not for everybody
ROLLED_REQUESTS = 10_000
pytestmark = pytest.mark.timeout(400)  # the first test builds the image


def values(config: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"config": config, "service": {"port": PORT}, "drain": {"delay": 2, "timeout": 60}, **more}


def up(node: Node, objects: Objects, replicas: int = 1) -> tuple[Service, list[Pod]]:
    """Every Deployment's pods, ready behind the gateway's Service."""
    node.apply(list(objects.all))
    others = [node.deploy(one) for one in objects.of("Deployment") if one is not objects.deployment]
    pods = [node.deploy(objects.deployment) for _ in range(replicas)]
    for pod in (*others, *pods):
        pod.until_ready()
    service = node.services[objects.deployment["metadata"]["name"]]
    service.until_ready(replicas)
    return service, pods


def ask(service: Service, key: str, model: str = "demo", **fields: Any) -> Any:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}
    return post(f"{service.address}:{PORT}", body, key=key)


def test_an_install_without_values_is_a_demonstration_and_passes_helm_test(node: Node) -> None:
    objects = render({"service": {"port": PORT}})
    service, _ = up(node, objects)
    assert ask(service, DEMO_KEY).status == 200
    assert ask(service, "sk-nobody").status == 401
    tests = objects.of("Pod")
    assert tests
    for test in tests:
        pod = node.start(test["spec"], test["metadata"]["labels"])
        assert pod.wait() == {"test": 0}, pod.log("test")


def test_configuration_and_keys_reach_a_running_pod(node: Node) -> None:
    with ProviderThread() as provider:
        config = {
            "providers": {
                "fake": {
                    "dialect": "openai",
                    "base_url": provider.base_url,
                    "api_key": "${file:/etc/headgate-keys/fake}",
                }
            },
            "models": {"demo": {"provider": "fake"}},
            "keys": [key_entry("team-a")],
        }
        given = values(config, providerKeys={"fake": {"existingSecret": "provider", "key": "token"}})
        secret = {"kind": "Secret", "metadata": {"name": "provider"}, "stringData": {"token": "sk-one"}}
        node.apply([secret])
        service, (pod,) = up(node, render(given))
        assert ask(service, "sk-team-a").status == 200
        assert provider.requests[-1].header("authorization") == "Bearer sk-one"
        processes = {name: one.pid for name, one in pod.processes.items()}

        config["keys"] = [key_entry("team-a"), key_entry("team-b")]
        node.apply([one for one in render(given).all if one["kind"] == "ConfigMap"])
        _until(lambda: ask(service, "sk-team-b").status == 200)
        node.apply([{**secret, "stringData": {"token": "sk-two"}}])

        def uses_the_new_key() -> bool:
            provider.requests.clear()
            assert ask(service, "sk-team-a").status == 200
            return provider.requests[-1].header("authorization") == "Bearer sk-two"

        _until(uses_the_new_key)
        assert {name: one.pid for name, one in pod.processes.items()} == processes
        assert pod.probe("livenessProbe")


def test_a_bad_configuration_fails_where_it_is_checked_and_nothing_else_starts(node: Node) -> None:
    objects = render(values({"models": {"demo": {"provider": "nobody"}}}))
    node.apply(list(objects.all))
    pod = node.deploy(objects.deployment)
    _until(lambda: pod.failed is not None)
    assert "nobody" in (pod.failed or "")
    assert "headgate.yaml:" in (pod.failed or "")
    assert len(pod.processes) == 1


class Load:
    """Clients that never stop asking: keep-alive connections, plain answers and streams."""

    def __init__(self, service: Service, clients: int) -> None:
        self._service = service
        self.outcomes: collections.Counter[str] = collections.Counter()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        connection: http.client.HTTPConnection | None = None
        streams = number % 4 == 0
        model = "fake:chunks=20,chunk_delay_ms=100" if streams else "demo"
        body = json.dumps({"model": model, "stream": streams, "messages": [{"role": "user", "content": "Hi"}]})
        headers = {"authorization": "Bearer sk-team-a", "content-type": "application/json"}
        while not self._stop.is_set():
            fresh = connection is None
            if connection is None:
                connection = http.client.HTTPConnection(self._service.address, PORT, timeout=60)
            try:
                connection.request("POST", "/v1/chat/completions", body, headers)
                answer = connection.getresponse()
                text = answer.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # A connection that was idle may be closed under a client's hand; every client asks again, once.
                self.outcomes["asked again" if not fresh else "cut"] += 1
                connection = None
                continue
            except (OSError, http.client.HTTPException) as error:
                self.outcomes[repr(error)] += 1
                connection = None
                continue
            whole = answer.status == 200 and (not streams or text.rstrip().endswith(b"data: [DONE]"))
            self.outcomes[("stream" if streams else "ok") if whole else f"{answer.status} {text[-200:]!r}"] += 1
            if answer.getheader("connection") == "close":
                connection.close()
                connection = None

    def done(self) -> int:
        return self.outcomes["ok"] + self.outcomes["stream"]

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_rolling_update_under_load_fails_nobody(node: Node) -> None:
    with ProviderThread(record=False) as provider:
        config = {
            "providers": {"fake": {"dialect": "openai", "base_url": provider.base_url}},
            "models": {
                "demo": {"provider": "fake"},
                "fake:chunks=20,chunk_delay_ms=100": {"provider": "fake"},
            },
            "keys": [key_entry("team-a")],
        }
        objects = render(values(config))
        service, pods = up(node, objects, replicas=2)
        load = Load(service, clients=12)
        try:
            for old in pods:  # maxSurge 1, maxUnavailable 0
                node.deploy(objects.deployment).until_ready()
                service.until_ready(3)
                seconds = old.delete()
                assert set(old.exit_codes.values()) == {0}, old.exit_codes
                assert seconds < 30
            pods = [pod for pod in node.pods if not pod.terminating]
            assert len(pods) == 2
            pods[0].delete()  # a node is drained, or the Deployment scaled down
            _until(lambda: load.done() >= ROLLED_REQUESTS, 240)
        finally:
            load.stop()
    done = load.done()
    failed = {what: count for what, count in load.outcomes.items() if what not in ("ok", "stream", "asked again")}
    assert not failed, failed
    assert load.outcomes["stream"] > 20
    assert load.outcomes["asked again"] < done / 100, load.outcomes


def test_the_two_services_alone_answer_the_probes_of_kubernetes(node: Node) -> None:
    config = {"providers": {"local": {"dialect": "openai", "base_url": "http://localhost:9/v1"}},
              "models": {"demo": {"provider": "local"}}, "keys": [key_entry("team-a", limits={"requests": "2/min"})]}  # fmt: skip
    objects = render({"mode": "policy", "config": config, "replicas": 1})
    node.apply(list(objects.all))
    pod = node.deploy(objects.deployment).until_ready()
    assert pod.probe("livenessProbe")
    node.services[objects.deployment["metadata"]["name"]].until_ready()
    tests = objects.of("Pod")
    assert {one["metadata"]["name"].rpartition("-test-")[2] for one in tests} == {"health", "ratelimit"}
    for test in tests:
        done = node.start(test["spec"], test["metadata"]["labels"])
        assert done.wait() == {"test": 0}, done.log("test")
    assert pod.delete() < 30
    assert set(pod.exit_codes.values()) == {0}


def _until(check: Any, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.1)


def test_what_is_run_here_is_what_is_rendered() -> None:
    """The miniature does not know every field; what it does not know would be passed over in silence."""
    known = {
        "name", "image", "imagePullPolicy", "command", "args", "env", "volumeMounts", "ports", "lifecycle", "resources",
        "securityContext", "startupProbe", "readinessProbe", "livenessProbe", "restartPolicy",
    }  # fmt: skip
    for given in ({}, {"mode": "policy", "config": yaml.safe_load("keys: []")}):
        for pod in render(given).pods:
            for one in (*pod.get("initContainers", []), *pod["containers"]):
                assert set(one) <= known, set(one) - known
