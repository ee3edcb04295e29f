from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cache.capture import Capture, Captured, Discarded
from extproc.cache.unfit import Reason
from extproc.cache.usage import Usage
from headgate.fake_provider import replies
from headgate.fake_provider.asked import Asked
from headgate.fake_provider.behaviour import Behaviour
from tests.extproc.cache.answers import (
    CHAT,
    CHAT_STREAM,
    DONE,
    JSON_HEAD,
    RESPONSE_STREAM,
    STREAM_HEAD,
    USAGE,
    capture,
    chat,
    chunk,
    event,
    response,
    typed,
    why,
)
from tests.extproc.cache.bodies import unhurried

STREAMS = [
    (CHAT, CHAT_STREAM),
    (CHAT, CHAT_STREAM.replace(b"\n", b"\r\n")),
    (CHAT, CHAT_STREAM.replace(b"data: ", b"data:")),
    (CHAT, b"\xef\xbb\xbf: hello\n\n" + CHAT_STREAM.replace(b"\n\n", b"\n: ping\nid: 7\nretry: 10\n\n\n")),
    ("completions", chunk("a", "length") + DONE),
    ("responses", RESPONSE_STREAM),
    ("responses", RESPONSE_STREAM.replace(b"\n", b"\r\n")),
]
WHOLES: list[tuple[str, dict[str, Any]]] = [
    (CHAT, chat()),
    ("completions", {"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}], "usage": USAGE}),
    ("responses", response()),
    (
        "embeddings",
        {"object": "list", "data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 5, "total_tokens": 5}},
    ),
]


@pytest.mark.parametrize(("operation", "raw"), STREAMS)
def test_a_stream_cut_in_two_anywhere_is_kept_as_it_came(operation: str, raw: bytes) -> None:
    for at in range(len(raw) + 1):
        found = capture([raw[:at], raw[at:]], STREAM_HEAD, operation)
        assert isinstance(found, Captured), at
        assert found.body == raw
        assert found.is_stream


def test_small_streams_in_all_their_splits() -> None:
    raw = b'data:{"choices":[{"finish_reason":"stop"}]}\n\ndata:[DONE]\n\n'
    for first in range(len(raw)):
        for second in range(first, len(raw)):
            found = capture([raw[:first], raw[first:second], raw[second:]], STREAM_HEAD)
            assert isinstance(found, Captured)
            assert found.body == raw


@unhurried
@given(st.sampled_from(STREAMS), st.lists(st.integers(1, 40)))
def test_cut_into_any_pieces(stream: tuple[str, bytes], sizes: list[int]) -> None:
    operation, raw = stream
    pieces, rest = [], raw
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert capture([*pieces, rest], STREAM_HEAD, operation) == capture(raw, STREAM_HEAD, operation)
    single = [raw[at : at + 1] for at in range(len(raw))]
    assert capture(single, STREAM_HEAD, operation) == capture(raw, STREAM_HEAD, operation)


@pytest.mark.parametrize(("operation", "raw"), STREAMS)
def test_a_stream_without_its_last_bytes_is_not_kept(operation: str, raw: bytes) -> None:
    whole = len(raw.rstrip(b"\n").rstrip(b"\r\n")) if b": ping" in raw else len(raw)
    for at in range(whole):
        assert isinstance(capture(raw[:at] or b":", STREAM_HEAD, operation), Discarded), raw[:at]
        taken = Capture(operation, 1_000_000)
        taken.head(200, STREAM_HEAD)
        taken.chunk(raw[:at])
        assert isinstance(taken.abandon(), Discarded)


@pytest.mark.parametrize(("operation", "value"), WHOLES)
@pytest.mark.parametrize("told", [True, False])
def test_json_is_kept_whole_and_never_in_part(operation: str, value: dict[str, Any], told: bool) -> None:
    raw = json.dumps(value, ensure_ascii=False).encode()
    head = {**JSON_HEAD, "content-length": (str(len(raw)).encode(),)} if told else JSON_HEAD
    found = capture(raw, head, operation)
    assert isinstance(found, Captured)
    assert (found.body, found.is_stream, found.usage.total) == (raw, False, 5)
    for at in range(len(raw)):
        assert isinstance(capture(raw[:at], head, operation), Discarded)
    assert why(raw + b"\n", head, operation) == ("cut" if told else "")


def test_a_client_that_goes_when_it_has_seen_the_end_spoils_nothing() -> None:
    taken = Capture(CHAT, 1_000_000)
    taken.head(200, STREAM_HEAD)
    taken.chunk(CHAT_STREAM)
    found = taken.abandon()
    assert isinstance(found, Captured)
    assert found.body == CHAT_STREAM
    assert taken.end() == Discarded(Reason.CUT)


def test_json_that_nobody_saw_the_end_of_is_not_kept() -> None:
    taken = Capture(CHAT, 1_000_000)
    taken.head(200, JSON_HEAD)
    taken.chunk(json.dumps(chat()).encode())
    assert taken.abandon() == Discarded(Reason.CUT)
    assert taken.end() == Discarded(Reason.CUT)


def test_without_a_head_there_is_nothing() -> None:
    taken = Capture(CHAT, 1_000_000)
    taken.chunk(b"{}")
    assert taken.end() == Discarded(Reason.CUT)


@pytest.mark.parametrize(
    ("status", "changes", "expected"),
    [
        (200, {}, ""),
        (201, {}, "status"),
        (204, {}, "status"),
        (429, {}, "status"),
        (500, {}, "status"),
        (200, {"content-encoding": (b"gzip",)}, "encoded"),
        (200, {"content-encoding": (b"identity", b"br")}, "encoded"),
        (200, {"content-encoding": (b"Identity",)}, ""),
        (200, {"content-type": (b"text/html",)}, "type"),
        (200, {"content-type": ()}, "type"),
        (200, {"content-type": (b"application/json", b"text/html")}, "type"),
        (200, {"content-type": (b"application/json\xff",)}, "type"),
        (200, {"content-type": (b"application/json; x=" + b"y" * 300,)}, "type"),
        (200, {"content-type": (b"application/jsonl",)}, "type"),
        (200, {"content-type": (b"Application/JSON ;charset=utf-8",)}, ""),
        (200, {"content-length": (b"5", b"6")}, "malformed"),
        (200, {"content-length": (b"-5",)}, "malformed"),
        (200, {"content-length": (b"9" * 5000,)}, "malformed"),
        (200, {"content-length": (b"999999999999",)}, "too_large"),
    ],
)
def test_a_head_says_at_once_that_it_will_not_be_kept(
    status: int, changes: dict[str, tuple[bytes, ...]], expected: str
) -> None:
    taken = Capture(CHAT, 1_000)
    assert taken.head(status, {**JSON_HEAD, **changes}) == (not expected)
    assert (taken.reason or "") == expected


def test_embeddings_have_no_stream_and_other_operations_nothing() -> None:
    assert not Capture("embeddings", 9).head(200, STREAM_HEAD)
    assert Capture("embeddings", 9).head(200, JSON_HEAD)
    assert not Capture("audio.speech", 9).head(200, JSON_HEAD)


@pytest.mark.parametrize(
    ("operation", "value", "expected"),
    [
        (CHAT, chat("length"), ""),
        (CHAT, chat("tool_calls"), ""),
        (CHAT, chat("function_call"), ""),
        (CHAT, chat("content_filter"), "finish"),
        (CHAT, chat("error"), "finish"),
        (CHAT, chat(""), "finish"),
        (CHAT, chat(None), "finish"),
        (CHAT, chat(choices=[]), "finish"),
        (CHAT, chat(choices=[*chat()["choices"], *chat("content_filter")["choices"]]), "finish"),
        (CHAT, chat(choices=[*chat()["choices"], *chat("length")["choices"]]), ""),
        (CHAT, chat(error={"message": "no"}), "error"),
        (CHAT, chat(error=""), "error"),
        (CHAT, chat(error=None), ""),
        (CHAT, {"error": {"message": "no"}}, "error"),
        (CHAT, {}, "finish"),
        (CHAT, chat(choices="x"), "malformed"),
        (CHAT, chat(choices=[{"finish_reason": 1}]), "malformed"),
        (CHAT, chat(usage=None), ""),
        (CHAT, chat(usage=[1]), ""),
        ("responses", response("incomplete"), "finish"),
        ("responses", response("failed"), "finish"),
        ("responses", response("cancelled"), "finish"),
        ("responses", response("queued"), "finish"),
        ("responses", response(incomplete_details={"reason": "max_output_tokens"}), "finish"),
        ("responses", response(error={"code": "x"}), "error"),
        ("responses", chat(), "finish"),
        ("embeddings", {"data": []}, "finish"),
        ("embeddings", {"data": [1], "error": {}}, "error"),
    ],
)
def test_json_that_is_no_answer_is_not_kept(operation: str, value: dict[str, Any], expected: str) -> None:
    assert why(json.dumps(value).encode(), JSON_HEAD, operation) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b'{"choices":[{"finish_reason":"stop"}]}}',
        b"<html>",
        b'{"choices":[{"finish_reason":"stop"}],"x":"\xff"}',
    ],
)
def test_what_is_no_json_is_not_kept(raw: bytes) -> None:
    assert why(raw, JSON_HEAD) == "malformed"


STOP = chunk(finish="stop")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "cut"),
        (STOP, "cut"),
        (STOP + DONE[:-1], "cut"),
        (DONE, "finish"),
        (chunk("a") + DONE, "finish"),
        (event({"choices": [], "usage": USAGE}) + DONE, "finish"),
        (chunk("a", "content_filter") + DONE, "finish"),
        (chunk("a", "abort") + DONE, "finish"),
        (chunk("a", "") + DONE, "finish"),
        (chunk("a", "") + STOP + DONE, ""),
        (chunk("a", index=0) + chunk("b", index=1) + STOP + DONE, "finish"),
        (chunk("a", index=0) + chunk("b", index=1) + STOP + chunk(finish="length", index=1) + DONE, ""),
        (STOP + chunk() + DONE, ""),
        (STOP + DONE + DONE, "malformed"),
        (STOP + DONE + chunk("more"), "malformed"),
        (STOP + DONE + b": bye\n\n\n", ""),
        (STOP + DONE + b"data: x", "cut"),
        (STOP + event({"error": {"message": "no"}}) + DONE, "error"),
        (STOP + event({"message": "no"}, "error") + DONE, "error"),
        (STOP + event("{") + DONE, "malformed"),
        (STOP + event("[]") + DONE, "malformed"),
        (STOP + b'{"error": "no"}\n\n' + DONE, "malformed"),
        (STOP + b"<html>\n\n" + DONE, "malformed"),
        (STOP + b'data: {}\rdata: {"error": 1}\n\n' + DONE, "malformed"),
        (STOP + b": ping\revent: error\n\n" + DONE, "malformed"),
        (STOP + b"\r\rdata: x\n\n" + DONE, "malformed"),
        (STOP.replace(b"\n", b"\r") + DONE.replace(b"\n", b"\r"), "cut"),
        (STOP.replace(b"[", b"[\n").replace(b"[\n", b"[\ndata: ") + DONE, ""),
        (STOP + event('{"x":"\udcff"}'.encode("utf-8", "surrogateescape").decode("latin-1")) + DONE, ""),
        (STOP + b'data: {"x":"\xff"}\n\n' + DONE, "malformed"),
        (STOP + DONE.upper().replace(b"DATA", b"Data"), "malformed"),
    ],
)
def test_streams_of_chunks(raw: bytes, expected: str) -> None:
    assert why(raw, STREAM_HEAD) == expected


COMPLETED = typed("response.completed", response=response())


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (COMPLETED, ""),
        (COMPLETED + DONE, ""),
        (COMPLETED + DONE + DONE, "malformed"),
        (COMPLETED + typed("response.output_text.delta"), "malformed"),
        (COMPLETED.partition(b"\n")[2], ""),
        (typed("response.created"), "cut"),
        (typed("response.failed", response=response("failed")) + COMPLETED, "finish"),
        (typed("response.incomplete", response=response("incomplete")), "finish"),
        (typed("response.cancelled"), "finish"),
        (typed("error", message="no"), "error"),
        (event({"type": "error", "message": "no"}), "error"),
        (event({"error": {"message": "no"}}), "error"),
        (typed("response.completed", response=response("incomplete")), "finish"),
        (typed("response.completed", response=response(error={"code": "x"})), "error"),
        (typed("response.completed"), "malformed"),
        (DONE, "malformed"),
    ],
)
def test_streams_of_responses(raw: bytes, expected: str) -> None:
    assert why(raw, STREAM_HEAD, "responses") == expected


def test_what_is_too_large_is_let_go_at_once() -> None:
    raw = json.dumps(chat()).encode()
    assert why(raw, max_bytes=len(raw)) == ""
    assert why(raw, max_bytes=len(raw) - 1) == "too_large"
    taken = Capture(CHAT, 100_000)
    taken.head(200, STREAM_HEAD)
    piece = chunk("a")
    tracemalloc.start()
    for _ in range(2_000):
        taken.chunk(piece)
    assert taken.reason is Reason.TOO_LARGE
    assert tracemalloc.get_traced_memory()[0] < 20_000
    tracemalloc.stop()


def test_bytes_that_come_one_by_one_take_no_more_room() -> None:
    taken = Capture(CHAT, 1_000_000)
    taken.head(200, STREAM_HEAD)
    pieces = [b"data", b": {"] + [b"ab", b"cd"] * 50_000
    tracemalloc.start()
    for piece in pieces:
        taken.chunk(piece)
    assert tracemalloc.get_traced_memory()[0] < 600_000  # the buffer and the line, with room to grow
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (USAGE, Usage(5, 3, 2)),
        ({"input_tokens": 3, "output_tokens": 2}, Usage(5, 3, 2)),
        ({"input_tokens": 3, "cache_read_input_tokens": 10, "output_tokens": 2}, Usage(15, 13, 2)),
        ({"prompt_tokens": "3", "total_tokens": -1, "completion_tokens": True}, Usage()),
        ({"total_tokens": 10**12, "completion_tokens": 4}, Usage(4, None, 4)),
        ({}, Usage()),
        (None, Usage()),
    ],
)
def test_usage_of_a_whole_answer(usage: Any, expected: Usage) -> None:
    found = capture(json.dumps(chat(usage=usage)).encode())
    assert isinstance(found, Captured)
    assert found.usage == expected


def test_usage_in_parts_is_put_together() -> None:
    parts = [{"input_tokens": 3, "output_tokens": 1}, {"output_tokens": 2}, None, {"output_tokens": 0}]
    raw = b"".join(chunk("a", usage=part) for part in parts) + STOP + DONE
    found = capture(raw, STREAM_HEAD)
    assert isinstance(found, Captured)
    assert found.usage == Usage(5, 3, 2)


def test_of_the_headers_only_those_that_are_anybodys_are_kept() -> None:
    head = {
        **JSON_HEAD,
        "set-cookie": (b"a=b",),
        "x-request-id": (b"r",),
        "openai-organization": (b"o",),
        "x-ratelimit-remaining-tokens": (b"9",),
        "openai-version": (b"2020-10-01",),
        "openai-model": (b"a\nb",),
    }
    found = capture(json.dumps(chat()).encode(), head)
    assert isinstance(found, Captured)
    assert found.headers == (("openai-version", "2020-10-01"),)
    assert found.content_type == "application/json"


OPERATIONS = {
    "chat/completions": CHAT, "completions": "completions", "responses": "responses", "embeddings": "embeddings",
}  # fmt: skip


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "behaviour", [{}, {"newline": "crlf"}, {"space": False}, {"usage": "running"}, {"usage": "none"}, {"split": 3}]
)
def test_answers_of_the_fake_provider(operation: str, stream: bool, behaviour: dict[str, Any]) -> None:
    asked = Asked("POST", "", operation, fields={"input": "a", "stream": stream})
    answer = replies.answer(asked, Behaviour(**behaviour))
    head = {"content-type": (answer.content_type.encode(),)}
    found = capture(list(answer.pieces), head, OPERATIONS[operation])
    assert isinstance(found, Captured), found
    assert found.body == b"".join(answer.pieces)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("behaviour", [{"broken": True}, {"no_finish": True}, {"no_done": True}])
def test_broken_answers_of_the_fake_provider(operation: str, behaviour: dict[str, Any]) -> None:
    if operation == "embeddings" or (operation == "responses" and "no_done" in behaviour):
        return
    asked = Asked("POST", "", operation, fields={"input": "a", "stream": True})
    answer = replies.answer(asked, Behaviour(**behaviour))
    assert why(list(answer.pieces), STREAM_HEAD, OPERATIONS[operation])
