"""The words that a report prints, each with what it means: ``bpttcheck explain WORD``."""

from __future__ import annotations

import textwrap

_WORDS = {
    "worst": (
        "worst 1.3 of 32: the largest error of the check, in units of its error bar. Beyond "
        "32 bars rounding cannot have produced it, and the gradient is wrong."
    ),
    "limit": (
        "32: how many error bars a gradient may be off. It was measured once on right code "
        "(docs/evidence/calibration.md); no check, cell or test has one of its own."
    ),
    "sees": (
        "sees 2e-14/4e-14: the relative error of the worst block that would have been caught "
        "in the best case, and in the median case. Measured in this run."
    ),
    "blind": (
        "A case whose error bar is as large as the gradient itself proves nothing about that "
        "block: it is blind there, and counts as not judged."
    ),
    "cases": (
        "A case is one problem: sizes, parameters, inputs, state and cotangents drawn from "
        "the seed."
    ),
    "covered": (
        "What the judged cases had: T, B and widths, dtypes, regimes, masks, lines of the "
        "backward pass. A case that was skipped, rejected or blind counts nowhere."
    ),
    "could-not-show": (
        "Bugs that no case of this run could have shown, with the condition that is missing."
    ),
    "remark": (
        "Behaviour that does not make the gradient wrong: a dtype that changes, T = 0 "
        "rejected, a gradient that is None. --strict makes remarks failures."
    ),
    "block": (
        "One gradient: d_xs, d_state0, d_params['W'], or in one step d_x, d_previous_state. "
        "What is wrong is named by its block."
    ),
    "bar": (
        "0.5 ± 1e-16: the error bar of an oracle. JAX's is what rounding does to the program, "
        "measured by noise in each of its operations; that of the differences is their own "
        "estimate."
    ),
    "hand": "What the code that is checked returned.",
    "jax": (
        "The gradient by JAX autodiff of the code's own forward pass; with each number its "
        "error bar."
    ),
    "differences": (
        "The gradient by finite differences of the forward pass, several steps, with an error bar."
    ),
    "law": (
        "A relation between runs of the backward pass that holds for any right one: linear in "
        "the cotangents, a batch is the sum of its rows, two halves give the whole."
    ),
    "contradict": ("JAX and the differences disagree beyond their bars: the case decides nothing."),
    "declined": (
        "JAX could not trace the code, for the reason given; the differences decided alone."
    ),
    "inconclusive": "Too little could be judged, or something in bpttcheck broke; exit code 3.",
    "shrunk": "The case was made as small as it still fails: fewer steps, rows and units.",
    "kinks": (
        "Points at which a derivative jumps, such as relu at 0. There every slope between the "
        "two sides is accepted, and the differences abstain."
    ),
    "lengths": "A mask: rows of different lengths, padded on the right.",
    "holes": "A mask: steps that are left out in the middle.",
    "empty_rows": "A mask: rows without any real step.",
    "none": "A mask: every step is real.",
    "seed": "Case i is a function of (seed, i) alone: the same seed gives the same cases.",
    "internal-error": (
        "An error of bpttcheck itself, not of the code that it checks: please report it."
    ),
}


def words() -> dict[str, str]:
    """Every word and its meaning; regimes have theirs where they are drawn."""
    from bpttcheck.problems.problem import REGIMES

    regimes = {name: f"A regime of cases: {text}." for name, text in REGIMES.items()}
    return {word: textwrap.fill(text, 96) for word, text in {**_WORDS, **regimes}.items()}
