"""What may be wrong with the settings of the cache, and how it is said."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import pytest

from headgate.settings import Settings, load_settings, pinned
from sidecar.errors import ConfigError

KEY = base64.b64encode(bytes(range(32))).decode()
FILE = """\
store: memory://
providers: {p: {dialect: openai, base_url: "http://127.0.0.1:9/v1"}}
models:
  m:
    targets: [{provider: p}]
    cache: {ttl: 60}
keys:
  - {name: a, sha256: "%s"}
cache:
  encryption_keys: ["%s"]
""" % ("0" * 64, KEY)  # noqa: UP031


def load(tmp_path: Path, text: str, **environment: str) -> Settings:
    path = tmp_path / "headgate.yaml"
    path.write_text(text)
    return load_settings(path, environment)[0]


def problems(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, text)
    assert KEY not in str(raised.value)
    return "\n".join(str(one).replace(str(tmp_path) + "/", "") for one in raised.value.problems)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (KEY, "secret", "headgate.yaml:10: cache.encryption_keys.0: the key is"),
        (KEY, "", "headgate.yaml:10: cache.encryption_keys.0: the key is empty (make one with: openssl rand -base64 32)"),
        (KEY, "$KEY", "cache.encryption_keys.0: the key is neither base64 nor hex (make one with: openssl"),
        (KEY, "00" * 16, "cache.encryption_keys.0: the key is 16 bytes long, not 32 (make one with: openssl"),
        (f'["{KEY}"]', f'["{KEY}", "x"]', "headgate.yaml:10: cache.encryption_keys.1: the key is"),
        (KEY, "${file:none}", "headgate.yaml:10: cache.encryption_keys.0: "),
        (KEY, "${CACHE_KEY}", "CACHE_KEY is not set"),
        ("store: memory://", "workers: 2", "headgate.yaml:1: workers: each worker would keep cached answers of its own (use one worker, or a Redis store (`cache.store`))"),
        ("store: memory://", "workers: 2\nx: y", "no such key"),
        ("store: memory://", "workers: 2\nlimits: {enforce: envoy}", "each worker would keep"),
        ('"}\ncache:\n', '", limits: {requests: 1/min}}\nworkers: 2\ncache:\n  store: redis://r\n', "headgate.yaml:9: workers: each worker would count cached answers in a store of its own (use one worker, or a Redis `store`)"),
        ("{ttl: 60}", "{ttl: 0}", "headgate.yaml:6: models.m.cache.ttl: "),
        ("{ttl: 60}", "{ttl: 60, scope: all}", "headgate.yaml:6: models.m.cache.scope: "),
        ("{ttl: 60}", "{ignore: [user, model]}", "headgate.yaml:6: models.m.cache.ignore: 'model' may matter to the answer (fields that may be ignored: metadata, "),
        ("{ttl: 60}", "{max_answer: 1 apple}", "'1 apple' is not a size (write for example 20MiB)"),
        ("{ttl: 60}", "{tll: 60}", "models.m.cache.tll: no such key (did you mean `ttl`?)"),
        ("{name: a,", "{name: a, team: 'key b',", "headgate.yaml:8: keys.0.team: 'key b' is not a name (letters, digits, '.', '_', '-')"),
        ("cache:\n", "cache:\n  store: memcached://x\n", "headgate.yaml:10: cache.store: 'memcached' is no store"),
        ("cache:\n", "cache:\n  max_bytes: 10\n", "headgate.yaml:10: cache.max_bytes: "),
        ("cache:\n", "cache:\n  wait: -1\n", "headgate.yaml:10: cache.wait: "),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in FILE
    assert expected in problems(tmp_path, FILE.replace(old, new, 1))


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    found = problems(tmp_path, FILE)
    assert "headgate.yaml:10: cache.encryption_keys: encryption of the cache needs the package 'cryptography'" in found
    assert "(pip install cryptography)" in found
    assert load(tmp_path, FILE.replace(f'["{KEY}"]', "[]")).cache.encryption_keys == []


def test_a_key_from_a_file_or_a_variable(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY + "\n")
    for reference in ("${file:key}", "${CACHE_KEY}"):
        settings = load(tmp_path, FILE.replace(KEY, reference), CACHE_KEY=KEY)
        assert settings.cache.encryption_keys[0].get_secret_value().strip() == KEY
    settings = load(tmp_path, FILE.replace(f'["{KEY}"]', "[]"), HEADGATE_CACHE__ENCRYPTION_KEYS=f'["{KEY}"]')
    assert len(settings.cache.encryption_keys) == 1


def test_keys_are_secret(tmp_path: Path) -> None:
    settings = load(tmp_path, FILE)
    assert KEY not in repr(settings) + str(settings) + settings.model_dump_json()


def test_several_workers_with_redis(tmp_path: Path) -> None:
    unlimited = FILE.replace("store: memory://", "workers: 2").replace(
        "cache:\n  enc", "cache:\n  store: redis://r\n  enc"
    )
    assert load(tmp_path, unlimited).cache_store == "redis://r"
    text = FILE.replace("store: memory://", "workers: 2\nstore: redis://r")
    assert load(tmp_path, text).cache_store == "redis://r"
    in_process = FILE.replace("store: memory://", "workers: 2\nlimits: {enforce: in_process}\nstore: redis://r")
    assert load(tmp_path, in_process).workers == 2


def test_whether_anything_is_paced_is_fixed_while_running(tmp_path: Path) -> None:
    at_once = load(tmp_path, FILE)
    paced = load(tmp_path, FILE.replace("{ttl: 60}", "{ttl: 90, replay: paced}"))
    assert (at_once.has_paced, paced.has_paced) == (False, True)

    kept, changed = pinned(paced, at_once)
    assert changed == ["models.*.cache.replay"]
    cache = kept.models["m"].cache
    assert cache is not None
    assert (cache.replay, cache.ttl, kept.has_paced) == ("at_once", 90, False)

    kept, changed = pinned(at_once, paced)  # the filter stays: who turns it on again finds it on every connection
    assert changed == []
    cache = kept.models["m"].cache
    assert cache is not None
    assert (cache.replay, kept.has_paced) == ("at_once", True)
    kept, changed = pinned(paced, kept)
    assert (changed, kept.has_paced) == ([], True)
