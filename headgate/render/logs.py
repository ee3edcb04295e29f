"""Envoy's access logs, all gRPC: of failed attempts, of requests, and of those whose answers are to be kept."""

from __future__ import annotations

from extproc.accesslog import ANSWER_LOG, ATTEMPT_LOG, DECIDED, SETTLING
from extproc.balance.attempt import ANSWER_HEADERS
from extproc.cache.cache import tickets_of
from extproc.processor import CACHE_METADATA
from extproc.recorder import ANSWER_HEADERS as CAPTURED_HEADERS
from headgate.render.layout import ACCESS_LOG, EXTPROC_CLUSTER, worker_cluster
from headgate.render.values import Json, grpc, seconds, typed
from headgate.settings import Settings
from headgate.settling import settles_in_log

# So late, at most, is a request known to have ended, and what it had reserved settled. Less often, and many at once
# would hold up the decisions that come with them; more often, and Envoy would wake for nothing.
FLUSH_SECONDS = 0.02
_ANSWER_SECONDS = 0.05  # and so late its answer kept, where it is to be: each message wakes a worker


def attempt_log() -> Json:
    """Failed attempts, as soon as they have failed: what a cool-down begins with. The access log tells of others."""
    failed = [
        {
            "status_code_filter": {
                "comparison": {"op": "GE", "value": {"default_value": 400, "runtime_key": "headgate.attempt"}}
            }
        },
        {"response_flag_filter": {}},
    ]
    return {
        **typed(
            "envoy.access_loggers.http_grpc",
            "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            common_config={
                "log_name": ATTEMPT_LOG,
                "grpc_service": grpc(EXTPROC_CLUSTER, 5),
                "transport_api_version": "V3",
                "buffer_flush_interval": "0.050s",
                "buffer_size_bytes": 16_384,
            },
            additional_response_headers_to_log=list(ANSWER_HEADERS),
        ),
        "filter": {"or_filter": {"filters": failed}},
    }


def access_logs(settings: Settings) -> list[Json]:
    """Every request that has ended, once: metrics, the log line, settlement, how targets stand, and what is kept, are
    made of it."""
    return [*_answer_logs(settings), _access_log(settings)]


def _access_log(settings: Settings) -> Json:
    log = typed(
        "envoy.access_loggers.http_grpc",
        "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        common_config={
            "log_name": _named(ACCESS_LOG, settings),
            "grpc_service": grpc(EXTPROC_CLUSTER, 5),
            "transport_api_version": "V3",
            "buffer_flush_interval": seconds(FLUSH_SECONDS),
            "buffer_size_bytes": 65_536,
        },
    )
    return {**log, "filter": _ticket({"exact": ""}, otherwise=True)} if settings.has_cache else log


def _named(log: str, settings: Settings) -> str:
    """Whoever gets this log knows by its name who is to settle, and who has decided: nothing is settled twice."""
    if settings.limits.enforce == "in_process":
        return log + DECIDED
    return log + SETTLING if settles_in_log(settings) else log


def _answer_interval(settings: Settings) -> float:
    if any(model.strategy == "least_requests" for model in settings.models.values()):
        return FLUSH_SECONDS  # one that has ended must not count as open for long
    return _ANSWER_SECONDS


def _answer_logs(settings: Settings) -> list[Json]:
    """Requests whose answers are to be kept, each to the worker that has decided it, with what the meter held.

    Soon, because equal requests wait for these. In one message several, because each message wakes a worker. What a
    worker does not take is dropped once there is this much of it.
    """
    if not settings.has_cache:
        return []
    return [
        {
            **typed(
                "envoy.access_loggers.http_grpc",
                "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
                common_config={
                    "log_name": _named(ANSWER_LOG, settings),
                    "grpc_service": grpc(worker_cluster(worker, settings.workers), 5),
                    "transport_api_version": "V3",
                    "buffer_flush_interval": seconds(_answer_interval(settings)),
                    "buffer_size_bytes": 1 << 20,
                },
                additional_response_headers_to_log=list(CAPTURED_HEADERS),
            ),
            "filter": _ticket({"prefix": tickets_of(worker)}, otherwise=False),
        }
        for worker in range(settings.workers)
    ]


def _ticket(value: Json, *, otherwise: bool) -> Json:
    """Requests whose ticket of the cache is like this; `otherwise`: those without one, too."""
    matcher = {"filter": CACHE_METADATA, "path": [{"key": "ticket"}], "value": {"string_match": value}}
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": otherwise}}
