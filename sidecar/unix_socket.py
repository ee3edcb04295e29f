"""Taking the path of a unix socket, which may be left over from a process that is gone, and giving it up again."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

Mark = tuple[int, int]  # a file's number, which the next may get again, and when it was made


def take(path: Path) -> None:
    """Remove a socket that nobody serves any more. Raises `OSError` when somebody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its queue of connections is full: it is there
    raise OSError("another process serves there")


def mark(path: Path) -> Mark:
    """What tells the socket at `path` from one that somebody puts there later. Raises `OSError`."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def leave(path: Path, ours: Mark | None) -> None:
    """Remove our socket; the next server's, if it has taken the path meanwhile, stays."""
    with contextlib.suppress(OSError):
        if mark(path) == ours:
            path.unlink()
