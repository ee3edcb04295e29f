"""Answers that are to be kept, as Envoy copies them to us while they pass (ext_proc, observability mode).

Nobody waits for these copies: when this process dies, the client's answer goes on and nothing is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

from extproc.accesslog import metered
from extproc.cache.cache import Cache
from extproc.cache.capture import Capture
from extproc.cache.usage import Usage
from extproc.messages import read_headers
from extproc.processor import CACHE_METADATA, USAGE_METADATA
from sidecar.rpc import NOTHING, Step

FILTER, CLUSTER = "envoy.filters.http.ext_proc", "xds.cluster_name"  # the attribute that says who has answered
_END = Step(done=True)
_KEEPING: set[asyncio.Future[Step]] = set()  # what is still being put into the store, so that nothing is collected


class Recorder:
    """One answer's stream of copies."""

    __slots__ = ("_cache", "_capture", "_cluster", "_last", "_ticket")

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._capture: Capture | None = None
        self._ticket = ""
        self._cluster = ""
        self._last: ProcessingRequest | None = None

    def on_message(self, message: ProcessingRequest) -> Step | Awaitable[Step]:
        phase = message.WhichOneof("request")
        if phase == "response_headers":
            return self._head(message)
        capture = self._capture
        if phase != "response_body" or capture is None:
            return NOTHING
        capture.chunk(message.response_body.body)
        self._last = message
        if message.response_body.end_of_stream:
            return self._ended(capture, whole=True)
        return self._no_more(capture) if capture.reason is not None else NOTHING

    def _head(self, message: ProcessingRequest) -> Step | Awaitable[Step]:
        spaces = message.metadata_context.filter_metadata
        if CACHE_METADATA not in spaces:
            return NOTHING
        self._ticket = spaces[CACHE_METADATA].fields["ticket"].string_value
        capture = self._cache.record(self._ticket)
        if capture is None:
            return _END
        self._capture = capture
        self._cluster = message.attributes[FILTER].fields[CLUSTER].string_value if FILTER in message.attributes else ""
        head = read_headers(message.response_headers)
        status = head.one(":status")
        if not capture.head(int(status) if status.isdigit() else 0, head.fields):
            return self._no_more(capture)
        return self._ended(capture, whole=True) if head.end_of_stream else NOTHING

    def _no_more(self, capture: Capture) -> Step | Awaitable[Step]:
        """It will not be kept: nobody need wait for its end, and the rest need not be copied."""
        step = self._ended(capture, whole=True)
        return _END if step is NOTHING else step

    def _ended(self, capture: Capture, *, whole: bool) -> Step | Awaitable[Step]:
        self._capture = None
        answer = capture.end() if whole else capture.abandon()
        kept = self._cache.keep(self._ticket, answer, self._cluster, self._metered())
        return NOTHING if kept is None else self._later(kept)

    def _metered(self) -> Usage | None:
        """The usage that the meter has seen by the last copy, and may have taken out of the answer."""
        spaces = self._last.metadata_context.filter_metadata if self._last is not None else {}
        return metered(spaces[USAGE_METADATA].fields) if USAGE_METADATA in spaces else None

    @staticmethod
    async def _later(kept: Awaitable[None]) -> Step:
        await kept
        return NOTHING

    def on_end(self) -> Step | Awaitable[Step]:
        """No copy follows. An answer that has not ended by then was cut."""
        if self._capture is None:
            return _END
        step = self._ended(self._capture, whole=False)
        return _END if isinstance(step, Step) else self._end_later(step)

    @staticmethod
    async def _end_later(step: Awaitable[Step]) -> Step:
        await step
        return _END

    def on_close(self) -> None:
        """Broken off. A stream whose last event has come is whole all the same."""
        if self._capture is not None:
            step = self._ended(self._capture, whole=False)
            if not isinstance(step, Step):
                task = asyncio.ensure_future(step)
                _KEEPING.add(task)
                task.add_done_callback(_KEEPING.discard)
