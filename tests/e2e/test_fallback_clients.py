"""What SDKs see of providers that fail while another is well: nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from langchain_openai import ChatOpenAI
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.faults.house import FaultHouse
from tests.faults.table import Case, table
from tests.gateway import Gateway

# Those that end well although a target failed.
SAVED = tuple(case for case in table() if case.expected.status == 200 and case.expected.attempts > 1)
MESSAGE = "Hi"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": MESSAGE}]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with FaultHouse(table()) as house, Gateway(house.config()) as made:
        yield made


def test_there_is_something_to_be_saved_from() -> None:
    assert {case.kind for case in SAVED} >= {"refuse", "reset_before_headers", "status_429", "hang", "tls_failure"}


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("case", SAVED, ids=lambda case: case.name)
def test_the_openai_sdk_sees_no_error(gateway: Gateway, case: Case, retries: int) -> None:
    client = OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-team-a", max_retries=retries)
    if case.shape == "stream":
        chunks = client.chat.completions.create(model=case.name, messages=MESSAGES, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    else:
        answer = client.chat.completions.create(model=case.name, messages=MESSAGES)
        text = str(answer.choices[0].message.content)
    assert "fake provider" in text


@pytest.mark.parametrize("case", SAVED, ids=lambda case: case.name)
def test_langchain_sees_no_error(gateway: Gateway, case: Case) -> None:
    model = ChatOpenAI(model=case.name, base_url=f"{gateway.url}/v1", api_key="sk-team-a", max_retries=0)  # type: ignore[arg-type]
    if case.shape == "stream":
        text = "".join(str(chunk.content) for chunk in model.stream(MESSAGE))
    else:
        text = str(model.invoke(MESSAGE).content)
    assert "fake provider" in text
