"""The run folder of one supervisor: nobody else's while it runs, and removed when nobody's."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import tempfile
import time
from itertools import chain
from pathlib import Path

from headgate.demo import DEMO_PREFIX
from headgate.render.layout import OWNER, Layout
from sidecar.errors import ConfigError, Problem

_PREFIX = "headgate-run-"
_GIVEN_UP_SECONDS = 2.0
_POLL_SECONDS = 0.05


class RunFolder:
    """A folder that is named, or a private one. Claimed before anything is written, released at the end."""

    def __init__(self, named: str) -> None:
        self._private = not named
        self.layout = Layout(Path(named or f"{tempfile.gettempdir()}/{_PREFIX}{secrets.token_hex(8)}"))
        self._lock: int | None = None

    async def claim(self) -> None:
        """Make it ours until this process ends. Raises `ConfigError` when another process keeps it."""
        folder, owner = self.layout.folder, self.layout.owner
        folder.mkdir(mode=0o700, parents=True, exist_ok=not self._private)
        lock = os.open(owner, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + _GIVEN_UP_SECONDS
        while not _locked(lock):
            if time.monotonic() >= deadline:
                os.close(lock)
                what = f"the gateway of process {owner.read_text() or '?'} has {folder}"
                mend = "give each gateway a folder of its own (HEADGATE_RUN_DIR)"
                raise ConfigError([Problem("run_dir", "", what, mend)])
            await asyncio.sleep(_POLL_SECONDS)  # one that was killed or stopped is just going
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        self._lock = lock

    def release(self) -> None:
        """Give up what was claimed; a private one is removed."""
        if self._lock is None:
            return
        if self._private:
            shutil.rmtree(self.layout.folder, ignore_errors=True)
        os.close(self._lock)
        self._lock = None


def _locked(descriptor: int) -> bool:
    """Whether the file is ours now. One of a file system without locks is: whoever mounts it sees to it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def remove_orphans() -> None:
    """Remove the private folders of supervisors that were killed: they hold providers' keys, or a demonstration."""
    found = (Path(tempfile.gettempdir()).glob(f"{prefix}*/{OWNER}") for prefix in (_PREFIX, DEMO_PREFIX))
    for owner in chain.from_iterable(found):
        try:
            os.kill(int(owner.read_text()), 0)
        except ProcessLookupError:
            shutil.rmtree(owner.parent, ignore_errors=True)
        except (OSError, ValueError):
            continue  # somebody else's, or just being made
