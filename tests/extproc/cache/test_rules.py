from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cache.canonical import canonical
from extproc.cache.controls import Controls
from extproc.cache.rules import IGNORABLE, Bypass, Cacheable, CacheRules, Reason, Verdict, verdict
from extproc.errors import Rejected
from extproc.providers import openai
from tests.extproc.cache.bodies import unhurried

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
RESPONSE = {"model": "gpt-4o", "input": "hi", "temperature": 0, "store": False}


def ask(
    body: dict[str, Any] | bytes, operation: str = "chat.completions", controls: Controls | None = None, **rules: Any
) -> Verdict:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return verdict(operation, raw, openai.parse(raw).fields, controls or Controls(), CacheRules(**rules))


def reason(body: dict[str, Any] | bytes, operation: str = "chat.completions", **rules: Any) -> str:
    """The word for why not; empty when it may be kept."""
    found = ask(body, operation, **rules)
    return found.reason.value if isinstance(found, Bypass) else ""


def test_a_request_that_may_be_kept_comes_with_its_form() -> None:
    assert ask(CHAT) == Cacheable(canonical(json.dumps(CHAT).encode()) or b"")


def test_no_rules_no_cache() -> None:
    assert verdict("chat.completions", b"{}", {}, Controls(), None) == Bypass(Reason.OFF)


@pytest.mark.parametrize("operation", ["moderations", "images.generations", "audio.speech", "audio.transcriptions", ""])
def test_other_operations_are_never_kept(operation: str) -> None:
    assert reason(CHAT, operation) == "operation"


def test_a_form_is_no_json() -> None:
    assert verdict("chat.completions", b"--x", None, Controls(), CacheRules()) == Bypass(Reason.NOT_JSON)


def test_what_the_client_says_counts() -> None:
    assert ask(CHAT, controls=Controls(no_store=True)) == Bypass(Reason.NO_STORE)
    for controls in (Controls(no_cache=True), Controls(max_age=0)):
        found = ask(CHAT, controls=controls)
        assert isinstance(found, Cacheable)
        assert not found.read
        assert found.reason is Reason.NO_CACHE
    found = ask(CHAT, controls=Controls(max_age=5))
    assert isinstance(found, Cacheable)
    assert found.read
    assert found.max_age == 5
    assert found.reason is None


def test_a_large_request_is_not_looked_at() -> None:
    size = len(json.dumps(CHAT))
    assert reason(CHAT, max_request=size) == ""
    assert reason(CHAT, max_request=size - 1) == "too_large"


FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    ("changes", "rules", "expected"),
    [
        ({"temperature": None}, {}, "temperature"),
        ({"temperature": 0.0}, {}, ""),
        ({"temperature": 1e-9}, {}, "temperature"),
        ({"temperature": "0"}, {}, "temperature"),
        ({"temperature": False}, {}, "temperature"),
        ({"temperature": [0]}, {}, "temperature"),
        ({"temperature": 0.3}, {"max_temperature": 0.3}, ""),
        ({"temperature": None}, {"max_temperature": 1.0}, ""),
        ({"temperature": 2}, {"max_temperature": None}, ""),
        ({}, {"require_seed": True}, "seed"),
        ({"seed": "7"}, {"require_seed": True}, "seed"),
        ({"seed": True}, {"require_seed": True}, "seed"),
        ({"seed": 7}, {"require_seed": True}, ""),
        ({"n": 1, "best_of": None}, {}, ""),
        ({"n": 2}, {}, "choices"),
        ({"n": 0}, {}, "choices"),
        ({"n": "1"}, {}, "choices"),
        ({"best_of": 2}, {}, "choices"),
        ({"n": 2}, {"allow_n": True}, ""),
        ({"tools": []}, {}, ""),
        ({"tools": [FUNCTION]}, {}, "tools"),
        ({"functions": [{"name": "f"}]}, {}, "tools"),
        ({"tools": [FUNCTION, {"type": "custom"}], "functions": [{}]}, {"allow_tools": True}, ""),
        ({"tools": [FUNCTION, {"type": "web_search"}]}, {"allow_tools": True}, "tools"),
        ({"tools": [{}]}, {"allow_tools": True}, "tools"),
        ({"tools": [{"type": {}}]}, {"allow_tools": True}, "tools"),
        ({"tools": "all"}, {"allow_tools": True}, "tools"),
        ({"web_search_options": {"a": 1}}, {"allow_tools": True}, "tools"),
        ({"plugins": [{"id": "web"}]}, {"allow_tools": True}, "tools"),
        ({"enable_search": True}, {"allow_tools": True}, "tools"),
        ({"enable_search": False}, {}, ""),
        ({"store": True}, {}, "stateful"),
        ({"store": True}, {"allow_stored": True}, ""),
        ({"store": False}, {}, ""),
        ({"modalities": ["text", "audio"], "audio": {"voice": "x"}}, {}, "stateful"),
        ({"modalities": ["text"]}, {}, ""),
        ({"modalities": 5}, {}, "stateful"),
        ({"prompt": {"id": "x"}}, {}, ""),  # no such thing in a chat, so it is another question
    ],
)
def test_what_a_chat_asks_for(changes: dict[str, Any], rules: dict[str, Any], expected: str) -> None:
    assert reason({**CHAT, **changes}, **rules) == expected


def test_an_absent_temperature_is_the_apis_default() -> None:
    body = {name: value for name, value in CHAT.items() if name != "temperature"}
    assert reason(body) == "temperature"
    assert reason(body, max_temperature=1.0) == ""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"store": None}, "stateful"),
        ({"store": True}, "stateful"),
        ({"store": 0}, "stateful"),
        ({"previous_response_id": "resp_1"}, "stateful"),
        ({"conversation": {"id": "c"}}, "stateful"),
        ({"background": True}, "stateful"),
        ({"background": False, "previous_response_id": None}, ""),
        ({"prompt": {"id": "p"}}, "stateful"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "stateful"),
        ({"input": 'say "type":"item_reference"'}, ""),
        ({"tools": [{"type": "file_search"}]}, "tools"),
    ],
)
def test_what_a_response_refers_to(changes: dict[str, Any], expected: str) -> None:
    assert reason({**RESPONSE, **changes}, "responses") == expected


def test_stored_responses_may_be_allowed_but_none_that_refer_to_others() -> None:
    stored = {name: value for name, value in RESPONSE.items() if name != "store"}
    assert reason(stored, "responses") == "stateful"
    assert reason(stored, "responses", allow_stored=True) == ""
    assert reason({**stored, "previous_response_id": "x"}, "responses", allow_stored=True) == "stateful"


@pytest.mark.parametrize("field", ["temperature", "n", "tools", "seed", "store"])
def test_embeddings_are_not_drawn(field: str) -> None:
    body = {"model": "e", "input": ["a"], field: 2}
    assert reason(body, "embeddings", require_seed=True) == ""


INLINE = "data:image/png;base64,AAAA"


@pytest.mark.parametrize(
    ("part", "allowed"),
    [
        ({"type": "image_url", "image_url": {"detail": "low", "url": INLINE}}, ""),
        ({"type": "image_url", "image_url": INLINE}, ""),
        ({"type": "image_url", "image_url": {"url": "https://a.test/x.png"}}, "images"),
        ({"type": "image_url", "image_url": {"url": "gs://a/b"}}, "images"),
        ({"type": "image_url", "image_url": {}}, "images"),
        ({"type": "image_url", "image_url": None}, "images"),
        ({"type": "image_url", "image_url": ["https://a.test/x.png"]}, "images"),
        ({"type": "input_image", "image_url": "https://a.test/x.png"}, "images"),
        ({"type": "input_image", "file_id": "f"}, "images"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, ""),
        ({"type": "file", "file": {"file_data": INLINE}}, ""),
        ({"type": "file", "file": {"file_id": "f"}}, "images"),
        ({"type": "input_file", "file_url": "https://a.test/x.pdf"}, "images"),
        ({"type": "video_url", "video_url": {"url": "https://a.test/x.mp4"}}, "images"),
    ],
)
def test_pictures_sound_and_files(part: dict[str, Any], allowed: str) -> None:
    body = {**CHAT, "messages": [{"role": "user", "content": [{"type": "text", "text": "what?"}, part]}]}
    assert reason(body) == "images"
    assert reason(body, allow_images=True) == allowed
    escaped = json.dumps(body).replace("image_url", "im\\u0061ge_url").replace("file_", "f\\u0069le_").encode()
    assert reason(escaped) == "images"


def test_words_about_pictures_are_words() -> None:
    body = {**CHAT, "messages": [{"role": "user", "content": 'What is {"image_url":"https://a.test"}?'}]}
    assert reason(body) == ""


@pytest.mark.parametrize("raw", [b'{"temperature":0,"temperatur\\u0065":2}', b'{"temperature":0,"x":{"a":1,"a":2}}'])
def test_a_question_that_can_be_read_in_two_ways_is_asked(raw: bytes) -> None:
    assert reason(raw, max_temperature=None) == "ambiguous"


def test_ignored_fields_do_not_count_but_for_responses_which_repeat_them() -> None:
    for operation, body, same in (("chat.completions", CHAT, True), ("responses", RESPONSE, False)):
        one = ask({**body, "user": "a"}, operation, ignore=IGNORABLE)
        other = ask({**body, "user": "b"}, operation, ignore=IGNORABLE)
        assert isinstance(one, Cacheable)
        assert (one == other) == same
    assert ask({**CHAT, "user": "a"}) != ask({**CHAT, "user": "b"})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(("type", "url", "image_url", "x")), inner, max_size=2)
    ),
    max_leaves=4,
)
NAMES = st.sampled_from(
    ("temperature", "n", "best_of", "seed", "tools", "functions", "store", "audio", "modalities", "plugins", "messages",
     "input", "conversation", "background", "prompt", "enable_search", "image_url", "file_id")
)  # fmt: skip


@unhurried
@given(
    st.dictionaries(NAMES, VALUES),
    st.sampled_from(("chat.completions", "completions", "responses", "embeddings")),
    st.booleans(),
)
def test_no_value_raises(body: dict[str, Any], operation: str, allow: bool) -> None:
    ask(body, operation, require_seed=allow, allow_images=allow, allow_tools=allow, allow_n=allow, allow_stored=allow)


@unhurried
@given(st.binary(max_size=30).map(lambda inner: b'{"temperature":' + inner + b"}"))
def test_no_bytes_raise(raw: bytes) -> None:
    try:
        fields = openai.parse(raw).fields
    except Rejected:
        return
    verdict("chat.completions", raw, fields, Controls(), CacheRules())
    verdict("chat.completions", raw, fields, Controls(), CacheRules(max_temperature=None))


def test_a_value_too_deep_is_not_read() -> None:
    deep = 100_000  # more than any Python reads
    raw = b'{"temperature":0,"tools":' + b"[" * deep + b"]" * deep + b"}"
    assert verdict("chat.completions", raw, {"tools": msgspec.Raw(raw[25:-1])}, Controls(), CacheRules()) == Bypass(
        Reason.AMBIGUOUS
    )
