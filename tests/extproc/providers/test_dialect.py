"""Where operations are and how keys are sent, for each dialect."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from extproc.providers.dialect import CREDENTIAL_HEADERS, DIALECTS, Dialect, with_query
from extproc.providers.openai import OPERATIONS, Operation

OPENAI = DIALECTS["openai"]
AZURE = DIALECTS["azure-openai"]
VERSION = "2024-10-21"
CHAT = "/chat/completions"

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
dialects = st.sampled_from(list(DIALECTS.values()))


def test_a_key_is_sent_as_each_dialect_wants_it() -> None:
    assert (OPENAI.credential_header, OPENAI.credential("k")) == ("authorization", "Bearer k")
    assert (AZURE.credential_header, AZURE.credential("k")) == ("api-key", "k")
    assert CREDENTIAL_HEADERS == ("api-key", "authorization")


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda operation: operation.name)
def test_openai_has_its_operations_below_the_base_path(operation: Operation) -> None:
    path = operation.path
    assert OPENAI.path("/v1", path, "gpt-4o") == f"/v1{path}"
    assert OPENAI.path("", path, "gpt-4o") == path
    assert OPENAI.path("/v1beta/openai/", path, "gemini", "ignored") == f"/v1beta/openai{path}"


@pytest.mark.parametrize("base", ["", "/", "/openai", "/openai/", "/openai/v1", "/openai/v1/"])
def test_azure_without_a_version_is_the_v1_api_whatever_the_base_path_says(base: str) -> None:
    assert AZURE.path(base, CHAT, "gpt-4o") == "/openai/v1/chat/completions"
    assert AZURE.path(base, "/responses", "gpt-4o") == "/openai/v1/responses"


@pytest.mark.parametrize("base", ["", "/", "/openai", "/openai/", "/openai/v1", "/openai/v1/"])
def test_azure_with_a_dated_version_names_the_deployment_in_the_path(base: str) -> None:
    assert AZURE.path(base, CHAT, "my-gpt", VERSION) == (
        f"/openai/deployments/my-gpt/chat/completions?api-version={VERSION}"
    )
    assert AZURE.path(base, "/embeddings", "e", VERSION) == f"/openai/deployments/e/embeddings?api-version={VERSION}"


def test_azure_behind_another_path_keeps_it() -> None:
    assert AZURE.path("/team/azure/openai", CHAT, "m") == "/team/azure/openai/v1/chat/completions"
    assert AZURE.path("/team", CHAT, "m", VERSION).startswith("/team/openai/deployments/m/")
    assert AZURE.path("/v1", CHAT, "m") == "/v1/openai/v1/chat/completions"
    assert AZURE.path("/myopenai", CHAT, "m") == "/myopenai/openai/v1/chat/completions"


def test_azure_has_responses_beside_the_deployments() -> None:
    assert AZURE.path("", "/responses", "my-gpt", "2025-04-01-preview") == (
        "/openai/responses?api-version=2025-04-01-preview"
    )


@pytest.mark.parametrize("version", ["preview", "latest", "v1"])
def test_the_v1_api_takes_a_version_that_is_no_date(version: str) -> None:
    assert AZURE.path("", CHAT, "m", version) == f"/openai/v1/chat/completions?api-version={version}"


def test_a_websocket_names_its_model_in_the_query() -> None:
    assert OPENAI.path("/v1", "/realtime", "a b") == "/v1/realtime?model=a%20b"
    assert OPENAI.path("/v1", "/realtime", "") == "/v1/realtime"
    assert AZURE.path("", "/realtime", "m") == "/openai/v1/realtime?model=m"
    assert AZURE.path("", "/realtime", "m", VERSION) == f"/openai/realtime?deployment=m&api-version={VERSION}"


@given(names)
@example("..")
@example(".")
@example("a/b?c#d%2f")
@example("ü")
def test_a_deployment_is_always_one_segment_and_reads_back(name: str) -> None:
    path = AZURE.path("/openai", CHAT, name, VERSION)
    parts = urlsplit(path)
    assert path.isascii()
    assert parts.query == f"api-version={VERSION}"
    assert not parts.fragment
    empty, root, kind, deployment, *operation = parts.path.split("/")
    assert (empty, root, kind, operation) == ("", "openai", "deployments", ["chat", "completions"])
    if name in (".", ".."):
        assert unquote(deployment) not in (".", "..")
    else:
        assert unquote(deployment) == name


@given(dialects, names, st.sampled_from(["", VERSION, "preview", "a&b=c#d"]))
def test_a_model_and_a_version_never_leave_their_parameter(dialect: Dialect, name: str, version: str) -> None:
    path = dialect.path("/base", "/realtime", name, version)
    parts = urlsplit(path)
    assert parts.path.endswith("/realtime")
    query = dict(parse_qsl(parts.query, strict_parsing=True))
    assert set(query) <= {"model", "deployment", "api-version"}
    assert query.get("model", query.get("deployment")) == name
    assert query.get("api-version", version) == version


def test_the_clients_query_is_kept_as_it_was_written() -> None:
    assert with_query("/v1/x", "") == "/v1/x"
    assert with_query("/v1/x", "a=1&a=2&b=%2F&c") == "/v1/x?a=1&a=2&b=%2F&c"
    assert with_query("/x?api-version=1", "a=1") == "/x?api-version=1&a=1"
    assert with_query("/x?api-version=1", "") == "/x?api-version=1"


@pytest.mark.parametrize(
    "query", ["api-version=9", "API-Version=9", "api%2Dversion=9", "api-version", "api-version=9&a=1"]
)
def test_a_clients_version_never_wins(query: str) -> None:
    dated = with_query(AZURE.path("", CHAT, "m", VERSION), query, AZURE.owned_parameters)
    assert dated.count("ersion") == 1
    assert f"api-version={VERSION}" in dated
    undated = with_query(AZURE.path("", CHAT, "m"), query, AZURE.owned_parameters)
    assert "ersion" not in undated
    assert ("a=1" in undated) == ("a=1" in query)
    assert not undated.endswith("?")


def test_a_client_cannot_name_another_model_in_the_query() -> None:
    assert with_query(OPENAI.path("/v1", "/realtime", "mine"), "model=yours&intent=x") == (
        "/v1/realtime?model=mine&intent=x"
    )


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "api-version", "Model"]), names), max_size=6))
def test_with_query_loses_nothing_but_what_is_taken(pairs: list[tuple[str, str]]) -> None:
    joined = with_query("/x?model=m", urlencode(pairs), frozenset({"api-version"}))
    kept = [(name, value) for name, value in pairs if name in ("a", "b")]
    assert parse_qsl(urlsplit(joined).query, keep_blank_values=True) == [("model", "m"), *kept]
