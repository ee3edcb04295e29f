"""Envoy routes: one per model, chosen by the header that only ext_proc can set.

A route's groups are its targets. ext_proc says in which order they are tried, Envoy tries them: a retry costs no
Python.
"""

from __future__ import annotations

from extproc.cache.replay import REASON_HEADER, STATUS_HEADER
from extproc.messages import ORDER_METADATA
from extproc.policy import PASSTHROUGH_ATTEMPTS, Model, Policy, attempts_of
from extproc.processor import CACHE_METADATA, METADATA, ROUTE_HEADER
from extproc.settings import ModelSettings, TimeoutSettings
from extproc.targets import CAPTURED, OWN_KEY, REALTIME, REPLAYED
from headgate.render.layout import METER_FILTER, REPLAY_FILTER, ROUTES
from headgate.render.listener import METER_OF_CAPTURED, replay_service
from headgate.render.values import Json, seconds, typed
from headgate.settings import Settings

# A provider's own counters are about the gateway's account there, not about the client's key; ours replace them.
PROVIDER_COUNTERS = tuple(
    f"x-ratelimit-{what}-{unit}" for unit in ("requests", "tokens") for what in ("limit", "remaining", "reset")
)
_CONNECT = "connect-failure,refused-stream,reset-before-request"
# What "5xx" means: with Cloudflare's own, Anthropic's "overloaded", and a switch of protocols that nobody asked for.
_SERVER_ERRORS = (101, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 529)
_REALTIME_IDLE = 3600  # seconds that a WebSocket may be silent


def _header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


_PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
_LUA_PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.LuaPerRoute"


def routes(settings: Settings, policy: Policy) -> Json:
    """The route configuration. What ext_proc did not route ends here with 503: nothing goes through undecided."""
    return {
        "name": ROUTES,
        "ignore_port_in_host_matching": True,
        "virtual_hosts": [
            {
                "name": "gateway",
                "domains": ["*"],
                **({"typed_per_filter_config": off} if (off := filters_off(settings)) else {}),
                # For the targets' own filter (attempt.lua), which takes it out again.
                "include_request_attempt_count": True,
                "routes": [
                    *decided_routes(settings, policy),
                    {
                        "match": {"prefix": "/"},
                        "direct_response": {"status": 503},
                    },
                ],
            }
        ],
    }


def filters_off(settings: Settings) -> Json:
    """What only some routes turn on, as a `typed_per_filter_config`."""
    return {REPLAY_FILTER: {"@type": _PER_ROUTE, "disabled": True}} if settings.has_paced else {}


def _replayed(worker: int) -> Json:
    """The route of kept streams that this worker replays: they come from a filter, and get no further."""
    name = f"{REPLAYED}{worker}"
    overrides = {"grpc_service": replay_service(worker)}
    return {
        "name": name,
        "match": {"prefix": "/", "headers": [{"name": ROUTE_HEADER, "string_match": {"exact": name}}]},
        "direct_response": {"status": 503},
        "typed_per_filter_config": {
            REPLAY_FILTER: {"@type": _PER_ROUTE, "overrides": overrides},
            # Nothing is metered: a hit takes no tokens.
            METER_FILTER: {"@type": _LUA_PER_ROUTE, "disabled": True},
        },
    }


def decided_routes(settings: Settings, policy: Policy) -> list[Json]:
    """What ext_proc chooses from: every model's routes, and those of providers that requests may name themselves."""
    return [
        *(
            route
            for name, model in policy.models.items()
            for route in _model_routes(settings, policy, settings.models[name], model)
        ),
        *(
            route
            for name, one in policy.passthroughs.items()
            for route in _passthrough_routes(settings, policy, name, one)
        ),
        *(_replayed(worker) for worker in range(settings.workers) if settings.has_paced),
    ]


def _model_routes(settings: Settings, policy: Policy, made: ModelSettings, model: Model) -> list[Json]:
    timeouts = made.timeouts
    idle = timeouts.idle or max(settings.providers[target.provider].idle_timeout for target in model.targets)
    attempts = attempts_of(made, model.targets)
    retries = _retries(made.retry_on, attempts, timeouts, idle, several=len(model.targets) > 1)
    found = [_route(settings, policy, model, "", retries, timeouts.total)]
    found[0]["route"].update(_net(timeouts, idle, attempts))
    if model.cache is not None:
        found[0]["response_headers_to_add"] += _CACHE_HEADERS
        found.append(_captured(found[0], model.cache.max_answer))
    return found + _realtime_routes(settings, policy, model, attempts)


def _captured(route: Json, max_answer: int) -> Json:
    """The same route, for answers that are to be kept: there the meter holds what passes."""
    name = f"{route['name']}{CAPTURED}"
    return {
        **route,
        "name": name,
        "match": {"prefix": "/", "headers": [{"name": ROUTE_HEADER, "string_match": {"exact": name}}]},
        "metadata": {"filter_metadata": {METER_FILTER: {"max_answer": max_answer}}},
        "typed_per_filter_config": {METER_FILTER: {"@type": _LUA_PER_ROUTE, "name": METER_OF_CAPTURED}},
    }


def _passthrough_routes(settings: Settings, policy: Policy, provider: str, model: Model) -> list[Json]:
    # What it does is not known, so only what has certainly not happened yet is tried again.
    idle = settings.providers[provider].idle_timeout
    retries = _retries(["connect"], PASSTHROUGH_ATTEMPTS, TimeoutSettings(), idle, several=len(model.targets) > 1)
    found = [_route(settings, policy, model, "", retries, None)]
    return found + _realtime_routes(settings, policy, model, PASSTHROUGH_ATTEMPTS)


def _realtime_routes(settings: Settings, policy: Policy, model: Model, attempts: int) -> list[Json]:
    """The route of WebSockets, where a target serves them. Only a long silence ends one that is open."""
    if not any(target.realtime for target in model.targets):
        return []
    opening: Json = {"retry_on": _CONNECT, "num_retries": attempts - 1}
    if len(model.targets) > 1:
        opening["refresh_cluster_on_retry"] = True
    route = _route(settings, policy, model, REALTIME, opening, None)
    route["route"]["upgrade_configs"] = [{"upgrade_type": "websocket"}]
    route["route"]["idle_timeout"] = seconds(_REALTIME_IDLE)
    return [route]


def _route(settings: Settings, policy: Policy, model: Model, variant: str, retries: Json, total: float | None) -> Json:
    name = model.route + variant
    return {
        "name": name,
        "match": {"prefix": "/", "headers": [{"name": ROUTE_HEADER, "string_match": {"exact": name}}]},
        "route": {
            **_clusters(policy, model, variant),
            "auto_host_rewrite": True,
            "timeout": seconds(total) if total else "0s",
            "retry_policy": retries,
        },
        "response_headers_to_remove": list(PROVIDER_COUNTERS),
        "response_headers_to_add": [
            _header("x-headgate-upstream-request-id", "%RESP(x-request-id)%"),
            *(_served_by(model) if settings.answer_headers else ()),
        ],
    }


def _clusters(policy: Policy, model: Model, variant: str) -> Json:
    """The one cluster, or the groups from which ext_proc's order chooses."""
    if len(model.targets) == 1 and not policy.own_provider_keys:
        return {"cluster": model.targets[0].cluster + variant}
    groups = [
        {"name": f"{index}{own}", "clusters": [{"cluster_name": target.cluster + variant + own, "weight": 1}]}
        for index, target in enumerate(model.targets)
        if target.realtime or variant != REALTIME
        for own in (("", OWN_KEY) if policy.own_provider_keys else ("",))
    ]
    plugin = typed(
        "envoy.router.cluster_specifier_plugin.priority_group",
        "envoy.extensions.router.cluster_specifiers.priority_group.v3.PriorityGroupClusterSpecifier",
        priority_groups=groups,
        override_metadata_namespace=ORDER_METADATA,
    )
    return {"inline_cluster_specifier_plugin": {"extension": plugin}}


def _retries(triggers: list[str], attempts: int, timeouts: TimeoutSettings, idle: float, *, several: bool) -> Json:
    """Envoy's retry policy for `retry_on`.

    With one target a rate limit is not tried again: the same key would only be refused again.
    """
    conditions: list[str] = []
    statuses: list[int] = []
    for trigger in triggers:
        if trigger == "connect":
            conditions.append(_CONNECT)
        elif trigger == "reset":
            conditions.append("reset")
        elif trigger == "5xx":
            statuses += _SERVER_ERRORS
        elif trigger != "429" or several:
            statuses.append(int(trigger))
    policy: Json = {
        "retry_on": ",".join([*conditions, "retriable-status-codes"] if statuses else conditions),
        "num_retries": attempts - 1,
        **({"refresh_cluster_on_retry": True} if several else {}),
        "per_try_idle_timeout": seconds(idle),
        # Another target need not be waited for; the same one is given a moment.
        "retry_back_off": (
            {"base_interval": "0.001s", "max_interval": "0.002s"}
            if several
            else {"base_interval": "0.025s", "max_interval": "0.250s"}
        ),
    }
    if statuses:
        policy["retriable_status_codes"] = sorted(set(statuses))
    if _first_byte(timeouts, idle):
        policy["per_try_timeout"] = seconds(_first_byte(timeouts, idle))
    return policy


def _first_byte(timeouts: TimeoutSettings, idle: float) -> float:
    """The deadline of the first byte, 0 where `idle` comes no later and says it already."""
    return timeouts.first_byte if timeouts.first_byte and timeouts.first_byte < idle else 0.0


def _net(timeouts: TimeoutSettings, idle: float, attempts: int) -> Json:
    """A second look at streams that stall.

    When Envoy's per_try_timeout passes after the answer has begun, it is ignored, but takes the timer of
    per_try_idle_timeout with it until the next byte: a stream that stalls around that moment would never be cut (seen
    with 1.40). The route's own idle timer does that then; it must be longer than all attempts' silence.
    """
    first_byte = _first_byte(timeouts, idle)
    return {"idle_timeout": seconds(max(idle, attempts * first_byte) + 1)} if first_byte else {}


def _cache_header(name: str, field: str) -> Json:
    return _header(name, f"%DYNAMIC_METADATA({CACHE_METADATA}:{field})%")


_CACHE_HEADERS = [_cache_header(STATUS_HEADER, "status"), _cache_header(REASON_HEADER, "reason")]


def _served_by(model: Model) -> tuple[Json, ...]:
    """Which target has answered, and at which attempt."""
    return (
        _header("x-headgate-provider", f"%UPSTREAM_METADATA({METADATA}:provider)%"),
        *((_header("x-headgate-model", f"%UPSTREAM_METADATA({METADATA}:model)%"),) if model.name else ()),
        _header("x-headgate-attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
    )
