from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cache.canonical import canonical
from extproc.cache.key import CacheKey, make_key
from tests.extproc.cache.bodies import Tree, mutate, request, unhurried, write

PARTS: dict[str, Any] = {
    "scope": "key",
    "tenant": "a",
    "operation": "chat.completions",
    "resolved_model": "gpt-4o",
    "canonical_body": b'{"model":"gpt-4o"}',
    "policy_marks": ("one", "two"),
    "salt": b"",
}


def key(**changes: Any) -> CacheKey:
    return make_key(**{**PARTS, **changes})


def of(body: Tree, random: Random) -> bytes:
    form = canonical(write(body, random))
    assert form is not None
    return key(canonical_body=form).digest


def test_ten_thousand_pairs_meet_when_they_mean_the_same_and_only_then() -> None:
    random = Random(20_261)
    seen: dict[bytes, Tree] = {}
    for _ in range(10_000):
        body = request(random)
        other = mutate(body, random)
        if not isinstance(other, dict):
            other = {"body": other}
        digest = of(body, random)
        assert of(body, random) == digest, body
        assert (of(other, random) == digest) == (other == body), (body, other)
        assert seen.setdefault(digest, body) == body
    assert len(seen) > 9_000


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": "team"},
        {"scope": "shared", "tenant": ""},
        {"tenant": "A"},
        {"tenant": "a "},
        {"tenant": "\u0430"},  # Cyrillic
        {"operation": "responses"},
        {"resolved_model": "GPT-4o"},
        {"canonical_body": b'{"model":"gpt-4o"} '},
        {"policy_marks": ()},
        {"policy_marks": ("two", "one")},
        {"policy_marks": ("onetwo",)},
        {"policy_marks": ("one", "two", "")},
        {"policy_marks": ("one",), "salt": b"two"},
        {"salt": b"s"},
        {"salt": b"\x00"},
    ],
)
def test_every_part_counts(changes: dict[str, Any]) -> None:
    assert key(**changes).digest != key().digest


def test_a_tenant_may_be_named_as_it_likes() -> None:
    """Forms of one name in Unicode, and separators, make different tenants."""
    names = [
        "é",
        "e\u0301",
        "a",
        "a|b",
        "a:b",
        "a\x00",
        "a\n",
        "a/b",
        "key",
        "team",
        "shared",
        "a\x00\x00\x00\x00\x00\x00\x00\x01",
    ]
    assert len({key(tenant=name).digest for name in names}) == len(names)
    assert len(
        {key(tenant=name, scope="team").digest for name in names} | {key(tenant=name).digest for name in names}
    ) == 2 * len(names)


@unhurried
@given(st.lists(st.text(max_size=4), min_size=5, max_size=5), st.integers(1, 4), st.integers(0, 4))
def test_no_value_moves_into_its_neighbour(parts: list[str], at: int, length: int) -> None:
    """Whatever stands at the border of two parts: moved over it, it is another key."""

    def made(texts: list[str]) -> bytes:
        tenant, operation, model, mark, salt = texts
        return key(
            tenant="t" + tenant, operation=operation, resolved_model=model, policy_marks=(mark,), salt=salt.encode()
        ).digest

    left, right = parts[at - 1], parts[at]
    moved = [*parts]
    moved[at - 1], moved[at] = left[: max(0, len(left) - length)], left[max(0, len(left) - length) :] + right
    assert (made(moved) == made(parts)) == (moved == parts)


def test_an_answer_belongs_to_somebody_or_says_that_it_is_shared() -> None:
    for scope, tenant in (("key", ""), ("team", ""), ("shared", "a")):
        with pytest.raises(ValueError, match="does not go with"):
            key(scope=scope, tenant=tenant)


def test_the_digest_is_32_bytes_and_stays_what_it_is() -> None:
    assert key().digest.hex() == "82265fb755c28b4dae50686af011745bf3a3e922cfa9873882b4bb2a35662468"
    assert len(key().digest) == 32


def test_a_purge_names_the_model_and_the_tenant() -> None:
    assert key().tags == ("model:gpt-4o", "key:a")
    assert key(scope="team", tenant="key:a").tags == ("model:gpt-4o", "team:key:a")
    assert key(scope="shared", tenant="").tags == ("model:gpt-4o",)


def test_names_that_are_no_text_do_not_raise() -> None:
    assert key(resolved_model="\ud800").digest != key(resolved_model="\ud801").digest
