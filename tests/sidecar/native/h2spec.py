"""`python -m tests.sidecar.native.h2spec PROGRAM`: h2spec in its strict mode against the native engine.

Exit status 1 unless every one of its tests has passed, and there were as many as we know of.
"""

from __future__ import annotations

import re
import subprocess
import sys

from tests.sidecar.native import serve

TESTS = 147  # of `h2spec -S`, version 2.6: fewer would mean that some were not run


def verdict(output: str) -> bool:
    """Whether h2spec's last line says that all of its tests passed."""
    counts = re.findall(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", output)
    return counts == [(str(TESTS), str(TESTS), "0", "0")]


def main(program: str) -> int:
    """Start a server, run `program` against it, end the server."""
    command = [sys.executable, "-m", serve.__name__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        host, _, port = server.stdout.readline().strip().rpartition(":")
        done = subprocess.run(
            [program, "-S", "-h", host, "-p", port, "-o", "2"],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=300,
        )
        server.communicate()  # its input ends, and so does it
    passed = verdict(done.stdout)
    print(done.stdout.strip().splitlines()[-1] if passed else done.stdout)
    return 0 if passed and done.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
