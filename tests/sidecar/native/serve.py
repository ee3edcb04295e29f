"""`python -m tests.sidecar.native.serve [CERTIFICATE KEY]`: the native engine in a process of its own, for outside tools.

Prints its address (two with TLS: plain, then TLS) when it serves; ends with its standard input. `test.Inventory/Left`
says what there is: connections, calls, bytes kept for handlers, tasks, blocks of memory that Python has allocated.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from pathlib import Path

import structlog
import uvloop
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import StringValue

from sidecar.native.engine import NativeEngine
from sidecar.options import ServerOptions, Tls
from sidecar.rpc import CallContext, Service, UnaryMethod
from sidecar.server import GrpcServer
from tests.sidecar.contract import Seen, contract

AGE = 20.0  # seconds: connections come to an end all the time


async def main(arguments: list[str]) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    servers: list[GrpcServer] = []

    def left(_request: Empty, _context: CallContext) -> StringValue:
        gc.collect()
        engines = [server._engine for server in servers if isinstance(server._engine, NativeEngine)]
        connections = [connection for engine in engines for connection in engine._connections]
        return StringValue(
            value=json.dumps(
                {
                    "connections": len(connections),
                    "calls": sum(len(connection.calls) for connection in connections),
                    "buffered": sum(connection.buffered for connection in connections),
                    "tasks": len(asyncio.all_tasks()),
                    "blocks": sys.getallocatedblocks(),
                }
            )
        )

    services = [contract(_Forgetful()), Service("test.Inventory", (UnaryMethod("Left", Empty, left),))]
    everything = [ServerOptions(max_connection_age=AGE, keepalive_time=5.0)]
    if arguments:
        tls = Tls(Path(arguments[0]), Path(arguments[1]), check_every=1.0)
        everything.append(ServerOptions(tls=tls, max_connection_age=AGE))
    for options in everything:
        server = GrpcServer(services, listen="127.0.0.1:0", engine="native", options=options)
        await server.start()
        servers.append(server)
        print(server.address, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for server in servers:
        await server.stop(1)


class _Nothing(list[str]):
    """Forgets what it is told, so that only the engine can grow."""

    def append(self, _value: str) -> None:
        return


class _Forgetful(Seen):
    def __init__(self) -> None:
        super().__init__(waiting=_Nothing(), closed=_Nothing(), cancelled=_Nothing())


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1:]))
