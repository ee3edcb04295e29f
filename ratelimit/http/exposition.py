"""Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/), written by hand.

prometheus-client ends the name of every counter in `_total`. The names here are envoyproxy/ratelimit's: dashboards hold
them, so they are written as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from sidecar.series import Row

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})


def labels_text(names: Sequence[str], values: Sequence[str]) -> str:
    """`{name="value",…}`; an empty label is the same as none, so it is left out."""
    pairs = [f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(names, values, strict=False) if value]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def number(value: float) -> str:
    """Whole numbers without a fraction."""
    return str(int(value)) if value == int(value) else repr(value)


def family(
    kind: str, name: str, text: str, label_names: Sequence[str], bounds: Sequence[float], rows: Iterable[Row]
) -> Iterator[str]:
    """The lines of one metric, each with its end; nothing when it has no series."""
    headed = False
    for labels, values in rows:
        if not headed:
            yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
            headed = True
        shown = labels_text(label_names, labels)
        if kind != "histogram":
            yield f"{name}{shown} {number(values[0])}\n"
            continue
        before = f"{shown[:-1]}," if shown else "{"
        counts = list(accumulate(values[1:]))
        for bound, count in zip([*(f"{bound:g}" for bound in bounds), "+Inf"], counts, strict=True):
            yield f'{name}_bucket{before}le="{bound}"}} {number(count)}\n'
        yield f"{name}_sum{shown} {values[0]!r}\n{name}_count{shown} {number(counts[-1])}\n"
