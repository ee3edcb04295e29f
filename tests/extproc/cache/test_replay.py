from __future__ import annotations

from extproc.cache.entry import Entry
from extproc.cache.replay import reply
from extproc.cache.usage import Usage
from extproc.messages import write_reply

ENTRY = Entry(
    "text/event-stream", (("openai-version", "1"),), b"\xef\xbb\xbfdata: x\r\n\r\n", True, 1000.0, 60, Usage(), "m"
)


def test_a_hit_is_the_answer_again_byte_for_byte() -> None:
    made = reply(ENTRY, 1042.9, reason="stored")
    assert (made.status, made.body) == (200, ENTRY.body)
    assert made.headers == (
        ("content-type", "text/event-stream"),
        ("openai-version", "1"),
        ("age", "42"),
        ("x-headgate-cache", "hit"),
        ("x-headgate-cache-reason", "stored"),
    )
    assert write_reply(made, {})


def test_without_a_reason_there_is_no_header_for_it() -> None:
    names = [name for name, _ in reply(ENTRY, 0, "shadow").headers]
    assert "x-headgate-cache-reason" not in names
    assert ("x-headgate-cache", "shadow") in reply(ENTRY, 0, "shadow").headers
