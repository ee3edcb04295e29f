"""headgate.yaml: the documented example works, and every mistake is named with its place and mend."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headgate.render.secrets import check_files, credentials
from headgate.settings import Settings, load_settings, nth_address, pinned
from ratelimit.rules import Rate, Unit
from sidecar.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent
HEX = "65e9b5e7aaca5e3f5d3d5ae0ed6b24d8c4b8aa0dbd3b4b7a1df0f4ec6de0b2f7"
EXAMPLE = f"""\
listen: 127.0.0.1:10000
admin: 127.0.0.1:10001          # health, metrics, status; never the data plane
store: memory://                # redis://… rediss://… unix://…
providers:
  openai: {{dialect: openai, base_url: "http://127.0.0.1:9101/v1", api_key: "${{OPENAI_API_KEY}}"}}
  local:  {{dialect: openai, base_url: "http://127.0.0.1:9102/v1"}}
models:
  gpt-4o: {{provider: openai}}
  fast:
    - {{provider: openai, model: gpt-4o-mini, weight: 80}}
    - {{provider: local, model: llama-3, weight: 20}}
keys:
  - {{name: team-a, sha256: "{HEX}", models: ["*"], limits: {{requests: 60/min, tokens: 100000/min}}}}
  - {{name: team-b, sha256: "{HEX[::-1]}", models: ["fast"], limits: {{requests: 5/min}}}}
"""


def load(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> Settings:
    path = tmp_path / "headgate.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, environment or {})[0]


def problems(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_the_example_works_unchanged(tmp_path: Path) -> None:
    settings = load(tmp_path, EXAMPLE)
    assert settings.keys[0].limits.tokens == Rate(100_000, Unit.MINUTE)
    assert settings.models["fast"].targets[1].model == "llama-3"
    assert settings.providers["openai"].api_key.get_secret_value() == "${OPENAI_API_KEY}"


def test_the_readmes_example_is_this_one(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for index, block in enumerate(blocks):
        text = re.sub(r"<[^>]*>", lambda _: HEX, block, count=1)
        text = re.sub(r"<[^>]*>", HEX[::-1], text)
        assert load(tmp_path, text).models, index


def test_an_empty_file_is_a_gateway_that_admits_nobody(tmp_path: Path) -> None:
    assert load(tmp_path, "").keys == []


def test_keys_of_providers_are_resolved_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "headgate.yaml").write_text(EXAMPLE)
    settings, file = load_settings(tmp_path / "headgate.yaml", {})
    assert list(credentials(settings, file, {"OPENAI_API_KEY": "sk-1"}).values()) == ["Bearer sk-1"]
    with pytest.raises(ConfigError, match=r"headgate.yaml:5: providers.openai.api_key: .*OPENAI_API_KEY is not set"):
        credentials(settings, file, {})
    with pytest.raises(ConfigError, match="spaces or control characters"):
        credentials(settings, file, {"OPENAI_API_KEY": "sk-1\r\nx-evil: 1"})


def test_secrets_stay_out_of_repr(tmp_path: Path) -> None:
    settings = load(tmp_path, EXAMPLE.replace("${OPENAI_API_KEY}", "sk-very-secret"))
    assert "sk-very-secret" not in repr(settings)
    assert "sk-very-secret" not in str(settings.model_dump())


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("dialect: openai, base", "dialect: opnai, base", "headgate.yaml:5: providers.openai.dialect: "),
        ("http://127.0.0.1:9101/v1", "127.0.0.1:9101", "headgate.yaml:5: providers.openai.base_url: '127.0.0.1:9101' is not a base URL (write for example https://api.openai.com/v1)"),
        ("http://127.0.0.1:9101/v1", "http://x:99999/v1", "is not a base URL"),
        ("http://127.0.0.1:9101/v1", "http://u:p@x/v1", "holds no query, fragment or credentials"),
        ("{provider: openai}", "{provider: opena}", "headgate.yaml:8: models.gpt-4o.provider: there is no provider 'opena' (providers are: local, openai)"),
        ("weight: 80", "wieght: 80", "headgate.yaml:10: models.fast.0.wieght: no such key (did you mean `weight`?)"),
        ("weight: 80", "weight: -1", "headgate.yaml:10: models.fast.0.weight: "),
        ('["fast"]', '["fsat"]', "headgate.yaml:14: keys.1.models.0: there is no model 'fsat' (models are: fast, gpt-4o)"),
        ("5/min", "5/moon", "headgate.yaml:14: keys.1.limits.requests: '5/moon' is not a rate (write N/second"),
        ("5/min", "5", "headgate.yaml:14: keys.1.limits.requests: 5 is not a rate"),
        (HEX[::-1], "abc", "headgate.yaml:14: keys.1.sha256: must be the SHA-256 of the key, 64 hex digits (make one with: printf"),
        (HEX[::-1], HEX, "headgate.yaml:14: keys.1.sha256: the same key as 'team-a'"),
        ("name: team-b", "name: team-a", "headgate.yaml:14: keys.1.name: the name 'team-a' stands twice"),
        ("name: team-b", "name: 'a b'", "headgate.yaml:14: keys.1.name: is not a name"),
        ("name: team-b, ", "", "headgate.yaml:14: keys.1.name: is missing (add `name:` here)"),
        ("memory://", "memcached://x", "headgate.yaml:3: store: 'memcached' is no store (use one of memory://"),
        ("listen: 127.0.0.1:10000", "listen: 10000", "headgate.yaml:1: listen: "),
        ("listen: 127.0.0.1:10000", "listen: here:http", "headgate.yaml:1: listen: 'here:http' is not an address"),
        ("listen: 127.0.0.1:10000", "listen: 127.0.0.1:10001", "headgate.yaml:2: admin: the same address as `listen`"),
        ("listen: 127.0.0.1:10000", "listen: gateway.local:80", "'gateway.local' is not an IP address (write 0.0.0.0 for all"),
        ("listen: 127.0.0.1:10000", "listen: 127.0.0.1:0", "port 0 is no place to meet"),
        ("store: memory://", "workers: 2\nlimits: {enforce: in_process}", "headgate.yaml:3: workers: with `limits.enforce: in_process` each worker would count in an embedded store of its own"),
        ("store: memory://", "workers: 0", "headgate.yaml:3: workers: "),
        ("store: memory://", "workers: 3\nservices: {extproc: 'localhost:9002', ratelimit: 'localhost:9004'}", "headgate.yaml:4: services.ratelimit: the same address as `extproc` (give it one of its own (worker N uses port + N))"),
        ("store: memory://", "workers: 3\nservices: {extproc: 'localhost:65534'}", "headgate.yaml:4: services.extproc: no room for 3 ports"),
        ("store: memory://", "limits: {enforce: nowhere}", "headgate.yaml:3: limits.enforce: "),
        ("store: memory://", "services: {tls: {cert: a, key: b, client_ca: c}}", "headgate.yaml:3: services.tls.client_ca: Envoy has nothing to show (set `client_cert` and `client_key`, too)"),
        ("listen: 127.0.0.1:10000", "listen: 10000", "listen: must be text (put it in quotes)"),
        ("memory://", "redis://x:notaport", "headgate.yaml:3: store: not a Redis URL"),
        ("memory://", "unix://", "a unix socket needs a path"),
        ("http://127.0.0.1:9101/v1", "http://exa mple.com/v1", "is not a base URL"),
        ("http://127.0.0.1:9101/v1", "http://999.1.1.1/v1", "is not a base URL"),
        ("http://127.0.0.1:9101/v1", "http://x.test/v1 /y", "is not a base URL"),
        ("store: memory://", "decision_timeout: 5s", "decision_timeout: must be a number (without a unit)"),
        ("store: memory://", f"run_dir: /{'x' * 100}", "too long for the path of a unix socket"),
        ("store: memory://", "max_body: 20 apples", "headgate.yaml:3: max_body: '20 apples' is not a size (write for example 20MiB)"),
        ("store: memory://", "services: {extproc: 'unix://run/x'}", "a unix socket needs an absolute path"),
        ("store: memory://", "stroe: memory://", "headgate.yaml:3: stroe: no such key (did you mean `store`?)"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in EXAMPLE
    assert expected in problems(tmp_path, EXAMPLE.replace(old, new, 1))


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path, EXAMPLE.replace("weight: 80", "weight: x").replace("5/min", "x").replace("store:", "stor:")
    )
    assert len(found.splitlines()) == 3


def test_sizes(tmp_path: Path) -> None:
    for text, size in (("20MiB", 20 << 20), ("5 MB", 5_000_000), ("4096", 4096), ("64kib", 65_536)):
        assert load(tmp_path, f"max_body: {text}").max_body == size


@pytest.mark.parametrize("written", ["${OPENAI_KEY", "$OPENAI_KEY"])
def test_a_reference_that_was_mistyped_is_not_sent_as_a_key(tmp_path: Path, written: str) -> None:
    (tmp_path / "headgate.yaml").write_text(EXAMPLE.replace("${OPENAI_API_KEY}", written))
    settings, file = load_settings(tmp_path / "headgate.yaml", {})
    with pytest.raises(ConfigError, match="looks like a reference"):
        credentials(settings, file, {})


def test_the_engine_and_who_enforces_limits_stay_while_running(tmp_path: Path) -> None:
    running = load(tmp_path, "")
    new, changed = pinned(
        load(tmp_path, "limits: {enforce: in_process, on_error: deny}\nworkers: 2\nstore: redis://x"), running
    )
    assert changed == ["store", "workers", "limits.enforce"]
    assert (new.limits.enforce, new.limits.on_error, new.workers) == ("envoy", "deny", 1)


@pytest.mark.parametrize(
    ("address", "third"),
    [
        ("unix:///run/extproc.sock", "unix:///run/extproc-2.sock"),
        ("unix:///run/extproc", "unix:///run/extproc-2"),
        ("127.0.0.1:9000", "127.0.0.1:9002"),
        ("[::1]:9000", "[::1]:9002"),
    ],
)
def test_each_worker_has_an_address(address: str, third: str) -> None:
    assert (nth_address(address, 0), nth_address(address, 2)) == (address, third)


def test_files_of_tls_are_tried(tmp_path: Path) -> None:
    (tmp_path / "headgate.yaml").write_text(
        "tls: {cert: /no.pem, key: /no.key}\nproviders:\n  p: {dialect: openai, base_url: 'https://x/v1', tls: {ca: /no.pem}}\n"
    )
    settings, file = load_settings(tmp_path / "headgate.yaml", {})
    with pytest.raises(ConfigError) as caught:
        check_files(settings, file)
    assert [problem.path for problem in caught.value.problems] == ["tls", "providers.p.tls.ca"]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("workers: 2\nlimits: {settle: log}", "the log reaches any worker"),
        ("limits: {enforce: in_process, settle: call}", "no rate-limit service to call"),
    ],
)
def test_who_cannot_settle(tmp_path: Path, lines: str, problem: str) -> None:
    assert problem in problems(tmp_path, EXAMPLE + lines + "\n")
