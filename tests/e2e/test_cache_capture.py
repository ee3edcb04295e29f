"""Answers as a provider may send them, byte for byte: what Envoy holds of them, and what is made of it."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import psutil
import pytest

from tests.e2e.caching import Caching, caching, new_text, said
from tests.provider_thread import ProviderThread

CHUNK = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n'
FINISH = b'data: {"id":"x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
RESPONSE = (
    b'event: response.created\ndata: {"type":"response.created","response":{"status":"in_progress"}}\n\n'
    b'event: response.completed\ndata: {"type":"response.completed","response":{"status":"completed","error":null}}\n\n'
)
STREAM, JSON = "text/event-stream", "application/json"


def whole(content: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return json.dumps({"id": "x", "choices": [choice]}, ensure_ascii=False).encode()


class _Handler(socketserver.StreamRequestHandler):
    pieces: ClassVar[list[bytes]] = []
    kind: ClassVar[str] = JSON
    holds: ClassVar[bool] = False  # the connection, behind the last piece
    released: ClassVar[threading.Event] = threading.Event()

    def handle(self) -> None:
        length = 0
        while line := self.rfile.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        self.rfile.read(length)
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {self.kind}\r\ntransfer-encoding: chunked\r\n\r\n"
        self.wfile.write(head.encode())
        for piece in self.pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        if self.holds:
            self.released.wait(20)
        else:
            self.wfile.write(b"0\r\n\r\n")


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@pytest.fixture(scope="module")
def raw() -> Iterator[Caching]:
    """A gateway whose provider sends what `_Handler` is told to."""
    with ProviderThread() as unused, _Server(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        providers = {"fake": {"dialect": "openai", "base_url": base_url, "api_key": "ours"}}
        with caching(unused, providers=providers) as found:
            yield found
        _Handler.released.set()
        server.shutdown()


def tell(pieces: list[bytes], kind: str = STREAM, *, holds: bool = False) -> None:
    _Handler.pieces, _Handler.kind, _Handler.holds = pieces, kind, holds


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize(
    ("pieces", "kind"),
    [
        ([CHUNK % "h\u00e4 \U0001f600".encode(), FINISH, DONE], STREAM),
        ([bytes([one]) for one in CHUNK % b"a" + FINISH + DONE], STREAM),
        ([CHUNK % b"[DONE]", CHUNK % b"x", FINISH + DONE], STREAM),
        ([CHUNK % b"x" + FINISH + DONE[:8], DONE[8:]], STREAM),
        ([CHUNK % b"x", FINISH, DONE, b": bye\n\n"], STREAM),
        ([CHUNK % b"word" for _ in range(2000)] + [FINISH, DONE], STREAM),
        ([whole("h\u00e4 \U0001f600")], JSON),
        ([whole("x" * 300_000)], JSON),
    ],
)
def test_what_is_kept_is_what_the_client_got(raw: Caching, pieces: list[bytes], kind: str, usage: bool) -> None:
    tell(pieces, kind)
    text = new_text()
    fields = {"stream": kind == STREAM, **({"stream_options": {"include_usage": True}} if usage else {})}
    first = raw.ask_and_keep(text, fields=fields)
    assert first.body == b"".join(pieces)
    again = raw.ask(text, fields=fields)
    assert (again.status, said(again)[0], again.body) == (200, "hit", first.body)


@pytest.mark.parametrize(
    ("pieces", "kind", "outcome"),
    [
        ([whole("x").replace(b'"x"}', b'"\xff"}')], JSON, "malformed"),
        ([whole("x").replace(b'"x"}', b'"\x00"}')], JSON, "malformed"),
        ([CHUNK % b"\xff\x00", FINISH, DONE], STREAM, "malformed"),
        ([whole("x" * (1 << 20))], JSON, "too_large"),
        ([CHUNK % (b"x" * 10_000)] * 110 + [FINISH, DONE], STREAM, "too_large"),
    ],
)
def test_what_cannot_be_kept_reaches_its_client(raw: Caching, pieces: list[bytes], kind: str, outcome: str) -> None:
    tell(pieces, kind)
    before = raw.outcomes(outcome)
    answer = raw.ask(new_text(), fields={"stream": kind == STREAM})
    assert answer.body == b"".join(pieces)
    raw.gateway.wait_for(lambda: raw.outcomes(outcome) == before + 1)
    tell([whole("still well")], JSON)
    raw.ask_and_keep(new_text())  # the log goes on


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize(("last", "kept"), [(DONE, True), (DONE[:-1], False), (b"", False)])
def test_a_client_that_leaves_behind_the_last_event(raw: Caching, last: bytes, usage: bool, kept: bool) -> None:
    """Its connection does not end by itself: only the client's going ends the request."""
    tell([CHUNK % b"x", FINISH, *([last] if last else [])], holds=True)
    text, outcome = new_text(), "kept" if kept else "cut"
    fields: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
    before = raw.outcomes(outcome)
    response = raw.stream(text, **fields)
    while (line := response.readline()) and line != (DONE[:-1] if last else FINISH[:-1]):
        pass
    if kept:
        assert response.readline() == b"\n"
    response.close()
    raw.gateway.wait_for(lambda: raw.outcomes(outcome) == before + 1)
    assert raw.has(text, fields={"stream": True, **fields}) is kept


def test_a_client_that_leaves_behind_a_whole_response(raw: Caching) -> None:
    tell([RESPONSE], holds=True)
    before = raw.outcomes("kept")
    response = raw.stream("unused", messages=None, input=new_text(), path="/v1/responses", store=False)
    seen = b""
    while not seen.endswith(b"\n\n") or b"response.completed" not in seen:
        seen += response.readline()
    response.close()
    raw.gateway.wait_for(lambda: raw.outcomes("kept") == before + 1)


def test_what_was_held_of_answers_that_broke_off_is_let_go(raw: Caching) -> None:
    """Half a megabyte of each: Envoy does not grow with their number."""
    envoy = raw.gateway.child("envoy")

    def leave(times: int) -> int:
        for _ in range(times):
            response = raw.stream(new_text())
            read = 0
            while read < 500_000:
                read += len(response.read1(65536))
            response.close()
        return _resident(envoy)

    tell([CHUNK % (b"x" * 10_000)] * 60, holds=True)
    first = leave(60)
    assert leave(120) - first < 30_000_000


def _resident(process: psutil.Process) -> int:
    return int(process.memory_info().rss)
