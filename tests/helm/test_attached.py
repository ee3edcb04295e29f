"""The objects that attach the services to Istio and Envoy Gateway: valid for their definitions and for Envoy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import envoy.extensions.filters.http.ext_proc.v3.ext_proc_pb2
import envoy.extensions.filters.http.ratelimit.v3.rate_limit_pb2  # noqa: F401  the types that `Any` may hold
import jsonschema
import pytest
from google.protobuf import any_pb2, json_format

from tests.helm.chart import Json, documents, render

CRDS = Path(__file__).parent / "crds"


def _schemas() -> dict[tuple[str, str], Json]:
    """By API version and kind."""
    found = {}
    for path in CRDS.glob("*.json"):
        spec = json.loads(path.read_text())["spec"]
        for version in spec["versions"]:
            schema = _closed(version["schema"]["openAPIV3Schema"])
            # What every object has; Istio's definitions leave it to Kubernetes.
            schema["properties"].update(
                apiVersion={"type": "string"}, kind={"type": "string"}, metadata={"type": "object"}
            )
            found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def _closed(schema: Any) -> Any:
    """What the API server would prune is an error here."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _closed(one) for name, one in schema.items()}
    open_ended = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
    if isinstance(made.get("properties"), dict) and made.get("type") == "object" and not open_ended:
        made["additionalProperties"] = False
    return made


def _objects(case: str) -> list[Json]:
    return [
        one
        for one in render(case=case).all
        if ".istio.io/" in one["apiVersion"] or ".envoyproxy.io/" in one["apiVersion"]
    ]


@pytest.mark.parametrize(("case", "kinds"), [
    ("istio", {"EnvoyFilter", "ServiceEntry", "DestinationRule"}),
    ("envoy-gateway", {"EnvoyExtensionPolicy", "ClientTrafficPolicy"}),
])  # fmt: skip
def test_objects_are_valid_for_their_definitions(case: str, kinds: set[str]) -> None:
    schemas = _schemas()
    objects = _objects(case)
    assert {one["kind"] for one in objects} == kinds
    for one in objects:
        jsonschema.validate(one, schemas[one["apiVersion"], one["kind"]])


def test_a_field_that_does_not_exist_is_seen() -> None:
    schema = _schemas()["gateway.envoyproxy.io/v1alpha1", "EnvoyExtensionPolicy"]
    wrong = {**_objects("envoy-gateway")[0], "spec": {"extProcs": []}}
    with pytest.raises(jsonschema.ValidationError, match="extProcs"):
        jsonschema.validate(wrong, schema)


def _typed(value: Any) -> Iterator[Json]:
    if isinstance(value, dict):
        if "@type" in value:
            yield value
        for one in value.values():
            yield from _typed(one)
    elif isinstance(value, list):
        for one in value:
            yield from _typed(one)


def test_envoy_knows_every_field_of_the_filters() -> None:
    found = list(_typed(_objects("istio")))
    assert len(found) == 2
    for one in found:
        json_format.ParseDict(one, any_pb2.Any())


def test_failing_open_is_said_in_every_object() -> None:
    for one in _typed(_objects("istio")):
        name = {"ExternalProcessor": "failure_mode_allow", "RateLimit": "failure_mode_deny"}[
            one["@type"].rpartition(".")[2]
        ]
        assert one[name] is False
    for policy in _objects("envoy-gateway"):
        for ext_proc in policy["spec"].get("extProc", []):
            assert ext_proc["failOpen"] is False


def test_objects_reach_the_services_of_the_release() -> None:
    services = [
        one.get("grpc_service") or one["rate_limit_service"]["grpc_service"] for one in _typed(_objects("istio"))
    ]
    clusters = {one["envoy_grpc"]["cluster_name"] for one in services}
    service = render(case="istio").of("Service", "headgate")[0]
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"
    assert clusters == {f"outbound|{port['port']}||{host}" for port in service["spec"]["ports"]}
    # A `|` in :authority is refused by some gRPC servers.
    assert {one["envoy_grpc"]["authority"] for one in services} == {host}
    assert all(port["name"].startswith("grpc") for port in service["spec"]["ports"])
    policy = next(one for one in _objects("envoy-gateway") if one["kind"] == "EnvoyExtensionPolicy")
    backend = policy["spec"]["extProc"][0]["backendRefs"][0]
    assert backend == {
        "name": render(case="envoy-gateway").of("Service", "headgate")[0]["metadata"]["name"],
        "port": 9001,
    }


def test_objects_may_be_text_of_several_documents_and_are_left_as_they_are() -> None:
    text = "apiVersion: v1\nkind: A\nmetadata: {name: '%REQ(x)% {{ no template }}'}\n---\napiVersion: v1\nkind: B\nmetadata: {name: b}\n"
    found = render({"mode": "istio", "objects": [text]})
    assert [one for one in found.all if one["kind"] in "AB"] == documents(text)
