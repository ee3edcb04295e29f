"""helm/headgate/README.md, made of values.yaml's comments and of checklist.yaml. `python -m tests.helm.chart_readme` writes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from tests.helm.chart import CHART, Json

README = CHART / "README.md"
CHECKLIST = CHART / "checklist.yaml"
_KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):(.*)$")
_BEGIN, _END = "<!-- {} (made by make chart-readme) -->", "<!-- end of {} -->"


@dataclass(frozen=True, slots=True)
class Value:
    """One value: where, what it is by default, and what its comment says. `comment` is empty for a section."""

    path: str
    default: Any
    comment: str
    line: int


def values() -> Iterator[Value]:
    """Every key of values.yaml down to those whose comment describes all below them."""
    text = (CHART / "values.yaml").read_text()
    defaults = yaml.safe_load(text)
    stack: list[tuple[int, str]] = []
    comment: list[str] = []
    skip: int | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
            continue
        match = _KEY.match(line)
        said, comment = " ".join(comment), []
        if match is None:
            continue
        indent = len(match[1])
        if skip is not None:
            if indent > skip:
                assert not said, f"line {number}: a comment below a value that is described as a whole"
                continue
            skip = None
        while stack and stack[-1][0] >= indent:
            stack.pop()
        stack.append((indent, match[2]))
        path = [name for _, name in stack]
        default = defaults
        for name in path:
            default = default[name]
        if said:
            skip = indent
        yield Value(".".join(path), default, said, number)


def values_table() -> str:
    """One row for each value."""
    rows = [f"| `{one.path}` | `{_shown(one.default)}` | {one.comment} |" for one in values() if one.comment]
    return "\n".join(["| value | default | |", "|---|---|---|", *rows])


def _shown(default: Any) -> str:
    return yaml.safe_dump(default, default_flow_style=True, width=10_000).removesuffix("...\n").strip()


def checklist() -> list[Json]:
    """The points that the chart is held against."""
    return list(yaml.safe_load(CHECKLIST.read_text()))


def checklist_table() -> str:
    """One row for each point."""
    rows = [f"| {one['point']} | {one['what']} | {one['answer']} | {one['why']} |" for one in checklist()]
    return "\n".join(["| | point | | how, or why not |", "|---|---|---|---|", *rows])


def made(text: str) -> str:
    """`text` with its tables made anew."""
    for name, table in (("values", values_table()), ("checklist", checklist_table())):
        begin, end = _BEGIN.format(name), _END.format(name)
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


if __name__ == "__main__":
    README.write_text(made(README.read_text()))
