"""How commands end that cannot do what they were asked for."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console

from sidecar.errors import ConfigError, HeadgateError

_err = Console(stderr=True)


def fail(error: HeadgateError) -> NoReturn:
    """Print what is wrong and how to mend it, one line each, and exit with 1."""
    lines = [str(problem) for problem in error.problems] if isinstance(error, ConfigError) else [str(error)]
    for line in lines:
        _err.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)
