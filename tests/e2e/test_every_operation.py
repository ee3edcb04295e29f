"""Every operation of the OpenAI SDK, with a first provider that fails: the second serves it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from openai import OpenAI

from headgate.fake_provider.recorder import Received
from tests.gateway import Gateway, key_entry
from tests.provider_thread import ProviderThread

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
WAV = b"RIFF\x00\x00\x00\x00WAVE" + bytes(range(256)) * 8


@dataclass(frozen=True)
class Pair:
    gateway: Gateway
    first: ProviderThread
    second: ProviderThread
    client: OpenAI


@pytest.fixture(scope="module")
def shared_pair() -> Iterator[Pair]:
    with ProviderThread("first") as first, ProviderThread("second") as second:
        config = {
            "providers": {
                "first": {"dialect": "openai", "base_url": first.base_url, "api_key": "sk-first"},
                "second": {
                    "dialect": "azure-openai", "base_url": second.base_url.removesuffix("/v1"), "api_key": "second",
                },
            },
            "models": {
                "any": [
                    {"provider": "first", "model": "fake:status=409"},
                    {"provider": "second", "model": "other", "priority": 1},
                ]
            },
            "keys": [key_entry("team-a")],
        }  # fmt: skip
        with Gateway(config) as gateway:
            client = OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-team-a", max_retries=0)
            yield Pair(gateway, first, second, client)


@pytest.fixture
def pair(shared_pair: Pair) -> Pair:
    shared_pair.first.forget()
    shared_pair.second.forget()
    return shared_pair


MESSAGES: Any = [{"role": "user", "content": "Hi"}]
CALLS: dict[str, tuple[str, Callable[[OpenAI], Any]]] = {
    "chat": ("/chat/completions", lambda c: c.chat.completions.create(model="any", messages=MESSAGES).choices[0]),
    "chat stream": (
        "/chat/completions",
        lambda c: list(c.chat.completions.create(model="any", messages=MESSAGES, stream=True)),
    ),
    "completions": ("/completions", lambda c: c.completions.create(model="any", prompt="Hi").choices[0].text),
    "responses": ("/responses", lambda c: c.responses.create(model="any", input="Hi").output_text),
    "embeddings": ("/embeddings", lambda c: c.embeddings.create(model="any", input=["a", "b"]).data[1].embedding),
    "moderations": ("/moderations", lambda c: c.moderations.create(model="any", input="Hi").results[0].categories),
    "images": ("/images/generations", lambda c: c.images.generate(model="any", prompt="a cat").data[0]),  # type: ignore[index]
    "edits": (
        "/images/edits",
        lambda c: c.images.edit(model="any", image=("a.png", PNG, "image/png"), prompt="a dog").data[0],  # type: ignore[index]
    ),
    "variations": ("/images/variations", lambda c: c.images.create_variation(model="any", image=PNG).data[0]),  # type: ignore[index]
    "speech": ("/audio/speech", lambda c: c.audio.speech.create(model="any", voice="alloy", input="Hi").read()),
    "transcriptions": (
        "/audio/transcriptions",
        lambda c: c.audio.transcriptions.create(model="any", file=("a.wav", io.BytesIO(WAV))).text,
    ),
    "translations": ("/audio/translations", lambda c: c.audio.translations.create(model="any", file=("a.wav", WAV)).text),
}  # fmt: skip


def model_in(received: Received) -> str:
    """The model that a request names, in JSON or in a form."""
    if "json" in (received.header("content-type") or ""):
        return str(received.json()["model"])
    _, _, rest = received.body.partition(b'name="model"\r\n\r\n')
    return rest.partition(b"\r\n")[0].decode()


@pytest.mark.parametrize("name", CALLS)
def test_the_second_serves_what_the_first_refuses(pair: Pair, name: str) -> None:
    path, call = CALLS[name]
    assert call(pair.client)
    (first,), (second,) = pair.first.requests, pair.second.requests
    assert (first.path, second.path) == (f"/v1{path}", f"/openai/v1{path}")
    assert (model_in(first), model_in(second)) == ("fake:status=409", "other")
    assert first.body.replace(b"fake:status=409", b"other") == second.body
    for got in (first, second):
        assert got.header("content-length") == str(len(got.body))
    assert (first.header("authorization"), first.header("api-key")) == ("Bearer sk-first", None)
    assert (second.header("authorization"), second.header("api-key")) == (None, "second")


def test_the_files_of_a_form_are_whole(pair: Pair) -> None:
    pair.client.images.edit(model="any", image=[("a.png", PNG), ("b.png", PNG * 300)], prompt="x")
    for got in (pair.first.requests[0], pair.second.requests[0]):
        assert got.body.count(PNG) == 301
