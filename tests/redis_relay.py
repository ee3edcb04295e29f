"""Stands between a client and a real Redis: records what is sent, terminates TLS, misbehaves on demand."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path


class Relay:
    """Passes bytes both ways between its own TCP port and the unix socket of a Redis. An async context manager.

    `sent` holds what clients sent, read by read. Unless `reading` it reads nothing of them; unless `passing` it
    passes no reply on.
    """

    def __init__(self, redis: Path, tls: ssl.SSLContext | None = None) -> None:
        self._redis = redis
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.sent: list[bytes] = []
        self.passing = asyncio.Event()
        self.passing.set()
        self.reading = asyncio.Event()
        self.reading.set()
        self.connections = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'redis' if self._tls is None else 'rediss'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.drop()

    def drop(self) -> None:
        """End every connection."""
        for writer in self._writers:
            if not writer.is_closing():
                writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        far_reader, far_writer = await asyncio.open_unix_connection(str(self._redis))
        self._writers |= {writer, far_writer}
        for task in (
            asyncio.ensure_future(self._requests(reader, far_writer)),
            asyncio.ensure_future(self._replies(far_reader, writer)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self.reading.wait()
                self.sent.append(data)
                writer.write(data)
        writer.close()

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self.passing.wait()
                if writer.is_closing():
                    break
                writer.write(data)
        writer.close()
