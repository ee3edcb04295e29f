"""A page of docs/install: its fenced blocks, and a shell that runs its commands."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "install"
PAGES = sorted(one.name for one in FOLDER.glob("*.md"))


@dataclass(frozen=True, slots=True)
class Page:
    """A page of installation: its text and its fenced blocks of one language."""

    text: str

    @staticmethod
    def read(name: str) -> Page:
        return Page((FOLDER / name).read_text())

    def blocks(self, language: str) -> list[str]:
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)

    def section(self, title: str) -> Page:
        """What stands below a heading of the second level."""
        return Page(re.split(r"^## ", self.text.partition(f"\n## {title}\n")[2], flags=re.MULTILINE)[0])

    def configuration(self) -> str:
        """The headgate.yaml of the page."""
        return next(one for one in self.blocks("yaml") if "providers:" in one)


def programs(folder: Path, commands: Mapping[str, str]) -> None:
    """Names as the shell finds them, and the command lines that stand for them."""
    folder.mkdir(exist_ok=True)
    for name, command in commands.items():
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)


def run(
    script: str, folder: Path, environment: Mapping[str, str] | None = None, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run the commands in a shell that finds `folder/bin` first; what they have started in the background ends with it."""
    told = {**(os.environ if environment is None else environment), "COLUMNS": "200"}
    told["PATH"] = f"{folder / 'bin'}:{told['PATH']}"
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=told,
        stdout=subprocess.PIPE,
        stderr=(folder / "stderr").open("w"),
        text=True,
        start_new_session=True,
    )
    try:
        # What runs in the background holds the pipe: the shell's end is what counts.
        process.wait(seconds)
    finally:
        os.killpg(process.pid, signal.SIGKILL) if _lives(process.pid) else None
    output, _ = process.communicate(timeout=20)
    return subprocess.CompletedProcess(process.args, process.returncode, output, (folder / "stderr").read_text())


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
