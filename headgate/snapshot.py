"""Everything that one configuration decides."""

from __future__ import annotations

import time
from dataclasses import dataclass

from extproc.policy import Policy
from extproc.policy import build as build_policy
from headgate.limits import build_rules
from headgate.settings import Settings
from ratelimit.rules import RuleSet


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a configuration decides, built together and swapped together."""

    settings: Settings
    policy: Policy
    rules: RuleSet
    version: str


def build_snapshot(settings: Settings, version: str) -> Snapshot:
    """The snapshot of checked settings."""
    policy = build_policy(settings, max_body_bytes=settings.max_body, created=int(time.time()))
    return Snapshot(settings, policy, build_rules(settings), version)
