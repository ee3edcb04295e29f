"""Answers that are to be kept, as Envoy's access log brings them: each in one piece, when its request has ended.

The meter, inside Envoy, holds what the client gets (`headgate/render/meter.lua`). Nobody waits for this: when this
process dies, the client's answer goes on and nothing is kept.
"""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Mapping

from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from google.protobuf.struct_pb2 import Value

from extproc.accesslog import metered
from extproc.cache.cache import Cache
from extproc.cache.capture import KEPT_HEADERS, Capture, Captured, Discarded
from extproc.cache.unfit import Reason
from extproc.processor import CACHE_METADATA, USAGE_METADATA

# What the log must tell of an answer's head.
ANSWER_HEADERS = ("content-type", "content-encoding", *KEPT_HEADERS)


class Recorder:
    """Puts whole answers into the cache; of others it says why they are not kept."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._keeping: set[asyncio.Future[None]] = set()  # what is being put into a store: nothing else holds it

    def take(self, entry: HTTPAccessLogEntry) -> None:
        """A request has ended. Never raises for what a provider has sent."""
        spaces = entry.common_properties.metadata.filter_metadata
        if CACHE_METADATA not in spaces:
            return
        facts = spaces[CACHE_METADATA].fields
        ticket = facts["ticket"].string_value
        status = entry.response.response_code.value
        capture = self._cache.record(ticket) if status else None
        if capture is None:  # nobody knows it (any more), or its client left before there was an answer
            self._cache.lost(ticket)
            return
        heard = entry.response.response_headers
        headers = {name: _values(heard[name]) for name in ANSWER_HEADERS if name in heard}
        cluster = entry.common_properties.upstream_cluster.partition("+")[0]
        answer = _read(capture, status, headers, facts)
        if isinstance(answer, Captured) and answer.usage.total is None and USAGE_METADATA in spaces:
            # What the meter has seen, which it may have taken out of the answer.
            answer = answer._replace(usage=metered(spaces[USAGE_METADATA].fields).summed())
        kept = self._cache.keep(ticket, answer, cluster)
        if kept is not None:
            task = asyncio.ensure_future(kept)
            self._keeping.add(task)
            task.add_done_callback(self._keeping.discard)

    def gone(self) -> None:
        """Who sent the log has gone, and with it whatever it knew of answers that were under way."""
        self._cache.all_lost()


def _read(
    capture: Capture, status: int, headers: dict[str, tuple[bytes, ...]], facts: Mapping[str, Value]
) -> Captured | Discarded:
    if "answer" not in facts:
        if not capture.head(status, headers):
            return capture.end()
        return Discarded(Reason.TOO_LARGE) if "too_large" in facts else capture.abandon()
    try:
        length, form, text = facts["answer"].string_value.split(" ", 2)
        body = text.encode() if form == "ascii" else binascii.a2b_base64(text)
    except ValueError:
        return Discarded(Reason.MALFORMED)
    if length != "-":
        headers["content-length"] = (length.encode(),)
    if capture.head(status, headers):
        capture.chunk(body)
    return capture.end()


def _values(heard: str) -> tuple[bytes, ...]:
    """Of a header that stood several times Envoy joins the values with commas."""
    return tuple([part.encode() for part in heard.split(",")]) if "," in heard else (heard.encode(),)
