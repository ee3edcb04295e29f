"""The text operations in OpenAI's wire formats, made up deterministically. Pure: a request in, an answer out."""

from __future__ import annotations

import base64
import itertools
import struct
from collections.abc import Iterator
from typing import Any

from headgate.fake_provider.answer import CREATED, Answer, encode, event, stream, whole, words
from headgate.fake_provider.asked import Asked
from headgate.fake_provider.behaviour import Behaviour
from headgate.fake_provider.embedding import embed

_KINDS = {
    "chat/completions": "chat", "completions": "completions", "embeddings": "embeddings", "responses": "responses",
}  # fmt: skip
_counter = itertools.count(1)


def models() -> Answer:
    """The provider's own list."""
    return Answer(200, "application/json", (encode({"object": "list", "data": [
        {"id": "fake", "object": "model", "created": CREATED, "owned_by": "fake"}]}),))  # fmt: skip


def answer(asked: Asked, behaviour: Behaviour) -> Answer:
    """A chat, a completion, embeddings or a response."""
    writer = _Writer(_KINDS[asked.operation], asked.fields, behaviour)
    if asked.stream and asked.operation != "embeddings":
        return stream(list(writer.events()), behaviour)
    return whole(writer.json(), behaviour)


def prompt_tokens(body: dict[str, Any]) -> int:
    """Words in what was sent, at least 1."""
    texts: list[str] = []
    for message in body.get("messages") or ():
        content = message.get("content") if isinstance(message, dict) else None
        texts.append(content if isinstance(content, str) else "x")
    for name in ("prompt", "input"):
        value = body.get(name)
        texts += [value] if isinstance(value, str) else [str(one) for one in value or ()]
    return max(1, sum(len(text.split()) for text in texts))


class _Writer:
    """Writes one answer."""

    def __init__(self, operation: str, body: dict[str, Any], behaviour: Behaviour) -> None:
        self._operation = operation
        self._body = body
        self._behaviour = behaviour
        self._model = str(body.get("model", ""))
        self._prompt = prompt_tokens(body)
        self._completion = behaviour.usage_tokens - self._prompt if behaviour.usage_tokens else max(0, behaviour.chunks)
        self._words = words(behaviour)
        self._number = next(_counter)

    def _usage(self, completion: int | None = None) -> dict[str, Any]:
        done = self._completion if completion is None else completion
        if self._operation == "embeddings":
            return {"prompt_tokens": self._prompt, "total_tokens": self._prompt}
        if self._operation == "responses":
            return {
                "input_tokens": self._prompt, "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": done, "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self._prompt + done,
            }  # fmt: skip
        usage: dict[str, Any] = {
            "prompt_tokens": self._prompt, "completion_tokens": done, "total_tokens": self._prompt + done,
            "prompt_tokens_details": {"cached_tokens": 0},
        }  # fmt: skip
        if self._behaviour.usage == "braces":
            return {'a "note" }': 'not the end: } { "total_tokens": 1 \\', **usage, "tier": "}{"}
        return usage

    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = getattr(self, f"_{self._operation}_json")()
        return value

    def _chat_json(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(self._words), "refusal": None}
        return {
            "id": f"chatcmpl-{self._number}", "object": "chat.completion", "created": CREATED, "model": self._model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": self._behaviour.finish}],
            "usage": self._usage(),
        }  # fmt: skip

    def _completions_json(self) -> dict[str, Any]:
        choice = {"index": 0, "text": "".join(self._words), "logprobs": None, "finish_reason": self._behaviour.finish}
        return {
            "id": f"cmpl-{self._number}", "object": "text_completion", "created": CREATED, "model": self._model,
            "choices": [choice], "usage": self._usage(),
        }  # fmt: skip

    def _embeddings_json(self) -> dict[str, Any]:
        inputs = self._body.get("input")
        texts = [str(one) for one in inputs] if isinstance(inputs, list) else [str(inputs)]
        by_words = self._behaviour.embedding == "words"
        size = self._body.get("dimensions") or (256 if by_words else 8)
        vectors: list[Any] = [
            embed(text, size) if by_words else [0.5 / (index + 1) for index in range(size)] for text in texts
        ]
        if self._body.get("encoding_format") == "base64":
            vectors = [base64.b64encode(struct.pack(f"<{size}f", *vector)).decode() for vector in vectors]
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        return {"object": "list", "model": self._model, "data": data, "usage": self._usage()}

    def _responses_json(self, status: str = "completed") -> dict[str, Any]:
        text = {"type": "output_text", "text": "".join(self._words), "annotations": []}
        done = status == "completed"
        output = [{
            "id": f"msg_{self._number}", "type": "message", "role": "assistant", "status": "completed",
            "content": [text],
        }] if done else []  # fmt: skip
        return {
            "id": f"resp_{self._number}", "object": "response", "created_at": CREATED, "status": status,
            "model": self._model, "output": output, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
            "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "temperature": 1.0,
            "top_p": 1.0, "usage": self._usage() if done else None,
        }  # fmt: skip

    def events(self) -> Iterator[bytes]:
        return self._responses_events() if self._operation == "responses" else self._chunk_events()

    def _event(self, value: Any, name: str = "") -> bytes:
        return event(value, self._behaviour, name)

    def _chunk_events(self) -> Iterator[bytes]:
        chat = self._operation == "chat"
        options = self._body.get("stream_options")
        wanted = isinstance(options, dict) and options.get("include_usage") is True
        usage = self._behaviour.usage
        base: dict[str, Any] = {
            "id": f"chatcmpl-{self._number}" if chat else f"cmpl-{self._number}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": CREATED,
            "model": self._model,
        }

        def chunk(part: Any, finish: str | None, done: int) -> bytes:
            if chat:
                choice = {"index": 0, "delta": part, "logprobs": None, "finish_reason": finish}
            else:
                choice = {"index": 0, "text": part.get("content", ""), "logprobs": None, "finish_reason": finish}
            extra: dict[str, Any] = {"usage": None} if wanted and usage != "none" else {}
            if usage == "running":
                extra = {"usage": self._usage(done)}
            elif usage == "parts" and done == 0:
                extra = {"usage": {"input_tokens": self._prompt, "cache_read_input_tokens": 0, "output_tokens": 1}}
            elif usage == "parts" and finish:
                extra = {"usage": {"output_tokens": self._completion}}
            return self._event({**base, "choices": [choice], **extra})

        if chat:
            yield chunk({"role": "assistant", "content": ""}, None, 0)
        for index, word in enumerate(self._words):
            yield chunk({"content": word}, None, index + 1)
        if self._behaviour.no_finish:
            return
        yield chunk({}, self._behaviour.finish, len(self._words))
        if wanted and usage not in ("none", "parts"):
            last = {**base, "choices": [], "usage": self._usage()}
            if usage in ("huge", "overlong"):
                last["padding"] = "x" * (70_000 if usage == "huge" else 300_000)
            yield self._event(last)
        if not self._behaviour.no_done:
            yield b"data: [DONE]\n\n"

    def _responses_events(self) -> Iterator[bytes]:
        item = f"msg_{self._number}"
        started = self._responses_json("in_progress")
        yield self._event({"type": "response.created", "sequence_number": 0, "response": started}, "response.created")
        for index, word in enumerate(self._words):
            delta = {
                "type": "response.output_text.delta", "sequence_number": index + 1, "item_id": item,
                "output_index": 0, "content_index": 0, "delta": word, "logprobs": [],
            }  # fmt: skip
            yield self._event(delta, "response.output_text.delta")
        if self._behaviour.no_finish:
            return
        done = self._responses_json()
        if self._behaviour.usage == "none":
            done["usage"] = None
        completed = {"type": "response.completed", "sequence_number": len(self._words) + 1, "response": done}
        yield self._event(completed, "response.completed")
