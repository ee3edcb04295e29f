"""Rule files that are wrong in odd ways: always a problem with the file's name, never a crash."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratelimit.rules import Algorithm, Descriptor, Mode, OnError, Rate, Rule, RuleSet, Unit
from ratelimit.settings import RuleFile, build, load
from sidecar.errors import ConfigError

LIMIT = "domain: d\ndescriptors:\n- key: a\n  rate_limit: {{{fields}}}"


def read(folder: Path, text: str) -> RuleSet:
    (folder / "rules.yaml").write_text(text, encoding="utf-8")
    return load(folder)


def problem(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    return str(caught.value)


def rules_of(text: str) -> tuple[Rule, ...]:
    """The limits of the descriptor `a`."""
    match = build([RuleFile("rules.yaml", text)]).match("d", Descriptor((("a", "x"),)))
    return () if match is None else tuple(limit.rule for limit in match.limits)


def rule(text: str) -> Rule:
    (found,) = rules_of(text)
    return found


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
        LIMIT.format(fields="unit: day, requests_per_unit: 9007199254740992"),
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


@pytest.mark.parametrize("word", ["true", "True", "yes", "on"])
def test_unlimited_takes_every_word_that_yaml_takes_for_true(word: str) -> None:
    assert rule(LIMIT.format(fields=f"unlimited: {word}")).unlimited


@pytest.mark.parametrize("word", ["false", "no", "Off"])
def test_not_unlimited_needs_a_unit_and_an_absent_amount_blocks(word: str) -> None:
    assert rule(LIMIT.format(fields=f"unlimited: {word}, unit: day")).rate == Rate(0, Unit.DAY)


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config file cannot have empty domain"),
        ("domain: ''", "config file cannot have empty domain"),
        ("domain: d\nfoo: 1", "config error, unknown key 'foo'"),
        ("domain: d\n404: 1", "config error, key is not of type string: 404"),
        ("domain: d\ndescriptors: [a]", "config error, yaml file contains list of type other than map: a"),
        ("domain: d\ndescriptors: [{value: x}]", "descriptor has empty key"),
        ("domain: d\ndescriptors: [{key: a}, {key: a}]", "duplicate descriptor composite key 'd.a'"),
        ("domain: d\ndescriptors: [{key: a, value: b}, {key: a_b}]", "duplicate descriptor composite key 'd.a_b'"),
        (
            "domain: d\ndescriptors: [{key: a, descriptors: [{key: b}, {key: b}]}]",
            "duplicate descriptor composite key 'd.a.b'",
        ),
        (LIMIT.format(fields="unit: foosecond"), "invalid rate limit unit 'foosecond'"),
        (LIMIT.format(fields="requests_per_unit: 1"), "invalid rate limit unit ''"),
        (LIMIT.format(fields="unlimited: true, unit: day"), "should not specify rate limit unit when unlimited"),
        (LIMIT.format(fields="unit: day, replaces: [{name: ''}]"), "should not have an empty replaces entry"),
        (
            LIMIT.format(fields="unit: day, name: n, replaces: [{name: n}]"),
            "replaces should not contain name of same descriptor",
        ),
        (
            "domain: d\ndescriptors: [{key: a, value: b, share_threshold: true}]",
            "share_threshold can only be used with wildcard values (containing '*'), but found key 'a_b'",
        ),
        ("domain: d\ndomain: e", "error loading config file: line 2: key 'domain' stands twice in one mapping"),
    ],
)
def test_says_what_is_wrong_as_envoyproxy_ratelimit_does(tmp_path: Path, text: str, message: str) -> None:
    assert problem(tmp_path, text) == f"rules.yaml: {message}"


@pytest.mark.parametrize(
    "fields",
    [
        "unit: minute, algorithm: leaky",
        "unit: minute, burst: 5",
        "unit: minute, algorithm: gcra, lease: 5",
        "unit: minute, algorithm: gcra, time_zone: UTC",
        "unit: minute, time_zone: UTC",
        "unit: day, time_zone: Middle/Earth",
        "unit: 0s",
        "unit: 11y",
        "unit: day, on_error: maybe",
        "unit: day, local_share: 2",
        "unit: day, lease: -1",
        "unit: day, atomic: maybe",
        "unit: day, algorithm: sliding_log, requests_per_unit: 1000001",
    ],
)
def test_what_is_ours_is_checked_as_strictly(tmp_path: Path, fields: str) -> None:
    assert "of 'd.a'" in problem(tmp_path, LIMIT.format(fields=fields))


def test_what_a_rule_may_say_besides(tmp_path: Path) -> None:
    text = LIMIT.format(
        fields="unit: 30s, requests_per_unit: 5, algorithm: gcra, burst: 9, atomic: true, strict: true, "
        "on_error: local, local_share: 0.25"
    )
    found = rule(text)
    assert (found.rate, found.algorithm, found.burst) == (Rate(5, Unit.SECOND, 30), Algorithm.GCRA, 9)
    assert (found.mode, found.strict, found.on_error, found.local_share) == (Mode.RESERVE, True, OnError.LOCAL, 0.25)


def test_several_limits_of_one_descriptor() -> None:
    text = (
        "domain: d\ndescriptors:\n- key: a\n  rate_limit: {unit: second, requests_per_unit: 1}\n"
        "  limits: [10/5m, {unit: month, time_zone: Europe/Rome, requests_per_unit: 7}]"
    )
    rates = [one.rate for one in rules_of(text)]
    assert rates == [Rate(1, Unit.SECOND), Rate(10, Unit.MINUTE, 5), Rate(7, Unit.MONTH, 1, "Europe/Rome")]
    match = build([RuleFile("f", text)]).match("d", Descriptor((("a", "x"),)))
    assert match is not None
    assert [limit.counter for limit in match.limits] == ["d_a_x", "d_a_x_[5m]", "d_a_x_[1mo@Europe/Rome]"]
    assert [limit.stat for limit in match.limits] == ["d.a", "d.a_[5m]", "d.a_[1mo@Europe/Rome]"]


@pytest.mark.parametrize("limits", ["[1/s, 2/s]", "1/s", "[[1/s]]", "[fast]", "[1/fortnight]"])
def test_limits_that_are_none(tmp_path: Path, limits: str) -> None:
    assert "limits of 'd.a'" in problem(tmp_path, f"domain: d\ndescriptors: [{{key: a, limits: {limits}}}]")


def test_files_may_share_a_domain_when_asked_to() -> None:
    files = [RuleFile(name, f"domain: d\ndescriptors: [{{key: {name}, limits: [1/s]}}]") for name in "ab"]
    with pytest.raises(ConfigError, match="b: duplicate domain 'd' in config file"):
        build(files)
    rules = build(files, merge=True)
    assert all(rules.match("d", Descriptor(((key, "x"),))) for key in "ab")
    with pytest.raises(ConfigError, match=r"c: duplicate descriptor composite key 'd\.a'"):
        build([*files, RuleFile("c", "domain: d\ndescriptors: [{key: a}]")], merge=True)


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    nested = "descriptors: &a [{key: leaf}]"
    for level in range(12):
        items = ", ".join(f"{{key: k{n}, descriptors: *{chr(97 + level)}}}" for n in range(1, 9))
        nested = f"descriptors: &{chr(98 + level)} [{{key: k0, {nested}}}, {items}]"
    assert "more than 500000 descriptors" in problem(tmp_path, f"domain: d\n{nested}")


def test_aliases_and_merge_keys_are_yaml() -> None:
    text = (
        "domain: d\ndescriptors:\n- key: a\n  rate_limit: &l {unit: day, requests_per_unit: 5}\n"
        "- key: b\n  rate_limit: {<<: *l, requests_per_unit: 6}"
    )
    match = build([RuleFile("f", text)]).match("d", Descriptor((("b", "x"),)))
    assert match is not None
    assert match.limits[0].rule.rate == Rate(6, Unit.DAY)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "rules.yaml").open("wb") as file:
        file.truncate(50 << 20)
    with pytest.raises(ConfigError, match=r"rules\.yaml: error loading config file: it is larger than 16 MiB"):
        load(tmp_path)


def metadata(text: str) -> object:
    match = build([RuleFile("f", f"domain: d\ndescriptors: [{{key: a, limits: [1/s], metadata: {text}}}]")]).match(
        "d", Descriptor((("a", "x"),))
    )
    assert match is not None
    return match.metadata


def test_metadata_is_yaml_as_usual() -> None:
    text = "{n: 3, p: 0.5, h: 0x10, t: true, f: no, z: null, s: '3', d: 2024-01-01, 404: [1, {a: b}]}"
    assert metadata(text) == {
        "n": 3, "p": 0.5, "h": 16, "t": True, "f": False, "z": None, "s": "3", "d": "2024-01-01", "404": [1, {"a": "b"}],
    }  # fmt: skip


def test_metadata_holds_no_number_that_a_struct_cannot() -> None:
    assert metadata("{a: .inf, b: .nan, c: -.inf}") == {"a": ".inf", "b": ".nan", "c": "-.inf"}
    assert metadata(f"{{a: {'9' * 400}}}") == {"a": "9" * 400}


@pytest.mark.parametrize(
    "text",
    [
        "{a: " * 30 + "1" + "}" * 30,
        "&m {a: *m}",
        "{a: &a [1,2,3,4,5,6,7,8,9], b: &b [*a,*a,*a,*a,*a,*a,*a,*a], c: &c [*b,*b,*b,*b,*b,*b,*b,*b], d: [*c,*c,*c,*c,*c,*c,*c,*c], e: [*c,*c,*c,*c,*c,*c,*c,*c]}",
        "{a: !!int x}",
        "{a: !!bool x}",
        "{? [a] : b}",
        "[a]",
    ],
)
def test_metadata_that_no_answer_could_hold_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="f: error loading config file: "):
        metadata(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("domain: d\nnope: 1\n", 1),
        ("domain: d\ndescriptors:\n  - key: a\n  - key: b\n    rate_limt: {unit: day}\n", 4),
        ("domain: d\ndescriptors:\n  - key: a\n    rate_limit:\n      unit: fortnight\n", 3),
        ("domain: d\ndescriptors:\n  - key: a\n    descriptors:\n      - key: b\n      - value: c\n", 6),
        ("domain: d\ndescriptors:\n  - key: a\n    rate_limit: {unit: day, requests_per_unit: x}\n", 3),
    ],
)
def test_what_is_wrong_has_a_line(text: str, line: int) -> None:
    with pytest.raises(ConfigError) as caught:
        build([RuleFile("mesh.yaml", text)])
    (problem,) = caught.value.problems
    assert problem.line == line
    assert str(problem).startswith("mesh.yaml: ")
