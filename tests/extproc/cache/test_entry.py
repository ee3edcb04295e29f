from __future__ import annotations

import hashlib
import zlib
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cache.capture import Captured
from extproc.cache.entry import Entry, decode
from extproc.cache.key import make_key
from extproc.cache.usage import Usage
from tests.extproc.cache.bodies import unhurried

KEY = make_key("key", "a", "chat.completions", "gpt-4o", b"{}")
CAPTURED = Captured("text/event-stream", (("openai-version", "1"),), b"data: x\n\n" * 4, True, Usage(5, 3, None))
ENTRY = Entry.of(CAPTURED, KEY, created=1000.5, ttl=60)
_numbers = st.none() | st.integers(0, 2**40)
ENTRIES = st.builds(
    Entry,
    st.text(),
    st.lists(st.tuples(st.text(), st.text())).map(tuple),
    st.binary() | st.binary(max_size=9).map(lambda raw: raw * 1_000),
    st.booleans(),
    st.floats(allow_nan=False),
    st.integers(0, 2**40),
    st.builds(Usage, _numbers, _numbers, _numbers),
    st.text(),
    st.lists(st.text()).map(tuple),
    st.none() | st.floats(0, 1e9),
)


def test_what_was_captured_is_kept_under_its_key() -> None:
    assert (ENTRY.body, ENTRY.usage, ENTRY.is_stream) == (CAPTURED.body, CAPTURED.usage, True)
    assert (ENTRY.model, ENTRY.tags) == ("gpt-4o", ("model:gpt-4o", "key:a"))
    assert decode(ENTRY.encode(KEY.digest), KEY.digest) == ENTRY


@unhurried
@given(ENTRIES, st.binary(min_size=32, max_size=32), st.sampled_from((0, 1, 4096)))
def test_every_entry_comes_back_as_it_was(entry: Entry, digest: bytes, compress_from: int) -> None:
    assert decode(entry.encode(digest, compress_from), digest) == entry


def test_what_older_replicas_have_kept_can_be_read() -> None:
    """The cost came later: who does not know it passes over it, and who does finds none in what is older. So did the
    short checksum, which older ones cannot read."""
    priced = Entry.of(CAPTURED, KEY, created=1000.5, ttl=60, cost=0.25)
    assert len(msgspec.msgpack.decode(priced.encode(KEY.digest)[17:])) == 11
    values = msgspec.msgpack.decode(ENTRY.encode(KEY.digest)[17:])[:10]
    payload = msgspec.msgpack.encode(values)
    raw = b"\x01" + hashlib.blake2b(payload, digest_size=16, key=KEY.digest, person=b"headgate.entry.1").digest()
    assert decode(raw + payload, KEY.digest) == ENTRY
    assert decode(raw + payload + b"x", KEY.digest) is None
    assert decode(raw + payload, make_key("key", "b", "chat.completions", "gpt-4o", b"{}").digest) is None


@pytest.mark.parametrize("compress_from", [0, 4096])
def test_torn_and_flipped_bytes_are_nothing(compress_from: int) -> None:
    raw = ENTRY.encode(KEY.digest, compress_from)
    assert decode(raw, KEY.digest) == ENTRY
    for at in range(len(raw)):
        assert decode(raw[:at], KEY.digest) is None
        assert decode(raw[at + 1 :], KEY.digest) is None
        for bit in range(8):
            flipped = bytearray(raw)
            flipped[at] ^= 1 << bit
            assert decode(bytes(flipped), KEY.digest) is None
    assert decode(raw + b"\x00", KEY.digest) is None
    assert decode(raw + raw, KEY.digest) is None


@unhurried
@given(st.binary())
def test_any_bytes_are_nothing(raw: bytes) -> None:
    assert decode(raw, KEY.digest) is None
    assert decode(b"\x02" + raw, KEY.digest) is None
    assert decode(ENTRY.encode(KEY.digest)[:13] + raw, KEY.digest) is None


def test_another_keys_answer_is_nothing() -> None:
    other = make_key("key", "b", "chat.completions", "gpt-4o", b"{}")
    assert decode(ENTRY.encode(KEY.digest), other.digest) is None


def test_large_bodies_are_compressed_where_that_helps() -> None:
    words = Entry.of(Captured("application/json", (), b"word " * 2_000, False, Usage()), KEY, 0, 60)
    noise = Entry.of(Captured("application/json", (), Random(1).randbytes(10_000), False, Usage()), KEY, 0, 60)
    assert len(words.encode(KEY.digest)) < 500
    assert len(words.encode(KEY.digest, 10_001)) > 10_000
    assert 10_000 < len(noise.encode(KEY.digest)) < 10_200


@pytest.mark.parametrize(
    ("size", "end"), [(1, None), (9_999, None), (10_001, None), (1 << 40, None), (-1, None), (10_000, -1), (10_000, -5)]
)
def test_what_unpacks_to_another_size_is_nothing(size: int, end: int | None) -> None:
    """Such a value can only have been made on purpose; it takes no room."""
    from extproc.cache import entry

    stored = entry._Stored(
        "a", (), False, 0.0, 1, (None, None, None), "m", (), size, zlib.compress(b"x" * 10_000)[:end]
    )
    payload = entry._ENCODER.encode(stored)
    assert decode(entry._head(KEY.digest, payload) + payload, KEY.digest) is None


def test_its_age_is_in_whole_seconds() -> None:
    assert [ENTRY.age(now) for now in (0, 1000.5, 1001.4, 1001.5, 1062)] == [0, 0, 0, 1, 61]


@pytest.mark.parametrize(
    ("passed", "max_age", "fresh"),
    [
        (0, None, True),
        (59.9, None, True),
        (60, None, False),
        (10, 10, True),
        (10.1, 10, False),
        (0, 0, True),
        (0.1, 0, False),
        (-300, None, True),  # another replica's clock
        (-301, None, False),
        (60, 100, False),
    ],
)
def test_it_is_fresh_within_its_ttl_and_the_clients_wish(passed: float, max_age: int | None, fresh: bool) -> None:
    assert ENTRY.fresh(1000.5 + passed, max_age) == fresh
