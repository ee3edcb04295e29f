"""Taking the path of a unix socket, which may be left over from a process that is gone."""

from __future__ import annotations

import socket
from pathlib import Path


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
