"""The error tree of the ExternalProcessor.

HeadgateError (sidecar)
└── Rejected          this request gets an answer from us instead of the provider's
"""

from __future__ import annotations

from sidecar.errors import HeadgateError


class Rejected(HeadgateError):
    """The request must be answered with `status` and an error in the client's dialect.

    `kind`, `code` and `param` are the `type`, `code` and `param` of OpenAI's error object
    (https://platform.openai.com/docs/guides/error-codes).
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None,
        kind: str = "invalid_request_error",
        param: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.status = status
        self.message = message
        self.code = code
        self.kind = kind
        self.param = param
        self.headers = headers
        super().__init__(message)
