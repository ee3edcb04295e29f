"""Every way to another tenant's answer that we could think of. None of them leads there.

A client of the key `b` wants what the key `a` was answered: the same model, the same words.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator

import pytest

from headgate.render.listener import _all_but
from tests.e2e.caching import KEYS, Caching, caching, new_text, question, said
from tests.gateway import chat, key_entry, post, raw_request
from tests.provider_thread import ProviderThread

# Names that might pass for another's: a team called like a key, and names that differ in case or by what separates.
NAMES = [
    key_entry("red"),
    key_entry("key", team="a"),
    key_entry("A"),
    key_entry("a.b"),
    key_entry("a-b"),
    key_entry("a_b"),
    key_entry("a-", team="b"),
    key_entry("team", team="team"),
    key_entry("shared", team="shared"),
    key_entry("model", team="model"),
    key_entry("k1", team="Red"),
    key_entry("k2", team="RED"),
    key_entry("k3", team="red.a"),
    key_entry("k4", team="lone"),
    key_entry("key-lone", team="key-lone"),
]


@pytest.fixture(scope="module")
def cache() -> Iterator[Caching]:
    with ProviderThread() as provider, caching(provider, keys=[*KEYS, *NAMES]) as found:
        yield found


SPOOFED = [
    {"x-headgate-route": "cached@00000000+cache0"},
    {"x-headgate-cache": "hit"},
    {"x-headgate-cache-reason": "x"},
    {"x-headgate-key": "a"},
    {"x-headgate-team": "red"},
    {"x-headgate-scope": "shared"},
    {"x-headgate-cache-keys": "a"},
    {"x-headgate-cache-ke": "a"},
    {"x-headgate-purpose": "record"},
    {"X-Headgate-Purpose": "record"},
    {"x-forwarded-for": "127.0.0.1"},
    {"x-forwarded-host": "a"},
    {"x-forwarded-user": "a"},
    {"forwarded": "for=127.0.0.1"},
    {"x-envoy-original-path": "/v1/models"},
    {"x-envoy-internal": "true"},
    {"x-request-id": "the-same"},
    {"cookie": "key=a"},
    {"openai-organization": "a"},
    {"if-none-match": "*"},
    {"if-modified-since": "Thu, 01 Jan 1970 00:00:00 GMT"},
    {"vary": "*"},
    {"range": "bytes=0-"},
    {"cache-control": "max-stale, stale-if-error=999, shared, scope=shared, max-age=99999"},
    {"pragma": "only-if-cached"},
    {"proxy-authorization": "Bearer sk-a"},
    {"x-api-key": "sk-a"},
    {"api-key": "sk-a"},
    {"x-provider-key": "fake=sk-a"},
]


@pytest.fixture(scope="module")
def mine(cache: Caching) -> str:
    """What `a` has asked of the model whose answers are each key's own."""
    text = new_text()
    cache.ask_and_keep(text, "a")
    return text


@pytest.mark.parametrize("headers", SPOOFED, ids=lambda one: " ".join(one))
def test_spoofed_headers(cache: Caching, mine: str, headers: dict[str, str]) -> None:
    answer = cache.ask(mine, "b", control="only-if-cached", more=tuple(headers.items()))
    assert answer.status in (400, 403, 504), answer.raw


def test_two_authorizations(cache: Caching, mine: str) -> None:
    for order in (("b", "a"), ("a", "b")):
        more = tuple(("authorization", f"Bearer sk-{key}") for key in order)
        headers = (("content-type", "application/json"), ("cache-control", "only-if-cached"), *more)
        assert post(cache.gateway.listen, question(mine), key=None, headers=headers).status == 401


@pytest.mark.parametrize("name", [entry["name"] for entry in [*KEYS, *NAMES] if entry["name"] != "a"])
def test_other_keys(cache: Caching, mine: str, name: str) -> None:
    assert cache.ask(mine, name, control="only-if-cached").status == 504


@pytest.fixture(scope="module")
def teams(cache: Caching) -> str:
    """What every key whose name another's team has, and the other way round, has asked for itself or its team."""
    text = new_text()
    for name in ("a", "lone", "key"):
        cache.ask_and_keep(text, name, model="team")
    return text


@pytest.mark.parametrize(
    "name",
    [
        entry["name"]
        for entry in [*KEYS, *NAMES]
        if entry.get("team") not in ("red", "a") and entry["name"] not in ("lone", "off")
    ],
)
def test_teams_and_keys_of_one_name(cache: Caching, teams: str, name: str) -> None:
    assert cache.ask(teams, name, model="team", control="only-if-cached").status == 504


def test_scopes_are_apart(cache: Caching) -> None:
    """The same words to models of other scopes; and the key has no part that a model's name could fill."""
    text = new_text()
    cache.ask_and_keep(text, "a", model="shared")
    for model in ("cached", "team", "small", "brief"):
        assert not cache.has(text, "a", model=model)


@pytest.mark.parametrize(
    "body",
    [
        '{"model":"shared","model":"cached",%s}',
        '{"model":"cached","model":"shared",%s}',
        '{"Model":"shared","model":"cached",%s}',
        '{"mod\\u0065l":"shared","model":"cached",%s}',
        '{"model":"cached","user":"a","user":"b",%s}',
        '{"model":"cached","temperature":-0,%s}',
        '{"model":"cached","x":"\\ud800",%s}',
        '{"model":"cached","x":{"a":1,"a":2},%s}',
        '{"model":"cached","x":{"a":1,"\\u0061":2},%s}',
        '{"model":"cached","x":{"\\u212A":1,"k":2},%s}',
    ],
)
def test_bodies_that_say_two_things(cache: Caching, mine: str, body: str) -> None:
    rest = f'"messages":[{{"role":"user","content":"{mine}"}}]' + ("" if "-0" in body else ',"temperature":0')
    raw = (body % rest).encode()
    for key in ("a", "b"):
        answer = cache.send(raw, key)
        assert answer.status == 400 or said(answer) == ("bypass", "ambiguous"), answer.raw


def test_bodies_that_say_the_same(cache: Caching, mine: str) -> None:
    """Order, white space and escapes do not matter: not within a tenant, and not between two."""
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in mine)
    raw = '{ "temperature":0,"messages" :[{"content":"%s","role":"user"}],\n"mod\\u0065l":"cached"}' % escaped  # noqa: UP031
    assert cache.send(raw.encode(), "a", control="only-if-cached").status == 200
    assert cache.send(raw.encode(), "b", control="only-if-cached").status == 504


@pytest.mark.parametrize(
    "text", ["question", "QUESTION", "question\u0000", "question\u200b", "ｑuestion", "que\u0301stion", "qu\u00e9stion"]
)
def test_words_that_look_alike(cache: Caching, text: str) -> None:
    assert not cache.has(text)
    answer = cache.ask_and_keep(text)
    assert cache.ask(text).body == answer.body


def test_numbers_are_not_made_equal(cache: Caching, mine: str) -> None:
    for fields in ({"temperature": 0.0}, {"seed": 1}, {"seed": 1.0}, {"top_p": 1}, {"max_tokens": 5}, {"x": None}):
        assert not cache.has(mine, fields=fields)


SALTS = [b"a", b"a ", b"a\tb", b"red", b"key a", b"a, b", b"\xff", b"%61", b"a" * 4000, b"\xc3\xa9"]


def test_salts(cache: Caching) -> None:
    """A salt keeps apart, it never leads anywhere: not to others' answers, and not to another salt's."""
    text = new_text()
    cache.ask_and_keep(text, "a", model="shared", salt="a,b")
    lines = [(b"a", b"b"), (b"a,b", b""), (b"", b"a,b"), *((salt,) for salt in SALTS), ()]
    for values in lines:
        raw = json.dumps(question(text, "shared")).encode()
        head = [b"POST /v1/chat/completions HTTP/1.1", b"host: x", b"connection: close", b"authorization: Bearer sk-a"]
        head += [b"cache-control: only-if-cached", b"content-length: %d" % len(raw)]
        head += [b"x-headgate-cache-key: " + value for value in values]
        answer = raw_request(cache.gateway.listen, b"\r\n".join(head) + b"\r\n\r\n" + raw)
        assert answer.status in (400, 504), (values, answer.raw)
    assert cache.has(text, "b", model="shared", salt="a,b")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions?x=1",
        "/v1/chat/completions?",
        "/v1/chat/completions?key=a",
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/./chat/completions",
        "/v1/x/../chat/completions",
        "/v1/chat%2fcompletions",
        "/V1/chat/completions",
        "/chat/completions",
        "/openai/deployments/cached/chat/completions",
        "http://elsewhere/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
    ],
)
def test_paths(cache: Caching, mine: str, path: str) -> None:
    assert cache.ask(mine, "b", path=path, control="only-if-cached").status in (400, 404, 504)


def test_a_query_is_part_of_the_question(cache: Caching, mine: str) -> None:
    assert not cache.has(mine, path="/v1/chat/completions?api-version=1")
    assert not cache.has(mine, more=(("openai-beta", "x"),))


def test_other_hosts(cache: Caching, mine: str) -> None:
    raw = json.dumps(question(mine)).encode()
    for host in ("a", "red", "x" * 200):
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nauthorization: Bearer sk-b\r\n"
        )
        head += f"cache-control: only-if-cached\r\ncontent-length: {len(raw)}\r\n\r\n"
        assert raw_request(cache.gateway.listen, head.encode() + raw).status == 504


def test_other_methods(cache: Caching, mine: str) -> None:
    for method in ("GET", "PUT", "HEAD", "PURGE"):
        headers = (("content-type", "application/json"), ("cache-control", "only-if-cached"))
        answer = post(cache.gateway.listen, question(mine), key="sk-a", method=method, headers=headers)
        assert answer.status in (404, 405)


def test_a_model_that_the_key_may_not_use(cache: Caching) -> None:
    text = new_text()
    cache.ask_and_keep(text, "a", model="shared")
    keys = [*KEYS, *NAMES, key_entry("narrow", models=["plain"])]
    cache.gateway.write_config({**cache.gateway.config, "keys": keys})
    cache.gateway.wait_for(lambda: post(cache.gateway.listen, chat("plain"), key="sk-narrow").status == 200)
    assert cache.ask(text, "narrow", model="shared").status == 403
    assert cache.ask(text, "nobody", model="shared").status == 401


def test_another_target_is_another_answer(cache: Caching) -> None:
    """After a reload that gives the model's name to another target, nothing of the old one is answered."""
    text = new_text()
    cache.ask_and_keep(text, "a", model="shared")
    models = cache.gateway.config["models"]
    other = {**models, "shared": {"targets": [{"provider": "fake", "model": "other"}], "cache": {"scope": "shared"}}}
    cache.gateway.write_config({**cache.gateway.config, "models": other})
    cache.gateway.wait_for(lambda: not cache.has(text, "a", model="shared"))
    with ProviderThread("second") as second:
        providers = {"fake": {"dialect": "openai", "base_url": second.base_url}}
        cache.gateway.write_config({**cache.gateway.config, "providers": providers})
        cache.gateway.wait_for(lambda: cache.ask(text, model="plain").header("x-fake-provider") == "second")
        assert not cache.has(text, "a", model="shared")
        cache.gateway.write_config(cache.gateway.config)
        cache.gateway.wait_for(lambda: cache.has(text, "a", model="shared"))


def test_what_comes_through(cache: Caching) -> None:
    """Of all x-headgate- headers only the salt passes Envoy's door, and it does not reach a provider."""
    names = ["x-headgate-cache-key", "X-Headgate-Cache-Key", "x-headgate-cache-key2", "x-headgate-", "x-headgate-c"]
    names += ["x-headgate-cache-ke", "x-headgate-cache", "X-HEADGATE-ROUTE", "x-headgate-x", "x-headgate-cache-kez"]
    cache.provider.requests.clear()
    cache.ask(new_text(), model="plain", more=tuple((name, "x") for name in names))
    assert not [name for name, _ in cache.provider.requests[0].headers if name.lower().startswith("x-headgate")]


def test_the_expression_that_strips() -> None:
    found = re.compile(_all_but("x-headgate-", "x-headgate-cache-key"))
    kept = "x-headgate-cache-key"
    assert not found.fullmatch(kept)
    assert not found.fullmatch("x-headgat")
    assert not found.fullmatch("x-other")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789-_.!#$%&'*+^`|~"
    stem = "x-headgate-"
    assert found.fullmatch(stem)
    for length in range(len(stem), len(kept) + 1):
        start = kept[:length]
        for letter in letters:
            name = start + letter
            assert bool(found.fullmatch(name)) == (name != kept), name
            assert bool(found.fullmatch(name + "x")) == (name + "x" != kept)
    for size in (1, 2):
        for letters_ in itertools.product(letters[:30], repeat=size):
            assert found.fullmatch(stem + "".join(letters_))
