"""`/rlconfig`: the lines that envoyproxy/ratelimit prints, sorted."""

from __future__ import annotations

from ratelimit import settings
from ratelimit.http import rlconfig
from ratelimit.settings import RuleFile

RULES = """
domain: mesh
descriptors:
  - key: user
    value: a
    shadow_mode: true
    rate_limit: {unit: Minute, requests_per_unit: 5}
    descriptors:
      - key: path
        quota_mode: true
        rate_limit: {unit: week, requests_per_unit: 7, name: n}
  - key: free
    rate_limit: {unlimited: true}
  - key: nothing
  - key: ours
    limits: [{unit: 30s, requests_per_unit: 9, algorithm: token_bucket, burst: 3, on_error: open}]
"""


def test_the_lines() -> None:
    assert rlconfig.lines(settings.build([RuleFile("x", RULES)])) == [
        "mesh.free: unit=UNKNOWN requests_per_unit=0, shadow_mode: false, quota_mode: false",
        "mesh.ours: unit=30s requests_per_unit=9, shadow_mode: false, quota_mode: false, "
        "algorithm: token_bucket, burst: 3, on_error: open",
        "mesh.user_a.path: unit=WEEK requests_per_unit=7, shadow_mode: false, quota_mode: true",
        "mesh.user_a: unit=MINUTE requests_per_unit=5, shadow_mode: true, quota_mode: false",
    ]


def test_no_rules_no_lines() -> None:
    assert rlconfig.lines(settings.build([])) == []
