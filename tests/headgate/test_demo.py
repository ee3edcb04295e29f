"""The demonstration waits for its provider: a curl line that is printed works."""

from __future__ import annotations

import asyncio

import pytest

from headgate import demo
from sidecar.errors import HeadgateError


async def test_it_waits_until_somebody_listens() -> None:
    port = demo.free_port()
    waiting = asyncio.create_task(demo.until_listening(port))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port)
    async with server:
        await asyncio.wait_for(waiting, 5)


async def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_PATIENCE", 0.1)
    with pytest.raises(HeadgateError, match="does not listen on port"):
        await demo.until_listening(demo.free_port())
