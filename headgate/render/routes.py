"""Envoy routes: one per provider, chosen by the header that only ext_proc can set."""

from __future__ import annotations

from extproc.policy import route_name
from extproc.processor import ROUTE_HEADER
from extproc.settings import ProviderSettings
from headgate.render.layout import ROUTES, provider_cluster
from headgate.render.values import Json, seconds
from headgate.settings import Settings

# A provider's own counters are about the gateway's account there, not about the client's key; ours replace them.
PROVIDER_COUNTERS = tuple(
    f"x-ratelimit-{what}-{unit}" for unit in ("requests", "tokens") for what in ("limit", "remaining", "reset")
)


def routes(settings: Settings) -> Json:
    """The route configuration. What ext_proc did not route ends here with 503: nothing goes through undecided."""
    return {
        "name": ROUTES,
        "ignore_port_in_host_matching": True,
        "virtual_hosts": [
            {
                "name": "gateway",
                "domains": ["*"],
                "routes": [
                    *(_route(name, one) for name, one in settings.providers.items()),
                    {
                        "match": {"prefix": "/"},
                        "direct_response": {"status": 503},
                    },
                ],
            }
        ],
    }


def _route(provider_name: str, provider: ProviderSettings) -> Json:
    name = route_name(provider_name, provider)
    return {
        "name": name,
        "match": {"prefix": "/", "headers": [{"name": ROUTE_HEADER, "string_match": {"exact": name}}]},
        "route": {
            "cluster": provider_cluster(name),
            "auto_host_rewrite": True,
            "timeout": "0s",
            "retry_policy": {
                "retry_on": "connect-failure,refused-stream,reset-before-request",
                "num_retries": 2,
                "per_try_idle_timeout": seconds(provider.idle_timeout),
                "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
            },
        },
        "response_headers_to_remove": list(PROVIDER_COUNTERS),
        "response_headers_to_add": [_header("x-headgate-upstream-request-id", "%RESP(x-request-id)%")],
    }


def _header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
