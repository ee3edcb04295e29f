"""The fake provider's images, audio, moderations, files and batches, as OpenAI's own client reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from openai import NotFoundError, OpenAI

from tests.gateway import post
from tests.provider_thread import ProviderThread


@pytest.fixture(scope="module")
def running() -> Iterator[ProviderThread]:
    with ProviderThread() as made:
        yield made


@pytest.fixture
def provider(running: ProviderThread) -> ProviderThread:
    running.forget()
    return running


@pytest.fixture
def client(provider: ProviderThread) -> OpenAI:
    return OpenAI(base_url=provider.base_url, api_key="x", max_retries=0)


def test_images_are_base64_with_a_usage(client: OpenAI) -> None:
    made = client.images.generate(model="gpt-image-1", prompt="a small cat", n=2)
    assert made.data is not None
    assert made.usage is not None
    assert len(made.data) == 2
    assert made.data[0].b64_json
    assert (made.usage.input_tokens, made.usage.output_tokens, made.usage.total_tokens) == (3, 200, 203)
    assert made.usage.input_tokens_details.text_tokens == 3


def test_images_are_addresses_where_asked(client: OpenAI) -> None:
    made = client.images.generate(model="dall-e-3", prompt="a cat", response_format="url")
    assert made.data is not None
    assert made.data[0].url == "https://images.invalid/fake.png"


def test_images_in_events(client: OpenAI) -> None:
    events = list(client.images.generate(model="gpt-image-1", prompt="a cat", stream=True, partial_images=2))
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert events[-1].type == "image_generation.completed"
    assert events[-1].usage.total_tokens == 102


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_images_that_are_edited_and_varied_come_as_forms(client: OpenAI, provider: ProviderThread) -> None:
    edited = client.images.edit(model="gpt-image-1", prompt="more", image=[b"one", b"two"])
    assert edited.usage is not None
    assert edited.usage.input_tokens_details.image_tokens == 200
    varied = client.images.create_variation(image=b"x", n=2)
    assert varied.data is not None
    assert len(varied.data) == 2
    assert (provider.requests[0].header("content-type") or "").startswith("multipart/form-data")


@pytest.mark.parametrize(("shape", "kind"), [("mp3", "audio/mpeg"), ("wav", "audio/wav")])
def test_speech_is_bytes(provider: ProviderThread, shape: str, kind: str) -> None:
    body = {"model": "tts-1", "input": "hi", "voice": "alloy", "response_format": shape}
    answer = post(
        f"127.0.0.1:{provider.provider.port}", body, path="/v1/audio/speech", headers=(("x-fake", "chunks=3"),)
    )
    assert (answer.status, answer.header("content-type"), len(answer.body)) == (200, kind, 3000)
    assert answer.header("transfer-encoding") == "chunked"


def test_speech_of_a_size(client: OpenAI) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="fake:size=1000001", input="hi", voice="alloy"
    ) as answer:
        assert len(answer.read()) == 1_000_001


def test_speech_in_events(provider: ProviderThread) -> None:
    body = {"model": "gpt-4o-mini-tts", "input": "hi there", "voice": "alloy", "stream_format": "sse"}
    answer = post(
        f"127.0.0.1:{provider.provider.port}", body, path="/v1/audio/speech", headers=(("x-fake", "chunks=3"),)
    )
    events = [json.loads(line[6:]) for line in answer.body.splitlines() if line.startswith(b"data: ")]
    assert [event["type"] for event in events] == ["speech.audio.delta"] * 3 + ["speech.audio.done"]
    assert events[-1]["usage"] == {"input_tokens": 2, "output_tokens": 30, "total_tokens": 32}


def test_transcriptions(client: OpenAI) -> None:
    heard = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=b"x" * 1000)
    assert heard.text.startswith("Hello from")
    assert heard.usage is not None
    assert heard.usage.type == "tokens"
    assert (heard.usage.input_tokens, heard.usage.output_tokens) == (10, 10)
    whisper = client.audio.transcriptions.create(model="whisper-1", file=b"x" * 32_000)
    assert whisper.usage is not None
    assert whisper.usage.type == "duration"
    assert whisper.usage.seconds == 2


def test_a_transcription_in_events(client: OpenAI) -> None:
    events = list(client.audio.transcriptions.create(model="fake:chunks=3", file=b"x", stream=True))
    assert [event.type for event in events] == ["transcript.text.delta"] * 3 + ["transcript.text.done"]
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == "Hello from the"
    assert events[-1].usage is not None


def test_transcriptions_as_text_and_with_more(client: OpenAI) -> None:
    text = client.audio.transcriptions.create(model="whisper-1", file=b"x", response_format="text")
    assert str(text).startswith("Hello")
    more = client.audio.transcriptions.create(model="whisper-1", file=b"x", response_format="verbose_json")
    assert more.duration == 1


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_translations(client: OpenAI) -> None:
    assert client.audio.translations.create(model="whisper-1", file=b"x").text.startswith("Hello")


def test_a_forms_model_is_a_behaviour_too(provider: ProviderThread) -> None:
    form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nfake:status=503\r\n--b--\r\n'
    answer = post(
        f"127.0.0.1:{provider.provider.port}",
        form,
        path="/v1/audio/transcriptions",
        headers=(("content-type", "multipart/form-data; boundary=b"),),
    )
    assert answer.status == 503


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=b", b"--b\r\n"),
        ("multipart/form-data; boundary=b", b"--b\r\nno name\r\n--b--"),
        ("multipart/form-data", b""),
        ("application/json", b"{"),
        ("multipart/form-data; boundary=b", b'--b\r\nx: y; name="model"\r\n\r\nm\r\n--b--'),
    ],
)
def test_bad_forms(provider: ProviderThread, kind: str, body: bytes) -> None:
    answer = post(
        f"127.0.0.1:{provider.provider.port}", body, path="/v1/audio/transcriptions", headers=(("content-type", kind),)
    )
    assert answer.status == 400


def test_moderations(client: OpenAI) -> None:
    harmless = client.moderations.create(input=["one", "two"])
    assert [result.flagged for result in harmless.results] == [False, False]
    flagged = client.moderations.create(model="fake:flagged=true", input="x").results[0]
    assert flagged.flagged
    assert flagged.categories.violence


def test_files_come_and_go(client: OpenAI) -> None:
    made = client.files.create(file=("some.jsonl", b'{"a": 1}\n'), purpose="batch")
    assert (made.bytes, made.filename, made.purpose) == (9, "some.jsonl", "batch")
    assert [one.id for one in client.files.list()] == [made.id]
    assert client.files.retrieve(made.id).status == "processed"
    assert client.files.content(made.id).read() == b'{"a": 1}\n'
    assert client.files.delete(made.id).deleted
    with pytest.raises(NotFoundError):
        client.files.retrieve(made.id)


def test_a_batch_runs_over_its_file(client: OpenAI) -> None:
    line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": []}}
    source = client.files.create(file=("in.jsonl", json.dumps(line).encode() + b"\nnonsense\n"), purpose="batch")
    made = client.batches.create(input_file_id=source.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert made.status == "validating"
    done = client.batches.retrieve(made.id)
    assert done.status == "completed"
    assert done.request_counts is not None
    assert (done.request_counts.completed, done.request_counts.failed) == (1, 1)
    assert done.output_file_id is not None
    output = json.loads(client.files.content(done.output_file_id).read())
    assert output["custom_id"] == "one"
    assert output["response"]["body"]["usage"]["completion_tokens"] == 10


def test_a_batch_is_cancelled(client: OpenAI) -> None:
    source = client.files.create(file=("in.jsonl", b"{}"), purpose="batch")
    made = client.batches.create(input_file_id=source.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert client.batches.cancel(made.id).status == "cancelling"
    assert client.batches.retrieve(made.id).status == "cancelled"
    assert [one.id for one in client.batches.list()] == [made.id]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/files/none", 404), ("PUT", "/v1/files", 405), ("POST", "/v1/batches", 400)],
)
def test_what_is_not_there(provider: ProviderThread, method: str, path: str, status: int) -> None:
    answer = post(f"127.0.0.1:{provider.provider.port}", b'{"input_file_id": "x"}', path=path, method=method)
    assert answer.status == status


def test_azures_paths_lead_to_the_same(provider: ProviderThread) -> None:
    address = f"127.0.0.1:{provider.provider.port}"
    query = "?api-version=2024-10-21"
    body: dict[str, object] = {"messages": []}
    answer = post(address, body, path=f"/openai/deployments/my%20gpt/chat/completions{query}")
    assert answer.json()["model"] == "my gpt"
    assert (
        post(address, {**body, "model": "m"}, path=f"/openai/deployments/d/chat/completions{query}").json()["model"]
        == "m"
    )
    assert post(address, {"input": "x", "model": "m"}, path="/openai/v1/embeddings").json()["object"] == "list"
    assert post(address, {"prompt": "x"}, path=f"/openai/deployments/d/images/generations{query}").json()["data"]
    assert post(address, body, path=f"/openai/deployments/fake:status=429/chat/completions{query}").status == 429
