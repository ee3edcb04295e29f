"""What can be taken out of the product's Envoy configuration, or be done in another way, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headgate.render.clusters import HTTP_OPTIONS
from headgate.render.layout import EXTPROC_CLUSTER, RATELIMIT_CLUSTER
from headgate.render.values import Json


@dataclass(frozen=True, slots=True)
class Ablation:
    """A change of the whole bootstrap, made in place. Raises `LookupError` when there is nothing to change."""

    name: str
    apply: Callable[[Json], None]


def _manager(bootstrap: Json) -> Json:
    config: Json = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    return config


def _without_manager_field(*fields: str) -> Callable[[Json], None]:
    def apply(bootstrap: Json) -> None:
        manager = _manager(bootstrap)
        for field in fields:
            del manager[field]

    return apply


def _filter(bootstrap: Json, name: str) -> Json:
    found: list[Json] = [one for one in _manager(bootstrap)["http_filters"] if one["name"] == name]
    config: Json = found[0]["typed_config"]
    return config


def _without_filter(*names: str) -> Callable[[Json], None]:
    def apply(bootstrap: Json) -> None:
        filters = _manager(bootstrap)["http_filters"]
        for name in names:
            filters.remove(next((one for one in filters if one["name"] == name), name))

    return apply


def _without_upstream_filter(name: str) -> Callable[[Json], None]:
    def apply(bootstrap: Json) -> None:
        for cluster in _providers(bootstrap):
            filters = cluster["typed_extension_protocol_options"][HTTP_OPTIONS]["http_filters"]
            filters[:] = [one for one in filters if one["name"] != name]

    return apply


def _providers(bootstrap: Json) -> list[Json]:
    ours = (EXTPROC_CLUSTER, RATELIMIT_CLUSTER)
    return [one for one in bootstrap["static_resources"]["clusters"] if one["name"] not in ours]


def _routes(bootstrap: Json) -> list[Json]:
    routes: list[Json] = _manager(bootstrap)["route_config"]["virtual_hosts"][0]["routes"]
    return [one for one in routes if "route" in one]


def _without_route_field(*fields: str) -> Callable[[Json], None]:
    def apply(bootstrap: Json) -> None:
        for route in _routes(bootstrap):
            for field in fields:
                if field in route:
                    del route[field]
                else:
                    del route["route"][field]

    return apply


def _without_token_limit(bootstrap: Json) -> None:
    """Requests are limited, tokens are not reserved."""
    config = _filter(bootstrap, "envoy.filters.http.ratelimit")
    config["rate_limits"] = config["rate_limits"][:1]


def _without_ext_proc(bootstrap: Json) -> None:
    """Nothing is decided: everything takes the first provider's route, and no limit finds its key."""
    _without_filter("envoy.filters.http.ext_proc")(bootstrap)
    for route in _routes(bootstrap):
        route["match"] = {"prefix": "/"}


def _ext_proc_without(*fields: str) -> Callable[[Json], None]:
    def apply(bootstrap: Json) -> None:
        config = _filter(bootstrap, "envoy.filters.http.ext_proc")
        for field in fields:
            del config[field]

    return apply


def _ext_proc_without_retry(bootstrap: Json) -> None:
    del _filter(bootstrap, "envoy.filters.http.ext_proc")["grpc_service"]["retry_policy"]


def _body_asked_at_once(bootstrap: Json) -> None:
    config = _filter(bootstrap, "envoy.filters.http.ext_proc")
    config["processing_mode"]["request_body_mode"] = "BUFFERED"


def _round_robin(bootstrap: Json) -> None:
    for cluster in _providers(bootstrap):
        cluster["lb_policy"] = "ROUND_ROBIN"


def _no_statistics(bootstrap: Json) -> None:
    bootstrap["stats_config"] = {"stats_matcher": {"reject_all": True}}


def _without_overload_manager(bootstrap: Json) -> None:
    del bootstrap["overload_manager"]


def _without_large_buffer(bootstrap: Json) -> None:
    del bootstrap["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"]


def _without_request_id(bootstrap: Json) -> None:
    _manager(bootstrap).update(generate_request_id=False, always_set_request_id_in_response=False)


ABLATIONS: tuple[Ablation, ...] = (
    Ablation("- access log", _without_manager_field("access_log")),
    Ablation("- lua meter", _without_filter("envoy.filters.http.lua")),
    Ablation("- early header mutation", _without_manager_field("early_header_mutation_extensions")),
    Ablation("- local_reply_config", _without_manager_field("local_reply_config")),
    Ablation("- body_size_limit", _without_filter("envoy.filters.http.match_delegate")),
    Ablation("- token limit", _without_token_limit),
    Ablation("- ratelimit filter", _without_filter("envoy.filters.http.ratelimit")),
    Ablation(
        "- ratelimit filter and lua meter",
        _without_filter("envoy.filters.http.ratelimit", "envoy.filters.http.lua"),
    ),
    Ablation("- ext_proc (and so every limit)", _without_ext_proc),
    Ablation("- ext_proc retry_policy", _ext_proc_without_retry),
    Ablation("- ext_proc message_timeout", _ext_proc_without("message_timeout")),
    Ablation("- ext_proc metadata_options (and so every limit)", _ext_proc_without("metadata_options")),
    Ablation("ext_proc: body asked for at once", _body_asked_at_once),
    Ablation("- upstream header_mutation", _without_upstream_filter("envoy.filters.http.header_mutation")),
    Ablation("- credential injector", _without_upstream_filter("envoy.filters.http.credential_injector")),
    Ablation(
        "- response_headers_to_add and _remove",
        _without_route_field("response_headers_to_add", "response_headers_to_remove"),
    ),
    Ablation("- route retry_policy", _without_route_field("retry_policy")),
    Ablation("- auto_host_rewrite", _without_route_field("auto_host_rewrite")),
    Ablation("- request id", _without_request_id),
    Ablation("- normalize_path, merge_slashes", _without_manager_field("normalize_path", "merge_slashes")),
    Ablation("- request timeouts", _without_manager_field("request_timeout", "request_headers_timeout")),
    Ablation("- large buffer limit", _without_large_buffer),
    Ablation("- overload manager", _without_overload_manager),
    Ablation("provider: ROUND_ROBIN", _round_robin),
    Ablation("no statistics", _no_statistics),
)
