"""IP addresses in texts."""

from __future__ import annotations

import ipaddress


def ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `text` is (IPv6 without brackets), None when it is none."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
