"""The error tree of the rate-limit service.

HeadgateError (sidecar)
├── RequestError      a request that can never be decided: no domain, no descriptor
├── StoreError        (sidecar) the store failed; `transient` says whether it may pass
└── ConfigError       (sidecar) rules that cannot be used
"""

from __future__ import annotations

from sidecar.errors import HeadgateError


class RequestError(HeadgateError):
    """The request itself is wrong; the text is envoyproxy/ratelimit's."""
