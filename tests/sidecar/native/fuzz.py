"""`python -m tests.sidecar.native.fuzz [FRAMES]`: random frames against the frame loop, valid ones among broken ones.

After every connection: no exception came out, nothing was written after the end, every handler that was opened was
closed, no task and no byte is left, and what was written stays within bounds.
"""

from __future__ import annotations

import asyncio
import random
import resource
import struct
import sys
import time

import structlog

from sidecar.native import wire
from sidecar.native.limits import Limits
from tests.sidecar.native.peer import Peer

_WORDS = ("hello", "wait", "done", "fail", "crash", "big", "")
_LIMITS = Limits(
    max_message=50_000, max_streams=50, max_buffered=400_000, stream_window=65_536, connection_window=200_000
)


def frame(random_: random.Random, peer: Peer) -> bytes:
    """One frame, or something like one."""
    stream = random_.choice((0, 1, 1, 3, 3, 5, 7, 9, 2, random_.randrange(1, 200), random_.randrange(0, 1 << 32)))
    fresh = random_.randrange(1, 2_000) * 2 + 1
    kind = random_.randrange(24)
    path = random_.choice(("/t.T/Unary", "/t.T/Stream", "/t.T/Stream", "/t.T/None"))
    if kind < 6:
        extra = {"grpc_timeout": random_.choice(("1S", "5m", "x", "99999999H"))} if random_.random() < 0.2 else {}
        if random_.random() < 0.05:
            extra[random_.choice(("Bad", "connection", ":late", "content-length", "grpc-encoding"))] = random_.choice(
                ("1", "gzip", "x\0")
            )
        return peer.headers(fresh, path, end=random_.random() < 0.2, **extra)
    if kind < 12:
        data = peer.message(
            fresh if random_.random() < 0.2 else stream & 0x7FFFFFFF, random_.choice(_WORDS), end=random_.random() < 0.3
        )
        cut = random_.randrange(0, 12)
        return (
            wire.frame(wire.DATA, random_.choice((0, 0, 1, 8, 9)), stream & 0x7FFFFFFF, data[9 : 9 + cut])
            if random_.random() < 0.3
            else data
        )
    if kind == 12:
        return wire.window_update(stream & 0x7FFFFFFF, random_.choice((0, 1, 1000, wire.MAX_WINDOW)))
    if kind == 13:
        return wire.rst_stream(stream & 0x7FFFFFFF, random_.randrange(16))
    if kind == 14:
        return wire.settings({random_.randrange(8): random_.choice((0, 1, 100, 16_384, 65_535, 1 << 31))})
    if kind == 15:
        return wire.frame(
            wire.PING, random_.choice((0, 1)), random_.choice((0, 0, 0, 1)), bytes(random_.choice((8, 8, 8, 7)))
        )
    if kind == 16:
        return wire.frame(wire.PRIORITY, 0, stream & 0x7FFFFFFF, random_.randbytes(random_.choice((5, 5, 4))))
    if kind == 17:
        return wire.goaway(stream & 0x7FFFFFFF, random_.randrange(20), "x" * random_.randrange(4))
    if kind == 18:
        block = peer.block(path)
        at = random_.randrange(len(block))
        first = wire.frame(wire.HEADERS, random_.choice((0, 1)), fresh, block[:at])
        return first + wire.frame(wire.CONTINUATION, random_.choice((4, 4, 0)), fresh, block[at:])
    if kind == 19:
        return wire.frame(
            wire.HEADERS, random_.choice((4, 5, 0x2C, 0xC)), fresh, random_.randbytes(random_.randrange(40))
        )
    if kind == 20:
        return random_.randbytes(random_.randrange(30))
    if kind == 21:
        return struct.pack(">I", random_.randrange(1 << 24))[1:] + random_.randbytes(6)
    return wire.frame(
        random_.randrange(256), random_.randrange(256), stream & 0x7FFFFFFF, random_.randbytes(random_.randrange(20))
    )


async def connection(seed: int, frames: int) -> int:
    """One connection with at most so many frames. Returns how many were sent."""
    random_ = random.Random(seed)
    peer = Peer(_LIMITS)
    sent = written = 0
    while sent < frames and not peer.wire.closed:
        burst = [frame(random_, peer) for _ in range(random_.randrange(1, 12))]
        if random_.random() < 0.9:
            # Mostly well-behaved: skip what must end the connection at once, so that the rest is reached.
            burst = [one for one in burst if random_.random() < 0.97]
        data = b"".join(burst)
        sent += len(burst)
        while data:
            size = random_.choice((1, 9, 100, len(data), len(data)))
            peer.send(data[:size])
            data = data[size:]
        written += len(peer.wire.written)
        peer.wire.written.clear()
        if random_.random() < 0.1:
            peer.seen.gate.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            peer.seen.gate.clear()
        assert peer.connection.buffered >= 0
        assert peer.connection.buffered <= _LIMITS.max_buffered + _LIMITS.max_message
        assert len(peer.connection.calls) <= _LIMITS.max_streams
    peer.lose()
    for _ in range(4):
        await asyncio.sleep(0)
    assert peer.lost
    assert peer.connection.buffered == 0, seed
    assert not peer.connection.calls
    assert peer.seen.opened == peer.seen.closed, seed
    assert len(asyncio.all_tasks()) == 1, seed
    assert written < 50_000 + sent * 210_000
    return sent


async def run(frames: int, seed: int) -> tuple[int, int]:
    """So many frames over as many connections as it takes. Returns frames and connections."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    sent = connections = 0
    while sent < frames:
        async with asyncio.timeout(20):
            sent += await connection(seed + connections, 400)
        connections += 1
    structlog.reset_defaults()
    return sent, connections


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = time.time_ns() & 0xFFFFFFFF
    done = 0
    started = time.monotonic()
    while done < wanted:
        sent, _ = asyncio.run(run(min(250_000, wanted - done), seed + done))
        done += sent
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{done:,} frames, {done / (time.monotonic() - started):,.0f}/s, at most {memory:.0f} MiB, seed {seed}",
            flush=True,
        )


if __name__ == "__main__":
    main()
