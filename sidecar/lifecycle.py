"""One server as a whole program: serve until told to stop, reload on SIGHUP."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
import uvloop

from sidecar import logs
from sidecar.errors import ConfigError
from sidecar.server import GrpcServer

_log = structlog.get_logger("server")


_M_MMAP_THRESHOLD = -3
_LARGE_BLOCK = 1 << 20  # bytes


def run(program: Coroutine[Any, Any, None]) -> int:
    """Run a whole program. Returns its exit status: 1 for a `ConfigError`, which is printed line by line."""
    logs.configure("info", "auto")
    try:
        uvloop.run(program)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def keep_what_is_loaded() -> None:
    """Tell the garbage collector that what is there now stays, and to look for cycles less often.

    Requests leave no cycles behind (they are freed by their reference counts), so its usual pace only costs: about a
    tenth of a decision. Call it once, when everything is up.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def give_large_blocks_back() -> None:
    """Have the C library return every large block to the system when it is freed (mallopt(3), glibc).

    By itself it keeps them, once it has seen one, for the next: after a body of 20 MB that is 40 MB for good.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


async def serve(server: GrpcServer, *, grace: float, reload: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT, then give running calls `grace` seconds.

    SIGHUP calls `reload`; a `ConfigError` from it is logged and changes nothing.
    """

    def reloaded() -> None:
        try:
            reload()
        except ConfigError as error:
            for problem in error.problems:
                _log.error("config_rejected", place=problem.place, path=problem.path, reason=problem.message)
        else:
            _log.info("config_taken")

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, reloaded)
    await server.start()
    keep_what_is_loaded()
    _log.info("serving", address=server.address)
    await stopping.wait()
    await server.stop(grace)
    _log.info("stopped")
