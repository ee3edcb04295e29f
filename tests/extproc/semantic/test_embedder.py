"""Vectors over a unix socket, from a server that does as it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from extproc.semantic.embedder import EmbeddingError, EnvoyEmbedder
from tests.extproc.semantic.house import EMBEDDINGS, pack


class Server:
    """Answers on a socket; `answer` says with what."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "s.sock"
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.status = 200
        self.body = json.dumps({"data": [{"embedding": [1.0, 0.5]}], "usage": {"total_tokens": 4}}).encode()
        self.gate = asyncio.Event()
        self.gate.set()

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, dict(request.headers), await request.json()))
        await self.gate.wait()
        return web.Response(status=self.status, body=self.body, content_type="application/json")


class House:
    def __init__(self, server: Server) -> None:
        self.now = 0.0
        self.spent: list[tuple[str, int]] = []
        self.server = server
        self.embedder = EnvoyEmbedder(
            server.socket, lambda: self.now, lambda model, tokens: self.spent.append((model, tokens))
        )

    async def fails(self, text: str = "Hi", seconds: float = 5.0) -> str:
        with pytest.raises(EmbeddingError) as raised:
            await self.embedder.embed(EMBEDDINGS, text, seconds)
        return raised.value.reason


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    server = Server(tmp_path)
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(server.socket)).start()
    made = House(server)
    yield made
    server.gate.set()
    await made.embedder.close()
    await runner.cleanup()


async def test_what_is_asked_and_what_comes(house: House) -> None:
    found = await house.embedder.embed(EMBEDDINGS, "Hi", 5)
    assert (found.vector, found.tokens) == (pack(1.0, 0.5), 4)
    ((path, headers, body),) = house.server.asked
    assert (path, body) == ("/v1/embeddings", {"model": "te3", "input": "Hi"})
    assert headers["x-headgate-route"] == "embedder@1"
    assert "authorization" not in {name.lower() for name in headers}
    assert house.spent == [("embedder", 4)]


async def test_a_text_is_asked_for_once(house: House) -> None:
    await asyncio.gather(*(house.embedder.embed(EMBEDDINGS, "Hi", 5) for _ in range(5)))
    await house.embedder.embed(EMBEDDINGS, "Hi", 5)
    assert len(house.server.asked) == 1
    await house.embedder.embed(EMBEDDINGS, "Hi!", 5)
    await house.embedder.embed(replace(EMBEDDINGS, marks=("other",)), "Hi", 5)
    assert len(house.server.asked) == 3


async def test_who_leaves_does_not_take_the_others_along(house: House) -> None:
    house.server.gate.clear()
    first = asyncio.ensure_future(house.embedder.embed(EMBEDDINGS, "Hi", 5))
    second = asyncio.ensure_future(house.embedder.embed(EMBEDDINGS, "Hi", 5))
    while not house.server.asked:
        await asyncio.sleep(0.001)
    first.cancel()
    house.server.gate.set()
    assert (await second).tokens == 4


async def test_failures_by_kind(house: House) -> None:
    house.server.status = 429
    assert await house.fails("a") == "status"
    house.server.status, house.server.body = 200, b"{}"
    assert await house.fails("b") == "answer"
    house.server.body = b" " * (2 << 20)
    assert await house.fails("c") == "answer"
    house.server.gate.clear()
    assert await house.fails("d", 0.01) == "timeout"
    house.server.gate.set()
    assert house.spent == []


async def test_nobody_listens(tmp_path: Path) -> None:
    house = House(Server(tmp_path))
    assert await house.fails() == "connection"
    await house.embedder.close()


async def test_after_failures_in_a_row_it_is_left_alone_for_a_while(house: House) -> None:
    house.server.status = 500
    for number in range(5):
        assert await house.fails(str(number)) == "status"
    asked = len(house.server.asked)
    assert await house.fails("next") == "paused"
    assert len(house.server.asked) == asked
    house.server.status = 200
    house.now = 5.0
    await house.embedder.embed(EMBEDDINGS, "next", 5)
    house.server.status = 500
    assert await house.fails("another") == "status"  # the count begins anew
    assert await house.fails("yet another") == "status"
