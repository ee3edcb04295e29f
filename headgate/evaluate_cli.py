"""`headgate cache evaluate`: how often a semantic cache would be right and wrong with an embeddings model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from headgate.evaluation import measure, pairs
from headgate.evaluation.endpoint import Endpoint, EndpointError
from headgate.evaluation.measure import THRESHOLDS, Rate, Scored
from headgate.evaluation.plot import svg

_out = Console()
_err = Console(stderr=True)


def evaluate(
    model: Annotated[str, typer.Option(help="the embeddings model, as the endpoint knows it")],
    url: Annotated[str, typer.Option(help="base URL: a running gateway, or any that speaks OpenAI's embeddings")] = (
        "http://127.0.0.1:10000/v1"
    ),
    key: Annotated[str, typer.Option(envvar="HEADGATE_API_KEY", help="a key for it", show_envvar=True)] = "",
    dimensions: Annotated[int | None, typer.Option(help="as in `semantic.dimensions`")] = None,
    own_pairs: Annotated[Path | None, typer.Option("--pairs", help="pairs of your own; empty: those shipped")] = None,
    thresholds: Annotated[str, typer.Option(help="comma-separated")] = "",
    plot: Annotated[Path | None, typer.Option(help="write a plot (SVG) here")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="every pair with its similarity")] = False,
) -> None:
    """Measure false hits: labelled pairs of questions, at several thresholds.

    A paraphrase should hit; a near miss (another number, name, date, a `not`) is a wrong answer when it does.
    """
    try:
        chosen = [float(one) for one in thresholds.split(",")] if thresholds else list(THRESHOLDS)
    except ValueError:
        _fail(f"--thresholds: '{thresholds}' are no numbers: write for example 0.9,0.95")
    try:
        labelled = pairs.read(own_pairs) if own_pairs is not None else pairs.shipped()
        texts = list(dict.fromkeys(text for pair in labelled for text in (pair.one, pair.another)))
        vectors = dict(zip(texts, Endpoint(url, model, key, dimensions).vectors(texts), strict=True))
        scored = [Scored(one, measure.cosine(vectors[one.one], vectors[one.another])) for one in labelled]
    except (EndpointError, ValueError, OSError) as error:
        _fail(str(error))
    if plot is not None:
        try:
            plot.write_text(svg(f"{model}: {len(scored)} pairs", scored), encoding="utf-8")
        except OSError as error:
            _fail(f"--plot: {error}")
    if as_json:
        print(json.dumps([_plain(one) for one in scored], indent=1, ensure_ascii=False))
        return
    _print(model, scored, chosen)
    if plot is not None:
        _out.print(f"written: {plot}", highlight=False)


def _plain(one: Scored) -> dict[str, object]:
    pair = one.pair
    kind = pairs.SAME if pair.same else pairs.OTHER
    return {
        "kind": kind, "category": pair.category, "one": pair.one, "another": pair.another,
        "similarity": round(one.similarity, 6), "apart": one.apart,
    }  # fmt: skip


def _print(model: str, scored: Sequence[Scored], thresholds: Sequence[float]) -> None:
    for same, title in ((True, "paraphrases that hit (wanted)"), (False, "near misses that hit (wrong answers)")):
        table = Table(title=f"{model}: {title}", title_justify="left", box=None, pad_edge=False)
        table.add_column("threshold")
        for name in ("all", *measure.categories(scored, same=same)):
            table.add_column(name, justify="right")
        for threshold in thresholds:
            rates = [
                measure.rate(scored, threshold, same=same, category=category)
                for category in ("", *measure.categories(scored, same=same))
            ]
            table.add_row(f"{threshold:.2f}", *(_shown(one) for one in rates))
        _out.print(table)
        _out.print()
    apart = [measure.apart(scored, same=same) for same in (False, True)]
    _out.print(f"Never compared, because their numbers differ: {apart[0]} near misses, {apart[1]} paraphrases.")
    _out.print("The near misses that hit first:")
    for one in measure.worst(scored):
        text = f"  {one.similarity:.4f}  {one.pair.category}: {one.pair.one} | {one.pair.another}"
        _out.print(text, markup=False, highlight=False, soft_wrap=True)
    lowest = measure.lowest_without_false_hits(scored)
    if lowest is None:
        _out.print("No threshold keeps all of these apart.")
    else:
        left = measure.rate(scored, lowest + 1e-9, same=True)
        _out.print(f"Without a false hit only above {lowest:.4f}: then {_shown(left)} of the paraphrases hit.")


def _shown(one: Rate) -> str:
    return f"{one.hits}/{one.of} {one.share:.0%}"


def _fail(text: str) -> NoReturn:
    _err.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)
