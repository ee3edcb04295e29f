"""`headgate render istio`, `envoy-gateway` and `gateway-api`: every object is one that its schema knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import Result

from tests.crd import problems
from tests.headgate.render.test_attach import CONFIG, VARIANTS, run

SERVICES = ["--extproc", "headgate.svc:9001", "--ratelimit", "headgate.svc:9101"]
HOST = ["--host", "llm.internal"]
TLS = {"services": {"tls": {"cert": "/tls/tls.crt", "key": "/tls/tls.key", "name": "headgate.svc"}}}
MESH = {**VARIANTS, "tls": TLS, "tcp": {"workers": 2, "store": "redis://r"}}


def objects(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return list(yaml.safe_load_all(result.stdout))


def by_kind(result: Result) -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in objects(result)}


@pytest.mark.parametrize("name", MESH)
def test_the_schemas_know_istios_objects(name: str, tmp_path: Path) -> None:
    result = run(tmp_path, "istio", *SERVICES, *HOST, "--host", "ai.internal", changes=MESH[name])
    found = objects(result)
    kinds = ["ServiceEntry", "Gateway", "DestinationRule", "VirtualService", "EnvoyFilter"]
    assert [one["kind"] for one in found] == kinds
    for one in found:
        assert problems(one) == []
        assert one["metadata"]["namespace"] == "istio-system"
    assert "sk-secret" not in result.output
    assert run(tmp_path, "istio", *SERVICES, *HOST, "--host", "ai.internal", changes=MESH[name]).stdout == result.stdout


def test_istios_names_are_options(tmp_path: Path) -> None:
    options = [
        "--namespace",
        "edge",
        "--selector",
        "app=out",
        "--service",
        "out.edge.svc.cluster.local",
        "--listen-port",
        "9443",
    ]
    found = by_kind(run(tmp_path, "istio", *SERVICES, *HOST, *options))
    assert found["Gateway"]["spec"]["selector"] == {"app": "out"}
    assert found["DestinationRule"]["spec"]["host"] == "out.edge.svc.cluster.local"
    patches = found["EnvoyFilter"]["spec"]["configPatches"]
    ports = [one["match"]["listener"]["portNumber"] for one in patches if one["applyTo"] == "LISTENER"]
    assert ports == [9443]
    assert patches[-1]["match"]["routeConfiguration"] == {"gateway": "edge/headgate"}


def test_a_change_of_one_model_changes_only_its_patches(tmp_path: Path) -> None:
    def patches(models: dict[str, Any]) -> list[Any]:
        found = by_kind(run(tmp_path, "istio", *SERVICES, *HOST, changes={"models": models}))
        return list(found["EnvoyFilter"]["spec"]["configPatches"])

    before = patches(CONFIG["models"])
    after = patches({**CONFIG["models"], "more": {"provider": "local", "model": "m"}})
    assert [one for one in before if one not in after] == [before[-1]]  # the virtual host
    assert len(after) > len(before)


def test_what_control_planes_may_not_know_is_a_structure(tmp_path: Path) -> None:
    text = run(tmp_path, "istio", *SERVICES, *HOST).stdout
    assert text.count("xds.type.v3.TypedStruct") > 1
    assert "'@type': type.googleapis.com/envoy.extensions.router.cluster_specifiers.priority_group" not in text


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        (HOST, {}, ("services.extproc", "cannot be reached from another machine", "--extproc HOST:PORT")),
        ([*SERVICES, *HOST, "--selector", "x"], {}, ("--selector", "'x' is no label")),
        ([*SERVICES, *HOST, "--secrets-dir", "x"], {}, ("'x' is not absolute",)),
        (["--extproc", "[::]:1", "--ratelimit", "b:2", *HOST], {}, ("where to listen, not where to call",)),
    ],
)
def test_what_is_missing_for_istio(
    options: list[str], changes: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    result = run(tmp_path, "istio", *options, changes=changes)
    assert (result.exit_code, result.stdout) == (1, "")
    for word in words:
        assert word in result.stderr


def test_the_schemas_find_mistakes() -> None:
    good = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "x"},
        "spec": {"servers": [{"hosts": ["a"], "port": {"number": 80, "name": "http", "protocol": "HTTP"}}]},
    }
    assert problems(good) == []
    server: Any = good["spec"]["servers"][0]  # type: ignore[index]
    for change in (
        {"hosst": 1},
        {"port": {"number": "80", "name": "http", "protocol": "HTTP"}},
        {"tls": {"mode": "NONE"}},
    ):
        assert problems({**good, "spec": {"servers": [{**server, **change}]}})
    assert problems({**good, "spec": {"servers": [{"port": server["port"]}]}})


IN_PROCESS = {"limits": {"enforce": "in_process"}}
EXTPROC = ["--extproc", "headgate.svc:9001"]
EG_KINDS = [
    "EnvoyProxy",
    "Gateway",
    "HTTPRoute",
    "ClientTrafficPolicy",
    "Backend",
    "EnvoyExtensionPolicy",
    "EnvoyPatchPolicy",
]


@pytest.mark.parametrize("name", MESH)
@pytest.mark.parametrize("certificate", [[], ["--certificate", "llm-tls", "--port", "443"]], ids=["http", "https"])
def test_the_schemas_know_envoy_gateways_objects(name: str, certificate: list[str], tmp_path: Path) -> None:
    options = [*EXTPROC, "--host", "llm.example.com", *certificate]
    result = run(tmp_path, "envoy-gateway", *options, changes={**MESH[name], **IN_PROCESS})
    found = objects(result)
    assert [one["kind"] for one in found] == EG_KINDS
    for one in found[1:]:  # of EnvoyProxy there is no schema here
        assert problems(one) == []
    assert {one["metadata"]["namespace"] for one in found} == {"headgate"}
    assert "sk-secret" not in result.output
    again = run(tmp_path, "envoy-gateway", *options, changes={**MESH[name], **IN_PROCESS})
    assert again.stdout == result.stdout


def test_envoy_gateways_ext_proc_fails_closed_and_asks_for_the_body(tmp_path: Path) -> None:
    found = by_kind(run(tmp_path, "envoy-gateway", *EXTPROC, "--host", "llm.example.com", changes=IN_PROCESS))
    processor = found["EnvoyExtensionPolicy"]["spec"]["extProc"][0]
    assert processor["failOpen"] is False
    assert processor["processingMode"] == {"allowModeOverride": True, "request": {}}
    assert "headgate" in processor["metadata"]["writableNamespaces"]
    assert found["ClientTrafficPolicy"]["spec"]["connection"]["bufferLimit"] == str((20 << 20) + (1 << 20))
    names = {one["name"] for one in found["EnvoyPatchPolicy"]["spec"]["jsonPatches"] if "/" not in one["name"]}
    assert names == {"headgate_extproc", "headgate_nowhere"}


def test_limits_in_envoy_gateway_are_in_process(tmp_path: Path) -> None:
    result = run(tmp_path, "envoy-gateway", *EXTPROC, "--host", "llm.example.com")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "limits.enforce" in result.stderr
    assert "{enforce: in_process}" in result.stderr


@pytest.mark.parametrize("certificate", [[], ["--certificate", "llm-tls"]], ids=["http", "https"])
def test_a_gateway_of_any_implementation(certificate: list[str], tmp_path: Path) -> None:
    options = ["--host", "llm.example.com", "--gateway-class", "cilium", "--namespace", "ai", *certificate]
    result = run(tmp_path, "gateway-api", *options, changes={"listen": "0.0.0.0:10000"})
    found = objects(result)
    assert [one["kind"] for one in found] == ["Gateway", "HTTPRoute"]
    for one in found:
        assert problems(one) == []
    listener = found[0]["spec"]["listeners"][0]
    assert listener["protocol"] == ("HTTPS" if certificate else "HTTP")
    rule = found[1]["spec"]["rules"][0]
    assert rule["backendRefs"] == [{"name": "headgate", "port": 10000}]
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}
