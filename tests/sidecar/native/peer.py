"""A peer made of bytes: frames in, frames out, no socket between."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from hpack import Encoder

from sidecar.errors import RpcError, StatusCode
from sidecar.native import wire
from sidecar.native.connection import Connection
from sidecar.native.limits import Limits
from sidecar.rpc import CallContext, Step, StreamMethod, UnaryMethod

FRAME = struct.Struct(">BHBBI")


@dataclass
class Seen:
    """What handlers went through."""

    opened: int = 0
    closed: int = 0
    messages: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)


class _Stream:
    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        seen.opened += 1

    def on_message(self, message: StringValue) -> Step | Awaitable[Step]:
        self._seen.messages.append(message.value)
        if message.value.startswith("fail"):
            raise RpcError(StatusCode.ABORTED, "told to")
        if message.value.startswith("crash"):
            raise ZeroDivisionError
        if message.value.startswith("wait"):
            return self._wait()
        if message.value.startswith("big"):
            return Step((StringValue(value="x" * 200_000),))
        return Step((message,), done=message.value.startswith("done"))

    async def _wait(self) -> Step:
        await self._seen.gate.wait()
        return Step((StringValue(value="waited"),))

    def on_end(self) -> Step:
        return Step()

    def on_close(self) -> None:
        self._seen.closed += 1


def methods(seen: Seen) -> dict[str, UnaryMethod | StreamMethod]:
    def unary(request: StringValue, _context: CallContext) -> StringValue | Awaitable[StringValue]:
        seen.messages.append(request.value)
        if request.value.startswith("wait"):
            return waiting()
        if request.value.startswith("crash"):
            raise ZeroDivisionError
        return StringValue(value="x" * 200_000) if request.value.startswith("big") else request

    async def waiting() -> StringValue:
        await seen.gate.wait()
        return StringValue(value="waited")

    return {
        "/t.T/Unary": UnaryMethod("Unary", StringValue, unary),
        "/t.T/Stream": StreamMethod("Stream", StringValue, lambda _context: _Stream(seen)),
    }


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed: Any = False
        self.paused: Any = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed, "written after close"
        self.written += data

    def is_closing(self) -> bool:
        return bool(self.closed)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def number(self) -> int:
        """The first 32 bits of the payload (of GOAWAY: the code)."""
        return int.from_bytes(self.payload[4:8] if self.kind == wire.GOAWAY else self.payload[:4], "big")


class Peer:
    """A client of one connection."""

    def __init__(self, limits: Limits | None = None, *, greet: bool = True) -> None:
        self.seen = Seen()
        self.lost = False
        self.connection = Connection(
            methods(self.seen), limits or Limits(), lambda _made: None, lambda _lost: setattr(self, "lost", True)
        )
        self.wire = Wire()
        self.encoder = Encoder()
        self.connection.connection_made(self.wire)
        if greet:
            self.send(wire.PREFACE + wire.settings({}))
            self.frames()

    def send(self, data: bytes) -> None:
        if not self.wire.closed:
            self.connection.data_received(data)

    def headers(self, stream: int, path: str = "/t.T/Unary", *, end: bool = False, **extra: str) -> bytes:
        block = self.block(path, **extra)
        return wire.frame(wire.HEADERS, wire.END_HEADERS | (wire.END_STREAM if end else 0), stream, block)

    def block(self, path: str = "/t.T/Unary", **extra: str) -> bytes:
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "x",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        fields.update((name.replace("_", "-"), value) for name, value in extra.items())
        return bytes(self.encoder.encode(list(fields.items())))

    @staticmethod
    def message(stream: int, text: str, *, end: bool = False) -> bytes:
        payload = wire.message(StringValue(value=text).SerializeToString())
        return wire.frame(wire.DATA, wire.END_STREAM if end else 0, stream, payload)

    def frames(self) -> list[Frame]:
        """Everything written since the last look."""
        data, found, at = bytes(self.wire.written), [], 0
        self.wire.written.clear()
        while at < len(data):
            high, low, kind, flags, stream = FRAME.unpack_from(data, at)
            end = at + 9 + (high << 16 | low)
            found.append(Frame(kind, flags, stream, data[at + 9 : end]))
            at = end
        return found

    def kinds(self) -> list[int]:
        return [frame.kind for frame in self.frames()]

    def lose(self) -> None:
        """The transport is gone."""
        self.connection.connection_lost(None)
