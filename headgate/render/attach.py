"""What an Envoy that is there already is given: filters that sleep, and a virtual host that wakes them.

Every filter is `disabled: true`; only our virtual host enables it, so Envoy does not even create it for the owner's
other routes. What belongs to the whole connection manager (local replies, logs) asks for a mark that the first of our
filters leaves in the request's metadata.

A model's route asks, besides its header, for metadata that only ext_proc writes: whatever filters the owner's chain
has, and whatever a client sends, nothing goes to a provider undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from extproc.policy import Policy
from extproc.processor import METADATA
from headgate import settling
from headgate.render.bootstrap import policy_of
from headgate.render.clusters import all_clusters, system_ca
from headgate.render.layout import Layout
from headgate.render.listener import buffer_bytes, foreign_headers, http_filters
from headgate.render.local_replies import local_replies
from headgate.render.logs import access_logs, attempt_log
from headgate.render.routes import decided_routes, filters_off
from headgate.render.sds import Secrets, all_secrets
from headgate.render.values import Json, typed
from headgate.settings import Settings

OURS = "headgate"
PREFIX = f"{OURS}."  # of our filters' names in somebody else's chain
ATTACHED = f"{OURS}.attached"  # the namespace of the mark, in requests and on clusters
VIRTUAL_HOST = OURS
UNDECIDED = f"{OURS}_undecided"  # the route where a request waits, and ends undecided
# Every name that a filter of ours may have, whatever the settings.
OUR_FILTERS = frozenset(
    f"{PREFIX}{name}" for name in ("attached", "headers", "match_delegate", "ext_proc", "replay", "ratelimit", "lua")
)
NOWHERE_CLUSTER = f"{OURS}_nowhere"
_FILTER_CONFIG = "type.googleapis.com/envoy.config.route.v3.FilterConfig"
# What the owner's router says of itself (ours says nothing: `suppress_envoy_headers`), and a mesh of its clients.
_OWNERS_REQUEST_HEADERS = (
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-original-host",
    "x-envoy-original-path",
    "x-forwarded-client-cert",
)
_ROUTER_RESPONSE_HEADERS = ("x-envoy-upstream-service-time", "x-envoy-overloaded", "x-envoy-degraded")
MARKED: Json = {
    "metadata_filter": {
        "matcher": {"filter": ATTACHED, "path": [{"key": "here"}], "value": {"bool_match": True}},
        "match_if_key_not_found": False,
    }
}


@dataclass(frozen=True, slots=True)
class Parts:
    """What goes into the owner's Envoy, part by part. JSON-ready Envoy values."""

    http_filters: list[Json]  # before the router, in this order
    replies: list[Json]  # local reply mappers, before the owner's
    access_logs: list[Json]  # of the connection manager
    attempt_log: Json  # of the router
    virtual_host: Json
    clusters: list[Json]
    secrets: list[Json]
    buffer_bytes: int  # the least that the listener must let a body grow to
    watches_files: bool  # secrets come from files: Envoy's node needs an id and a cluster


def parts(settings: Settings, layout: Layout, secrets: Secrets, domains: Sequence[str], *, ca: str = "") -> Parts:
    """The parts for a virtual host that answers to `domains`.

    `ca` is the CA bundle for providers that name none, as Envoy sees it; empty: this machine's.
    """
    settings = settling.attached(settings)
    policy = policy_of(settings)
    sleeping = [{**one, "disabled": True} for one in _filters(settings)]
    return Parts(
        http_filters=sleeping,
        replies=_replies(settings),
        access_logs=[_only_ours(one) for one in access_logs(settings)],
        attempt_log=_of_our_clusters(attempt_log()),
        virtual_host={
            "name": VIRTUAL_HOST,
            "domains": list(domains),
            "include_request_attempt_count": True,
            "typed_per_filter_config": awake(settings),
            "routes": [*attached_routes(settings, policy), *_undecided()],
        },
        clusters=[*map(_marked, attached_clusters(settings, layout, secrets, policy, ca)), _nowhere()],
        secrets=[] if secrets.folder else all_secrets(settings, secrets.values),
        buffer_bytes=buffer_bytes(settings),
        watches_files=bool(secrets.folder),
    )


def _filters(settings: Settings) -> list[Json]:
    """Our filters under names of our own: the owner may have others of the same kind."""
    mark = typed(
        ATTACHED,
        "envoy.extensions.filters.http.set_metadata.v3.Config",
        metadata=[{"metadata_namespace": ATTACHED, "value": {"here": True}}],
    )
    return [mark, _headers(), *({**one, "name": _own(one["name"])} for one in http_filters(settings))]


def _own(name: str) -> str:
    return name if name.startswith(PREFIX) else PREFIX + name.rpartition(".")[2]


def _headers() -> Json:
    """Stands for what our own connection manager and router say of requests and answers."""
    identify = {
        "header": {"key": "x-request-id", "value": "%REQ(x-request-id)%"},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
    return typed(
        f"{PREFIX}headers",
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        mutations={
            "request_mutations": foreign_headers(),
            "response_mutations": [*({"remove": name} for name in _ROUTER_RESPONSE_HEADERS), {"append": identify}],
        },
    )


def awake(settings: Settings) -> Json:
    """The `typed_per_filter_config` that enables our filters."""
    found = {one["name"]: {"@type": _FILTER_CONFIG, "config": {}} for one in _filters(settings)}
    return {**found, **filters_off(settings)}


def attached_routes(settings: Settings, policy: Policy) -> list[Json]:
    """Our routes: each can only be taken by a request that ext_proc has decided."""
    decided = {"filter": METADATA, "path": [{"key": "decision_us"}], "value": {"present_match": True}}
    found = []
    for route in decided_routes(settings, policy):
        made = {**route, "match": {**route["match"], "dynamic_metadata": [decided]}}
        if "route" in route:
            # The owner's connection manager may cut silent streams: here each attempt's own limit does that.
            made["route"] = {"idle_timeout": "0s", **route["route"]}
        if "typed_per_filter_config" in route:
            overrides = route["typed_per_filter_config"]
            made["typed_per_filter_config"] = {_own(name): one for name, one in overrides.items()}
        if "metadata" in route:  # a filter finds its own by its name
            told = route["metadata"]["filter_metadata"]
            made["metadata"] = {"filter_metadata": {_own(name): one for name, one in told.items()}}
        found.append(made)
    return found


def _undecided() -> list[Json]:
    """Where a request is while ext_proc decides, and where it ends when that did not route it: 503.

    Envoy asks the first route that fits whether the client may have a WebSocket. Ours is of a cluster without hosts.
    """
    upgrade = {"name": "upgrade", "string_match": {"exact": "websocket", "ignore_case": True}}
    return [
        {
            "name": f"{UNDECIDED}_websocket",
            "match": {"prefix": "/", "headers": [upgrade]},
            "route": {"cluster": NOWHERE_CLUSTER, "upgrade_configs": [{"upgrade_type": "websocket"}]},
        },
        {"name": UNDECIDED, "match": {"prefix": "/"}, "direct_response": {"status": 503}},
    ]


def attached_clusters(settings: Settings, layout: Layout, secrets: Secrets, policy: Policy, ca: str = "") -> list[Json]:
    """Our services and the targets."""
    ours = system_ca()
    source: Callable[[str], Json] = secrets.source
    found = all_clusters(
        settings,
        extproc=layout.extprocs(settings),
        ratelimit=layout.ratelimits(settings),
        policy=policy,
        with_secrets=secrets.values,
        secret_source=source,
    )
    for cluster in found:
        for one in next(iter(cluster["typed_extension_protocol_options"].values())).get("http_filters", ()):
            if "request_mutations" in one["typed_config"].get("mutations", ()):
                removed = one["typed_config"]["mutations"]["request_mutations"]
                removed += [{"remove": name} for name in _OWNERS_REQUEST_HEADERS]
        trust = cluster.get("transport_socket", {}).get("typed_config", {}).get("common_tls_context", {})
        bundle = trust.get("validation_context", {}).get("trusted_ca", {})
        if ca and bundle.get("filename") == ours:
            bundle["filename"] = ca
    return found


def _marked(cluster: Json) -> Json:
    return {**cluster, "metadata": {"filter_metadata": {ATTACHED: {}}}}


def _nowhere() -> Json:
    cluster = {"name": NOWHERE_CLUSTER, "type": "STATIC", "connect_timeout": "1s"}
    return _marked({**cluster, "load_assignment": {"cluster_name": NOWHERE_CLUSTER}})


def _replies(settings: Settings) -> list[Json]:
    """Our mappers for our requests alone. The last keeps what ext_proc has answered from the owner's mappers."""
    mappers = local_replies(settings)
    error = {
        "status_code_filter": {
            "comparison": {"op": "GE", "value": {"default_value": 400, "runtime_key": "headgate.local_reply"}}
        }
    }
    as_it_is = {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}, "content_type": "application/json"}
    # A kept answer may be of another type than JSON.
    last = {"filter": _and_marked(error) if settings.has_cache else MARKED, "body_format_override": as_it_is}
    return [*({**one, "filter": _and_marked(one["filter"])} for one in mappers), last]


def _only_ours(log: Json) -> Json:
    return {**log, "filter": _and_marked(log["filter"]) if "filter" in log else MARKED}


def _of_our_clusters(log: Json) -> Json:
    """An attempt has no metadata of its request, but that of its cluster (`_marked`)."""
    ours = typed(
        "envoy.access_loggers.extension_filters.cel",
        "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
        expression=f"'{ATTACHED}' in xds.cluster_metadata.filter_metadata",
    )
    return {**log, "filter": {"and_filter": {"filters": [{"extension_filter": ours}, log["filter"]]}}}


def _and_marked(condition: Json) -> Json:
    others = condition["and_filter"]["filters"] if "and_filter" in condition else [condition]
    return {"and_filter": {"filters": [MARKED, *others]}}
