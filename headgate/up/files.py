"""Envoy's dynamic files: written whole, moved into place, and watched until Envoy has taken them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
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


def write_all(rendered: Rendered, layout: Layout) -> None:
    """The files as a starting Envoy finds them."""
    write(layout.bootstrap, bootstrap.dynamic_bootstrap(layout))
    for path, value in rendered.secrets.items():
        write(Path(path), value)
    write(layout.clusters, rendered.clusters)
    write(layout.routes, rendered.routes)
    write(layout.listeners, rendered.listeners)


def union_of_clusters(old: Rendered, new: Rendered, version: str) -> Json:
    """The new clusters and those of the old ones that they do not replace."""
    names = {one["name"] for one in new.clusters["resources"]}
    kept = [one for one in old.clusters["resources"] if one["name"] not in names]
    return {"version_info": version, "resources": [*new.clusters["resources"], *kept]}


def union_of_routes(old: Rendered, new: Rendered, version: str) -> Json:
    """The new routes, then those of the old ones whose provider is gone, then the catch-all."""
    fresh = json.loads(json.dumps(new.routes))
    fresh["version_info"] = version
    host = fresh["resources"][0]["virtual_hosts"][0]
    names = {one.get("name") for one in host["routes"]}
    before = old.routes["resources"][0]["virtual_hosts"][0]["routes"]
    kept = [one for one in before if one.get("name") not in names]
    host["routes"] = [*host["routes"][:-1], *kept, host["routes"][-1]]
    return fresh  # type: ignore[no-any-return]


class EnvoyFiles:
    """The files of a running Envoy, changed in an order in which no request is lost.

    First everything new is added beside the old (secrets, clusters, routes, listeners), then the caller
    swaps the decisions, then `finish` takes the old away.
    """

    def __init__(self, layout: Layout, admin: EnvoyAdmin, current: Rendered) -> None:
        self._layout = layout
        self._admin = admin
        self._current = current
        self._pending: Rendered | None = None

    async def begin(self, new: Rendered) -> None:
        """Make Envoy ready for `new` while it still serves the old. Raises `EnvoyRefusedError`, changing nothing."""
        old = self._current
        version = f"{new.version}+{old.version}"
        try:
            for path, value in new.secrets.items():
                write(Path(path), value)
            await self._update("cluster_manager.cds", self._layout.clusters, union_of_clusters(old, new, version))
            await self._update(
                f"http.{STAT_PREFIX}.rds.{ROUTES}", self._layout.routes, union_of_routes(old, new, version)
            )
            if {**new.listeners, "version_info": ""} != {**old.listeners, "version_info": ""}:
                await self._update("listener_manager.lds", self._layout.listeners, new.listeners)
        except EnvoyRefusedError:
            self._restore(old)
            raise
        self._pending = new

    async def finish(self) -> None:
        """Take away what only the old configuration needed."""
        new, self._pending = self._pending, None
        if new is None:
            return
        await self._update(f"http.{STAT_PREFIX}.rds.{ROUTES}", self._layout.routes, new.routes)
        await self._update("cluster_manager.cds", self._layout.clusters, new.clusters)
        for path in set(self._current.secrets) - set(new.secrets):
            Path(path).unlink(missing_ok=True)
        self._current = new

    async def abandon(self) -> None:
        """Go back to the old after a `begin` whose decisions were not swapped."""
        self._pending = None
        self._restore(self._current)

    def _restore(self, old: Rendered) -> None:
        for path, value in old.secrets.items():
            write(Path(path), value)
        write(self._layout.listeners, old.listeners)
        write(self._layout.routes, old.routes)
        write(self._layout.clusters, old.clusters)

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
