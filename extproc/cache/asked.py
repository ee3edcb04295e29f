"""What a request asks the cache, or why it asks nothing.

Who is answered from the cache has nearly always sent the very bytes that somebody sent before, so the last questions
are remembered. A place is only where to look, since all bytes would take as long to hash as to read: what stands there
is compared with the whole of what is asked, so nobody gets another's question.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from extproc.cache.controls import Controls
from extproc.cache.key import CacheKey, make_key
from extproc.cache.rules import Bypass, CacheRules, Reason, verdict

LARGEST_KEPT = 4096  # bytes of a body that is remembered
MOST_KEPT = 512


class Asked(NamedTuple):
    """The key of the answer, the form of the body, and whether a kept answer may be looked up."""

    key: CacheKey
    canonical: bytes
    read: bool


class _Last(NamedTuple):
    """All that a question is made of, but for what its place says, and the question."""

    raw: bytes
    marks: tuple[str, ...]
    controls: Controls
    rules: CacheRules
    found: Asked | Reason


LAST: dict[tuple[object, ...], _Last] = {}


def asked(
    raw: bytes,
    fields: Mapping[str, msgspec.Raw] | None,
    operation: str,
    tenant: str,
    model: str,
    marks: tuple[str, ...],
    controls: Controls,
    rules: CacheRules,
) -> Asked | Reason:
    """The question of a request with this body (`fields` are its top level) and all else that an answer depends on.

    `rules` are those of the model in one policy: another policy has others.
    """
    size, place = len(raw), None
    if size <= LARGEST_KEPT:
        place = (size, raw[-48:], raw[size // 2 : size // 2 + 32], operation, tenant, model)
        last = LAST.get(place)
        if (
            last is not None
            and last.raw == raw
            and last.marks == marks
            and last.rules is rules
            and (last.controls is controls or last.controls == controls)
        ):
            return last.found
    found: Asked | Reason
    fit = verdict(operation, raw, fields, controls, rules)
    if isinstance(fit, Bypass):
        found = fit.reason
    else:
        key = make_key(rules.scope, tenant, operation, model, fit.canonical, marks, controls.salt)
        found = Asked(key, fit.canonical, fit.read)
    if place is not None:
        if len(LAST) >= MOST_KEPT:
            del LAST[next(iter(LAST))]
        LAST[place] = _Last(raw, marks, controls, rules, found)
    return found
