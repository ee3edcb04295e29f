"""What the user is told after `helm install`."""

from __future__ import annotations

import pytest

from tests.helm.chart import CONFIG, GRPC_MODES, MODES, Json, notes

FILE = "/etc/headgate/headgate.yaml"
HOST = "rel-headgate.ns.svc.cluster.local"
WHERE = f"--extproc {HOST}:9001 --ratelimit {HOST}:9002"
NEXT: dict[str, list[str]] = {
    "gateway": [
        "kubectl -n ns port-forward service/rel-headgate 8080:80",
        "curl -N http://127.0.0.1:8080/v1/chat/completions",
    ],
    "sidecar": [
        "kubectl -n ns get configmap rel-headgate-attach -o jsonpath='{.data.attach\\.yaml}' > headgate-attach.yaml",
        "kubectl -n ns patch deployment my-envoy --patch-file headgate-attach.yaml",
        f"exec deployment/my-envoy -c headgate -- headgate render attach -c {FILE}",
    ],
    "policy": [f"kubectl -n ns exec deployment/rel-headgate -- headgate render attach -c {FILE} {WHERE}"],
    "istio": [
        f"exec deployment/rel-headgate -- headgate render istio -c {FILE} --host YOUR_HOST {WHERE} > objects.yaml",
        "--set-file 'objects[0]=objects.yaml'",
    ],
    "envoy-gateway": [
        f"exec deployment/rel-headgate -- headgate render envoy-gateway -c {FILE} --namespace ns --host YOUR_HOST --extproc {HOST}:9001 "
        "> objects.yaml",
        "--set-file 'objects[0]=objects.yaml'",
    ],
}


@pytest.mark.parametrize("mode", MODES)
def test_notes_tell_the_next_command(mode: str) -> None:
    said = notes({"mode": mode})
    for line in NEXT[mode]:
        assert line in said
    assert ("helm test rel -n ns" in said) is (mode != "sidecar")


def test_notes_warn_of_the_demonstration() -> None:
    for mode in MODES:
        assert "*** DEMONSTRATION." in notes({"mode": mode})
        assert "EVERYBODY KNOWS THE KEY" in notes({"mode": mode})
        said = notes({"mode": mode, "config": CONFIG})
        assert "DEMONSTRATION" not in said
        assert "sk-headgate-demo" not in said


@pytest.mark.parametrize("mode", GRPC_MODES)
def test_notes_warn_of_open_services(mode: str) -> None:
    assert "whoever reaches these ports may use them" in notes({"mode": mode, "config": CONFIG})


@pytest.mark.parametrize(
    ("case", "line"),
    [
        (
            "gateway-production",
            "curl -N -k https://127.0.0.1:8080/v1/chat/completions -H 'Authorization: Bearer YOUR_KEY'",
        ),
        ("gateway-production", "port-forward service/rel-headgate 8080:443"),
        ("gateway-devredis", "for trying things out"),
        ("istio", "kubectl -n headgate get envoyfilters.networking.istio.io"),
        ("envoy-gateway", "get envoyextensionpolicies.gateway.envoyproxy.io"),
        ("sidecar", "patch deployment edge"),
    ],
)
def test_notes_of_other_values(case: str, line: str) -> None:
    assert line in notes(case=case)


def test_notes_say_where_counters_are() -> None:
    embedded: Json = {"config": CONFIG}
    assert "Counters are in the pod's memory" in notes(embedded)
    assert "Counters are in the pod's memory" not in notes({**embedded, "store": {"url": "redis://r"}})
