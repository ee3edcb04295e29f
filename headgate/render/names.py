"""Names that Envoy or Kubernetes would refuse, or never match, are refused before anything is printed."""

from __future__ import annotations

import re
from typing import NoReturn

from sidecar.errors import ConfigError, Problem

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PART = r"[a-z0-9_](?:[-a-z0-9_]{0,61}[a-z0-9_])?"  # Envoy compares texts, and names with _ are in use
_HOST = rf"{_PART}(?:\.{_PART})*"
_PORT = r"(?::(?:[0-9]{1,5}|\*))?"
# envoy.config.route.v3.VirtualHost.domains: exact, *.foo.com and *-bar.foo.com, foo.* and foo-*, *.
_DOMAIN = re.compile(rf"\*|(?:\*[.-])?{_HOST}{_PORT}|{_HOST}[.-]\*|\[[0-9a-f:.]+\]{_PORT}")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_MAX = 253


def domain(option: str, text: str) -> str:
    """`text` when it is a domain of an Envoy virtual host. Raises `ConfigError`."""
    if len(text) > _MAX or not _DOMAIN.fullmatch(text.lower()):
        mend = "write a host name without scheme or path: llm.example.com, *.example.com, llm.*, or *"
        _fail(option, text, "no domain of a virtual host", mend)
    return text


def host(option: str, text: str, *, wildcard: bool = False) -> str:
    """`text` when it is a host name as Kubernetes takes it (RFC 1123, lower case). Raises `ConfigError`."""
    bare = text.removeprefix("*.") if wildcard else text
    if len(text) > _MAX or not _SUBDOMAIN.fullmatch(bare):
        _fail(option, text, "no host name", "write it in lower case, without scheme, port or path: llm.example.com")
    return text


def namespace(option: str, text: str) -> str:
    """`text` when it is a Kubernetes namespace, or empty. Raises `ConfigError`."""
    if text and not re.fullmatch(_LABEL, text):
        mend = "lower-case letters, digits and -, at most 63, beginning and ending with a letter or digit"
        _fail(option, text, "no name of a namespace", mend)
    return text


def kubernetes_name(option: str, text: str) -> str:
    """`text` when it may be the name of a Kubernetes object (RFC 1123 subdomain), or empty. Raises `ConfigError`."""
    if text and (len(text) > _MAX or not _SUBDOMAIN.fullmatch(text)):
        mend = "lower-case letters, digits, - and ., beginning and ending with a letter or digit"
        _fail(option, text, "no name of a Kubernetes object", mend)
    return text


def label(option: str, text: str) -> tuple[str, str]:
    """Key and value of one Kubernetes label (`istio=egressgateway`). Raises `ConfigError`."""
    key, _, value = text.partition("=")
    prefix, slash, name = key.rpartition("/")
    lawful = _LABEL_VALUE.fullmatch(name) and _LABEL_VALUE.fullmatch(value)
    if not lawful or (slash and not _SUBDOMAIN.fullmatch(prefix)):
        _fail(option, text, "no label", "write one: istio=egressgateway")
    return key, value


def _fail(option: str, text: str, what: str, mend: str) -> NoReturn:
    raise ConfigError([Problem(option, "", f"{text!r} is {what}", mend)])
