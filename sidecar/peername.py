"""Whether a certificate is for a name: the subject alternative names of RFC 5280, matched as RFC 6125 says."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

from sidecar.addresses import ip_address


def of_certificate(secure: object) -> list[str]:
    """The DNS names, addresses and URIs of the peer's certificate; none when it has shown none."""
    certificate = secure.getpeercert() if isinstance(secure, ssl.SSLObject) else None
    names: Any = (certificate or {}).get("subjectAltName", ())
    return [value for _, value in names]


def fits(wanted: str, names: Iterable[str]) -> bool:
    """Whether one of `names` is `wanted`: a DNS name (`*.` stands for one label), an address or a URI."""
    return any(_fits(wanted, name) for name in names)


def _fits(wanted: str, name: str) -> bool:
    if "://" in wanted or "://" in name:
        return wanted == name
    address = ip_address(wanted)
    if address is not None:
        return address == ip_address(name)
    wanted, name = wanted.lower().rstrip("."), name.lower().rstrip(".")
    if name.startswith("*."):
        label, dot, rest = wanted.partition(".")
        return bool(label and dot) and rest == name[2:]
    return wanted == name
