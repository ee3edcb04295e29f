"""Images in OpenAI's wire format: generated, edited, varied."""

from __future__ import annotations

import base64
from typing import Any

from headgate.fake_provider.answer import CREATED, Answer, event, stream, whole
from headgate.fake_provider.asked import Asked
from headgate.fake_provider.behaviour import Behaviour

# The smallest PNG: one pixel.
_PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")
_TOKENS = 100  # of output, for each image


def answer(asked: Asked, behaviour: Behaviour) -> Answer:
    """Images as base64, or as addresses where asked (and for dall-e, whose default it is)."""
    default = "url" if asked.model.startswith("dall-e") else "b64_json"
    shape = asked.fields.get("response_format") or default
    count = max(1, asked.number("n", 1))
    if asked.stream:
        return stream(_events(asked, behaviour), behaviour)
    image: dict[str, str] = {"url": "https://images.invalid/fake.png"}
    if shape == "b64_json":
        image = {"b64_json": base64.b64encode(_PNG).decode()}
    value: dict[str, Any] = {"created": CREATED, "data": [image] * count}
    if asked.operation != "images/variations":  # dall-e-2's alone, and it knows no usage
        value["usage"] = _usage(asked, behaviour, count)
    return whole(value, behaviour)


def _usage(asked: Asked, behaviour: Behaviour, count: int) -> dict[str, Any]:
    text = max(1, len(str(asked.fields.get("prompt", "")).split()))
    seen = _TOKENS * len(asked.files)
    done = behaviour.usage_tokens - text - seen if behaviour.usage_tokens else _TOKENS * count
    return {
        "input_tokens": text + seen, "input_tokens_details": {"text_tokens": text, "image_tokens": seen},
        "output_tokens": done, "total_tokens": text + seen + done,
    }  # fmt: skip


def _events(asked: Asked, behaviour: Behaviour) -> list[bytes]:
    kind = "image_edit" if asked.operation == "images/edits" else "image_generation"
    image = {
        "b64_json": base64.b64encode(_PNG).decode(), "created_at": CREATED, "size": "1024x1024", "quality": "low",
        "background": "opaque", "output_format": "png",
    }  # fmt: skip
    values: list[dict[str, Any]] = [
        {"type": f"{kind}.partial_image", "partial_image_index": index, **image}
        for index in range(asked.number("partial_images", 0))
    ]
    if not behaviour.no_finish:
        usage = {} if behaviour.usage == "none" else {"usage": _usage(asked, behaviour, 1)}
        values.append({"type": f"{kind}.completed", **image, **usage})
    return [event(value, behaviour, value["type"]) for value in values]
