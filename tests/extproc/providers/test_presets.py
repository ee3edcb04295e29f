"""Every preset is complete, and leads somewhere."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from extproc.providers.dialect import DIALECTS
from extproc.providers.presets import PRESETS, Preset
from extproc.providers.quirks import ALL_OPERATIONS

EVERY = pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)

# Fields that say what is asked for or how it is answered: a request without them would be another one.
MEANINGFUL = {
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "model",
    "n",
    "presence_penalty",
    "reasoning_effort",
    "response_format",
    "seed",
    "stop",
    "stream",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
}


@EVERY
def test_a_preset_is_found_by_its_own_name(preset: Preset) -> None:
    assert PRESETS[preset.name] is preset
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", preset.name)
    assert preset.title


@EVERY
def test_a_base_url_is_one_to_which_an_operation_can_be_appended(preset: Preset) -> None:
    assert preset.dialect in DIALECTS
    if not preset.base_url:
        return
    parts = urlsplit(preset.base_url)
    assert not preset.base_url.endswith("/")
    assert not parts.query
    assert not parts.fragment
    if parts.scheme == "http":
        assert parts.hostname == "127.0.0.1"
        assert parts.port
    else:
        assert parts.scheme == "https"
        assert parts.hostname


@EVERY
def test_a_provider_on_the_internet_has_a_key_and_is_not_probed(preset: Preset) -> None:
    if preset.base_url.startswith("http://"):
        return
    assert re.fullmatch(r"[A-Z][A-Z0-9_]*(KEY|TOKEN)", preset.key_variable)
    assert preset.health_path == ""


@EVERY
def test_a_health_path_is_a_path_of_the_host(preset: Preset) -> None:
    assert preset.health_path == "" or re.fullmatch(r"/[a-z/]*", preset.health_path)


@EVERY
def test_facts_have_a_source(preset: Preset) -> None:
    assert urlsplit(preset.docs).scheme == "https"


@EVERY
def test_quirks_leave_out_only_what_changes_no_answer(preset: Preset) -> None:
    quirks = preset.quirks
    assert quirks.operations
    assert quirks.operations <= ALL_OPERATIONS
    assert not MEANINGFUL & set(quirks.drops)
    assert sorted(quirks.drops) == list(quirks.drops)
    if "stream_options" in quirks.drops:
        assert not quirks.include_usage


def test_presets_cannot_be_added_at_run_time() -> None:
    with pytest.raises(TypeError):
        PRESETS["mine"] = PRESETS["openai"]  # type: ignore[index]
