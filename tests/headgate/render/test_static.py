"""Envoy's configuration: accepted by the real Envoy and by its own protos, with nothing secret where it must not be."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from google.protobuf import json_format

import envoy
from headgate import render
from headgate.render.bootstrap import static_bootstrap
from headgate.render.clusters import PRIVATE_HEADERS
from headgate.render.layout import METER_FILTER, Layout
from headgate.render.secrets import redacted
from headgate.render.values import Json
from headgate.settings import Settings, load_settings
from headgate.up.envoy import envoy_binary
from tests.gateway import key_entry

TLS = {"cert": "cert.pem", "key": "key.pem"}


@pytest.fixture(scope="module", autouse=True)
def _all_protos() -> None:
    """Every generated module, so that each typed_config can be parsed."""
    for module in pkgutil.walk_packages(envoy.__path__, "envoy."):
        if module.name.endswith("_pb2"):
            importlib.import_module(module.name)


def settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {
        "providers": {
            "plain": {"dialect": "openai", "base_url": "http://127.0.0.1:9101/v1", "api_key": "sk-1"},
            "secure": {"dialect": "openai", "base_url": "https://api.openai.com/v1", "api_key": "sk-2"},
            "named": {"dialect": "openai", "base_url": "http://localhost/v1"},
            "six": {"dialect": "openai", "base_url": "https://[::1]:8443/v1"},
        },
        "models": {
            "gpt-4o": {"provider": "plain"},
            "all": [{"provider": name} for name in ("plain", "secure", "named", "six")],
        },
        "keys": [key_entry("a", limits={"requests": "5/min", "tokens": "5/min"})],
    }
    return Settings.model_validate({**values, **changes})


def static(**changes: Any) -> Json:
    made = settings(**changes)
    keys = {name: f"Bearer sk-{name.partition('@')[0]}" for name in redacted(made)}
    return static_bootstrap(made, Layout(Path("/run/headgate")), keys, admin="127.0.0.1:9901")


_NEWER = ("body_size_limit", "priority_group")  # than xds-protos


def _known_to_protos(value: Any) -> Any:
    """`value` without what Envoy 1.40 has and the generated protos do not have yet."""
    if isinstance(value, list):
        kept = [one for one in value if not (isinstance(one, dict) and str(one.get("name", "")).endswith(_NEWER))]
        return [_known_to_protos(one) for one in kept]
    if isinstance(value, dict):
        if "inline_cluster_specifier_plugin" in value:
            value = {**value, "cluster": "x"}
        return {
            key: _known_to_protos(one)
            for key, one in value.items()
            if key not in ("refresh_cluster_on_retry", "inline_cluster_specifier_plugin")
            and not (key == "extension_config" and one["name"].endswith(_NEWER))
        }
    return value


def _cached(**rules: Any) -> dict[str, Any]:
    return {
        "models": {"plain": {"provider": "plain"}, "kept": {"targets": [{"provider": "plain"}], "cache": rules}},
        "store": "redis://127.0.0.1:9",
        "workers": 2,
    }


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "tcp": {"services": {"extproc": "127.0.0.1:9001", "ratelimit": "ratelimit.svc:9002"}},
    "deny": {"limits": {"on_error": "deny", "timeout": 0.05}},
    "small": {"max_body": "1MB", "listen": "0.0.0.0:8443"},
    "six": {"listen": "[::]:10000"},
    "cached": _cached(),
    "paced": _cached(replay="paced"),
    "empty": {"providers": {}, "models": {}, "keys": []},
    "semantic": {
        "models": {
            "m": {
                "targets": [{"provider": "plain"}],
                "cache": {"semantic": {"threshold": 0.9, "scope": "key", "embeddings": "e", "timeout": 3}},
            },
            "e": {"provider": "secure", "model": "text-embedding-3-small"},
        },
        "cache": {"store": "redis://r"},
        "keys": [key_entry("a", own_provider_keys=True)],
    },
    "everything": {
        "providers": {
            "a": {"preset": "openai", "api_keys": ["k1", "k2"]},
            "b": {"preset": "azure-openai", "base_url": "https://b.openai.azure.com", "api_key": "k"},
            "c": {"dialect": "openai", "base_urls": ["http://10.0.0.1/v1", "http://10.0.0.2/v1"]},
        },
        "models": {
            "m": {
                "targets": [{"provider": "a"}, {"provider": "b", "priority": 1}, {"provider": "c", "model": "x y"}],
                "strategy": "latency",
                "attempts": 5,
                "retry_on": ["connect", "429", 503],
                "timeouts": {"first_byte": 10, "idle": 20.5, "total": 600},
            },
            "é ü/ß": {"provider": "c"},
        },
        "keys": [key_entry("a", passthrough=["*"], own_provider_keys=True)],
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_real_envoy_and_its_protos_accept_it(name: str, tmp_path: Path) -> None:
    bootstrap = static(**VARIANTS[name])
    json_format.ParseDict(_known_to_protos(bootstrap), Bootstrap())
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(bootstrap))
    found = subprocess.run([str(envoy_binary()), "--mode", "validate", "-c", str(path)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "Deprecated field" not in found.stderr


def _find(value: Any, key: str) -> list[Any]:
    if isinstance(value, dict):
        return [v for k, v in value.items() if k == key] + [hit for v in value.values() for hit in _find(v, key)]
    if isinstance(value, list):
        return [hit for v in value for hit in _find(v, key)]
    return []


def filters(bootstrap: Json) -> dict[str, Json]:
    manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    return {one["name"]: one["typed_config"] for one in manager["http_filters"]}


def test_the_order_of_filters() -> None:
    assert list(filters(static())) == [
        "envoy.filters.http.match_delegate",
        "envoy.filters.http.ext_proc",
        "envoy.filters.http.ratelimit",
        "envoy.filters.http.lua",
        "envoy.filters.http.router",
    ]


def test_scripts_search_no_text_from_each_of_its_places() -> None:
    """A pattern that begins with `.*` and stands anywhere takes the square of a text's length, in Envoy's own thread."""
    for script in Path(render.__file__).parent.glob("*.lua"):
        text = script.read_text(encoding="utf-8")
        patterns = re.findall(r"""(?:match|find|gmatch|gsub)\([^,]+, ['"](.*?)['"]""", text)
        assert patterns
        assert not [one for one in patterns if one.startswith((".*", ".-", ".+"))], script.name


@pytest.mark.parametrize("family", ["v4_preferred", "v4_only", "v6_only", "auto", "all"])
def test_names_are_looked_up_as_the_settings_say(family: str) -> None:
    bootstrap = static(envoy={"dns_lookup_family": family})
    found = {one["name"]: one.get("dns_lookup_family") for one in bootstrap["static_resources"]["clusters"]}
    looked_up = [one for one in bootstrap["static_resources"]["clusters"] if one["type"] == "STRICT_DNS"]
    assert looked_up
    assert {one["dns_lookup_family"] for one in looked_up} == {family.upper()}
    assert set(found.values()) <= {None, family.upper()}


def test_only_a_cache_costs_anything() -> None:
    """Where no model has one: no log of answers, no second script. Where one has: only its own route is another."""

    def parts(made: Json) -> tuple[list[str], Json, list[Json]]:
        (listener,) = made["static_resources"]["listeners"]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        logs = [log["typed_config"]["common_config"]["log_name"] for log in manager["access_log"]]
        (meter,) = [one["typed_config"] for one in manager["http_filters"] if one["name"] == METER_FILTER]
        return logs, meter, manager["route_config"]["virtual_hosts"][0]["routes"]

    logs, meter, routes = parts(static())
    assert (logs, list(meter)) == (["headgate+settle"], ["@type", "default_source_code"])
    models = {"gpt-4o": {"provider": "plain"}, "kept": {"targets": [{"provider": "plain"}], "cache": {"max_answer": 7}}}
    more = {"models": models, "cache": {"store": "redis://r"}, "store": "redis://r", "workers": 3}
    logs, captured, several = parts(static(**more))
    assert logs == ["headgate.answers+settle"] * 3 + ["headgate+settle"]
    assert captured["default_source_code"] == meter["default_source_code"]
    assert "CACHE = false" in meter["default_source_code"]["inline_string"]
    assert "CACHE = true" in captured["source_codes"]["captured"]["inline_string"]
    other = [route for route in several if "typed_per_filter_config" in route or "metadata" in route]
    assert [route["name"].partition("+")[2] for route in other] == ["cache"]
    assert other[0]["metadata"]["filter_metadata"] == {METER_FILTER: {"max_answer": 7}}
    assert not [route for route in routes if "typed_per_filter_config" in route]


@pytest.mark.parametrize(("name", "expected"), [("default", set()), ("cached", set()), ("paced", {"replay"})])
def test_nobody_has_the_filters_of_what_he_did_not_ask_for(name: str, expected: set[str]) -> None:
    bootstrap = static(**VARIANTS[name])
    names = {f"headgate.{one}" for one in expected}
    assert {one for one in filters(bootstrap) if one.startswith("headgate.")} == names
    (host,) = _find(bootstrap, "virtual_hosts")[0]
    assert set(host.get("typed_per_filter_config", {})) == names  # off, but for the routes that turn one on
    turned_on = [
        route["name"] for route in host["routes"] if "headgate.replay" in route.get("typed_per_filter_config", {})
    ]
    assert turned_on == (["+replay0", "+replay1"] if name == "paced" else [])


def test_ext_proc_fails_closed_and_never_sees_the_response() -> None:
    config = filters(static())["envoy.filters.http.ext_proc"]
    assert config["failure_mode_allow"] is False
    modes = config["processing_mode"]
    assert (modes["response_header_mode"], modes["response_body_mode"]) == ("SKIP", "NONE")


def test_rate_limits_stand_in_the_filters_own_configuration() -> None:
    bootstrap = static()
    assert len(filters(bootstrap)["envoy.filters.http.ratelimit"]["rate_limits"]) == 2
    assert len(_find(bootstrap, "rate_limits")) == 1


@pytest.mark.parametrize(
    ("limits", "settling_call", "log"),
    [
        ({}, False, "headgate+settle"),
        ({"settle": "call"}, True, "headgate"),
        ({"enforce": "in_process"}, False, "headgate+in_process"),  # its reservations are ext_proc's own
    ],
)
def test_what_was_reserved_is_settled_once(limits: Json, settling_call: bool, log: str) -> None:
    bootstrap = static(limits=limits)
    calls = [one for found in _find(bootstrap, "rate_limits") for one in found if one.get("apply_on_stream_done")]
    assert bool(calls) is settling_call
    logs = [found["log_name"] for found in _find(bootstrap, "common_config")]
    assert [one for one in logs if one.partition("+")[0] == "headgate"] == [log]


def test_every_provider_removes_foreign_credentials_before_its_own_goes_in() -> None:
    clusters = [one for one in static()["static_resources"]["clusters"] if "/" in one["name"]]
    assert len(clusters) == 5
    for cluster in clusters:
        options = next(iter(cluster["typed_extension_protocol_options"].values()))
        names = [one["name"] for one in options["http_filters"]]
        if names[0] == "envoy.filters.http.lua":
            names.pop(0)
            options["http_filters"].pop(0)
        assert names[0] == "envoy.filters.http.header_mutation"
        removed = {
            one["remove"] for one in options["http_filters"][0]["typed_config"]["mutations"]["request_mutations"]
        }
        assert removed == set(PRIVATE_HEADERS)
        assert ("envoy.filters.http.credential_injector" in names) == (
            cluster["alt_stat_name"] in ("provider_plain", "provider_secure")
        )
        assert names[-1] == "envoy.filters.http.upstream_codec"


def test_the_providers_certificate_is_checked() -> None:
    by_name = {one["alt_stat_name"]: one for one in static()["static_resources"]["clusters"] if "alt_stat_name" in one}
    context = by_name["provider_secure"]["transport_socket"]["typed_config"]
    assert context["sni"] == "api.openai.com"
    validation = context["common_tls_context"]["validation_context"]
    assert validation["match_typed_subject_alt_names"] == [{"san_type": "DNS", "matcher": {"exact": "api.openai.com"}}]
    assert Path(validation["trusted_ca"]["filename"]).is_file()
    assert "transport_socket" not in by_name["provider_plain"]


def test_keys_stand_in_secrets_only() -> None:
    bootstrap = static()
    secrets = bootstrap["static_resources"].pop("secrets")
    assert {one["generic_secret"]["secret"]["inline_string"] for one in secrets} == {
        "Bearer sk-plain",
        "Bearer sk-secure",
    }
    assert "sk-plain" not in json.dumps(bootstrap)


def test_local_replies_have_no_catch_all() -> None:
    manager = static()["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    assert set(manager["local_reply_config"]) == {"mappers"}
    for mapper in manager["local_reply_config"]["mappers"]:
        body = mapper["body_format_override"]["text_format_source"]["inline_string"]
        if body != "%LOCAL_REPLY_BODY%":
            assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
            assert "%" not in body


def test_the_reference_configuration_is_what_is_rendered_today() -> None:
    """`make reference` writes it again."""
    folder = Path(__file__).parents[3] / "envoy"
    made, _ = load_settings(folder / "headgate.yaml", {})
    bootstrap = static_bootstrap(made, Layout(Path("/run/headgate")), redacted(made), admin="127.0.0.1:9901")
    assert json.loads((folder / "reference.json").read_text()) == json.loads(json.dumps(bootstrap))
