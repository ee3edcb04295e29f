"""OpenAI's wire formats, made up deterministically. Pure: a request in, the pieces of an answer out."""

from __future__ import annotations

import base64
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from headgate.fake_provider.behaviour import Behaviour

_encode = msgspec.json.Encoder().encode
_CREATED = 1_700_000_000
_WORDS = ("Hello", "from", "the", "fake", "provider,", "which", "makes", "up", "every", "word.")
_counter = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON body (`pieces` has one), or the events of a stream, in order."""

    status: int
    content_type: str
    pieces: tuple[bytes, ...]
    stream: bool = False


def error(status: int, message: str, code: str | None = None) -> Answer:
    """OpenAI's error object."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return Answer(status, "application/json", (_encode(body),))


def models() -> Answer:
    """The provider's own list."""
    return Answer(200, "application/json", (_encode({"object": "list", "data": [
        {"id": "fake", "object": "model", "created": _CREATED, "owned_by": "fake"}]}),))  # fmt: skip


def answer(operation: str, body: dict[str, Any], behaviour: Behaviour) -> Answer:
    """The answer of `operation` (the path's last part) to `body`."""
    if behaviour.status >= 400:
        return error(behaviour.status, f"The fake provider was told to answer {behaviour.status}.", "fake")
    writer = _Writer(operation, body, behaviour)
    if body.get("stream") and operation != "embeddings":
        return Answer(200, "text/event-stream", tuple(writer.events()), stream=True)
    return Answer(200, "application/json", (writer.json(),))


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
        count = max(0, behaviour.chunks)
        if behaviour.usage_tokens:
            self._completion = behaviour.usage_tokens - self._prompt
        else:
            self._completion = count
        words = behaviour.text.split("+") if behaviour.text else [_WORDS[index % len(_WORDS)] for index in range(count)]
        self._words = [word if index == 0 else f" {word}" for index, word in enumerate(words)]
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

    def json(self) -> bytes:
        value = getattr(self, f"_{self._operation}_json")()
        usage = self._behaviour.usage
        if usage == "none":
            value.pop("usage")
        elif usage == "early":
            value = {"usage": value.pop("usage"), **value}
        elif usage == "huge":
            value["padding"] = "x" * 100_000
        raw = _encode(value)
        missing = self._behaviour.size - len(raw)
        if missing > 0:
            raw = _encode({"padding": "x" * max(0, missing - 13), **value})
        return raw[: len(raw) // 2] if self._behaviour.broken else raw

    def _chat_json(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(self._words), "refusal": None}
        return {
            "id": f"chatcmpl-{self._number}", "object": "chat.completion", "created": _CREATED, "model": self._model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": self._usage(),
        }  # fmt: skip

    def _completions_json(self) -> dict[str, Any]:
        choice = {"index": 0, "text": "".join(self._words), "logprobs": None, "finish_reason": "stop"}
        return {
            "id": f"cmpl-{self._number}", "object": "text_completion", "created": _CREATED, "model": self._model,
            "choices": [choice], "usage": self._usage(),
        }  # fmt: skip

    def _embeddings_json(self) -> dict[str, Any]:
        inputs = self._body.get("input")
        many = len(inputs) if isinstance(inputs, list) else 1
        size = self._body.get("dimensions") or 8
        vector: Any = [0.5 / (index + 1) for index in range(size)]
        if self._body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(many)]
        return {"object": "list", "model": self._model, "data": data, "usage": self._usage()}

    def _responses_json(self, status: str = "completed") -> dict[str, Any]:
        text = {"type": "output_text", "text": "".join(self._words), "annotations": []}
        done = status == "completed"
        output = [{
            "id": f"msg_{self._number}", "type": "message", "role": "assistant", "status": "completed",
            "content": [text],
        }] if done else []  # fmt: skip
        return {
            "id": f"resp_{self._number}", "object": "response", "created_at": _CREATED, "status": status,
            "model": self._model, "output": output, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
            "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "temperature": 1.0,
            "top_p": 1.0, "usage": self._usage() if done else None,
        }  # fmt: skip

    def events(self) -> Iterator[bytes]:
        made = self._responses_events() if self._operation == "responses" else self._chunk_events()
        events = list(made)
        if self._behaviour.broken:
            events[len(events) // 2] = b'data: {"id": "broken", "choi\n\ndata: ]}\n\n: what\n\nnonsense\n\n'
        if self._behaviour.newline == "crlf":
            events = [event.replace(b"\n", b"\r\n") for event in events]
        if self._behaviour.usage == "split":
            events = [piece for event in events for piece in (_pieces(event, 7) if b'usage":{' in event else [event])]
        if self._behaviour.split:
            events = _pieces(b"".join(events), self._behaviour.split)
        yield from events

    def _event(self, value: Any, name: str = "") -> bytes:
        head = f"event: {name}\n".encode() if name else b""
        return head + (b"data: " if self._behaviour.space else b"data:") + _encode(value) + b"\n\n"

    def _chunk_events(self) -> Iterator[bytes]:
        chat = self._operation == "chat"
        options = self._body.get("stream_options")
        wanted = isinstance(options, dict) and options.get("include_usage") is True
        usage = self._behaviour.usage
        base: dict[str, Any] = {
            "id": f"chatcmpl-{self._number}" if chat else f"cmpl-{self._number}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": _CREATED,
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
        yield chunk({}, "stop", len(self._words))
        if wanted and usage not in ("none", "parts"):
            last = {**base, "choices": [], "usage": self._usage()}
            if usage == "huge":
                last["padding"] = "x" * 70_000
            yield self._event(last)
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
        done = self._responses_json()
        if self._behaviour.usage == "none":
            done["usage"] = None
        completed = {"type": "response.completed", "sequence_number": len(self._words) + 1, "response": done}
        yield self._event(completed, "response.completed")


def _pieces(raw: bytes, size: int) -> list[bytes]:
    return [raw[start : start + size] for start in range(0, len(raw), size)]
