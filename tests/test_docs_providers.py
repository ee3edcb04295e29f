"""Every configuration on docs/providers.md works as it stands, and the page knows every preset."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from extproc.providers.presets import PRESETS, Preset
from extproc.providers.quirks import ALL_OPERATIONS
from headgate.cli import app

PAGE = (Path(__file__).parent.parent / "docs" / "providers.md").read_text()


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced configuration: the heading that it stands under, the line of its fence (from 1), its text."""

    heading: str
    line: int
    text: str

    def values(self) -> dict[str, Any]:
        values = yaml.safe_load(self.text)
        assert isinstance(values, dict)
        return values

    def presets(self) -> set[str]:
        return {one["preset"] for one in self.values()["providers"].values() if "preset" in one}


def _blocks() -> Iterator[Block]:
    heading, start, lines = "", 0, list[str]()
    for number, line in enumerate(PAGE.splitlines(), 1):
        if start:
            if line == "```":
                yield Block(heading, start, "\n".join(lines) + "\n")
                start = 0
            else:
                lines.append(line)
        elif line == "```yaml":
            start, lines = number, []
        elif line.startswith("#"):
            heading = line.lstrip("# ")


BLOCKS = tuple(_blocks())
EVERY_BLOCK = pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.line}-{block.heading}")
EVERY_PRESET = pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)


@EVERY_BLOCK
def test_a_block_is_a_whole_configuration(block: Block) -> None:
    values = block.values()
    assert set(values) == {"providers", "models", "keys"}
    assert all(values.values())


@EVERY_BLOCK
def test_headgate_check_accepts_a_block(block: Block, tmp_path: Path) -> None:
    references = re.findall(r"\$\{([^}]+)\}", block.text)
    for reference in references:
        if reference.startswith("file:"):
            secret = tmp_path / reference.removeprefix("file:")
            assert secret.is_relative_to(tmp_path)
            secret.parent.mkdir(exist_ok=True)
            secret.write_text("x\n")
    variables = {reference: "x" for reference in references if not reference.startswith("file:")}
    file = tmp_path / "headgate.yaml"
    file.write_text(block.text)
    result = CliRunner().invoke(app, ["check", str(file)], env={**variables, "COLUMNS": "200"})
    assert result.exit_code == 0, result.output


@EVERY_BLOCK
def test_a_block_names_only_presets_that_exist(block: Block) -> None:
    assert block.presets() <= set(PRESETS)


@EVERY_PRESET
def test_a_preset_has_a_block_of_its_own(preset: Preset) -> None:
    block = next(block for block in BLOCKS if block.presets() == {preset.name})
    assert block.heading == preset.title
    provider = next(iter(block.values()["providers"].values()))
    assert provider.get("api_key", "") == (f"${{{preset.key_variable}}}" if preset.key_variable else "")
    assert ("base_url" in provider) == (not preset.base_url)


@EVERY_PRESET
def test_the_table_says_what_a_preset_holds(preset: Preset) -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| `{preset.name}` |")]
    assert len(rows) == 1
    _, url, key, usage, maximum, drops, serves, probe, source = (cell.strip() for cell in rows[0].split("|")[1:-1])
    quirks = preset.quirks
    assert url.strip("`") == (preset.base_url or "yours")
    assert key.strip("`") == (preset.key_variable or "none")
    assert usage == ("" if quirks.include_usage else "not asked for")
    assert maximum.strip("`") == quirks.max_tokens
    assert tuple(re.findall(r"`(\w+)`", drops)) == quirks.drops
    served = {name for name in serves.split(", ") if name and name not in ("all", "realtime")}
    assert (served or ALL_OPERATIONS) == quirks.operations
    assert ("realtime" in serves) == quirks.realtime
    assert probe.strip("`") == preset.health_path
    assert source == f"[page]({preset.docs})"


def test_the_table_has_a_row_for_presets_only() -> None:
    table = PAGE.split("## What the presets hold", 1)[1].split("###", 1)[0]
    assert set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)) == set(PRESETS)


def test_links_within_the_page_lead_to_its_headings() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors
