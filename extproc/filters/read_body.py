"""The body: whether one may come at all, and its top level once it is there."""

from __future__ import annotations

from extproc.context import Exchange, Reply
from extproc.errors import Rejected
from extproc.providers import multipart, openai


def expect_body(exchange: Exchange) -> Reply | None:
    """Refuse, before a byte of it is buffered, a body that cannot be used."""
    headers = exchange.headers
    encodings = [value for value in headers.all("content-encoding") if value.strip().lower() not in (b"", b"identity")]
    if encodings:
        shown = encodings[0][:32].decode("ascii", "replace")
        raise Rejected(
            415,
            f"The request body is encoded as '{shown}': send it without content-encoding.",
            code="unsupported_content_encoding",
        )
    length = headers.one("content-length")
    if length.isdecimal() and int(length) > exchange.policy.max_body_bytes:
        limit = exchange.policy.max_body_bytes
        raise Rejected(413, f"The request body is larger than the limit of {limit} bytes.", code="request_too_large")
    if headers.end_of_stream:
        raise Rejected(400, "The request body is empty: send a JSON object.", code="invalid_json")
    return None


def read_body(exchange: Exchange) -> Reply | None:
    """Parse the top level of the body, or find the model in a form."""
    assert exchange.operation is not None
    if exchange.operation.multipart and not _is_json(exchange):
        exchange.form = multipart.parse(exchange.raw_body, exchange.headers.one("content-type"))
    else:
        exchange.body = openai.parse(exchange.raw_body)
    return None


def _is_json(exchange: Exchange) -> bool:
    return exchange.headers.one("content-type").partition(";")[0].strip().lower() == "application/json"
