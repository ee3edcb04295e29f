"""`python -m ratelimit.config_check -config_dir DIR`: whether the rule files of a directory can be used.

Says what envoyproxy/ratelimit's config_check says, in the same words: `all rate limit configs ok`, or what is wrong,
with exit status 1. Every file of the directory is read, whatever its ending; a folder in it is an error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ratelimit import settings
from ratelimit.settings import RuleFile, read_text
from sidecar.errors import ConfigError


def check(directory: str, *, merge: bool = False, say: Callable[[str], None] = print) -> bool:
    """Whether the rules in `directory` can be used; tells `say` line by line what was done and found."""
    say("checking rate limit configs...")
    say(f"loading config directory: {directory}")
    try:
        names = sorted(os.listdir(directory))  # noqa: PTH208 - "" is no folder
    except OSError as error:
        say(f"error opening directory {directory}: open {directory}: {_reason(error)}")
        return False
    files: list[RuleFile] = []
    for name in names:
        path = os.path.join(directory, name)  # noqa: PTH118 - shown as it was given
        say(f"opening config file: {path}")
        if Path(path).is_dir():
            say(f"error reading file {path}: read {path}: is a directory")
            return False
        try:
            files.append(RuleFile(path, read_text(Path(path), path)))
        except ConfigError as error:
            say(f"error loading rate limit configs: {error}")
            return False
    try:
        settings.build(files, merge=merge)
    except ConfigError as error:
        say(f"error loading rate limit configs: {error}")
        return False
    say("all rate limit configs ok")
    return True


def _reason(error: OSError) -> str:
    """The system's words as Go writes them."""
    return (error.strerror or "unknown error").lower()


def main(given: Sequence[str] | None = None) -> int:
    """Check what these arguments name. Returns the exit status: 0, 1 for what cannot be used, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m ratelimit.config_check", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "-config_dir", "--config_dir", default="", help="path to directory containing rate limit configs"
    )
    parser.add_argument(
        "-merge_domain_configs",
        "--merge_domain_configs",
        nargs="?",
        const="true",
        default="false",
        choices=("true", "false"),
        help="whether to merge configurations, referencing the same domain",
    )
    arguments = parser.parse_args(given)
    return 0 if check(arguments.config_dir, merge=arguments.merge_domain_configs == "true") else 1


if __name__ == "__main__":
    sys.exit(main())
