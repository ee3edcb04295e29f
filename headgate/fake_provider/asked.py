"""What a request asks for: the operation, and what its body or form says."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from headgate.fake_provider import multipart
from headgate.fake_provider.multipart import Upload
from headgate.fake_provider.recorder import Received

_JSON = ("chat/completions", "completions", "embeddings", "responses", "moderations", "images/generations",
         "audio/speech")  # fmt: skip
_FORMS = ("images/edits", "images/variations", "audio/transcriptions", "audio/translations")
# Any prefix will do: /v1, Azure's /openai/v1 and /openai/deployments/NAME, and base URLs with a path of their own.
_PATH = re.compile(
    r"/(?:(?P<plain>chat/completions|completions|embeddings|responses|moderations|models|realtime|images/generations"
    r"|images/edits|images/variations|audio/speech|audio/transcriptions|audio/translations|files|batches)"
    r"|(?P<kind>files|batches)/(?P<item>[^/]+)(?:/(?P<verb>content|cancel))?)$"
)
_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)/")


class BadRequestError(ValueError):
    """The body is not what the operation takes."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, read. `operation` is "" for a path that is not known."""

    method: str
    path: str
    operation: str = ""
    item: str = ""  # the file or batch it is about
    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Upload] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """The body's, else the query's or the deployment's."""
        model = self.fields.get("model")
        return model if isinstance(model, str) else ""

    @property
    def stream(self) -> bool:
        """Whether events are asked for."""
        return self.fields.get("stream") in (True, "true") or self.fields.get("stream_format") == "sse"

    def number(self, name: str, default: int) -> int:
        """A field that counts something; a form's are text."""
        value = self.fields.get(name)
        try:
            return int(value) if value is not None else default
        except (TypeError, ValueError):
            raise BadRequestError(f"{name} is not a number.") from None


def place(received: Received) -> Asked:
    """Which operation the path names; nothing of the body."""
    plain, _, query = received.path.partition("?")
    found = _PATH.search(plain)
    if found is None:
        return Asked(received.method, plain)
    operation = found["plain"] or "/".join(filter(None, (found["kind"], "item", found["verb"])))
    deployment = _DEPLOYMENT.search(plain)
    named = parse_qs(query)
    model = unquote(deployment[1]) if deployment else (named.get("model") or named.get("deployment") or [""])[0]
    return Asked(received.method, plain, operation, found["item"] or "", {"model": model} if model else {})


def read(placed: Asked, received: Received) -> Asked:
    """The same with what the body says. Raises `BadRequestError`."""
    posted = received.method == "POST"
    content_type = (received.header("content-type") or "").strip()
    takes_json = placed.operation in _JSON or (placed.operation == "batches" and posted)
    if placed.operation in _FORMS and not content_type.startswith("application/json"):
        takes_form = True
    else:
        takes_form = placed.operation == "files" and posted
        takes_json = takes_json or placed.operation in _FORMS
    if takes_form:
        try:
            form = multipart.read(content_type, received.body)
        except ValueError as error:
            raise BadRequestError(str(error)) from None
        return _with(placed, form.fields, form.files)
    if takes_json:
        return _with(placed, _object(received.body), {})
    if not placed.operation:  # whatever it is, a model in it may carry a behaviour
        with contextlib.suppress(BadRequestError):
            return _with(placed, _object(received.body), {})
    return placed


def _with(placed: Asked, fields: dict[str, Any], files: dict[str, Upload]) -> Asked:
    return Asked(placed.method, placed.path, placed.operation, placed.item, {**placed.fields, **fields}, files)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        raise BadRequestError("The body is not JSON.") from None
    if not isinstance(value, dict):
        raise BadRequestError("The body is not a JSON object.")
    return value
