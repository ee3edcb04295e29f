"""Vectors from a provider, through Envoy's internal listener: Envoy puts in the provider's key, which nobody else has.

Asked once per decision at most, and never while an answer streams. Equal texts share one call, and the latest vectors
are remembered. After some failures in a row nothing is asked for a while: a provider that is away must not make every
miss wait for it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import aiohttp

from extproc.processor import ROUTE_HEADER
from extproc.semantic import vector
from extproc.semantic.rules import Embeddings
from extproc.semantic.vector import Embedded, NoVectorError

_REMEMBERED = 1_000  # vectors; one of 1,536 dimensions takes 6 KB
_LARGEST = 1 << 20  # bytes of an answer
_IN_A_ROW = 5  # failures
_PAUSE = 5.0  # seconds


class EmbeddingError(Exception):
    """There is no vector. `reason` is a label of metrics: timeout, status, answer, connection or paused."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class Embedder(Protocol):
    """Makes vectors of texts."""

    async def embed(self, embeddings: Embeddings, text: str, seconds: float) -> Embedded:
        """The vector of `text` within `seconds`. Raises `EmbeddingError`."""


class EnvoyEmbedder:
    """Asks over the unix socket of Envoy's internal listener. `clock` counts seconds and never goes back; `spent` is
    told of the tokens of every call (model, tokens)."""

    def __init__(self, socket: Path, clock: Callable[[], float], spent: Callable[[str, int], None]) -> None:
        self._socket = socket
        self._clock = clock
        self._spent = spent
        self._session: aiohttp.ClientSession | None = None
        self._known: OrderedDict[tuple[object, ...], Embedded] = OrderedDict()
        self._asked: dict[tuple[object, ...], asyncio.Task[Embedded]] = {}
        self._failures: dict[str, int] = {}
        self._paused_until: dict[str, float] = {}

    async def embed(self, embeddings: Embeddings, text: str, seconds: float) -> Embedded:
        """The vector of `text` within `seconds`. Raises `EmbeddingError`."""
        key = (embeddings.marks, embeddings.dimensions, text)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        asked = self._asked.get(key)
        if asked is None:
            if self._clock() < self._paused_until.get(embeddings.model, 0.0):
                raise EmbeddingError("paused", f"{embeddings.model} failed {_IN_A_ROW} times in a row")
            asked = self._asked[key] = asyncio.create_task(self._ask(embeddings, text, seconds))
            asked.add_done_callback(lambda task: self._ended(key, embeddings.model, task))
        # Who leaves does not take the call along: others may wait for it, and the vector is worth keeping.
        return await asyncio.shield(asked)

    def _ended(self, key: tuple[object, ...], model: str, task: asyncio.Task[Embedded]) -> None:
        del self._asked[key]
        if task.cancelled():
            return
        if task.exception() is not None:
            self._failures[model] = self._failures.get(model, 0) + 1
            if self._failures[model] >= _IN_A_ROW:
                self._paused_until[model] = self._clock() + _PAUSE
            return
        self._failures.pop(model, None)
        embedded = self._known[key] = task.result()
        self._spent(model, embedded.tokens)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    async def _ask(self, embeddings: Embeddings, text: str, seconds: float) -> Embedded:
        headers = {"content-type": "application/json", ROUTE_HEADER: embeddings.route}
        body = vector.request_body(embeddings, text)
        url = f"http://headgate{embeddings.path}"
        try:
            async with asyncio.timeout(seconds), self._client().post(url, data=body, headers=headers) as response:
                if response.status != 200:
                    raise EmbeddingError("status", f"{embeddings.model} answered {response.status}")
                answer = await response.content.read(_LARGEST)
                while not response.content.at_eof() and len(answer) < _LARGEST:
                    answer += await response.content.read(_LARGEST - len(answer))
            return vector.read(answer, embeddings.dimensions)
        except NoVectorError as error:
            raise EmbeddingError("answer", f"{embeddings.model}: {error}") from None
        except TimeoutError:
            raise EmbeddingError("timeout", f"{embeddings.model} took longer than {seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise EmbeddingError("connection", f"{embeddings.model}: {error}") from None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.UnixConnector(path=str(self._socket), limit=0)
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=True)
        return self._session

    async def close(self) -> None:
        """Give up what is under way, and close connections."""
        for task in tuple(self._asked.values()):
            task.cancel()
        if self._session is not None:
            await self._session.close()
            self._session = None
