"""The fault table, read from `table.yaml`: every case with what must come of it, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

PATH = Path(__file__).with_name("table.yaml")
COUNTS = ("one", "two", "three")
SHAPES: tuple[Shape, ...] = ("plain", "stream")
LETTERS = "abc"

Shape = Literal["plain", "stream"]
Port = Literal["fake", "refuse", "tls", "dns"]


@dataclass(frozen=True, slots=True)
class Received:
    """How many requests reached each provider."""

    a: int = 0
    b: int = 0
    c: int = 0

    def __str__(self) -> str:
        return f"{self.a} {self.b} {self.c}"


@dataclass(frozen=True, slots=True)
class Expected:
    """What must come of a case; the words are those of `table.yaml`."""

    served_by: Literal["", "a", "b", "c"]
    status: int
    attempts: int
    received: Received
    code: str
    retry_after: str
    whole: bool
    cut: bool
    seconds: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Case:
    """One fault, one shape of request, so many targets."""

    kind: str
    shape: Shape
    count: int
    port: Port  # what is behind a faulty target
    fake: str  # its behaviour, where it is the fake provider
    expected: Expected

    @property
    def name(self) -> str:
        """The case's name, which is also its model's."""
        return f"{self.kind}-{self.count}-{self.shape}"

    @property
    def letters(self) -> str:
        """Its targets in order."""
        return LETTERS[: self.count]

    def faulty(self, letter: str) -> bool:
        """Whether a target has the fault: all but the last, and a single one."""
        return self.count == 1 or letter != self.letters[-1]


class _Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rule: str
    fake: str = ""
    port: Port = "fake"
    always: dict[str, Any] = {}
    one: dict[str, Any] = {}
    two: dict[str, Any] = {}
    three: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    stream: dict[str, Any] = {}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    always: dict[str, Any]
    rules: dict[str, dict[Literal["one", "two", "three"], dict[str, Any]]]
    kinds: dict[str, _Kind]


def read(text: str) -> tuple[Case, ...]:
    """Every case of a table. Raises `ValueError` that names what is wrong."""
    try:
        file = msgspec.convert(yaml.safe_load(text), _File)
    except msgspec.ValidationError as error:
        raise ValueError(f"the fault table: {error}") from None
    return tuple(
        _case(file, name, kind, shape, number)
        for name, kind in file.kinds.items()
        for number in range(1, len(COUNTS) + 1)
        for shape in SHAPES
    )


def _case(file: _File, name: str, kind: _Kind, shape: Shape, number: int) -> Case:
    word = COUNTS[number - 1]
    if kind.rule not in file.rules:
        raise ValueError(f"the fault table: {name}: there is no rule '{kind.rule}'")
    rule: Mapping[str, dict[str, Any]] = {str(count): layer for count, layer in file.rules[kind.rule].items()}
    layers = (file.always, rule[word], kind.always, getattr(kind, word), getattr(kind, shape))
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= layer
    unknown = merged.keys() - Expected.__dataclass_fields__.keys()
    unknown |= merged.get("received", {}).keys() - set(LETTERS)
    if unknown:
        raise ValueError(f"the fault table: {name}: unknown {', '.join(sorted(unknown))}")
    try:
        expected = msgspec.convert(merged, Expected)
    except msgspec.ValidationError as error:
        raise ValueError(f"the fault table: {name}-{number}-{shape}: {error}") from None
    return Case(name, shape, number, kind.port, kind.fake, expected)


@cache
def table() -> tuple[Case, ...]:
    """The product's fault table."""
    return read(PATH.read_text(encoding="utf-8"))
