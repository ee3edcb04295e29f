"""The error tree of the ground floor.

HeadgateError                 everything we raise on purpose
├── ConfigError               a configuration that cannot be used: place and mend, one line each
├── RpcError                  a gRPC call that ends with a status other than OK
└── StoreError                the counter store failed; `transient` says whether a retry may help
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class HeadgateError(Exception):
    """Base of every error that Headgate raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a configuration.

    `place` is `file:line` (or `environment`), `path` the key path (`keys.0.sha256`), `message` what is
    wrong, `mend` what to write instead (may be empty when the message already says it). `line` is told beside the text,
    where a place is to be the file's name alone; 0 when it is not known.
    """

    place: str
    path: str
    message: str
    mend: str = ""
    line: int = 0

    def __str__(self) -> str:
        text = f"{self.place}: {self.path}: {self.message}" if self.path else f"{self.place}: {self.message}"
        return f"{text} ({self.mend})" if self.mend else text


class ConfigError(HeadgateError):
    """A configuration that cannot be used. Nothing of it takes effect."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems))


class StatusCode(IntEnum):
    """gRPC status codes (https://grpc.io/docs/guides/status-codes/), without importing grpc."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(HeadgateError):
    """A call that must end with `code`. The message reaches the peer: never put a secret into it."""

    def __init__(self, code: StatusCode, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{code.name}: {message}")


class StoreError(HeadgateError):
    """The counter store failed. `transient` errors (timeouts, lost connections) may pass by themselves."""

    def __init__(self, message: str, *, transient: bool) -> None:
        self.transient = transient
        super().__init__(message)
