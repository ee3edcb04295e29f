"""Reads environment variables one by one, and gathers everything that is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from ratelimit.standalone import govalues
from sidecar.errors import Problem

T = TypeVar("T")


class Variables:
    """The environment while it is read.

    A value that cannot be used counts as the default and becomes one of `problems`. `asked` are the names asked for,
    `warnings` what the operator should know though nothing is wrong.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.asked: dict[str, None] = {}
        self.problems: list[Problem] = []
        self.warnings: list[str] = []

    def given(self, name: str) -> bool:
        """Whether the variable is set, be it to nothing."""
        return name in self._environment

    def wrong(self, name: str, message: str, mend: str = "") -> None:
        """The variable cannot be used."""
        self.problems.append(Problem(name, "", message, mend))

    def text(self, name: str, default: str = "") -> str:
        """As it is written."""
        self.asked[name] = None
        return self._environment.get(name, default)

    def flag(self, name: str, default: bool = False) -> bool:
        """As Go reads a bool."""
        return self._parsed(name, default, govalues.boolean)

    def integer(self, name: str, default: int, *, least: int = 0, most: int = 2**31 - 1) -> int:
        """A whole number between `least` and `most`."""
        return self._parsed(name, default, lambda text: _between(govalues.integer(text), least, most))

    def decimal(self, name: str, default: float, *, least: float, most: float) -> float:
        """A number between `least` and `most`."""
        return self._parsed(name, default, lambda text: _between(govalues.decimal(text), least, most))

    def seconds(self, name: str, default: float) -> float:
        """A duration, not negative."""

        def read(text: str) -> float:
            value = govalues.duration(text)
            if value < 0:
                raise ValueError("the duration is negative | write one like 10s")
            return value

        return self._parsed(name, default, read)

    def pairs(self, name: str) -> dict[str, str]:
        """`name:value,name:value`."""
        return self._parsed(name, {}, govalues.pairs)

    def choice(self, name: str, default: str, known: Mapping[str, str]) -> str:
        """One of the words in `known` (lower case), in any case: what it stands for there."""

        def read(text: str) -> str:
            if text.lower() not in known:
                words = ", ".join(dict.fromkeys(known))
                raise ValueError(f"'{text[:40]}' is not known here | write one of {words}")
            return known[text.lower()]

        return self._parsed(name, known[default], read)

    def _parsed(self, name: str, default: T, read: Callable[[str], T]) -> T:
        self.asked[name] = None
        text = self._environment.get(name)
        if text is None:
            return default
        try:
            return read(text)
        except ValueError as error:
            message, _, mend = str(error).partition(" | ")
            if not text:
                message, mend = "is empty", f"{mend}, or leave the variable out"
            self.wrong(name, message, mend)
            return default


def _between(value: T, least: T, most: T) -> T:
    if not least <= value <= most:  # type: ignore[operator]
        raise ValueError(f"{value} is out of range | write {least} to {most}")
    return value
