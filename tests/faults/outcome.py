"""What came of a case: as the client saw it, and as the providers did."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.faults.table import Expected, Received
from tests.gateway import Answer

_ALIKE = ("served_by", "status", "attempts", "received", "code", "retry_after", "whole", "cut")


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer as its client understands it."""

    served_by: str  # the provider's own word for it (x-fake-provider); "" for the gateway's own answer
    told: str  # the gateway's word for it (x-headgate-provider)
    status: int  # 0: no answer
    attempts: int  # 0: not told
    code: str
    retry_after: str
    whole: bool
    cut: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case, to be held against what must."""

    seen: Seen
    received: Received
    seconds: float

    def differences(self, expected: Expected) -> tuple[str, ...]:
        """Each thing that is not as it must be, in words; none when all is well."""
        found = []
        for name in _ALIKE:
            got, wanted = getattr(self.seen, name, self.received), getattr(expected, name)
            if got != wanted:
                found.append(f"{name}: {_word(got)}, not {_word(wanted)}")
        if self.seen.served_by and self.seen.told.partition("-")[0] != self.seen.served_by:
            found.append(f"x-headgate-provider: {_word(self.seen.told)}, but {self.seen.served_by} answered")
        earliest, latest = expected.seconds
        if not earliest <= self.seconds <= latest:
            found.append(f"seconds: {self.seconds:.2f}, not {earliest:g} to {latest:g}")
        return tuple(found)


def understand(answer: Answer | None) -> Seen:
    """What a client makes of an answer; None is a connection that ended without one."""
    if answer is None:
        return Seen("", "", 0, 0, "", "", whole=False, cut=True)
    complete = _complete(answer)
    served_by = answer.header("x-fake-provider") or ""
    return Seen(
        served_by=served_by,
        told=answer.header("x-headgate-provider") or "",
        status=answer.status,
        attempts=int(answer.header("x-headgate-attempts") or 0),
        code="" if served_by else _code(answer),
        retry_after=answer.header("retry-after") or "",
        whole=complete and _sound(answer),
        cut=not complete,
    )


def _complete(answer: Answer) -> bool:
    """Whether the body ends where HTTP says it ends."""
    if answer.header("transfer-encoding") == "chunked":
        return answer.raw.endswith(b"\r\n0\r\n\r\n")
    return len(answer.body) == int(answer.header("content-length") or -1)


def _sound(answer: Answer) -> bool:
    """Whether every JSON text in the body is JSON, and a stream says that it is done."""
    if not (answer.header("content-type") or "").startswith("text/event-stream"):
        return _is_json(answer.body)
    lines = [line for line in answer.body.splitlines() if line]
    data = [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")]
    return len(data) == len(lines) > 0 and data[-1] == b"[DONE]" and all(map(_is_json, data[:-1]))


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _code(answer: Answer) -> str:
    try:
        return str(answer.json()["error"]["code"] or "")
    except (ValueError, LookupError, TypeError):
        return ""


def _word(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text or "none"
