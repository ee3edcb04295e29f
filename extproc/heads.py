"""Heads of requests that were in order, remembered: a client says the same before every body, but for its length.

Under a digest, without the credentials, and of one policy: after a reload every head is looked at anew. A head that was
refused, or of which the filters wrote down more than a key and an operation (whatever draws a target, for one), is
looked at each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from extproc.cache.controls import SALT_HEADER
from extproc.context import Exchange, NeedBody, Outcome, Reply, RequestHeaders
from extproc.filters.own_key import OWN_KEY_HEADER
from extproc.filters.protocols import PROTOCOLS_HEADER
from extproc.policy import Key, Policy
from extproc.providers.openai import Operation

MOST_KNOWN = 4096  # heads
_LARGEST_REPLY = 2048  # bytes
_LENGTH = "content-length"
_CREDENTIAL = "authorization"  # read once, and not kept
# What is a secret, or another one for each user, and is read later: heads that have these are not kept.
_PRIVATE = frozenset({OWN_KEY_HEADER, PROTOCOLS_HEADER, SALT_HEADER})


class _Known(NamedTuple):
    """What a head says, but for its credentials and its length, what the filters found, and what came of it."""

    fields: Mapping[str, tuple[bytes, ...]]
    ends: bool
    key: Key | None
    operation: Operation | None
    outcome: Outcome


class Heads:
    """What came of heads, by their marks (`messages.Head`)."""

    def __init__(self) -> None:
        self._policy: Policy | None = None
        self._known: dict[bytes, _Known] = {}

    def recall(self, policy: Policy, mark: bytes, length: bytes) -> tuple[Exchange, Outcome] | None:
        """What the filters would make of a head with this mark; None when that is not known."""
        known = self._known.get(mark)
        if known is None or policy is not self._policy:
            return None
        fields, ends, key, operation, outcome = known
        if length:
            if int(length) > policy.max_body_bytes:
                return None
            fields = {**fields, _LENGTH: (length,)}
        return Exchange(policy, RequestHeaders(fields, ends), key, operation), outcome

    def remember(self, exchange: Exchange, outcome: Outcome, mark: bytes, length: bytes) -> None:
        """The filters have judged a head."""
        policy, headers, key, operation = exchange.policy, exchange.headers, exchange.key, exchange.operation
        if isinstance(outcome, Reply):
            if outcome.status != 200 or len(outcome.body) > _LARGEST_REPLY:
                return
        elif not isinstance(outcome, NeedBody):
            return
        if exchange != Exchange(policy, headers, key, operation):
            return
        if headers.all(_LENGTH) != ((length,) if length else ()) or not _PRIVATE.isdisjoint(headers.fields):
            return
        if policy is not self._policy:
            self._policy, self._known = policy, {}
        elif len(self._known) >= MOST_KNOWN:
            del self._known[next(iter(self._known))]
        fields = {name: values for name, values in headers.fields.items() if name not in (_CREDENTIAL, _LENGTH)}
        self._known[mark] = _Known(fields, headers.end_of_stream, key, operation, outcome)
