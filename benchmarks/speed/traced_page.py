"""The page about the traced rules: what ``benchmarks.speed.traced`` measured, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from benchmarks.common import table
from bpttcheck.bench.report.records import Interval
from bpttcheck.bench.report.summary import between
from bpttcheck.bench.statistics import geometric_mean, power_of, ratio

_WIDTH = 110
ASKED, MOST_EXPONENT = 0.6, 1.05


def page(document: Mapping[str, Any]) -> str:
    """The page in Markdown."""
    cells: list[Any] = list(document["cells"].values())
    points = [(cell["name"], point) for cell in cells for point in cell["points"]]
    parts = [_head(document)]
    parts += ["## Result", _result(points, cells), "## Every point", _table(cells)]
    left = [f"- {cell['name']}, {line}" for cell in cells for line in cell["skipped"]]
    left += [
        f"- {cell['name']} is not traced: {cell['reason']}" for cell in cells if cell["reason"]
    ]
    if left:
        parts += ["Left out:", "\n".join(left)]
    grown = [cell for cell in cells if cell["seconds"]]
    if grown:
        parts += ["## Growth with T", _growth(grown, *document["growth"])]
    return "\n\n".join(parts) + "\n"


def _head(document: Mapping[str, Any]) -> str:
    found = document["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    notes = "".join(f" Note: {line}." for line in found["warnings"])
    cores = f"{found['cores']} core{'s' if found['cores'] > 1 else ''}"
    paragraphs = [
        f"Written by `python -m benchmarks.speed.traced --write` on {document['date']}; nothing on"
        " it is written by hand.",
        "The cells of the gallery, and ten of `benchmarks.right_cells`, have no form in `jax.numpy`"
        " that somebody wrote: [`on_jax.layer`](../how-to/on-jax.md) traces their `step` and"
        " `step_vjp`. A ratio is the time of the fastest of its forms over that of jitted JAX"
        " autodiff of the same traced step, forward and backward with all gradients: the median of"
        f" at least {document['rounds']} paired rounds, with its 95 % bootstrap interval. Every"
        " gradient was compared with autodiff in float64 before it was timed.",
        f"{found['processor']}, {cores}; Python {found['python']}, {packages}; load before:"
        f" {found['load_average']}.{notes}",
    ]
    return "\n\n".join(["# Traced rules beside autodiff", *(fill(p, _WIDTH) for p in paragraphs)])


def _result(points: Sequence[tuple[str, Any]], cells: Sequence[Any]) -> str:
    if not points:
        return "Nothing was measured."
    mean = geometric_mean([(point["traced"], point["jax"]) for _, point in points])
    same = geometric_mean([(point["again"], point["jax"]) for _, point in points])
    ratios = [(name, point, _ratio(point)) for name, point in points]
    above = [
        f"{name} {point['size']} {point['dtype']} {between(one)}"
        for name, point, one in ratios
        if one.low > 1
    ]
    traced = sum(not cell["reason"] for cell in cells)
    lines = [
        f"- {traced} of {len(cells)} cells are traced; {len(points)} points.",
        f"- Geometric mean: {between(mean)}; asked is at most {ASKED}.",
        f"- Points above 1 beyond their interval: {len(above)}; asked is none."
        + "".join(f"\n    - {line}" for line in above),
        f"- Autodiff against itself: {same.value:.3f}x ({same.low:.3f} to {same.high:.3f}).",
    ]
    exponents = [_exponent(cell) for cell in cells if cell["seconds"]]
    if exponents:
        met = sum(one <= MOST_EXPONENT for one in exponents)
        lines.append(
            f"- Time grows with T to the power of {min(exponents):.2f} to {max(exponents):.2f};"
            f" asked is at most {MOST_EXPONENT}, which {met} of {len(exponents)} cells meet."
        )
    return "\n".join(lines)


def _table(cells: Sequence[Any]) -> str:
    columns = dict.fromkeys(
        (point["size"], point["dtype"]) for cell in cells for point in cell["points"]
    )
    rows: list[list[str]] = []
    for cell in cells:
        if cell["reason"]:
            continue
        at = {(point["size"], point["dtype"]): point for point in cell["points"]}
        shown = [
            f"{between(_ratio(at[column]))}, {at[column]['form']}" if column in at else "-"
            for column in columns
        ]
        mean = _mean_of(cell["points"])
        rows.append([cell["name"], *shown, "-" if mean is None else between(mean)])
    heads = [f"T={T} B={B} N={N} H={H} {dtype}"
             for size, dtype in columns for T, B, N, H in [size.split(",")]]  # fmt: skip
    means = [
        between(geometric_mean([(p["traced"], p["jax"]) for c in cells for p in c["points"]
                                if (p["size"], p["dtype"]) == column]))
        for column in columns
    ]  # fmt: skip
    return table(["cell", *heads, "mean"], [*rows, ["mean", *means, ""]])


def _mean_of(points: Sequence[Any]) -> Interval | None:
    return geometric_mean([(p["traced"], p["jax"]) for p in points]) if points else None


def _ratio(point: Any) -> Interval:
    return ratio(point["traced"], point["jax"])


def _growth(cells: Sequence[Any], B: int, H: int) -> str:
    lengths = cells[0]["lengths"]
    rows = [
        [cell["name"], cell["form"], f"{_exponent(cell):.3f}",
         *(f"{1e3 * one:.3g} ms" for one in cell["seconds"])]
        for cell in cells
    ]  # fmt: skip
    head = ["cell", "form", "exponent", *(f"T={T}" for T in lengths)]
    said = f"One form of each cell at B={B} and n_in = n_hidden = {H}."
    return f"{said}\n\n{table(head, rows)}"


def _exponent(cell: Any) -> float:
    power = power_of([float(T) for T in cell["lengths"]], cell["seconds"])[0]
    return power if math.isfinite(power) else 0.0
