"""Replays between their decision and their client."""

from __future__ import annotations

from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse

from extproc.context import Reply
from extproc.replayer import TICKET, Replayer, Replays
from sidecar.protowire import read_head
from tests.extproc.cache.test_pace import BODY, Clock

REPLY = Reply(200, BODY, (("content-type", "text/event-stream"), ("age", "3")))


def comes_back(ticket: str) -> ProcessingRequest:
    message = ProcessingRequest()
    message.request_headers.headers.headers.add(key=":method", raw_value=b"POST")
    message.metadata_context.filter_metadata["headgate.cache"].update({TICKET: ticket})
    return message


def streamed(payload: bytes) -> bytes:
    """What stands in a `streamed_immediate_response`, field by field."""
    outer = read_head(payload, 0)
    assert outer is not None
    assert (outer[0], outer[2]) == (11, len(payload))
    inner = read_head(payload, outer[1])
    assert inner is not None
    return payload[outer[1] :]


async def test_an_answer_is_told_once() -> None:
    clock = Clock()
    replays = Replays(clock, clock.sleep, nonce="n")
    ticket = replays.hold(REPLY, 20)
    step = Replayer(replays).on_message(comes_back(ticket))
    assert step.done
    assert step.more is not None
    head = streamed(step.replies[0].SerializeToString())
    assert b":status" in head
    assert b"text/event-stream" in head
    pieces = [streamed(reply.SerializeToString()) async for reply in step.more]
    assert len(pieces) == 40
    assert [piece.endswith(b"\x10\x01") for piece in pieces] == [False] * 39 + [True]
    assert not len(replays)

    again = Replayer(replays).on_message(comes_back(ticket))
    (reply,) = again.replies
    assert ProcessingResponse.FromString(reply.SerializeToString()).immediate_response.status.code == 503


def test_who_never_comes_back_is_forgotten() -> None:
    clock = Clock()
    replays = Replays(clock, clock.sleep, nonce="n")
    lost = replays.hold(REPLY, 20)
    clock.now += 61
    assert replays.hold(REPLY, 20) != lost
    assert len(replays) == 1
    assert replays.take(lost) is None
