"""The exact cache, and where that has no answer, one by meaning.

    ask      as `Cache.ask`; after its miss a vector of the question, and the nearest earlier question with its frame
    reply    says `semantic`, and how near it was
    kept     the answer of a question was kept: from now on it can be found by meaning (`Learner`)

Whatever goes wrong, the request goes on as the miss that it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from extproc.cache import replay
from extproc.cache.cache import Cache, Found, Missed, Outcome
from extproc.cache.cache import Observer as ExactObserver
from extproc.cache.entry import Entry, decode
from extproc.cache.question import Question
from extproc.cache.store.base import CacheStore
from extproc.context import Reply
from extproc.semantic.embedder import Embedder, EmbeddingError
from extproc.semantic.frame import Unfit
from extproc.semantic.index import Near, VectorIndex
from extproc.semantic.question import SemanticQuestion
from sidecar.errors import StoreError

SIMILARITY_HEADER = "x-headgate-cache-similarity"
NO_VECTOR, NO_SEARCH = "embeddings", "vectors"  # reasons of a miss


class Observer(Protocol):
    """Told what becomes of questions that are asked by meaning."""

    def semantic_asked(self, model: str, result: str, reason: str, seconds: float) -> None:
        """`result` is hit, miss, unfit or failed; it took so many seconds."""

    def semantic_saved(self, model: str, tokens: int, cost: float | None) -> None:
        """A client was given such an answer: what that took when it was made. No cost where no price was known."""

    def semantic_failed(self, error: Exception) -> None:
        """There was no vector, or no search, or nothing could be learned."""


@dataclass(slots=True)
class FoundSimilar(Found):
    """The answer of another question; `similarity` is the cosine between the two."""

    similarity: float = 0.0

    @property
    def status(self) -> str:
        return "semantic"


class SemanticCache:
    """`cache` and its `store` are the exact ones. `clock` is in seconds and never goes back, `unix_time` the time of
    day."""

    def __init__(
        self,
        cache: Cache,
        store: CacheStore,
        embedder: Embedder,
        index: VectorIndex,
        observer: Observer,
        clock: Callable[[], float],
        unix_time: Callable[[], float],
    ) -> None:
        self._cache = cache
        self._store = store
        self._embedder = embedder
        self._index = index
        self._observer = observer
        self._clock = clock
        self._unix_time = unix_time

    def ask(self, question: Question) -> Outcome | Awaitable[Outcome]:
        """What the exact cache says, and after its miss what is near enough."""
        return self._ask(question) if isinstance(question, SemanticQuestion) else self._cache.ask(question)

    async def _ask(self, question: SemanticQuestion) -> Outcome:
        # All of it in here: who is cancelled before this has begun leaves no ticket behind.
        outcome = self._cache.ask(question)
        if not isinstance(outcome, Found | Missed):
            outcome = await outcome
        if isinstance(outcome, Found) or not question.read or outcome.reason == "store":
            return outcome
        try:
            return await self._look(question, outcome)
        except BaseException:
            self._cache.lost(outcome.ticket)
            raise

    async def _look(self, question: SemanticQuestion, missed: Missed) -> Outcome:
        started, model = self._clock(), question.key.model
        framed = question.framed()
        if isinstance(framed, Unfit):
            self._observer.semantic_asked(model, "unfit", str(framed), self._clock() - started)
            return missed
        rules, learned = question.semantic, question.learned
        found: FoundSimilar | None = None
        try:
            embedded = await self._embedder.embed(rules.embeddings, framed.text, rules.timeout)
            learned.place, learned.vector = question.place(framed, embedded.dimensions), embedded.vector
            found = await self._nearest(question)
            result, reason = "hit" if found is not None else "miss", ""
        except EmbeddingError as error:
            self._observer.semantic_failed(error)
            result, reason, missed = "failed", error.reason, Missed(missed.ticket, NO_VECTOR)
        except StoreError as error:
            self._observer.semantic_failed(error)
            result, reason, missed = "failed", NO_SEARCH, Missed(missed.ticket, NO_SEARCH)
        self._observer.semantic_asked(model, result, reason, self._clock() - started)
        if found is None:
            return missed
        self._cache.answered(missed.ticket)
        return found

    async def _nearest(self, question: SemanticQuestion) -> FoundSimilar | None:
        """The nearest of those that are near enough and still there. Raises `StoreError`."""
        learned, now = question.learned, self._unix_time()
        for near in await self._index.search(learned.place, learned.vector, now):
            if near.similarity < question.semantic.threshold:
                break  # so are all that follow
            value = self._store.get(near.key)
            if value is not None and not isinstance(value, bytes):
                value = await value
            entry = decode(value, near.key) if value is not None else None
            if entry is None:  # purged, let go, or ended
                await self._index.remove(learned.place, near.key)
            elif self._may_answer(question, entry, now):
                return FoundSimilar(entry, similarity=_rounded(near))
        return None

    def _may_answer(self, question: SemanticQuestion, entry: Entry, now: float) -> bool:
        ages = (question.semantic.ttl, *(() if question.max_age is None else (question.max_age,)))
        return entry.model == question.key.model and entry.fresh(now, min(ages))

    def delivered(self, found: Found) -> None:
        """A client is given it."""
        entry = found.entry
        if isinstance(found, FoundSimilar):
            self._observer.semantic_saved(entry.model, entry.usage.total or 0, entry.cost)
        else:
            self._cache.delivered(found)

    def reply(self, found: Found) -> Reply:
        """The kept answer. One of another question says so."""
        if not isinstance(found, FoundSimilar):
            return self._cache.reply(found)
        kept = replay.reply(found.entry, self._unix_time(), found.status)
        return Reply(kept.status, kept.body, (*kept.headers, (SIMILARITY_HEADER, f"{found.similarity:.4f}")))


def _rounded(near: Near) -> float:
    """What is the same text may come out a bit above 1."""
    return min(1.0, near.similarity)


class Learner:
    """Observes the exact cache, for `observer`: where an answer is kept, its question's vector is."""

    def __init__(
        self, observer: ExactObserver, told: Observer, index: VectorIndex, unix_time: Callable[[], float]
    ) -> None:
        self._observer = observer
        self._told = told
        self._index = index
        self._unix_time = unix_time
        self._learning: set[asyncio.Task[None]] = set()

    def looked_up(self, question: Question, result: str, reason: str) -> None:
        """A kept answer was looked for."""
        self._observer.looked_up(question, result, reason)

    def saved(self, model: str, tokens: int, cost: float | None) -> None:
        """A client was given a kept answer."""
        self._observer.saved(model, tokens, cost)

    def kept(self, question: Question, size: int) -> None:
        """An answer was kept. Its vector is put where it belongs behind everybody's back."""
        self._observer.kept(question, size)
        if isinstance(question, SemanticQuestion) and question.learned.vector:
            task = asyncio.get_running_loop().create_task(self._learn(question))
            self._learning.add(task)
            task.add_done_callback(self._learning.discard)

    def not_kept(self, question: Question, reason: str) -> None:
        """An answer was not kept."""
        self._observer.not_kept(question, reason)

    def cache_failed(self, error: StoreError) -> None:
        """The store did not answer."""
        self._observer.cache_failed(error)

    async def _learn(self, question: SemanticQuestion) -> None:
        rules, learned = question.semantic, question.learned
        ttl = min(rules.ttl, question.rules.ttl)
        try:
            now = self._unix_time()
            await self._index.add(learned.place, learned.vector, question.key.digest, now, ttl, rules.max_entries)
        except StoreError as error:
            self._told.semantic_failed(error)

    async def settled(self) -> None:
        """Wait for what is being learned."""
        await asyncio.gather(*tuple(self._learning))
