"""The OpenAI dialect: operations, request bodies, error objects (https://platform.openai.com/docs/api-reference)."""

from __future__ import annotations

import codecs
from collections.abc import Container, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec

from extproc.errors import Rejected

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_VALUE = msgspec.json.Decoder()
_ENCODER = msgspec.json.Encoder()
_UTF8 = codecs.getincrementaldecoder("utf-8")
_PIECE = 1 << 18  # bytes looked at together
# The fields that decisions are made of, as they stand in a body.
_DECISIVE = tuple(
    (name, f'"{name}"'.encode())
    for name in ("model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "n")
)
_MAX_TOKENS = 10_000_000
_MAX_CHOICES = 1_000
_IMAGE_TOKENS = 1_000
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Operation:
    """One endpoint: its name in logs, its path below the base path, and what its bodies may hold."""

    name: str
    path: str
    has_stream_options: bool = False
    output_limits: tuple[str, ...] = ()
    multipart: bool = False  # its bodies are forms (RFC 7578), not JSON


OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "/v1" + operation.path: operation
        for operation in (
            Operation("chat.completions", "/chat/completions", True, ("max_completion_tokens", "max_tokens")),
            Operation("completions", "/completions", True, ("max_tokens",)),
            Operation("responses", "/responses", False, ("max_output_tokens",)),
            Operation("embeddings", "/embeddings"),
            Operation("moderations", "/moderations"),
            Operation("images.generations", "/images/generations"),
            Operation("images.edits", "/images/edits", multipart=True),
            Operation("images.variations", "/images/variations", multipart=True),
            Operation("audio.speech", "/audio/speech"),
            Operation("audio.transcriptions", "/audio/transcriptions", multipart=True),
            Operation("audio.translations", "/audio/translations", multipart=True),
        )
    }
)


def error_body(message: str, *, kind: str, code: str | None, param: str | None = None) -> bytes:
    """OpenAI's error object as JSON."""
    return _ENCODER.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def models_body(names: list[str], created: int) -> bytes:
    """The answer of `GET /v1/models`."""
    return _ENCODER.encode({"object": "list", "data": [_model_object(name, created) for name in names]})


def model_body(name: str, created: int) -> bytes:
    """The answer of `GET /v1/models/{model}`."""
    return _ENCODER.encode(_model_object(name, created))


def _model_object(name: str, created: int) -> dict[str, str | int]:
    return {"id": name, "object": "model", "created": created, "owned_by": "headgate"}


@dataclass(slots=True)
class Body:
    """A request body of which only the top level is parsed; every value is kept as it was written.

    `ambiguous` says that another parser may read a key of this body differently (a key that stands twice,
    or is written with escapes): such a body is sent on re-encoded, never as it came.
    """

    fields: dict[str, msgspec.Raw]
    size: int
    ambiguous: bool

    def value(self, name: str) -> Any:
        """The decoded value of a field, None when it is absent."""
        raw = self.fields.get(name)
        return None if raw is None else _VALUE.decode(raw)

    def split(self, names: Container[str]) -> tuple[dict[str, msgspec.Raw], dict[str, msgspec.Raw]]:
        """The fields of these names, and all others."""
        chosen = {name: raw for name, raw in self.fields.items() if name in names}
        return chosen, {name: raw for name, raw in self.fields.items() if name not in chosen}


def encode(fields: Mapping[str, msgspec.Raw]) -> bytes:
    """Fields as a body; every value stays byte for byte what it was."""
    return _ENCODER.encode(fields)


def encode_members(fields: Mapping[str, msgspec.Raw]) -> bytes:
    """Fields as they stand between the braces of an object."""
    return _ENCODER.encode(fields)[1:-1]


def compact(raw: msgspec.Raw) -> msgspec.Raw:
    """A value without white space between its parts."""
    return msgspec.Raw(msgspec.json.format(bytes(raw), indent=-1))


def raw_value(value: Any) -> msgspec.Raw:
    """A value as it stands in a body."""
    return msgspec.Raw(_ENCODER.encode(value))


def _bad_body(message: str, param: str | None = None, code: str = "invalid_json") -> Rejected:
    return Rejected(400, message, code=code, param=param)


def parse(raw: bytes) -> Body:
    """The top level of a JSON object. Raises `Rejected` (400) for everything else."""
    if not raw or raw.isspace():
        raise _bad_body("The request body is empty: send a JSON object.")
    _check_utf8(raw)
    try:
        fields = _FIELDS.decode(raw)
    except msgspec.ValidationError as error:
        raise _bad_body(f"The request body must be a JSON object, not {_kind_of(raw)}.") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise _bad_body(f"The request body is not valid JSON: {error}") from error
    for name in fields:
        if len(name) == 5 and name != "model" and name.casefold() == "model":
            raise _bad_body(f"The key '{name}' is ambiguous: write 'model' in lower case.", "model", "invalid_key")
    return Body(fields, len(raw), _is_ambiguous(raw, fields))


def _check_utf8(raw: bytes) -> None:
    """Piece by piece: as one text a large body would take up to four times its size."""
    if raw.isascii():
        return
    decoder = _UTF8()
    for start in range(0, len(raw), _PIECE):
        try:
            decoder.decode(raw[start : start + _PIECE] if len(raw) > _PIECE else raw, start + _PIECE >= len(raw))
        except UnicodeDecodeError as error:
            at = start + error.start
            raise _bad_body(f"The request body is not valid UTF-8 (byte {at}).") from error


def _is_ambiguous(raw: bytes, fields: dict[str, msgspec.Raw]) -> bool:
    if b"\\" in raw and b"\\u00" in raw:
        return True
    # Written without spaces, as SDKs do, a body has no room for a key that stands twice: nothing need be searched.
    if 1 + 4 * len(fields) + sum(map(len, fields)) + sum(map(len, fields.values())) == len(raw):
        return False
    return any(raw.count(key) > 1 for name, key in _DECISIVE if name in fields)


def _kind_of(raw: bytes) -> str:
    first = raw.strip()[:1]
    kinds = {b"[": "an array", b'"': "a string", b"n": "null", b"t": "a boolean", b"f": "a boolean"}
    return kinds.get(first, "a number")


def requested_model(body: Body) -> str:
    """The `model` of the body. Raises `Rejected` (400) when it is missing, empty or not a string."""
    if "model" not in body.fields:
        raise _bad_body("You must provide a 'model' parameter.", "model", "missing_required_parameter")
    name = _decoded(body, "model")
    if not isinstance(name, str) or not name:
        raise _bad_body("'model' must be a non-empty string.", "model", "invalid_type")
    return name


def _decoded(body: Body, name: str) -> Any:
    try:
        return body.value(name)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _bad_body(f"'{name}' is not valid JSON: {error}", name) from error


def is_stream(body: Body) -> bool:
    """Whether the answer is asked for as a stream. Raises `Rejected` (400) when `stream` is no boolean."""
    value = _decoded(body, "stream")
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _bad_body("'stream' must be true or false.", "stream", "invalid_type")


def stream_options(body: Body) -> dict[str, Any]:
    """The `stream_options` of the body, empty when it has none. Raises `Rejected` (400) when they are no object."""
    options = _decoded(body, "stream_options")
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise _bad_body("'stream_options' must be an object.", "stream_options", "invalid_type")
    return options


def estimate_tokens(operation: Operation, body: Body, raw: bytes, default_completion: int) -> tuple[int, int]:
    """What the request may cost at most, roughly: the body at four bytes per token (each inline image or
    file as a thousand), and the answer's maximum, for each of `n` choices."""
    size, images = _text_bytes(raw)
    prompt = min(-(-size // _BYTES_PER_TOKEN) + _IMAGE_TOKENS * images, _MAX_TOKENS)
    if not operation.output_limits:
        return prompt, 0
    completion = default_completion
    for name in operation.output_limits:
        value = _decoded(body, name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            completion = min(value, _MAX_TOKENS)
            break
    choices = _decoded(body, "n")
    many = min(choices, _MAX_CHOICES) if isinstance(choices, int) and choices > 1 else 1
    return prompt, min(completion * many, _MAX_TOKENS - prompt)


def _text_bytes(raw: bytes) -> tuple[int, int]:
    """The length of the body without its inline base64 data, and how many pieces of that there are."""
    size, pieces = len(raw), 0
    start = raw.find(b";base64,")
    while start >= 0:
        pieces += 1
        end = raw.find(b'"', start)
        if end < 0:
            break
        size -= end - start
        start = raw.find(b";base64,", end)
    return size, pieces
