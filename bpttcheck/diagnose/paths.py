"""A path through the step that is missing, doubled, of the wrong sign, or uses other values."""

from __future__ import annotations

import ast
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.calibration import LIMIT
from bpttcheck.contract import is_float
from bpttcheck.diagnose import graph_edits
from bpttcheck.diagnose.base import Array, Evidence, FailingExample, Page, Rule, diagnosis
from bpttcheck.diagnose.graph_edits import blocks_of
from bpttcheck.errors import BpttcheckError
from bpttcheck.oracles.step_graph.operands import GradientShift, OperandSwap
from bpttcheck.oracles.step_graph.paths import EditSite, Paths
from bpttcheck.results.records import Diagnosis

_MISSING_PATH_PAGE = Page(
    "missing-path",
    "One path by which a quantity affects the loss is left out.",
    "d_h = (every path from h to the loss): through the new state *and* through the output,\n"
    "through each gate that reads h, and through each state leaf that h changes",
    "d_h = d_state                # the cotangent of the output, d_y, is ignored\n"
    "return d_params, np.zeros_like(h), d_x",
    "d_h = d_state + d_y\nreturn d_params, d_z @ W, d_x",
    "The block equals the right gradient with that path cut, to rounding, in every problem.",
)


def _fit_missing_path(evidence: Evidence) -> Diagnosis | None:
    """The whole block zero; a cotangent ignored; a path inside the step cut."""
    block = evidence.block
    residual = evidence.fits_block(lambda right, _: np.zeros_like(right))
    if residual is not None:
        return diagnosis("missing-path", f"{block} is zero: nothing flows back on it", residual)
    for part in _parts(evidence):
        for wide in (True, False):
            residual = evidence.fits_all(
                lambda s, part=part, wide=wide: without(s, part, evidence, wide)
            )
            if residual is not None:
                where = "" if wide else f" in {block}"
                return diagnosis(
                    "missing-path", f"the cotangent {part} is ignored{where}", residual, path=part
                )
    found = graph_edits.best_edit(evidence, graph_edits.CUT)
    if found is None:
        return None
    cut, residual = found
    return diagnosis(
        "missing-path",
        f"the path through {cut.text} is missing, in the gradient of {cut.where}",
        residual, where=cut.where, operation=cut.text,
    )  # fmt: skip


def _parts(evidence: Evidence) -> list[str]:
    return list(evidence.examples[0].parts) if evidence.examples else []


def without(
    example: FailingExample, part: str, evidence: Evidence, wide: bool, times: float = -1.0
) -> dict[str, np.ndarray] | None:
    """The right blocks plus ``times`` what one cotangent contributes."""
    share = example.parts.get(part)
    if share is None or not any(np.any(value) for value in share.values()):
        return None
    names = example.right if wide else [evidence.block]
    return {name: example.right[name] + times * share[name] for name in names}


MISSING_PATH = Rule(_MISSING_PATH_PAGE, _fit_missing_path)
"""A path of the chain rule is missing."""


_DOUBLED_PATH_PAGE = Page(
    "doubled-path",
    "One path by which a quantity affects the loss is counted twice.",
    "each path from a quantity to the loss is a term, once",
    "d_h = d_state + d_y + d_y    # added here, and again by the caller",
    "d_h = d_state + d_y",
    "The block equals the right gradient plus once more what flows on that path.",
)


def _fit_doubled_path(evidence: Evidence) -> Diagnosis | None:
    """A cotangent, or a path inside the step, counted twice."""
    parts = list(evidence.examples[0].parts) if evidence.examples else []
    for part in parts:
        for wide in (True, False):
            residual = evidence.fits_all(
                lambda s, part=part, wide=wide: without(s, part, evidence, wide, 1.0)
            )
            if residual is not None:
                where = "" if wide else f" in {evidence.block}"
                return diagnosis(
                    "doubled-path", f"the cotangent {part} counts twice{where}", residual,
                    path=part,
                )  # fmt: skip
    found = graph_edits.best_edit(evidence, graph_edits.DOUBLED)
    if found is None:
        return None
    cut, residual = found
    return diagnosis(
        "doubled-path",
        f"the path through {cut.text} counts twice, in the gradient of {cut.where}",
        residual, where=cut.where, operation=cut.text,
    )  # fmt: skip


DOUBLED_PATH = Rule(_DOUBLED_PATH_PAGE, _fit_doubled_path)
"""A path of the chain rule is counted twice."""


_SIGN_PAGE = Page(
    "sign",
    "One output of the backward pass, or one term of it, has the wrong sign.",
    "d_z = d_h * f'(z)            for h = f(z)\n"
    "d_f -= d_h * n               for h = ... - f * n: minus, since d h / d f = -n",
    "d_z = d_h * (z - h)          # the two terms of a difference exchanged\n"
    "d_f = d_h * n                # the minus of (1 - f) forgotten",
    "d_f = -d_h * n",
    "The hand-derived block is the right one times -1, or the right one with one term times -1.",
)


def _fit_sign(evidence: Evidence) -> Diagnosis | None:
    """The block is minus the right one; or one cotangent, or one path, enters with a minus."""
    block = evidence.block
    residual = evidence.fits_block(lambda right, _: -right)
    if residual is not None:
        return diagnosis("sign", f"{block} is right but for its sign", residual, factor=-1.0)
    for part in evidence.examples[0].parts if evidence.examples else ():
        for wide in (True, False):
            residual = evidence.fits_all(
                lambda s, part=part, wide=wide: without(s, part, evidence, wide, -2.0)
            )
            if residual is not None:
                where = "" if wide else f" in {block}"
                return diagnosis(
                    "sign", f"the cotangent {part} enters with the wrong sign{where}", residual,
                    path=part,
                )  # fmt: skip
    found = graph_edits.best_edit(evidence, graph_edits.NEGATED)
    if found is None:
        return None
    cut, residual = found
    return diagnosis(
        "sign",
        f"the path through {cut.text} has the wrong sign, in the gradient of {cut.where}",
        residual, where=cut.where, operation=cut.text,
    )  # fmt: skip


SIGN = Rule(_SIGN_PAGE, _fit_sign)
"""One output, or one path, has the wrong sign."""


_WRONG_DERIVATIVE_PAGE = Page(
    "wrong-derivative",
    "The local derivative of an activation or gate is not that of the forward pass.",
    "h = tanh(z):    d_z = d_h * (1 - h**2)\ns = sigmoid(z): d_z = d_s * s * (1 - s)",
    "d_z = d_h * (1 - z**2)       # the pre-activation in place of the activation\n"
    "d_z = d_h * h * (1 - h)      # the derivative of another activation\n"
    "d_z = d_s                    # no derivative at all",
    "d_z = d_h * (1 - h**2)       # h = tanh(z), from the cache",
    "The block equals JAX's gradient with that one derivative replaced, in every problem.",
)


def _fit_wrong_derivative(evidence: Evidence) -> Diagnosis | None:
    """One local derivative replaced by another."""
    found = graph_edits.best_edit(evidence, graph_edits.DERIVATIVE)
    if found is None:
        return None
    cut, residual = found
    return diagnosis(
        "wrong-derivative",
        f"the derivative of {cut.text} in {cut.where} is {in_its_names(cut.instead, cut.where)}",
        residual, where=cut.where, instead=cut.instead,
    )  # fmt: skip


def in_its_names(formula: str, where: str) -> str:
    """A formula of ``h = f(z)`` with the names of the line: of ``c = np.tanh(a)``, c and a."""
    line = where.split(": ", 1)[-1]
    with suppress(SyntaxError, ValueError):
        match ast.parse(line).body:
            case [ast.Assign(targets=[ast.Name(id=value)], value=ast.Call(args=[argument]))]:
                text = ast.unparse(argument)
                text = text if isinstance(argument, ast.Name) else f"({text})"
                head, apart, tail = formula.partition(", u from ")
                names = {"h": value, "z": text}
                return re.sub(r"\b[hz]\b", lambda m: names[m[0]], head) + apart + tail
            case _:
                pass
    return f"{formula} (h its value, z its argument)"


WRONG_DERIVATIVE = Rule(_WRONG_DERIVATIVE_PAGE, _fit_wrong_derivative)
"""The derivative of a nonlinear function is another function's, or is missing."""


_WRONG_OPERAND_PAGE = Page(
    "wrong-operand",
    "A product of the backward pass uses another quantity of the same shape.",
    "c_new = f * c + i * g:    d_f = d_c_new * c,  d_c = d_c_new * f\n"
    "z = x @ U.T + h @ W.T:    d_U = d_z.T @ x,    d_W = d_z.T @ h",
    "d_c = d_c_new * i            # another gate\n"
    "d_c = d_h_new * f            # the gradient of another quantity\n"
    "d_W = d_z.T @ h_new          # the new state for the old one",
    "d_c = d_c_new * f\nd_W = d_z.T @ h",
    "The block equals JAX's gradient with one contribution computed from another value of the step "
    "or from another gradient, of the same shape, in every problem.",
)


def _fit_wrong_operand(evidence: Evidence) -> Diagnosis | None:
    """One quantity of a single contribution replaced by another of the same shape."""
    if evidence.sequence or not evidence.examples:
        return None
    try:
        swaps, tables = _candidates(evidence)
    except BpttcheckError:
        return None
    for wide in (True, False):
        for swap in swaps:
            residual = _residual(evidence, tables, swap.key, wide)
            if residual is not None:
                # Others that fit too give the same gradient; the likeliest is reported.
                return _told(swap, residual)
    return None


def _told(swap: OperandSwap, residual: float) -> Diagnosis:
    place = f", in the gradient of {swap.where}" if swap.where else ""
    what = f"{swap.made} is made with {swap.used}" if swap.made else f"{swap.used} is used"
    return diagnosis(
        "wrong-operand", f"{what} where {swap.belongs} belongs{place}", residual,
        where=swap.where, used=swap.used, belongs=swap.belongs,
    )  # fmt: skip


_Table = dict[Any, dict[str, Array]]


def _candidates(evidence: Evidence) -> tuple[list[OperandSwap], list[_Table]]:
    """The swaps that explain the block at hand in every example, and what they predict."""
    tables: list[_Table] = []
    swaps: list[OperandSwap] = []
    for example in evidence.examples:
        shifts = _shifts(example)
        if tables:
            shifts = [shift for shift in shifts if shift.swap.key in tables[-1]]
        found = _fitting(evidence.block, example, shifts)
        tables.append(found)
        swaps = [shift.swap for shift in shifts if shift.swap.key in found]
    return swaps, tables


def _shifts(example: FailingExample) -> list[GradientShift]:
    p = example.problem
    paths = example.run.jax.paths(p)
    point = (p.params, p.state0, p.xs[0])
    return example.run.jax.remember(
        "operands", p, lambda: paths.swaps(point, (p.d_state, p.d_ys[0]))
    )


def _fitting(block: str, example: FailingExample, shifts: list[GradientShift]) -> _Table:
    p = example.problem
    point = (p.params, p.state0, p.xs[0])
    given = (p.d_state, p.d_ys[0])
    found: _Table = {}
    moved = example.run.jax.paths(p).swapped(point, given, shifts)
    for shift, added in zip(shifts, moved, strict=True):
        more = blocks_of(example, added)
        if not more[block].any():
            continue
        if example.residual({block: example.right[block] + more[block]}) <= LIMIT:
            found[shift.swap.key] = {n: right + more[n] for n, right in example.right.items()}
    return found


def _residual(evidence: Evidence, tables: list[_Table], key: Any, wide: bool) -> float | None:
    by_example = {id(s): t[key] for s, t in zip(evidence.examples, tables, strict=True)}

    def predict(example: FailingExample) -> dict[str, Array]:
        found = by_example[id(example)]
        return found if wide else {evidence.block: found[evidence.block]}

    return evidence.fits_all(predict)


WRONG_OPERAND = Rule(_WRONG_OPERAND_PAGE, _fit_wrong_operand)
"""The backward pass uses one quantity of the step where another of its shape belongs."""


_PRECISION_PAGE = Page(
    "precision",
    "The gradient has fewer right digits than its dtype holds.",
    "every array of the backward pass has the dtype of the inputs",
    "d_W = np.zeros(W.shape, np.float32)     # an accumulator that is shorter than its terms\n"
    "1 - np.tanh(z)**2 by np.exp             # a formula that cancels",
    "d_W = np.zeros_like(W)",
    "Every entry is a float32 (or float16) number though the problem is float64; or the same code "
    "is right in float64 and wrong in float32 by more than rounding can explain.",
)


_UNITS = 32
"""What a format that is too short makes wrong, in units of its last digit, at most."""


def _fit_precision(evidence: Evidence) -> Diagnosis | None:
    """Every entry fits a shorter format and is right in that format."""
    examples = evidence.examples
    least = min((_relative(s, evidence.block) for s in examples), default=0.0)
    for short in (np.float16, np.float32):
        if least > _UNITS * np.finfo(short).eps:
            continue  # and what the rounded cotangents give takes minutes by differences
        if examples and all(_fits_in(s, short, evidence.block) for s in examples):
            unit = float(np.finfo(short).eps)
            name = np.dtype(short).name
            return diagnosis(
                "precision", f"{evidence.block} went through {name}: only its digits are right",
                0.0, format=name, relative_error=unit,
            )  # fmt: skip
        residual = evidence.fits_all(lambda s, short=short: _cotangents_in(s, short))
        if residual is not None:
            name = np.dtype(short).name
            return diagnosis(
                "precision", f"the cotangents went through {name}", residual, format=name
            )
    return _cancels(evidence)


def _cotangents_in(example: FailingExample, short: type) -> dict[str, Array]:
    """The right gradient of cotangents rounded to a shorter format."""
    p = example.problem

    def rounded(leaf: Any) -> Any:
        return leaf.astype(short).astype(leaf.dtype) if is_float(leaf) else leaf

    with np.errstate(all="ignore"):
        changed = replace(p, d_ys=rounded(p.d_ys), d_state=trees.map_leaves(rounded, p.d_state))
        return example.right_for(changed)


def _fits_in(example: FailingExample, short: type, block: str) -> bool:
    if np.finfo(example.problem.dtype).eps >= np.finfo(short).eps:
        return False
    hand, right = example.given(block), example.right[block]
    with np.errstate(all="ignore"):
        exact = bool((hand == hand.astype(short).astype(np.float64)).all())
        gap = np.abs(hand - right).max(initial=0.0)
    return exact and bool(gap <= 8 * np.finfo(short).eps * np.abs(right).max(initial=0.0))


def _cancels(evidence: Evidence) -> Diagnosis | None:
    """A small error without a pattern, larger than the rounding of the right dtype."""
    if not evidence.examples:
        return None
    errors = [_relative(s, evidence.block) for s in evidence.examples]
    unit = float(np.finfo(np.float32).eps)
    double = all(s.problem.dtype == np.float64 for s in evidence.examples)
    if double and all(1e-3 * unit < e < _UNITS * unit for e in errors):
        if WRONG_COTANGENT.fit(evidence) is not None:
            return None  # which says where
        return diagnosis(
            "precision", f"{evidence.block} is off by little, with no pattern: "
            "float32 inside, a rounded constant, or a small epsilon in one pass only",
            0.0, relative_error=max(errors),
        )  # fmt: skip
    return None


def _relative(example: FailingExample, block: str) -> float:
    hand, right = example.given(block), example.right[block]
    return float(np.abs(hand - right).max(initial=0.0) / (np.abs(right).max(initial=0.0) or 1.0))


PRECISION = Rule(_PRECISION_PAGE, _fit_precision)
"""Digits are lost: part of the computation runs in a shorter format."""


_WRONG_COTANGENT_PAGE = Page(
    "wrong-cotangent",
    "The mistake lies at one nonlinear function of the step, or between it and the output; all "
    "that follows from its cotangent is right.",
    "d_z = d_h * f'(z), and then d_W = d_z.T @ x, d_b = sum of d_z, d_x = d_z @ W",
    "d_z = (anything else)        # with d_W, d_b and d_x rightly made from it",
    "derive d_z again: the cotangent of h first, then the factor f'(z)",
    "All blocks together equal JAX's gradient with one other array in the place of that local "
    "derivative, which the gradients themselves overdetermine.",
)

# So many blocks may have a mistake of their own beside the one that is located.
_OTHER_BUGS = 1
# The minimum excess of equations over unknowns: with fewer, any gradient could be explained.
_SPARE = 2.0


def _fit_wrong_cotangent(evidence: Evidence) -> Diagnosis | None:
    """One function whose local factor, whatever it is, explains every block."""
    if evidence.sequence or not evidence.examples:
        return None
    others = [name for name in evidence.examples[0].right if name != evidence.block]
    try:
        for several in range(1 + min(_OTHER_BUGS, len(others))):
            found = [_located(evidence, left_out) for left_out in combinations(others, several)]
            good = [one for one in found if one is not None]
            if good:  # several places are not told apart
                return good[0] if len(good) == 1 else None
    except BpttcheckError:
        return None
    return None


def _located(evidence: Evidence, left_out: tuple[str, ...]) -> Diagnosis | None:
    """The one place that explains all blocks but those with a mistake of their own."""
    tables = [_fits(s, left_out, evidence.notes) for s in evidence.examples]
    fitting = {
        place: max(table[place].residual for table in tables)
        for place in tables[0]
        if all(place in table for table in tables)
    }
    good = {place: r for place, r in fitting.items() if r <= LIMIT}
    if len(good) != 1:
        return None  # nowhere, or not told apart
    place, residual = next(iter(good.items()))
    site = tables[0][place].site
    by_example = zip(evidence.examples, tables, strict=True)
    evidence.assume({id(s): table[place].gradient for s, table in by_example})
    but = f", but for {' and '.join(left_out)}" if left_out else ""
    return diagnosis(
        "wrong-cotangent",
        f"the mistake is at or after {site.text}, in the gradient of {site.where}: what "
        f"follows from the cotangent of its argument is right{but}",
        residual, where=site.where,
    )  # fmt: skip


@dataclass(frozen=True)
class _Fit:
    """A local factor that was fitted: its residual, and the gradient that it gives."""

    residual: float
    site: EditSite
    gradient: dict[str, Array]


def _fits(
    example: FailingExample, left_out: tuple[str, ...], notes: dict[str, Any]
) -> dict[tuple[int, int], _Fit]:
    """For each function the best fit over its local factor."""
    p = example.problem
    paths = example.run.jax.paths(p)
    point = (p.params, p.state0, p.xs[0])
    shapes = [v.shape for _, v in paths.values(*point)]
    found: dict[tuple[int, int], _Fit] = {}
    made: dict[Any, list[dict[str, Array]]] = notes.setdefault("factors", {})
    for site, shape in zip(paths.sites("function"), shapes, strict=True):
        key = (id(example), site.place)
        if key not in made:
            made[key] = _of_factors(example, paths, point, site, shape)
        fit = _best(example, made[key], site, shape, left_out)
        if fit is not None:
            found[site.place] = fit
    return found


def _of_factors(
    example: FailingExample, paths: Paths, point: tuple, site: EditSite, shape: tuple[int, ...]
) -> list[dict[str, Array]]:
    """The gradient for a local factor of zero, and for each factor that is one at one entry."""
    p, size = example.problem, int(np.prod(shape))
    units = np.eye(size).reshape(size, *shape)
    changes = [(site, np.zeros(shape)), *((site, unit) for unit in units)]
    found = paths.gradients(point, (p.d_state, p.d_ys[0]), changes)
    return [blocks_of(example, one) for one in found]


def _best(
    example: FailingExample,
    gradients: list[dict[str, Array]],
    site: EditSite,
    shape: tuple[int, ...],
    left_out: tuple[str, ...],
) -> _Fit | None:
    size = int(np.prod(shape))
    names = [name for name in example.right if name not in left_out]
    hand = np.concatenate([example.given(name).reshape(-1) for name in names])
    rows = [_flat(g, names) for g in gradients]
    base, basis = rows[0], np.stack([row - rows[0] for row in rows[1:]], axis=1)
    touched = np.abs(basis).max(axis=1, initial=0.0) > 0
    if touched.sum() < _SPARE * size or not np.isfinite(hand).all():
        return None
    scale = np.abs(basis).max(axis=0)
    scale[scale == 0] = 1.0
    factor = np.linalg.lstsq(basis / scale, hand - base, rcond=None)[0] / scale
    whole = list(example.right)
    flat = [_flat(g, whole) for g in gradients]
    fitted = flat[0] + np.stack([row - flat[0] for row in flat[1:]], axis=1) @ factor
    parts = np.split(fitted, np.cumsum([example.right[name].size for name in whole])[:-1])
    made = {
        n: part.reshape(example.right[n].shape) for n, part in zip(whole, parts, strict=True)
    }  # fmt: skip
    return _Fit(example.residual({n: made[n] for n in names}), site, made)


def _flat(gradients: dict[str, Array], names: list[str]) -> Array:
    return np.concatenate([gradients[name].reshape(-1) for name in names])


WRONG_COTANGENT = Rule(_WRONG_COTANGENT_PAGE, _fit_wrong_cotangent)
"""All blocks are consistent with one wrong cotangent inside the step, which is located."""
