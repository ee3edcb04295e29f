"""Headgate in an Envoy that its owner had before: by `render attach --into`, and by pasting what `attach` prints.

The Envoy is `existing_envoy/envoy.yaml`. Everything that clients of `headgate up` get they get here, and the owner's
own routes are as they were.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import OpenAI

from headgate.render.yaml_text import load
from tests.attached import DOMAIN, Attached, Shop, headgate
from tests.e2e.attached_clients import (
    MESSAGES,
    PROVIDER_KEY,
    Clients,
    House,
    ask_twice,
    configuration,
    services,
    wait_for,
)
from tests.gateway import Answer, chat, free_port, key_entry, raw_request
from tests.provider_thread import ProviderThread

OWN = Path(__file__).parent / "existing_envoy" / "envoy.yaml"
PAGE = Path(__file__).parents[2] / "docs" / "install" / "existing-envoy.md"
# What the page gives for a log of the owner's that leaves our requests out.
NOT_OURS = yaml.safe_load(PAGE.read_text().partition("  filter:\n")[2].partition("```")[0])
WAYS = [
    ("into", "unix", "envoy"),
    ("into", "tcp", "in_process"),
    ("paste", "mtls", "envoy"),
    ("files", "mtls", "envoy"),
]


@dataclass(frozen=True)
class OwnHouse(House):
    """`logs` is the folder of the owner's logs."""

    logs: Path


def own_bootstrap(folder: Path, listen: int, admin: int, shop: int) -> str:
    """The owner's file with this machine's free ports."""
    text = OWN.read_text()
    for port, here in ((9901, admin), (8079, free_port()), (8080, listen), (8081, shop)):
        text = text.replace(f"port_value: {port}}}", f"port_value: {here}}}")
    bootstrap = load(text.replace("/var/log/envoy", str(folder)))
    manager_of(bootstrap)["access_log"] += [
        _log(
            folder / "headers.log", "%REQ(AUTHORIZATION)% %REQ(:AUTHORITY)% %REQ(X-ENVOY-ORIGINAL-HOST?:AUTHORITY)%\n"
        ),
        {**_log(folder / "others.log", "%REQ(AUTHORIZATION)% %REQ(:AUTHORITY)%\n"), "filter": NOT_OURS},
    ]
    return json.dumps(bootstrap)


def _log(path: Path, line: str) -> dict[str, Any]:
    config = {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": str(path),
        "log_format": {"text_format_source": {"inline_string": line}},
    }
    return {"name": "envoy.access_loggers.file", "typed_config": config}


def manager_of(bootstrap: dict[str, Any]) -> dict[str, Any]:
    """The connection manager of the owner's listener `edge`."""
    listener = next(one for one in bootstrap["static_resources"]["listeners"] if one["name"] == "edge")
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def pasted(own: str, printed: str) -> str:
    """What somebody makes of the owner's file who does as the comments say."""
    bootstrap, parts = load(own), yaml.safe_load(printed)
    resources, manager = bootstrap["static_resources"], manager_of(bootstrap)
    listener = next(one for one in resources["listeners"] if one["name"] == "edge")
    manager["http_filters"][-1:-1] = parts["http_filters"]
    manager["http_filters"][-1]["typed_config"]["upstream_log"] = parts["upstream_log"]
    manager["access_log"] += parts["access_log"]
    manager["local_reply_config"]["mappers"][:0] = parts["mappers"]
    manager["route_config"]["virtual_hosts"] += parts["virtual_hosts"]
    resources["clusters"] += parts["clusters"]
    resources["secrets"] = parts["secrets"]
    listener["per_connection_buffer_limit_bytes"] = parts["per_connection_buffer_limit_bytes"]
    return json.dumps(bootstrap)


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    way, transport, enforce = request.param
    folder = tmp_path_factory.mktemp("own")
    listen, admin = free_port(), free_port()
    shop = Shop()
    with ProviderThread("openai") as first, ProviderThread("local") as second:
        config = configuration(first.base_url, second.base_url, services(transport, folder), enforce)

        def bootstrap(path: Path, _: Path) -> str:
            own = own_bootstrap(folder, listen, admin, shop.port)
            keys = ["--secrets-dir", str(folder / "keys")] if way == "files" else ["--with-secrets"]
            options = ["render", "attach", "-c", str(path), *keys, "--domain", DOMAIN]
            if way == "files":
                headgate("render", "secrets", "-c", str(path), "--dir", str(folder / "keys"))
                printed = headgate(*options)
                assert PROVIDER_KEY not in printed
            if way == "paste":
                return pasted(own, headgate(*options))
            (folder / "own.yaml").write_text(own)
            return headgate(*options, "--into", str(folder / "own.yaml"), "--listener", "edge")

        with Attached(config, bootstrap, listen_port=listen, envoy_admin=admin) as attached:
            yield OwnHouse(attached, first, second, folder)
    shop.shutdown()
    shop.server_close()


def shop_answer(house: House, path: str, *headers: str) -> Answer:
    lines = [f"GET {path} HTTP/1.1", "host: shop.example.com", "connection: close", *headers]
    return raw_request(house.attached.listen, ("\r\n".join(lines) + "\r\n\r\n").encode())


class TestExistingEnvoy(Clients):
    """Clients, and the owner."""

    def test_our_answers_are_silent_about_the_owners_router(self, house: House) -> None:
        answer = house.attached.post(chat())
        assert answer.header("x-headgate-provider") == "openai"
        assert not [name for name, _ in answer.headers if name.startswith("x-envoy")]

    def test_the_owners_requests_are_no_business_of_ours(self, house: House, client: OpenAI) -> None:
        def asked() -> tuple[int, int]:
            wait_for(house, lambda: house.attached.envoy_stat("http.edge.downstream_rq_active") == 0)
            names = ("access_logs.grpc_access_log.logs_written", "http.edge.ext_proc.streams_started")
            return house.attached.envoy_stat(names[0]), house.attached.envoy_stat(names[1])

        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        logs, calls = asked()
        for path in ("/", "/teapot", "/closed", "/old"):
            shop_answer(house, path)
        assert asked() == (logs, calls)
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert asked() == (logs + 1, calls + 1)

    def test_the_owners_logs_see_what_providers_get(self, house: House) -> None:
        assert isinstance(house, OwnHouse)
        folder = house.logs
        house.attached.post(chat())
        shop_answer(house, "/", "authorization: Bearer shop")

        def lines(name: str) -> list[str]:
            return (folder / name).read_text().splitlines()

        wait_for(house, lambda: any("shop.example.com" in one for one in lines("headers.log")))
        ours = next(one for one in lines("headers.log") if one.endswith(f" {DOMAIN}"))
        assert ours.startswith(f"Bearer {PROVIDER_KEY} 127.0.0.1:"), "as the page says"
        assert lines("others.log")
        assert all(one.endswith(" shop.example.com") for one in lines("others.log"))
        assert PROVIDER_KEY not in (folder / "others.log").read_text()

    def test_the_owners_routes_answer_as_before(self, house: House) -> None:
        headers = (
            "accept-encoding: gzip",
            "x-headgate-route: m/gpt-4o",
            "x-headgate-mine: 1",
            "authorization: Bearer sk-team-a",
        )
        answer = shop_answer(house, "/", *headers)
        assert answer.status == 200
        assert answer.header("x-shop") == "edge"
        assert answer.header("x-request-id") == "the-shops-own"
        assert answer.header("x-envoy-upstream-service-time") is not None
        seen = answer.json()
        assert seen["accept-encoding"] == "gzip"
        assert seen["x-headgate-mine"] == "1"
        assert seen["authorization"] == "Bearer sk-team-a"
        assert "x-envoy-attempt-count" not in seen
        teapot = shop_answer(house, "/teapot")
        assert (teapot.status, teapot.json()["host"]) == (418, "shop.example.com")

    def test_what_the_owners_envoy_says_by_itself_is_the_owners(self, house: House) -> None:
        gone = shop_answer(house, "/old")
        assert (gone.status, gone.body) == (410, b"shop: 410 gone\n\n")
        closed = shop_answer(house, "/closed")
        assert (closed.status, closed.body) == (503, b"<h1>The shop is closed</h1>\n")
        assert closed.header("content-type") == "text/html"
        stranger = raw_request(
            house.attached.listen, b"GET / HTTP/1.1\r\nhost: else.example.com\r\nconnection: close\r\n\r\n"
        )
        assert stranger.status == 404
        assert stranger.body.startswith(b"shop: 404")


def mounted(folder: Path, files: Path, version: str) -> None:
    """The files as the kubelet mounts a Secret: links through `..data`, which is moved when the Secret changes."""
    folder.mkdir(exist_ok=True)
    shutil.copytree(files, folder / f"..{version}")
    fresh = folder / "..fresh"
    fresh.symlink_to(f"..{version}")
    fresh.replace(folder / "..data")
    for one in files.iterdir():
        link = folder / one.name
        if not link.is_symlink():
            link.symlink_to(f"..data/{one.name}")


def test_a_new_key_in_a_mounted_secret_is_used_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen, admin = free_port(), free_port()
    with ProviderThread() as provider:
        config = {
            "providers": {
                "openai": {"dialect": "openai", "base_url": provider.base_url, "api_key": "${ROTATED}"},
            },
            "models": {"gpt-4o": {"provider": "openai"}},
            "keys": [key_entry("team-a")],
        }

        def write(path: Path, key: str) -> None:
            monkeypatch.setenv("ROTATED", key)
            headgate("render", "secrets", "-c", str(path), "--dir", str(tmp_path / key))
            mounted(tmp_path / "keys", tmp_path / key, key)

        def bootstrap(path: Path, _: Path) -> str:
            write(path, "sk-first")
            (tmp_path / "own.yaml").write_text(own_bootstrap(tmp_path, listen, admin, 9))
            options = ["--into", str(tmp_path / "own.yaml"), "--listener", "edge", "--domain", DOMAIN]
            return headgate("render", "attach", "-c", str(path), "--secrets-dir", str(tmp_path / "keys"), *options)

        with Attached(config, bootstrap, listen_port=listen, envoy_admin=admin) as attached:

            def used() -> str | None:
                assert attached.post(chat()).status == 200
                return provider.requests[-1].header("authorization")

            assert used() == "Bearer sk-first"
            write(attached.config_path, "sk-second")
            deadline = time.monotonic() + 10
            while used() != "Bearer sk-second":
                assert time.monotonic() < deadline
                time.sleep(0.1)


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The owner's Envoy without the format for everything that it answers by itself: with that, no answer is kept."""
    folder = tmp_path_factory.mktemp("kept")
    listen, admin = free_port(), free_port()
    with ProviderThread("openai") as first, ProviderThread("local") as second:

        def bootstrap(path: Path, _: Path) -> str:
            own = load(own_bootstrap(folder, listen, admin, 9))
            del manager_of(own)["local_reply_config"]["body_format"]
            (folder / "own.json").write_text(json.dumps(own))
            options = ["--into", str(folder / "own.json"), "--listener", "edge", "--domain", DOMAIN]
            return headgate("render", "attach", "-c", str(path), "--with-secrets", *options)

        config = configuration(first.base_url, second.base_url, {}, "envoy", kept=True)
        with Attached(config, bootstrap, listen_port=listen, envoy_admin=admin) as attached:
            yield House(attached, first, second)


@pytest.mark.parametrize("model", ["kept", "paced"])
@pytest.mark.parametrize("stream", [False, True])
def test_equal_questions_are_answered_once(keeper: House, model: str, stream: bool) -> None:
    ask_twice(keeper, model, stream=stream)
