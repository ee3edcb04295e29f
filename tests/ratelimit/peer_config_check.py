"""Our config_check beside envoyproxy/ratelimit's own binary, file by file. No test: run it by hand.

python -m tests.ratelimit.peer_config_check PATH_TO/config_check_cmd
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from ratelimit.config_check import check
from tests.ratelimit.rule_files import BROKEN, OTHERWISE, USABLE


def theirs(binary: str, folder: Path) -> str:
    """The peer's verdict: `ok` or what follows the file's name."""
    done = subprocess.run([binary, "-config_dir", str(folder)], capture_output=True, text=True, check=False)
    # What cannot be parsed ends their process with a panic that says it.
    return _verdict([*done.stdout.splitlines(), *done.stderr.splitlines()])


def ours(folder: Path) -> str:
    """Our verdict."""
    said: list[str] = []
    check(str(folder), say=said.append)
    return _verdict(said)


def _verdict(lines: list[str]) -> str:
    for line in lines:
        if line == "all rate limit configs ok":
            return "ok"
        found = re.search(r"^(?:error loading rate limit configs|panic): \S*x\.yaml: (.*)", line)
        if found:
            return found.group(1)
    return "nothing"


def main(binary: str) -> int:
    """Print where the two differ. Returns how many of the files that must not did."""
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        for text in (*BROKEN, *OTHERWISE, *USABLE):
            (Path(name) / "x.yaml").write_text(text)
            peer, own = theirs(binary, Path(name)), ours(Path(name))
            if peer != own:
                wrong += text not in OTHERWISE
                print(f"{'expected' if text in OTHERWISE else 'DIFFERS'}: {text!r}\n  theirs: {peer}\n  ours:   {own}")
    print(f"{len(BROKEN) + len(OTHERWISE) + len(USABLE)} files, {wrong} differ that should not")
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
