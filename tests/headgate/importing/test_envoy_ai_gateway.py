"""Envoy AI Gateway's resources as ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from headgate.importing import envoy_ai_gateway
from headgate.importing.report import Outcome
from headgate.importing.result import Result
from sidecar.configfile import ConfigFile
from tests.headgate.importing.imports import SAMPLES, everything, run, settings_of, uncovered, values_of

BASIC = SAMPLES / "envoy_ai_gateway" / "basic.yaml"


def convert(text: str) -> tuple[ConfigFile, Result]:
    file = envoy_ai_gateway.read(text, "gateway.yaml")
    return file, envoy_ai_gateway.convert(file)


def test_what_is_written_can_be_used_and_everything_is_reported() -> None:
    file, result = convert(BASIC.read_text())
    settings_of(result)
    assert uncovered(result, file) == []
    assert "written-out" not in everything(result)


def test_a_list_as_kubectl_prints_it_is_the_same_as_its_documents() -> None:
    documents = [one for one in yaml.safe_load_all(BASIC.read_text()) if one]
    listed = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": documents})
    file, result = convert(listed)
    assert values_of(result) == values_of(convert(BASIC.read_text())[1])
    assert uncovered(result, file) == []
    route = next(number for number, line in enumerate(listed.splitlines(), 1) if "kind: AIGatewayRoute" in line)
    key = next(key for key in file.values if key.startswith("AIGatewayRoute/"))
    assert file.place((key, "kind")) == f"gateway.yaml:{route}"


def test_rules_become_models_and_backends_providers() -> None:
    values = values_of(convert(BASIC.read_text())[1])
    assert values["models"]["gpt-4o"] == {
        "targets": [
            {"provider": "openai", "weight": 3},
            {"provider": "azure", "model": "gpt-4o-eu"},
            {"provider": "house", "model": "llama-3", "priority": 1},
        ],
        "timeouts": {"total": 180, "idle": 180},
    }
    assert set(values["models"]) == {"gpt-4o", "house"}
    assert values["providers"] == {
        "openai": {"preset": "openai", "api_key": "${OPENAI_API_KEY}"},
        "azure": {
            "preset": "azure-openai",
            "base_url": "https://acme.openai.azure.com",
            "api_version": "2024-10-21",
            "api_key": "${AZURE_API_KEY}",
        },
        "house": {"dialect": "openai", "base_url": "http://vllm.models:8000/api/v1"},
    }


def test_the_report_names_the_lines_of_the_whole_file() -> None:
    _, result = convert(BASIC.read_text())
    lines = BASIC.read_text().splitlines()
    for entry in result.reports["gateway.yaml"]:
        if entry.path[-1] == "schema":
            assert "schema:" in lines[entry.line - 1]


def test_what_is_not_served_is_said() -> None:
    _, result = convert(BASIC.read_text())
    found = {entry.path: entry.outcome for entry in result.reports["gateway.yaml"]}
    assert found["AIServiceBackend/bedrock", "spec", "schema"] is Outcome.MISSING
    assert found[("BackendTrafficPolicy/limits",)] is Outcome.MISSING
    assert found["AIGatewayRoute/llm", "spec", "rules", 2, "matches", 0] is Outcome.MISSING


@pytest.mark.parametrize(
    ("text", "seconds"), [("3m", 180), ("1m30s", 90), ("500ms", 0.5), ("1h", 3600), ("", 0), ("soon", 0), (None, 0)]
)
def test_durations(text: str | None, seconds: float) -> None:
    assert envoy_ai_gateway._seconds(text) == seconds


def test_the_command(tmp_path: Path) -> None:
    assert run("envoy-ai-gateway", str(BASIC), "-o", str(tmp_path / "h.yaml")).exit_code == 0
    nothing = tmp_path / "nothing.yaml"
    nothing.write_text("kind: Gateway\n---\nkind: [")
    failed = run("envoy-ai-gateway", str(nothing))
    assert failed.exit_code == 1
    assert "nothing.yaml:3: not YAML" in failed.stderr
    nothing.write_text("kind: Gateway\nmetadata: {name: g}")
    assert "no rule of an AIGatewayRoute can be taken over" in run("envoy-ai-gateway", str(nothing)).stderr
