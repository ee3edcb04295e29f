"""`python -m tests.sidecar.native.soak [MINUTES]`: the native engine under a mix, for long. Loopback only.

A server in a process of its own serves real grpcio clients: unary and bidirectional calls, large messages, readers that
stop half-way, calls that are cancelled or run out of time, connections that come and go with calls open, idle ones, TLS
with certificates that change, the random frames of the fuzzer; its connections end by their age all the time.

The verdict (and exit status 1): the server's memory is flat, that is the median of the last quarter is at most 2 MiB
above that of the second quarter, and Python holds at most 1 % more blocks at the end than after a quarter of the time
(memory that the allocator keeps moves by a MiB or two, blocks do not); no call failed that should not have; nothing is
left when every client has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import StringValue

from sidecar.native import wire
from sidecar.native.limits import Limits
from tests.sidecar.certificates import Authority
from tests.sidecar.contract import Client, code_of
from tests.sidecar.native import fuzz
from tests.sidecar.native.peer import Peer
from tests.sidecar.native.serve import AGE

TOLERANCE_MIB = 2.0
TOLERANCE_BLOCKS = 0.01
_SAMPLE = 2.0  # seconds
_OWN = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
_SLOW_READER = (*_OWN, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536))


class Mix:
    """What clients do. `done` counts it by kind, `wrong` what should not have happened."""

    def __init__(self, plain: str, secure: str, authority: Authority, folder: Path) -> None:
        self._plain = plain
        self._secure = secure
        self._authority = authority
        self._folder = folder
        self._random = random.Random()
        self._channel = grpc.aio.insecure_channel(plain, options=_OWN)
        self._idle: list[asyncio.StreamWriter] = []
        self.done: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()

    def workers(self) -> list[tuple[float, Callable[[], Awaitable[None]]]]:
        """Every worker with the seconds between two of its turns."""
        return [
            (0.012, self.calls),
            (0.25, self.given_up),
            (1.0, self.out_of_time),
            (0.5, self.come_and_go),
            (2.0, self.idle),
            (1.0, self.noise),
            (3.0, self.large),
            (2.0, self.tls),
            (60.0, self.new_certificate),
        ]

    async def _expect(self, kind: str, call: Awaitable[Any], code: grpc.StatusCode = grpc.StatusCode.OK) -> None:
        ended = await code_of(call)
        self.done[kind] += 1
        if ended is not code:
            self.wrong[f"{kind}: {ended.name}"] += 1

    async def calls(self) -> None:
        """What Envoy does: unary calls, and bidirectional ones that the server ends."""
        client = Client(self._channel)
        unary = [self._expect("unary", client.unary(value)) for value in ("hello", "hello", "later")]
        await asyncio.gather(*unary, self._expect("stream", self._echo(client)))

    async def _echo(self, client: Client) -> None:
        if await client.echoed("a", "done") != ["a", "a", "bye"]:
            self.wrong["stream: other replies"] += 1

    async def given_up(self) -> None:
        client = Client(self._channel)
        stream = client.echo()
        await stream.write(StringValue(value="wait"))
        waiting = client.unary("wait")
        await asyncio.sleep(0.01)
        stream.cancel()
        waiting.cancel()
        self.done["cancelled"] += 2

    async def out_of_time(self) -> None:
        call = Client(self._channel).unary("wait", timeout=0.02)
        await self._expect("deadline", call, grpc.StatusCode.DEADLINE_EXCEEDED)

    async def come_and_go(self) -> None:
        async with grpc.aio.insecure_channel(self._plain, options=_OWN) as channel:
            client = Client(channel)
            await self._expect("new connection", client.unary("hello"))
            left_open = client.echo()
            await left_open.write(StringValue(value=self._random.choice(("a", "wait"))))

    async def idle(self) -> None:
        """Twenty connections that say nothing; the oldest gives way."""
        _, writer = await self._raw()
        writer.write(wire.PREFACE + wire.settings({}))
        self._idle.append(writer)
        if len(self._idle) > 20:
            self._idle.pop(0).transport.abort()
        self.done["idle"] += 1

    async def noise(self) -> None:
        """Random frames."""
        peer = Peer(Limits())
        _, writer = await self._raw()
        writer.write(wire.PREFACE + wire.settings({}))
        try:
            for _ in range(20):
                if not writer.is_closing():
                    writer.write(b"".join(fuzz.frame(self._random, peer) for _ in range(10)))
                await asyncio.sleep(0.005)
        finally:
            writer.transport.abort()
            peer.lose()
        self.done["noise"] += 1

    async def large(self) -> None:
        channel = grpc.aio.insecure_channel(self._plain, options=_SLOW_READER)
        async with channel:
            client = Client(channel)
            await self._expect("large", client.data(bytes(1_000_000)))
            call = client.produce(100)
            await anext(aiter(call))
            call.cancel()
            await self._expect("large stream", self._produced(client))

    async def _produced(self, client: Client) -> None:
        if len([reply async for reply in client.produce(20)]) != 20:
            self.wrong["large stream: other replies"] += 1

    async def tls(self) -> None:
        secure = grpc.ssl_channel_credentials(self._authority.pem)
        async with grpc.aio.secure_channel(self._secure, secure, options=_OWN) as channel:
            await self._expect("tls", Client(channel).unary("hello"))
        _, writer = await self._raw(self._secure)
        try:
            writer.write(b"no handshake")
            await writer.drain()
        finally:
            writer.transport.abort()

    async def new_certificate(self) -> None:
        self._authority.server_files(self._folder)
        self.done["certificates"] += 1

    async def _raw(self, address: str = "") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = (address or self._plain).rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def close(self) -> None:
        """Every client goes."""
        for writer in self._idle:
            writer.transport.abort()
        await self._channel.close()


async def repeat(every: float, work: Callable[[], Awaitable[None]], mix: Mix) -> None:
    """Work at its pace until cancelled."""
    while True:
        try:
            async with asyncio.timeout(30):
                await work()
        except TimeoutError:
            mix.wrong[f"{work.__name__}: hangs"] += 1
        except Exception as error:
            mix.wrong[f"{work.__name__}: {error!r:.200}"] += 1
        await asyncio.sleep(every)


async def left(address: str) -> dict[str, int]:
    """What the server still has, apart from the connection and the call that ask."""
    async with grpc.aio.insecure_channel(address, options=_OWN) as channel:
        call = channel.unary_unary("/test.Inventory/Left", Empty.SerializeToString, StringValue.FromString)
        there: dict[str, int] = json.loads((await call(Empty())).value)
    return {**there, "connections": there["connections"] - 1, "calls": there["calls"] - 1}


async def nothing_left(address: str) -> dict[str, int]:
    """What the server still has some time after every client has gone: nothing, if it is right.

    grpcio may keep a connection of a cancelled call for a while; the server ends it by its age.
    """
    remains: dict[str, int] = {}
    for _ in range(round(AGE * 1.5 / 0.2)):
        remains = await left(address)
        if not any(remains[name] for name in ("connections", "calls", "buffered")):
            break
        await asyncio.sleep(0.2)
    return remains


def progress(mix: Mix, started: float, seconds: float, rss: list[float], cpu: float) -> str:
    """One line for people."""
    gone = time.monotonic() - started
    counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(mix.done.items()))
    return (
        f"{gone / 60:5.1f} of {seconds / 60:.0f} min  {rss[-1]:.1f} MiB (at first {rss[0]:.1f})  "
        f"server {cpu:.0f} % CPU  wrong {sum(mix.wrong.values())}  {counts}"
    )


async def soak(minutes: float) -> int:
    """Run it. Returns the exit status."""
    seconds = minutes * 60
    with tempfile.TemporaryDirectory(prefix="hg-soak-") as name:
        folder, authority = Path(name), Authority()
        files = authority.server_files(folder)
        server = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.sidecar.native.serve",
            str(files.certificate),
            str(files.key),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert server.stdin
        assert server.stdout
        plain, secure = [(await server.stdout.readline()).decode().strip() for _ in range(2)]
        process = psutil.Process(server.pid)
        mix = Mix(plain, secure, authority, folder)
        started = time.monotonic()
        workers = [asyncio.create_task(repeat(every, work, mix)) for every, work in mix.workers()]
        rss: list[float] = []
        blocks = 0
        process.cpu_percent()
        try:
            for turn in itertools.count(1):
                await asyncio.sleep(min(_SAMPLE, seconds / 40))
                rss.append(process.memory_info().rss / (1 << 20))
                gone = time.monotonic() - started
                over = gone >= seconds
                if not blocks and gone >= seconds / 4:
                    blocks = (await left(plain))["blocks"]
                if over or turn % 15 == 1:
                    print(progress(mix, started, seconds, rss, process.cpu_percent()), flush=True)
                if over:
                    break
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await mix.close()
            remains = await nothing_left(plain)
        finally:
            server.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.wait(), 10)
            if server.returncode is None:
                server.kill()
    return verdict(rss, blocks, mix.wrong, remains)


def verdict(rss: list[float], blocks: int, wrong: Counter[str], remains: dict[str, int]) -> int:
    """Say what came out; 0 when all is well."""
    quarter = max(1, len(rss) // 4)
    before, after = statistics.median(rss[quarter : 2 * quarter]), statistics.median(rss[-quarter:])
    print(f"memory: {before:.2f} MiB in the second quarter, {after:.2f} MiB in the last ({len(rss)} samples)")
    print(f"blocks: {blocks:,} after a quarter, {remains['blocks']:,} at the end")
    print(f"left at the end: {remains}")
    faults = []
    if after > before + TOLERANCE_MIB:
        faults.append(f"memory grew by {after - before:.2f} MiB, more than {TOLERANCE_MIB} MiB")
    if remains["blocks"] > blocks * (1 + TOLERANCE_BLOCKS):
        faults.append(f"Python holds {remains['blocks'] - blocks:,} blocks more")
    if remains["connections"] or remains["buffered"] or remains["calls"]:
        faults.append("connections, calls or bytes are left")
    faults.extend(f"{count} times {what}" for what, count in wrong.items())
    for fault in faults:
        print(f"FAILED: {fault}")
    if not faults:
        print("passed: memory is flat, no call failed that should not have, nothing is left")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(soak(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0)))
