"""What Envoy answers by itself, in the shape of OpenAI's errors.

Each mapper names its status (and response flags): a catch-all would wrap the answers that ext_proc and the
rate-limit service have already written. The bodies are constants, so nothing of a request can break them.
"""

from __future__ import annotations

from extproc.limits import UNDECIDED
from extproc.processor import METADATA
from extproc.providers.openai import error_body
from headgate.render.values import Json
from headgate.settings import Settings


def _body(message: str, kind: str, code: str) -> str:
    return error_body(message, kind=kind, code=code).decode()


def _by_decision(value: Json, *, undecided: bool) -> Json:
    path = {"filter": METADATA, "path": [{"key": "decision_us"}], "value": value}
    return {"metadata_filter": {"matcher": path, "match_if_key_not_found": undecided}}


# What ext_proc has answered itself says how long that took; what Envoy refuses before that has no such thing.
_DECIDED = _by_decision({"present_match": True}, undecided=False)
_UNDECIDED = _by_decision({"null_match": {}}, undecided=True)


def _mapper(
    status: int,
    body: str,
    *,
    flags: tuple[str, ...] = (),
    becomes: int | None = None,
    only: Json | None = None,
) -> Json:
    by_status: Json = {
        "status_code_filter": {
            "comparison": {
                "op": "EQ",
                "value": {"default_value": status, "runtime_key": "headgate.local_reply"},
            }
        }
    }
    more = [{"response_flag_filter": {"flags": list(flags)}}] if flags else []
    if only is not None:
        more.append(only)
    chosen = {"and_filter": {"filters": [by_status, *more]}} if more else by_status
    mapper: Json = {
        "filter": chosen,
        "body_format_override": {
            "text_format_source": {"inline_string": body},
            "content_type": "application/json",
        },
    }
    if becomes is not None:
        mapper["status_code"] = becomes
    return mapper


def refused_undecided() -> list[Json]:
    """Of our own listener: what Envoy refuses before ext_proc has decided."""
    return [
        _mapper(
            400,
            _body(
                "The request is not valid HTTP: see its first line, Host, lengths, and path (no '#').",
                "invalid_request_error",
                "bad_request",
            ),
            only=_UNDECIDED,
        ),
        _mapper(
            403,
            _body(
                "The only upgrade that is served here is a WebSocket.", "invalid_request_error", "upgrade_not_supported"
            ),
            only=_UNDECIDED,
        ),
        _mapper(
            404,
            _body("There is nothing at this address.", "invalid_request_error", "unknown_url"),
            only=_UNDECIDED,
        ),
        _mapper(
            501,
            _body("The only transfer encoding served here is 'chunked'.", "invalid_request_error", "transfer_encoding"),
            only=_UNDECIDED,
        ),
    ]


def local_replies(settings: Settings) -> list[Json]:
    """The mappers of what Envoy answers for us. The first that fits is used."""
    limit = settings.max_body
    too_large = _body(
        f"The request body is larger than the limit of {limit} bytes.",
        "invalid_request_error",
        "request_too_large",
    )
    return [
        _mapper(413, too_large),
        _mapper(429, "%LOCAL_REPLY_BODY%"),
        _mapper(
            400,
            _body("The request is not valid HTTP.", "invalid_request_error", "bad_request"),
            flags=("DPE",),
        ),
        _mapper(408, _body("The request did not arrive in time.", "invalid_request_error", "request_timeout")),
        _mapper(431, _body("The request headers are too large.", "invalid_request_error", "headers_too_large")),
        _mapper(
            503,
            _body(
                "The provider closed the connection before it answered.",
                "upstream_error",
                "provider_reset",
            ),
            flags=("UC", "UR"),
            becomes=502,
        ),
        _mapper(
            502,
            _body("The provider's answer is not valid HTTP.", "upstream_error", "provider_protocol_error"),
        ),
        _mapper(
            503,
            _body("The provider cannot be reached.", "upstream_error", "provider_unreachable"),
            flags=("UF", "UH", "UO", "URX", "NC", "DF"),
        ),
        _mapper(
            503,
            UNDECIDED.decode(),
        ),
        _mapper(
            504,
            _body("The provider did not answer in time.", "upstream_error", "provider_timeout"),
            flags=("UT", "SI"),
        ),
        *([_mapper(504, "%LOCAL_REPLY_BODY%", only=_DECIDED)] if settings.has_cache else []),  # `only-if-cached`
        _mapper(
            504,
            _body("The gateway did not decide in time: try again.", "gateway_error", "gateway_timeout"),
        ),
        _mapper(500, _body("The gateway failed on this request.", "gateway_error", "internal_error")),
    ]
