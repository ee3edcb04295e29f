"""One request, looked at closely: whether an arm does what its figures are said to be about."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

from bench.arms import Arm
from bench.loadgen import Target
from bench.workloads import Workload

_TIMEOUT = 30.0  # seconds
_SLACK = 2  # requests by which a count may be off: keys take turns, so each gets one more or less


@dataclass(frozen=True, slots=True)
class Seen:
    """What one answer said. Counters are what is left of the key's limits, None when the answer does not say."""

    problem: str
    requests_left: int | None = None
    tokens_left: int | None = None
    usage: int = 0
    events: int = 0


def probe(arm: Arm, workload: Workload) -> Seen:
    """Ask once, with the first key, and check status, model, words, events and usage."""
    target = workload.target(arm.port, model=arm.model, headers=arm.headers)
    status, headers, body = _ask(target)
    if status != 200:
        return Seen(f"status {status}: {body[:120]!r}")
    left = [_number(headers.get(f"x-ratelimit-remaining-{what}")) for what in ("requests", "tokens")]
    usage, problem = 0, ""
    if workload.method == "GET":
        if arm.answers_itself and arm.model not in body.decode():
            problem = "this answer is not the gateway's own"
    else:
        values = _values(body, workload.stream)
        usage = next((value["usage"]["total_tokens"] for value in reversed(values) if value.get("usage")), 0)
        problem = _problem(arm, workload, body, values, usage)
    return Seen(problem, left[0], left[1], usage, body.count(b"data: ") if workload.stream else 0)


def _ask(target: Target) -> tuple[int, dict[str, str], bytes]:
    """Send the generator's own bytes and read the answer with another client's code."""
    head, _, body = target.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, path, _ = first.split(" ")
    connection = http.client.HTTPConnection(target.host, target.port, timeout=_TIMEOUT)
    try:
        sent = dict(line.split(": ", 1) for line in lines)
        connection.request(method, path, body=body or None, headers=sent)
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, response.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, {}, repr(error).encode()
    finally:
        connection.close()


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _values(body: bytes, stream: bool) -> list[dict[str, Any]]:
    if not stream:
        return [json.loads(body)]
    lines = [line.removeprefix(b"data: ") for line in body.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def _problem(arm: Arm, workload: Workload, body: bytes, values: list[dict[str, Any]], usage: int) -> str:
    models = {value.get("model") for value in values}
    if models != {arm.target_model}:
        return f"the provider was asked for {models}, not {arm.target_model}"
    words = len("".join(_content(value) for value in values).split())
    if words != workload.chunks:
        return f"{words} words instead of {workload.chunks}"
    if workload.stream and not arm.reframes and body.count(b"data: ") != workload.events:
        return f"{body.count(b'data: ')} events instead of {workload.events}"
    return "" if usage else "no usage in the answer"


def _content(value: dict[str, Any]) -> str:
    """What of the answer's text is in a whole answer or in one chunk of it."""
    return "".join(
        (choice.get("delta") or choice.get("message") or {}).get("content") or "" for choice in value["choices"]
    )


def counted(arm: Arm, workload: Workload, before: Seen, after: Seen, done: int) -> str:
    """Whether the first key's counters fell by what passed between two probes; empty when they did."""
    if not arm.counts:
        return ""
    if before.requests_left is None or after.requests_left is None:
        return "the answer does not say what is left of the limit"
    expected = done / workload.keys + 1
    fell = before.requests_left - after.requests_left
    if abs(fell - expected) > _SLACK:
        return f"{fell} requests were counted instead of {expected:.0f}"
    if not arm.settles:
        return ""
    if before.tokens_left is None or after.tokens_left is None:
        return "the answer does not say what is left of the token limit"
    spent = before.tokens_left - after.tokens_left
    if abs(spent - fell * after.usage) > _SLACK * after.usage:
        return f"{spent} tokens were charged instead of {fell * after.usage}"
    return ""
