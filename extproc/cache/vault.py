"""Encryption at rest: AES-256-GCM, with a random nonce for every value.

    1 byte      version
    4 bytes     which key (the beginning of a hash of it)
    12 bytes    nonce
    the rest    ciphertext and tag; the header's first 5 bytes and the cache's own key are authenticated with it

A value that was moved to another key, changed, cut short, or sealed with a key that is not known any more does not
open. It says nothing of the value but its length.

Weakness: with random nonces one key is good for about 2**32 values (NIST SP 800-38D, 8.3): at 1,000 a second that is
50 days; put a new key in front before that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Sequence

_VERSION = b"\x01"
_ID = 4
_NONCE = 12
_TAG = 16
_HEAD = len(_VERSION) + _ID
_KEY = 32
_MEND = "make one with: openssl rand -base64 32"


class Vault:
    """Seals with the first of `keys` (32 bytes each), opens with any: a new key is put in front.

    The library for it (`cryptography`) is imported here and not before. Raises `ValueError`
    (`what is wrong | what to write`) without it, without keys, or with one of another length.
    """

    __slots__ = ("_ciphers", "_first", "_random", "_wrong")

    def __init__(self, keys: Sequence[bytes], random: Callable[[int], bytes] = os.urandom) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError:
            raise ValueError(
                "encryption of the cache needs the package 'cryptography' | pip install cryptography"
            ) from None
        if not keys:
            raise ValueError(f"encryption of the cache needs a key | {_MEND}")
        for number, key in enumerate(keys):
            if len(key) != _KEY:
                raise ValueError(f"key {number} of the cache is {len(key)} bytes long, not {_KEY} | {_MEND}")
        self._ciphers = {_id(key): AESGCM(key) for key in keys}
        self._first = _id(keys[0])
        self._random = random
        self._wrong = InvalidTag

    def __repr__(self) -> str:
        return f"Vault({len(self._ciphers)} keys)"

    def seal(self, key: bytes, value: bytes) -> bytes:
        """`value`, for nobody but who has the first of the keys, and only under `key`."""
        head, nonce = _VERSION + self._first, self._random(_NONCE)
        return head + nonce + self._ciphers[self._first].encrypt(nonce, value, head + key)

    def open(self, key: bytes, sealed: bytes) -> bytes | None:
        """What was sealed under `key`, None when it was not, or cannot be told. Never raises."""
        if len(sealed) < _HEAD + _NONCE + _TAG or sealed[:1] != _VERSION:
            return None
        head, nonce = sealed[:_HEAD], sealed[_HEAD : _HEAD + _NONCE]
        cipher = self._ciphers.get(head[1:])
        if cipher is None:
            return None
        try:
            return cipher.decrypt(nonce, sealed[_HEAD + _NONCE :], head + key)
        except self._wrong:
            return None


def parse_key(text: str | bytes) -> bytes:
    """A key of 32 bytes: as they are (a file's content), or as base64 or hex, with blanks around.

    Raises `ValueError` (`what is wrong | what to write`), which never holds the key.
    """
    if isinstance(text, bytes):
        # 32 random bytes that can all be printed come once in 10**13 keys; 16 bytes in hex come by mistake.
        if len(text) == _KEY and not (text.isascii() and text.decode("ascii").isprintable()):
            return text
        try:
            text = text.decode("ascii")
        except UnicodeDecodeError:
            raise ValueError(f"the key is {len(text)} bytes long, not {_KEY} | {_MEND}") from None
    text = text.strip()
    if not text:
        raise ValueError(f"the key is empty | {_MEND}")
    key = _from_hex(text) or _from_base64(text)
    if key is None:
        raise ValueError(f"the key is neither base64 nor hex | {_MEND}")
    if len(key) != _KEY:
        raise ValueError(f"the key is {len(key)} bytes long, not {_KEY} | {_MEND}")
    return key


def _from_hex(text: str) -> bytes | None:
    try:
        return binascii.unhexlify(text)
    except ValueError:
        return None


def _from_base64(text: str) -> bytes | None:
    """Of either alphabet, padded or not."""
    plain = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        return None


def _id(key: bytes) -> bytes:
    return hashlib.sha256(b"headgate cache key" + key).digest()[:_ID]
