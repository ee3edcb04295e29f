"""The `headgate` command, also as `python -m headgate`."""

from __future__ import annotations

import sys

INTERRUPTED = 130  # what a shell expects of a program that Ctrl-C has ended


def main() -> None:
    """The entry point of the `headgate` command."""
    try:
        from headgate.cli import app  # takes a second, in which Ctrl-C may already come

        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
