"""Keys among subprotocols, and paths that pass through: what must never get by, for any text."""

from __future__ import annotations

import posixpath
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.balance.health import Health
from extproc.context import Forward, Outcome, Reply, RequestHeaders
from extproc.processor import Processor
from tests.extproc.factories import digest, policy

POLICY = policy(
    providers={
        "vendor": {"dialect": "openai", "base_url": "http://one.test/tenants/one/v1", "realtime": True},
        "mute": {"dialect": "openai", "base_url": "http://two.test/v1"},
    },
    models={"voice": {"provider": "vendor"}},
    keys=[{"name": "k", "sha256": digest("sk-a"), "passthrough": ["*"]}],
)


def decided(path: str, **more: str) -> Outcome:
    fields = {":path": (path.encode(),), ":method": (b"GET",)}
    fields |= {name.replace("_", "-"): (value.encode(),) for name, value in more.items()}
    processor = Processor(lambda: POLICY, lambda: 0.0, Health(lambda: 0.0))
    return processor.on_headers(RequestHeaders(fields, end_of_stream=False))[1]


TOKEN = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=","), min_size=1, max_size=12)


@given(
    st.lists(TOKEN | st.sampled_from(["openai-organization.o", "OpenAI-Project.p", "Openai-Insecure-Api-Key.x"])),
    st.integers(0, 9),
    st.sampled_from([",", ", ", " ,\t"]),
)
def test_no_key_among_subprotocols_goes_on(others: list[str], place: int, comma: str) -> None:
    offered = [*others[:place], "openai-insecure-api-key.sk-a", *others[place:]]
    outcome = decided("/v1/realtime?model=voice", upgrade="WebSocket", sec_websocket_protocol=comma.join(offered))
    if any(one.startswith("openai-insecure-api-key.") for one in others):
        assert isinstance(outcome, Reply)
        return
    assert isinstance(outcome, Forward), outcome
    sent = dict(outcome.set_headers).get("sec-websocket-protocol")
    private = ("openai-insecure-api-key.", "openai-organization.", "openai-project.")
    assert sent == (", ".join(one for one in others if not one.lower().startswith(private)) or None)
    assert ("sec-websocket-protocol" in outcome.remove_headers) is (sent is None)


@given(st.text(max_size=40))
def test_no_subprotocol_but_a_key_is_a_key(text: str) -> None:
    outcome = decided("/v1/realtime?model=voice", upgrade="websocket", sec_websocket_protocol=f"realtime,{text}")
    assert isinstance(outcome, Reply)
    assert outcome.status == 401


@pytest.mark.parametrize("upgrade", ["", "h2c", "websocket2", "websocket, h2c"])
def test_a_subprotocol_is_a_key_in_a_websocket_only(upgrade: str) -> None:
    outcome = decided("/p/vendor/x", upgrade=upgrade, sec_websocket_protocol="openai-insecure-api-key.sk-a")
    assert isinstance(outcome, Reply)
    assert outcome.status == 401


SEGMENT = st.sampled_from([".", "..", "a", "v1", "", "%2e%2e", "..%2f", "%5c..", "..;x", "%252e", "a%2fb"]) | st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="?#"), max_size=6
)


@given(st.lists(SEGMENT, max_size=6).map("/".join))
def test_whatever_passes_through_stays_below_the_base_path(rest: str) -> None:
    outcome = decided(f"/p/vendor/{rest}", authorization="Bearer sk-a")
    if isinstance(outcome, Reply):
        assert outcome.status == 400
        return
    assert isinstance(outcome, Forward)
    path = dict(outcome.set_headers)[":path"]
    assert path.startswith("/tenants/one/v1")
    seen = unquote(path).replace("\\", "/")
    assert posixpath.normpath(seen).startswith("/tenants/one/v1")


@given(st.text(min_size=1, max_size=20).filter(lambda name: ".." not in name))
def test_a_name_in_a_segment_passes(name: str) -> None:
    outcome = decided(f"/p/vendor/models/{quote(name, safe='')}", authorization="Bearer sk-a")
    assert isinstance(outcome, Forward)
    assert dict(outcome.set_headers)[":path"] == f"/tenants/one/v1/models/{quote(name, safe='')}"


@pytest.mark.parametrize(
    ("path", "status"), [("/p/mute/realtime", 400), ("/v1/chat/completions", 400), ("/v1/files", 404)]
)
def test_a_websocket_goes_nowhere_else(path: str, status: int) -> None:
    outcome = decided(path, upgrade="websocket", authorization="Bearer sk-a")
    assert isinstance(outcome, Reply)
    assert outcome.status == status
