"""The image's file system, built as `make rootfs` builds it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def build(folder: Path) -> Path:
    """Build it there."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    subprocess.run(
        [sys.executable, "-m", "image.rootfs", str(folder)], check=True, cwd=ROOT, env=environment, timeout=500
    )
    return folder


def build_once(base: Path) -> Path:
    """Build it below `base`, which several test processes may share; the first one builds."""
    with (base / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = base / "image"
        if not (folder / "done").is_file():
            folder.mkdir(exist_ok=True)
            let_others_in(folder)
            build(folder / "rootfs")
            (folder / "done").touch()
    return folder / "rootfs"


def let_others_in(folder: Path) -> None:
    """pytest's own folders are closed to the user that the image runs as."""
    for one in (folder, *folder.parents):
        if one in (Path("/tmp"), Path("/")):
            break
        one.chmod(0o755)
