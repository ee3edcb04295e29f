"""Which slot of a Redis Cluster a key is in (Redis Cluster specification, key distribution and hash tags)."""

from __future__ import annotations

from binascii import crc_hqx  # CRC-16/XMODEM, the specification's

SLOTS = 16_384


def hash_tag(key: str) -> str:
    """What decides the slot: the text in the first braces when there is any, else the whole key."""
    start = key.find("{")
    end = key.find("}", start + 1) if start >= 0 else -1
    return key[start + 1 : end] if end > start + 1 else key


def key_slot(key: str) -> int:
    """The slot of `key`, from 0 to `SLOTS` - 1."""
    return crc_hqx(hash_tag(key).encode(), 0) % SLOTS
