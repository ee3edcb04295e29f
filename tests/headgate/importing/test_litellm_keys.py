"""LiteLLM's virtual keys as keys of ours."""

from __future__ import annotations

from headgate.importing import litellm_keys
from headgate.importing.report import Outcome
from sidecar.configfile import ConfigFile
from tests.headgate.importing.imports import SAMPLES, everything, settings_of, uncovered, values_of
from tests.headgate.importing.test_litellm import deployment, text


def keys(name: str) -> ConfigFile:
    path = SAMPLES / name
    return litellm_keys.read(path.read_text(), path.name)


def test_virtual_keys_go_on_working() -> None:
    result = text(
        "model_list:\n- {model_name: chat, litellm_params: {model: openai/a}}\n"
        "- {model_name: new, litellm_params: {model: openai/b}, model_info: {access_groups: [beta]}}",
        keys=keys("litellm_keys.json"),
    )
    first, second, third = values_of(result)["keys"]
    assert first == {
        "name": "billing-bot",
        "sha256": "0d7fbd4e1ef5b9efd0aa3c73c1eb6ed9d1f3b1e7b5a8f1c5a8e5a1dbe4a50f01",
        "models": ["chat", "new"],
        "team": "finance",
        "limits": {"requests": "60/min", "tokens": "100000/min"},
    }
    assert second["name"] == "key-1d7fbd4e"
    assert "models" not in second
    assert third["sha256"].startswith("3d7f")
    settings_of(result)
    report = result.reports["litellm_keys.json"]
    assert {entry.path for entry in report if entry.outcome is Outcome.MISSING} >= {
        ("keys", 0, "max_budget"), ("keys", 0, "budget_duration"), ("keys", 2), ("keys", 3),
    }  # fmt: skip
    assert uncovered(result, keys("litellm_keys.json")) == []
    assert "sk-not-a-hash" not in everything(result)


def test_virtual_keys_of_a_dump() -> None:
    result = text(
        deployment(model="openai/a").replace("model_name: m", "model_name: chat"), keys=keys("litellm_keys.csv")
    )
    first, second = values_of(result)["keys"]
    assert first["models"] == ["chat"]
    assert first["limits"] == {"requests": "60/min"}
    assert second["name"] == "billing-1d7fbd4e"
    assert second["limits"] == {"tokens": "5000/min"}
    assert "without beta" in everything(result)


def test_a_key_of_models_that_are_all_gone_may_use_none() -> None:
    listed = '[{"token": "%s", "models": ["gone"]}]' % ("a" * 64)
    result = text(deployment(model="openai/a"), keys=litellm_keys.read(listed, "keys.json"))
    assert values_of(result)["keys"][0]["models"] == []
