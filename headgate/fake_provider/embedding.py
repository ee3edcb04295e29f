"""Vectors that mean something, a little: texts that share words and pieces of words are near each other.

Deterministic, and no model: word order and meaning do not count. For tests and demonstrations of what works on vectors.
"""

from __future__ import annotations

import math
import re
import zlib

_WORD = re.compile(r"\w+")
_PIECE = 3  # letters


def embed(text: str, size: int) -> list[float]:
    """A vector of length 1: every word, and every piece of one, adds to a place that its hash says."""
    vector = [0.0] * size
    for word in _WORD.findall(text.casefold()):
        padded = f" {word} "
        for feature in (word, *(padded[start : start + _PIECE] for start in range(len(padded) - _PIECE + 1))):
            number = zlib.crc32(feature.encode())
            vector[number % size] += 1.0 if number & 0x8000_0000 else -1.0
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    if not any(vector):
        vector[0] = 1.0  # no words: still a direction
    return [value / length for value in vector]
