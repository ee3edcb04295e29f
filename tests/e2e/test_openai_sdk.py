"""What a user does: the real `openai` SDK against the real Envoy."""

from __future__ import annotations

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.conftest import OPENAI_KEY, House

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi there"}]
TEXT = "Hello from the fake provider, which makes up every word."


@pytest.fixture
def client(house: House) -> OpenAI:
    return OpenAI(base_url=f"{house.gateway.url}/v1", api_key="sk-team-a", max_retries=0)


@pytest.fixture
def async_client(house: House) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{house.gateway.url}/v1", api_key="sk-team-a", max_retries=0)


def test_chat(client: OpenAI, house: House) -> None:
    answer = client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert answer.choices[0].message.content == TEXT
    assert answer.usage is not None
    assert answer.usage.total_tokens == 12
    assert house.openai.requests[0].header("authorization") == f"Bearer {OPENAI_KEY}"
    assert house.openai.requests[0].path == "/v1/chat/completions"


def test_chat_stream_without_usage_gets_no_usage_chunk(client: OpenAI, house: House) -> None:
    chunks = list(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert all(chunk.usage is None for chunk in chunks)
    assert house.openai.requests[0].json()["stream_options"] == {"include_usage": True}


def test_chat_stream_with_usage_gets_it(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 12


async def test_chat_async(async_client: AsyncOpenAI) -> None:
    answer = await async_client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert answer.choices[0].message.content == TEXT
    stream = await async_client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == TEXT


def test_completions(client: OpenAI) -> None:
    answer = client.completions.create(model="gpt-4o", prompt="Hi")
    assert answer.choices[0].text == TEXT
    chunks = list(client.completions.create(model="gpt-4o", prompt="Hi", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT


def test_embeddings(client: OpenAI) -> None:
    answer = client.embeddings.create(model="gpt-4o", input=["one", "two three"])
    assert len(answer.data) == 2
    assert answer.data[0].embedding[0] == 0.5
    assert answer.usage.total_tokens == 3


def test_responses(client: OpenAI) -> None:
    answer = client.responses.create(model="gpt-4o", input="Hi")
    assert answer.output_text == TEXT
    events = list(client.responses.create(model="gpt-4o", input="Hi", stream=True))
    assert events[-1].type == "response.completed"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT


def test_models_are_those_of_the_key(house: House, client: OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"gpt-4o", "fast", "llama", "gone", "hasty"}
    limited = OpenAI(base_url=f"{house.gateway.url}/v1", api_key="sk-team-b", max_retries=0)
    assert {model.id for model in limited.models.list()} == {"gpt-4o", "fast"}
    assert client.models.retrieve("llama").id == "llama"
    with pytest.raises(openai.NotFoundError):
        limited.models.retrieve("llama")


def test_errors_are_the_sdks_own(house: House, client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nope", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    limited = OpenAI(base_url=f"{house.gateway.url}/v1", api_key="sk-team-b", max_retries=0)
    with pytest.raises(openai.PermissionDeniedError):
        limited.chat.completions.create(model="llama", messages=MESSAGES)
    stranger = OpenAI(base_url=f"{house.gateway.url}/v1", api_key="sk-stranger", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.chat.completions.create(model="gpt-4o", messages=MESSAGES)


def test_weights_choose_targets(house: House, client: OpenAI) -> None:
    for _ in range(200):
        client.chat.completions.create(model="fast", messages=MESSAGES)
    assert {one.json()["model"] for one in house.openai.requests} == {"gpt-4o-mini"}
    assert {one.json()["model"] for one in house.local.requests} == {"llama-3"}
    # 200 draws at 0.2: 3 to 97 is 40 +- 6.5 standard deviations.
    assert 3 <= len(house.local.requests) <= 80
    assert len(house.openai.requests) + len(house.local.requests) == 200
