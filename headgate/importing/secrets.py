"""Secrets of other gateways' files as references: what is secret is never written, neither here nor in a report."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidecar.configfile import resolve

_REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")
_NO_VARIABLE = re.compile(r"[^A-Z0-9]+")


@dataclass(slots=True)
class Secrets:
    """Gives every secret a variable. `variables` are all that the new file refers to, and a value of their kind."""

    variables: dict[str, str] = field(default_factory=dict)
    literals: dict[str, str] = field(default_factory=dict, repr=False)
    reserved: set[str] = field(default_factory=set)

    def reserve(self, text: str) -> None:
        """Keep the variables that `text` names from being given to values that are written out."""
        self.reserved.update(_REFERENCE.findall(text))

    def reference(self, value: str, usual: str, example: str = "x") -> tuple[str, bool]:
        """`value` as a reference, and whether it was written out: `os.environ/NAME` is `${NAME}`.

        A value that was written out gets the variable `usual`, or that with a number where another value has it.
        """
        found = _REFERENCE.fullmatch(value)
        if found:
            return self.variable(found.group(1), example), False
        name = self.literals.get(value)
        if name is None:
            name, number = usual, 1
            while name in self.reserved or name in self.variables or name in self.literals.values():
                number += 1
                name = f"{usual}_{number}"
            self.literals[value] = name
        return self.variable(name, example), True

    def variable(self, name: str, example: str = "x") -> str:
        """The reference to a variable that somebody has to set."""
        self.variables.setdefault(name, example)
        return f"${{{name}}}"


def plain(value: str, secrets: Secrets, example: str) -> str:
    """What is no secret: as written, or a reference. A `${` of its own is kept from being one."""
    if _REFERENCE.fullmatch(value):
        return secrets.reference(value, "", example)[0]
    return value.replace("${", "$${")


def resolved(value: Any, secrets: Secrets) -> Any:
    """`value` with an example in place of every reference, to see whether it could be used."""
    if isinstance(value, dict):
        return {key: resolved(one, secrets) for key, one in value.items()}
    if not isinstance(value, str):
        return value
    try:
        return resolve(value, secrets.variables, Path())
    except LookupError:
        return ""


def variable_name(text: str) -> str:
    """`text` as the name of an environment variable."""
    return _NO_VARIABLE.sub("_", text.upper()).strip("_") or "VALUE"
