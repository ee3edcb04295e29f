"""Envoy's dynamic files: written whole, moved into place, and watched until Envoy has taken them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from headgate.envoy_admin import EnvoyAdmin
from headgate.render import bootstrap
from headgate.render.layout import ROUTES, STAT_PREFIX, Layout
from headgate.render.values import Json
from headgate.settings import Settings
from sidecar.errors import HeadgateError

_VERSION_STATS = (
    r"^(listener_manager\.lds|cluster_manager\.cds|http\." + STAT_PREFIX + r"\.rds\." + ROUTES + r")"
    r"\.(version_text|update_rejected)$"
)
_POLL_SECONDS = 0.05
_UPDATE_SECONDS = 10.0
_WORKERS_SECONDS = 0.25


class EnvoyRefusedError(HeadgateError):
    """Envoy did not take a configuration. The one before stays in force."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What one configuration makes of Envoy's files."""

    version: str
    secrets: Mapping[str, Json]
    clusters: Json
    routes: Json
    listeners: Json


def render(settings: Settings, layout: Layout, credentials: dict[str, str], version: str) -> Rendered:
    """All files of one configuration."""
    return Rendered(
        version,
        bootstrap.secret_files(settings, layout, credentials, version),
        bootstrap.cluster_file(settings, layout, credentials, version),
        bootstrap.route_file(settings, version),
        bootstrap.listener_file(settings, layout, version),
    )


def write(path: Path, value: Json) -> None:
    """Write whole and move into place: Envoy acts on the move and never sees half a file."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(value, stream)
    temporary.replace(path)


def keep_copy(path: Path, text: str) -> None:
    """A copy of a configuration, for our own processes only."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as copy:
        copy.write(text)


def write_all(rendered: Rendered, layout: Layout) -> None:
    """The files as a starting Envoy finds them."""
    write(layout.bootstrap, bootstrap.dynamic_bootstrap(layout))
    for path, value in rendered.secrets.items():
        write(Path(path), value)
    write(layout.clusters, rendered.clusters)
    write(layout.routes, rendered.routes)
    write(layout.listeners, rendered.listeners)


def with_clusters_of(new: Rendered, others: Sequence[Rendered], version: str) -> Json:
    """The clusters of `new` and those of the others that it does not name."""
    found = {one["name"]: one for rendered in reversed(others) for one in rendered.clusters["resources"]}
    found.update((one["name"], one) for one in new.clusters["resources"])
    return {"version_info": version, "resources": list(found.values())}


def with_routes_of(new: Rendered, others: Sequence[Rendered], version: str) -> Json:
    """The routes of `new`, those of the others that it does not name, and the catch-all."""
    fresh: Json = deepcopy(new.routes)
    fresh["version_info"] = version
    host = fresh["resources"][0]["virtual_hosts"][0]
    *own, catch_all = host["routes"]
    found = {one["name"]: one for one in own}
    for rendered in others:
        for one in rendered.routes["resources"][0]["virtual_hosts"][0]["routes"][:-1]:
            found.setdefault(one["name"], one)
    host["routes"] = [*found.values(), catch_all]
    return fresh


class EnvoyFiles:
    """The files of a running Envoy, changed in an order in which no request is lost.

    `begin` adds what is new beside what is there. The caller then swaps the decisions and calls `commit`.
    What only older configurations need stays for as long as a request decided by them may still be on its
    way, and goes with `sweep`.
    """

    def __init__(self, layout: Layout, admin: EnvoyAdmin, current: Rendered, clock: Callable[[], float]) -> None:
        self._layout = layout
        self._admin = admin
        self._clock = clock
        self._current = current
        self._retired: list[tuple[float, Rendered]] = []
        self._changes = 0

    async def begin(self, new: Rendered) -> None:
        """Make Envoy ready for `new` while it still serves the old. Raises `EnvoyRefusedError`, changing nothing."""
        others = [self._current, *(rendered for _, rendered in self._retired)]
        try:
            for path, value in new.secrets.items():
                write(Path(path), value)
            await self._update_routing(new, others)
            if {**new.listeners, "version_info": ""} != {**self._current.listeners, "version_info": ""}:
                await self._update("listener_manager.lds", self._layout.listeners, new.listeners)
            # Envoy's workers learn of a change a moment after its main thread reports it.
            await asyncio.sleep(_WORKERS_SECONDS)
        except EnvoyRefusedError:
            self.abandon()
            raise

    def commit(self, new: Rendered, linger: float) -> None:
        """The decisions are swapped. What was current is still needed for `linger` seconds."""
        self._retired.insert(0, (self._clock() + linger, self._current))
        self._current = new

    async def sweep(self) -> None:
        """Take away what nobody can need any more."""
        now = self._clock()
        gone = [rendered for deadline, rendered in self._retired if deadline <= now]
        if not gone:
            return
        self._retired = [(deadline, rendered) for deadline, rendered in self._retired if deadline > now]
        others = [rendered for _, rendered in self._retired]
        await self._update_routing(self._current, others)
        needed = {path for rendered in (self._current, *others) for path in rendered.secrets}
        for rendered in gone:
            for path in set(rendered.secrets) - needed:
                Path(path).unlink(missing_ok=True)

    def abandon(self) -> None:
        """Go back to the current configuration after a `begin` that is not committed."""
        others = [rendered for _, rendered in self._retired]
        version = self._next_version(self._current)
        for path, value in self._current.secrets.items():
            write(Path(path), value)
        write(self._layout.listeners, self._current.listeners)
        write(self._layout.routes, with_routes_of(self._current, others, version))
        write(self._layout.clusters, with_clusters_of(self._current, others, version))

    async def _update_routing(self, new: Rendered, others: Sequence[Rendered]) -> None:
        version = self._next_version(new)
        clusters = with_clusters_of(new, others, version)
        routes = with_routes_of(new, others, version)
        await self._update("cluster_manager.cds", self._layout.clusters, clusters)
        await self._update(f"http.{STAT_PREFIX}.rds.{ROUTES}", self._layout.routes, routes)

    def _next_version(self, rendered: Rendered) -> str:
        self._changes += 1
        return f"{rendered.version}.{self._changes}"

    async def _update(self, scope: str, path: Path, value: Json) -> None:
        """Move one file into place and wait until Envoy runs it."""
        before = await self._stats()
        write(path, value)
        deadline = time.monotonic() + _UPDATE_SECONDS
        while time.monotonic() < deadline:
            now = await self._stats()
            if now.get(f"{scope}.version_text") == value["version_info"]:
                return
            if now.get(f"{scope}.update_rejected", "0") != before.get(f"{scope}.update_rejected", "0"):
                raise EnvoyRefusedError(f"Envoy refused {path.name}: its log says why")
            await asyncio.sleep(_POLL_SECONDS)
        raise EnvoyRefusedError(f"Envoy did not take {path.name} within {_UPDATE_SECONDS:g} seconds")

    async def _stats(self) -> Mapping[str, str]:
        return await self._admin.stats(_VERSION_STATS) or {}
