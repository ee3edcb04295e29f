"""Gateway API objects (gateway.networking.k8s.io/v1).

Two uses: a Gateway of any implementation in front of Headgate's own Envoy, and the one that Envoy Gateway makes an
Envoy of, into which Headgate is put (`headgate.render.envoy_gateway`).

Fields: https://gateway-api.sigs.k8s.io/reference/spec/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headgate.render.kubernetes import Object
from headgate.render.values import Json

GROUP = "gateway.networking.k8s.io"
API = f"{GROUP}/v1"
LISTENER = "llm"


@dataclass(frozen=True, slots=True)
class Entrance:
    """Where clients come in. `certificate` names a Secret (kubernetes.io/tls); empty: plain HTTP."""

    host: str
    gateway_class: str
    namespace: str = ""
    name: str = "headgate"
    port: int = 80
    certificate: str = ""


def gateway(entrance: Entrance, *, parameters: Mapping[str, str] | None = None) -> Object:
    """A Gateway with one listener for the host. `parameters` refers to its implementation's own settings."""
    listener: Json = {"name": LISTENER, "hostname": entrance.host, "port": entrance.port}
    if entrance.certificate:
        listener["protocol"] = "HTTPS"
        listener["tls"] = {"mode": "Terminate", "certificateRefs": [{"kind": "Secret", "name": entrance.certificate}]}
    else:
        listener["protocol"] = "HTTP"
    listener["allowedRoutes"] = {"namespaces": {"from": "Same"}}
    spec: Json = {"gatewayClassName": entrance.gateway_class}
    if parameters is not None:
        spec["infrastructure"] = {"parametersRef": dict(parameters)}
    spec["listeners"] = [listener]
    return Object(API, "Gateway", entrance.name, entrance.namespace, {"spec": spec})


def route(entrance: Entrance, service: str, port: int) -> Object:
    """An HTTPRoute that takes everything to a Service: Headgate's own Envoy.

    The implementation must cut nothing: an answer may stream for as long as it likes.
    """
    return route_with(
        entrance,
        {
            "timeouts": {"request": "0s", "backendRequest": "0s"},
            "backendRefs": [{"name": service, "port": port}],
        },
    )


def route_with(entrance: Entrance, rule: Mapping[str, Any]) -> Object:
    """An HTTPRoute with one rule for every path."""
    matches = [{"path": {"type": "PathPrefix", "value": "/"}}]
    spec = {
        "parentRefs": [{"name": entrance.name, "sectionName": LISTENER}],
        "hostnames": [entrance.host],
        "rules": [{"matches": matches, **rule}],
    }
    return Object(API, "HTTPRoute", entrance.name, entrance.namespace, {"spec": spec})
