"""A kept answer as a reply."""

from __future__ import annotations

from extproc.cache.entry import Entry
from extproc.context import Reply

STATUS_HEADER = "x-headgate-cache"  # hit, or what the caller says of a request that went on
REASON_HEADER = "x-headgate-cache-reason"  # why it was no hit, or what kind of one
HIT = "hit"


def reply(entry: Entry, now: float, status: str = HIT, reason: str = "") -> Reply:
    """The answer again, byte for byte, with its age in seconds (RFC 9111, section 5.1)."""
    headers = (
        ("content-type", entry.content_type),
        *entry.headers,
        ("age", str(entry.age(now))),
        (STATUS_HEADER, status),
    )
    return Reply(200, entry.body, (*headers, (REASON_HEADER, reason)) if reason else headers)
