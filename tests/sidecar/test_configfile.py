"""Reading YAML with places."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar import configfile
from sidecar.configfile import ConfigFile
from sidecar.errors import ConfigError


def parse(
    text: str, environment: dict[str, str] | None = None, folder: Path = Path(), **options: tuple[str, ...]
) -> ConfigFile:
    return configfile.parse(text, "f.yaml", environment or {}, folder=folder, **options)


def problems(text: str, environment: dict[str, str] | None = None, folder: Path = Path()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, environment, folder)
    return [str(problem) for problem in caught.value.problems]


def test_values_and_lines() -> None:
    file = parse("a: 1\nb:\n  - x\n  - {c: true}\n")
    assert file.values == {"a": 1, "b": ["x", {"c": True}]}
    assert file.place(("b", 1, "c")) == "f.yaml:4"
    assert file.place(("b", 0)) == "f.yaml:3"
    assert file.place(("b", 7, "nothing")) == "f.yaml:2"
    assert file.place(("nowhere",)) == "f.yaml:1"


@pytest.mark.parametrize("word", ["y", "n", "yes", "no", "on", "off", "Y", "NO"])
def test_only_true_and_false_are_booleans(word: str) -> None:
    assert parse(f"{word}: {word}").values == {word: word}


def test_keys_are_text() -> None:
    assert parse("404: x\ntrue: y\n2026-01-01: z").values == {"404": "x", "true": "y", "2026-01-01": "z"}


def test_an_empty_file_is_empty() -> None:
    assert parse("").values == {}
    assert parse("# only a comment\n").values == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1", "f.yaml:1: not YAML"),
        ("a: 1\n b: 2", "f.yaml:2: not YAML"),
        ("a: \x00", "not YAML"),
        ("- a\n- b", "must hold keys and values"),
        ("just text", "must hold keys and values"),
        ("a: 1\nb: 2\na: 3", "f.yaml:3: a: this key stands here twice (keep one)"),
        ("a: &x [*x]", "not YAML: an alias that contains itself"),
        ("a: !!python/object/apply:os.system [x]", "not YAML"),
        ("a: " + "[" * 3000 + "]" * 3000, "not YAML"),
    ],
)
def test_what_cannot_be_read_names_the_line(text: str, expected: str) -> None:
    assert expected in problems(text)[0]


def test_an_alias_bomb_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "aliases expand" in problems("\n".join(lines))[0]


def test_references() -> None:
    file = parse(
        "a: ${NAME}\nb: pre-${NAME}-post\nc: ${MISSING:-none}\nd: $${NAME}\ne: ${EMPTY:-}",
        {"NAME": "value", "EMPTY": ""},
    )
    assert file.values == {"a": "value", "b": "pre-value-post", "c": "none", "d": "${NAME}", "e": ""}


def test_references_to_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    assert parse("a: ${file:secret}", folder=tmp_path).values == {"a": "s3cret"}
    assert "cannot be read: No such file" in problems("\na: ${file:nothing}", folder=tmp_path)[0]


def test_references_that_lead_nowhere_are_all_named() -> None:
    found = problems("a: ${ONE}\nb:\n  c: ${TWO}", {"TWO": ""})
    assert found == [
        "f.yaml:1: a: the environment variable ONE is not set (set ONE, or write ${ONE:-default})",
        "f.yaml:3: b.c: the environment variable TWO is empty (set TWO, or write ${TWO:-default})",
    ]


def test_a_reference_is_not_read_twice() -> None:
    assert parse("a: ${ONE}", {"ONE": "${TWO}", "TWO": "x"}).values == {"a": "${TWO}"}


def test_deferred_values_stay_as_written() -> None:
    file = parse("p: {x: {key: '${SECRET}', url: '${URL}'}}", {"URL": "u"}, deferred=("p.*.key",))
    assert file.values == {"p": {"x": {"key": "${SECRET}", "url": "u"}}}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, expected in (
        (tmp_path / "none.yaml", "cannot be read"),
        (tmp_path, "cannot be read"),
        (binary, "not UTF-8"),
    ):
        with pytest.raises(ConfigError, match=expected):
            configfile.read(path, {})
