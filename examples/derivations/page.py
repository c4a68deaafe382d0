"""The page of the judgement: a table, and a section for every formula."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import a, b, c, d, e
from .end_to_end import SUBJECTS, reported
from .formula import Formula, Reading
from .grid import Kind, Truth
from .judge import Counterexample, Judgement, read_by
from .systems import SYSTEMS

TEXTS = {"A": a, "B": b, "C": c, "D": d, "E": e}
FORMULAS: tuple[Formula, ...] = sum((text.FORMULAS for text in TEXTS.values()), ())

INTRODUCTION = """\
# Five published derivations, judged

Every formula of five texts from which people learn backpropagation through time, as code, on random
problems: {kinds} kinds of problem (activation, number of steps, sizes, kind of W, steps that have a
loss, initial state), three problems of each, eight with ReLU. The truth is JAX's gradient with its
error bars; a formula is wrong where its error is more than 32 times the width of the bar
([the error model](error-model.md)). Where a text is ambiguous, every reasonable reading is judged.

*Right only if* is found, not asserted: a search over conjunctions of up to four conditions returns
the simplest ones under which a reading is never wrong, and which together cover all kinds
of problem on which it is right. Counterexamples are the smallest kind, in round numbers. "By
eye" is a first reading without the search.

`python docs/_make/make_derivations.py` writes this page from `examples/derivations/`.
"""


def table(judged: dict[str, dict[str, Judgement]]) -> str:
    """One row for every formula: the reading that is closest to the letter."""
    rows = ["| | as the text has it | the other readings | by eye |", "|---|---|---|---|"]
    for formula in FORMULAS:
        found = read_by(formula, judged[formula.code])
        own, others = (found, []) if formula.parts else (found[:1], found[1:])
        said = f"its {len(own)} parts: {tally(own)}" if formula.parts else marked(own[0])
        said = said.replace("|", "\\|")
        rows.append(f"| [{formula.code}](#{formula.code.lower()}) | {said} | {tally(others)} |"
                    f" {formula.by_eye} |")  # fmt: skip
    return "\n".join(rows)


def disagreements() -> str:
    """What the search found that a first reading by eye did not."""
    return "\n".join(f"- {f.code}: {f.against}" for f in FORMULAS if f.against)


def tally(judgements: Sequence[Judgement]) -> str:
    """How many of each verdict."""
    verdicts = [j.verdict.replace("only if", "conditionally") for j in judgements]
    return ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts)) or "-"


def marked(judgement: Judgement) -> str:
    """The verdict in bold, the condition after it."""
    return judgement.sentence.replace(judgement.verdict, f"**{judgement.verdict}**", 1)


def heading(formula: Formula) -> str:
    """What does not depend on any measurement."""
    lines = [f"### {formula.code}", "", "```", *wrapped(formula.text), "```", ""]
    if formula.model:
        lines += [f"Tried on: {formula.model}.", ""]
    return "\n".join(lines)


def section(formula: Formula, judged: dict[str, Judgement]) -> str:
    """One formula."""
    lines = [heading(formula)]
    lines += [told(judged[reading.words]) for reading in formula.readings]
    if formula.note:
        lines.append(f"{formula.note}\n")
    if formula.correction is not None:
        right = judged[formula.correction.words]
        lines.append("Right:\n\n```\n" + "\n".join(wrapped(formula.corrected)) + "\n```\n")
        lines.append(
            f"As code ({formula.correction.words}): **{right.verdict}**, {counted(right)}.\n"
        )
    if formula.code in SUBJECTS:
        said = "\n".join(line for one in reported(formula.code) for line in wrapped(one))
        lines.append(f"As a backward pass, `bpttcheck.check` says:\n\n```\n{said}\n```\n")
    return "\n".join(lines)


def told(judgement: Judgement) -> str:
    """One reading: its verdict, the numbers, the smallest counterexample."""
    text = f"- {judgement.reading.words}: {marked(judgement)}; {counted(judgement)}."
    if judgement.counterexample is None:
        return text + "\n"
    return text + f"\n{example(judgement.reading, judgement.counterexample)}\n"


def counted(judgement: Judgement) -> str:
    """How many problems, how many of them wrong, and the largest error on the right ones."""
    text = f"wrong on {judgement.wrong} of {judgement.judged} problems"
    if isinstance(judgement.reading, Reading) and True in judgement.right.values():
        # No digits of a rounding error: they are another machine's.
        below = next(limit for limit in (8, 16, 32) if judgement.worst <= limit)
        where = " where it is right" if judgement.wrong else ""
        text += f", the error at most {below} widths{where}"
    return text


def example(reading: Any, found: Counterexample) -> str:
    """The smallest counterexample in numbers."""
    lines = [f"smallest counterexample: {kind_in_words(found.kind)}"]
    if found.truth is not None:
        lines += numbers(found.truth)
    trial = found.trial
    if trial.numbers:
        lines.append(trial.numbers)
    else:
        lines += [f"the text's {block(trial.block)} = {array(trial.text)}",
                  f"the true {block(trial.block)} = {array(trial.true)}"]  # fmt: skip
    body = "\n".join(f"  {line}" for one in lines for line in wrapped(one))
    return f"\n  ```\n{body}\n  ```"


def kind_in_words(kind: Any) -> str:
    """A kind of problem."""
    if isinstance(kind, Kind):
        matrix = f", W {kind.W}" if kind.H > 1 else ""
        return (f"T = {kind.T}, n = {kind.n}, H = {kind.H}, {kind.activation}{matrix}, loss at"
                f" {'every step' if kind.loss == 'every step' else 'the last step only'},"
                f" {kind.h0} h_0")  # fmt: skip
    return ", ".join(f"{name} = {value}" for name, value in vars(kind).items())


def numbers(truth: Truth) -> list[str]:
    """The problem's numbers, in the letters of the sequence."""
    layout, target = truth.layout, truth.xs[:, 0, truth.layout.columns("y")]
    shown = dict(truth.params) | {"x": truth.xs[:, 0, layout.columns("x")], "h_0": truth.h0}
    classes = ", ".join(str(int(row.argmax()) + 1) for row in target)
    return [", ".join(f"{k} = {array(v)}" for k, v in shown.items()) + f", classes {classes}"]


def array(value: Any) -> str:
    """Numbers with four digits; a single one without brackets."""
    value = np.asarray(value, float)
    if value.size == 1:
        return f"{value.item():.4g}"
    if value.ndim == 1:
        return "[" + " ".join(f"{v:.4g}" for v in value) + "]"
    return "[" + "; ".join(array(np.atleast_1d(row)).strip("[]") for row in value) + "]"


def block(name: object) -> str:
    """A block as the texts write it."""
    if isinstance(name, str):
        return f"dE/d{name}"
    first, *rest = name  # type: ignore[misc]
    if first in ("dh", "dz"):
        letters = {"dh": "dh_T", "dz": "dnet_T"}[first], {"h": "h", "z": "net"}[rest[0]]
        return f"{letters[0]}/d{letters[1]}_{rest[1]}"
    return f"dE/d{ {'z': 'net'}.get(first, first) }_{rest[0]}".replace(" ", "")


def wrapped(text: str, width: int = 100) -> list[str]:
    """Lines of at most ``width`` columns, where there are spaces."""
    return textwrap.wrap(text, width, subsequent_indent="    ", break_long_words=False,
                         break_on_hyphens=False) or [""]  # fmt: skip


def systems() -> tuple[str, list[str]]:
    """The table of systems, and the names of those that are not right."""
    rows = [
        "| system | in | public object | a short run now | verified by |",
        "|---|---|---|---|---|",
    ]
    broken = []
    for system in SYSTEMS:
        verdict = system.verdict
        if verdict != "right":
            broken.append(f"{system.words} ({system.public}): {verdict}")
        rows.append(f"| {system.words} | {system.where} | `{system.public}` | {verdict} |"
                    f" {system.verified} |")  # fmt: skip
    return "\n".join(rows), broken
