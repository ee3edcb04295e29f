"""What several workers say of themselves, as one: their readiness, their metrics, their status."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import msgspec

from headgate.admin import Dependency
from headgate.caching import Purged, together
from sidecar.metrics import Metrics
from sidecar.series import Row

_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_PURGE = aiohttp.ClientTimeout(total=60.0)
_IS_JSON = {"content-type": "application/json"}
_FAILURES = (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError)


class WorkerReport(msgspec.Struct):
    """One worker's answer to `/report`."""

    dependencies: Mapping[str, Dependency]
    metrics: Mapping[str, Sequence[Row]]
    status: Mapping[str, Any]


class WorkerReports:
    """Asks every worker at its admin socket."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._sockets = [address.removeprefix("unix://") for address in addresses]

    async def _ask(self, socket: str) -> WorkerReport | None:
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=socket), timeout=_TIMEOUT) as session,
                session.get("http://worker/report") as response,
            ):
                return msgspec.json.decode(await response.read(), type=WorkerReport)
        except _FAILURES:
            return None

    async def _all(self) -> list[WorkerReport | None]:
        return list(await asyncio.gather(*(self._ask(socket) for socket in self._sockets)))

    async def answers(self) -> list[bool]:
        """Whether each worker answers."""
        return [report is not None for report in await self._all()]

    async def dependencies(self) -> Mapping[str, Dependency]:
        """Every dependency once where the workers agree, else once per worker that differs.

        A worker that does not answer is named; ready is who has one that does, since Envoy asks another.
        """
        merged: dict[str, Dependency] = {}
        reports = await self._all()
        anybody = any(report is not None for report in reports)
        for number, report in enumerate(reports):
            if report is None:
                merged[f"worker {number}"] = Dependency("does not answer", ready=anybody)
                continue
            for name, state in report.dependencies.items():
                if merged.setdefault(name, state) != state:
                    merged[f"{name} (worker {number})"] = state
        return merged

    async def metrics(self) -> bytes:
        """All workers' series, added up."""
        found = [report.metrics for report in await self._all() if report is not None]
        return Metrics().merged_exposition(found)

    async def status(self) -> Mapping[str, Any]:
        """The first worker's status; the hash of the configuration only when all run it, targets of all together."""
        reports = await self._all()
        known = [report.status for report in reports if report is not None]
        if not known:
            return {"workers": [None for _ in reports]}
        hashes = {one["config"]["hash"] for one in known}
        agreed = known[0]["config"]["hash"] if len(hashes) == 1 and len(known) == len(reports) else ""
        workers = [None if one is None else {"config": one.status["config"]["hash"]} for one in reports]
        targets = merged_targets([one.get("targets", {}) for one in known])
        config = {**known[0]["config"], "hash": agreed}
        cache = merged_cache([one.get("cache") for one in known])
        return {**known[0], "config": config, "targets": targets, "cache": cache, "workers": workers}

    async def purge(self, request: bytes) -> Purged:
        """Have a worker forget kept answers: they share one store."""
        for socket in self._sockets:
            with contextlib.suppress(*_FAILURES):
                async with (
                    aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=socket), timeout=_PURGE) as session,
                    session.post("http://worker/cache/purge", data=request, headers=_IS_JSON) as response,
                ):
                    return Purged(response.status, msgspec.json.decode(await response.read()))
        return Purged(503, {"error": "no worker answers"})


def merged_cache(reports: Sequence[Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
    """What the first worker says, with the hits and misses of all, and what they have saved."""
    known = [one for one in reports if one is not None]
    if not known:
        return None
    models: dict[str, Any] = {}
    for name in dict.fromkeys(name for one in known for name in one["models"]):
        same = [one["models"][name] for one in known if name in one["models"]]
        models[name] = {**_counts(same), **together(same)}
    return {**known[0], **_counts(known), **together(list(models.values())), "models": models}


def _counts(reports: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {name: sum(one[name] for one in reports) for name in ("hits", "misses")}


_ADDED = ("served", "failed", "in_flight")


def merged_targets(reports: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Every target once: counts added up, and the state in which it is worst off."""
    merged: dict[str, Any] = {}
    for model, targets in reports[0].items():
        merged[model] = []
        for number in range(len(targets)):
            same = [one[model][number] for one in reports if len(one.get(model, ())) > number]
            worst = max(same, key=lambda one: (one.get("state") != "available", one.get("seconds_left") or 0.0))
            merged[model].append({**worst, **{name: sum(one.get(name) or 0 for one in same) for name in _ADDED}})
    shown = {one["target"]: one["served"] for targets in merged.values() for one in targets}
    total = sum(shown.values())
    for targets in merged.values():
        for one in targets:
            one["share"] = round(one["served"] / total, 3) if total else 0.0
    return merged
