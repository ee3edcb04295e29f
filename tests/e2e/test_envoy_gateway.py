"""The objects of `headgate render envoy-gateway`, put into what Envoy Gateway makes of a Gateway, in the real Envoy.

No Envoy Gateway runs here: `existing_envoy/envoy_gateway.yaml` is its output written by hand, and this module stands for
what it makes of the policies. Its own ext_proc cluster is the one that our Backend describes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import json_patch
from tests.attached import DOMAIN, Attached, headgate
from tests.e2e.attached_clients import Clients, House, KeepsAnswers, configuration, services
from tests.gateway import free_port, post
from tests.provider_thread import ProviderThread

GATEWAY = Path(__file__).parent / "existing_envoy" / "envoy_gateway.yaml"
CLUSTER = "envoyextensionpolicy/headgate/headgate/0/headgate"
EXT_PROC = "envoy.filters.http.ext_proc/envoyextensionpolicy/headgate/headgate/extproc/0"


def ext_proc(policy: dict[str, Any]) -> dict[str, Any]:
    """The filter that Envoy Gateway makes of an EnvoyExtensionPolicy."""
    one = policy["spec"]["extProc"][0]
    assert one["backendRefs"] == [{"group": "gateway.envoyproxy.io", "kind": "Backend", "name": "headgate"}]
    request = one["processingMode"]["request"]
    mode = dict.fromkeys(("response_header_mode", "request_trailer_mode", "response_trailer_mode"), "SKIP")
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {
            "envoy_grpc": {"cluster_name": CLUSTER, "authority": "headgate.headgate:9001"},
            "timeout": "10s",
        },
        "failure_mode_allow": one["failOpen"],
        "message_timeout": one["messageTimeout"],
        "allow_mode_override": one["processingMode"]["allowModeOverride"],
        "metadata_options": {"receiving_namespaces": {"untyped": one["metadata"]["writableNamespaces"]}},
        "processing_mode": {"request_header_mode": "SEND" if request is not None else "SKIP", **mode},
        "status_on_error": {"code": one["statusOnError"]},
    }


def fleet(objects: dict[str, Any], tls: dict[str, str] | None, ports: dict[int, int]) -> dict[str, Any]:
    """What Envoy Gateway makes of the objects."""
    route, listener = objects["HTTPRoute"]["spec"], objects["Gateway"]["spec"]["listeners"][0]
    assert route["hostnames"] == [listener["hostname"]]
    assert route["parentRefs"] == [{"name": "headgate", "sectionName": listener["name"]}]
    assert objects["EnvoyExtensionPolicy"]["spec"]["targetRefs"][0]["kind"] == "HTTPRoute"
    text = GATEWAY.read_text().replace("{host}", listener["hostname"]).replace("{ext_proc}", EXT_PROC)
    for port, here in ports.items():
        text = text.replace(f"port_value: {port}}}", f"port_value: {here}}}")
    bootstrap = yaml.safe_load(text)
    ours = bootstrap["static_resources"]["listeners"][0]
    connection = objects["ClientTrafficPolicy"]["spec"]["connection"]
    ours["per_connection_buffer_limit_bytes"] = int(connection["bufferLimit"])
    manager = ours["default_filter_chain"]["filters"][0]["typed_config"]
    assert objects["ClientTrafficPolicy"]["spec"]["path"] == {"escapedSlashesAction": "KeepUnchanged"}
    manager["path_with_escaped_slashes_action"] = "KEEP_UNCHANGED"
    timeouts = objects["ClientTrafficPolicy"]["spec"]["timeout"]["http"]
    manager["stream_idle_timeout"], manager["request_timeout"] = (
        timeouts["streamIdleTimeout"],
        timeouts["requestReceivedTimeout"],
    )
    manager["http_filters"][0]["typed_config"] = ext_proc(objects["EnvoyExtensionPolicy"])
    cluster = bootstrap["static_resources"]["clusters"][0]
    backend = objects["Backend"]["spec"]
    places = [one.get("ip") or {"address": one["fqdn"]["hostname"], **one["fqdn"]} for one in backend["endpoints"]]
    addresses = [{"socket_address": {"address": one["address"], "port_value": one["port"]}} for one in places]
    cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": [{"endpoint": {"address": one}} for one in addresses]}]
    if tls is not None:
        cluster["transport_socket"] = backend_tls(backend["tls"], tls)
    return json_patch.apply(bootstrap, objects["EnvoyPatchPolicy"])


def backend_tls(backend: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    """What Envoy Gateway makes of a Backend's TLS, with the Secrets that it names."""
    assert backend["caCertificateRefs"][0]["name"] == "headgate-services-ca"
    assert backend["clientCertificateRef"]["name"] == "headgate-services-client"
    shown = {"certificate_chain": {"filename": files["client_cert"]}, "private_key": {"filename": files["client_key"]}}
    name = {"san_type": "DNS", "matcher": {"exact": backend["sni"]}}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": backend["sni"],
            "common_tls_context": {
                "tls_certificates": [shown],
                "validation_context": {
                    "trusted_ca": {"filename": files["ca"]},
                    "match_typed_subject_alt_names": [name],
                },
            },
        },
    }


@pytest.fixture(scope="module", params=["tcp", "mtls"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("eg")
    listen, admin = free_port(), free_port()
    with ProviderThread("openai") as first, ProviderThread("local") as second:
        ways = services(request.param, folder)
        config = configuration(first.base_url, second.base_url, ways, "in_process", kept=True)

        def bootstrap(path: Path, _: Path) -> str:
            keys = str(folder / "keys")
            headgate("render", "secrets", "-c", str(path), "--dir", keys)
            printed = headgate("render", "envoy-gateway", "-c", str(path), "--host", DOMAIN, "--secrets-dir", keys)
            assert "sk-provider" not in printed
            objects = {one["kind"]: one for one in yaml.safe_load_all(printed)}
            return json.dumps(fleet(objects, ways.get("tls"), {10080: listen, 19000: admin}))

        with Attached(config, bootstrap, listen_port=listen, envoy_admin=admin) as attached:
            yield House(attached, first, second)


class TestEnvoyGateway(Clients, KeepsAnswers):
    """Clients come in through a Gateway of Headgate's own."""

    def test_other_names_are_not_ours(self, house: House) -> None:
        assert post(house.attached.listen, b"", host="else.example.com").status == 404
