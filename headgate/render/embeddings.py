"""The listener through which our own process asks for embeddings: Envoy puts in the provider's key.

A unix socket in the private run folder, for its owner alone: who can open it can use every provider. There is neither
ext_proc nor a limit on it. It has the gateway's routes, and the one that is meant is named by the header that ext_proc
sets there.
"""

from __future__ import annotations

from headgate.render.layout import EMBEDDINGS_LISTENER, Layout
from headgate.render.values import Json, typed

_OWNER_ONLY = 0o600


def embeddings_listener(layout: Layout, route_source: Json) -> Json:
    """The listener. `route_source` is the gateway's."""
    manager = typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=EMBEDDINGS_LISTENER,
        codec_type="HTTP1",
        **route_source,
        generate_request_id=True,
        request_timeout="15s",
        http_filters=[
            typed(
                "envoy.filters.http.router",
                "envoy.extensions.filters.http.router.v3.Router",
                suppress_envoy_headers=True,
            )
        ],
    )
    return {
        "name": EMBEDDINGS_LISTENER,
        "address": {"pipe": {"path": str(layout.embeddings), "mode": _OWNER_ONLY}},
        "filter_chains": [{"filters": [manager]}],
    }
