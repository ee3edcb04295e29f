"""LiteLLM's configuration as ours."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.importing import litellm
from headgate.importing.litellm_vendors import UNSUPPORTED, VENDORS, split
from headgate.importing.report import Outcome
from headgate.importing.result import Result
from sidecar.configfile import ConfigFile
from sidecar.errors import ConfigError
from tests.headgate.importing.imports import (
    SAMPLES,
    everything,
    run,
    settings_of,
    uncovered,
    values_of,
    variables_in,
)

FILES = sorted((SAMPLES / "litellm").glob("*.yaml"))
EVERY_SAMPLE = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
NOW = datetime(2026, 11, 1, tzinfo=UTC)


def convert(path: Path, environment: dict[str, str] | None = None, **options: Any) -> tuple[ConfigFile, Result]:
    file = litellm.read(path.read_text(), path.name)
    return file, litellm.convert(file, environment or {}, NOW, **options)


def of(name: str, **options: Any) -> Result:
    return convert(SAMPLES / "litellm" / f"{name}.yaml", **options)[1]


def text(yaml: str, **options: Any) -> Result:
    return litellm.convert(litellm.read(yaml, "config.yaml"), {}, NOW, **options)


def outcome(result: Result, *path: str | int) -> Outcome:
    entries = [entry for entries in result.reports.values() for entry in entries if entry.path == path]
    assert entries, path
    return entries[-1].outcome


def deployment(**params: Any) -> str:
    import json

    return f"model_list: [{{model_name: m, litellm_params: {json.dumps(params)}}}]"


@EVERY_SAMPLE
def test_what_is_written_can_be_used(path: Path) -> None:
    _, result = convert(path)
    settings = settings_of(result)
    assert settings.models
    assert settings.providers
    assert variables_in(result.document.text()) <= set(result.variables)


@EVERY_SAMPLE
def test_every_key_of_the_file_is_in_the_report(path: Path) -> None:
    file, result = convert(path)
    assert uncovered(result, file) == []


@EVERY_SAMPLE
def test_with_the_old_gateway_behind_it_it_can_be_used_too(path: Path) -> None:
    file, result = convert(path, through="http://litellm:4000")
    settings_of(result)
    assert uncovered(result, file) == []


@EVERY_SAMPLE
def test_no_secret_is_written_anywhere(path: Path) -> None:
    _, result = convert(path, {"LITELLM_MASTER_KEY": "sk-master-from-environment"})
    said = everything(result)
    for secret in (
        "written-out", "hunter2hunter2", "database-password", "rerank-secret", "guardrail-secret", "mirror-secret",
        "none-needed", "sk-master-from-environment",
    ):  # fmt: skip
        assert secret not in said


@EVERY_SAMPLE
def test_the_command_says_the_same_and_check_accepts_it(path: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from headgate.cli import app

    output = tmp_path / "headgate.yaml"
    result = run("litellm", str(path), "-o", str(output))
    assert result.exit_code == 0, result.output
    variables = convert(path)[1].variables
    checked = CliRunner().invoke(app, ["check", str(output)], env={"COLUMNS": "200", **variables})
    assert checked.exit_code == 0, checked.output


def test_the_smallest_one() -> None:
    assert values_of(of("smallest")) == {
        "providers": {"openai": {"preset": "openai", "api_key": "${OPENAI_API_KEY}", "idle_timeout": 600}},
        "models": {"chat": {"provider": "openai", "model": "gpt-4o-mini"}},
    }


def test_deployments_of_one_name_become_targets_with_their_shares() -> None:
    result = of("two_regions")
    assert values_of(result)["models"]["gpt-4o"]["targets"] == [
        {"provider": "azure-acme-sweden", "model": "gpt-4o-sweden", "weight": 3},
        {"provider": "azure-acme-france", "model": "gpt-4o-france"},
        {"provider": "openai", "model": "gpt-4o"},
    ]
    assert values_of(result)["providers"]["azure-acme-france"]["base_url"] == "https://acme-france.openai.azure.com"
    assert outcome(result, "model_list", 0, "litellm_params", "rpm") is Outcome.CHANGED


def test_order_becomes_priority_and_the_same_target_twice_becomes_one() -> None:
    models = values_of(of("order_and_weight"))["models"]
    assert [(one["provider"], one.get("weight"), one.get("priority")) for one in models["chat"]["targets"]] == [
        ("openai", 7, None),
        ("xai", 3, None),
        ("deepseek", None, 1),
    ]
    assert [one.get("weight", 1) for one in models["batch"]["targets"]] == [1_000_000, 1]


def test_fallbacks_become_priorities_and_those_of_fallbacks_too() -> None:
    result = of("fallbacks")
    models = values_of(result)["models"]
    assert [one["provider"] for one in models["smart"]["targets"]] == ["openai", "anthropic", "groq"]
    assert [one.get("priority", 0) for one in models["smart"]["targets"]] == [0, 1, 2]
    assert [one["provider"] for one in models["lonely"]["targets"]] == ["mistral", "groq"]  # default_fallbacks
    assert models["smart"]["timeouts"] == {"first_byte": 30}
    assert outcome(result, "litellm_settings", "fallbacks", 0, "smart") is Outcome.CHANGED
    assert outcome(result, "litellm_settings", "fallbacks", 2, "ghost") is Outcome.MISSING
    assert outcome(result, "litellm_settings", "context_window_fallbacks") is Outcome.MISSING
    assert "without nowhere" in everything(result)


def test_a_fallback_may_name_the_id_of_a_deployment() -> None:
    models = values_of(
        text(
            "model_list:\n"
            "- {model_name: a, litellm_params: {model: openai/a}, model_info: {id: first}}\n"
            "- {model_name: b, litellm_params: {model: groq/b}}\n"
            "router_settings: {fallbacks: [{b: [first]}]}"
        )
    )["models"]
    assert [one["provider"] for one in models["b"]["targets"]] == ["groq", "openai"]


def test_a_pattern_becomes_the_models_that_are_named_somewhere() -> None:
    models = values_of(of("wildcards", wanted=["openai/o3", "anthropic/claude-haiku-4-5"]))["models"]
    assert models["openai/o3"] == {"provider": "openai", "model": "o3"}
    assert models["openai/gpt-4o-mini"]["model"] == "gpt-4o-mini"
    assert models["anthropic/claude-haiku-4-5"]["provider"] == "anthropic"
    assert outcome(of("wildcards"), "model_list", 1, "litellm_params", "model") is Outcome.MISSING


def test_of_two_patterns_the_most_specific_one_is_taken_and_an_alias_is_no_use_of_one() -> None:
    config = (
        'model_list:\n- {model_name: "*", litellm_params: {model: "openai/*"}}\n'
        '- {model_name: "groq/*", litellm_params: {model: "groq/*"}}\n- {model_name: m, litellm_params: {model: openai/a}}\n'
        "router_settings: {model_group_alias: {short: groq/llama, other: m}, fallbacks: [{m: [o3]}]}"
    )
    models = values_of(text(config))["models"]
    assert models["groq/llama"] == models["short"] == {"provider": "groq", "model": "llama"}
    assert models["o3"] == {"provider": "openai"}
    assert set(models) == {"groq/llama", "o3", "m", "short", "other"}


@pytest.mark.parametrize(
    ("params", "timeouts"),
    [
        ({"timeout": 20}, {"first_byte": 20}),
        ({"timeout": 20, "stream_timeout": 50}, {"first_byte": 20}),
        ({"stream_timeout": 0.001}, None),
        ({"timeout": 600}, None),
        ({"timeout": 900}, {"first_byte": 900, "idle": 900}),
    ],
)
def test_timeouts(params: dict[str, Any], timeouts: dict[str, Any] | None) -> None:
    model = values_of(text(deployment(model="openai/a", **params)))["models"]["m"]
    assert model.get("timeouts") == timeouts


@pytest.mark.parametrize(
    ("model", "mode", "found"),
    [
        ("openai/a", "embedding", Outcome.KEPT),
        ("anthropic/a", "embedding", Outcome.MISSING),
        ("openai/a", "rerank", Outcome.MISSING),
    ],
)
def test_what_a_deployment_is_for(model: str, mode: str, found: Outcome) -> None:
    config = f"model_list: [{{model_name: m, litellm_params: {{model: {model}}}, model_info: {{mode: {mode}}}}}]"
    assert outcome(text(config), "model_list", 0, "model_info", "mode") is found


def test_a_deployment_without_a_name_has_the_models() -> None:
    made = values_of(text(deployment(model="azure/", api_base="https://a.openai.azure.com", api_version="v1")))
    assert made["models"]["m"] == {"provider": "azure-a"}


def test_what_cannot_be_served_goes_through_the_old_gateway_when_asked_to() -> None:
    models = values_of(of("unsupported", through="http://litellm:4000"))["models"]
    assert models["gemini-pro"] == {"provider": "litellm"}
    assert [one["provider"] for one in models["chat"]["targets"]] == ["openai", "litellm"]
    assert set(values_of(of("unsupported"))["models"]) == {"chat"}


def test_servers_of_ones_own() -> None:
    values = values_of(of("own_servers"))
    assert values["providers"]["ollama"]["base_url"] == "http://localhost:11434/v1"
    assert values["providers"]["models.example.com"] == {
        "dialect": "openai",
        "base_url": "https://models.example.com/v2",
        "api_key": "${MODELS_EXAMPLE_COM_API_KEY}",
        "idle_timeout": 600,
    }
    assert values["models"]["llama"]["strategy"] == "least_requests"
    assert values["models"]["llama"]["attempts"] == 1
    assert "broken" not in values["models"]


def test_keys_that_are_written_out_never_get_a_variable_that_means_another_key() -> None:
    providers = values_of(of("literal_keys"))["providers"]
    assert [one["api_key"] for one in providers.values()] == [
        "${OPENAI_API_KEY_2}", "${OPENAI_API_KEY}", "${OPENAI_API_KEY_3}", "${GROQ_API_KEY}", "${GROQ_API_KEY_2}",
    ]  # fmt: skip


def test_the_master_key_goes_on_working() -> None:
    digest = hashlib.sha256(b"sk-master-written-out").hexdigest()
    assert values_of(of("literal_keys"))["keys"] == [{"name": "master", "sha256": digest}]
    _, result = convert(SAMPLES / "litellm" / "server.yaml", {"LITELLM_MASTER_KEY": "sk-a"})
    assert values_of(result)["keys"] == [{"name": "master", "sha256": hashlib.sha256(b"sk-a").hexdigest()}]
    assert "keys" not in values_of(of("server"))


def test_routing() -> None:
    result = of("whole_router")
    fast = values_of(result)["models"]["fast"]
    assert fast["strategy"] == "cost"
    assert fast["targets"][0]["cost"] == {"input": 0.15, "output": 0.6}
    assert fast["attempts"] == 6
    assert "429" not in fast["retry_on"]
    assert fast["timeouts"] == {"first_byte": 200, "idle": 200}
    assert values_of(result)["models"]["quick"] == fast
    assert values_of(result)["store"] == "redis://:${REDIS_PASSWORD}@${REDIS_HOST}:${REDIS_PORT}"
    assert values_of(result)["providers"]["openai"]["drops"] == ["logit_bias"]
    assert outcome(result, "router_settings", "model_group_alias", "gone") is Outcome.MISSING
    assert outcome(result, "router_settings", "something_new", "a") is Outcome.MISSING


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("simple-shuffle", None), ("least-busy", "least_requests"), ("latency-based-routing", "latency"),
     ("cost-based-routing", "cost"), ("usage-based-routing-v2", None), ("of-my-own", None)],
)  # fmt: skip
def test_strategies(theirs: str, ours: str | None) -> None:
    result = text(
        "model_list:\n- {model_name: m, litellm_params: {model: openai/a}}\n"
        f"- {{model_name: m, litellm_params: {{model: groq/a}}}}\nrouter_settings: {{routing_strategy: {theirs}}}"
    )
    assert values_of(result)["models"]["m"].get("strategy") == ours


def test_caches() -> None:
    redis = values_of(of("cache_redis"))
    assert redis["models"]["chat"]["cache"] == {"ttl": 900, "max_temperature": None}
    assert redis["cache"] == {"store": "rediss://:${REDIS_PASSWORD}@cache.internal:6380"}
    assert redis["store"] == "redis://counters.internal:6379/2"
    assert values_of(of("redis_cluster"))["cache"]["store"].startswith("redis+cluster://")
    assert values_of(of("redis_sentinel"))["cache"]["store"].endswith("/mymaster")
    assert "cache" not in values_of(of("cache_others"))["models"]["chat"]
    assert outcome(of("cache_others"), "litellm_settings", "cache") is Outcome.MISSING


def test_a_cache_in_redis_of_which_nothing_is_said_is_the_one_of_the_variables() -> None:
    result = text(f"{deployment(model='openai/a')}\nlitellm_settings: {{cache: true, cache_params: {{type: redis}}}}")
    assert values_of(result)["cache"]["store"] == "redis://:${REDIS_PASSWORD:-}@${REDIS_HOST}:${REDIS_PORT:-6379}"
    settings_of(result)


def test_the_command(tmp_path: Path) -> None:
    source = SAMPLES / "litellm" / "smallest.yaml"
    output = tmp_path / "headgate.yaml"
    result = run("litellm", str(source), "-o", str(output), "--keys", str(SAMPLES / "litellm_keys.json"))
    assert result.exit_code == 0, result.output
    assert "model_list.0.litellm_params.api_key" in result.stderr
    assert "set before `headgate check`: OPENAI_API_KEY" in result.stderr
    assert result.stdout == ""
    assert "billing-bot" in output.read_text()
    again = run("litellm", str(source), "-o", str(output))
    assert again.exit_code == 1
    assert "exists (write to another file, or add --force)" in again.stderr
    assert run("litellm", str(source), "-o", str(output), "--force").exit_code == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("model_list: [", "config.yaml:1: not YAML"),
        ("a: 1\na: 2", "config.yaml:2: a: this key stands here twice"),
        ("models: []", "config.yaml:1: model_list: is missing (is this LiteLLM's config.yaml?)"),
        ("model_list: []", "config.yaml:1: model_list: no model of it can be served"),
        ("model_list: 7", "model_list: no model of it can be served: is no list of models"),
        ("model_list:\n- model_name: a\n  litellm_params: {model: bedrock/x}", "config.yaml:3: model_list: no model of it can be served: it does not speak OpenAI's API (leave it in LiteLLM"),
    ],
)  # fmt: skip
def test_nothing_usable(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    result = run("litellm", str(file))
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stdout == ""


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read" in run("litellm", str(tmp_path / "none.yaml")).stderr
    broken = tmp_path / "keys.json"
    broken.write_text("{")
    source = str(SAMPLES / "litellm" / "smallest.yaml")
    assert "is neither JSON nor CSV" in run("litellm", source, "--keys", str(broken)).stderr
    broken.write_text('{"keys": 7}')
    assert "holds no list of keys" in run("litellm", source, "--keys", str(broken)).stderr


@pytest.mark.parametrize(
    ("model", "provider", "found"),
    [
        ("azure/o_series/x", "", ("azure", "x")),
        ("openrouter/google/gemma", "", ("openrouter", "google/gemma")),
        ("gpt-4o", "", ("openai", "gpt-4o")),
        ("claude-opus-4", "", ("anthropic", "claude-opus-4")),
        ("house", "openai", ("openai", "house")),
        ("openai/house", "openai", ("openai", "house")),
        ("nobody/knows", "", ("", "nobody/knows")),
        ("huggingface/together/a/b", "", ("huggingface", "a/b:together")),
    ],
)
def test_the_name_of_a_model_in_parts(model: str, provider: str, found: tuple[str, str]) -> None:
    assert split(model, provider) == found


def test_no_provider_is_served_and_not_served() -> None:
    assert not set(VENDORS) & set(UNSUPPORTED)


_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("os.environ/X"))
_ANYTHING = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
)
_PARAMS = st.fixed_dictionaries(
    {"model": st.sampled_from(["openai/a", "azure/b", "ollama/c", "bedrock/d", "gpt-4o", "x/*", "huggingface/a/b/c"])},
    optional=dict.fromkeys(
        (
            "api_key", "api_base", "api_version", "rpm", "tpm", "weight", "order", "timeout", "stream_timeout",
            "max_retries", "additional_drop_params", "custom_llm_provider", "input_cost_per_token", "tags",
        ), _ANYTHING,
    ),
)  # fmt: skip
_ROUTER = st.dictionaries(
    st.sampled_from(
        ["routing_strategy", "fallbacks", "default_fallbacks", "num_retries", "retry_policy", "timeout", "redis_host",
         "redis_url", "redis_port", "redis_password", "model_group_alias", "cooldown_time"]
    ), _ANYTHING,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(_PARAMS, min_size=1, max_size=4), _ROUTER, _ANYTHING, _ANYTHING)
def test_whatever_stands_in_the_file_it_is_reported_and_what_is_written_can_be_used(
    deployments: list[dict[str, Any]], router: dict[str, Any], litellm_section: Any, general: Any
) -> None:
    values = {
        "model_list": [{"model_name": "m", "litellm_params": one} for one in deployments],
        "router_settings": router,
        "litellm_settings": litellm_section,
        "general_settings": general,
    }
    file = ConfigFile("config.yaml", values, {(): 1})
    try:
        result = litellm.convert(file, {}, NOW)
    except ConfigError:
        return  # nothing of it could be served
    assert uncovered(result, file) == []
    settings_of(result)
