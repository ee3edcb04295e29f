"""What a provider can do wrong, and what the client sees of it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.e2e.conftest import House
from tests.gateway import Answer, chat, post


def ask(house: House, fake: str, model: str = "llama", **fields: object) -> Answer:
    return post(house.gateway.listen, chat(model, **fields), headers=(("x-fake", fake),))


def test_a_provider_that_refuses_is_503(house: House) -> None:
    answer = post(house.gateway.listen, chat("gone"))
    assert answer.status == 503
    assert answer.error["code"] == "provider_unreachable"


@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_that_hangs_is_504_after_its_idle_timeout(house: House, stream: bool) -> None:
    started = time.monotonic()
    answer = ask(house, "hang=true", stream=stream)
    assert answer.status == 504
    assert answer.error["code"] == "provider_timeout"
    assert 0.8 < time.monotonic() - started < 5


def test_a_provider_that_resets_before_it_answers_is_502(house: House) -> None:
    answer = ask(house, "reset=before")
    assert answer.status == 502
    assert answer.error["code"] == "provider_reset"


def test_a_provider_that_resets_in_mid_body_ends_the_answer(house: House) -> None:
    answer = ask(house, "reset=body,size=100000")
    assert answer.status == 200
    assert len(answer.body) < 100_000


def test_a_stream_that_stalls_is_cut_after_the_idle_timeout(house: House) -> None:
    started = time.monotonic()
    answer = ask(house, "stall_after=3,chunk_delay_ms=5", stream=True)
    assert answer.status == 200
    assert answer.raw.count(b"data: ") == 3
    assert 0.8 < time.monotonic() - started < 5


def test_a_stall_when_the_first_bytes_deadline_passes_is_cut_too(house: House) -> None:
    """Envoy drops its idle timer then: the route's own ends the stream."""
    started = time.monotonic()
    answer = ask(house, "stall_after=3", model="hasty", stream=True)
    assert answer.status == 200
    assert 0.8 < time.monotonic() - started < 4


def test_a_slow_but_living_stream_is_not_cut(house: House) -> None:
    answer = ask(house, "chunks=6,chunk_delay_ms=300", stream=True)
    assert b"[DONE]" in answer.body


@pytest.mark.parametrize("fake", ["broken=true", "truncate_after=4"])
@pytest.mark.parametrize("asked", [False, True])
def test_a_broken_stream_arrives_as_it_is(house: House, fake: str, asked: bool) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if asked else {}
    answer = ask(house, f"{fake},chunks=8", stream=True, **options)
    assert answer.status == 200
    assert b"Hello" in answer.body
    assert (b"[DONE]" in answer.body) is ("broken" in fake)
    if "broken" in fake:
        assert b"nonsense" in answer.body


def test_a_json_answer_to_a_stream_request_is_whole(house: House) -> None:
    answer = ask(house, "status=400", stream=True)
    assert answer.status == 400
    assert answer.json()["error"]["code"] == "fake"


def test_errors_of_the_provider_pass_untouched(house: House) -> None:
    answer = ask(house, "status=429,retry_after=17")
    assert answer.status == 429
    assert answer.header("retry-after") == "17"
    assert answer.json()["error"] == {
        "message": "The fake provider was told to answer 429.",
        "type": "invalid_request_error",
        "param": None,
        "code": "fake",
    }


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504])
def test_no_status_of_the_provider_is_rewritten(house: House, status: int) -> None:
    answer = ask(house, f"status={status}")
    assert answer.status == status
    assert answer.json()["error"]["code"] == "fake"


def test_the_providers_request_id_is_kept_beside_ours(house: House) -> None:
    answer = ask(house, "ratelimit=true")
    assert answer.header("x-headgate-upstream-request-id") == "req_fake"
    assert answer.header("x-request-id") not in (None, "req_fake")
    assert [name for name, _ in answer.headers].count("x-request-id") == 1
    assert answer.header("x-ratelimit-limit-requests") is None


def test_a_compressed_answer_is_never_asked_for(house: House) -> None:
    answer = post(house.gateway.listen, chat("llama"), headers=(("accept-encoding", "gzip, br"),))
    assert json.loads(answer.body)["object"] == "chat.completion"
    assert house.local.requests[0].header("accept-encoding") is None
