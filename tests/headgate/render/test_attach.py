"""`headgate render attach`: the parts, and what is made of somebody's own bootstrap."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from headgate.cli import app
from headgate.render.attach import OUR_FILTERS, Parts, parts
from headgate.render.layout import Layout
from headgate.render.own_envoy import OwnEnvoy
from headgate.render.protos import check
from headgate.render.sds import Secrets
from headgate.render.yaml_text import dump, dump_all, load
from headgate.settings import load_settings
from headgate.up.envoy import envoy_binary
from sidecar.errors import ConfigError
from tests.gateway import key_entry

REDACTED = (
    "note: the providers' keys are written as <redacted>, and Envoy would send that: use --secrets-dir DIR,"
    " or --with-secrets"
)
OWN = Path(__file__).parents[2] / "e2e" / "existing_envoy" / "envoy.yaml"
CONFIG: dict[str, Any] = {
    "providers": {
        "openai": {
            "dialect": "openai",
            "base_url": "http://127.0.0.1:9101/v1",
            "api_keys": ["sk-secret-1", "sk-secret-2"],
        },
        "local": {"dialect": "openai", "base_url": "http://127.0.0.1:9102/v1"},
    },
    "models": {"gpt-4o": {"provider": "openai"}, "both": [{"provider": "openai"}, {"provider": "local"}]},
    "keys": [key_entry("a", passthrough=["openai"], own_provider_keys=True)],
}


def run(folder: Path, *options: str, changes: dict[str, Any] | None = None) -> Result:
    config = folder / "headgate.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, **(changes or {})}))
    command = [options[0], "-c", str(config), *options[1:]]
    return CliRunner().invoke(app, ["render", *command], env={"COLUMNS": "200"})


def attach(folder: Path, *options: str, own: Any = None, **changes: Any) -> Result:
    if own is not None:
        (folder / "own.yaml").write_text(own if isinstance(own, str) else json.dumps(own))
        options = (*options, "--into", str(folder / "own.yaml"))
    return run(folder, "attach", *options, changes=changes)


def value(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return load(result.stdout)


def own() -> Any:
    return load(OWN.read_text())


def manager(bootstrap: Any) -> Any:
    listener = next(one for one in bootstrap["static_resources"]["listeners"] if one["name"] == "edge")
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "in_process": {"limits": {"enforce": "in_process"}},
    "tcp": {"services": {"extproc": "10.1.2.3:9001", "ratelimit": "ratelimit.svc:9002"}, "workers": 2},
    "cache": {"models": {"gpt-4o": {"targets": [{"provider": "openai"}], "cache": {"ttl": 60, "scope": "key"}}}},
    "realtime": {
        "providers": {"openai": {"preset": "openai", "api_key": "sk-1"}},
        "models": {"gpt-4o": {"provider": "openai"}},
    },
    "paced": {
        "models": {
            "gpt-4o": {"targets": [{"provider": "openai"}], "cache": {"ttl": 60, "scope": "key", "replay": "paced"}}
        }
    },
    "empty": {"providers": {}, "models": {}, "keys": []},
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("keys", ["redacted", "inline", "files"])
def test_the_real_envoy_takes_what_is_merged(name: str, keys: str, tmp_path: Path) -> None:
    bootstrap = own()
    del manager(bootstrap)["local_reply_config"]["body_format"]  # not with a cache
    folder = str(tmp_path / "keys")
    options = {"redacted": [], "inline": ["--with-secrets"], "files": ["--secrets-dir", folder]}[keys]
    made = value(attach(tmp_path, "--listener", "edge", *options, own=bootstrap, **VARIANTS[name]))
    assert run(tmp_path, "secrets", "--dir", folder, changes=VARIANTS[name]).exit_code == 0
    path = tmp_path / "made.yaml"
    path.write_text(dump(made).replace("/var/log/envoy", str(tmp_path)))
    found = subprocess.run([str(envoy_binary()), "--mode", "validate", "-c", str(path)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "Deprecated field" not in found.stderr


@pytest.mark.parametrize("name", VARIANTS)
def test_the_parts_say_where_they_go(name: str, tmp_path: Path) -> None:
    result = attach(tmp_path, **VARIANTS[name])
    parts = value(result)
    assert {one["name"] for one in parts["http_filters"]} >= {"headgate.attached", "headgate.ext_proc", "headgate.lua"}
    assert all(one["disabled"] is True and one["name"].startswith("headgate.") for one in parts["http_filters"])
    woken = parts["virtual_hosts"][0]["typed_per_filter_config"]
    assert set(woken) == {one["name"] for one in parts["http_filters"]}
    for key in parts:
        assert f"\n{key}:" in result.stdout
        before = result.stdout.partition(f"\n{key}:")[0]
        assert before.splitlines()[-1].startswith("#")


def test_every_route_of_ours_asks_for_a_decision(tmp_path: Path) -> None:
    routes = value(attach(tmp_path))["virtual_hosts"][0]["routes"]
    decided, undecided = routes[:-2], routes[-2:]
    assert len(decided) > 2
    for route in decided:
        assert route["match"]["dynamic_metadata"][0]["path"] == [{"key": "decision_us"}]
        assert route["match"]["headers"][0]["name"] == "x-headgate-route"
    assert [one.get("direct_response", {}).get("status") for one in undecided] == [None, 503]
    assert undecided[0]["route"]["cluster"] == "headgate_nowhere"


def test_nothing_of_the_owners_changes(tmp_path: Path) -> None:
    made = value(attach(tmp_path, "--listener", "edge", own=OWN.read_text()))
    before, after = own(), copy.deepcopy(made)
    ours = manager(after)
    ours["http_filters"] = [one for one in ours["http_filters"] if not one["name"].startswith("headgate.")]
    del ours["http_filters"][-1]["typed_config"]["upstream_log"]
    ours["access_log"].pop()
    ours["local_reply_config"]["mappers"] = ours["local_reply_config"]["mappers"][-1:]
    assert ours["route_config"]["virtual_hosts"].pop(0)["domains"] == ["*"]
    resources = after["static_resources"]
    assert resources["listeners"][1].pop("per_connection_buffer_limit_bytes") == (20 << 20) + (1 << 20)
    resources["clusters"] = resources["clusters"][:2]
    del resources["secrets"]
    assert after == before


def test_attaching_again_changes_nothing(tmp_path: Path) -> None:
    first = attach(tmp_path, "--listener", "edge", own=OWN.read_text())
    again = attach(tmp_path, "--listener", "edge", own=first.stdout)
    assert again.stdout == first.stdout
    assert "per_connection_buffer_limit_bytes is now" in first.stderr
    assert again.stderr.splitlines() == [REDACTED]
    fewer = {"models": {"gpt-4o": {"provider": "local"}}, "keys": []}
    direct = attach(tmp_path, "--listener", "edge", own=OWN.read_text(), **fewer)
    replaced = attach(tmp_path, "--listener", "edge", own=first.stdout, **fewer)
    assert load(replaced.stdout) == load(direct.stdout)


def test_names_may_be_written_as_in_json(tmp_path: Path) -> None:
    def camel(one: Any) -> Any:
        if isinstance(one, list):
            return [camel(each) for each in one]
        if isinstance(one, dict):
            return {_camel(key): camel(each) for key, each in one.items()}
        return one

    def _camel(key: str) -> str:
        first, *rest = key.split("_")
        return key if key.startswith("@") else first + "".join(word.capitalize() for word in rest)

    first = value(attach(tmp_path, "--listener", "edge", own=camel(own())))
    assert len(first["staticResources"]["clusters"]) > 5
    assert "static_resources" not in first
    assert value(attach(tmp_path, "--listener", "edge", own=first)) == first


def test_keys_stand_there_only_when_asked_for(tmp_path: Path) -> None:
    assert "sk-secret" not in attach(tmp_path).output
    written = value(attach(tmp_path, "--with-secrets"))
    assert [one["name"] for one in written["secrets"]] == [
        "headgate_credential_openai.0",
        "headgate_credential_openai.1",
    ]
    assert written["secrets"][0]["generic_secret"]["secret"]["inline_string"] == "Bearer sk-secret-1"
    files = attach(tmp_path, "--secrets-dir", "/keys/")
    assert "sk-secret" not in files.output
    assert "secrets" not in value(files)
    assert files.stdout.count("path: /keys/credential_openai.0.yaml") >= 1
    assert "Bearer" not in files.stdout


def test_secrets_are_written_for_their_owner_alone(tmp_path: Path) -> None:
    result = run(tmp_path, "secrets", "--dir", str(tmp_path / "keys"))
    assert (result.exit_code, result.stdout) == (0, "")
    files = sorted((tmp_path / "keys").iterdir())
    assert [one.name for one in files] == ["credential_openai.0.yaml", "credential_openai.1.yaml"]
    assert all(one.stat().st_mode & 0o777 == 0o600 for one in files)
    secret = load(files[1].read_text())["resources"][0]
    assert secret["name"] == "headgate_credential_openai.1"
    assert secret["generic_secret"]["secret"]["inline_string"] == "Bearer sk-secret-2"
    check("envoy.service.discovery.v3.DiscoveryResponse", load(files[0].read_text()))


def test_secrets_as_a_kubernetes_secret(tmp_path: Path) -> None:
    made = value(run(tmp_path, "secrets", "--kubernetes", "keys", "--namespace", "edge"))
    assert (made["kind"], made["metadata"]["name"], made["metadata"]["namespace"]) == ("Secret", "keys", "edge")
    assert set(made["stringData"]) == {"credential_openai.0.yaml", "credential_openai.1.yaml"}


def _two_chains() -> Any:
    bootstrap = own()
    chains = bootstrap["static_resources"]["listeners"][1]["filter_chains"]
    chains.append({**copy.deepcopy(chains[0]), "name": "second"})
    return bootstrap


def _with(change: Any) -> Any:
    bootstrap = own()
    change(bootstrap)
    return bootstrap


def _rds(bootstrap: Any) -> None:
    del manager(bootstrap)["route_config"]
    manager(bootstrap)["rds"] = {"route_config_name": "x"}


def _star(bootstrap: Any) -> None:
    manager(bootstrap)["route_config"]["virtual_hosts"][0]["domains"] = ["*"]


def _no_routes(bootstrap: Any) -> None:
    del manager(bootstrap)["route_config"]


def _own_host(bootstrap: Any) -> None:
    manager(bootstrap)["route_config"]["virtual_hosts"].append({"name": "headgate", "domains": ["x.example.com"]})


def _own_filter(bootstrap: Any) -> None:
    lua = manager(bootstrap)["http_filters"][0]
    manager(bootstrap)["http_filters"].insert(0, {**lua, "name": "headgate.lua", "disabled": True})


def _two_unnamed() -> Any:
    bootstrap = _two_chains()
    del bootstrap["static_resources"]["listeners"][1]["filter_chains"][1]["name"]
    return bootstrap


def _clash(bootstrap: Any) -> None:
    bootstrap["static_resources"]["clusters"].append({"name": "headgate_extproc"})


def _no_router(bootstrap: Any) -> None:
    manager(bootstrap)["http_filters"].pop()


EDGE = ["--listener", "edge"]
CACHED = {"models": VARIANTS["cache"]["models"]}


@pytest.mark.parametrize(
    ("bootstrap", "options", "changes", "words"),
    [
        (own(), [], {}, ("several listeners speak HTTP: edge, redirect", "choose: --listener NAME")),
        (own(), ["--listener", "no"], {}, ("there is no listener 'no'", "there is: edge, redirect")),
        (_two_chains(), EDGE, {}, ("several filter chains speak HTTP: (no name), second", "--filter-chain NAME")),
        (_two_chains(), [*EDGE, "--filter-chain", "x"], {}, ("no HTTP connection manager in a filter chain 'x'",)),
        (_with(_rds), EDGE, {}, ("the routes are not in the file", "without --into prints the parts")),
        (_with(_no_routes), EDGE, {}, ("there is no route_config", "write `route_config: {virtual_hosts: []}` there")),
        (_with(_own_host), EDGE, {}, ("route_config.virtual_hosts: there is a 'headgate' that is not Headgate's",)),
        (_with(_own_filter), EDGE, {}, ("http_filters: there is a 'headgate.lua' that is not Headgate's",)),
        (_two_unnamed(), EDGE, {}, ("speak HTTP: (no name), (no name)", "give each a `name` of its own")),
        (_with(_star), EDGE, {}, ("'shop' answers to every domain (*) already", "--domain llm.example.com")),
        (own(), [*EDGE, "--domain", "Shop.example.com"], {}, ("'shop' answers to 'Shop.example.com' already",)),
        (_with(_clash), EDGE, {}, ("static_resources.clusters", "a 'headgate_extproc' that is not Headgate's", "another name")),
        (_with(_no_router), EDGE, {}, ("typed_config.http_filters", "the last one is not the router")),
        (own(), EDGE, CACHED, ("your body_format would be put around kept answers", "listener of its own")),
        ("a: [", [], {}, ("own.yaml:1", "is no YAML")),
        ("[]", [], {}, ("static_resources: is missing",)),
        ("{static_resources: {listeners: []}}", [], {}, ("no HTTP connection manager",)),
        (own(), ["--with-secrets", "--secrets-dir", "/x"], {}, ("--secrets-dir", "choose one")),
        (own(), ["--secrets-dir", "x"], {}, ("'x' is not absolute",)),
        (own(), EDGE, {"services": {"extproc": "0.0.0.0:9001"}}, ("headgate.yaml:", "services.extproc", "--extproc HOST:PORT")),
        (own(), [*EDGE, "--ratelimit", "nowhere"], {}, ("services.ratelimit", "'nowhere' is not an address")),
    ],
    ids=lambda one: one[0][:40] if isinstance(one, tuple) else "",
)  # fmt: skip
def test_what_cannot_be_attached_to_says_where_and_how_to_mend_it(
    bootstrap: Any, options: list[str], changes: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    result = attach(tmp_path, *options, own=bootstrap, **changes)
    assert result.exit_code == 1
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr


def test_what_the_owner_wrote_on_our_virtual_host_is_kept(tmp_path: Path) -> None:
    first = value(attach(tmp_path, *EDGE, own=own()))
    host = manager(first)["route_config"]["virtual_hosts"][0]
    off = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
    host["typed_per_filter_config"]["envoy.filters.http.lua"] = off
    host["typed_per_filter_config"]["headgate.replay"] = off  # ours, of another configuration
    host["response_headers_to_remove"] = ["x-shop"]
    made = manager(value(attach(tmp_path, *EDGE, "--domain", "llm.example.com", own=first)))
    host = made["route_config"]["virtual_hosts"][0]
    assert host["domains"][0] == "llm.example.com"
    assert host["typed_per_filter_config"]["envoy.filters.http.lua"] == off
    assert "headgate.replay" not in host["typed_per_filter_config"]
    assert "headgate.lua" in host["typed_per_filter_config"]
    assert host["response_headers_to_remove"] == ["x-shop"]


def test_filters_of_the_owner_named_like_ours_stay(tmp_path: Path) -> None:
    first = value(attach(tmp_path, *EDGE, own=own()))
    manager(first)["http_filters"].insert(0, {**manager(own())["http_filters"][0], "name": "headgate.shop"})
    made = value(attach(tmp_path, *EDGE, own=first))
    assert made == first


@pytest.mark.parametrize("name", VARIANTS)
def test_our_filters_are_known_by_name(name: str, tmp_path: Path) -> None:
    parts = value(attach(tmp_path, **VARIANTS[name]))
    assert {one["name"] for one in parts["http_filters"]} <= OUR_FILTERS


def test_every_place_where_we_are_gets_the_new_parts(tmp_path: Path) -> None:
    bootstrap = _two_chains()
    bootstrap["static_resources"]["listeners"][1]["filter_chains"][0] |= {
        "name": "first",
        "filter_chain_match": {"server_names": ["a.example.com"]},
    }
    first = value(attach(tmp_path, *EDGE, "--filter-chain", "first", "--domain", "a.example.com", own=bootstrap))
    options = [*EDGE, "--filter-chain", "second", "--domain", "b.example.com"]
    fewer = {"models": {"gpt-4o": {"provider": "local"}}, "keys": []}
    result = attach(tmp_path, *options, own=first, **fewer)
    made = value(result)
    where = "static_resources.listeners[1].filter_chains[0].filters[0].typed_config"
    assert f"note: {where}: Headgate was attached there, too, and is replaced" in result.stderr
    chains = made["static_resources"]["listeners"][1]["filter_chains"]
    managers = [one["filters"][0]["typed_config"] for one in chains]
    hosts = [one["route_config"]["virtual_hosts"][0] for one in managers]
    assert [one["domains"] for one in hosts] == [[f"{one}.example.com", f"{one}.example.com:*"] for one in "ab"]
    assert hosts[0]["routes"] == hosts[1]["routes"]
    assert managers[0]["http_filters"] == managers[1]["http_filters"]
    assert value(attach(tmp_path, *options, own=made, **fewer)) == made
    path = tmp_path / "made.yaml"
    path.write_text(dump(made).replace("/var/log/envoy", str(tmp_path)))
    found = subprocess.run([str(envoy_binary()), "--mode", "validate", "-c", str(path)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_redacted_keys_are_told(tmp_path: Path) -> None:
    assert REDACTED in attach(tmp_path, *EDGE, own=own()).stderr
    for options in (["--with-secrets"], ["--secrets-dir", "/keys"]):
        assert "redacted" not in attach(tmp_path, *EDGE, *options, own=own()).stderr


def _places(one: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
    return [path, *(place for key, each in inner for place in _places(each, (*path, key)))]


def _mutated(bootstrap: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    made = copy.deepcopy(bootstrap)
    holder = made
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = new
    return made


@pytest.fixture(scope="module")
def attached_parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Parts, Any]:
    folder = tmp_path_factory.mktemp("parts")
    merged = value(attach(folder, *EDGE, "--domain", "llm.example.com", own=own()))
    settings, _ = load_settings(folder / "headgate.yaml", {})
    layout = Layout(folder)
    made = parts(settings, layout, Secrets({}, "/keys"), ["llm.example.com", "llm.example.com:*"])
    return made, merged


@pytest.mark.parametrize("kind", ["own", "merged"])
def test_no_bootstrap_however_odd_is_a_traceback(kind: str, attached_parts: tuple[Parts, Any]) -> None:
    made, merged = attached_parts
    bootstrap = own() if kind == "own" else merged
    told: list[str] = []
    own_places = [path for path in _places(bootstrap) if len(path) < 13 or kind == "own"]

    @hypothesis_settings(max_examples=300, deadline=None, derandomize=True)
    @given(st.sampled_from(own_places), st.sampled_from([None, "x", 7, True, 1.5, [], {}, [None], ["x"], {"x": None}]))
    def mutated(path: tuple[Any, ...], new: Any) -> None:
        odd = _mutated(bootstrap, path, new)
        try:
            found = OwnEnvoy.find("own.yaml", odd, listener="edge")
            found.domains(["llm.example.com"])
            found.attach(copy.deepcopy(made))
        except ConfigError as error:
            told.append(str(error))

    mutated()
    assert told
    assert all(len(one.splitlines()) == 1 for one in told)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{static_resources: {listeners: x}}", "static_resources.listeners: is no list"),
        ("{static_resources: {listeners: [null]}}", "static_resources.listeners[0]: is no object"),
        ("{static_resources: {listeners: [{filter_chains: [null]}]}}", "filter_chains[0]: is no object"),
        ("{static_resources: {listeners: [{filterChains: {}}]}}", "listeners[0].filterChains: is no list"),
        ("{static_resources: {listeners: [{per_connection_buffer_limit_bytes: x}]}}", "limit_bytes: is not a number"),
        ("{static_resources: &a {listeners: [], clusters: *a}}", "one that holds itself"),
        ("{static_resources: {listeners: [], x: !!binary aGk=}}", "a value that JSON has not"),
        ("[" * 3000, "is no YAML"),
    ],
)
def test_odd_bootstraps_are_one_line(text: str, words: str, tmp_path: Path) -> None:
    result = attach(tmp_path, own=text)
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert words in result.stderr


@pytest.mark.parametrize("command", ["attach", "istio", "envoy-gateway"])
def test_a_semantic_cache_needs_our_own_envoy(command: str, tmp_path: Path) -> None:
    models = {
        "m": {
            "targets": [{"provider": "a"}],
            "cache": {"semantic": {"threshold": 0.9, "scope": "key", "embeddings": "e"}},
        },
        "e": {"provider": "a"},
    }
    changes = {
        "providers": {"a": {"dialect": "openai", "base_url": "https://api.openai.com/v1"}},
        "models": models,
        "store": "redis://r",
        "keys": [],
        "limits": {"enforce": "in_process"},
    }
    options = ["--extproc", "headgate.svc:9001"]
    result = run(tmp_path, command, *options, *([] if command == "attach" else ["--host", "x"]), changes=changes)
    assert result.exit_code == 1
    assert (
        "models.m.cache.semantic: its vectors come over a listener that only Headgate's own Envoy has" in result.output
    )
    assert "(take it out, or use `headgate up` or `headgate render static`)" in result.output


def test_a_domain_is_answered_with_any_port(tmp_path: Path) -> None:
    made = value(attach(tmp_path, *EDGE, "--domain", "a.example.com", "--domain", "*.b.example.com", own=own()))
    assert manager(made)["route_config"]["virtual_hosts"][0]["domains"] == [
        "a.example.com",
        "*.b.example.com",
        "a.example.com:*",
    ]


@pytest.mark.parametrize(
    "domain",
    [
        "http://llm.example.com/",
        "llm.*.com",
        "a b",
        "",
        "*x",
        "a..b",
        "-a.com",
        "llm.example.com/",
        "x:y",
        "**",
        "ü.de",
    ],
)
def test_what_is_no_domain_is_refused(domain: str, tmp_path: Path) -> None:
    result = attach(tmp_path, "--domain", domain)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"--domain: {domain!r} is no domain of a virtual host (write a host name" in result.stderr


@pytest.mark.parametrize(
    "domain", ["*", "llm", "LLM.example.com", "*.b.com", "*-b.com", "llm.*", "llm-*", "a_b.c", "a.b:80", "[::1]:80"]
)
def test_every_form_of_a_domain_is_taken(domain: str, tmp_path: Path) -> None:
    assert value(attach(tmp_path, "--domain", domain))["virtual_hosts"][0]["domains"] == [domain]


FLEET = ["--extproc", "headgate.svc:9001", "--host"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["istio", *FLEET, "bad host/"], "--host: 'bad host/' is no host name"),
        (["istio", *FLEET, "*.example.com"], "--host: '*.example.com' is no host name"),
        (["istio", *FLEET, "llm", "--namespace", "Bad NS"], "--namespace: 'Bad NS' is no name of a namespace"),
        (["istio", *FLEET, "llm", "--selector", "istio=x,"], "--selector: 'istio=x,' is no label"),
        (["istio", *FLEET, "llm", "--selector", "istio"], "--selector: 'istio' is no label"),
        (["istio", *FLEET, "llm", "--selector", "A_/b=x"], "--selector: 'A_/b=x' is no label"),
        (["istio", *FLEET, "llm", "--service", "http://x"], "--service: 'http://x' is no host name"),
        (["envoy-gateway", *FLEET, "http://llm"], "--host: 'http://llm' is no host name"),
        (["envoy-gateway", *FLEET, "llm", "--keys", "A"], "--keys: 'A' is no name of a Kubernetes object"),
        (["gateway-api", "--host", "", "--gateway-class", "x"], "--host: '' is no host name"),
        (["gateway-api", "--host", "*.x", "--gateway-class", "X"], "--gateway-class: 'X' is no name"),
        (["secrets", "--kubernetes", "Bad_Name"], "--kubernetes: 'Bad_Name' is no name of a Kubernetes object"),
        (["secrets", "--kubernetes", "k", "--namespace", "a.b"], "--namespace: 'a.b' is no name of a namespace"),
    ],
)
def test_names_that_kubernetes_would_refuse_are_refused(options: list[str], words: str, tmp_path: Path) -> None:
    result = run(tmp_path, *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr


def test_addresses_as_envoy_sees_them(tmp_path: Path) -> None:
    made = value(
        attach(tmp_path, "--extproc", "headgate.svc:9001", "--ratelimit", "[::1]:9002", workers=2, store="redis://r")
    )
    ours = {one["name"]: one["load_assignment"]["endpoints"][0]["lb_endpoints"] for one in made["clusters"][:2]}
    seen = {name: [one["endpoint"]["address"]["socket_address"] for one in found] for name, found in ours.items()}
    assert seen["headgate_extproc"] == [{"address": "headgate.svc", "port_value": port} for port in (9001, 9002)]
    assert seen["headgate_ratelimit"] == [{"address": "::1", "port_value": port} for port in (9002, 9003)]


@pytest.mark.parametrize(
    "text",
    ["y", "no", "on", "Off", "1e3", "0x10", "12:30", "2020-01-01", "null", "~", "-1", ".5", "a: b", "x\ny\n", ""],
)
def test_texts_stay_texts(text: str) -> None:
    assert load(dump({"a": text}))["a"] == text
    assert yaml.safe_load(dump({"a": text}))["a"] == text
    assert list(yaml.safe_load_all(dump_all([text, 1]))) == [text, 1]


def test_the_protos_find_what_envoy_would_not_know() -> None:
    with pytest.raises(ValueError, match="no field named"):
        check("envoy.config.cluster.v3.Cluster", {"name": "x", "nmae": "y"})
    wrong = {
        "name": "x",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua", "code": 1},
    }
    with pytest.raises(ValueError, match="code"):
        check("envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter", wrong)
    with pytest.raises(ValueError, match="no message"):
        check("envoy.config.cluster.v3.Nothing", {})
