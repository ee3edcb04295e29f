"""Layering and complaints."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from sidecar import configfile
from sidecar.errors import ConfigError
from sidecar.settings import Complaint, Section, load


class Inner(Section):
    size: int = 1
    name: str = ""


class Outer(Section):
    listen: str = "here"
    inner: Inner = Inner()
    many: dict[str, Inner] = Field(default_factory=dict)
    rows: list[Inner] = Field(default_factory=list)

    def complaints(self) -> list[Complaint]:
        return [Complaint(("many", name), "is empty", "name it") for name, one in self.many.items() if not one.name]


def loaded(text: str, environment: dict[str, str] | None = None, flags: dict[str, object] | None = None) -> Outer:
    file = configfile.parse(text, "f.yaml", {}, folder=Path())
    return load(Outer, file, environment or {}, flags)


def problems(text: str, environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(text, environment)
    return [str(problem) for problem in caught.value.problems]


def test_flags_win_over_environment_over_file() -> None:
    text = "listen: file\ninner: {size: 2, name: file}"
    assert loaded(text).listen == "file"
    settings = loaded(text, {"HEADGATE_LISTEN": "env", "HEADGATE_INNER__SIZE": "3"})
    assert (settings.listen, settings.inner.size, settings.inner.name) == ("env", 3, "file")
    assert loaded(text, {"HEADGATE_LISTEN": "env"}, {"listen": "flag"}).listen == "flag"


def test_nested_names_and_json_in_the_environment() -> None:
    assert loaded("", {"HEADGATE_MANY__A__NAME": "x"}).many["a"].name == "x"
    assert loaded("", {"HEADGATE_ROWS": '[{"size": 4}]'}).rows[0].size == 4


def test_unknown_keys_are_errors_with_a_mend() -> None:
    assert problems("lisen: x") == ["f.yaml:1: lisen: no such key (did you mean `listen`?)"]
    assert "f.yaml:3: inner.sizes: no such key (did you mean `size`?)" in problems("a: 1\ninner:\n  sizes: 3")
    assert "known here: name, size" in problems("many: {x: {name: y, zzz: 1}}")[0]
    assert "HEADGATE_LISEN: lisen: no such setting (did you mean `listen`?)" in problems("", {"HEADGATE_LISEN": "x"})


def test_wrong_values_name_their_place() -> None:
    assert problems("rows:\n  - {size: 1}\n  - {size: big}")[0].startswith("f.yaml:3: rows.1.size: ")
    assert problems("inner: {size: 1}", {"HEADGATE_INNER__SIZE": "big"})[0].startswith(
        "HEADGATE_INNER__SIZE: inner.size: "
    )


def test_complaints_of_the_whole_have_places_too() -> None:
    assert problems("many:\n  x: {size: 1}") == ["f.yaml:2: many.x: is empty (name it)"]


@pytest.mark.parametrize(
    "name",
    ["HEADGATE_PORT", "HEADGATE_SERVICE_HOST", "HEADGATE_PORT_9901_TCP_ADDR", "HEADGATE_ADMIN_SERVICE_PORT_HTTP"],
)
def test_kubernetes_service_links_are_not_settings(name: str) -> None:
    assert loaded("", {name: "tcp://10.0.0.1:80"}).listen == "here"
