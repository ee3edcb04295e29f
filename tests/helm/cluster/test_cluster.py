"""What a real API server says of the chart: schemas, defaults, admission (Pod Security `restricted`), Helm's whole life."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.chart import CASES, CHART, CONFIG, MODES, Json, case_file, render
from tests.helm.cluster.kubelet import Kubelet
from tests.helm.cluster.server import Cluster, ClusterError
from tests.helm.test_test_pods import served

CRDS = Path(__file__).parent.parent / "crds"
# Definitions that we do not have: the server takes any object of these kinds.
UNKNOWN = {
    "cert-manager.io/v1": ["Certificate"],
    "keda.sh/v1alpha1": ["ScaledObject"],
    "monitoring.coreos.com/v1": ["ServiceMonitor", "PodMonitor", "PrometheusRule"],
}
# Somebody else's Envoy.
EDGE: Json = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "edge"},
    "spec": {
        "selector": {"matchLabels": {"app": "edge"}},
        "template": {
            "metadata": {"labels": {"app": "edge"}},
            "spec": {
                "securityContext": {"runAsNonRoot": True, "runAsUser": 101, "seccompProfile": {"type": "RuntimeDefault"}},
                "volumes": [{"name": "config", "configMap": {"name": "edge"}}],
                "containers": [{
                    "name": "envoy",
                    "image": "docker.io/envoyproxy/envoy:v1.40.0",
                    "volumeMounts": [{"name": "config", "mountPath": "/etc/envoy"}],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }],
            },
        },
    },
}  # fmt: skip


def _any_object(version: str, kind: str) -> Json:
    group, _, name = version.partition("/")
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural},
            "versions": [{"name": name, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


@pytest.fixture(scope="module", autouse=True)
def definitions(cluster: Cluster) -> None:
    known = [json.loads(path.read_text()) for path in sorted(CRDS.glob("*.json"))]
    unknown = [_any_object(version, kind) for version, kinds in UNKNOWN.items() for kind in kinds]
    cluster.apply(*known, *unknown)
    names = [one["metadata"]["name"] for one in (*known, *unknown)]
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", *(f"crd/{name}" for name in names))


def _values(case: str) -> list[str]:
    return ["-f", str(case_file(case))]


def _namespaces(cluster: Cluster, case: str) -> str:
    """The namespace of a case's release, and those that its objects name."""
    namespace = cluster.namespace(f"case-{case}")
    for one in render(case=case, namespace=namespace).all:
        if "namespace" in one["metadata"]:
            cluster.namespace(one["metadata"]["namespace"])
    return namespace


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_admitted(cluster: Cluster, case: str) -> None:
    namespace = _namespaces(cluster, case)
    said = cluster.apply(*render(case=case, namespace=namespace).all, namespace=namespace, dry=True)
    assert "Warning" not in said, said


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_admitted_where_restricted_is_enforced(cluster: Cluster, case: str) -> None:
    namespace = _namespaces(cluster, case)
    objects = render(case=case, namespace=namespace)
    accounts = objects.of("ServiceAccount")
    for account in accounts:
        cluster.apply(account)
    for one in objects.of("Deployment"):
        template = one["spec"]["template"]
        metadata = {**template["metadata"], "name": one["metadata"]["name"], "namespace": one["metadata"]["namespace"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        assert "Warning" not in cluster.apply(pod, namespace=metadata["namespace"], dry=True)
    for pod in objects.of("Pod"):
        assert "Warning" not in cluster.apply(pod, namespace=pod["metadata"]["namespace"], dry=True)
    for account in accounts:
        cluster.kubectl("-n", account["metadata"]["namespace"], "delete", "serviceaccount", account["metadata"]["name"])


def test_restricted_is_enforced(cluster: Cluster) -> None:
    pod = next(one for one in render(namespace="strict").of("Pod"))
    cluster.namespace("strict")
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(ClusterError, match="violates PodSecurity"):
        cluster.apply(pod, namespace="strict", dry=True)


def test_a_field_that_does_not_exist_is_seen(cluster: Cluster) -> None:
    policy = next(one for one in render(case="envoy-gateway").all if one["kind"] == "EnvoyExtensionPolicy")
    with pytest.raises(ClusterError, match="failOpened"):
        cluster.apply({**policy, "spec": {**policy["spec"], "failOpened": True}}, dry=True)


@pytest.mark.parametrize("case", CASES)
def test_install_and_uninstall(cluster: Cluster, case: str) -> None:
    namespace = _namespaces(cluster, case)
    said = cluster.helm("install", "rel", str(CHART), "-n", namespace, *_values(case))
    assert "STATUS: deployed" in said
    cluster.helm("uninstall", "rel", "-n", namespace, "--wait=hookOnly")
    assert _ours(cluster) == []


def _ours(cluster: Cluster) -> list[str]:
    """What is left of a release, in any namespace of its."""
    kinds = "deployments,services,configmaps,serviceaccounts,secrets,networkpolicies,poddisruptionbudgets,horizontalpodautoscalers,pods"
    found = cluster.kubectl("get", kinds, "-A", "-l", "app.kubernetes.io/instance=rel", "-o", "name")
    return [line for line in found.splitlines() if line.strip() and "No resources" not in line]


def test_the_life_of_a_release(cluster: Cluster) -> None:
    namespace = cluster.namespace("life")
    cluster.helm("install", "rel", str(CHART), "-n", namespace)
    first = cluster.get(namespace, "deployment", "rel-headgate")
    cluster.helm("upgrade", "rel", str(CHART), "-n", namespace, *_values("gateway-production"))
    second = cluster.get(namespace, "deployment", "rel-headgate")
    assert second["metadata"]["uid"] == first["metadata"]["uid"]
    assert second["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 940
    assert cluster.get(namespace, "hpa", "rel-headgate")["spec"]["maxReplicas"] == 12
    assert "fake-provider" not in cluster.kubectl("-n", namespace, "get", "deployments", "-o", "name")
    cluster.helm("rollback", "rel", "1", "-n", namespace)
    third = cluster.get(namespace, "deployment", "rel-headgate")
    assert third["spec"]["template"]["spec"] == first["spec"]["template"]["spec"]
    assert "fake-provider" in cluster.kubectl("-n", namespace, "get", "deployments", "-o", "name")
    assert [one["status"] for one in json.loads(cluster.helm("history", "rel", "-n", namespace, "-o", "json"))] == [
        "superseded",
        "superseded",
        "deployed",
    ]
    cluster.helm("uninstall", "rel", "-n", namespace)
    assert _ours(cluster) == []


def test_a_release_may_change_its_mode(cluster: Cluster) -> None:
    namespace = cluster.namespace("modes")
    values = yaml.safe_dump({"config": CONFIG})
    for mode in (*MODES, "gateway"):
        cluster.helm(
            "upgrade", "--install", "rel", str(CHART), "-n", namespace, "-f", "-", "--set", f"mode={mode}", stdin=values
        )
    cluster.helm("uninstall", "rel", "-n", namespace)
    assert _ours(cluster) == []


def test_a_hot_change_touches_the_config_map_and_no_pod(cluster: Cluster) -> None:
    namespace = cluster.namespace("hot")
    for models, changed in (({"a": {"provider": "local"}}, False), ({"b": {"provider": "local"}}, False)):
        values = yaml.safe_dump({"config": {**CONFIG, "models": models}})
        cluster.helm("upgrade", "--install", "rel", str(CHART), "-n", namespace, "-f", "-", stdin=values)
        assert next(iter(models)) in cluster.get(namespace, "configmap", "rel-headgate")["data"]["headgate.yaml"]
        assert (cluster.get(namespace, "deployment", "rel-headgate")["metadata"]["generation"] > 1) is changed
    values = yaml.safe_dump({"config": CONFIG, "reload": {"hot": False}})
    cluster.helm("upgrade", "rel", str(CHART), "-n", namespace, "-f", "-", stdin=values)
    assert cluster.get(namespace, "deployment", "rel-headgate")["metadata"]["generation"] == 2


def test_who_scales_keeps_his_number_over_an_upgrade(cluster: Cluster) -> None:
    namespace = cluster.namespace("scaled")
    cluster.helm("install", "rel", str(CHART), "-n", namespace, *_values("gateway-production"))
    cluster.kubectl("-n", namespace, "scale", "deployment/rel-headgate", "--replicas=7")
    cluster.helm(
        "upgrade", "rel", str(CHART), "-n", namespace, *_values("gateway-production"), "--set", "drain.timeout=600"
    )
    assert cluster.get(namespace, "deployment", "rel-headgate")["spec"]["replicas"] == 7


def test_the_commands_of_the_notes_attach_a_sidecar_and_take_it_out_again(cluster: Cluster, tmp_path: Path) -> None:
    namespace = cluster.namespace("beside")
    cluster.apply(EDGE, namespace=namespace)
    before = _pod_of(cluster, namespace)
    said = cluster.helm("install", "rel", str(CHART), "-n", namespace, *_values("sidecar"))
    fetch, patch = (line.strip() for line in said.splitlines() if re.search("get configmap|patch deployment", line))
    assert fetch.startswith("kubectl ")
    assert patch.startswith("kubectl ")
    query = re.search(r"-o jsonpath='(.*)'", fetch)
    assert query
    for name, mounted in (("attach", True), ("detach", False)):
        wanted = query[1].replace("attach", name)
        text = cluster.kubectl("-n", namespace, "get", "configmap", "rel-headgate-attach", "-o", f"jsonpath={wanted}")
        (tmp_path / "headgate-attach.yaml").write_text(text)
        arguments = patch.split()[1:-1]
        cluster.kubectl(*arguments, str(tmp_path / "headgate-attach.yaml"))
        pod = _pod_of(cluster, namespace)
        assert [one["name"] for one in pod.get("initContainers", [])] == (
            ["headgate-check", "headgate"] if mounted else []
        )
        assert pod["containers"] == before["containers"]
        if mounted:
            made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "edge"}, "spec": pod}
            assert "Warning" not in cluster.apply(made, namespace=namespace, dry=True)
    assert {**pod, "terminationGracePeriodSeconds": 30} == before


def _pod_of(cluster: Cluster, namespace: str) -> dict[str, Any]:
    found: dict[str, Any] = cluster.get(namespace, "deployment", "edge")["spec"]["template"]["spec"]
    return found


def test_helm_test_passes_and_fails_with_what_its_pods_find(cluster: Cluster, tmp_path: Path) -> None:
    """The pods are run by a stand-in for a kubelet: their commands, on this machine, against services that run here."""
    namespace = cluster.namespace("tested")
    values = yaml.safe_dump({"mode": "policy", "config": CONFIG})
    cluster.helm("install", "rel", str(CHART), "-n", namespace, "-f", "-", stdin=values)
    with served(tmp_path) as places:
        there = {
            f"rel-headgate.{namespace}.svc:{port}": places[name]
            for name, port in (("extproc", 9001), ("ratelimit", 9002))
        }
        with Kubelet(cluster, namespace, there):
            said = cluster.helm("test", "rel", "-n", namespace, "--timeout", "60s")
    assert said.count("Phase:          Succeeded") == 2
    with Kubelet(cluster, namespace, there), pytest.raises(ClusterError, match="failed"):
        cluster.helm("test", "rel", "-n", namespace, "--timeout", "60s")
