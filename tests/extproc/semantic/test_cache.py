"""When a question gets another one's answer, and when never."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from extproc.cache.cache import Found, Missed
from extproc.cache.capture import Discarded
from extproc.cache.store import ByTag, Everything
from extproc.cache.unfit import Reason
from extproc.semantic.cache import FoundSimilar
from tests.extproc.cache.test_cache import answer
from tests.extproc.cache.test_cache import question as exact_question
from tests.extproc.semantic.house import SemanticHouse


@pytest.fixture
def house() -> SemanticHouse:
    return SemanticHouse()


async def test_near_is_found_and_says_so(house: SemanticHouse) -> None:
    await house.keeps("lock", b"answer")
    house.exact.now += 7
    found = await house.asks("mutex")
    assert isinstance(found, FoundSimilar)
    reply = house.cache.reply(found)
    assert (reply.status, reply.body, found.status) == (200, b"answer", "semantic")
    headers = dict(reply.headers)
    assert (headers["x-headgate-cache"], headers["x-headgate-cache-similarity"]) == ("semantic", "0.9987")
    assert headers["age"] == "7"
    house.cache.delivered(found)
    assert house.told == ["miss", "hit", "saved 3"]
    assert house.exact.seen.told == ["miss", "kept", "miss"]


async def test_equal_is_exact_and_asks_for_no_vector(house: SemanticHouse) -> None:
    await house.keeps("lock", b"answer")
    found = await house.asks("lock")
    assert isinstance(found, Found)
    assert (found.status, house.embedder.asked) == ("hit", ["lock"])
    assert dict(house.cache.reply(found).headers)["x-headgate-cache"] == "hit"


async def test_far_is_not_found(house: SemanticHouse) -> None:
    await house.keeps("lock")
    for text in ("duck", "half"):
        outcome = await house.asks(text)
        assert isinstance(outcome, Missed)
        assert outcome.ticket
        assert outcome.reason == ""


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "b"},
        {"scope": "team"},
        {"scope": "shared", "tenant": "", "exact_tenant": "a"},
        {"model": "m2"},
        {"marks": ("another target",)},
        {"salt": b"salt"},
        {"temperature": 0},
        {"stream": True},
        {"seed": 2},
    ],
)
async def test_nothing_else_may_differ(house: SemanticHouse, other: dict[str, Any]) -> None:
    await house.keeps("lock")
    assert isinstance(await house.asks("mutex"), FoundSimilar)
    assert isinstance(await house.asks("mutex", **other), Missed)
    # Nor is it a question of how near it is.
    assert isinstance(await house.asks("bolt", **other), Missed)


async def test_numbers_must_be_equal(house: SemanticHouse) -> None:
    for text in ("15% of 240", "25% of 240", "240 of 15%", "what's 15 percent of 240"):
        house.embedder.vectors[text] = house.embedder.vectors["lock"]
    await house.keeps("15% of 240")
    assert isinstance(await house.asks("25% of 240"), Missed)
    assert isinstance(await house.asks("240 of 15%"), Missed)
    assert isinstance(await house.asks("what's 15 percent of 240"), FoundSimilar)


async def test_vectors_of_other_makers_never_meet(house: SemanticHouse) -> None:
    from dataclasses import replace

    from tests.extproc.semantic.house import EMBEDDINGS

    await house.keeps("lock")
    other = replace(EMBEDDINGS, marks=("p", "another model"))
    assert isinstance(await house.asks("mutex", rules={"embeddings": other}), Missed)


async def test_the_threshold_is_the_askers(house: SemanticHouse) -> None:
    await house.keeps("lock")
    assert isinstance(await house.asks("half", rules={"threshold": 0.7}), FoundSimilar)
    assert isinstance(await house.asks("mutex", rules={"threshold": 0.999}), Missed)


async def test_an_answer_ends_with_its_ttl_or_what_the_client_says(house: SemanticHouse) -> None:
    await house.keeps("lock")
    house.exact.now += 30
    assert isinstance(await house.asks("mutex"), FoundSimilar)
    outcome = await house.asks("mutex", max_age=10)
    assert isinstance(outcome, Missed)
    house.exact.cache.lost(outcome.ticket)
    house.exact.now += 30  # over the semantic one of 50, not over the exact one of 100
    assert isinstance(await house.asks("mutex"), Missed)
    assert isinstance(await house.asks("lock"), Found)


@pytest.mark.parametrize("selection", [Everything(), ByTag("model:m"), ByTag("key:a")])
async def test_what_is_purged_is_not_found(house: SemanticHouse, selection: Any) -> None:
    await house.keeps("lock")
    assert await house.exact.store.purge(selection) == 1
    assert isinstance(await house.asks("mutex"), Missed)
    assert [len(held) for held in house.index.places.values()] == [0]  # and its vector is gone, too


async def test_the_next_nearest_when_the_nearest_is_gone(house: SemanticHouse) -> None:
    house.embedder.vectors["latch"] = house.embedder.vectors["lock"]
    outcome = await house.asks("latch", rules={"threshold": 1.0})
    assert isinstance(outcome, Missed)
    second = await house.asks("lock", rules={"threshold": 1.0})
    assert isinstance(second, Missed)
    await house.ends(outcome.ticket, answer(b"latch"))
    house.exact.now += 60
    await house.ends(second.ticket, answer(b"lock"))
    found = await house.asks("mutex")
    assert isinstance(found, FoundSimilar)
    assert found.entry.body == b"lock"


async def test_new_answers_are_wanted(house: SemanticHouse) -> None:
    await house.keeps("lock")
    outcome = await house.asks("mutex", read=False)
    assert isinstance(outcome, Missed)
    assert outcome.ticket
    assert house.embedder.asked == ["lock"]


async def test_only_if_cached(house: SemanticHouse) -> None:
    await house.keeps("lock")
    assert isinstance(await house.asks("mutex", only=True), FoundSimilar)
    outcome = await house.asks("duck", only=True)
    assert outcome == Missed("", "only_if_cached")


async def test_no_vector_in_time(house: SemanticHouse) -> None:
    outcome = await house.asks("strange")
    assert isinstance(outcome, Missed)
    assert outcome.reason == "embeddings"
    await house.ends(outcome.ticket, answer(b"new"))
    assert isinstance(await house.asks("strange"), Found)  # kept all the same, for equal ones
    assert house.index.places == {}
    assert house.told == ["failed", "failed timeout"]


async def test_the_search_fails(house: SemanticHouse) -> None:
    house.index.fails = True
    outcome = await house.asks("lock")
    assert isinstance(outcome, Missed)
    assert outcome.reason == "vectors"
    await house.ends(outcome.ticket, answer())
    assert house.told == ["failed", "failed vectors", "failed"]
    assert isinstance(await house.asks("lock"), Found)


async def test_the_store_fails(house: SemanticHouse) -> None:
    house.exact.store.fails = True
    assert await house.asks("lock") == Missed("", "store")
    assert house.embedder.asked == []


async def test_unfit_questions_stay_exact(house: SemanticHouse) -> None:
    await house.keeps(" ")
    assert house.told == ["unfit text"]
    assert house.embedder.asked == []
    assert isinstance(await house.asks(" "), Found)


async def test_questions_of_models_without_one(house: SemanticHouse) -> None:
    outcome = house.cache.ask(exact_question("q"))
    assert isinstance(outcome, Missed)
    await house.ends(outcome.ticket, answer())
    assert isinstance(house.cache.ask(exact_question("q")), Found)
    assert house.embedder.asked == []


async def test_answers_that_are_not_kept_are_not_learned(house: SemanticHouse) -> None:
    outcome = await house.asks("lock")
    assert isinstance(outcome, Missed)
    house.exact.cache.keep(outcome.ticket, Discarded(Reason.STATUS))
    await house.learner.settled()
    assert house.index.places == {}


async def test_who_waits_for_an_answered_one_goes_on(house: SemanticHouse) -> None:
    """Equal questions wait for the first; when that is answered by meaning, so is each of them."""
    await house.keeps("lock", b"answer")
    house.embedder.gate = asyncio.Event()
    waiting = [asyncio.ensure_future(house.asks("mutex")) for _ in range(3)]
    for _ in range(5):
        await asyncio.sleep(0)
    house.embedder.gate.set()
    outcomes = await asyncio.gather(*waiting)
    assert [isinstance(one, FoundSimilar) and one.entry.body for one in outcomes] == [b"answer"] * 3
    assert len(house.exact.flights) == 0


async def test_a_client_that_leaves_meanwhile(house: SemanticHouse) -> None:
    house.embedder.gate = asyncio.Event()
    asking = asyncio.ensure_future(house.asks("lock"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(house.exact.flights) == 1
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len(house.exact.flights) == 0


async def test_a_client_that_leaves_before_it_has_begun(house: SemanticHouse) -> None:
    asking = asyncio.ensure_future(house.asks("lock"))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len(house.exact.flights) == 0
