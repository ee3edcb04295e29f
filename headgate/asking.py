"""Asking what runs over HTTP: a gateway's admin port, or the debug port of the rate-limit service."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from sidecar.errors import HeadgateError

_STRANGER = "what answers is not a gateway or rate-limit service, or of another version"


class NoAnswerError(HeadgateError):
    """Nobody answers there, or not as we do."""


class RefusedError(HeadgateError):
    """It answered with an error; the text is the reason it gave."""


def admin_url(admin: str, path: str) -> str:
    """`path` at a port that was given as `host:port`, or as a whole URL."""
    return f"{admin.rstrip('/') if '://' in admin else f'http://{admin}'}{path}"


def ask(url: str, body: object = None, *, method: str | None = None, patience: float) -> dict[str, Any]:
    """The JSON object that `url` answers; a `body` is posted as JSON. Nothing is waited for longer than `patience`
    seconds. It is asked directly, whatever proxy the environment names.

    Raises `NoAnswerError` and `RefusedError`.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise NoAnswerError("not an address over HTTP: write host:port, or http://host:port")
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - looked at above
        with direct.open(request, timeout=patience) as response:
            found = json.load(response)
    except urllib.error.HTTPError as error:
        raise RefusedError(_reason(error)) from error
    except urllib.error.URLError as error:
        raise NoAnswerError(str(error.reason)) from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NoAnswerError("what answers is not JSON") from error
    except (http.client.InvalidURL, http.client.IncompleteRead, OSError, ValueError) as error:
        raise NoAnswerError(str(error)) from error
    except http.client.HTTPException as error:
        raise NoAnswerError(f"what answers does not speak HTTP ({type(error).__name__})") from error
    if not isinstance(found, dict):
        raise NoAnswerError(_STRANGER)
    return found


@contextlib.contextmanager
def understood() -> Iterator[None]:
    """Around the reading of what `ask` returned. Raises `NoAnswerError` for what a gateway would not say."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise NoAnswerError(_STRANGER) from error


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        said = json.load(error)["error"]
        if isinstance(said, dict):  # as providers and gateways answer
            return f"{said['message']} (is this the port for requests?)"
        return str(said)
    except (OSError, ValueError, LookupError, TypeError, RecursionError, http.client.HTTPException):
        return f"HTTP {error.code} {error.reason}: this is another program, or an older gateway"
