"""A process in an image's file system, as a container runtime starts it, by the kernel's own means (no engine).

Read-only root, an ordinary user, volumes mounted where the pod wants them; the network is this machine's.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

USER = 65532


def command(root: Path, arguments: Sequence[str], volumes: Mapping[str, Path]) -> list[str]:
    """The command line that runs `arguments` inside `root`. `volumes`: folders of ours by their place in there."""
    # Mount points are made as a runtime makes them: on a layer of their own, which goes with the process.
    layers = f"lowerdir={shlex.quote(str(root))},upperdir=/mnt/upper,workdir=/mnt/work"
    steps = [
        "set -e",
        "mount -t tmpfs none /mnt",
        "mkdir /mnt/upper /mnt/work /mnt/root",
        f"mount -t overlay -o {layers} none /mnt/root",
        *(f"mkdir -p /mnt/root{inside}" for inside in volumes),
        "mount -o remount,ro /mnt/root",
        *(f"mount --bind {shlex.quote(str(ours))} /mnt/root{inside}" for inside, ours in volumes.items()),
        "mount --rbind /dev /mnt/root/dev",
        "mount --rbind /proc /mnt/root/proc",
        "mount -t tmpfs -o mode=1777 none /mnt/root/tmp",
    ]
    inner = shlex.join(arguments)
    become = f"--userspec={USER}:{USER} " if os.geteuid() == 0 else ""
    steps.append(f"exec chroot {become}/mnt/root {inner}")
    namespaces = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
    return ["unshare", *namespaces, "sh", "-c", "\n".join(steps)]


def run(
    root: Path, arguments: Sequence[str], environment: Mapping[str, str], volumes: Mapping[str, Path] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    line = command(root, arguments, volumes or {})
    return subprocess.run(line, env=_environment(environment), capture_output=True, text=True, timeout=90, check=False)


def start(
    root: Path,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    volumes: Mapping[str, Path],
    log: IO[Any],
) -> subprocess.Popen[bytes]:
    """Start and go on. Signals reach the program itself: every step before it was an exec."""
    line = command(root, arguments, volumes)
    return subprocess.Popen(line, env=_environment(environment), stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """What the image says and what the pod says; nothing of this machine's but the way to mount and chroot."""
    return {"PATH": "/opt/headgate/bin:/usr/sbin:/usr/bin:/sbin:/bin", **given}
