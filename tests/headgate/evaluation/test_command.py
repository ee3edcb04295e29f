"""`headgate cache evaluate`, against the fake provider's vectors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headgate.fake_provider.behaviour import Behaviour
from tests.provider_thread import ProviderThread


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderThread]:
    with ProviderThread(defaults=Behaviour.parse("embedding=words")) as found:
        yield found


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headgate", "cache", "evaluate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_table_and_a_plot(provider: ProviderThread, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    done = run("--model", "e", "--url", provider.base_url, "--key", "sk-x", "--plot", str(plot))
    assert (done.returncode, done.stderr) == (0, "")
    assert "paraphrases that hit (wanted)" in done.stdout
    assert "near misses that hit (wrong answers)" in done.stdout
    assert "The near misses that hit first:" in done.stdout
    assert plot.read_text().startswith("<svg")
    asked = provider.requests[0]
    assert (asked.path, asked.header("authorization")) == ("/v1/embeddings", "Bearer sk-x")


def test_pairs_of_ones_own_as_json(provider: ProviderThread, tmp_path: Path) -> None:
    own = tmp_path / "own.tsv"
    own.write_text("same\tx\tthe lock\tthe lock!\nother\ty\tthe lock\ta duck\nother\tn\tat 5\tat 6\n")
    done = run("--model", "e", "--url", provider.base_url, "--pairs", str(own), "--dimensions", "64", "--json")
    one, other, number = json.loads(done.stdout)
    assert (one["kind"], one["category"], one["similarity"]) == ("same", "x", 1.0)
    assert other["similarity"] < 0.5
    assert (other["apart"], number["apart"]) == (False, True)
    assert provider.requests[len(provider.requests) - 1].json()["dimensions"] == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--url", "http://127.0.0.1:9/v1"), "http://127.0.0.1:9/v1/embeddings: "),
        (("--url", "ftp://x"), "'ftp://x' is not a base URL"),
        (("--thresholds", "high"), "--thresholds: 'high' are no numbers"),
        (("--pairs", "none.tsv"), "No such file"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str) -> None:
    done = run("--model", "e", *arguments)
    assert done.returncode == 1
    assert message in done.stderr


def test_an_endpoint_that_refuses(provider: ProviderThread) -> None:
    done = run("--model", "fake:status=401", "--url", provider.base_url)
    assert done.returncode == 1
    assert "embeddings: 401: " in done.stderr
