"""The gateway's listener: what a request passes, in this order.

early_header_mutation   nothing internal comes in from outside
body_size_limit         no body that is to be held is too large for that
ext_proc                who, what, where to: one decision in Python
ratelimit               may this key, now (`limits.enforce: in_process`: ext_proc has decided this too)
lua (meter)             the usage of the answer, on its way back
router                  to the provider
"""

from __future__ import annotations

from importlib import resources

from extproc.accesslog import RATELIMIT_METADATA
from extproc.cache.controls import SALT_HEADER
from extproc.filters.passthrough import PREFIX
from extproc.limits import DOMAIN, KEY, LIMIT, REQUESTS, TOKENS
from extproc.messages import ORDER_METADATA
from extproc.processor import CACHE_METADATA, HEADERS, METADATA, USAGE_METADATA
from extproc.server import PURPOSE_HEADER, TO_REPLAY
from headgate.render.layout import (
    EXTPROC_CLUSTER,
    LISTENER,
    METER_FILTER,
    RATELIMIT_CLUSTER,
    REPLAY_FILTER,
    STAT_PREFIX,
    replay_cluster,
)
from headgate.render.local_replies import local_replies, refused_undecided
from headgate.render.logs import access_logs, attempt_log
from headgate.render.values import Json, address, seconds, typed
from headgate.settings import Settings
from headgate.settling import settles_in_log
from ratelimit.messages import reservation_field
from ratelimit.rules import SETTLE
from ratelimit.storage import MEMORY

_BUFFER_HEADROOM = 1 << 20
METER_OF_CAPTURED = "captured"  # the meter of routes whose answers are kept
# What an ext_proc filter of ours is sent, unless it asks for more.
_REQUEST_HEADERS = {
    "request_header_mode": "SEND",
    "response_header_mode": "SKIP",
    "request_body_mode": "NONE",
    "response_body_mode": "NONE",
    "request_trailer_mode": "SKIP",
    "response_trailer_mode": "SKIP",
}


def listener(settings: Settings, *, route_source: Json, certificate_source: Json | None) -> Json:
    """The listener with everything that hangs on it."""
    chain: Json = {"filters": [_connection_manager(settings, route_source)]}
    if certificate_source is not None:
        chain["transport_socket"] = typed(
            "envoy.transport_sockets.tls",
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            common_tls_context={
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificate_sds_secret_configs": [{"name": "listener_certificate", **certificate_source}],
            },
        )
    return {
        "name": LISTENER,
        "address": address(settings.listen),
        "filter_chains": [chain],
        "per_connection_buffer_limit_bytes": buffer_bytes(settings),
    }


def buffer_bytes(settings: Settings) -> int:
    """What a body may grow to while ext_proc decides.

    More than body_size_limit lets through, since a body over this one stops arriving and ends in a 408. A route's
    request_body_buffer_limit does not do it with mode_override.
    """
    return settings.max_body + _BUFFER_HEADROOM


def _connection_manager(settings: Settings, route_source: Json) -> Json:
    return typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=STAT_PREFIX,
        codec_type="AUTO",
        **route_source,
        use_remote_address=True,
        skip_xff_append=True,
        internal_address_config={"cidr_ranges": []},
        generate_request_id=True,
        always_set_request_id_in_response=True,
        normalize_path=True,
        merge_slashes=True,
        server_header_transformation="PASS_THROUGH",
        http_protocol_options={"accept_http_10": True, "default_host_for_http_10": "headgate"},
        http2_protocol_options={
            "max_concurrent_streams": 1000,
            "initial_stream_window_size": 1 << 20,
            "initial_connection_window_size": 16 << 20,
        },
        request_headers_timeout="15s",
        # A client that is still sending must get to read an early answer. Not shorter: an answer that is not written by
        # then is lost, and after a burst a turn of Envoy's loop takes a tenth of a second.
        delayed_close_timeout="1s",
        request_timeout=seconds(settings.request_timeout),
        # Which path takes one is ext_proc's to say: Envoy asks this before there is a route.
        upgrade_configs=[{"upgrade_type": "websocket"}],
        # Idle streams are cut per attempt (route, per_try_idle_timeout), after what each provider may take.
        stream_idle_timeout="0s",
        early_header_mutation_extensions=[
            typed(
                "envoy.http.early_header_mutation.header_mutation",
                "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                mutations=foreign_headers(),
            )
        ],
        local_reply_config={"mappers": [*local_replies(settings), *refused_undecided()]},
        access_log=access_logs(settings),
        http_filters=[
            *http_filters(settings),
            typed(
                "envoy.filters.http.router",
                "envoy.extensions.filters.http.router.v3.Router",
                suppress_envoy_headers=True,
                upstream_log=[attempt_log()],
            ),
        ],
    )


def http_filters(settings: Settings) -> list[Json]:
    """What a request passes before the router, in this order."""
    return [
        _size_limit(settings),
        _ext_proc(settings),
        *([_replay(settings)] if settings.has_paced else []),
        *([_rate_limit(settings)] if settings.limits.enforce == "envoy" else []),
        _meter(settings),
    ]


def _size_limit(settings: Settings) -> Json:
    """How large a body may be that ext_proc must hold. What passes through or a WebSocket says is never held."""
    not_held = [
        _request_header(":path", {"prefix": PREFIX}),
        _request_header("upgrade", {"exact": "websocket", "ignore_case": True}),
    ]
    skip = typed("skip", "envoy.extensions.filters.common.matcher.action.v3.SkipFilter")
    matcher = {"predicate": {"or_matcher": {"predicate": not_held}}, "on_match": {"action": skip}}
    return typed(
        "envoy.filters.http.match_delegate",
        "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
        xds_matcher={"matcher_list": {"matchers": [matcher]}},
        extension_config=typed(
            "envoy.filters.http.body_size_limit",
            "envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit",
            max_request_bytes=str(settings.max_body),
        ),
    )


def _request_header(name: str, value: Json) -> Json:
    seen = typed("header", "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=name)
    return {"single_predicate": {"input": seen, "value_match": value}}


def foreign_headers() -> list[Json]:
    """Mutations that take out what only we may say to ourselves, and what a request must not ask for."""
    return [
        {"remove_on_match": {"key_matcher": {"safe_regex": {"regex": _all_but("x-headgate-", SALT_HEADER)}}}},
        {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-", "ignore_case": True}}},
        # Compressed answers cannot be metered: ask for plain ones.
        {"remove": "accept-encoding"},
    ]


def _all_but(prefix: str, name: str) -> str:
    """A regular expression (RE2, which cannot look ahead) for all names that begin with `prefix` but `name`."""
    rest = name.removeprefix(prefix)
    others = [f"{rest[:index]}[^{rest[index]}].*" for index in range(len(rest))]
    shorter = [rest[:index] for index in range(len(rest))]
    return f"{prefix}({'|'.join([*others, *shorter, rest + '.+'])})"


def _ext_proc(settings: Settings) -> Json:
    return typed(
        "envoy.filters.http.ext_proc",
        "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={
            "envoy_grpc": {"cluster_name": EXTPROC_CLUSTER},
            **_retries(settings.workers, "connect-failure,refused-stream,unavailable,cancelled,reset"),
        },
        failure_mode_allow=False,
        # What decisions are made of; the rest of a client's headers is not our business.
        forward_rules={"allowed_headers": {"patterns": [{"exact": name} for name in HEADERS]}},
        status_on_error={"code": "ServiceUnavailable"},
        message_timeout=seconds(settings.decision_timeout),
        # What a request that waits for an equal one's answer may ask for.
        **({"max_message_timeout": _longest_wait(settings)} if settings.has_cache else {}),
        allow_mode_override=True,
        mutation_rules={"allow_all_routing": True, "allow_envoy": True},
        # The body is asked for (mode_override) only once the headers have passed.
        processing_mode=dict(_REQUEST_HEADERS),
        metadata_options={
            "receiving_namespaces": {"untyped": [METADATA, USAGE_METADATA, ORDER_METADATA, CACHE_METADATA]}
        },
    )


def _longest_wait(settings: Settings) -> str:
    return seconds(settings.longest_wait + settings.decision_timeout)


def replay_service(worker: int) -> Json:
    """Who holds the answer: the worker that has found it."""
    return {
        "envoy_grpc": {"cluster_name": replay_cluster(worker)},
        "initial_metadata": [{"key": PURPOSE_HEADER, "value": TO_REPLAY}],
    }


def _replay(settings: Settings) -> Json:
    """Kept streams that are replayed at a pace (one route of each worker turns it on): all of the answer comes from us,
    and the chain ends here."""
    return typed(
        REPLAY_FILTER,
        "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service=replay_service(0),
        failure_mode_allow=False,
        status_on_error={"code": "ServiceUnavailable"},
        message_timeout=seconds(settings.decision_timeout),
        forward_rules={"allowed_headers": {"patterns": [{"exact": ":method"}]}},
        processing_mode=dict(_REQUEST_HEADERS),
        metadata_options={"forwarding_namespaces": {"untyped": [CACHE_METADATA]}},
    )


def _retries(endpoints: int, when: str) -> Json:
    """A worker that dies is not asked again: another one is.

    With one endpoint there is nobody else to ask, and a retry policy costs Envoy a tenth of a request's work, used or
    not.
    """
    if endpoints == 1:
        return {}
    previous_hosts = typed(
        "envoy.retry_host_predicates.previous_hosts",
        "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
    )
    return {
        "retry_policy": {
            "num_retries": 3,
            "retry_on": when,
            "retry_back_off": {"base_interval": "0.010s", "max_interval": "0.100s"},
            "retry_host_predicate": [previous_hosts],
            "host_selection_retry_max_attempts": 3,
        }
    }


def _rate_limit(settings: Settings) -> Json:
    key = _from_metadata(KEY, METADATA, "limited_key")
    tokens = {"generic_key": {"descriptor_key": LIMIT, "descriptor_value": TOKENS}}
    requests = {"generic_key": {"descriptor_key": LIMIT, "descriptor_value": REQUESTS}}
    return typed(
        "envoy.filters.http.ratelimit",
        "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
        domain=DOMAIN,
        timeout=seconds(settings.limits.timeout),
        failure_mode_deny=settings.limits.on_error == "deny",
        status_on_error={"code": "ServiceUnavailable"},
        disable_x_envoy_ratelimited_header=True,
        rate_limit_service={
            "transport_api_version": "V3",
            "grpc_service": {
                "envoy_grpc": {"cluster_name": RATELIMIT_CLUSTER},
                # Only what has not been decided yet is asked again: nothing counts twice.
                **_retries(1 if settings.store == MEMORY else settings.workers, "connect-failure,refused-stream"),
            },
        },
        # hits_addend is honoured only here, in the filter's own list. A key without limits has no
        # `limited_key`, gives no descriptor, and so costs no call.
        rate_limits=[
            {"actions": [key, requests]},
            {"actions": [key, tokens], "hits_addend": {"format": f"%DYNAMIC_METADATA({METADATA}:estimate)%"}},
            *([] if settles_in_log(settings) else [_settle(key, tokens)]),
        ],
    )


def _settle(key: Json, tokens: Json) -> Json:
    """The call with which Envoy corrects what was reserved (`limits.settle: call`)."""
    return {
        "actions": [key, tokens, _from_metadata(SETTLE, RATELIMIT_METADATA, reservation_field(TOKENS))],
        "hits_addend": {"format": f"%DYNAMIC_METADATA({USAGE_METADATA}:total)%"},
        "apply_on_stream_done": True,
    }


def _from_metadata(descriptor_key: str, namespace: str, field: str) -> Json:
    return {
        "metadata": {
            "descriptor_key": descriptor_key,
            "source": "DYNAMIC",
            "metadata_key": {"key": namespace, "path": [{"key": field}]},
        }
    }


def _meter(settings: Settings) -> Json:
    folder = resources.files("headgate.render")
    source = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in ("keeper.lua", "meter.lua"))
    if settings.overhead_header:
        source = source.replace("local OVERHEAD = false", "local OVERHEAD = true")
    if settles_in_log(settings):
        source = source.replace("local SETTLED = false", "local SETTLED = true")
    captured = source.replace("local CACHE = false", "local CACHE = true")
    return typed(
        METER_FILTER,
        "envoy.extensions.filters.http.lua.v3.Lua",
        default_source_code={"inline_string": source},
        **({"source_codes": {METER_OF_CAPTURED: {"inline_string": captured}}} if settings.has_cache else {}),
    )
