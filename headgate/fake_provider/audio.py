"""Audio in OpenAI's wire format: speech out of text, and text out of speech."""

from __future__ import annotations

import base64
from typing import Any

from headgate.fake_provider.answer import Answer, cut, event, stream, whole, words
from headgate.fake_provider.asked import Asked, BadRequestError
from headgate.fake_provider.behaviour import Behaviour

_TYPES = {"mp3": "audio/mpeg", "opus": "audio/opus", "aac": "audio/aac", "flac": "audio/flac", "wav": "audio/wav",
          "pcm": "audio/pcm"}  # fmt: skip
_PIECE = 1000  # bytes of audio in a chunk
_BYTES_PER_TOKEN = 100


def speech(asked: Asked, behaviour: Behaviour) -> Answer:
    """Made-up bytes of sound in chunks, or events that carry them (`stream_format: sse`)."""
    text = asked.fields.get("input")
    if not isinstance(text, str):
        raise BadRequestError("input is missing.")
    audio = bytes(range(256)) * (behaviour.size // 256 + 1) if behaviour.size else b"\xff\xfb\x90\x64" * 250
    audio = audio[: behaviour.size] if behaviour.size else audio * max(1, behaviour.chunks)
    pieces = cut(audio, max(_PIECE, len(audio) // 100))
    if asked.fields.get("stream_format") != "sse":
        kind = _TYPES.get(str(asked.fields.get("response_format") or "mp3"), "audio/mpeg")
        return Answer(200, kind, tuple(cut(audio, behaviour.split) if behaviour.split else pieces), stream=True)
    events = [
        event({"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()}, behaviour) for piece in pieces
    ]
    if not behaviour.no_finish:
        done: dict[str, Any] = {"type": "speech.audio.done"}
        if behaviour.usage != "none":
            prompt = max(1, len(text.split()))
            made = behaviour.usage_tokens - prompt if behaviour.usage_tokens else len(audio) // _BYTES_PER_TOKEN
            done["usage"] = {"input_tokens": prompt, "output_tokens": made, "total_tokens": prompt + made}
        events.append(event(done, behaviour))
    return stream(events, behaviour)


def transcript(asked: Asked, behaviour: Behaviour) -> Answer:
    """What was said, whole or in events. Whisper reports seconds, the others tokens."""
    upload = asked.files.get("file")
    if upload is None:
        raise BadRequestError("file is missing.")
    said = words(behaviour)
    usage = _usage(asked, behaviour, len(upload.content), len(said))
    if asked.stream:
        return _events(said, usage, behaviour)
    shape = str(asked.fields.get("response_format") or "json")
    if shape in ("text", "srt", "vtt"):
        return Answer(200, "text/plain; charset=utf-8", (("".join(said) + "\n").encode(),))
    value: dict[str, Any] = {"text": "".join(said), "usage": usage}
    if shape == "verbose_json":
        task = "translate" if asked.operation == "audio/translations" else "transcribe"
        value |= {"task": task, "language": "english", "duration": _seconds(len(upload.content)), "segments": []}
    return whole(value, behaviour)


def _events(said: list[str], usage: dict[str, Any], behaviour: Behaviour) -> Answer:
    events = [event({"type": "transcript.text.delta", "delta": word}, behaviour) for word in said]
    if not behaviour.no_finish:
        done: dict[str, Any] = {"type": "transcript.text.done", "text": "".join(said)}
        if behaviour.usage != "none":
            done["usage"] = usage
        events.append(event(done, behaviour))
    return stream(events, behaviour)


def _seconds(size: int) -> float:
    return float(max(1, size // 16_000))


def _usage(asked: Asked, behaviour: Behaviour, size: int, said: int) -> dict[str, Any]:
    if asked.model.startswith("whisper"):
        return {"type": "duration", "seconds": _seconds(size)}
    heard = max(1, size // _BYTES_PER_TOKEN)
    done = behaviour.usage_tokens - heard if behaviour.usage_tokens else said
    return {
        "type": "tokens", "input_tokens": heard, "input_token_details": {"text_tokens": 0, "audio_tokens": heard},
        "output_tokens": done, "total_tokens": heard + done,
    }  # fmt: skip
