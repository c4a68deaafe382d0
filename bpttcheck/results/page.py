"""A report as one offline HTML page: no script, no file beside it, light and dark, for any width.

Maps and curves are inline SVG. Colours are those of Okabe and Ito, told apart by the colour blind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.results.records import CheckResult, Finding, Verdict
from bpttcheck.results.remedies import as_html
from bpttcheck.results.text import (
    compared_with,
    counts,
    describe,
    first_lines,
    headline,
    outcome,
    told_apart,
)
from bpttcheck.results.words import short

if TYPE_CHECKING:
    from bpttcheck.results.report import Report

Array = NDArray[Any]

_MOST_CELLS = 48
"""Rows and columns of a map; larger arrays are shown by the worst entry of each patch."""

_STEPS = ((1, "s0", "within one error bar"), (32, "s1", "within the limit of 32 bars"),
          (1e3, "s2", "up to 1,000 bars"), (1e6, "s3", "up to a million bars"),
          (math.inf, "s4", "more"))  # fmt: skip

_STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--dim:#59636e;--paper:#fff;--soft:#f3f4f6;
--line:#d0d7de;--good:#00795c;--bad:#b3261e;--open:#8a6100;--s0:#e8eef4;--s1:#9ecae1;
--s2:#f0c000;--s3:#e07b00;--s4:#a8320a;--neg:#0072b2;--pos:#d55e00;--mark:#fff3c4}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--dim:#9198a1;--paper:#0d1117;
--soft:#161b22;--line:#30363d;--good:#3fb68b;--bad:#ff8a80;--open:#e3b341;--s0:#1c2733;
--s1:#31638a;--s2:#c9a400;--s3:#e07b00;--s4:#ff6a3c;--neg:#56b4e9;--pos:#ff9d57;--mark:#4b3d00}}
*{box-sizing:border-box}body{margin:0 auto;max-width:60rem;padding:1rem;background:var(--paper);
color:var(--ink);font:16px/1.5 system-ui,sans-serif}h1{font-size:1.5rem}h2{font-size:1.2rem;
border-top:1px solid var(--line);padding-top:1rem}h3{font-size:1rem;margin-bottom:.3rem}
code,pre{font:13px/1.45 ui-monospace,Menlo,Consolas,monospace}pre{background:var(--soft);
padding:.6rem;overflow-x:auto;border-radius:6px}.passed{color:var(--good)}.failed{
color:var(--bad)}.inconclusive{color:var(--open)}.dim{color:var(--dim)}mark{
background:var(--mark);color:inherit;display:block}table{border-collapse:collapse;
font-size:.9rem}td,th{padding:.15rem .7rem .15rem 0;text-align:left;vertical-align:top}.scroll{
overflow-x:auto}details{margin:.4rem 0}summary{cursor:pointer}figure{display:inline-block;
margin:.4rem 1.4rem .4rem 0;vertical-align:top}figcaption{font-size:.85rem;color:var(--dim)}svg{
max-width:100%;height:auto;display:block}svg text{fill:var(--dim);font:11pxsystem-ui,sans-serif}
.s0{fill:var(--s0)}.s1{fill:var(--s1)}.s2{fill:var(--s2)}.s3{fill:var(--s3)}.s4{fill:var(--s4)}
.neg{fill:var(--neg)}.pos{fill:var(--pos)}.axis{stroke:var(--line)}.bar{stroke:var(--dim);
stroke-dasharray:3 3;fill:none}.error{stroke:var(--pos);fill:none;stroke-width:2}.key span{
white-space:nowrap;margin-right:1rem}.key i{display:inline-block;width:.8em;height:.8em;
margin-right:.3em;vertical-align:-.05em}@media print{details:not([open])>*{display:block}body{
max-width:none}h2{break-after:avoid}figure,pre{break-inside:avoid}}
"""


def page(sections: Sequence[tuple[str, str, str]]) -> str:
    """The whole page.

    Args:
        sections: of each subject its name, its verdict in one word, and its :func:`section`.

    Returns:
        The HTML; with several subjects, an index comes first.
    """
    verdicts = [verdict for _, verdict, _ in sections]
    title = f"bpttcheck: {sections[0][0]}" if len(sections) == 1 else "bpttcheck"
    index = ""
    if len(sections) != 1:
        rows = "".join(
            f'<tr><td class="{verdict}">{verdict}</td>'
            f'<td><a href="#s{i}">{escape(name)}</a></td></tr>'
            for i, (name, verdict, _) in enumerate(sections)
        )
        told = ", ".join(f"{verdicts.count(word)} {word}" for word in dict.fromkeys(verdicts))
        index = f"<h1>{len(sections)} subjects: {told or 'none'}</h1><table>{rows}</table>"
    body = "".join(f'<section id="s{i}">{html}</section>' for i, (*_, html) in enumerate(sections))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{index}{body}"
        "</body></html>\n"
    )


def section(report: Report) -> str:
    """One report: the verdict, each finding with its maps, what was covered, every check."""
    verdict = report.verdict.value
    word, _, rest = headline(report).partition("  ")
    parts = [f'<h1><span class="{verdict}">{word}</span> {escape(rest)}</h1>']
    parts += [f"<p>{escape(line)}</p>" for line in (_meaning(report), *first_lines(report)) if line]
    full, others = told_apart(report)
    parts += [_finding(number, one, report) for number, one in enumerate(full, 1)]
    parts.append(as_html(report))
    if others:
        parts.append("<h2>Also wrong, probably in consequence</h2>")
    parts += [
        f"<details><summary><code>{escape(one.block)}</code> ({escape(one.check)}): "
        f"{escape(one.message)}</summary>{_maps(one)}</details>"
        for one in others
    ]
    parts += [f"<p>Remark ({escape(r.check)}): {escape(r.message)}</p>" for r in report.remarks]
    parts += [_covered(report), _checks(report)]
    seed = f"seed {report.seed}, {report.examples} examples, {report.seconds:.1f} s"
    return "".join(parts) + f'<p class="dim">{escape(counts(report))}; {seed}</p>'


def _meaning(report: Report) -> str:
    if report.verdict is Verdict.PASSED:
        return "No check found a gradient that rounding could not have produced."
    if report.verdict is Verdict.FAILED:
        return ""
    reasons = dict.fromkeys(check.reason for check in report.checks if check.reason)
    return "Too little could be judged: " + "; ".join(reasons) if reasons else "No check ran."


def _finding(number: int, finding: Finding, report: Report) -> str:
    place = " of ".join(dict.fromkeys(part for part in (finding.block, finding.method) if part))
    parts = [f"<h2>{number}. {escape(place)} <span class=dim>({escape(finding.check)})</span></h2>"]
    parts.append(f"<p>{escape(finding.message)}</p>")
    for diagnosis in finding.diagnoses:
        parts.append(
            f"<p><strong>{escape(diagnosis.code)}</strong>: {escape(diagnosis.sentence)}"
            f"{_fit(diagnosis.evidence)}</p>"
        )
    if not finding.diagnoses and finding.jax is not None:
        parts.append("<p class=dim>No known pattern fits the error.</p>")
    parts += [_expected(finding), _values(finding), _source(finding, report), _maps(finding)]
    if finding.exception:
        parts.append(f"<pre>{escape(finding.exception)}</pre>")
    return "".join(parts)


def _expected(finding: Finding) -> str:
    """The adjoint that is expected beside the user's line."""
    said = finding.expected
    if said is None:
        return ""
    yours = f"\nyours:    {said.where}" if said.where else ""
    told = f"<p>{escape(said.difference)}</p>" if said.difference else ""
    return f"<pre>{escape(f'expected: {said.formula}{yours}')}</pre>{told}"


def _fit(evidence: Mapping[str, Any]) -> str:
    residual = evidence.get("residual")
    if not isinstance(residual, float) or not math.isfinite(residual):
        return ""
    return f' <span class="dim">(fits up to {short(residual)} error bars)</span>'


def _values(finding: Finding) -> str:
    if finding.hand is None:
        return ""
    sides: list[tuple[str, float, float | None]] = [("by hand", finding.hand, None)]
    for name, side in (
        ("JAX", finding.jax),
        ("differences", finding.finite_difference),
        (compared_with(finding), finding.comparison),
    ):
        if side is not None:
            sides.append((name, side.value, side.error))
    rows = "".join(
        f"<tr><td>{name}</td><td><code>{value:.12g}</code></td>"
        f"<td class=dim>{'' if bar is None else f'± {short(bar, 1)}'}</td></tr>"
        for name, value, bar in sides
    )
    entry = "" if finding.entry is None else f"Entry <code>{list(finding.entry)}</code>"
    case = "" if finding.case is None else f" of {escape(describe(finding.case))}"
    ratio = ""
    if finding.ratio is not None and finding.limit is not None:
        times = short(finding.ratio) if finding.ratio <= 1e9 else "over a billion"
        ratio = f"<p>The error is {times} times its error bar; the limit is {finding.limit:g}.</p>"
    return f"<p>{entry}{case}:</p><div class=scroll><table>{rows}</table></div>{ratio}"


def _source(finding: Finding, report: Report) -> str:
    """The methods of the subject; the lines that a diagnosis names are marked."""
    told = " ".join(f"{d.evidence.get('where', '')} {d.sentence}" for d in finding.diagnoses)
    if finding.expected is not None:
        told += f" {finding.expected.where}"
    shown: list[str] = []
    for method, (name, first, text) in report.sources.items():
        lines = dict(enumerate(text.splitlines(), first))
        wrong = {int(n) for n in re.findall(rf"{re.escape(name)}:(\d+)", told)} & set(lines)
        if not wrong and method != finding.method:
            continue
        code = "".join(
            f"<mark>{number:4d}  {escape(line)}</mark>"
            if number in wrong
            else f"{number:4d}  {escape(line)}\n"
            for number, line in lines.items()
        )
        shown.append(
            f"<details{' open' if wrong else ''}><summary><code>{escape(method)}</code> in "
            f"<code>{escape(name)}</code></summary><pre>{code}</pre></details>"
        )
    return "".join(shown)


def _maps(finding: Finding) -> str:
    sides = finding.sides
    if sides is None or sides.hand.size < 2:
        return ""
    with np.errstate(all="ignore"):
        error = np.abs(sides.hand - sides.value)
        ratio = np.where(np.isfinite(error), error / sides.width, np.inf)
    top = float(np.nanmax(np.abs(np.where(np.isfinite(sides.value), sides.value, 0)))) or 1.0
    parts = [
        _figure("by hand", _signed(sides.hand, top)),
        _figure("right", _signed(sides.value, top)),
        _figure("error in error bars", _graded(ratio)),
    ]
    if sides.over_time:
        parts.append(_figure(*_curve(error, sides.width, finding.time_step)))
    key = "".join(
        f'<span><i style="background:var(--{name})"></i>{words}</span>' for _, name, words in _STEPS
    )
    key += '<span><i style="background:var(--neg)"></i>negative</span>'
    key += '<span><i style="background:var(--pos)"></i>positive; the larger, the stronger</span>'
    axes = "rows are steps t" if sides.over_time else "rows and columns as in the array"
    case = escape(describe(sides.case))
    return (
        f"<h3>{escape(finding.block)} in the worst case</h3><p class=dim>{case}; {axes}</p>"
        f"<div>{''.join(parts)}</div><p class='dim key'>{key}</p>"
    )


def _figure(caption: str, svg: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _flat(array: Array) -> Array:
    """Rows by everything else; a vector is one row."""
    if array.ndim < 2:
        return array.reshape(1, -1)
    return array.reshape(array.shape[0], -1)


def _patches(array: Array) -> Array:
    """At most so many rows and columns, each the entry of largest magnitude of its patch."""
    grid = _flat(array)
    for axis in (0, 1):
        size = grid.shape[axis]
        if size > _MOST_CELLS:
            edges = np.linspace(0, size, _MOST_CELLS + 1).astype(int)[:-1]
            most, least = (f.reduceat(grid, edges, axis=axis) for f in (np.maximum, np.minimum))
            grid = np.where(np.abs(most) >= np.abs(least), most, least)
    return grid


def _cells(grid: Array, cell: Any) -> str:
    """A map; ``cell(value)`` gives the attributes of one rectangle."""
    rows, columns = grid.shape
    side = max(4, min(18, 240 // max(rows, columns)))
    rects = "".join(
        f'<rect x="{j * side}" y="{i * side}" width="{side - 1}" height="{side - 1}" {cell(v)}>'
        f"<title>{i}, {j}: {v:.6g}</title></rect>"
        for (i, j), v in np.ndenumerate(grid)
    )
    width, height = columns * side, rows * side
    return f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}">{rects}</svg>'


def _signed(array: Array, top: float) -> str:
    def cell(value: float) -> str:
        if not math.isfinite(value):
            return 'class="s4"'
        depth = min(1.0, abs(value) / top) ** 0.5
        return f'class="{"neg" if value < 0 else "pos"}" fill-opacity="{0.06 + 0.94 * depth:.2f}"'

    return _cells(_patches(array), cell)


def _graded(ratio: Array) -> str:
    def cell(value: float) -> str:
        return f'class="{next((name for most, name, _ in _STEPS if value <= most), "s4")}"'

    return _cells(_patches(ratio), cell)


def _curve(error: Array, width: Array, departs: int | None) -> tuple[str, str]:
    """The largest error of each step beside its bar, on a logarithmic axis."""
    T = error.shape[0]
    with np.errstate(all="ignore"):
        curves = [np.log10(np.maximum(_flat(a).max(axis=1), 1e-300)) for a in (error, width)]
    values = np.concatenate([c[np.isfinite(c) & (c > -299)] for c in curves])
    low, high = (float(values.min()), float(values.max())) if values.size else (-16.0, 0.0)
    low, high = math.floor(low - 0.2), math.ceil(high + 0.2)
    wide, tall, left = 280, 150, 40

    def point(t: int, value: float) -> str:
        y = tall - (max(value, low) - low) / (high - low) * tall
        return f"{left + (wide - left) * t / max(T - 1, 1):.1f},{8 + y:.1f}"

    lines = "".join(
        f'<polyline class="{name}" points="{" ".join(point(t, c[t]) for t in range(T))}"/>'
        for name, c in zip(("error", "bar"), curves, strict=True)
    )
    mark = ""
    if departs is not None and departs < T:
        x = point(departs, low).split(",")[0]
        mark = f'<line class="axis" x1="{x}" x2="{x}" y1="8" y2="{tall + 8}"/>'
    labels = (
        f'<text x="0" y="16">1e{high}</text><text x="0" y="{tall + 8}">1e{low}</text>'
        f'<text x="{left}" y="{tall + 24}">t = 0</text>'
        f'<text x="{wide}" y="{tall + 24}" text-anchor="end">{T - 1}</text>'
    )
    svg = (
        f'<svg width="{wide}" height="{tall + 30}" viewBox="0 0 {wide + 4} {tall + 30}">'
        f"{mark}{lines}{labels}</svg>"
    )
    where = "" if not mark else f"; the adjoint departs at t = {departs}"
    return f"largest error by step, its bar dashed{where}", svg


def _covered(report: Report) -> str:
    usual = {"T": report.lengths, "B": report.batches}
    rows = [(name, f"{span[0]} to {span[1]}")
            for name, span in (report.letters or usual).items() if span]  # fmt: skip
    rows += [("dtypes", ", ".join(report.dtypes))] if report.dtypes else []
    sizes = ", ".join(f"{n_in} x {n_hidden}" for n_in, n_hidden in report.sizes)
    rows += [("n_in x n_hidden", sizes)] if sizes else []
    rows += [("beyond", "; ".join(report.larger))] if report.larger else []
    if report.lines is not None and report.lines[1]:
        rows.append(("lines of the backward pass", "{} of {}".format(*report.lines)))
    for name, found in (("regimes", report.regimes), ("masks", report.masks)):
        rows += [(name, ", ".join(f"{k} {n}" for k, n in found.items()))] if found else []
    rows += [("not checked", ", ".join(report.unchecked))] if report.unchecked else []
    rows += [("could not show", sentence) for sentence in report.hidden]
    rows += [("note", note) for note in report.notes]
    if not rows:
        return ""
    body = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows)
    return f"<h2>Covered</h2><div class=scroll><table>{body}</table></div>"


def _checks(report: Report) -> str:
    return "<h2>Checks</h2>" + "".join(_check(check) for check in report.checks)


def _check(check: CheckResult) -> str:
    word = outcome(check)
    facts = [check.skipped or f"{check.cases} cases"]
    if check.worst_ratio is not None:
        worst = short(check.worst_ratio) if check.worst_ratio <= 1e9 else "over a billion"
        facts.append(f"largest error {worst} error bars" + (
            "" if check.limit is None else f", of {check.limit:g} allowed"))  # fmt: skip
    summary = (
        f"<code>{escape(check.name)}</code> <span class={word.lower().split()[0]}>{word}</span>"
    )
    inside = [f"<p>{escape(text)}</p>" for text in _details(check)]
    if any(math.isfinite(block.worst_ratio) for block in check.blocks):
        inside.append(_ratios(check))
    told = f'{summary} <span class="dim">{escape("; ".join(facts))}</span>'
    if not inside:
        return f"<p>{told}</p>"
    return f"<details><summary>{told}</summary>{''.join(inside)}</details>"


def _details(check: CheckResult) -> Iterable[str]:
    if check.reason:
        yield f"why: {check.reason}"
    if check.expected_failure:
        yield f"expected to fail: {check.expected_failure}"
    if check.oracles:
        judged = ", ".join(f"{name} {n}" for name, n in check.oracles.items() if name != "law")
        if judged:
            yield f"cases judged by {judged}"
    yield from (f"{n} cases skipped: {why}" for why, n in check.skipped_cases.items() if n)
    yield from (f"note: {note}" for note in check.notes)


def _ratios(check: CheckResult) -> str:
    """The worst ratio of each block beside the limit, on a logarithmic axis."""
    blocks = [b for b in check.blocks if b.judged and math.isfinite(b.worst_ratio)]
    limit, wide, left, step = check.limit or 32.0, 420, 190, 16
    top = max(4.0, math.log10(max([limit * 10, *(min(b.worst_ratio, 1e9) for b in blocks)])))

    def x(ratio: float) -> float:
        return left + (wide - left) * max(0.0, math.log10(min(max(ratio, 0.01), 1e9)) + 2) / (
            top + 2
        )

    bars = "".join(
        f'<rect class="{"s4" if b.worst_ratio > limit else "s1"}" x="{left}" y="{i * step + 2}" '
        f'width="{max(1.0, x(b.worst_ratio) - left):.1f}" height="{step - 5}">'
        f"<title>{short(b.worst_ratio)} bars</title></rect>"
        f'<text x="0" y="{i * step + 11}">{escape(f"{b.block} {b.dtype}")}</text>'
        for i, b in enumerate(blocks)
    )
    high = len(blocks) * step
    mark = f'<line class="bar" x1="{x(limit):.1f}" x2="{x(limit):.1f}" y1="0" y2="{high}"/>'
    size = f'width="{wide}" height="{high + 4}" viewBox="0 0 {wide} {high + 4}"'
    svg = f"<svg {size}>{bars}{mark}</svg>"
    return _figure(f"worst error of each block in error bars; dashed: the limit of {limit:g}", svg)
