"""Answers as Envoy's access log brings them: what is kept, and what is said of the others."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable

import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

from extproc.accesslog import ANSWER_LOG, RequestRecord, access_log
from extproc.cache.cache import Found, Missed
from extproc.recorder import Recorder
from sidecar.rpc import CallContext, StreamMethod
from tests.extproc.cache.test_cache import House

BODY = json.dumps({"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "hi"}}]}).encode()
EVENTS = b'data: {"choices":[{"index":0,"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
STREAM = "text/event-stream"


def entry(
    ticket: str,
    body: bytes | None = BODY,
    *,
    status: int = 200,
    kind: str = "application/json",
    length: str = "-",
    more: dict[str, str] | None = None,
    too_large: bool = False,
) -> HTTPAccessLogEntry:
    made = HTTPAccessLogEntry()
    if status:
        made.response.response_code.value = status
    made.response.response_headers.update({"content-type": kind, **(more or {})})
    facts = made.common_properties.metadata.filter_metadata["headgate.cache"]
    facts.update({"ticket": ticket})
    if body is not None:
        form, text = ("ascii", body) if body.isascii() else ("base64", base64.b64encode(body))
        facts.update({"answer": f"{length} {form} {text.decode()}"})
    if too_large:
        facts.update({"too_large": True})
    return made


@pytest.fixture
def house() -> House:
    return House()


def kept(house: House) -> bytes | None:
    outcome = house.asks()
    assert isinstance(outcome, Found | Missed)
    return outcome.entry.body if isinstance(outcome, Found) else None


@pytest.mark.parametrize(("body", "kind"), [(BODY, "application/json"), (EVENTS, f"{STREAM}; charset=utf-8")])
def test_a_whole_answer(house: House, body: bytes, kind: str) -> None:
    headers = {"openai-model": "gpt,gpt", "openai-version": "1,2"}
    Recorder(house.cache).take(entry(house.leads(), body, kind=kind, length=str(len(body)), more=headers))
    found = house.asks()
    assert isinstance(found, Found)
    assert (found.entry.body, found.entry.content_type, found.entry.headers) == (body, kind, (("openai-model", "gpt"),))


def test_bytes_that_are_no_text(house: House) -> None:
    """What Envoy sends is text whatever the provider has sent."""
    text = BODY.replace(b"hi", "h\u00e4 \U0001f600".encode())
    Recorder(house.cache).take(entry(house.leads(), text))
    assert kept(house) == text
    Recorder(house.cache).take(entry(house.leads("other"), BODY.replace(b"hi", b"\xff\x00")))
    assert house.seen.told[-1] == "not kept: malformed"


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (entry("", status=500), "status"),
        (entry("", None, status=404), "status"),
        (entry("", kind="text/html"), "type"),
        (entry("", kind="application/json,text/html"), "type"),
        (entry("", more={"content-encoding": "gzip"}), "encoded"),
        (entry("", None), "cut"),  # the client left, or the provider broke off
        (entry("", None, kind=STREAM), "cut"),
        (entry("", BODY[:-1]), "malformed"),
        (entry("", length=str(len(BODY) + 1)), "cut"),
        (entry("", b""), "malformed"),
        (entry("", EVENTS[:-16], kind=STREAM), "cut"),
        (entry("", EVENTS[:-1], kind=STREAM), "cut"),
        (entry("", EVENTS + b"data: {}\n\n", kind=STREAM), "malformed"),
        (entry("", b'data: {"error":{}}\n\n' + EVENTS, kind=STREAM), "error"),
        (entry("", EVENTS.replace(b"stop", b"content_filter"), kind=STREAM), "finish"),
        (entry("", None, too_large=True), "too_large"),
        (entry("", b"x" * (2 << 20)), "too_large"),
        (entry("", length="x"), "malformed"),
    ],
)
async def test_no_answer_to_keep(house: House, made: HTTPAccessLogEntry, reason: str) -> None:
    ticket = house.leads()
    waiting = house.waits()
    await asyncio.sleep(0)
    made.common_properties.metadata.filter_metadata["headgate.cache"].update({"ticket": ticket})
    Recorder(house.cache).take(made)
    assert house.seen.told[-1] == f"not kept: {reason}"
    assert house.cache.record(ticket) is None
    assert isinstance(await waiting, Missed)  # nobody waits for it any more


@pytest.mark.parametrize("text", ["- base64 abcde", "- base64", "x", ""])
def test_an_answer_in_no_known_form(house: House, text: str) -> None:
    made = entry(house.leads())
    made.common_properties.metadata.filter_metadata["headgate.cache"].update({"answer": text})
    Recorder(house.cache).take(made)
    assert house.seen.told[-1] == "not kept: malformed"


def test_a_ticket_that_nobody_knows(house: House) -> None:
    Recorder(house.cache).take(entry("0-other-1"))
    Recorder(house.cache).take(entry(""))
    assert kept(house) is None


def test_no_question_for_the_cache(house: House) -> None:
    made = entry("")
    made.common_properties.metadata.filter_metadata.clear()
    Recorder(house.cache).take(made)
    assert house.seen.told == []


async def test_a_client_that_left_before_there_was_an_answer(house: House) -> None:
    ticket = house.leads()
    waiting = house.waits()
    await asyncio.sleep(0)
    Recorder(house.cache).take(entry(ticket, None, status=0))
    assert house.seen.told[-1] == "not kept: cut"
    assert isinstance(await waiting, Missed)


class Log:
    """A stream of the access log, into a house."""

    def __init__(self, house: House, name: str) -> None:
        self.records: list[RequestRecord] = []
        service = access_log(self._sink, lambda _: None, lambda: {}, Recorder(house.cache))
        method = service.methods[0]
        assert isinstance(method, StreamMethod)
        self.stream = method.open(CallContext("/x"))
        self._name = name

    def _sink(self, records: object) -> Awaitable[None] | None:
        assert isinstance(records, list)
        self.records += records
        return None

    async def say(self, *entries: HTTPAccessLogEntry) -> None:
        message = StreamAccessLogsMessage()
        message.identifier.log_name = self._name
        self._name = ""
        message.http_logs.log_entry.extend(entries)
        step = self.stream.on_message(message)
        if isinstance(step, Awaitable):
            await step


async def test_the_log_of_answers_is_one_of_requests_too(house: House) -> None:
    log = Log(house, ANSWER_LOG)
    for count in (1, 20):
        await log.say(*(entry(house.leads(f"{count} {number}")) for number in range(count)))
    assert len(log.records) == 21
    assert house.seen.told.count("kept") == 21
    other = Log(house, "headgate")
    await other.say(entry(house.leads("of no answer")))
    assert len(other.records) == 1
    assert house.seen.told.count("kept") == 21


@pytest.mark.parametrize(
    ("name", "ends", "gone"), [(ANSWER_LOG, False, True), (ANSWER_LOG, True, False), ("x", False, False)]
)
async def test_an_envoy_that_dies(house: House, name: str, ends: bool, gone: bool) -> None:
    log = Log(house, name)
    await log.say(entry(house.leads()))
    ticket = house.leads("under way")
    if ends:
        log.stream.on_end()
    log.stream.on_close()
    assert (house.cache.record(ticket) is None) is gone
