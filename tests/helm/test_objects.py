"""Names, labels, Services, scaling, network, monitoring."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from sidecar.metrics import Metrics
from tests.helm.chart import CASES, CHART, CONFIG, MODES, ChartError, Json, component_of, render

REDIS = {"url": "redis://redis:6379/0"}
SELECTOR = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"}
EVERYTHING: Json = {
    "config": CONFIG,
    "devRedis": {"enabled": True},
    "replicas": 2,
    "tls": {"certManager": {"enabled": True, "issuerRef": {"name": "ca"}, "dnsNames": ["a"]}},
    "monitoring": {
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
    },
    "networkPolicy": {"enabled": True},
}


def test_what_the_chart_is() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["apiVersion"] == "v2"
    assert chart["kubeVersion"] == ">=1.29-0"
    assert "dependencies" not in chart
    assert render().container("headgate")["image"].endswith(f":{chart['appVersion']}")


@pytest.mark.parametrize("release", ["r", "headgate", "a-release-name-that-is-as-long-as-helm-lets-one-become"[:53]])
def test_names_are_labels_of_dns_and_their_endings_survive(release: str) -> None:
    for mode in MODES:
        values = {**EVERYTHING, "mode": mode, "tls": EVERYTHING["tls"] if mode == "gateway" else {}}
        objects = render(values, release=release)
        for one in objects.all:
            assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", one["metadata"]["name"]), one["metadata"]["name"]
        for service in objects.of("Service", "redis"):
            assert service["metadata"]["name"].endswith("-redis")
    long = render({"nameOverride": "x" * 63}, release=release)
    assert all(len(one["metadata"]["name"]) <= 63 for one in long.all)
    assert all(len(value) <= 63 for one in long.all for value in one["metadata"]["labels"].values())


@pytest.mark.parametrize("case", CASES)
def test_labels(case: str) -> None:
    for one in render(case=case).all:
        labels = one["metadata"].get("labels", {})
        if not labels:
            continue  # what the user brought
        assert SELECTOR | {"app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"} <= set(labels)
        assert labels["app.kubernetes.io/part-of"] == "headgate"


@pytest.mark.parametrize("case", CASES)
def test_selectors_hold_no_version_and_find_their_pods(case: str) -> None:
    objects = render(case=case)
    pods = {component_of(one): one["spec"]["template"]["metadata"]["labels"] for one in objects.of("Deployment")}
    for one in objects.of("Deployment"):
        selector = one["spec"]["selector"]["matchLabels"]
        assert set(selector) == SELECTOR
        assert selector.items() <= pods[component_of(one)].items()
        assert "helm.sh/chart" not in pods[component_of(one)]
    for service in objects.of("Service"):
        assert any(service["spec"]["selector"].items() <= labels.items() for labels in pods.values())
    for kind in ("PodDisruptionBudget", "PodMonitor"):
        for one in objects.of(kind):
            assert one["spec"]["selector"]["matchLabels"].items() <= pods[component_of(one)].items()
    for one in objects.of("NetworkPolicy"):
        assert one["spec"]["podSelector"]["matchLabels"].items() <= pods[component_of(one)].items()


def test_labels_and_annotations_for_everything() -> None:
    objects = render(case="gateway-extras")
    for one in objects.all:
        if one["metadata"].get("labels"):
            assert one["metadata"]["labels"]["team"] == "platform"
            assert one["metadata"]["annotations"]["example.com/owner"] == "platform"
            assert one["metadata"]["namespace"] == "ai"
    pod = objects.deployment["spec"]["template"]["metadata"]
    assert pod["labels"]["tier"] == "edge"
    assert pod["annotations"]["example.com/note"] == "yes"
    assert objects.deployment["metadata"]["name"] == "llm"


def test_labels_of_the_user_never_break_selectors() -> None:
    objects = render(
        {"commonLabels": {"app.kubernetes.io/name": "mine"}, "podLabels": {"app.kubernetes.io/instance": "x"}}
    )
    selector = objects.deployment["spec"]["selector"]["matchLabels"]
    assert selector["app.kubernetes.io/name"] == "headgate"
    assert selector.items() <= objects.deployment["spec"]["template"]["metadata"]["labels"].items()


def test_services_say_what_they_carry() -> None:
    for mode in ("policy", "istio"):
        ports = render({"mode": mode}).of("Service", "headgate")[0]["spec"]["ports"]
        assert [(one["name"], one["port"], one["appProtocol"]) for one in ports] == [
            ("grpc-extproc", 9001, "grpc"),
            ("grpc-ratelimit", 9002, "grpc"),
        ]
    port = render().of("Service", "headgate")[0]["spec"]["ports"][0]
    assert (port["name"], port["port"], port["targetPort"], port["appProtocol"]) == ("http", 80, 10000, "http")
    port = render(case="gateway-production").of("Service", "headgate")[0]["spec"]["ports"][0]
    assert (port["name"], port["port"], port["appProtocol"]) == ("https", 443, "https")


def test_what_kubernetes_knows_only_later_is_left_out_before() -> None:
    for kube, there in (("1.29", False), ("1.30", True)):
        service = render(case="gateway-production", kube=kube).of("Service", "headgate")[0]
        assert ("trafficDistribution" in service["spec"]) is there


@pytest.mark.parametrize("case", CASES)
def test_a_rollout_takes_no_pod_away_before_its_successor_is_ready(case: str) -> None:
    if case != "sidecar":
        assert render(case=case).deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_a_disruption_budget_from_two_replicas_on() -> None:
    assert not render().of("PodDisruptionBudget")
    for case in ("gateway-devredis", "gateway-production", "gateway-certmanager-keda", "policy"):
        spec = render(case=case).one("PodDisruptionBudget")["spec"]
        assert spec["maxUnavailable"] == 1
        assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_who_scales_owns_the_number_of_replicas() -> None:
    assert render().deployment["spec"]["replicas"] == 1
    for case, kind in (("gateway-production", "HorizontalPodAutoscaler"), ("gateway-certmanager-keda", "ScaledObject")):
        objects = render(case=case)
        assert "replicas" not in objects.deployment["spec"]
        assert objects.one(kind)["spec"]["scaleTargetRef"]["name"] == objects.deployment["metadata"]["name"]
    assert render(case="gateway-production").one("HorizontalPodAutoscaler")["apiVersion"] == "autoscaling/v2"
    scaled = render(case="gateway-certmanager-keda").one("ScaledObject")
    assert 'namespace="ns"' in scaled["spec"]["triggers"][0]["metadata"]["query"]


def test_redis_is_external_unless_the_small_one_is_asked_for() -> None:
    for case in CASES:
        assert bool(render(case=case).of("Deployment", "redis")) is (case == "gateway-devredis")
    objects = render(case="gateway-devredis")
    store = next(one for one in objects.container("headgate")["env"] if one["name"] == "HEADGATE_STORE")
    assert store["value"] == "redis://rel-headgate-redis:6379/0"
    policy = next(one for one in objects.of("NetworkPolicy") if component_of(one) == "redis")
    assert policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == "headgate"


def test_network_policies() -> None:
    assert not render().of("NetworkPolicy")
    spec = render(case="gateway-production").one("NetworkPolicy")["spec"]
    ports = [sorted(port["port"] for port in rule["ports"]) for rule in spec["ingress"]]
    assert ports == [[10000], [9902, 10002]]
    assert spec["ingress"][1]["from"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    ]
    assert [sorted(port["port"] for port in rule["ports"]) for rule in spec["egress"]] == [[53, 53], [443], [6379]]
    # The services are for whoever reaches them, so nobody may who is not named.
    spec = render({"mode": "policy", "config": CONFIG, "networkPolicy": {"enabled": True}}).one("NetworkPolicy")["spec"]
    assert spec["ingress"][0]["from"] == [{"podSelector": {}}]
    egress = render({"networkPolicy": {"enabled": True, "egress": {"enabled": True}}}).one("NetworkPolicy")["spec"][
        "egress"
    ]
    assert [sorted(port["port"] for port in rule["ports"]) for rule in egress] == [[53, 53], [9101]]


def test_one_monitor_and_its_ports() -> None:
    assert not render().of("ServiceMonitor") + render().of("PodMonitor")
    objects = render(case="gateway-production")
    monitor = objects.one("ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    services = [
        one
        for one in objects.of("Service")
        if monitor["spec"]["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items()
    ]
    assert [one["metadata"]["name"] for one in services] == ["rel-headgate-metrics"]
    names = {one["name"]: one["port"] for one in services[0]["spec"]["ports"]}
    assert {(names[one["port"]], one["path"]) for one in monitor["spec"]["endpoints"]} == {
        (10002, "/metrics"),
        (9902, "/stats/prometheus"),
    }
    objects = render(case="gateway-certmanager-keda")
    pods = {
        port["name"]: port["containerPort"]
        for one in (*objects.pod["initContainers"], *objects.pod["containers"])
        for port in one.get("ports", [])
    }
    endpoints = objects.one("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert {(pods[one["port"]], one["path"]) for one in endpoints} == {(10002, "/metrics"), (9902, "/stats/prometheus")}


def _known_metrics() -> set[str]:
    """Every name in the exposition, those of series that are still empty included."""
    text = Metrics().exposition().decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    suffixes = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
    return {name + suffix for name, kind in kinds.items() for suffix in suffixes.get(kind, ())}


def _expressions() -> list[str]:
    objects = render(
        {"config": CONFIG, "monitoring": {"prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}}}
    )
    rules = objects.one("PrometheusRule")["spec"]["groups"][0]["rules"]
    board = json.loads(
        next(one for one in objects.of("ConfigMap") if "headgate.json" in one["data"])["data"]["headgate.json"]
    )
    panels = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [
        *(rule["expr"] for rule in rules),
        *panels,
        *(one.get("query", "") for one in board["templating"]["list"] if one["type"] == "query"),
    ]


def test_alerts_and_dashboard_use_metrics_that_exist() -> None:
    known = _known_metrics()
    words = {"sum", "by", "rate", "histogram_quantile", "max", "min", "topk", "label_values", "le"}
    expressions = _expressions()
    assert len(expressions) > 20
    for expression in expressions:
        used = set(re.findall(r"\b(headgate_\w+)", expression))
        assert used
        assert used <= known
        # Nothing else that could be a metric: labels, strings and durations apart, only functions are left.
        bare = re.sub(r'\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)|"[^"]*"', "", expression)
        assert set(re.findall(r"\b[a-z_]+\b", bare)) - used <= words | {"namespace"}


def test_labels_in_expressions_are_those_of_the_metric() -> None:
    of = {family.name: set(family.label_names) for family in Metrics()._families}
    around = {"namespace", "pod", "le"}
    for expression in _expressions():
        for name, inside in re.findall(r"\b(headgate_\w+?)(?:_total|_bucket|_sum|_count)?\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)(?:=~|!=|=)", inside)) <= of[name] | around
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            names = re.findall(r"\b(headgate_\w+?)(?:_total|_bucket|_sum|_count)?[\[{ )]", expression)
            assert set(grouped.replace(" ", "").split(",")) <= set.union(around, *(of[name] for name in names)), (
                expression
            )


def test_alerts_and_dashboard_are_off() -> None:
    assert not render().of("PrometheusRule")
    assert not [one for one in render().of("ConfigMap") if "headgate.json" in one["data"]]
    rules = render(case="gateway-extras").one("PrometheusRule")["spec"]["groups"][0]["rules"]
    assert rules[-1]["record"] == "headgate:requests:rate5m"
    for rule in rules[:-1]:
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("warning", "critical")


@pytest.mark.parametrize("mode", MODES)
def test_a_sidecar_brings_no_pods(mode: str) -> None:
    objects = render({"mode": mode, "config": CONFIG})
    assert bool(objects.of("Deployment")) is (mode != "sidecar")
    with pytest.raises(ChartError):
        render({"mode": mode, "objects": [{"kind": "x"}]})
