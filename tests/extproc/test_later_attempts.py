"""What attempts after the first look like: the same as if their target had been the first."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from extproc.balance.health import Health
from extproc.context import Exchange, Forward, RequestHeaders
from extproc.processor import LATER_ATTEMPTS, METADATA, Processor
from tests.extproc.attempts import later_attempt
from tests.extproc.factories import digest, headers, policy

PROVIDERS: dict[str, Any] = {
    "a": {"dialect": "openai", "base_url": "http://one.test/v1", "max_tokens": "max_completion_tokens"},
    "b": {
        "dialect": "azure-openai", "base_url": "http://two.test", "api_version": "2024-10-21",
        "drops": ["user", "logit_bias"],
    },
    "c": {
        "dialect": "openai", "base_url": "http://three.test/base/v2", "include_usage": False,
        "max_tokens": "max_tokens", "drops": ["store", "stream_options"],
    },
}  # fmt: skip
TARGETS = [
    {"provider": "a", "model": "gpt-a"},
    {"provider": "b", "model": 'dep "b"/é'},
    {"provider": "c", "model": "org/model-c"},
]
POLICY = policy(
    providers=PROVIDERS,
    models={
        "m": {"targets": TARGETS, "attempts": 3},
        "two": {"targets": TARGETS, "attempts": 2},
        **{f"only-{one['provider']}": [{**one}] for one in TARGETS},
    },
    keys=[{"name": "k", "sha256": digest("sk-a"), "passthrough": ["*"]}],
)


def decided(body: bytes, model: str, draw: float, head: RequestHeaders) -> tuple[Exchange, Forward] | None:
    processor = Processor(lambda: POLICY, lambda: draw, Health(lambda: 0.0))
    exchange, _ = processor.on_headers(head)
    outcome = processor.on_body(exchange, body)
    return (exchange, outcome) if isinstance(outcome, Forward) else None


def sent(outcome: Forward, body: bytes) -> tuple[str, int, bytes]:
    """What the first attempt's target gets: path, content-length, body."""
    fields = dict(outcome.set_headers)
    made = body if outcome.body is None else outcome.body
    return fields[":path"], int(fields.get("content-length", len(body))), made


def cut(body: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(body) + 1) for place in places} | {len(body)})
    return [body[start:end] for start, end in zip([0, *ends], ends, strict=False)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
SPECIAL = {
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans(), "x": st.text()}),
    "max_tokens": st.integers(0, 10**6),
    "max_completion_tokens": st.integers(0, 10**6),
    "user": st.text(),
    "logit_bias": st.dictionaries(st.text(), st.integers(), max_size=3),
    "store": st.booleans(),
    "messages": st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": st.text()}), max_size=3),
}
SPACE = st.sampled_from(["", " ", "\n", "\r\n\t", "  \t"])


@st.composite
def bodies(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """A chat request as people write one: in any order of its keys, with any white space."""
    fields = draw(st.fixed_dictionaries({}, optional=SPECIAL))
    fields |= draw(
        st.dictionaries(
            st.text().filter(lambda k: k.casefold() not in ("model", *SPECIAL, "n")), json_values, max_size=3
        )
    )
    names = draw(st.permutations([*fields, "model"]))
    fields = {**fields, "model": "m"}
    escaped, space = draw(st.booleans()), draw(SPACE)
    parts = []
    for name in names:
        value = json.dumps(fields[name], ensure_ascii=escaped, indent=draw(st.sampled_from([None, 1])))
        parts.append(f"{draw(SPACE)}{json.dumps(name, ensure_ascii=escaped)}{space}:{draw(SPACE)}{value}")
    text = draw(SPACE) + "{" + f"{space},".join(parts) + draw(SPACE) + "}" + draw(SPACE)
    return {name: fields[name] for name in names}, text.encode("utf-8", "surrogatepass")


QUERY = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
DRAWS = (0.1, 0.5, 0.9)  # each target first once
PLACES = st.lists(st.integers(0, 1 << 20), max_size=5)


@given(bodies(), st.floats(0, 1, exclude_max=True), QUERY, PLACES)
def test_a_later_attempt_is_what_its_target_would_have_got_first(
    made: tuple[dict[str, Any], bytes], draw: float, query: str, places: list[int]
) -> None:
    _, body = made
    try:
        body.decode()
    except UnicodeDecodeError:
        assume(False)
    head = headers(f"/v1/chat/completions?{query}", content_length=str(len(body)))
    found = decided(body, "m", draw, head)
    if found is None:
        return
    exchange, outcome = found
    firsts = {}
    for other in DRAWS:
        again = decided(body, "m", other, head)
        assert again is not None
        firsts[again[0].order[0]] = sent(again[1], body)
    assert firsts.keys() == {0, 1, 2}
    plan = str(outcome.metadata[METADATA][LATER_ATTEMPTS])
    chunks = cut(sent(outcome, body)[2], places)
    for number, index in enumerate(exchange.order[1:], start=2):
        assert later_attempt(plan, number, chunks) == firsts[index]
        _, length, text = firsts[index]
        assert length == len(text)


@given(bodies(), st.sampled_from(DRAWS), st.sampled_from(["m", "two"]))
def test_every_attempt_means_the_same_as_to_an_only_target(
    made: tuple[dict[str, Any], bytes], draw: float, model: str
) -> None:
    """Where a target is one of several, its fields stand in another order; nothing else is different."""
    fields, _ = made

    def request(name: str) -> bytes:
        return json.dumps({**fields, "model": name}).encode()

    body = request(model)
    head = headers(content_length=str(len(body)))
    found = decided(body, model, draw, head)
    if found is None:
        return
    exchange, outcome = found
    plan = str(outcome.metadata[METADATA][LATER_ATTEMPTS])
    first = sent(outcome, body)
    for number, index in enumerate(exchange.order, start=1):
        path, length, text = first if number == 1 else later_attempt(plan, number, [first[2]])
        only = request(f"only-{TARGETS[index]['provider']}")
        alone = decided(only, "", draw, headers(content_length=str(len(only))))
        assert alone is not None
        lone_path, _, lone_text = sent(alone[1], only)
        assert (path, json.loads(text)) == (lone_path, json.loads(lone_text))
        assert length == len(text)


@given(st.binary(max_size=60), st.binary(max_size=60), st.sampled_from(DRAWS), PLACES)
def test_a_form_differs_in_its_model_only(before: bytes, after: bytes, draw: float, places: list[int]) -> None:
    assume(b"--line" not in before + after)

    def form(model: str) -> bytes:
        head = b'--line\r\ncontent-disposition: form-data; name="%b"\r\n\r\n'
        parts = (head % b"file" + before, head % b"model" + model.encode(), head % b"prompt" + after)
        return b"\r\n".join((*parts, b"--line--\r\n"))

    body = form("m")
    head = headers(
        "/v1/audio/transcriptions", content_type="multipart/form-data; boundary=line", content_length=str(len(body))
    )
    found = decided(body, "m", draw, head)
    assert found is not None
    exchange, outcome = found
    plan = str(outcome.metadata[METADATA][LATER_ATTEMPTS])
    first = sent(outcome, body)
    for number, index in enumerate(exchange.order, start=1):
        _, length, text = first if number == 1 else later_attempt(plan, number, cut(first[2], places))
        assert text == form(TARGETS[index]["model"])
        assert length == len(text)


def test_a_request_that_passes_through_keeps_its_body() -> None:
    """Two endpoints with base paths of their own: only the path is another."""
    made = policy(
        providers={"p": {"dialect": "openai", "base_urls": ["http://one.test/v1", "http://two.test/base/v2"]}},
        models={},
        keys=[{"name": "k", "sha256": digest("sk-a"), "passthrough": ["p"]}],
    )
    processor = Processor(lambda: made, lambda: 0.0, Health(lambda: 0.0))
    _, outcome = processor.on_headers(headers("/p/p/files?limit=1"))
    assert isinstance(outcome, Forward)
    assert dict(outcome.set_headers)[":path"] == "/v1/files?limit=1"
    plan = str(outcome.metadata[METADATA][LATER_ATTEMPTS])
    assert later_attempt(plan, 2, [b"any", b"thing"]) == ("/base/v2/files?limit=1", None, b"anything")
