"""multipart/form-data, read as far as a fake provider needs it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_BOUNDARY = re.compile(r'boundary=(?:"([^"]+)"|([^;\s]+))', re.IGNORECASE)
_NAME = re.compile(rb'[;\s]name=(?:"([^"]*)"|([^;\r\n]+))')
_FILENAME = re.compile(rb'[;\s]filename=(?:"([^"]*)"|([^;\r\n]+))')


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a form."""

    filename: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Form:
    """Fields by name (the last one wins) and files by name: `image[]` is `image`, then `image[1]`."""

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, Upload] = field(default_factory=dict)


def read(content_type: str, body: bytes) -> Form:
    """Raises `ValueError` for what is no form."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise ValueError("The content type names no boundary.")
    boundary = b"--" + (found[1] or found[2]).encode()
    parts = (b"\r\n" + body).split(b"\r\n" + boundary)
    if len(parts) < 2 or not parts[-1].startswith(b"--"):
        raise ValueError("The form has no end.")
    form = Form()
    for part in parts[1:-1]:
        head, separator, content = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if not separator or name is None:
            raise ValueError("A part of the form has no name.")
        key = _text(name).removesuffix("[]")
        filename = _FILENAME.search(head)
        if filename is None:
            form.fields[key] = content.decode("utf-8", "replace")
        else:
            again = sum(one.partition("[")[0] == key for one in form.files)
            form.files[f"{key}[{again}]" if again else key] = Upload(_text(filename), content)
    return form


def _text(found: re.Match[bytes]) -> str:
    value: bytes = found[1] if found[1] is not None else found[2]
    return value.decode("utf-8", "replace")
