"""Somebody's own Envoy bootstrap: found in it, and written into it, is only what attaching Headgate needs.

Pure: a value in, a value out. Field names may be written as in the protos or in JSON (`filter_chains`, `filterChains`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from extproc.accesslog import ANSWER_LOG, ATTEMPT_LOG
from headgate.render.attach import ATTACHED, OUR_FILTERS, OURS, UNDECIDED, VIRTUAL_HOST, Parts
from headgate.render.layout import ACCESS_LOG
from headgate.render.sds import SECRET_PREFIX
from headgate.render.values import Json
from sidecar.errors import ConfigError, Problem

_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
_SET_METADATA = "envoy.extensions.filters.http.set_metadata.v3.Config"
_DEFAULT_BUFFER = 1 << 20  # what Envoy takes where nothing is said
_BY_HAND = "`headgate render attach` without --into prints the parts to paste"

# What is read of a bootstrap, by type: objects (their other fields are not looked at), lists, scalars.
_SCALAR, _NUMBER = "a text or number", "a number"
_LOG = {"typed_config": {"common_config": {"log_name": _SCALAR}}}
_CHAIN = {"name": _SCALAR, "filters": [{"name": _SCALAR, "typed_config": {}}]}
_BOOTSTRAP = {
    "node": {},
    "static_resources": {
        "listeners": [
            {
                "name": _SCALAR,
                "per_connection_buffer_limit_bytes": _NUMBER,
                "filter_chains": [_CHAIN],
                "default_filter_chain": _CHAIN,
            }
        ],
        "clusters": [{"name": _SCALAR, "metadata": {"filter_metadata": {}}}],
        "secrets": [{"name": _SCALAR}],
    },
}
_MANAGER_FIELDS = {
    "http_filters": [{"name": _SCALAR, "typed_config": {}}],
    "access_log": [_LOG],
    "local_reply_config": {"mappers": [{}]},
    "route_config": {
        "virtual_hosts": [
            {"name": _SCALAR, "domains": [_SCALAR], "routes": [{"name": _SCALAR}], "typed_per_filter_config": {}}
        ]
    },
}
_ROUTER_FIELDS = {"typed_config": {"upstream_log": [_LOG]}}


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
    virtual_host: Json | None = None  # ours, as it was there before


@dataclass(slots=True)
class OwnEnvoy:
    """A bootstrap and the one connection manager in it that Headgate is attached to.

    `others` are where it was attached before: clusters are for all, so they get the same parts.
    `file` names it in errors. Raises `ConfigError` (place and mend) where it has no such place, or several.
    """

    file: str
    bootstrap: Json
    place: _Place
    others: list[_Place]

    @staticmethod
    def find(file: str, bootstrap: Any, *, listener: str = "", chain: str = "") -> OwnEnvoy:
        """The connection manager of `listener` (and of the filter chain `chain`); empty: there is only one."""
        if not isinstance(bootstrap, dict) or not isinstance(get(bootstrap, "static_resources"), dict):
            _fail(file, "static_resources", "is missing: this is no static bootstrap", _BY_HAND)
        own = _copied(file, bootstrap)
        listeners = get(get(own, "static_resources"), "listeners") or []
        names = ", ".join(sorted(str(get(one, "name", "")) for one in listeners)) or "none"
        if listener and not any(get(one, "name", "") == listener for one in listeners):
            _fail(file, "static_resources.listeners", f"there is no listener '{listener}'", f"there is: {names}")
        everywhere = list(_managers(file, listeners))
        found = [one for one in everywhere if not listener or get(one.listener, "name", "") == listener]
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
            chains = sorted(one.chain or "(no name)" for one in found)
            mend = "choose: --filter-chain NAME"
            if len(set(chains)) < len(chains):
                mend = "give each a `name` of its own, and choose: --filter-chain NAME"
            _fail(file, found[0].path, f"several filter chains speak HTTP: {', '.join(chains)}", mend)
        attached = [one for one in everywhere if one is found[0] or _is_attached(one.manager)]
        _forget_resources(get(own, "static_resources"))
        known = {one.path: replace(one, virtual_host=_forget(file, one)) for one in attached}
        place = known.pop(found[0].path)
        return OwnEnvoy(file, own, place, list(known.values()))

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
        config = get(self.place.manager, "route_config")
        if config is None:
            if get(self.place.manager, "rds") or get(self.place.manager, "scoped_routes"):
                what = "the routes are not in the file (rds or scoped_routes)"
                _fail(self.file, self.place.path, what, f"add the virtual host where they come from; {_BY_HAND}")
            mend = "write `route_config: {virtual_hosts: []}` there"
            _fail(self.file, self.place.path, "there is no route_config", mend)
        self._add_resources(parts)
        notes = self._write(self.place, parts, parts.virtual_host)
        for other in self.others:
            if other.virtual_host is None:
                notes.append(
                    f"{other.path}: filters are replaced, but our virtual host comes from elsewhere: replace it"
                )
                notes += self._write(other, parts, None)
                continue
            ours = {**parts.virtual_host, "domains": get(other.virtual_host, "domains") or []}
            notes.append(f"{other.path}: Headgate was attached there, too, and is replaced")
            notes += self._write(other, parts, ours)
        return [*notes, *(self._name_node() if parts.watches_files else [])]

    def _write(self, place: _Place, parts: Parts, virtual_host: Json | None) -> list[str]:
        manager, where = place.manager, place.path
        filters = manager.setdefault(field(manager, "http_filters"), [])
        if not filters or not _is(filters[-1], _ROUTER):
            _fail(self.file, f"{where}.http_filters", "the last one is not the router", _BY_HAND)
        taken = {str(get(one, "name", "")) for one in filters}
        for one in parts.http_filters:
            if one["name"] in taken:
                what = f"there is a '{one['name']}' that is not Headgate's"
                _fail(self.file, f"{where}.http_filters", what, "give yours another name")
        filters[-1:-1] = parts.http_filters
        router = filters[-1].setdefault(field(filters[-1], "typed_config"), {"@type": f"type.googleapis.com/{_ROUTER}"})
        router.setdefault(field(router, "upstream_log"), []).append(parts.attempt_log)
        manager.setdefault(field(manager, "access_log"), []).extend(parts.access_logs)
        replies = manager.setdefault(field(manager, "local_reply_config"), {})
        replies[field(replies, "mappers")] = [*parts.replies, *(get(replies, "mappers") or [])]
        if virtual_host is not None:
            config = get(manager, "route_config")
            hosts = config.setdefault(field(config, "virtual_hosts"), [])
            hosts.insert(0, _kept(place.virtual_host or {}, virtual_host))
        return self._raise_buffer(place.listener, parts.buffer_bytes)

    def reply_format(self) -> str:
        """Where the owner has a format for everything that Envoy answers by itself; empty: nowhere."""
        for place in (self.place, *self.others):
            if get(get(place.manager, "local_reply_config") or {}, "body_format"):
                return f"{place.path}.local_reply_config.body_format"
        return ""

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

    @staticmethod
    def _raise_buffer(listener: Json, least: int) -> list[str]:
        key = field(listener, "per_connection_buffer_limit_bytes")
        before = int(listener.get(key, _DEFAULT_BUFFER))
        if before >= least:
            return []
        listener[key] = least
        what = f"per_connection_buffer_limit_bytes is now {least} (it was {before}), what `max_body` needs"
        return [f"listener '{get(listener, 'name', '')}': {what}"]


def _copied(file: str, bootstrap: Json) -> Json:
    """A copy in which nothing is shared (YAML anchors), and what we read of it has the types that Envoy asks for."""
    try:
        own: Json = json.loads(json.dumps(bootstrap))
    except (TypeError, ValueError, RecursionError) as error:
        what = "holds what no Envoy configuration can (a value that JSON has not, or one that holds itself)"
        raise ConfigError([Problem(file, "", what, "--into takes an Envoy bootstrap")]) from error
    _shaped(file, "", own, _BOOTSTRAP)
    return own


def _shaped(file: str, path: str, value: Any, shape: Any) -> None:
    """Raise `ConfigError` at the first thing that is not of its type. Fields that are null are taken out: not set."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            _fail(file, path, "is no object", "--into takes an Envoy bootstrap")
        for name, inner in shape.items():
            key = field(value, name)
            if key in value and value[key] is None:
                del value[key]
            elif key in value:
                _shaped(file, f"{path}.{key}" if path else key, value[key], inner)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            _fail(file, path, "is no list", "--into takes an Envoy bootstrap")
        for number, one in enumerate(value):
            _shaped(file, f"{path}[{number}]", one, shape[0])
    elif isinstance(value, dict | list | None) or (shape == _NUMBER and not str(value).isdecimal()):
        _fail(file, path, f"is not {shape}", "--into takes an Envoy bootstrap")


def _managers(file: str, listeners: list[Json]) -> Iterator[_Place]:
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
                    manager = get(one, "typed_config")
                    _shaped(file, path, manager, _MANAGER_FIELDS)
                    for position, each in enumerate(get(manager, "http_filters") or []):
                        if _is(each, _ROUTER):
                            _shaped(file, f"{path}.http_filters[{position}]", each, _ROUTER_FIELDS)
                    yield _Place(path, listener, str(get(chain, "name", "")), manager)


def _is(extension: Json, type_name: str) -> bool:
    config = get(extension, "typed_config") or {}
    return str(config.get("@type", "")).endswith(f"/{type_name}")


def _is_mark(one: Json) -> bool:
    """Whether this is our filter that marks requests: nobody else writes into its namespace."""
    said = json.dumps((get(one, "typed_config") or {}).get("metadata"))
    return get(one, "name") == ATTACHED and _is(one, _SET_METADATA) and f'"{ATTACHED}"' in said


def _is_our_host(host: Json) -> bool:
    wakes = ATTACHED in (get(host, "typed_per_filter_config") or {})
    return get(host, "name") == VIRTUAL_HOST and (
        wakes or any(get(one, "name") == UNDECIDED for one in get(host, "routes") or [])
    )


def _is_attached(manager: Json) -> bool:
    hosts = get(get(manager, "route_config") or {}, "virtual_hosts") or []
    return any(map(_is_mark, get(manager, "http_filters") or [])) or any(map(_is_our_host, hosts))


def _kept(before: Json, ours: Json) -> Json:
    """Our virtual host with what its owner wrote on the earlier one: for other filters, and fields that we leave."""
    mine = {field(before, name) for name in ours}
    others = get(before, "typed_per_filter_config") or {}
    theirs = {name: one for name, one in others.items() if name not in OUR_FILTERS}
    kept = {key: one for key, one in before.items() if key not in mine}
    return {**ours, "typed_per_filter_config": {**theirs, **ours["typed_per_filter_config"]}, **kept}


def _forget_resources(resources: Json) -> None:
    """Take out the clusters and secrets of an earlier time: secrets have no mark, so only where there are clusters."""
    before = len(get(resources, "clusters") or [])
    _drop(resources, "clusters", lambda one: ATTACHED in (get(get(one, "metadata") or {}, "filter_metadata") or {}))
    if len(get(resources, "clusters") or []) < before:
        _drop(resources, "secrets", lambda one: str(get(one, "name", "")).startswith(SECRET_PREFIX))


def _forget(file: str, place: _Place) -> Json | None:
    """Take out what an earlier attaching wrote, so that attaching again changes nothing else.

    Returns our virtual host. Raises `ConfigError` when the owner has one of its name.
    """
    manager = place.manager
    config = get(manager, "route_config") or {}
    named = [one for one in get(config, "virtual_hosts") or [] if get(one, "name") == VIRTUAL_HOST]
    if not all(map(_is_our_host, named)):
        what = f"there is a '{VIRTUAL_HOST}' that is not Headgate's"
        _fail(file, f"{place.path}.route_config.virtual_hosts", what, "give yours another name")
    if any(map(_is_mark, get(manager, "http_filters") or [])):
        _drop(manager, "http_filters", lambda one: get(one, "name") in OUR_FILTERS and get(one, "disabled") is True)
    _drop(manager, "access_log", lambda one: _log_name(one).partition("+")[0] in (ACCESS_LOG, ANSWER_LOG))
    _drop(get(manager, "local_reply_config") or {}, "mappers", lambda one: ATTACHED in json.dumps(one))
    _drop(config, "virtual_hosts", lambda one: get(one, "name") == VIRTUAL_HOST)
    for one in get(manager, "http_filters") or []:
        if _is(one, _ROUTER):
            _drop(get(one, "typed_config"), "upstream_log", lambda log: _log_name(log) == ATTEMPT_LOG)
    return named[0] if named else None


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
