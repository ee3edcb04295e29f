"""`python -m bench.engine_loop`: what the native engine itself costs per call, without sockets.

Bytes as Envoy sends them go straight into a connection whose transport only counts: the same cached header block for
every call; unary calls as HEADERS and DATA with END_STREAM; bidirectional ones as HEADERS and DATA, a second DATA in a
later read, and after our trailers, which end the call before Envoy has ended its side, an RST_STREAM. Handlers parse a
message and send a constant one; what they take alone is the floor that no transport can get under.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from hpack import Encoder

from sidecar.native import wire
from sidecar.native.connection import Connection
from sidecar.native.headers import Methods
from sidecar.native.limits import Limits
from sidecar.rpc import CallContext, Step, StreamMethod, UnaryMethod

UNARY = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
BIDI = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
AT_ONCE = 32  # calls in one read


class Receiver(Protocol):
    """What is measured: takes bytes."""

    def data_received(self, data: bytes) -> None:
        """Bytes of the peer."""


class Sink(asyncio.Transport):
    """A transport that counts what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += len(data)

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def is_closing(self) -> bool:
        return False


def limit_request() -> RateLimitRequest:
    request = RateLimitRequest(domain="headgate", hits_addend=1)
    entry = request.descriptors.add()
    entry.entries.add(key="key", value="team-a")
    entry.entries.add(key="model", value="gpt-4o")
    return request


def headers_request() -> ProcessingRequest:
    request = ProcessingRequest()
    for key, value in (
        (":method", b"POST"),
        (":path", b"/v1/chat/completions"),
        (":authority", b"gateway.example"),
        ("content-type", b"application/json"),
        ("authorization", b"Bearer sk-0123456789abcdef"),
        ("user-agent", b"OpenAI/Python 1.99"),
        ("x-request-id", b"5b7e0e5e-8a8c-4a7e-9d3c-6f8f2f6f1a11"),
    ):
        request.request_headers.headers.headers.add(key=key, raw_value=value)
    return request


def body_request() -> ProcessingRequest:
    request = ProcessingRequest()
    request.request_body.body = b'{"model":"gpt-4o","messages":[' + b"x" * 1900 + b"]}"
    request.request_body.end_of_stream = True
    return request


REPLY_UNARY = RateLimitResponse(overall_code=RateLimitResponse.OK)
REPLY_HEADERS = ProcessingResponse()
REPLY_HEADERS.request_headers.response.status = 0
REPLY_BODY = ProcessingResponse()
_option = REPLY_BODY.request_body.response.header_mutation.set_headers.add()
_option.header.key, _option.header.raw_value = "x-headgate-route", b"openai"


def unary(_request: RateLimitRequest, _context: CallContext) -> RateLimitResponse:
    return REPLY_UNARY


class Exchange:
    """Answers the headers, then the body, and is done."""

    __slots__ = ("_first",)

    def __init__(self) -> None:
        self._first = True

    def on_message(self, _message: ProcessingRequest) -> Step:
        if self._first:
            self._first = False
            return Step((REPLY_HEADERS,))
        return Step((REPLY_BODY,), done=True)

    def on_end(self) -> Step:
        return Step(done=True)

    def on_close(self) -> None:
        return


def block(encoder: Encoder, path: str) -> bytes:
    fields = [
        (":method", "POST"),
        (":path", path),
        (":authority", "sidecar"),
        (":scheme", "http"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("x-envoy-internal", "true"),
        ("x-forwarded-for", "192.0.2.1"),
    ]
    return bytes(encoder.encode(fields))


def opening(path: str) -> tuple[bytes, bytes]:
    """The bytes that open a connection with a first call, and the block that every later call has."""
    encoder = Encoder()
    first = block(encoder, path)
    begun = wire.PREFACE + wire.settings({wire.INITIAL_WINDOW_SIZE: 1 << 28})
    begun += wire.window_update(0, wire.MAX_WINDOW - wire.DEFAULT_WINDOW)
    begun += wire.frame(wire.HEADERS, wire.END_HEADERS, 1, first) + wire.rst_stream(1, 8)
    return begun, block(encoder, path)


def unary_reads(shared: bytes, calls: int) -> list[bytes]:
    message = wire.message(limit_request().SerializeToString())
    streams = range(3, 3 + 2 * calls, 2)
    return [
        b"".join(
            wire.frame(wire.HEADERS, wire.END_HEADERS, stream, shared)
            + wire.frame(wire.DATA, wire.END_STREAM, stream, message)
            for stream in streams[at : at + AT_ONCE]
        )
        for at in range(0, calls, AT_ONCE)
    ]


def apart_reads(shared: bytes, calls: int) -> list[bytes]:
    """Unary calls whose DATA comes after the HEADERS of others."""
    message = wire.message(limit_request().SerializeToString())
    streams = range(3, 3 + 2 * calls, 2)
    return [
        b"".join(wire.frame(wire.HEADERS, wire.END_HEADERS, stream, shared) for stream in streams[at : at + AT_ONCE])
        + b"".join(wire.frame(wire.DATA, wire.END_STREAM, stream, message) for stream in streams[at : at + AT_ONCE])
        for at in range(0, calls, AT_ONCE)
    ]


def bidi_reads(shared: bytes, calls: int) -> list[bytes]:
    headers = wire.message(headers_request().SerializeToString())
    body = wire.message(body_request().SerializeToString())
    streams = range(3, 3 + 2 * calls, 2)
    reads = []
    for at in range(0, calls, AT_ONCE):
        some = streams[at : at + AT_ONCE]
        reads.append(
            b"".join(
                wire.frame(wire.HEADERS, wire.END_HEADERS, stream, shared) + wire.frame(wire.DATA, 0, stream, headers)
                for stream in some
            )
        )
        reads.append(b"".join(wire.frame(wire.DATA, 0, stream, body) for stream in some))
        reads.append(b"".join(wire.rst_stream(stream, 2) for stream in some))
    return reads


def timed(work: Callable[[], None], calls: int) -> float:
    """CPU microseconds per call."""
    gc.collect()
    started = time.thread_time()
    work()
    return (time.thread_time() - started) / calls * 1e6


def feed(receiver: Receiver, reads: Iterable[bytes]) -> Callable[[], None]:
    def work() -> None:
        take = receiver.data_received
        for data in reads:
            take(data)

    return work


def native() -> Connection:
    methods: Methods = {
        UNARY: UnaryMethod("ShouldRateLimit", RateLimitRequest, unary),
        BIDI: StreamMethod("Process", ProcessingRequest, lambda _context: Exchange()),
    }
    connection = Connection(methods, Limits(), lambda _made: None, lambda _lost: None)
    connection.connection_made(Sink())
    return connection


def unary_alone(calls: int) -> Callable[[], None]:
    data = limit_request().SerializeToString()
    context = CallContext(UNARY)

    def work() -> None:
        for _ in range(calls):
            unary(RateLimitRequest.FromString(data), context).SerializeToString()

    return work


def bidi_alone(calls: int) -> Callable[[], None]:
    headers, body = headers_request().SerializeToString(), body_request().SerializeToString()

    def work() -> None:
        for _ in range(calls):
            exchange = Exchange()
            for data in (headers, body):
                for reply in exchange.on_message(ProcessingRequest.FromString(data)).replies:
                    reply.SerializeToString()
            exchange.on_close()

    return work


@dataclass(frozen=True, slots=True)
class Arm:
    """One kind of call: its method, its bytes, and its handler alone."""

    name: str
    path: str
    reads: Callable[[bytes, int], list[bytes]]
    alone: Callable[[int], Callable[[], None]]


ARMS = (
    Arm("unary", UNARY, unary_reads, unary_alone),
    Arm("unary, frames of calls mixed", UNARY, apart_reads, unary_alone),
    Arm("bidirectional", BIDI, bidi_reads, bidi_alone),
)


def measure(arm: Arm, make: Callable[[], Receiver], calls: int) -> float:
    """CPU microseconds per call of one new connection."""
    begun, shared = opening(arm.path)
    reads = arm.reads(shared, calls)
    receiver = make()
    receiver.data_received(begun)
    return timed(feed(receiver, reads), calls)


async def main() -> None:
    """Print the best of some rounds: what is in the way of the best is the machine, not the code."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine_loop", description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    for arm in ARMS:
        engine = min(measure(arm, native, arguments.calls) for _ in range(arguments.rounds))
        floor = min(timed(arm.alone(arguments.calls), arguments.calls) for _ in range(arguments.rounds))
        print(f"{arm.name:30} {engine:6.2f} us/call, of these handlers alone {floor:5.2f}")


if __name__ == "__main__":
    asyncio.run(main())
