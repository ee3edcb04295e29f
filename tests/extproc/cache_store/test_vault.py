"""Encryption at rest."""

from __future__ import annotations

import base64
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cache.store import MemoryStore, SealedStore
from extproc.cache.vault import Vault, parse_key
from tests.extproc.cache_store.factories import Clock, key

OLD, NEW = bytes(range(32)), bytes(range(100, 132))
HERE = key("here")


@given(value=st.binary(max_size=2_000), name=st.binary(min_size=32, max_size=32))
def test_what_was_sealed_opens(value: bytes, name: bytes) -> None:
    vault = Vault([OLD])
    sealed = vault.seal(name, value)
    assert vault.open(name, sealed) == value
    assert len(sealed) == len(value) + 33


def test_it_says_nothing_of_the_value() -> None:
    vault = Vault([OLD])
    one, other = vault.seal(HERE, b"secret" * 50), vault.seal(HERE, b"secret" * 50)
    assert one != other
    assert b"secret" not in one


def test_a_value_opens_only_where_it_was_put() -> None:
    vault = Vault([OLD])
    assert vault.open(key("elsewhere"), vault.seal(HERE, b"v")) is None


def test_keys_are_changed_without_losing_values() -> None:
    before, between, after = Vault([OLD]), Vault([NEW, OLD]), Vault([NEW])
    old, new = before.seal(HERE, b"v"), between.seal(HERE, b"v")
    assert [vault.open(HERE, old) for vault in (before, between, after)] == [b"v", b"v", None]
    assert [vault.open(HERE, new) for vault in (before, between, after)] == [None, b"v", b"v"]


@given(data=st.data())
def test_what_was_changed_does_not_open_and_never_raises(data: st.DataObject) -> None:
    vault = Vault([OLD])
    sealed = vault.seal(HERE, b"a value")
    place = data.draw(st.integers(0, len(sealed) - 1))
    flipped = bytearray(sealed)
    flipped[place] ^= data.draw(st.integers(1, 255))
    assert vault.open(HERE, bytes(flipped)) is None
    assert vault.open(HERE, sealed[:place]) is None
    assert vault.open(HERE, sealed + b"x") is None


@given(junk=st.binary(max_size=100))
def test_junk_does_not_open(junk: bytes) -> None:
    assert Vault([OLD]).open(HERE, junk) is None
    assert Vault([OLD]).open(HERE, Vault([OLD]).seal(HERE, b"")[:5] + junk) is None


def test_a_nonce_is_never_used_again() -> None:
    asked: list[int] = []

    def random(size: int) -> bytes:
        asked.append(size)
        return os.urandom(size)

    vault = Vault([OLD], random)
    assert len({vault.seal(HERE, b"v")[5:17] for _ in range(1_000)}) == 1_000
    assert asked == [12] * 1_000


def test_keys_are_never_shown() -> None:
    assert repr(Vault([OLD, NEW])) == "Vault(2 keys)"


@pytest.mark.parametrize("given", [[], [b"short"], [OLD, bytes(16)]])
def test_keys_that_cannot_be_used(given: list[bytes]) -> None:
    with pytest.raises(ValueError, match=r"\| make one with: openssl rand -base64 32"):
        Vault(given)


def test_the_library_is_asked_for_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(ValueError, match=r"needs the package 'cryptography' \| pip install"):
        Vault([OLD])


@given(raw=st.binary(min_size=32, max_size=32))
def test_a_key_in_every_spelling(raw: bytes) -> None:
    for text in (raw.hex(), raw.hex().upper(), base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()):
        for spelling in (text, f" {text}\n", text.rstrip("="), text.encode(), f"{text}\r\n".encode()):
            assert parse_key(spelling) == raw
    if not all(0x20 <= byte < 0x7F for byte in raw):
        assert parse_key(raw) == raw


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "empty"),
        (b" \n", "empty"),
        ("no key!", "neither base64 nor hex"),
        (bytes(range(16)).hex(), "16 bytes long"),
        (bytes(range(16)).hex().encode(), "16 bytes long"),  # 32 characters in a file are no raw key
        (base64.b64encode(bytes(31)).decode(), "31 bytes long"),
        (b"\xff" * 31, "31 bytes long"),
        (b"\xff" * 33, "33 bytes long"),
        ("schlüssel", "neither base64 nor hex"),
    ],
)
def test_a_key_that_is_none(text: str | bytes, what: str) -> None:
    with pytest.raises(ValueError, match=rf"{what}.*\| make one with: openssl") as raised:
        parse_key(text)
    assert not text or str(text) not in str(raised.value)


async def test_a_store_that_sees_only_ciphertext() -> None:
    inner = MemoryStore(1 << 20, Clock())
    store = SealedStore(inner, Vault([OLD]))
    await store.put(HERE, b"secret", 60, ["t"])
    assert b"secret" not in (inner.get(HERE) or b"")
    assert await store.get(HERE) == b"secret"
    assert await SealedStore(inner, Vault([NEW])).get(HERE) is None
    assert await SealedStore(inner, Vault([NEW, OLD])).get(HERE) == b"secret"
