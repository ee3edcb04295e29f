"""How the pods are built: security, probes, files, the order in which they begin and end."""

from __future__ import annotations

import re

import pytest
import yaml

from headgate.render.layout import Layout
from tests.helm.chart import CASES, CONFIG, GRPC_MODES, MODES, Json, Objects, containers, notes, render, variables

REDIS = {"url": "redis://redis:6379/0"}
CHANGED = {**CONFIG, "models": {"other": {"provider": "local"}}}


def _of_ours(pod: Json) -> list[Json]:
    """The containers that the chart itself makes."""
    return [one for one in containers(pod) if one["name"] not in ("wait", "logger")]


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_restricted(case: str) -> None:
    objects = render(case=case)
    for pod in objects.pods:
        for one in _of_ours(pod):
            security = {**pod.get("securityContext", {}), **one["securityContext"]}
            assert security["runAsNonRoot"] is True
            assert security["runAsUser"] == 65532
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            assert one["securityContext"]["allowPrivilegeEscalation"] is False
            assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert one["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("case", CASES)
def test_no_pod_has_a_token_or_service_links(case: str) -> None:
    objects = render(case=case)
    patches = [yaml.safe_load(one["data"]["attach.yaml"]) for one in objects.of("ConfigMap", "sidecar")]
    for pod in objects.pods:
        if pod in [one["spec"]["template"]["spec"] for one in patches]:
            continue  # somebody else's pod
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
    for account in objects.of("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize("case", CASES)
def test_every_container_requests_and_has_a_memory_limit_but_no_cpu_limit(case: str) -> None:
    for pod in render(case=case).pods:
        for one in containers(pod):
            assert set(one["resources"]["requests"]) == {"cpu", "memory"}
            assert set(one["resources"]["limits"]) == {"memory"}


@pytest.mark.parametrize("case", CASES)
def test_what_changes_is_mounted_as_a_folder(case: str) -> None:
    for pod in render(case=case).pods:
        volumes = {one["name"]: one for one in pod.get("volumes", [])}
        for one in containers(pod):
            for mount in one.get("volumeMounts", []):
                assert "subPath" not in mount
                assert mount["name"] in volumes
                if {"configMap", "secret", "projected"} & set(volumes[mount["name"]]):
                    assert mount["readOnly"] is True


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_has_a_place_and_an_end(case: str) -> None:
    objects = render(case=case)
    for pod in objects.pods:
        for volume in pod.get("volumes", []):
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"]
    mounts = {one["mountPath"]: one["name"] for one in objects.container("headgate")["volumeMounts"]}
    assert mounts["/tmp"] == "headgate-tmp"
    # Headgate makes /run/headgate itself: the folder of a volume is root's, and it wants one that nobody else can enter.
    assert mounts["/run"] == "headgate-run"
    assert variables(objects.container("headgate"))["HEADGATE_RUN_DIR"] == "/run/headgate"


def test_envoy_and_headgate_share_the_run_folder_in_memory() -> None:
    objects = render()
    volume = next(one for one in objects.pod["volumes"] if one["name"] == "headgate-run")
    assert volume["emptyDir"]["medium"] == "Memory"
    for name in ("headgate-check", "headgate", "envoy"):
        assert {"name": "headgate-run", "mountPath": "/run"} in objects.container(name)["volumeMounts"]
    names = {one["name"] for one in objects.container("envoy")["volumeMounts"]}
    assert names == {"headgate-run", "headgate-tmp"}  # neither the configuration nor the providers' keys


def test_one_image_and_its_commands() -> None:
    objects = render()
    images = {one["image"] for pod in objects.pods for one in containers(pod)}
    assert images == {"ghcr.io/headgate/headgate:0.1.0"}
    commands = {one["name"]: one["command"] for one in containers(objects.pod)}
    assert commands["headgate-check"] == ["headgate", "render", "files", "-c", "/etc/headgate/headgate.yaml"]
    assert commands["headgate"] == ["headgate", "up", "-c", "/etc/headgate/headgate.yaml"]
    assert commands["envoy"] == ["headgate", "envoy"]
    commands = {one["name"]: one["command"] for one in containers(render({"mode": "policy"}).pod)}
    assert commands["headgate-check"] == ["headgate", "check", "/etc/headgate/headgate.yaml"]
    assert commands["headgate"] == ["headgate", "serve", "-c", "/etc/headgate/headgate.yaml"]


def test_a_digest_wins_and_a_registry_of_all_wins_over_its_own() -> None:
    digest = "sha256:" + "1" * 64
    values = {"image": {"registry": "r.example.com", "tag": "9", "digest": digest}, "imagePullSecrets": [{"name": "r"}]}
    objects = render(values)
    assert objects.container("headgate")["image"] == f"r.example.com/headgate/headgate@{digest}"
    assert all(pod["imagePullSecrets"] == [{"name": "r"}] for pod in objects.pods)
    assert render({"image": {"tag": "9"}}).container("headgate")["image"] == "ghcr.io/headgate/headgate:9"
    assert render({"image": {"registry": ""}}).container("headgate")["image"] == "headgate/headgate:0.1.0"
    mirrored = render({"config": CONFIG, "global": {"imageRegistry": "mirror"}, "devRedis": {"enabled": True}})
    assert {one["image"] for pod in mirrored.pods for one in containers(pod)} == {
        "mirror/headgate/headgate:0.1.0",
        "mirror/library/redis:8.2-alpine",
    }


def test_the_configuration_is_checked_before_anything_runs() -> None:
    for mode in MODES:
        pods = [one for one in render({"mode": mode}).pods if "initContainers" in one]
        assert [one["initContainers"][0]["name"] for one in pods] == ["headgate-check"]


def test_headgate_is_up_before_envoy_and_ends_after_it() -> None:
    objects = render()
    init = {one["name"]: one for one in objects.pod["initContainers"]}
    assert list(init) == ["headgate-check", "headgate"]
    assert init["headgate"]["restartPolicy"] == "Always"
    assert init["headgate"]["startupProbe"]["httpGet"] == {"path": "/healthz", "port": 10002}
    assert [one["name"] for one in objects.pod["containers"]] == ["envoy"]
    for mode in GRPC_MODES:
        assert [one["name"] for one in render({"mode": mode}).pod["containers"]] == ["headgate"]


def test_grpc_probes_ask_by_name() -> None:
    for mode in GRPC_MODES:
        one = render({"mode": mode}).container("headgate")
        assert one["readinessProbe"]["grpc"] == {"port": 9001, "service": "envoy.service.ext_proc.v3.ExternalProcessor"}
    for mode in ("policy", "istio"):
        one = render({"mode": mode}).container("headgate")
        assert one["startupProbe"]["grpc"] == {"port": 9002, "service": "envoy.service.ratelimit.v3.RateLimitService"}
    assert "httpGet" in render(case="policy-mtls").container("headgate")["readinessProbe"]


def test_a_rate_limit_service_that_is_not_there_is_not_asked() -> None:
    in_process = {"mode": "policy", "config": {**CONFIG, "limits": {"enforce": "in_process"}}}
    for values in ({"mode": "envoy-gateway", "config": CONFIG}, in_process):
        objects = render({**values, "networkPolicy": {"enabled": True}})
        assert "httpGet" in objects.container("headgate")["startupProbe"]
        assert [one["port"] for one in objects.of("Service", "headgate")[0]["spec"]["ports"]] == [9001]
        assert [one["port"] for one in objects.one("NetworkPolicy")["spec"]["ingress"][0]["ports"]] == [9001]
    # Envoy Gateway asks no other rate-limit service than its own.
    told = variables(render({"mode": "envoy-gateway", "config": CONFIG}).container("headgate"))
    assert told["HEADGATE_LIMITS__ENFORCE"] == "in_process"
    # What somebody else's file says is not known.
    assert "httpGet" in render({"mode": "policy", "existingConfigMap": "mine"}).container("headgate")["startupProbe"]


def test_probes_reach_what_the_kubelet_can_reach() -> None:
    """A sidecar's services listen on 127.0.0.1, where no kubelet comes."""
    one = render(case="sidecar").container("headgate")
    assert variables(one)["HEADGATE_SERVICES__EXTPROC"] == "127.0.0.1:9001"
    assert all("grpc" not in one[name] for name in ("startupProbe", "readinessProbe", "livenessProbe"))


@pytest.mark.parametrize("case", CASES)
def test_liveness_never_asks_for_the_store(case: str) -> None:
    assert render(case=case).container("headgate")["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": 10002}


def test_envoy_is_asked_on_a_listener_of_its_own_and_its_admin_interface_is_not_there() -> None:
    objects = render()
    envoy = objects.container("envoy")
    assert {one["containerPort"] for one in envoy["ports"]} == {10000, 9902}
    assert envoy["readinessProbe"]["httpGet"] == {"path": "/ready", "port": 9902}
    # An Envoy that drains is not ready, and lives.
    assert envoy["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": 9902}
    told = variables(objects.container("headgate"))
    assert told["HEADGATE_ADMIN"] == "127.0.0.1:10001"
    assert told["HEADGATE_ENVOY__STATS"] == "0.0.0.0:9902"
    ports = {port["port"] for one in objects.of("Service") for port in one["spec"]["ports"]}
    assert ports == {80, 9101, 10002, 9902}


@pytest.mark.parametrize("case", CASES)
def test_a_pod_ends_in_order(case: str) -> None:
    objects = render(case=case)
    pod = next(iter(objects.pods)) if case == "sidecar" else objects.pod
    told = variables(objects.container("headgate"))
    grace = int(told["HEADGATE_DRAIN_TIMEOUT"])
    assert grace < pod["terminationGracePeriodSeconds"]
    for one in containers(pod):
        stop = one.get("lifecycle", {}).get("preStop", {})
        if "exec" in stop:
            command = stop["exec"]["command"]
            assert command[:2] == ["headgate", "drain"]
            longest = int(command[command.index("--timeout") + 1])
            assert int(told["HEADGATE_DRAIN_DELAY"]) < longest < grace
        if "sleep" in stop:
            assert stop["sleep"]["seconds"] < grace


def test_the_longest_stream_may_finish() -> None:
    for timeout in (300, 900):
        objects = render({"config": CONFIG, "drain": {"timeout": timeout, "delay": 7}})
        command = objects.container("envoy")["lifecycle"]["preStop"]["exec"]["command"]
        assert int(command[command.index("--timeout") + 1]) == timeout + 7
    assert int(variables(render().container("headgate"))["HEADGATE_DRAIN_TIMEOUT"]) >= 300
    assert render(case="gateway-stock-envoy").container("envoy")["lifecycle"]["preStop"] == {"sleep": {"seconds": 120}}
    stock = {"config": CONFIG, "envoy": {"stock": {"enabled": True}}}
    assert render(stock).container("envoy")["lifecycle"]["preStop"]["sleep"]["seconds"] == 305


def test_an_envoy_of_ones_own_reads_what_headgate_writes() -> None:
    from pathlib import Path

    envoy = render(case="gateway-stock-envoy").container("envoy")
    assert envoy["image"] == "docker.io/envoyproxy/envoy:v1.40.0"
    assert envoy["command"][:3] == ["envoy", "-c", str(Layout(Path("/run/headgate")).bootstrap)]
    assert envoy["command"][envoy["command"].index("--concurrency") + 1] == "2"


@pytest.mark.parametrize(
    ("cpu", "workers"), [("500m", "1"), ("1", "1"), (2, "2"), ("2500m", "2"), (3.5, "3"), ("4", "4")]
)
def test_workers_follow_the_cpu_request(cpu: object, workers: str) -> None:
    objects = render({"resources": {"requests": {"cpu": cpu, "memory": "1Gi"}, "limits": {"memory": "1Gi"}}})
    assert variables(objects.container("headgate"))["HEADGATE_WORKERS"] == workers


@pytest.mark.parametrize(("cpu", "threads"), [("500m", "1"), ("1", "1"), (2, "2"), ("2500m", "3")])
def test_envoys_threads_follow_the_cpu_request(cpu: object, threads: str) -> None:
    objects = render({"envoy": {"resources": {"requests": {"cpu": cpu, "memory": "1Gi"}, "limits": {"memory": "1Gi"}}}})
    assert variables(objects.container("headgate-check"))["HEADGATE_ENVOY__CONCURRENCY"] == threads


def test_modes_behind_one_port_have_one_worker() -> None:
    big = {"resources": {"requests": {"cpu": "4", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}}
    for mode in GRPC_MODES:
        assert variables(render({"mode": mode, **big}).container("headgate"))["HEADGATE_WORKERS"] == "1"


def _annotations(objects: Objects) -> Json:
    return dict(objects.deployment["spec"]["template"]["metadata"]["annotations"])


def test_a_change_of_the_configuration_replaces_pods_only_when_it_is_not_taken_by_running_ones() -> None:
    hot, cold = {"config": CONFIG}, {"config": CONFIG, "reload": {"hot": False}}
    assert "checksum/config" not in _annotations(render(hot))
    assert render(hot).deployment == render({**hot, "config": CHANGED}).deployment
    assert (
        _annotations(render(cold))["checksum/config"]
        != _annotations(render({**cold, "config": CHANGED}))["checksum/config"]
    )


def test_providers_keys_are_files_that_may_change() -> None:
    objects = render(case="gateway-production")
    volume = next(one for one in objects.pod["volumes"] if one["name"] == "headgate-keys")
    assert volume["projected"]["sources"] == [
        {"secret": {"name": "provider-keys", "items": [{"key": "backup", "path": "backup"}]}},
        {"secret": {"name": "provider-keys", "items": [{"key": "openai", "path": "openai"}]}},
    ]
    for name in ("headgate-check", "headgate"):
        assert {"name": "headgate-keys", "mountPath": "/etc/headgate-keys", "readOnly": True} in objects.container(
            name
        )["volumeMounts"]


@pytest.mark.parametrize("case", CASES)
def test_no_secret_is_made_and_none_is_written_down(case: str) -> None:
    objects = render(case=case)
    assert not objects.of("Secret")
    for pod in objects.pods:
        for one in containers(pod):
            for variable in one.get("env", []):
                if re.search("PASSWORD|USERNAME|TOKEN", variable["name"]):
                    assert "secretKeyRef" in variable["valueFrom"]
                if variable["name"] == "KEY" and "value" in variable:
                    assert case == "default"  # the demonstration's key, which everybody knows


def test_mtls_between_envoy_and_the_services() -> None:
    for case in ("policy-mtls", "policy-certmanager"):
        objects = render(case=case)
        told = variables(objects.container("headgate"))
        assert told["HEADGATE_SERVICES__TLS__CLIENT_CA"] == "/etc/headgate-grpc/ca.crt"
        assert told["HEADGATE_SERVICES__TLS__NAME"] == "rel-headgate.ns.svc"
        secret = next(one for one in objects.pod["volumes"] if one["name"] == "headgate-grpc")["secret"]["secretName"]
        assert secret == {"policy-mtls": "headgate-grpc", "policy-certmanager": "rel-headgate-grpc"}[case]
    server, client = render(case="policy-certmanager").of("Certificate")
    assert server["spec"]["secretName"] == "rel-headgate-grpc"
    assert told["HEADGATE_SERVICES__TLS__NAME"] in server["spec"]["dnsNames"]
    assert client["spec"]["usages"] == ["digital signature", "key encipherment", "client auth"]


def test_the_gateways_certificate() -> None:
    objects = render(case="gateway-certmanager-keda")
    assert objects.one("Certificate")["spec"]["dnsNames"] == ["llm.example.com"]
    assert variables(objects.container("headgate"))["HEADGATE_TLS__CERT"] == "/etc/headgate-tls/tls.crt"
    for name in ("headgate-check", "headgate", "envoy"):
        assert "headgate-tls" in {one["name"] for one in objects.container(name)["volumeMounts"]}


def test_failing_open_is_said_for_every_filter() -> None:
    assert variables(render().container("headgate"))["HEADGATE_LIMITS__ON_ERROR"] == "allow"
    denied = render({"failOpen": {"ratelimit": False}})
    assert variables(denied.container("headgate"))["HEADGATE_LIMITS__ON_ERROR"] == "deny"


def test_whoever_knows_only_old_pods_gets_new_connections() -> None:
    for mode in GRPC_MODES:
        assert variables(render({"mode": mode}).container("headgate"))["HEADGATE_SERVICES__MAX_CONNECTION_AGE"] == "300"
    assert render(case="policy").of("Service", "headgate")[0]["spec"]["clusterIP"] == "None"


def test_additions_are_expanded_and_stand_where_they_belong() -> None:
    objects = render(case="gateway-extras")
    names = [one["name"] for one in objects.pod["initContainers"]]
    assert names == ["wait", "headgate-check", "headgate"]
    assert [one["name"] for one in objects.pod["containers"]] == ["envoy", "logger"]
    assert variables(objects.container("headgate"))["RELEASE"] == "rel"
    assert objects.container("headgate")["envFrom"] == [{"secretRef": {"name": "rel-more"}}]
    assert {"name": "ca", "configMap": {"name": "rel-ca"}} in objects.pod["volumes"]
    for name in ("headgate-check", "headgate", "envoy"):
        assert {"name": "ca", "mountPath": "/etc/ca", "readOnly": True} in objects.container(name)["volumeMounts"]
    assert {"rel-ca", "llm-text"} <= {one["metadata"]["name"] for one in objects.of("ConfigMap")}
    assert {"name": "headgate-config", "configMap": {"name": "my-headgate"}} in objects.pod["volumes"]


def test_where_pods_go() -> None:
    pod = render(case="gateway-extras").pod
    assert pod["tolerations"][0]["key"] == "llm"
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert "nodeAffinity" in pod["affinity"]
    spread = render(case="gateway-production").pod["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    selector = render(case="gateway-production").deployment["spec"]["selector"]["matchLabels"]
    assert all(one["labelSelector"]["matchLabels"] == selector for one in spread)


def test_the_sidecar_is_attached_by_a_patch_that_can_be_taken_back() -> None:
    data = render(case="sidecar").one("ConfigMap", "sidecar")["data"]
    attach, detach = (yaml.safe_load(data[name])["spec"]["template"]["spec"] for name in ("attach.yaml", "detach.yaml"))
    for kind in ("initContainers", "volumes"):
        assert [one["name"] for one in attach[kind]] == [one["name"] for one in detach[kind]]
        assert all(one["$patch"] == "delete" for one in detach[kind])
    # In a pod of somebody else there is no group of ours.
    keys = next(one for one in attach["volumes"] if one["name"] == "headgate-keys")
    assert keys["projected"]["defaultMode"] == 0o444
    assert "patch deployment edge" in notes(case="sidecar")
