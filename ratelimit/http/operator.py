"""HTTP for who operates the limits: why one counts, what its counters hold, hits given back, counters started anew.

    GET  /explain?domain=mesh&descriptor=tenant=team-a,path=/v1      with the state of the counters
    GET  /inspect?domain=…&descriptor=…
    POST /credit?domain=…&descriptor=…&hits=5
    POST /reset?domain=…&descriptor=…

Answers are JSON; what cannot be answered says why under `error`. Counters are changed for this machine alone (in
Kubernetes: `kubectl port-forward` or `exec`), because nobody is asked for a password here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import msgspec
from aiohttp import web

from ratelimit.client import parse_entries
from ratelimit.explain import explain
from ratelimit.http.server import Answer
from ratelimit.operator import Counter, Operator
from ratelimit.rules import MAX_HITS, Entries, RuleSet
from sidecar.errors import StoreError

DESCRIBED = {
    "/credit": "POST: give `hits` back to the counters of a descriptor",
    "/explain": "which rule a descriptor meets and why (?domain=d&descriptor=k=v,k2=v2), and its counters",
    "/inspect": "the counters of a descriptor",
    "/reset": "POST: start the counters of a descriptor anew",
}

_Work: TypeAlias = Callable[[RuleSet, str, Entries, web.Request], Awaitable[dict[str, Any]]]


class _Refused(Exception):
    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)


def operator_paths(operator: Operator, rules: Callable[[], RuleSet | None]) -> Mapping[str, Answer]:
    """The paths over the counters of `operator`; `rules` gives the rule set of the moment."""

    async def explained(current: RuleSet, domain: str, entries: Entries, _request: web.Request) -> dict[str, Any]:
        found = explain(current, domain, entries)
        counters = await operator.inspect(current, domain, entries) if found.limits else []
        return {"steps": found.lines()[1:-1], "conclusion": found.conclusion, "counters": _shown(counters)}

    async def inspected(current: RuleSet, domain: str, entries: Entries, _request: web.Request) -> dict[str, Any]:
        return {"counters": _shown(await operator.inspect(current, domain, entries))}

    async def credited(current: RuleSet, domain: str, entries: Entries, request: web.Request) -> dict[str, Any]:
        hits = request.query.get("hits", "")
        if not (hits.isascii() and hits.isdigit() and len(hits) < 20 and 0 < int(hits) <= MAX_HITS):
            raise _Refused(400, f"hits is a number from 1 to {MAX_HITS}")
        return {"counters": _shown(await operator.credit(current, domain, entries, int(hits)))}

    async def reset(current: RuleSet, domain: str, entries: Entries, _request: web.Request) -> dict[str, Any]:
        return {"before": _shown(await operator.reset(current, domain, entries))}

    return {
        "/credit": _answer(rules, credited, "POST"),
        "/explain": _answer(rules, explained, "GET"),
        "/inspect": _answer(rules, inspected, "GET"),
        "/reset": _answer(rules, reset, "POST"),
    }


def _answer(rules: Callable[[], RuleSet | None], work: _Work, method: str) -> Answer:
    async def answer(request: web.Request) -> web.Response:
        try:
            if request.method != method:
                raise _Refused(405, f"use {method}")
            if method == "POST" and not _is_near(request):
                raise _Refused(403, "counters are changed from the service's own machine alone (kubectl port-forward)")
            current = rules()
            if current is None:
                raise _Refused(503, "no rate limit configuration loaded")
            domain, entries = request.query.get("domain", ""), _entries(request)
            if domain not in current.domains and method == "POST":
                raise _Refused(404, f"there is no domain '{domain}'")
            return _json(await work(current, domain, entries, request))
        except _Refused as refused:
            return _json({"error": str(refused)}, refused.status)
        except StoreError as error:
            return _json({"error": f"the counter store does not answer: {error}"}, 503)

    return answer


def _is_near(request: web.Request) -> bool:
    # Not all of 127.0.0.0/8: a mesh's sidecar hands on what came from elsewhere, Istio's from 127.0.0.6.
    return request.remote in ("127.0.0.1", "::1")


def _entries(request: web.Request) -> Entries:
    if not request.query.get("domain"):
        raise _Refused(400, "name the domain: ?domain=mesh&descriptor=key=value")
    try:
        return parse_entries(request.query.get("descriptor", ""))
    except ValueError as error:
        message, _, mend = str(error).partition(" | ")
        raise _Refused(400, f"descriptor: {message}; {mend}") from None


def _shown(counters: list[Counter]) -> list[dict[str, Any]]:
    return [
        {
            "rule": one.limit.rule.label,
            "limit": str(one.limit.rule.rate),
            "algorithm": one.limit.rule.algorithm.value,
            "key": one.key,
            "used": one.used,
            "remaining": one.remaining,
            "reset_seconds": one.reset_seconds,
        }
        for one in counters
    ]


def _json(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body) + b"\n", status=status, content_type="application/json")
