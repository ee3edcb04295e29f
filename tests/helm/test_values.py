"""What may be said in values, and what is said to whom says it wrongly."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
import yaml

from headgate.demo import DEMO_KEY, demo_config
from sidecar import configfile
from tests.helm.chart import CASES, CHART, CONFIG, ChartError, Json, case_values, render
from tests.helm.chart_readme import README, made, values

SCHEMA: Json = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS: Json = yaml.safe_load((CHART / "values.yaml").read_text())
REDIS = {"url": "redis://redis:6379/0"}
# Whose keys are somebody else's to define.
FREE = {"config", "global", "podSecurityContext", "securityContext", "affinity", "dnsConfig"}


def test_the_readme_is_what_the_comments_and_the_checklist_say() -> None:
    assert README.read_text() == made(README.read_text()), "run `make chart-readme`"


def test_every_value_has_a_comment_above_it() -> None:
    for one in values():
        if not one.comment:
            assert isinstance(one.default, dict), f"values.yaml:{one.line}: {one.path} has no comment"
            assert one.default, one.path


def test_the_schema_is_one() -> None:
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(DEFAULTS, SCHEMA, jsonschema.Draft7Validator)
    for case in CASES:
        jsonschema.validate({**DEFAULTS, **case_values(case)}, SCHEMA, jsonschema.Draft7Validator)


def _resolved(schema: Json) -> Json:
    reference = schema.get("$ref")
    return dict(SCHEMA["definitions"][reference.rpartition("/")[2]]) if reference else schema


def test_the_schema_knows_every_value_and_no_other() -> None:
    def walk(schema: Json, default: Any, path: str) -> None:
        schema = _resolved(schema)
        if isinstance(default, dict) and "properties" in schema:
            assert set(schema["properties"]) >= set(default), path
            if path != "global" and not path.endswith("esources"):
                assert set(schema["properties"]) == set(default), path
            for name, inner in default.items():
                walk(schema["properties"].get(name, {}), inner, f"{path}.{name}".strip("."))

    walk(SCHEMA, DEFAULTS, "")


def test_the_schema_is_closed_wherever_we_define_the_keys() -> None:
    def walk(schema: Json, path: str) -> None:
        schema = _resolved(schema)
        if schema.get("type") == "object" and "properties" in schema and path != "global":
            assert schema["additionalProperties"] is False, path
        for name, inner in schema.get("properties", {}).items():
            walk(inner, f"{path}.{name}".strip("."))

    walk(SCHEMA, "")
    free = {name for name, one in SCHEMA["properties"].items() if one == {"type": "object"}}
    assert free | {"global"} == FREE


# What is wrong, and what the message must name.
WRONG: list[tuple[Json, str]] = [
    ({"mode": "gatway"}, "mode"),
    ({"replica": 2}, "replica"),
    ({"replicas": "2"}, "replicas"),
    ({"replicas": -1}, "replicas"),
    ({"image": {"tagg": "x"}}, "tagg"),
    ({"image": {"digest": "abc"}}, "digest"),
    ({"image": {"tag": "a b"}}, "tag"),
    ({"image": {"pullPolicy": "always"}}, "pullPolicy"),
    ({"service": {"type": "ExternalName"}}, "type"),
    ({"service": {"port": 70000}}, "port"),
    ({"service": {"annotations": {"a": 1}}}, "annotations"),
    ({"service": {"loadBalancerSourceRanges": ["10.0.0.1"]}}, "loadBalancerSourceRanges"),
    ({"providerKeys": {"openai": {"existingSecret": "s"}}}, "key"),
    ({"providerKeys": {"openai": "sk-secret"}}, "openai"),
    ({"providerKeys": {"../x": {"existingSecret": "s", "key": "k"}}}, r"\.\./x"),
    ({"store": {"url": "redis://user:secret@redis:6379"}}, "url"),
    ({"store": {"url": "mysql://db"}}, "url"),
    ({"failOpen": {"extproc": True}}, "extproc"),
    ({"drain": {"timeout": 0}}, "timeout"),
    ({"drain": {"timeout": "300s"}}, "timeout"),
    ({"tls": {"existingSecret": "Not A Name"}}, "existingSecret"),
    ({"grpcTls": {"certManager": {"issuerRef": {"kind": "Isuer"}}}}, "kind"),
    ({"resources": {"requests": {"cpu": "much"}}}, "cpu"),
    ({"resources": {"limit": {}}}, "limit"),
    ({"bind": "localhost"}, "bind"),
    ({"fullnameOverride": "A" * 70}, "fullnameOverride"),
    ({"commonLabels": {"a": True}}, "commonLabels"),
    ({"extraEnv": {"A": "b"}}, "extraEnv"),
    ({"objects": [{"kind": "EnvoyFilter"}]}, "objects"),
    ({"pdb": {"maxUnavailable": 0}}, "maxUnavailable"),
    ({"strategy": {"maxSurge": 0}}, "maxSurge"),
    ({"monitoring": {"interval": "30"}}, "interval"),
    ({"workers": 500}, "workers"),
]


@pytest.mark.parametrize(("wrong", "named"), WRONG, ids=[json.dumps(one)[:60] for one, _ in WRONG])
def test_a_wrong_value_is_named(wrong: Json, named: str) -> None:
    with pytest.raises(ChartError) as refused:
        render({"config": CONFIG, **wrong})
    said = str(refused.value)
    assert "values don't meet the specifications of the schema" in said
    assert re.search(named, said), said


# Values that are right each by itself, and the words of the mend.
TOGETHER: list[tuple[Json, str]] = [
    ({"networkPolicy": {"egress": {"enabled": True}}}, "networkPolicy.egress.enabled: has no effect"),
    ({"extraEnv": [{"name": "HEADGATE_LISTEN", "value": "x"}]}, "extraEnv: HEADGATE_LISTEN is the chart's"),
    ({"service": {"nodePort": 30000}}, "service.nodePort: has no effect"),
    ({"demo": {"enabled": False}}, "config: is empty"),
    ({"replicas": 2, "store": REDIS}, "demonstration, whose key everybody knows"),
    ({"grpcTls": {"enabled": True, "existingSecret": "s"}, "mode": "policy"}, "demonstration"),
    ({"config": CONFIG, "existingConfigMap": "mine"}, "keep one of them"),
    ({"config": {**CONFIG, "listen": "0.0.0.0:80"}}, r"config\.listen: .*service\.port"),
    ({"config": {**CONFIG, "store": "redis://a"}}, r"config\.store: .*store\.url"),
    ({"config": {**CONFIG, "workers": 4}}, r"config\.workers"),
    ({"config": {**CONFIG, "services": {"extproc": "0.0.0.0:9001"}}}, r"config\.services"),
    ({"config": {**CONFIG, "limits": {"on_error": "deny"}}}, r"failOpen\.ratelimit"),
    (
        {"config": {**CONFIG, "providers": {"openai": {"preset": "openai", "api_key": "sk-secret"}}}},
        r"config\.providers\.openai: a provider's key must not stand in a ConfigMap",
    ),
    (
        {"config": {**CONFIG, "providers": {"openai": {"preset": "openai", "api_keys": ["${A}", "sk-secret"]}}}},
        "must not stand in a ConfigMap",
    ),
    (
        {"config": {**CONFIG, "providers": {"openai": {"api_key": "${file:/etc/headgate-keys/openai}"}}}},
        r"there is no `providerKeys\.openai`",
    ),
    ({"config": CONFIG, "replicas": 2}, "every replica counts for itself"),
    ({"config": CONFIG, "autoscaling": {"enabled": True}}, "every replica counts for itself"),
    (
        {
            "config": CONFIG,
            "store": REDIS,
            "autoscaling": {"enabled": True},
            "keda": {"enabled": True, "triggers": [{}]},
        },
        "only one can scale",
    ),
    ({"config": CONFIG, "store": REDIS, "keda": {"enabled": True}}, r"keda\.triggers: is empty"),
    ({"config": CONFIG, "store": REDIS, "autoscaling": {"enabled": True, "targetCPU": 0}}, "scales by nothing"),
    ({"config": CONFIG, "store": REDIS, "autoscaling": {"enabled": True, "minReplicas": 20}}, "more than maxReplicas"),
    (
        {"config": CONFIG, "monitoring": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}},
        "counted twice",
    ),
    ({"config": CONFIG, "store": REDIS, "devRedis": {"enabled": True}}, "store.url and devRedis are set"),
    ({"config": CONFIG, "store": {**REDIS, "existingSecret": {"name": "s"}}}, "store.existingSecret are set"),
    ({"config": CONFIG, "store": {"auth": {"existingSecret": "s"}}}, "go with a Redis"),
    ({"config": CONFIG, "store": {**REDIS, "tls": {"existingSecret": "s"}}}, "write rediss://"),
    ({"config": CONFIG, "store": {"url": "rediss://r", "tls": {"existingSecret": "s", "certKey": "c"}}}, "keyKey"),
    ({"config": CONFIG, "mode": "policy", "workers": 2}, "set `replicas`"),
    ({"config": CONFIG, "workers": 2}, "request as many CPUs"),
    ({"config": CONFIG, "mode": "policy", "tls": {"existingSecret": "s"}}, "no listener in mode policy"),
    ({"config": CONFIG, "tls": {"existingSecret": "s", "certManager": {"enabled": True}}}, "keep one of them"),
    ({"config": CONFIG, "tls": {"certManager": {"enabled": True}}}, "needs `issuerRef.name` and `dnsNames`"),
    ({"config": CONFIG, "grpcTls": {"enabled": True, "existingSecret": "s"}}, "not on the network"),
    ({"config": CONFIG, "mode": "policy", "grpcTls": {"enabled": True}}, "name a Secret"),
    ({"config": CONFIG, "objects": ["a: b"]}, "attaches nothing"),
    (
        {"mode": "envoy-gateway", "config": {**CONFIG, "limits": {"enforce": "envoy"}}},
        "no other rate-limit service than its own",
    ),
    ({"config": CONFIG, "service": {"headless": True}}, "service.headless"),
    ({"config": CONFIG, "envoy": {"stock": {"enabled": True, "preStopSleep": 4000}}}, "raise `drain.timeout`"),
]


@pytest.mark.parametrize(("wrong", "said"), TOGETHER, ids=[said[:50] for _, said in TOGETHER])
def test_values_that_contradict_each_other_are_refused_with_the_mend(wrong: Json, said: str) -> None:
    with pytest.raises(ChartError, match=said):
        render(wrong)


def test_no_values_are_the_demonstration_of_headgate_up() -> None:
    ours = yaml.safe_load(demo_config(9101))
    for name in ("listen", "admin", "store"):
        del ours[name]
    ours["providers"]["fake"]["base_url"] = "http://rel-headgate-fake-provider:9101/v1"
    assert render().config == ours
    assert DEMO_KEY == "sk-headgate-demo"


# What one YAML takes for text and another for something else.
ODD = ("yes", "on", "n", "1e3", "0o14", "0123", "1:30", "1_000", "2026-01-01", "~", ".inf", "0x1F", "12345678901e5")


def test_numbers_and_texts_arrive_as_they_were_written() -> None:
    config = {
        **CONFIG,
        "max_body": 20971520,
        "default_completion_tokens": 1000000,
        "models": {
            "{{ .Release.Name }}": {"provider": "local"},
            **{name: {"provider": "local", "model": name} for name in ODD},
        },
        "request_timeout": 0.5,
    }
    text = render({"config": config}).one("ConfigMap")["data"]["headgate.yaml"]
    assert configfile.parse(text, "headgate.yaml", {}, folder=CHART).values == config
