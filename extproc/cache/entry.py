"""An answer as it is kept: a value, and the bytes that stand for it in a store."""

from __future__ import annotations

import hashlib
import zlib
from functools import lru_cache
from typing import NamedTuple

import msgspec

from extproc.cache.capture import Captured
from extproc.cache.key import CacheKey
from extproc.cache.usage import Usage

_VERSION = b"\x02"
_KEY = 12  # bytes of the digest of the key it is kept under
_SUM = 4  # bytes of the checksum
_OLD = b"\x01"  # the version before
_HEAD = len(_VERSION) + _KEY + _SUM  # bytes, in both versions
_SKEW = 300  # seconds that another replica's clock may be ahead
_LEVEL = 1
_LARGEST = 1 << 26  # bytes of a body that is unpacked
_LARGEST_KEPT = 8192  # bytes of a value of which it is remembered what it says


class Entry(NamedTuple):
    """An answer with status 200, when it was made, for how long it is good, and what it took."""

    content_type: str
    headers: tuple[tuple[str, str], ...]  # besides content-type (`capture.KEPT_HEADERS`)
    body: bytes
    is_stream: bool
    created: float  # seconds since 1970
    ttl: int  # seconds
    usage: Usage
    model: str
    tags: tuple[str, ...] = ()  # what a purge may name
    cost: float | None = None  # what it cost, in the operator's currency; None where no price was known

    @classmethod
    def of(cls, captured: Captured, key: CacheKey, created: float, ttl: int, cost: float | None = None) -> Entry:
        """A captured answer to keep under `key`."""
        return cls(
            captured.content_type,
            captured.headers,
            captured.body,
            captured.is_stream,
            created,
            ttl,
            captured.usage,
            key.model,
            key.tags,
            cost,
        )

    def age(self, now: float) -> int:
        """Whole seconds since it was made, never below 0."""
        return max(0, int(now - self.created))

    def fresh(self, now: float, max_age: int | None = None) -> bool:
        """Whether it may still be answered: within its ttl, and not older than the client wants it.

        One from the future is not: its clock or ours is wrong, and it might never end.
        """
        passed = now - self.created
        return -_SKEW <= passed < self.ttl and (max_age is None or passed <= max_age)

    def encode(self, digest: bytes, compress_from: int = 4096) -> bytes:
        """The bytes to keep under the key with this digest; bodies of `compress_from` bytes and more are compressed
        where that makes them smaller."""
        body, size = self.body, 0
        if len(body) >= compress_from:
            packed = zlib.compress(body, _LEVEL)
            if len(packed) < len(body):
                body, size = packed, len(body)
        payload = _ENCODER.encode(
            _Stored(
                self.content_type,
                self.headers,
                self.is_stream,
                self.created,
                self.ttl,
                (self.usage.total, self.usage.prompt, self.usage.completion),
                self.model,
                self.tags,
                size,
                body,
                self.cost,
            )
        )
        return _head(digest, payload) + payload


def decode(raw: bytes, digest: bytes) -> Entry | None:
    """The entry; None for bytes that are torn, of another version, or were kept under another key.

    The last is why the key's digest stands in front: a store's client that mixes up its replies
    (https://openai.com/index/march-20-chatgpt-outage/) shows nobody another's answer.
    """
    stored = (_kept_stored if len(raw) <= _LARGEST_KEPT else _stored)(raw, digest)
    if stored is None:
        return None
    try:
        body = _unpacked(stored.body, stored.size) if stored.size else stored.body
    except (zlib.error, ValueError):
        return None
    return Entry(
        stored.content_type,
        stored.headers,
        body,
        stored.is_stream,
        stored.created,
        stored.ttl,
        Usage(*stored.usage),
        stored.model,
        stored.tags,
        stored.cost,
    )


def _stored(raw: bytes, digest: bytes) -> _Stored | None:
    payload = raw[_HEAD:]
    head = _old_head if raw[: len(_OLD)] == _OLD else _head
    if raw[:_HEAD] != head(digest, payload):
        return None
    try:
        return _DECODER.decode(payload)
    except (msgspec.MsgspecError, ValueError):
        return None


_kept_stored = lru_cache(maxsize=256)(_stored)  # by all that it depends on: other bytes are looked at anew


class _Stored(msgspec.Struct, array_like=True):
    content_type: str
    headers: tuple[tuple[str, str], ...]
    is_stream: bool
    created: float
    ttl: int
    usage: tuple[int | None, int | None, int | None]
    model: str
    tags: tuple[str, ...]
    size: int  # of the body once it is unpacked; 0: it is as it was
    body: bytes
    cost: float | None = None  # not in what older replicas have kept; they pass over it


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Stored)


def _old_head(digest: bytes, payload: bytes) -> bytes:
    """As replicas wrote it until November 2026."""
    size = _HEAD - len(_OLD)
    return _OLD + hashlib.blake2b(payload, digest_size=size, key=digest, person=b"headgate.entry.1").digest()


def _head(digest: bytes, payload: bytes) -> bytes:
    return _VERSION + digest[:_KEY] + zlib.crc32(payload).to_bytes(_SUM, "big")


def _unpacked(packed: bytes, size: int) -> bytes:
    """Never more than it says of itself. Raises `ValueError` when it is not what it says."""
    if not 0 < size <= _LARGEST:
        raise ValueError("no size of a body")
    unpacker = zlib.decompressobj()
    body = unpacker.decompress(packed, size + 1)  # up to its end mark
    if len(body) != size or not unpacker.eof:
        raise ValueError("another size than it says")
    return body
