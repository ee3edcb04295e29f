"""Portkey's configs as ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headgate.importing import portkey
from headgate.importing.result import Result
from sidecar.configfile import ConfigFile
from sidecar.errors import ConfigError
from tests.headgate.importing.imports import SAMPLES, everything, run, settings_of, uncovered, values_of

FILES = sorted((SAMPLES / "portkey").glob("*.json"))


def convert(config: dict[str, Any] | Path, **options: Any) -> tuple[ConfigFile, Result]:
    text = config.read_text() if isinstance(config, Path) else json.dumps(config)
    file = portkey.read(text, "config.json")
    return file, portkey.convert(file, "chat", **options)


def model(config: dict[str, Any], **options: Any) -> Any:
    return values_of(convert(config, **options)[1])["models"]["chat"]


def leaf(name: str = "a", **fields: Any) -> dict[str, Any]:
    return {"provider": "openai", "override_params": {"model": name}, **fields}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_written_can_be_used_and_everything_is_reported(path: Path) -> None:
    file, result = convert(path, wanted=["gpt-4o"])
    settings_of(result)
    assert uncovered(result, file) == []
    assert "written-out" not in everything(result)


def test_a_fallback_over_a_balanced_pair() -> None:
    made = values_of(convert(SAMPLES / "portkey" / "balanced.json")[1])["models"]["chat"]
    assert made == {
        "targets": [
            {"provider": "openai", "model": "gpt-4o", "weight": 7},
            {"provider": "azure-openai", "model": "gpt-4o-eu", "weight": 3},
            {"provider": "groq", "model": "llama-3.3-70b-versatile", "priority": 1},
        ],
        "retry_on": ["connect", "reset", "429", "500", "503"],
        "timeouts": {"first_byte": 30},
        "cache": {"ttl": 600, "max_temperature": None},
    }


def test_a_config_without_a_model_stands_for_each_that_clients_use() -> None:
    config = {"provider": "openai", "api_key": "sk-x"}
    assert set(values_of(convert(config, wanted=["gpt-4o", "o3"])[1])["models"]) == {"gpt-4o", "o3"}
    with pytest.raises(ConfigError, match="a target names no model"):
        convert(config)


def test_conditions_become_models_that_clients_name() -> None:
    path = SAMPLES / "portkey" / "conditional.json"
    models = values_of(convert(path, known={"mystery": "groq"})[1])["models"]
    assert models == {
        "chat-big": {"provider": "openai", "model": "gpt-4o"},
        "chat": {"provider": "groq", "model": "llama-3"},
    }


def test_shares_inside_of_shares_are_multiplied() -> None:
    inner = {"strategy": {"mode": "loadbalance"}, "weight": 1, "targets": [leaf("b", weight=1), leaf("c", weight=3)]}
    made = model({"strategy": {"mode": "loadbalance"}, "targets": [leaf("a", weight=1), inner]})
    assert [one.get("weight", 1) for one in made["targets"]] == [4, 1, 3]


def test_a_fallback_inside_of_shares_comes_after_all_of_them() -> None:
    inner = {"strategy": {"mode": "fallback"}, "targets": [leaf("b"), leaf("c")]}
    made = model({"strategy": {"mode": "loadbalance"}, "targets": [leaf("a"), inner]})
    assert [(one["model"], one.get("priority", 0)) for one in made["targets"]] == [("a", 0), ("b", 0), ("c", 1)]


def test_a_model_that_names_its_provider() -> None:
    made = model({"override_params": {"model": "@groq-team/llama-3"}})
    assert made == {"provider": "groq", "model": "llama-3"}


def test_a_host_of_ones_own() -> None:
    _, result = convert(leaf(custom_host="https://models.example.com/v1/", api_key="sk-x"))
    assert values_of(result)["providers"]["openai"]["base_url"] == "https://models.example.com/v1"


def test_the_command(tmp_path: Path) -> None:
    result = run(
        "portkey", str(SAMPLES / "portkey" / "single.json"), "--model", "gpt-4o", "-o", str(tmp_path / "h.yaml")
    )
    assert result.exit_code == 0, result.output
    nothing = tmp_path / "nothing.json"
    nothing.write_text('{"provider": "bedrock", "override_params": {"model": "x"}}')
    failed = run("portkey", str(nothing))
    assert failed.exit_code == 1
    assert "targets: none can be served" in failed.stderr
