"""HTTP/2 errors (RFC 9113, section 7).

H2Error
├── ConnectionFault    the whole connection ends with GOAWAY (section 5.4.1)
└── StreamFault        one stream ends with RST_STREAM (section 5.4.2)
"""

from __future__ import annotations

from enum import IntEnum

from sidecar.errors import HeadgateError


class ErrorCode(IntEnum):
    """RFC 9113, section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class H2Error(HeadgateError):
    """The peer broke a rule. The text names it."""

    def __init__(self, code: ErrorCode, rule: str) -> None:
        self.code = code
        self.rule = rule
        super().__init__(f"{code.name}: {rule}")


class ConnectionFault(H2Error):
    """The connection cannot go on."""


class StreamFault(H2Error):
    """One stream cannot go on."""

    def __init__(self, stream: int, code: ErrorCode, rule: str) -> None:
        self.stream = stream
        super().__init__(code, rule)
