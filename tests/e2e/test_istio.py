"""The objects of `headgate render istio`, put into what Istio makes of a sidecar and an egress gateway, in the real Envoy.

No Istio runs here: `existing_envoy/istio_gateway.yaml` is its output written by hand, and `tests.envoy_filter` stands
for the part of it that applies patches.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import envoy_filter
from tests.attached import DOMAIN, Attached, headgate
from tests.e2e.attached_clients import Clients, House, KeepsAnswers, configuration, services
from tests.gateway import free_port, post
from tests.provider_thread import ProviderThread
from tests.sidecar.certificates import Authority

GATEWAY = Path(__file__).parent / "existing_envoy" / "istio_gateway.yaml"


def mesh(objects: dict[str, Any], folder: Path, ports: dict[int, int]) -> dict[str, Any]:
    """What Istio makes of the objects: the sidecar's way to the gateway, and the gateway with the EnvoyFilter in it."""
    rule = objects["VirtualService"]["spec"]["http"][0]["route"][0]["destination"]
    subset = objects["DestinationRule"]["spec"]["subsets"][0]
    tls = subset["trafficPolicy"]["portLevelSettings"][0]["tls"]
    server = objects["Gateway"]["spec"]["servers"][0]
    assert objects["VirtualService"]["spec"]["hosts"] == objects["ServiceEntry"]["spec"]["hosts"] == server["hosts"]
    assert (rule["host"], rule["subset"]) == (objects["DestinationRule"]["spec"]["host"], subset["name"])
    assert (tls["mode"], server["tls"]["mode"]) == ("ISTIO_MUTUAL", "ISTIO_MUTUAL")
    assert rule["port"]["number"] == server["port"]["number"]
    authority = Authority("mesh")
    certificate, key = authority.sign("mesh.internal")
    text = GATEWAY.read_text()
    for name, content in (("CERT", certificate), ("KEY", key), ("CA", authority.pem)):
        (folder / f"mutual-{name}.pem").write_bytes(content)
        text = text.replace(f"MUTUAL_{name}", str(folder / f"mutual-{name}.pem"))
    destination = f"outbound|{rule['port']['number']}|{rule['subset']}|{rule['host']}"
    for name, value in (("destination", destination), ("sni", tls["sni"]), ("host", server["hosts"][0])):
        text = text.replace(f"{{{name}}}", value)
    for port, here in ports.items():
        text = text.replace(f"port_value: {port}}}", f"port_value: {here}}}")
    return envoy_filter.apply(yaml.safe_load(text), objects["EnvoyFilter"])


@pytest.fixture(scope="module", params=[("tcp", "envoy"), ("mtls", "in_process")], ids="-".join)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    transport, enforce = request.param
    folder = tmp_path_factory.mktemp("istio")
    listen, admin = free_port(), free_port()
    with ProviderThread("openai") as first, ProviderThread("local") as second:
        config = configuration(first.base_url, second.base_url, services(transport, folder), enforce, kept=True)

        def bootstrap(path: Path, _: Path) -> str:
            keys = str(folder / "keys")
            headgate("render", "secrets", "-c", str(path), "--dir", keys)
            printed = headgate("render", "istio", "-c", str(path), "--host", DOMAIN, "--secrets-dir", keys)
            assert "sk-provider" not in printed
            objects = {one["kind"]: one for one in yaml.safe_load_all(printed)}
            return json.dumps(mesh(objects, folder, {8080: listen, 9901: admin, 8443: free_port()}))

        with Attached(config, bootstrap, listen_port=listen, envoy_admin=admin) as attached:
            yield House(attached, first, second)


class TestIstio(Clients, KeepsAnswers):
    """Apps call http://HOST."""

    def test_other_names_are_not_ours(self, house: House) -> None:
        answer = post(house.attached.listen, b"", host="else.internal")
        assert answer.status == 404
