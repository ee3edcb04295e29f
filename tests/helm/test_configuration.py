"""What the pods are told is what Headgate takes: every case's headgate.yaml and environment, checked by Headgate itself."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from headgate.cli import app
from headgate.settings import Settings
from tests.helm.chart import CASES, CONFIG, GRPC_MODES, MODES, Json, Objects, containers, render
from tests.sidecar.certificates import Authority

SECRETS = {
    ("redis-url", "url"): "rediss://user:p%40ss@redis:6379/0",
    ("redis-credentials", "username"): "headgate",
    ("redis-credentials", "password"): "p%40ss%2Fword",
    ("redis-credentials", "sentinel"): "s3cret",
    ("openai", "key"): "sk-1",
}
_CONFIG_OF_OTHERS = {**CONFIG, "providers": {"local": {"preset": "openai"}}}


def _is_setting(variable: str) -> bool:
    section, *rest = variable.removeprefix("HEADGATE_").lower().split("__")
    if section not in Settings.model_fields:
        return False
    inner = Settings.model_fields[section].annotation
    for name in rest:
        found = [one for one in (inner, *typing.get_args(inner)) if hasattr(one, "model_fields")]
        if not found or name not in found[0].model_fields:
            return False
        inner = found[0].model_fields[name].annotation
    return True


def _environment(container: Json) -> dict[str, str]:
    """As the kubelet makes it: Secrets read, `$(NAME)` of earlier variables replaced."""
    found: dict[str, str] = {}
    for one in container["env"]:
        value = one.get("value")
        if value is None:
            reference = one["valueFrom"]["secretKeyRef"]
            value = SECRETS[reference["name"], reference["key"]]
        found[one["name"]] = re.sub(r"\$\(([A-Z_]+)\)", lambda match: found.get(match[1], match[0]), value)
    return found


def _files(folder: Path) -> None:
    """What stands in the mounted Secrets."""
    authority = Authority()
    for name in ("keys", "tls", "grpc", "store"):
        (folder / name).mkdir()
        certificate, key = authority.sign()
        for file, content in (("tls.crt", certificate), ("tls.key", key), ("ca.crt", authority.pem)):
            (folder / name / file).write_bytes(content)
    for name in ("openai", "backup"):
        (folder / "keys" / name).write_text("sk-of-a-provider\n")


def _here(text: str, folder: Path) -> str:
    """Mounted folders as they are on this machine."""
    return re.sub(r"/etc/headgate-(keys|tls|grpc|store)", lambda match: str(folder / match[1]), text)


def _check(objects: Objects, folder: Path) -> Result:
    _files(folder)
    configs = [one for one in objects.of("ConfigMap") if "headgate.yaml" in one["data"]]
    text = configs[0]["data"]["headgate.yaml"] if configs else yaml.safe_dump(_CONFIG_OF_OTHERS)
    (folder / "headgate.yaml").write_text(_here(text, folder))
    check = objects.container("headgate-check")
    ours = {name: _here(value, folder) for name, value in _environment(check).items()}
    return CliRunner().invoke(app, ["check", str(folder / "headgate.yaml")], env=ours)


@pytest.mark.parametrize("case", CASES)
def test_headgate_takes_the_configuration(case: str, tmp_path: Path) -> None:
    done = _check(render(case=case), tmp_path)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("mode", MODES)
def test_headgate_takes_the_demonstration_in_every_mode(mode: str, tmp_path: Path) -> None:
    done = _check(render({"mode": mode}), tmp_path)
    assert done.exit_code == 0, done.output
    assert ("open to whoever reaches it" in done.output) == (mode in GRPC_MODES)


def test_headgate_names_what_is_wrong(tmp_path: Path) -> None:
    done = _check(render({"config": {**CONFIG, "modles": {}}}), tmp_path)
    assert done.exit_code == 1
    assert "did you mean `models`?" in done.output


@pytest.mark.parametrize("case", CASES)
def test_every_variable_of_ours_is_a_setting(case: str) -> None:
    for pod in render(case=case).pods:
        for container in containers(pod):
            for one in container.get("env", []):
                if one["name"].startswith("HEADGATE_"):
                    assert _is_setting(one["name"]), one["name"]


def test_credentials_stand_where_the_url_wants_them() -> None:
    found = _environment(render(case="gateway-production").container("headgate"))
    assert found["HEADGATE_STORE"] == (
        "rediss://headgate:p%40ss%2Fword@redis.example.com:6379/0?socket_timeout=0.2&ssl_ca_certs=/etc/headgate-store/ca.crt"
    )
    found = _environment(render(case="gateway-sentinel").container("headgate"))
    assert found["HEADGATE_STORE"] == (
        "rediss+sentinel://:p%40ss%2Fword@sentinel-0.redis:26379,sentinel-1.redis:26379/mymaster/0?sentinel_password=s3cret"
        "&ssl_ca_certs=/etc/headgate-store/ca.crt&ssl_certfile=/etc/headgate-store/tls.crt&ssl_keyfile=/etc/headgate-store/tls.key"
    )
    assert _environment(render(case="policy").container("headgate"))["HEADGATE_STORE"].startswith("redis+cluster://")
    assert (
        _environment(render(case="gateway-certmanager-keda").container("headgate"))["HEADGATE_STORE"]
        == SECRETS["redis-url", "url"]
    )
