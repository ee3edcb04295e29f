"""Rule files that are wrong in odd ways: always a problem with the file's name, never a crash."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratelimit.rules import Descriptor, Rate, RuleSet, Unit
from ratelimit.settings import NOT_YET, load
from sidecar.errors import ConfigError

LIMIT = "domain: d\ndescriptors:\n- key: a\n  rate_limit: {{{fields}}}"


def read(folder: Path, text: str) -> RuleSet:
    (folder / "rules.yaml").write_text(text, encoding="utf-8")
    return load(folder)


def problem(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "domain: !!int x",
        "domain: !!python/object:os.system x",
        "domain: a\n---\ndomain: b",
        "domain: \x00",
        "[a]: x",
        "domain: d\ndescriptors:\n- &a {key: a, descriptors: [*a]}",
        "domain: d\ndescriptors: " + "[{key: a, descriptors: " * 3000,
        "domain: d\ndescriptors: [{key: a, value: {key: b}}]",
        "domain: d\ndescriptors: [{key: a, value: [x]}]",
        "domain: d\ndescriptors: [{key: [a]}]",
        LIMIT.format(fields="unit: [day]"),
        LIMIT.format(fields="unit: day, requests_per_unit: [5]"),
        LIMIT.format(fields="unit: day, requests_per_unit: " + "9" * 5000),
        LIMIT.format(fields="unit: day, requests_per_unit: 4294967296"),
        LIMIT.format(fields="unit: day, requests_per_unit: 1.5"),
        LIMIT.format(fields="unlimited: flase, unit: day, requests_per_unit: 5"),
        "domain: d\nrate_limit: {surprise: 1}",
    ],
)
def test_is_a_problem_and_no_crash(tmp_path: Path, text: str) -> None:
    assert problem(tmp_path, text).startswith(("rules.yaml: error loading config file: ", "rules.yaml: config error, "))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text("domain: descriptors:\n -key{}[]&*!|'\"0~", max_size=80))
def test_any_text_is_rules_or_a_config_error(tmp_path: Path, text: str) -> None:
    try:
        assert isinstance(read(tmp_path, text), RuleSet)
    except ConfigError:
        return


@pytest.mark.parametrize("key", sorted(NOT_YET))
@pytest.mark.parametrize("where", ["root", "descriptor", "rate_limit"])
def test_refuses_what_it_cannot_honour_yet(tmp_path: Path, key: str, where: str) -> None:
    texts = {
        "root": f"domain: d\n{key}: true",
        "descriptor": f"domain: d\ndescriptors: [{{key: a, {key}: {{x: y}}}}]",
        "rate_limit": LIMIT.format(fields=f"unit: day, {key}: [{{name: x}}]"),
    }
    assert problem(tmp_path, texts[where]) == f"rules.yaml: config error, '{key}' is not supported yet"


@pytest.mark.parametrize("word", ["true", "True", "yes", "on"])
def test_unlimited_takes_every_word_that_yaml_takes_for_true(tmp_path: Path, word: str) -> None:
    match = read(tmp_path, LIMIT.format(fields=f"unlimited: {word}")).match("d", Descriptor((("a", "x"),)))
    assert match is not None
    assert match.rule.unlimited


@pytest.mark.parametrize("word", ["false", "no", "Off"])
def test_not_unlimited_needs_a_unit_and_an_absent_amount_blocks(tmp_path: Path, word: str) -> None:
    match = read(tmp_path, LIMIT.format(fields=f"unlimited: {word}, unit: day")).match("d", Descriptor((("a", "x"),)))
    assert match is not None
    assert match.rule.rate == Rate(0, Unit.DAY)


def test_an_empty_rate_limit_is_none(tmp_path: Path) -> None:
    rules = read(tmp_path, "domain: d\ndescriptors:\n- key: a\n  value: b\n  rate_limit:\n")
    assert rules.match("d", Descriptor((("a", "b"),))) is None


@pytest.mark.parametrize("raw", ["404", "no", "0x10", "1.50", "2001-01-01", "True", "1_000", "010"])
def test_words_keep_the_text_they_are_written_with(tmp_path: Path, raw: str) -> None:
    limit = "rate_limit: {unit: day, requests_per_unit: 1}"
    rules = read(tmp_path, f"domain: {raw}\ndescriptors: [{{key: {raw}, value: {raw}, {limit}}}]")
    assert rules.match(raw, Descriptor(((raw, raw),))) is not None


def test_a_folder_without_rules_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("domain: d")
    (tmp_path / ".hidden.yaml").write_text("domain: d")
    with pytest.raises(ConfigError, match="holds no rule file"):
        load(tmp_path)
    with pytest.raises(ConfigError, match=r"gone\.yaml: error loading config file"):
        load(tmp_path / "gone.yaml")
