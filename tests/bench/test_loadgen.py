from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.loadgen import Target, closed, paced

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
JSON = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b"data: {}\n\n"
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
END = b"0\r\n\r\n"


class Server:
    """Answers every request with the same pieces, each its own write; remembers what it was sent."""

    def __init__(self, pieces: tuple[bytes, ...]) -> None:
        self.pieces = pieces
        self.requests: list[bytes] = []
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                for piece in self.pieces:
                    writer.write(piece)
                    await writer.drain()
                    if len(self.pieces) > 1:
                        await asyncio.sleep(0.001)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(*pieces: bytes) -> AsyncIterator[Server]:
    server = Server(pieces)
    listening = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


async def test_a_count_bounds_a_closed_run() -> None:
    async with serving(JSON) as server:
        load = await closed(Target("127.0.0.1", server.port, (REQUEST,)), connections=4, seconds=10, count=10)
    assert (load.done, load.failed, len(load.latencies)) == (10, 0, 10)
    assert load.cpu > 0


async def test_requests_are_taken_in_turn() -> None:
    other = REQUEST.replace(b"/ ", b"/other ")
    async with serving(JSON) as server:
        await closed(Target("127.0.0.1", server.port, (REQUEST, other)), connections=1, seconds=10, count=10)
    assert server.requests.count(REQUEST) == server.requests.count(other) == 5


async def test_a_status_other_than_200_fails() -> None:
    async with serving(JSON.replace(b"200 OK", b"503 No")) as server:
        load = await closed(Target("127.0.0.1", server.port, (REQUEST,)), connections=2, seconds=10, count=10)
    assert load.done == 0
    assert load.failed == 2  # a connection whose answer is not good stops
    assert load.complaint


async def test_every_event_of_a_stream_is_counted_wherever_it_is_cut() -> None:
    stream = HEAD + CHUNK * 3 + END
    for cut in range(1, len(stream), 3):
        async with serving(stream[:cut], stream[cut:]) as server:
            load = await closed(Target("127.0.0.1", server.port, (REQUEST,), 3), connections=1, seconds=10, count=2)
        assert (load.done, load.complaint) == (2, ""), cut


async def test_a_stream_that_lacks_an_event_fails() -> None:
    async with serving(HEAD + CHUNK * 2 + END) as server:
        load = await closed(Target("127.0.0.1", server.port, (REQUEST,), 3), connections=1, seconds=10, count=2)
    assert load.complaint == "2 events instead of 3"


async def test_an_answer_that_is_no_stream_fails_where_one_is_expected() -> None:
    async with serving(JSON) as server:
        load = await closed(Target("127.0.0.1", server.port, (REQUEST,), 3), connections=1, seconds=10, count=2)
    assert load.failed == 1


async def test_a_closed_connection_fails() -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listening = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    load = await closed(Target("127.0.0.1", port, (REQUEST,)), connections=2, seconds=10, count=10)
    listening.close()
    assert (load.done, load.failed) == (0, 2)


async def test_a_paced_run_sends_its_rate_and_times_the_wait_for_a_connection() -> None:
    async with serving(HEAD, CHUNK, END) as server:
        load = await paced(Target("127.0.0.1", server.port, (REQUEST,), 1), rate=100, connections=1, seconds=0.2)
    assert (load.done, load.failed, len(load.latencies), len(load.lag)) == (20, 0, 20, 20)


async def test_a_request_without_a_free_connection_is_late_and_still_sent() -> None:
    async with serving(HEAD, *[CHUNK] * 30, END) as server:  # about 30 ms each
        load = await paced(Target("127.0.0.1", server.port, (REQUEST,), 30), rate=100, connections=1, seconds=0.1)
    assert load.done == 10
    assert load.late > 0
    assert max(load.latencies) > 2 * min(load.latencies)  # the wait is counted
