"""Right numbers in the wrong place: another order, another step, another row; or overwritten."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import permutations

import numpy as np

from bpttcheck.blocks import Block
from bpttcheck.calibration import LIMIT
from bpttcheck.diagnose.base import SEQUENCE, Array, Evidence, FailingExample, Page, Rule, diagnosis
from bpttcheck.problems import function_rows, rows
from bpttcheck.results.records import Diagnosis

# Parts of an axis, such as the gates of a cell, of which every order is tried.
_MOST_PARTS = 4

_TIME_ORDER_PAGE = Page(
    "time-order",
    "A gradient runs the wrong way in time: it is in reversed order, or the loop runs forwards.",
    "d_h[t-1] = (d h[t] / d h[t-1]).T @ d_h[t],  for t = T-1 down to 0;  d_xs[t] belongs to xs[t]",
    "for t in reversed(range(T)): d_xs.append(d_x)    # the last step comes first\n"
    "for t in range(T): ...                           # the carry comes from the step before",
    "d_xs = d_xs[::-1]\nfor t in reversed(range(T)): ...",
    "The block is the right one with its steps in reversed order; or every block equals JAX's "
    "gradient of the unrolled loop with its carry taken from the step before.",
)


def _fit_time_order(evidence: Evidence) -> Diagnosis | None:
    """The steps in reversed order."""
    residual = evidence.fits_block(lambda right, s: _along_time(right, s, evidence.block, np.flip))
    if residual is None:
        return None
    return diagnosis("time-order", f"{evidence.block} has its steps in reversed order", residual)


def _along_time(right: Array, example: FailingExample, block: str, change: object) -> Array | None:
    axis = time_axis(example, block)
    if axis is None or right.shape[axis] < 2 or not callable(change):
        return None
    return np.asarray(change(right, axis))


def time_axis(example: FailingExample, block: str) -> int | None:
    """The axis of a block along which it has a step each, or None."""
    signature = example.run.subject.traits.signature
    if signature is None:
        return 0 if Block(block).kind == "x" and example.mode == SEQUENCE else None
    leaf = function_rows.leaf_of(signature, example.problem, block)
    return None if leaf is None else leaf.axis(signature.time)


TIME_ORDER = Rule(_TIME_ORDER_PAGE, _fit_time_order)
"""The gradient runs the wrong way in time."""


_OFF_BY_ONE_PAGE = Page(
    "off-by-one",
    "A quantity of another step is used: the one after or before.",
    "h[t] = tanh(U x[t] + W h[t-1])   ->   d_W = sum over t of outer(d_z[t], h[t-1])",
    "d_W += np.outer(d_z, hs[t])          # h[t] for h[t-1]\n"
    "d_W += np.outer(d_z, hs[t - 2])      # which at t = 0 is the last one\n"
    "d_xs[t - 1] = U.T @ d_z              # the gradient of another step",
    "d_W += np.outer(d_z, hs[t - 1])",
    "Every block equals JAX's gradient of the unrolled loop with that quantity replaced, at every "
    "step, by the one beside it; or the block is the right one moved by one step.",
)


def _fit_off_by_one(evidence: Evidence) -> Diagnosis | None:
    """The block moved by one step."""
    for shift, which in ((1, "before"), (-1, "after")):
        for wraps in (True, False):
            residual = evidence.fits_block(
                lambda right, s, by=shift, wraps=wraps: _along_time(
                    right, s, evidence.block, lambda a, axis: _moved(a, axis, by, wraps)
                )
            )
            if residual is not None:
                return diagnosis(
                    "off-by-one",
                    f"{evidence.block} holds at each step what belongs to the step {which}",
                    residual, shift=shift,
                )  # fmt: skip
    return None


def _moved(array: Array, axis: int, shift: int, wraps: bool) -> Array:
    found = np.roll(array, shift, axis)
    if not wraps:
        np.moveaxis(found, axis, 0)[0 if shift > 0 else -1] = 0.0
    return found


OFF_BY_ONE = Rule(_OFF_BY_ONE_PAGE, _fit_off_by_one)
"""A quantity of another step is used."""


_OVERWRITTEN_PAGE = Page(
    "overwritten",
    "A sum over steps, or over rows that occur again, keeps only the term written last.",
    "d_W = sum over t of d_W[t];   d_E[k] = sum over all t with tokens[t] = k",
    "d_W = d_z.T @ h              # = for +=\n"
    "d_E[tokens] += d_x           # NumPy adds once for a row that occurs twice",
    "d_W += d_z.T @ h\nnp.add.at(d_E, tokens, d_x)",
    "Every entry equals one of the terms that should have been added, in JAX's unrolled loop: of "
    "the first or of the last step that has one.",
)


def _fit_overwritten(evidence: Evidence) -> Diagnosis | None:
    """Never by the block alone: the edits of whole sequences have it."""
    del evidence
    return None


OVERWRITTEN = Rule(_OVERWRITTEN_PAGE, _fit_overwritten)
"""A sum keeps only one of its terms."""


_PERMUTED_PAGE = Page(
    "permuted",
    "A gradient holds the right numbers in another order.",
    "d_x has the axes of x, each in the order of x",
    "d_x = d_flat.reshape(N, T, D)            # d_flat is (T, N, D)\n"
    "np.concatenate([d_f, d_i, d_g, d_o])     # the forward pass has i first",
    "d_x = d_flat.reshape(T, N, D).swapaxes(0, 1)",
    "The block is the right one with its axes read in another order, or with its parts along one "
    "axis in another order, the same one in every problem.",
)


def _fit_permuted(evidence: Evidence) -> Diagnosis | None:
    """Axes read in another order, or rows along one axis in another order."""
    if not evidence.examples:
        return None
    ndim = evidence.examples[0].right[evidence.block].ndim
    for axes in list(permutations(range(ndim)))[1:] if ndim < 5 else ():
        residual = evidence.fits_block(lambda right, _, axes=axes: _reread(right, axes))
        if residual is not None:
            order = ", ".join(map(str, axes))
            return diagnosis(
                "permuted",
                f"{evidence.block} has the right numbers with its axes in the order {order}: a "
                "reshape where a transpose belongs",
                residual, axes=list(axes),
            )  # fmt: skip
    for axis in range(ndim):
        for text, order in _orders(evidence, axis):
            residual = evidence.fits_block(
                lambda right, s, axis=axis, order=order: order(right, axis, s.sizes)
            )
            if residual is not None:
                sentence = f"{evidence.block} has the right numbers {text} along axis {axis}"
                return diagnosis("permuted", sentence, residual, axis=axis)
    return None


def _reread(right: Array, axes: tuple[int, ...]) -> Array:
    return np.transpose(right, axes).reshape(right.shape)


_Order = Callable[[Array, int, Mapping[str, int]], Array | None]


def _orders(evidence: Evidence, axis: int) -> Iterator[tuple[str, _Order]]:
    """Orders along one axis that are the same at every size: what depends on values is none."""
    yield "in reversed order", lambda right, axis, _: np.flip(right, axis)
    for by, text in ((1, "later"), (-1, "earlier")):
        yield f"one place {text}", lambda right, axis, _, by=by: np.roll(right, by, axis)
    first = evidence.examples[0]
    size = first.right[evidence.block].shape[axis]
    for letter, width in first.sizes.items():
        count = size // width if width > 1 and size % width == 0 else 1
        if not 1 < count <= _MOST_PARTS:
            continue
        yield f"interleaved in parts of {letter}", partial(_interleaved, letter=letter)
        for order in list(permutations(range(count)))[1:]:
            text = f"in parts of {letter} in the order {', '.join(map(str, order))}"
            yield text, partial(_parts, letter=letter, order=order)


def _parts(
    right: Array, axis: int, sizes: Mapping[str, int], letter: str, order: tuple[int, ...]
) -> Array | None:
    if right.shape[axis] != len(order) * sizes[letter]:
        return None
    parts = np.split(right, len(order), axis)
    return np.concatenate([parts[i] for i in order], axis)


def _interleaved(right: Array, axis: int, sizes: Mapping[str, int], letter: str) -> Array | None:
    n, width = right.shape[axis], sizes[letter]
    if n % width:
        return None
    return np.take(right, np.arange(n).reshape(-1, width).T.reshape(-1), axis)


PERMUTED = Rule(_PERMUTED_PAGE, _fit_permuted)
"""The right numbers in another order."""


_MIXED_ROWS_PAGE = Page(
    "mixed-rows",
    "The rows of the batch run into one another: each of them alone is right.",
    "no quantity of one row enters the gradient of another but in the sum of the parameters",
    "d_h = np.zeros(H)            # before the loop over rows: carried from row to row\n"
    "for n in range(N): ...",
    "for n in range(N):\n    d_h = np.zeros(H)",
    "The hand-derived gradient of every row by itself is right, that of the batch is not.",
)


def _fit_mixed_rows(evidence: Evidence) -> Diagnosis | None:
    """Every row by itself is right."""
    signature = evidence.run.subject.traits.signature
    is_packed = signature is not None and function_rows.is_packed(signature)
    if signature is not None and not (signature.batch or is_packed):
        return None
    examples = [
        s for s in evidence.examples
        if s.problem.case.B > 1 or (is_packed and len(rows.single(signature, s.problem)) > 1)
    ]  # fmt: skip
    if not evidence.sequence or not examples:
        return None
    worst = max(_row_by_row(s, evidence.block) for s in examples)
    if not worst <= LIMIT:
        return None
    sentence = f"{evidence.block} is right for each row of the batch by itself: the rows are mixed"
    return diagnosis("mixed-rows", sentence, worst)


def _row_by_row(example: FailingExample, block: str) -> float:
    """The residual of the gradient put together from single rows."""
    run, problem = example.run, example.problem
    signature = run.subject.traits.signature
    parts = rows.single(signature, problem)
    gradients = [run.code.run(example.mode, one).gradients[block] for one in parts]
    found = rows.joined(signature, problem, parts, block, gradients)
    hand = replace(example.hand, gradients={**example.hand.gradients, block: found})
    return replace(example, hand=hand).residual({block: example.right[block]})


MIXED_ROWS = Rule(_MIXED_ROWS_PAGE, _fit_mixed_rows)
"""The rows of the batch are not independent of each other."""
