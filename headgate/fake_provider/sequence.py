"""Behaviours that are for some requests only: `first=N` and `fail_share=0.5`."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

from headgate.fake_provider.behaviour import Behaviour


class Sequence:
    """Lays behaviours over each other, and counts for those that are not for every request.

    Each layer counts by itself, per content of `x-fake-id`: a layer whose turn is over is as if it were absent.
    """

    def __init__(self) -> None:
        self._seen: Counter[tuple[str, str]] = Counter()

    def clear(self) -> None:
        """Begin again."""
        self._seen.clear()

    def lay(self, defaults: Behaviour, layers: tuple[str, ...], identity: str) -> tuple[Behaviour, bool]:
        """What one request gets, and whether every request like it gets the same. Raises `ValueError`."""
        counted = _counts(defaults)
        behaviour = defaults if self._applies(defaults, "", identity) else Behaviour()
        for text in filter(None, layers):
            alone = Behaviour.parse(text)
            counted = counted or _counts(alone)
            if self._applies(alone, text, identity):
                behaviour = Behaviour.parse(text, behaviour)
        return behaviour, not counted

    def _applies(self, layer: Behaviour, text: str, identity: str) -> bool:
        if not _counts(layer):
            return True
        self._seen[text, identity] += 1
        number, share = self._seen[text, identity], Fraction(str(layer.fail_share))
        if layer.first and number > layer.first:
            return False
        return math.ceil(number * share) > math.ceil((number - 1) * share)


def _counts(layer: Behaviour) -> bool:
    return layer.first > 0 or layer.fail_share < 1
