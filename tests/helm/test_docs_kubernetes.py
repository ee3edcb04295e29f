"""docs/install/kubernetes.md as it stands: its commands in their order, the chart's pods run in the image's file system."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from headgate.cli import app
from tests.gateway import free_port
from tests.helm.chart import CHART, Json, helm, render
from tests.helm.cluster.server import Cluster
from tests.helm.node import Node
from tests.helm.stand_in import StandIn
from tests.page import ROOT, Page, run
from tests.provider_thread import ProviderThread
from tests.redis_server import RedisServer
from tests.redis_server import free_port as free_redis_port

PAGE = Page.read("kubernetes.md")
FILES = dict(zip(("values.yaml", "monitoring.yaml", "fence.yaml"), PAGE.blocks("yaml"), strict=True))
SECONDS = 400


def walk(node: Node, folder: Path, cluster: Cluster | None = None) -> tuple[str, StandIn, list[str | None]]:
    """The page from its first command to its last. Returns what was printed, and the keys that the provider saw."""
    ports = {port: free_port() for port in (8080, 8443)}
    redis_port = free_redis_port()
    commands = "".join(PAGE.blocks("sh"))
    for port, free in ports.items():
        commands = re.sub(rf"(?<![\d]){port}(?=[:/])", str(free), commands)
    ready = folder / "redis"
    ready.mkdir()
    (folder / "helm").mkdir()
    (folder / "helm" / "headgate").symlink_to(CHART)
    stand_in = StandIn(node, folder, cluster.kubeconfig if cluster else None)
    with (
        ProviderThread() as provider,
        RedisServer(ready, "--requirepass", "your-password", port=redis_port),
        stand_in,
    ):
        for name, text in FILES.items():
            text = text.replace("preset: openai", f'dialect: openai, base_url: "{provider.base_url}"')
            # 127.1 is 127.0.0.1, which would be the pod's own address. Services here learn of a pod's end in a second.
            (folder / name).write_text(
                text.replace("delay: 5", "delay: 1").replace("redis.databases.svc:6379", f"127.1:{redis_port}")
            )
        done = run(commands, folder, seconds=SECONDS)
        assert done.returncode == 0, f"{done.stderr}\n{stand_in.asked}\n{done.stdout[-3000:]}"
        keys = [one.header("authorization") for one in provider.requests]
    return done.stdout, stand_in, keys


@pytest.mark.timeout(SECONDS + 100)
def test_every_command_in_its_order(node: Node, tmp_path: Path) -> None:
    said, stand_in, keys = walk(node, tmp_path)
    check(said, stand_in, keys)


def check(said: str, stand_in: StandIn, keys: list[str | None]) -> None:
    """What the page promises has come true."""
    assert "data: [DONE]" in said  # the demonstration's stream
    assert re.search(r"^  - \{name: team-a, sha256: ", said, re.MULTILINE)
    assert said.count("Phase:          Succeeded") == 3
    assert "which makes up every word" in said
    assert "x-ratelimit-limit-requests: 600" in said.lower()
    assert "config_rejected" in said
    assert "gpt-4o" in said
    assert set(keys) == {"Bearer sk-your-key"}
    assert not [
        pod for pod in stand_in.node.pods if not pod.terminating and "test" not in pod.spec["containers"][0]["name"]
    ]
    # A change of `config` alone, a bad one and the way back have replaced nobody: the demonstration's two pods (its
    # provider's and Headgate's), two, and two more by the restart.
    pods = [pod for pod in stand_in.node.pods if "test" not in pod.spec["containers"][0]["name"]]
    assert len(pods) == 6
    for pod in pods:
        assert set(pod.exit_codes.values()) == {0}, pod.exit_codes


def test_every_command_is_known_to_somebody() -> None:
    """What stands in prose or tables is not run: it must be a command that exists."""
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z-]+)", PAGE.text)) <= set(targets)
    for value in re.findall(r"--set ([a-zA-Z.]+)=", PAGE.text):
        if not value.startswith("config"):
            assert f"| `{value}` |" in (CHART / "README.md").read_text(), value


def test_every_value_that_is_named_is_one() -> None:
    known = re.findall(r"^\| `([\w.]+)` \|", (CHART / "README.md").read_text(), re.MULTILINE)
    tops = {one.split(".")[0] for one in known}
    named = re.findall(r"`([a-z][A-Za-z]+(?:\.[A-Za-z]+)+)(?::[^`]*)?`", PAGE.text)
    for one in named:
        if one.split(".")[0] in tops - {"config"} and not one.endswith(".yaml"):
            assert any(each == one or each.startswith(f"{one}.") for each in known), one


@pytest.mark.parametrize(
    "files", [["values.yaml"], ["values.yaml", "monitoring.yaml"], ["values.yaml", "fence.yaml"], list(FILES)]
)
def test_every_file_of_values_is_valid(files: list[str], tmp_path: Path) -> None:
    given: list[str] = []
    for name in files:
        (tmp_path / name).write_text(FILES[name])
        given += ["-f", str(tmp_path / name)]
    assert "0 chart(s) failed" in helm("lint", str(CHART), *given)
    said = helm("install", "headgate", str(CHART), "-n", "headgate", "--dry-run=client", *given)
    assert "DEMONSTRATION" not in said


def test_headgate_takes_the_configuration_of_the_page(tmp_path: Path) -> None:
    values: Json = yaml.safe_load(FILES["values.yaml"])
    objects = render(values)
    path = tmp_path / "headgate.yaml"
    path.write_text(yaml.safe_dump(objects.config).replace("/etc/headgate-keys", str(tmp_path)))
    (tmp_path / "openai").write_text("sk-your-key")
    done = CliRunner().invoke(app, ["check", str(path)])
    assert done.exit_code == 0, done.output
    assert objects.pod["terminationGracePeriodSeconds"] == 335  # as the page computes it


def test_the_image_that_the_page_names_is_the_chart_s() -> None:
    image = render(yaml.safe_load(FILES["values.yaml"])).container("envoy")["image"]
    assert f"`{image}`" in PAGE.text


def test_openssl_is_the_only_other_program() -> None:
    """So that nobody has to install what the page does not name."""
    firsts = {line.split()[0] for block in PAGE.blocks("sh") for line in block.splitlines() if line}
    assert firsts <= {"kubectl", "helm", "curl", "until", "export", "openssl", "sed"}
    assert subprocess.run(["openssl", "version"], capture_output=True, check=True).stdout
