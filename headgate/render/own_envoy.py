"""Somebody's own Envoy bootstrap: found in it, and written into it, is only what attaching Headgate needs.

Pure: a value in, a value out. Field names may be written as in the protos or in JSON (`filter_chains`, `filterChains`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from extproc.accesslog import ANSWER_LOG, ATTEMPT_LOG
from headgate.render.attach import ATTACHED, OURS, PREFIX, VIRTUAL_HOST, Parts
from headgate.render.layout import ACCESS_LOG
from headgate.render.sds import SECRET_PREFIX
from headgate.render.values import Json
from sidecar.errors import ConfigError, Problem

_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
_DEFAULT_BUFFER = 1 << 20  # what Envoy takes where nothing is said
_BY_HAND = "`headgate render attach` without --into prints the parts to paste"


def field(holder: Json, name: str) -> str:
    """The key of a field in `holder` as it is written there: `name`, or the same in camel case."""
    first, *rest = name.split("_")
    camel = first + "".join(word.capitalize() for word in rest)
    return camel if camel in holder else name


def get(holder: Json, name: str, default: Any = None) -> Any:
    """The value of a field, however its name is written."""
    return holder.get(field(holder, name), default)


@dataclass(frozen=True, slots=True)
class _Place:
    """A connection manager, and where it stands."""

    path: str
    listener: Json
    chain: str
    manager: Json


@dataclass(slots=True)
class OwnEnvoy:
    """A bootstrap and the one connection manager in it that Headgate is attached to.

    `file` names it in errors. Raises `ConfigError` (place and mend) where it has no such place, or several.
    """

    file: str
    bootstrap: Json
    place: _Place

    @staticmethod
    def find(file: str, bootstrap: Any, *, listener: str = "", chain: str = "") -> OwnEnvoy:
        """The connection manager of `listener` (and of the filter chain `chain`); empty: there is only one."""
        if not isinstance(bootstrap, dict) or not isinstance(get(bootstrap, "static_resources"), dict):
            _fail(file, "static_resources", "is missing: this is no static bootstrap", _BY_HAND)
        own: Json = json.loads(json.dumps(bootstrap))  # a copy in which nothing is shared (YAML anchors)
        listeners = get(get(own, "static_resources"), "listeners") or []
        names = ", ".join(sorted(str(get(one, "name", "")) for one in listeners)) or "none"
        if listener and not any(get(one, "name", "") == listener for one in listeners):
            _fail(file, "static_resources.listeners", f"there is no listener '{listener}'", f"there is: {names}")
        found = [one for one in _managers(listeners) if not listener or get(one.listener, "name", "") == listener]
        if chain:
            found = [one for one in found if one.chain == chain]
        if not found:
            what = "no HTTP connection manager" + (f" in a filter chain '{chain}'" if chain else "")
            _fail(file, "static_resources.listeners", what, "Headgate needs an HTTP listener to be attached to")
        if len({id(one.listener) for one in found}) > 1:
            held = ", ".join(sorted({str(get(one.listener, "name", "")) for one in found}))
            _fail(
                file, "static_resources.listeners", f"several listeners speak HTTP: {held}", "choose: --listener NAME"
            )
        if len(found) > 1:
            held = ", ".join(sorted(one.chain or "(no name)" for one in found))
            _fail(file, found[0].path, f"several filter chains speak HTTP: {held}", "choose: --filter-chain NAME")
        _forget(own, found[0])
        return OwnEnvoy(file, own, found[0])

    def domains(self, wanted: list[str]) -> list[str]:
        """The domains of our virtual host: `wanted`, or everything where nobody else has that. With any port."""
        config = get(self.place.manager, "route_config") or {}
        taken = {
            str(domain).lower(): str(get(host, "name", ""))
            for host in get(config, "virtual_hosts") or []
            for domain in get(host, "domains") or []
        }
        where = f"{self.place.path}.route_config.virtual_hosts"
        if not wanted and "*" in taken:
            mend = "give Headgate a name of its own: --domain llm.example.com"
            _fail(self.file, where, f"'{taken['*']}' answers to every domain (*) already", mend)
        found = list(dict.fromkeys(wanted or ["*"]))
        if not get(config, "ignore_port_in_host_matching"):
            found += [f"{one}:*" for one in found if "*" not in one and ":" not in one]
        for domain in found:
            if domain.lower() in taken:
                mend = "choose another --domain, or take it away there"
                _fail(self.file, where, f"'{taken[domain.lower()]}' answers to '{domain}' already", mend)
        return found

    def attach(self, parts: Parts) -> list[str]:
        """Write the parts in. Returns what changes for the rest of the listener, a sentence each."""
        manager, where = self.place.manager, self.place.path
        config = get(manager, "route_config")
        if not isinstance(config, dict):
            what = "the routes are not in the file (rds or scoped_routes)"
            _fail(self.file, where, what, f"add the virtual host where they come from; {_BY_HAND}")
        filters = manager.setdefault(field(manager, "http_filters"), [])
        if not filters or not _is(filters[-1], _ROUTER):
            _fail(self.file, f"{where}.http_filters", "the last one is not the router", _BY_HAND)
        self._add_resources(parts)
        filters[-1:-1] = parts.http_filters
        router = filters[-1].setdefault(field(filters[-1], "typed_config"), {"@type": f"type.googleapis.com/{_ROUTER}"})
        router.setdefault(field(router, "upstream_log"), []).append(parts.attempt_log)
        manager.setdefault(field(manager, "access_log"), []).extend(parts.access_logs)
        replies = manager.setdefault(field(manager, "local_reply_config"), {})
        replies[field(replies, "mappers")] = [*parts.replies, *(get(replies, "mappers") or [])]
        config.setdefault(field(config, "virtual_hosts"), []).insert(0, parts.virtual_host)
        return [*self._raise_buffer(parts.buffer_bytes), *(self._name_node() if parts.watches_files else [])]

    def has_reply_format(self) -> bool:
        """Whether the owner has a format for everything that Envoy answers by itself."""
        return bool(get(get(self.place.manager, "local_reply_config") or {}, "body_format"))

    def _add_resources(self, parts: Parts) -> None:
        resources = get(self.bootstrap, "static_resources")
        for kind, ours in (("clusters", parts.clusters), ("secrets", parts.secrets)):
            if not ours:
                continue
            theirs = resources.setdefault(field(resources, kind), [])
            taken = {get(one, "name") for one in theirs}
            for one in ours:
                if one["name"] in taken:
                    what = f"there is a '{one['name']}' that is not Headgate's"
                    _fail(self.file, f"static_resources.{kind}", what, "give yours another name")
            theirs += ours

    def _name_node(self) -> list[str]:
        """Envoy watches files (SDS) only when its node has a name."""
        node = self.bootstrap.setdefault("node", {})
        missing = [name for name in ("id", "cluster") if not node.get(name)]
        node.update(dict.fromkeys(missing, OURS))
        return [f"node.{name} is now '{OURS}': files of keys need one" for name in missing]

    def _raise_buffer(self, least: int) -> list[str]:
        listener = self.place.listener
        key = field(listener, "per_connection_buffer_limit_bytes")
        before = int(listener.get(key, _DEFAULT_BUFFER))
        if before >= least:
            return []
        listener[key] = least
        what = f"per_connection_buffer_limit_bytes is now {least} (it was {before}), what `max_body` needs"
        return [f"listener '{get(listener, 'name', '')}': {what}"]


def _managers(listeners: list[Json]) -> Iterator[_Place]:
    for number, listener in enumerate(listeners):
        chains = [
            (f"filter_chains[{index}]", chain) for index, chain in enumerate(get(listener, "filter_chains") or [])
        ]
        if get(listener, "default_filter_chain"):
            chains.append(("default_filter_chain", get(listener, "default_filter_chain")))
        for where, chain in chains:
            for index, one in enumerate(get(chain, "filters") or []):
                if _is(one, _MANAGER):
                    path = f"static_resources.listeners[{number}].{where}.filters[{index}].typed_config"
                    yield _Place(path, listener, str(get(chain, "name", "")), get(one, "typed_config"))


def _is(extension: Json, type_name: str) -> bool:
    config = get(extension, "typed_config") or {}
    return str(config.get("@type", "")).endswith(f"/{type_name}")


def _forget(bootstrap: Json, place: _Place) -> None:
    """Take out what an earlier attaching wrote, so that attaching again changes nothing else."""
    resources, manager = get(bootstrap, "static_resources"), place.manager
    _drop(resources, "clusters", lambda one: ATTACHED in (get(get(one, "metadata") or {}, "filter_metadata") or {}))
    _drop(resources, "secrets", lambda one: str(get(one, "name", "")).startswith(SECRET_PREFIX))
    _drop(manager, "http_filters", lambda one: str(get(one, "name", "")).startswith(PREFIX))
    _drop(manager, "access_log", lambda one: _log_name(one) in (ACCESS_LOG, ANSWER_LOG))
    _drop(get(manager, "local_reply_config") or {}, "mappers", lambda one: ATTACHED in json.dumps(one))
    _drop(get(manager, "route_config") or {}, "virtual_hosts", lambda one: get(one, "name") == VIRTUAL_HOST)
    for one in get(manager, "http_filters") or []:
        if _is(one, _ROUTER):
            _drop(get(one, "typed_config"), "upstream_log", lambda log: _log_name(log) == ATTEMPT_LOG)


def _drop(holder: Json, name: str, ours: Callable[[Json], bool]) -> None:
    """Take ours out of a list, and the list out of its holder when nothing is left in it."""
    key = field(holder, name)
    if isinstance(holder.get(key), list):
        holder[key] = [one for one in holder[key] if not ours(one)]
        if not holder[key]:
            del holder[key]


def _log_name(log: Json) -> str:
    config = get(log, "typed_config") or {}
    return str(get(get(config, "common_config") or {}, "log_name", ""))


def _fail(file: str, path: str, what: str, mend: str) -> NoReturn:
    raise ConfigError([Problem(file, path, what, mend)])
