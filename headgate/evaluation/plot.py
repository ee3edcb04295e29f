"""A plot as SVG, with nothing but text: true and false hits over the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from headgate.evaluation.measure import Scored, rate

_WIDTH, _HEIGHT = 760, 440
_LEFT, _TOP, _RIGHT, _BOTTOM = 60, 50, 20, 50  # margins
_STEPS = 100
_GOOD, _BAD = "#228833", "#cc3311"


def svg(title: str, scored: Sequence[Scored], lowest: float = 0.5) -> str:
    """Two curves: which share of each kind would be answered, for thresholds from `lowest` to 1."""
    thresholds = [lowest + (1 - lowest) * step / _STEPS for step in range(_STEPS + 1)]

    def x(threshold: float) -> float:
        return _LEFT + (threshold - lowest) / (1 - lowest) * (_WIDTH - _LEFT - _RIGHT)

    def y(share: float) -> float:
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_WIDTH / 2, 24, escape(title), 15, "middle"),
    ]
    for tick in range(6):
        share = tick / 5
        parts.append(_line(_LEFT, y(share), _WIDTH - _RIGHT, y(share)))
        parts.append(_text(_LEFT - 8, y(share) + 4, f"{share:.0%}", 11, "end"))
        threshold = lowest + (1 - lowest) * tick / 5
        parts.append(_text(x(threshold), _HEIGHT - _BOTTOM + 18, f"{threshold:.2f}", 11, "middle"))
    parts.append(_text(_WIDTH / 2, _HEIGHT - 10, "threshold (cosine)", 12, "middle"))
    kinds = ((True, "paraphrases that hit (wanted)", _GOOD), (False, "near misses that hit (wrong answers)", _BAD))
    for number, (same, name, colour) in enumerate(kinds):
        points = " ".join(f"{x(one):.1f},{y(rate(scored, one, same=same).share):.1f}" for one in thresholds)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        at = _HEIGHT - _BOTTOM - 40 + 18 * number
        parts.append(f'<rect x="{_LEFT + 12}" y="{at - 9}" width="14" height="4" fill="{colour}"/>')
        parts.append(_text(_LEFT + 34, at - 3, name, 12, "start"))
    return "\n".join([*parts, "</svg>", ""])


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'


def _text(x: float, y: float, text: str, size: int, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{text}</text>'
