"""The pages of docs/install work as they stand: their commands are run, in the order in which they are written."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from headgate.up.envoy import envoy_binary
from tests.e2e.test_existing_envoy import OWN
from tests.gateway import free_port
from tests.page import FOLDER, PAGES, Page, programs, run
from tests.provider_thread import ProviderThread


@dataclass(frozen=True)
class Here:
    """This machine in place of the page's: its paths, ports and provider."""

    folder: Path
    provider: ProviderThread
    ports: dict[int, int]

    def moved(self, text: str) -> str:
        for there, place in (("/etc/headgate", "etc"), ("/run/headgate", "run"), ("/var/log/envoy", ".")):
            text = text.replace(there, str(self.folder / place))
        text = text.replace("preset: openai", f'dialect: openai, base_url: "{self.provider.base_url}"')
        for port, free in self.ports.items():
            text = re.sub(rf"\b{port}\b", str(free), text)
        return text


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    # `kubectl apply` checks objects by their schemas.
    commands = {
        "headgate": f"{sys.executable} -m headgate",
        "envoy": str(envoy_binary()),
        "kubectl": f"{sys.executable} -m tests.crd",
    }
    programs(tmp_path / "bin", commands)
    with ProviderThread() as provider:
        yield Here(tmp_path, provider, {port: free_port() for port in (10001, 9901, 8079, 8080)})


def test_existing_envoy(here: Here) -> None:
    page = Page.read("existing-envoy.md")
    (here.folder / "headgate.yaml").write_text(here.moved(page.configuration()))
    (here.folder / "envoy.yaml").write_text(here.moved(OWN.read_text()))
    done = run(here.moved("\n".join(page.blocks("sh"))), here.folder)
    assert done.returncode == 0, done.stderr
    assert "which makes up every word" in done.stdout
    assert here.provider.requests[0].header("authorization") == "Bearer sk-your-key"
    merged = (here.folder / "envoy-with-headgate.yaml").read_text()
    assert "sk-your-key" not in merged
    assert yaml.safe_load((here.folder / "parts.yaml").read_text())["virtual_hosts"][0]["name"] == "headgate"


@pytest.mark.parametrize(("name", "kinds"), [("istio.md", 6), ("envoy-gateway.md", 10)])
def test_clusters(name: str, kinds: int, here: Here) -> None:
    page = Page.read(name)
    (here.folder / "headgate.yaml").write_text(here.moved(page.configuration()))
    done = run(here.moved("\n".join(page.blocks("sh"))), here.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" is valid") + done.stdout.count(" has no schema here") == kinds
    assert "OPENAI" not in done.stdout


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)", Page.read(name).text):
        if "://" not in link:
            assert (FOLDER / link).exists(), link


@pytest.mark.parametrize("name", PAGES)
def test_every_configuration_is_one(name: str) -> None:
    for block in Page.read(name).blocks("yaml"):
        assert yaml.safe_load(block)


def test_the_key_of_the_pages_is_the_one_that_their_requests_carry() -> None:
    digest = hashlib.sha256(b"sk-team-a").hexdigest()
    for name in PAGES:
        assert set(re.findall(r'sha256: "(\w+)"', Page.read(name).text)) <= {digest}
