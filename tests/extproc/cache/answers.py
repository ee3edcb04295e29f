"""Answers as providers write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from extproc.cache.capture import Capture, Captured, Discarded

CHAT = "chat.completions"
JSON_HEAD = {"content-type": (b"application/json",)}
STREAM_HEAD = {"content-type": (b"text/event-stream; charset=utf-8",)}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def event(value: Any, name: str = "", space: bool = True) -> bytes:
    head = f"event: {name}\n" if name else ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{head}data:{' ' if space else ''}{text}\n\n".encode()


def chunk(content: str | None = None, finish: str | None = None, index: int = 0, **extra: Any) -> bytes:
    delta = {} if content is None else {"content": content}
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return event({"object": "chat.completion.chunk", "choices": [choice], **extra})


DONE = event("[DONE]")
CHAT_STREAM = chunk("Grüße ") + chunk("[DONE]") + chunk(finish="stop") + event({"choices": [], "usage": USAGE}) + DONE


def response(status: str = "completed", **changes: Any) -> dict[str, Any]:
    usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    return {
        "object": "response",
        "status": status,
        "error": None,
        "incomplete_details": None,
        "usage": usage,
        **changes,
    }


def typed(kind: str, **members: Any) -> bytes:
    return event({"type": kind, **members}, kind)


RESPONSE_STREAM = (
    typed("response.created", response=response("in_progress", usage=None))
    + typed("response.output_text.delta", delta="Hi response.completed")
    + typed("response.completed", response=response())
)


def chat(finish: str | None = "stop", **changes: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Grüße"}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": USAGE, **changes}


def capture(
    body: bytes | list[bytes],
    head: Mapping[str, tuple[bytes, ...]] | None = None,
    operation: str = CHAT,
    status: int = 200,
    max_bytes: int = 1_000_000,
) -> Captured | Discarded:
    pieces = [body] if isinstance(body, bytes) else body
    if head is None:
        head = JSON_HEAD if pieces[0].lstrip()[:1] == b"{" else STREAM_HEAD
    taken = Capture(operation, max_bytes)
    taken.head(status, head)
    for piece in pieces:
        taken.chunk(piece)
    return taken.end()


def why(*args: Any, **kwargs: Any) -> str:
    """The word for why not; empty when it is kept."""
    found = capture(*args, **kwargs)
    return found.reason.value if isinstance(found, Discarded) else ""
