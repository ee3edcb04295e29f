"""Bodies that are forms (multipart/form-data, RFC 7578): only the `model` field is looked for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from extproc.errors import Rejected

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_NAME = re.compile(rb';\s*name=(?:"([^"]*)"|([^\s;"]+))', re.IGNORECASE)
_LONGEST_MODEL = 256


@dataclass(frozen=True, slots=True)
class Form:
    """A form as it was sent: its model, and where in the body that stands."""

    model: str
    start: int
    end: int


def _bad(message: str, code: str = "invalid_form", param: str | None = None) -> Rejected:
    return Rejected(400, message, code=code, param=param)


def parse(raw: bytes, content_type: str) -> Form:
    """The model of a form. Raises `Rejected` (400) when there is none, or more than one."""
    kind, _, _ = content_type.partition(";")
    boundary = _BOUNDARY.search(content_type)
    if kind.strip().lower() != "multipart/form-data" or boundary is None:
        raise _bad("This endpoint takes a form: send content-type 'multipart/form-data' with its boundary.")
    delimiter = b"--" + (boundary.group(1) or boundary.group(2)).encode("latin-1", "replace")
    found: Form | None = None
    at = 0 if raw.startswith(delimiter) else raw.find(b"\r\n" + delimiter)
    while at >= 0:
        head = raw.find(b"\r\n", at + 1)
        body = raw.find(b"\r\n\r\n", at + 1)
        following = raw.find(b"\r\n" + delimiter, at + 2)
        if head < 0 or body < 0 or following < 0:
            break
        if body < following and _is_model(raw[head:body]):
            if found is not None:
                raise _bad("The field 'model' stands in the form more than once.", param="model")
            found = _model(raw, body + 4, following)
        at = following
    if found is None:
        raise _bad("You must provide a 'model' parameter.", "missing_required_parameter", "model")
    return found


def _is_model(head: bytes) -> bool:
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-disposition:"):
            name = _NAME.search(line)
            return name is not None and (name.group(1) or name.group(2)) == b"model"
    return False


def _model(raw: bytes, start: int, end: int) -> Form:
    if end - start > _LONGEST_MODEL:
        raise _bad("'model' is too long.", "invalid_type", "model")
    try:
        name = raw[start:end].decode()
    except UnicodeDecodeError as error:
        raise _bad("'model' must be text.", "invalid_type", "model") from error
    if not name or not name.isprintable():
        raise _bad("'model' must be a non-empty string.", "invalid_type", "model")
    return Form(name, start, end)
