"""envoyproxy/ratelimit's files and variables."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from headgate.importing import ratelimit
from headgate.importing.report import Outcome
from headgate.importing.result import Result
from tests.headgate.importing.imports import SAMPLES, everything, run, settings_of, uncovered, values_of

MESH = SAMPLES / "ratelimit" / "mesh.yaml"
ENV = SAMPLES / "ratelimit.env"


def convert(text: str = "", env: str | None = None, **options: Any) -> Result:
    variables = None if env is None else ratelimit.read_variables(env, "env")
    return ratelimit.convert([("rules.yaml", text or MESH.read_text())], "rules", variables, **options)


def store(env: str) -> str:
    return str(values_of(convert(env=env))["store"])


def outcomes(result: Result, name: str) -> dict[str, Outcome]:
    return {str(entry.path[0]): entry.outcome for entry in result.reports[name]}


def test_limits_of_one_key_become_limits_of_a_key() -> None:
    result = convert()
    assert values_of(result)["keys"] == [
        {
            "name": f"key-{digest[:8]}",
            "sha256": digest,
            "limits": {"requests": limit},
        }
        for digest, limit in (
            (hashlib.sha256(b"sk-acme-written-out").hexdigest(), "100/minute"),
            (hashlib.sha256(b"plain-written-out").hexdigest(), "5/hour"),
        )
    ]
    assert len(settings_of(result).keys) == 2


def test_everything_is_reported_and_no_secret_is_told() -> None:
    result = convert(env=ENV.read_text())
    from sidecar.configfile import parse

    assert uncovered(result, parse(MESH.read_text(), "rules.yaml", {}, folder=Path(), deferred=("*",))) == []
    assert uncovered(result, ratelimit.read_variables(ENV.read_text(), "env")) == []
    assert "written-out" not in everything(result)


def test_the_variables_become_a_store() -> None:
    result = convert(env=ENV.read_text())
    assert values_of(result)["store"] == "redis+sentinel://:${REDIS_AUTH}@s1.internal:26379,s2.internal:26379/mymaster/"
    found = outcomes(result, "env")
    assert found["RUNTIME_ROOT"] is found["REDIS_URL"] is Outcome.KEPT
    assert found["REDIS_PERSECOND_URL"] is found["REDIS_POOL_SIZE"] is Outcome.CHANGED
    assert found["USE_STATSD"] is found["MY_OWN"] is Outcome.MISSING


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ("REDIS_SOCKET_TYPE=tcp\nREDIS_URL=r:6379", "redis://r:6379/"),
        ("REDIS_URL=/run/redis.sock", "unix:///run/redis.sock"),
        ("REDIS_URL=r:6379\nREDIS_TLS=true\nREDIS_AUTH=p", "rediss://:${REDIS_AUTH}@r:6379/"),
        ("REDIS_URL=r:6379\nREDIS_AUTH=me:p", "redis://me:${REDIS_PASSWORD}@r:6379/"),
        ("REDIS_TYPE=CLUSTER\nREDIS_URL=a:1,b:2\nREDIS_AUTH=p", "redis+cluster://:${REDIS_AUTH}@a:1,b:2/"),
        ("REDIS_URL=redis://me:secret@r:6379/3", "redis://me:${REDIS_PASSWORD}@r:6379/3"),
        (
            "REDIS_TYPE=SENTINEL\nREDIS_URL=m,a:1\nREDIS_AUTH=p\nREDIS_SENTINEL_AUTH=q",
            "redis+sentinel://:${REDIS_AUTH}@a:1/m/?sentinel_password=${REDIS_SENTINEL_AUTH}",
        ),
    ],
)
def test_every_kind_of_redis(env: str, url: str) -> None:
    assert store(env) == url
    settings_of(convert(env=env))


def test_without_a_redis_there_is_no_store() -> None:
    assert "store" not in values_of(convert(env="BACKEND_TYPE=memory"))
    assert "store" not in values_of(convert())


def test_variables_that_cannot_be_used_are_reported() -> None:
    result = convert(env="BACKEND_TYPE=memcache\nNEAR_LIMIT_RATIO=7\nREDIS_URL=r:1")
    found = outcomes(result, "env")
    assert found["BACKEND_TYPE"] is found["NEAR_LIMIT_RATIO"] is Outcome.MISSING


def test_envoys_cluster_goes_where_the_service_listens() -> None:
    notes = "\n".join(convert(env="GRPC_PORT=9999\nBACKEND_TYPE=memory").notes)
    cluster = yaml.safe_load(notes[notes.index("clusters:") :])["clusters"][0]
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint == {"address": {"socket_address": {"address": "ratelimit", "port_value": 9999}}}
    assert "pipe: {path: /run/rl.sock}" in "\n".join(convert(env="GRPC_UDS=/run/rl.sock\nBACKEND_TYPE=memory").notes)


def test_the_command(tmp_path: Path) -> None:
    output = tmp_path / "headgate.yaml"
    result = run("ratelimit", str(MESH.parent), "--env", str(ENV), "-o", str(output))
    assert result.exit_code == 0, result.output
    assert "served as it is by `python -m ratelimit`" in result.stderr
    assert "look at this: mesh.tenant: may share its counter" in result.stderr
    assert output.read_text().startswith("# From envoyproxy/ratelimit's files")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("domain: a\ndescriptors: [{key: b, wrong: 1}]", "rules.yaml: config error, unknown key 'wrong'"),
        ("descriptors: []", "rules.yaml: config file cannot have empty domain"),
    ],
)
def test_rules_that_cannot_be_used(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(content)
    result = run("ratelimit", str(tmp_path))
    assert result.exit_code == 1
    assert said in result.stderr
    (tmp_path / "rules.yaml").unlink()
    assert "holds no rule file" in run("ratelimit", str(tmp_path)).stderr
