"""Every configuration on docs/migrate works as it stands, and every import there gives what the page shows.

Before a command come its files: blocks whose first line is `# file: NAME`, and JSON (`keys.json` or `config.json`).
After it come what it prints: `yaml` on standard output, `text` on standard error.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headgate.cli import app

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "migrate").glob("*.md"))
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: its language, the line of its fence (from 1), its text."""

    language: str
    line: int
    text: str


def blocks(page: Path) -> Iterator[Block]:
    language, start, lines = "", 0, list[str]()
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if start:
            if line == "```":
                yield Block(language, start, "\n".join(lines) + "\n")
                start = 0
            else:
                lines.append(line)
        elif line.startswith("```"):
            language, start, lines = line[3:], number, []


def file_name(block: Block) -> str:
    """What file a block is; "" for one that is none."""
    named = re.match(r"# file: (\S+)\n", block.text)
    if named:
        return named.group(1)
    return ("keys.json" if '"token"' in block.text else "config.json") if block.language == "json" else ""


@dataclass(frozen=True, slots=True)
class Example:
    """A command of a page, the files that stand before it, and what it prints."""

    command: str
    files: dict[str, str]
    output: str
    report: str


def examples(page: Path) -> Iterator[Example]:
    files: dict[str, str] = {}
    found = list(blocks(page))
    for index, block in enumerate(found):
        if file_name(block):
            files[file_name(block)] = block.text
        if block.language == "console" and "headgate import" in block.text:
            after = found[index + 1 : index + 3]
            output = next((one.text for one in after if one.language == "yaml" and not file_name(one)), "")
            report = next((one.text for one in after if one.language == "text"), "")
            yield Example(block.text.removeprefix("$ ").strip(), dict(files), output, report)


EXAMPLES = [(page, example) for page in PAGES for example in examples(page)]


@pytest.mark.parametrize(("page", "example"), EXAMPLES, ids=lambda one: getattr(one, "stem", "") or "")
def test_an_import_gives_what_the_page_shows(
    page: Path, example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in example.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(example.command)[1:]
    environment = {"COLUMNS": "118", "LITELLM_MASTER_KEY": None}
    result = CliRunner().invoke(app, arguments, env=environment)
    assert result.exit_code == 0, result.output
    assert result.stdout == example.output
    if example.report:
        assert [line.rstrip() for line in result.stderr.splitlines()] == example.report.splitlines()


@EVERY_PAGE
def test_headgate_check_accepts_every_block(page: Path, tmp_path: Path) -> None:
    checked = 0
    for block in blocks(page):
        if block.language != "yaml" or file_name(block) not in ("", "headgate.yaml"):
            continue
        variables = {name.partition(":-")[0]: "x" for name in re.findall(r"\$\{([^}]+)\}", block.text)}
        variables |= {name: "6379" for name in variables if name.endswith("PORT")}
        file = tmp_path / "headgate.yaml"
        file.write_text(block.text)
        result = CliRunner().invoke(app, ["check", str(file)], env={**variables, "COLUMNS": "200"})
        assert result.exit_code == 0, f"{page.name}:{block.line}: {result.output}"
        checked += 1
    assert checked


@EVERY_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", one.lower()).replace(" ", "-") for one in re.findall(r"^#+ (.+)$", text, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
