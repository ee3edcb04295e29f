"""What may be wrong with the settings of the semantic cache, and how it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from headgate.settings import Settings, load_settings
from headgate.snapshot import build_snapshot
from sidecar.errors import ConfigError

FILE = """\
store: redis://r
providers:
  p: {dialect: openai, base_url: "http://127.0.0.1:9/v1"}
  q: {dialect: openai, base_url: "http://127.0.0.1:8/v1", serves: [chat.completions]}
  r: {dialect: openai, base_urls: ["http://127.0.0.1:8/v1", "http://127.0.0.1:9/v2"]}
models:
  m:
    targets: [{provider: p}]
    cache:
      ttl: 60
      scope: team
      semantic:
        threshold: 0.95
        scope: key
        embeddings: e
  e: {provider: p, model: te3}
  chatter: {provider: q}
  spread: [{provider: p, model: a}, {provider: p, model: b}]
  paths: {provider: r}
keys: []
"""


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "headgate.yaml"
    path.write_text(text)
    return load_settings(path, {})[0]


def problems(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, text)
    return "\n".join(str(one).replace(str(tmp_path) + "/", "") for one in raised.value.problems)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("        threshold: 0.95\n", "", "headgate.yaml:12: models.m.cache.semantic.threshold: is missing (add `threshold:` here)"),
        ("        scope: key\n", "", "headgate.yaml:12: models.m.cache.semantic.scope: is missing (add `scope:` here)"),
        ("        embeddings: e\n", "", "headgate.yaml:12: models.m.cache.semantic.embeddings: is missing (add `embeddings:` here)"),
        ("0.95", "0", "headgate.yaml:13: models.m.cache.semantic.threshold: "),
        ("0.95", "95", "headgate.yaml:13: models.m.cache.semantic.threshold: "),
        ("scope: key", "scope: all", "headgate.yaml:14: models.m.cache.semantic.scope: "),
        ("scope: key", "scope: shared", "headgate.yaml:14: models.m.cache.semantic.scope: 'shared' is wider than the cache's scope, 'team' (make it narrower, or widen the cache's with `cache.scope`)"),
        ("embeddings: e", "embeddings: x", "headgate.yaml:15: models.m.cache.semantic.embeddings: there is no model 'x' (models are: chatter, e, m, paths, spread)"),
        ("embeddings: e", "embeddings: spread", "headgate.yaml:15: models.m.cache.semantic.embeddings: 'spread' has 2 targets, whose vectors cannot be compared (name a model with one)"),
        ("embeddings: e", "embeddings: chatter", "headgate.yaml:15: models.m.cache.semantic.embeddings: the provider of 'chatter' does not serve embeddings (name a model of one that does)"),
        ("embeddings: e", "embeddings: paths", "headgate.yaml:15: models.m.cache.semantic.embeddings: the endpoints of 'paths' have different paths"),
        ("embeddings: e", "embeddings: e\n        ttl: 61", "headgate.yaml:16: models.m.cache.semantic.ttl: answers are kept for 60 seconds only (make it shorter, or `cache.ttl` longer)"),
        ("embeddings: e", "embeddings: e\n        dimension: 3", "models.m.cache.semantic.dimension: no such key (did you mean `dimensions`?)"),
        ("embeddings: e", "embeddings: e\n        dimensions: 0", "headgate.yaml:16: models.m.cache.semantic.dimensions: "),
        ("embeddings: e", "embeddings: e\n        timeout: 0", "headgate.yaml:16: models.m.cache.semantic.timeout: "),
        ("embeddings: e", "embeddings: e\n        max_text: 1 apple", "'1 apple' is not a size (write for example 20MiB)"),
        ("store: redis://r", "store: memory://", "headgate.yaml:12: models.m.cache.semantic: an embedded store finds no vectors (set `cache.store` to a Redis 8, or take it out)"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in FILE
    assert expected in problems(tmp_path, FILE.replace(old, new, 1))


def test_it_cannot_stand_without_the_exact_one(tmp_path: Path) -> None:
    text = FILE.replace("    cache:\n      ttl: 60\n      scope: team\n", "").replace("      semantic", "    semantic")
    assert "models.m.semantic: no such key" in problems(tmp_path, text)


def test_the_rules_that_come_of_it(tmp_path: Path) -> None:
    settings = load(tmp_path, FILE)
    assert settings.semantic_models == ["m"]
    assert settings.longest_wait == 30.3
    model = build_snapshot(settings, "v").policy.models["m"]
    assert model.semantic is not None
    assert (model.semantic.threshold, model.semantic.scope, model.semantic.ttl) == (0.95, "key", 60)
    embeddings = model.semantic.embeddings
    assert (embeddings.model, embeddings.name, embeddings.path) == ("e", "te3", "/v1/embeddings")
    assert embeddings.route == build_snapshot(settings, "v").policy.models["e"].route
    assert embeddings.marks == ("p", "te3", "http://127.0.0.1:9/v1")


def test_it_is_off_by_default(tmp_path: Path) -> None:
    start, _, rest = FILE.partition("      semantic:\n")
    settings = load(tmp_path, start + rest.partition("embeddings: e\n")[2])
    assert (settings.semantic_models, settings.longest_wait) == ([], 30.0)
    model = build_snapshot(settings, "v").policy.models["m"]
    assert model.cache is not None
    assert model.semantic is None
