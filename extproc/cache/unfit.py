"""Why an answer is not kept."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Labels of metrics."""

    STATUS = "status"  # not 200
    TYPE = "type"  # neither JSON nor events, or not what the operation answers with
    ENCODED = "encoded"  # content-encoding
    TOO_LARGE = "too_large"
    CUT = "cut"  # the answer, or its stream, ended before its end
    ERROR = "error"  # an error stands in it
    FINISH = "finish"  # the model did not come to its end
    MALFORMED = "malformed"


class Unfit(Exception):
    """This answer is not to be kept. Raised and caught within the cache."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(reason.value)
