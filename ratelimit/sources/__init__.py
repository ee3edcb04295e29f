"""Where rules come from while the service runs: a directory, a folder or a file that is watched, or an
xDS management server.

A source gives rule sets one after the other, each of them whole. What cannot be used is refused and changes nothing:
what was taken last stays in force.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from ratelimit.rules import RuleSet
from sidecar.errors import ConfigError

Take: TypeAlias = Callable[[RuleSet], None]
Refuse: TypeAlias = Callable[[ConfigError], None]


class Source(Protocol):
    """Gives rules for as long as it runs."""

    async def run(self, take: Take, refuse: Refuse) -> None:
        """Call `take` with every rule set and `refuse` for every load that failed, until cancelled. Never raises."""

    def reload(self) -> None:
        """Load again soon, where that is ours to say."""
