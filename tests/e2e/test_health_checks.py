"""Active checks, and what people see of the targets: `/status`, `headgate status`, `/metrics`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from headgate.cli import app
from tests.gateway import Gateway, chat, key_entry, post
from tests.provider_thread import ProviderThread


@dataclass(frozen=True)
class Checked:
    gateway: Gateway
    sick: ProviderThread
    well: ProviderThread

    def state(self, number: int = 0, model: str = "m") -> str:
        return str(self.gateway.targets(model)[number]["state"])

    def served_by(self, many: int) -> set[str | None]:
        answers = [post(self.gateway.listen, chat("m")) for _ in range(many)]
        assert {answer.status for answer in answers} == {200}
        return {answer.header("x-headgate-provider") for answer in answers}


@pytest.fixture(scope="module")
def checked() -> Iterator[Checked]:
    with ProviderThread("sick") as sick, ProviderThread("well") as well:
        config = {
            "providers": {
                "sick": {
                    "dialect": "openai", "base_url": sick.base_url, "api_key": "sk-never-shown",
                    "health_check": {"path": "/health", "interval": 0.5, "timeout": 1},
                },
                "well": {
                    "dialect": "openai", "base_url": well.base_url,
                    "health_check": {"path": "/not-there", "interval": 0.5},  # 404 comes from a server that lives
                },
                "alone": {"dialect": "openai", "base_url": sick.base_url},
            },
            "models": {
                "m": [{"provider": "sick", "model": "s"}, {"provider": "well", "model": "w", "priority": 1}],
                "alone": {"provider": "alone"},
            },
            "keys": [key_entry("team-a", passthrough=["well"])],
        }  # fmt: skip
        with Gateway(config) as gateway:
            yield Checked(gateway, sick, well)


def test_what_is_down_is_left_out_and_comes_back(checked: Checked) -> None:
    gateway = checked.gateway
    gateway.wait_for(lambda: len(checked.sick.provider.checks) > 0)
    assert checked.served_by(5) == {"sick"}
    checked.sick.behave("health=503")
    gateway.wait_for(lambda: checked.state() == "down")
    assert checked.served_by(20) == {"well"}
    (target, _) = gateway.targets("m")
    assert "503" in target["why"]
    assert target["seconds_left"] is None
    assert gateway.metric("headgate_target_available", provider="sick", target_model="s") == 0
    assert gateway.metric("headgate_target_available", provider="well", target_model="w") == 1
    # A provider's trouble is no reason to take the gateway away: it still answers, by others or by trying.
    assert gateway.get("/readyz")[0] == 200
    assert post(gateway.listen, chat("alone")).status == 200
    checked.sick.behave("")
    gateway.wait_for(lambda: checked.state() in ("trial", "available"))
    # On trial: one request in a second, until five went well.
    gateway.wait_for(lambda: checked.served_by(5) and checked.state() == "available", 20)
    assert checked.served_by(5) == {"sick"}
    downs = [line["up"] for line in gateway.log_lines("endpoint_checked")]
    assert downs == [False, True]


def test_a_single_failed_check_is_chance_and_a_check_says_nothing_of_us(checked: Checked) -> None:
    for check in checked.sick.provider.checks:
        assert check.path == "/health"
        assert check.header("authorization") is None
        assert "sk-never-shown" not in str(check.headers)
    assert checked.state(1) == "available"


def test_the_command_shows_every_target(checked: Checked) -> None:
    assert checked.served_by(1)
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})
    result = runner.invoke(app, ["status", "--admin", checked.gateway.admin])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert "config" in lines[0]
    assert [word for word in ("model", "target", "state", "served", "failed", "why") if word not in lines[1]] == []
    for shown in ("sick/s", "well/w", "alone/alone", "/p/well/"):
        assert any(shown in line for line in lines), result.output
    assert "sk-never-shown" not in result.output


def test_the_command_as_json_is_what_the_admin_port_says(checked: Checked) -> None:
    result = CliRunner().invoke(app, ["status", "--admin", checked.gateway.admin, "--json"])
    assert result.exit_code == 0
    status = json.loads(result.output)
    assert status.keys() == json.loads(checked.gateway.get("/status")[1]).keys()
    assert [one["provider"] for one in status["targets"]["m"]] == ["sick", "well"]


def test_the_command_says_where_nobody_answers() -> None:
    result = CliRunner().invoke(app, ["status", "--admin", "127.0.0.1:9"])
    assert result.exit_code != 0
    assert "127.0.0.1:9" in result.output


def test_metrics_count_attempts_and_show_targets(checked: Checked) -> None:
    gateway = checked.gateway
    before = gateway.metric("headgate_attempts_total", provider="sick", target_model="s", reason="status")
    assert post(gateway.listen, chat("m"), headers=(("x-fake", "status=409"),)).status == 409
    gateway.wait_for(
        lambda: (
            gateway.metric("headgate_attempts_total", provider="sick", target_model="s", reason="status") == before + 2
        )
    )
    names = {
        sample.name
        for family in text_string_to_metric_families(gateway.get("/metrics")[1])
        for sample in family.samples
    }
    assert {"headgate_attempts_total", "headgate_target_available", "headgate_target_in_flight"} <= names
    gateway.wait_for(lambda: gateway.metric("headgate_attempts_total", provider="well", reason="ok") > 0)
