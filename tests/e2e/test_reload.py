"""A change of the file takes effect with no restart and no lost request; a bad file changes nothing."""

from __future__ import annotations

import http.client
import json
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.gateway import Gateway, chat, free_port, key_entry, post
from tests.provider_thread import ProviderThread
from tests.redis_server import RedisServer


class Two:
    """A gateway over one of two providers."""

    def __init__(self, first: ProviderThread, second: ProviderThread) -> None:
        self.first = first
        self.second = second
        self.gateway = Gateway(self.config("first"))

    def config(self, provider: str, **changes: Any) -> dict[str, Any]:
        return {
            "providers": {
                provider: {
                    "dialect": "openai",
                    "base_url": getattr(self, provider).base_url,
                    "api_key": f"sk-{provider}-1",
                },
            },
            "models": {"gpt-4o": {"provider": provider}},
            "keys": [key_entry("team-a")],
            **changes,
        }

    def change(self, provider: str, **changes: Any) -> None:
        before = self.hash()
        self.gateway.write_config(self.config(provider, **changes))
        self.gateway.wait_for(lambda: self.hash() != before)
        self.gateway.wait_for(lambda: f"configuration {self.hash()} is in force" in self.gateway.log())

    def hash(self) -> str:
        return str(json.loads(self.gateway.get("/status")[1])["config"]["hash"])


@pytest.fixture
def two() -> Iterator[Two]:
    with ProviderThread("first") as first, ProviderThread("second") as second:
        made = Two(first, second)
        with made.gateway:
            yield made


def test_another_provider_takes_over_and_no_request_is_lost(two: Two) -> None:
    statuses: list[int] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            statuses.append(post(two.gateway.listen, chat()).status)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    envoy = two.gateway.child("envoy").pid
    for name in ("second", "first", "second"):
        two.change(name)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}
    assert len(statuses) > 20
    assert two.gateway.child("envoy").pid == envoy
    two.first.requests.clear()
    two.second.requests.clear()
    assert post(two.gateway.listen, chat()).status == 200
    assert len(two.first.requests) == 0
    assert two.second.requests[0].header("authorization") == "Bearer sk-second-1"


def test_a_stream_outlives_the_removal_of_its_provider(two: Two) -> None:
    connection = http.client.HTTPConnection(two.gateway.listen, timeout=20)
    body = json.dumps(chat("gpt-4o", stream=True))
    headers = {"authorization": "Bearer sk-team-a", "x-fake": "chunks=30,chunk_delay_ms=100"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    response = connection.getresponse()
    response.readline()
    two.change("second")
    assert response.read().endswith(b"data: [DONE]\n\n")


def test_a_rotated_provider_key_is_used(two: Two) -> None:
    providers = two.config("first")["providers"]
    providers["first"]["api_key"] = "sk-first-2"
    two.change("first", providers=providers)
    two.gateway.wait_for(
        lambda: (
            post(two.gateway.listen, chat()).status == 200
            and two.first.requests[-1].header("authorization") == "Bearer sk-first-2"
        )
    )


def test_keys_and_limits_change(two: Two) -> None:
    assert post(two.gateway.listen, chat(), key="sk-team-b").status == 401
    two.change("first", keys=[key_entry("team-b", limits={"requests": "1/year"})])
    assert post(two.gateway.listen, chat(), key="sk-team-b").status == 200
    assert post(two.gateway.listen, chat(), key="sk-team-b").status == 429
    assert post(two.gateway.listen, chat(), key="sk-team-a").status == 401


def test_the_listener_changes_its_limit(two: Two) -> None:
    body = chat("gpt-4o", padding="x" * 50_000)
    assert post(two.gateway.listen, body).status == 200
    two.change("first", request_timeout=5)
    assert post(two.gateway.listen, body).status == 200


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("providers: {", "not YAML"),
        ("modles: {}", "no such key"),
        ("models: {gpt-4o: {provider: nobody}}", "there is no provider 'nobody'"),
        ("keys: [{name: a, sha256: abc}]", "must be the SHA-256"),
        ("", ""),
    ],
)
def test_a_bad_file_keeps_the_old_configuration(two: Two, text: str, reason: str) -> None:
    if not text:
        text = "providers: {far: {dialect: openai, base_url: 'http://x/v1', api_key: '${NOT_SET_ANYWHERE}'}}"
        reason = "NOT_SET_ANYWHERE is not set"
    before = two.hash()
    listen, admin = two.gateway.listen, two.gateway.admin
    two.gateway.write_text(f"listen: {listen}\nadmin: {admin}\nrun_dir: {two.gateway.run_dir}\n{text}\n")
    two.gateway.wait_for(lambda: two.gateway.log_lines("config_rejected"))
    rejected = two.gateway.log_lines("config_rejected")[0]
    assert reason in rejected["reason"]
    assert rejected["place"].startswith(f"{two.gateway.config_path}:4")
    assert two.hash() == before
    assert post(two.gateway.listen, chat()).status == 200
    assert two.gateway.metric("headgate_config_last_reload_successful") == 0
    assert two.gateway.metric("headgate_config_reloads_total", result="rejected") >= 1
    two.change("second")
    assert two.gateway.metric("headgate_config_last_reload_successful") == 1


def test_sighup_reads_the_file_again(two: Two) -> None:
    assert two.gateway.process is not None
    before = two.gateway.metric("headgate_config_reloads_total", result="taken")
    two.gateway.process.send_signal(signal.SIGHUP)
    two.gateway.wait_for(lambda: two.gateway.metric("headgate_config_reloads_total", result="taken") > before)
    assert post(two.gateway.listen, chat()).status == 200


def test_a_key_never_reaches_another_providers_address(two: Two) -> None:
    """Address and key of one provider change together, back and forth, under load."""

    def config(name: str) -> dict[str, Any]:
        base_url = getattr(two, name).base_url
        return {"provider": {"dialect": "openai", "base_url": base_url, "api_key": f"sk-only-for-{name}"}}

    statuses: list[int] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            statuses.append(post(two.gateway.listen, chat()).status)

    two.change("first", providers=config("first"), models={"gpt-4o": {"provider": "provider"}})
    two.first.requests.clear()
    two.second.requests.clear()
    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for name in ("second", "first", "second", "first"):
        two.change(name, providers=config(name), models={"gpt-4o": {"provider": "provider"}})
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}
    assert {one.header("authorization") for one in two.first.requests} == {"Bearer sk-only-for-first"}
    assert {one.header("authorization") for one in two.second.requests} == {"Bearer sk-only-for-second"}


@pytest.mark.parametrize("changes", [{"tls": {"cert": "/no.pem", "key": "/no.key"}}, {"listen": "127.0.0.1:9"}])
def test_what_only_the_supervisor_can_check_is_refused_too(two: Two, changes: dict[str, Any]) -> None:
    if "listen" in changes:
        changes = {"listen": two.first.base_url.split("/")[2]}  # taken by the provider
    before = two.hash()
    two.gateway.write_text(yaml.safe_dump({**two.gateway.config, **two.config("first"), **changes}))
    two.gateway.wait_for(lambda: two.gateway.log_lines("config_rejected") or two.gateway.log_lines("config_not_taken"))
    assert post(two.gateway.listen, chat()).status == 200
    if "tls" in changes:
        assert two.hash() == before
        assert two.gateway.metric("headgate_config_last_reload_successful") == 0


def test_what_cannot_change_is_kept_and_named(two: Two) -> None:
    admin = two.gateway.admin
    two.gateway.write_text(
        yaml.safe_dump(
            {
                **two.gateway.config,
                **two.config("first"),
                "admin": f"127.0.0.1:{free_port()}",
                "max_body": "40MiB",
                "services": {"extproc": "127.0.0.1:9", "ratelimit": "127.0.0.1:10"},
            }
        )
    )
    two.gateway.wait_for(lambda: two.gateway.log_lines("config_needs_restart"))
    assert two.gateway.log_lines("config_needs_restart")[0]["settings"] == ["admin", "services", "max_body"]
    assert two.gateway.admin == admin
    assert post(two.gateway.listen, chat()).status == 200
    assert post(two.gateway.listen, chat("gpt-4o", padding="x" * 25_000_000)).status == 413
    two.change("second")
    assert post(two.gateway.listen, chat()).status == 200


def test_a_sidecar_that_dies_while_the_file_is_broken_comes_back_with_the_last_good(two: Two) -> None:
    two.change("second")
    two.gateway.write_text("listen: [oops")
    two.gateway.wait_for(lambda: two.gateway.log_lines("config_rejected"))
    two.gateway.child("sidecar").kill()
    two.gateway.wait_for(lambda: "last good configuration is used" in two.gateway.log())
    two.gateway.wait_for(lambda: post(two.gateway.listen, chat()).status == 200)
    two.change("first")
    assert post(two.gateway.listen, chat()).status == 200


def test_what_lingers_goes() -> None:
    with ProviderThread("first") as first, ProviderThread("second") as second:

        def config(provider: ProviderThread) -> dict[str, Any]:
            return {
                "providers": {"p": {"dialect": "openai", "base_url": provider.base_url, "api_key": "k"}},
                "models": {"gpt-4o": {"provider": "p"}},
                "keys": [key_entry("team-a")],
                "request_timeout": 0.3,
                "decision_timeout": 0.2,
            }

        with Gateway(config(first)) as gateway:
            gateway.write_config(config(second))
            gateway.wait_for(lambda: gateway.envoy_stat("cluster_manager.active_clusters") == 4)
            gateway.wait_for(lambda: gateway.envoy_stat("cluster_manager.active_clusters") == 3)
            assert post(gateway.listen, chat()).status == 200
            assert len(second.requests) == 1


def ready(gateway: Gateway) -> bool:
    """Whether everybody answers; the admin port may be gone with the sidecar."""
    try:
        status, body = gateway.get("/readyz")
    except OSError:
        return False
    return status == 200 and "does not" not in body


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_fixed_stays_fixed_for_a_process_that_is_started_again(redis_server: RedisServer, workers: int) -> None:
    """Envoy still runs what everything was started with: a sidecar of another mind would leave limits to nobody."""
    with ProviderThread() as provider:
        base = {
            "store": f"{redis_server.url}?db=12",
            "workers": workers,
            "providers": {"fake": {"dialect": "openai", "base_url": provider.base_url}},
            "models": {"gpt-4o": {"provider": "fake"}},
            "keys": [key_entry(f"fixed-{workers}", limits={"requests": "2/year"})],
        }
        with Gateway({**base, "limits": {"enforce": "in_process"}}) as gateway:
            key = f"sk-fixed-{workers}"
            assert [post(gateway.listen, chat(), key=key).status for _ in range(3)] == [200, 200, 429]
            services = {"extproc": f"127.0.0.1:{free_port()}"}
            gateway.write_config({**base, "limits": {"enforce": "envoy"}, "services": services})
            gateway.wait_for(lambda: gateway.log_lines("config_needs_restart"))
            sidecar = gateway.child("sidecar")
            victim = sidecar if workers == 1 else sidecar.children()[1]
            victim.kill()
            gateway.wait_for(lambda: not victim.is_running())
            gateway.wait_for(lambda: ready(gateway))
            assert [post(gateway.listen, chat(), key=key).status for _ in range(6)] == [429] * 6


def test_two_edits_in_a_row_are_both_taken(two: Two) -> None:
    """The second comes while the first is being taken: Envoy and the sidecar must go by the same one."""
    for number in range(3):
        two.gateway.write_config(two.config("first", drain_timeout=20 + number))
        time.sleep(0.4)
        models = {"gpt-4o": {"provider": "first"}, f"new-{number}": {"provider": "first"}}
        two.gateway.write_config(two.config("first", models=models, drain_timeout=40 + number))
        deadline = time.monotonic() + 6
        while post(two.gateway.listen, chat(f"new-{number}")).status != 200:
            assert time.monotonic() < deadline, two.gateway.log()[-2000:]
            assert post(two.gateway.listen, chat()).status == 200
    assert not two.gateway.log_lines("config_not_taken")
