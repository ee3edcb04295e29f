"""The meter reads the provider's usage inside Envoy: exact for every shape that providers send."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from tests.e2e.conftest import House
from tests.gateway import Answer, post

_unique = itertools.count()


def measured(
    house: House, fake: str, *, path: str = "/v1/chat/completions", key: str = "sk-metered", **fields: object
) -> tuple[Answer, dict[str, object]]:
    """The answer to a request, and the log line that was written of it."""
    query = f"?n={next(_unique)}"
    body: dict[str, object] = {"model": "gpt-4o", **fields}
    if path.endswith("completions"):
        body["messages"] = [{"role": "user", "content": "one two three"}]
        body["prompt"] = None
    else:
        body["input"] = "one two three"
    body = {name: value for name, value in body.items() if value is not None}
    answer = post(house.gateway.listen, body, path=path + query, key=key, headers=(("x-fake", fake),))
    request_id = answer.header("x-request-id")

    def logged() -> list[dict[str, object]]:
        return [line for line in house.gateway.log_lines("request") if line["request_id"] == request_id]

    house.gateway.wait_for(logged)
    return answer, logged()[0]


SHAPES = [
    "",
    "usage=split",
    "usage=running",
    "usage=early",
    "usage=huge",
    "usage=braces",
    "usage=parts",
    "newline=crlf",
    "space=false",
    "split=7",
    "split=1,chunks=3",
]


def test_a_line_that_is_too_long_to_be_held_is_counted_and_passed_on(house: House) -> None:
    answer, line = measured(house, "usage_tokens=4321,usage=overlong,split=5000", stream=True)
    assert line["tokens"] == 4321
    assert answer.body.count(b"x" * 300_000) == 1
    assert answer.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_usage(house: House, shape: str, stream: bool, asked: bool) -> None:
    options: dict[str, Any] = {"stream": stream, "stream_options": {"include_usage": True} if asked else None}
    answer, line = measured(house, f"usage_tokens=4321{',' + shape if shape else ''}", **options)
    assert answer.status == 200
    assert line["tokens"] == 4321
    assert line["prompt_tokens"] == 3
    if stream:
        assert b"[DONE]" in answer.body
        if "running" not in shape and "parts" not in shape:
            assert (b'"choices":[]' in answer.body) is asked


@pytest.mark.parametrize("stream", [False, True])
def test_a_number_beyond_all_measure_is_capped(house: House, stream: bool) -> None:
    _, line = measured(house, "usage_tokens=100000000000000", key="sk-team-a", stream=stream)
    assert (line["tokens"], line["prompt_tokens"], line["completion_tokens"]) == (1_000_000_000, 3, 1_000_000_000)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/completions"])
def test_other_operations(house: House, path: str, stream: bool) -> None:
    _, line = measured(house, "usage_tokens=77", path=path, stream=stream)
    assert line["tokens"] == 77


@pytest.mark.parametrize("stream", [False, True])
def test_keys_without_limits_are_metered_too(house: House, stream: bool) -> None:
    answer, line = measured(house, "chunks=7", key="sk-team-a", stream=stream)
    assert answer.status == 200
    assert (line["tokens"], line["prompt_tokens"], line["completion_tokens"]) == (10, 3, 7)


def test_embeddings(house: House) -> None:
    _, line = measured(house, "", path="/v1/embeddings")
    assert line["tokens"] == 3


def test_a_two_megabyte_answer(house: House) -> None:
    answer, line = measured(house, "size=2000000,usage_tokens=99")
    assert len(answer.body) >= 2_000_000
    assert line["tokens"] == 99


def test_without_usage_nothing_is_made_up(house: House) -> None:
    _, line = measured(house, "usage=none")
    assert line["tokens"] is None
    assert isinstance(line["estimate"], int)


def test_usage_in_the_text_of_an_answer_is_not_usage(house: House) -> None:
    text = '"usage":{"total_tokens":999999}'
    _, line = measured(house, f"usage_tokens=50,text={text}", stream=True)
    assert line["tokens"] == 50


def test_the_stripped_stream_is_the_asked_one_without_its_usage_event(house: House) -> None:
    plain, _ = measured(house, "chunks=7", stream=True)
    asked, _ = measured(house, "chunks=7", stream=True, stream_options={"include_usage": True})

    def events(body: bytes) -> list[object]:
        found = []
        for event in body.split(b"\n\n"):
            data = event.removeprefix(b"data: ")
            if data.startswith(b"{"):
                value = json.loads(data)
                value.pop("id")
                found.append(value)
        return found

    assert events(plain.body) == [event for event in events(asked.body) if event["choices"]]  # type: ignore[index]
    assert plain.body.endswith(b"data: [DONE]\n\n")
