"""Copies of answers, as Envoy sends them: what is kept, and when no more are wanted."""

from __future__ import annotations

import json

import pytest
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

from extproc.cache.cache import Found, Missed
from extproc.recorder import Recorder
from sidecar.rpc import Step
from tests.extproc.cache.test_cache import House

BODY = json.dumps({"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "hi"}}]}).encode()
EVENTS = b'data: {"choices":[{"index":0,"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def head(ticket: str, status: str = "200", kind: str = "application/json", *, ends: bool = False) -> ProcessingRequest:
    message = ProcessingRequest()
    message.metadata_context.filter_metadata["headgate.cache"].update({"ticket": ticket})
    for name, value in ((":status", status), ("content-type", kind)):
        message.response_headers.headers.headers.add(key=name, raw_value=value.encode())
    message.response_headers.end_of_stream = ends
    return message


def body(data: bytes, *, ends: bool = False) -> ProcessingRequest:
    message = ProcessingRequest()
    message.response_body.body = data
    message.response_body.end_of_stream = ends
    return message


@pytest.fixture
def house() -> House:
    return House()


def done(step: object) -> bool:
    assert isinstance(step, Step)
    assert not step.replies  # nobody reads them
    return step.done


def kept(house: House) -> bytes | None:
    outcome = house.asks()
    assert isinstance(outcome, Found | Missed)
    return outcome.entry.body if isinstance(outcome, Found) else None


def test_an_answer_in_pieces(house: House) -> None:
    recorder = Recorder(house.cache)
    assert not done(recorder.on_message(head(house.leads())))
    for index, byte in enumerate(BODY):
        assert not done(recorder.on_message(body(bytes([byte]), ends=index == len(BODY) - 1)))
    assert done(recorder.on_end())
    recorder.on_close()
    assert kept(house) == BODY


@pytest.mark.parametrize("ends", ["on_end", "on_close"])
def test_an_answer_that_breaks_off(house: House, ends: str) -> None:
    recorder = Recorder(house.cache)
    recorder.on_message(head(house.leads()))
    recorder.on_message(body(BODY))
    getattr(recorder, ends)()
    assert kept(house) is None  # and who asks now leads


@pytest.mark.parametrize("ends", ["on_end", "on_close"])
def test_a_stream_that_breaks_off_behind_its_last_event(house: House, ends: str) -> None:
    recorder = Recorder(house.cache)
    recorder.on_message(head(house.leads(), kind="text/event-stream"))
    recorder.on_message(body(EVENTS))
    getattr(recorder, ends)()
    assert kept(house) == EVENTS


def test_no_more_is_wanted_of_what_will_not_be_kept(house: House) -> None:
    for first, second in (
        (head("", "500"), None),
        (head("", kind="text/html"), None),
        (head(""), body(b"x" * (2 << 20))),
        (head("", kind="text/event-stream"), body(b'data: {"choices":[{"finish_reason":"content_filter"}]}\n\n')),
    ):
        recorder, ticket = Recorder(house.cache), house.leads()
        first.metadata_context.filter_metadata["headgate.cache"].update({"ticket": ticket})
        assert done(recorder.on_message(first)) is (second is None)
        if second is not None:
            assert done(recorder.on_message(second))
        assert house.cache.record(ticket) is None
        recorder.on_close()


def test_a_ticket_that_nobody_knows(house: House) -> None:
    recorder = Recorder(house.cache)
    assert done(recorder.on_message(head("0-other-1")))
    recorder.on_message(body(BODY, ends=True))
    assert kept(house) is None


def test_an_answer_without_a_body(house: House) -> None:
    recorder = Recorder(house.cache)
    recorder.on_message(head(house.leads(), ends=True))
    assert kept(house) is None


def test_an_answer_that_is_not_to_be_kept(house: House) -> None:
    message = head("")
    del message.metadata_context.filter_metadata["headgate.cache"]
    recorder = Recorder(house.cache)
    recorder.on_message(message)
    recorder.on_message(body(BODY, ends=True))
    assert kept(house) is None
