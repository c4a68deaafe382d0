"""Errors that change values one by one: a factor, a bound, a range, an entry."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import Block
from bpttcheck.calibration import LIMIT
from bpttcheck.diagnose.base import Array, Evidence, FailingExample, Page, Rule, diagnosis
from bpttcheck.errors import BpttcheckError
from bpttcheck.problems.problem import in_float64
from bpttcheck.results.records import Diagnosis

_SCALE_PAGE = Page(
    "scale",
    "One output of the backward pass is a constant times the right one.",
    "L = sum_t <d_ys[t], ys[t]> + <d_state_T, state_T>: no factor 1/2, 1/B or 1/T of its own",
    "d_W = 2 * d_z.T @ x          # a factor of the loss that is in d_y already\n"
    "d_W = 0.999 * d_z.T @ x      # a decay or learning rate left in the gradient",
    "d_W = d_z.T @ x",
    "One factor, the same in every problem whatever T and B are, makes the block right; or one "
    "that is the same function of a size (B, 1/(B - 1), sqrt(H)) in problems of different sizes.",
)


def _fit_scale(evidence: Evidence) -> Diagnosis | None:
    """The same factor in every problem, or the same function of a size."""
    block = evidence.block
    factors = [_factor(s.given(block), s.right[block]) for s in evidence.examples]
    if not factors or any(f is None or f == 0 for f in factors):
        return None
    if sum(np.count_nonzero(s.right[block]) for s in evidence.examples) < 2:
        return None  # one number is a multiple of any other
    factor = float(np.median([f for f in factors if f is not None]))
    residual = evidence.fits_block(lambda right, _: factor * right)
    if residual is None:
        return _of_a_size(evidence)
    if evidence.fits_block(lambda right, _: np.zeros_like(right)) is not None:
        return None  # zero to rounding, which is a path that is missing
    return diagnosis(
        "scale", f"{block} is the right gradient times {_said(factor)}", residual, factor=factor
    )


def _of_a_size(evidence: Evidence) -> Diagnosis | None:
    """A factor that is a function of sizes, told from examples of different sizes."""
    sizes = [s.sizes for s in evidence.examples]
    for text in _functions_of(list(sizes[0])):
        named = [_FUNCTIONS[text[0]](*(one[letter] for letter in text[1:])) for one in sizes]
        if len(set(named)) < 2 or not np.isfinite(named).all():
            continue
        by = dict(zip(map(id, evidence.examples), named, strict=True))
        residual = evidence.fits_block(lambda right, s, by=by: by[id(s)] * right)
        if residual is not None:
            names = {"n": text[1], "m": text[-1]}
            factor = re.sub(r"\b[nm]\b", lambda found, names=names: names[found[0]], text[0])
            return diagnosis(
                "scale", f"{evidence.block} is the right gradient times {factor}", residual,
                factor=factor,
            )  # fmt: skip
    return None


_FUNCTIONS: dict[str, Callable[..., float]] = {
    "n": lambda n: float(n),
    "1/n": lambda n: 1 / n,
    "sqrt(n)": lambda n: float(np.sqrt(n)),
    "1/sqrt(n)": lambda n: float(1 / np.sqrt(n)),
    "(n - 1)": lambda n: n - 1.0,
    "1/(n - 1)": lambda n: 1 / (n - 1) if n > 1 else np.nan,
    "n/(n - 1)": lambda n: n / (n - 1) if n > 1 else np.nan,
    "(n - 1)/n": lambda n: (n - 1) / n,
    "n**2": lambda n: float(n**2),
    "n*m": lambda n, m: float(n * m),
    "1/(n*m)": lambda n, m: 1 / (n * m),
    "n/m": lambda n, m: n / m,
    "m/n": lambda n, m: m / n,
}


def _functions_of(letters: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for text in _FUNCTIONS:
        for chosen in combinations(letters, 1 + ("m" in text)):
            yield text, *chosen


def _factor(hand: np.ndarray, right: np.ndarray) -> float | None:
    size = float((right * right).sum())
    if not size or not np.isfinite(hand).all():
        return None
    # From the gap, not the product: a factor of 1 + 1e-12 keeps its digits.
    return 1 + float(((hand - right) * right).sum()) / size


def _said(factor: float) -> str:
    gap = factor - 1
    return f"{factor:.6g}" if abs(gap) > 1e-3 else f"1 {'+' if gap > 0 else '-'} {abs(gap):.2g}"


SCALE = Rule(_SCALE_PAGE, _fit_scale)
"""One output is the right one times a constant."""


_EARLY_RETURN_PAGE = Page(
    "early-return",
    "In some cases every gradient is zero, although a cotangent is not.",
    "d_z depends on every cotangent: on d_y, on each leaf of d_state, on every step and row",
    "if not d_y.any(): return zeros           # d_state still flows back\n"
    "if abs(d_h).max() < 1e-6: return zeros   # a small cotangent is one too",
    "no test on a cotangent; or one on all of them at once",
    "Every block is exactly zero where it is wrong, and cases with ordinary values are right.",
)


def _fit_early_return(evidence: Evidence) -> Diagnosis | None:
    """Every gradient exactly zero in some cases, and right in ordinary ones."""
    wrong, right = evidence.wrong_cases(), evidence.right_cases()
    if not evidence.examples or not wrong or all(case.regime != "ordinary" for case in right):
        return None
    if not all(len(s.wrong) > 1 and _is_silent(s) for s in evidence.examples):
        return None
    regimes = {case.regime for case in wrong}
    where = f", all of the regime {min(regimes)}" if len(regimes) == 1 else ""
    return diagnosis(
        "early-return",
        f"every gradient is zero in {len(wrong)} of {len(wrong) + len(right)} cases{where}, though "
        "a cotangent is not: does it return early?",
        0.0, wrong=len(wrong), right=len(right),
    )  # fmt: skip


def _is_silent(example: FailingExample) -> bool:
    return not any(example.given(block).any() for block in example.right)


EARLY_RETURN = Rule(_EARLY_RETURN_PAGE, _fit_early_return)
"""Every gradient is zero in some cases."""


_ZEROED_ENTRY_PAGE = Page(
    "zeroed-entry",
    "Some entries of a gradient are zero, the others are right.",
    "every entry of d_W is sum over rows of d_z[:, i] * x[:, j]",
    "d_W[1:] = ...                # an index that starts at 1\n"
    "for j in range(n - 1): ...   # a loop that stops one early",
    "d_W[:] = d_z.T @ x",
    "Where the hand-derived block is not zero it is right, and it is zero where it should not be.",
)


def _fit_zeroed_entry(evidence: Evidence) -> Diagnosis | None:
    """Right where it is not zero."""
    if not evidence.examples or not all(_some_are_right(s, evidence) for s in evidence.examples):
        return None
    residual = evidence.fits_block(_where_not_zero(evidence))
    if residual is None:
        return None
    first = evidence.examples[0]
    missing = _missing(first, evidence)
    at = [int(i) for i in missing[0]]
    more = "" if len(missing) == 1 else f" and {len(missing) - 1} more"
    return diagnosis(
        "zeroed-entry", f"{evidence.block} is right but for entry {at}{more}, which is zero",
        residual, entries=[[int(i) for i in index] for index in missing[:20]],
    )  # fmt: skip


def _where_not_zero(evidence: Evidence):
    def predict(right: Array, example: FailingExample) -> Array:
        return np.where(example.given(evidence.block) == 0, 0.0, right)

    return predict


def _missing(example: FailingExample, evidence: Evidence) -> Array:
    hand, right = example.given(evidence.block), example.right[evidence.block]
    return np.argwhere((hand == 0) & (right != 0))


def _some_are_right(example: FailingExample, evidence: Evidence) -> bool:
    """True unless all are zero, which is a missing path."""
    hand = example.given(evidence.block)
    kept = np.where(hand == 0, 0.0, example.right[evidence.block])
    return bool((hand != 0).any()) and example.residual({evidence.block: kept}) <= LIMIT


ZEROED_ENTRY = Rule(_ZEROED_ENTRY_PAGE, _fit_zeroed_entry)
"""Some entries of a block are zero, and the rest is right."""


_CLIPPED_PAGE = Page(
    "clipped",
    "The gradient is cut off at a bound: clipping was left on inside the backward pass.",
    "vjp(a * c) = a * vjp(c): a vector-Jacobian product is linear in its cotangent",
    "np.clip(d_W, -5, 5, out=d_W)           # inside the backward pass",
    "grads = backward(...)                  # the gradient itself\n"
    "update = clip(grads)                   # clipping belongs to the optimiser",
    "The block is the right one cut off at one bound, or scaled to one norm, in every problem.",
)


def _fit_clipped(evidence: Evidence) -> Diagnosis | None:
    """Cut off entry by entry, or scaled to a norm."""
    if not evidence.examples:
        return None
    if not all(s.factor for s in evidence.examples):
        return None
    bounds = [_returned(s, evidence.block).max(initial=0.0) for s in evidence.examples]
    if _one_number(bounds):
        c = float(bounds[0])
        residual = evidence.fits_block(
            lambda right, s: np.clip(right, -c * abs(s.factor), c * abs(s.factor))
        )
        if residual is not None:
            return diagnosis(
                "clipped", f"{evidence.block} is clipped at {c:.6g}", residual, bound=c
            )
    for norms, what in _norms(evidence):
        if _one_number(norms):
            residual = evidence.fits_block(
                lambda right, s: right * _along(s.given(evidence.block), right)
            )
            if residual is not None:
                return diagnosis(
                    "clipped", f"{what} is scaled to the norm {norms[0]:.6g}", residual,
                    norm=float(norms[0]),
                )  # fmt: skip
    return None


def _returned(example: FailingExample, block: str) -> np.ndarray:
    """The size of what the author's code returns, entry by entry."""
    return np.abs(example.given(block) / example.factor)


def _norms(evidence: Evidence) -> Iterator[tuple[list[float], str]]:
    def norm(example: FailingExample, blocks: Iterable[str]) -> float:
        return float(np.sqrt(sum((_returned(example, b) ** 2).sum() for b in blocks)))

    yield [norm(s, [evidence.block]) for s in evidence.examples], evidence.block
    yield [norm(s, s.right) for s in evidence.examples], "the whole gradient"
    yield (
        [norm(s, [b for b in s.right if Block(b).kind == "params"]) for s in evidence.examples],
        "the gradient of the parameters",
    )


def _one_number(values: list[float]) -> bool:
    """The same in every problem, or in a single problem a round number."""
    first = values[0]
    if not np.isfinite(first) or first == 0:
        return False
    if len(values) == 1:
        return abs(first - float(f"{first:.2g}")) <= 1e-6 * first
    return all(abs(v - first) <= 1e-5 * first for v in values)


def _along(hand: np.ndarray, right: np.ndarray) -> float:
    return float((hand * right).sum() / (right * right).sum())


CLIPPED = Rule(_CLIPPED_PAGE, _fit_clipped)
"""The gradient is clipped."""


_NONLINEAR_PAGE = Page(
    "nonlinear",
    "The gradient is right for cotangents of one size and wrong for those of another.",
    "vjp(a * c) = a * vjp(c)",
    "if np.abs(d_y).max() > 10: d_y = d_y / 2          # a guard against explosion left in\n"
    "d_h[np.abs(d_h) < 1e-8] = 0                       # a threshold",
    "no branch on the value of a cotangent anywhere in the backward pass",
    "The same problem with its cotangents scaled by a power of two is right.",
)

_FACTORS = (2.0**-24, 2.0**24)


def _fit_nonlinear(evidence: Evidence) -> Diagnosis | None:
    """Right once the cotangents are scaled."""
    if not evidence.examples:
        return None
    for factor in _FACTORS:
        residuals = [_scaled(s, factor, evidence.block) for s in evidence.examples]
        if all(r is not None and r <= LIMIT for r in residuals):
            size = "smaller" if factor < 1 else "larger"
            return diagnosis(
                "nonlinear", f"{evidence.block} is right for {size} cotangents: not linear in them",
                max(r for r in residuals if r is not None), factor=factor,
            )  # fmt: skip
    return None


def _scaled(example: FailingExample, factor: float, block: str) -> float | None:
    p = example.problem

    def by(leaf: Any) -> Any:
        return (leaf * factor).astype(leaf.dtype)

    changed = replace(p, d_ys=by(p.d_ys), d_state=trees.map_leaves(by, p.d_state))
    hand = example.run.code.run(example.mode, changed)
    reference = example.run.jax.gradient(example.mode, changed, example.template)
    fresh = replace(example, problem=changed, hand=hand, reference=reference)
    right = fresh.right[block]
    return fresh.residual({block: right}) if np.abs(right).max(initial=0.0) > 0 else None


NONLINEAR = Rule(_NONLINEAR_PAGE, _fit_nonlinear)
"""The backward pass depends on the size of its cotangent."""


_SATURATED_PAGE = Page(
    "saturated",
    "The gradient is right for ordinary values and wrong where units saturate.",
    "f'(z) tends to 0 for large |z|, smoothly: no case of its own",
    "d_z = np.where(np.abs(z) > 10, 0.1, 1 - h**2)    # a floor against vanishing",
    "d_z = d_h * (1 - h**2)",
    "Every case in which the block is wrong has large parameters; ordinary cases are right.",
)

# The grid of the kinks has parameters of 2, large enough for a unit to saturate now and then.
_LARGE = {"saturated", "exploding", "at_kinks", "near_kinks", "overflowing", "biased_gates",
          "large_inputs", "tokens"}  # fmt: skip


def _fit_saturated(evidence: Evidence) -> Diagnosis | None:
    """All wrong cases are saturated ones."""
    wrong = {case.regime for case in evidence.wrong_cases()}
    ordinary = sum(case.regime == "ordinary" for case in evidence.right_cases())
    if "saturated" not in wrong or not wrong <= _LARGE or ordinary < 3:
        return None
    sentence = f"{evidence.block} is wrong only where units saturate"
    return diagnosis("saturated", sentence, 0.0, wrong=len(evidence.wrong_cases()), right=ordinary)


SATURATED = Rule(_SATURATED_PAGE, _fit_saturated)
"""Wrong only where units saturate."""


_RANGE_PAGE = Page(
    "range",
    "The gradient overflows or underflows in the checked dtype only; in float64 the code is right.",
    "float32 holds 1e-38 to 3e38; exp(89) overflows float32",
    "e = np.exp(z); d_z = d_s * e / (1 + e)**2        # inf / inf = NaN from z = 45 on",
    "s = 1 / (1 + np.exp(-z)); d_z = d_s * s * (1 - s)",
    "The block is NaN, Inf or zero in float32 where JAX's value is an ordinary float32 number, and "
    "the same code in float64 agrees with JAX.",
)


def _fit_range(evidence: Evidence) -> Diagnosis | None:
    """NaN, Inf or zero in float32, right in float64."""
    found = [s for s in evidence.examples if s.problem.dtype != np.float64]
    if not found or len(found) < len(evidence.examples):
        return None
    residuals = [_in_double(s, evidence.block) for s in found]
    if any(not (r <= LIMIT) for r in residuals):
        return None
    lost = [_lost(s, evidence.block) for s in found]
    if not all(lost):
        return None
    return diagnosis(
        "range", f"{evidence.block} {lost[0]} in float32, and is right in float64", max(residuals)
    )


def _in_double(example: FailingExample, block: str) -> float:
    try:
        hand = example.run.code.run(example.mode, in_float64(example.problem))
    except BpttcheckError:
        return np.inf
    return replace(example, hand=hand).residual({block: example.right[block]})


def _lost(example: FailingExample, block: str) -> str:
    hand, right = example.given(block), example.right[block]
    if not np.isfinite(hand).all():
        return "overflows"
    gap = np.abs(hand - right)
    worst = hand.reshape(-1)[int(gap.argmax())] if gap.size else 1.0
    return "underflows to zero" if worst == 0 else ""


RANGE = Rule(_RANGE_PAGE, _fit_range)
"""The formula leaves the range of a narrow format, although the right gradient does not."""
