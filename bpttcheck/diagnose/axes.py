"""Gates, rows and sizes: what is transposed, swapped, averaged or broadcast."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import Block
from bpttcheck.diagnose import graph_edits
from bpttcheck.diagnose.base import Array, Evidence, FailingExample, Page, Rule, diagnosis
from bpttcheck.problems import function_rows
from bpttcheck.results.records import Case, Diagnosis, Finding

_TRANSPOSED_PAGE = Page(
    "transposed",
    "A matrix is transposed where it should not be, or the reverse.",
    "z = x @ U.T + h @ W.T   ->   d_W = d_z.T @ h,  d_h = d_z @ W,  d_x = d_z @ U",
    "d_W = h.T @ d_z              # the right shape only where W is square\nd_h = d_z @ W.T",
    "d_W = d_z.T @ h\nd_h = d_z @ W",
    "The block equals the transpose of the right one, or the right one computed with a transposed "
    "weight. Sizes that coincide (n_in = n_hidden) are where it hides from a shape check.",
)


def _fit_transposed(evidence: Evidence) -> Diagnosis | None:
    """The block transposed, or made with a transposed weight."""
    block = evidence.block
    residual = evidence.fits_block(_turned)
    if residual is not None:
        return diagnosis("transposed", f"{block} is the right gradient transposed", residual)
    found = graph_edits.best_edit(evidence, graph_edits.TRANSPOSED)
    if found is None:
        return None
    cut, residual = found
    return diagnosis(
        "transposed",
        f"{block} is computed with a transposed {cut.text}, in the gradient of {cut.where}",
        residual, where=cut.where,
    )  # fmt: skip


def _turned(right: Array, example: FailingExample) -> Array | None:
    if right.ndim < 2 or right.shape[-1] < 2 or right.shape[-2] < 2:
        return None
    turned = np.swapaxes(right, -1, -2)
    return turned if turned.shape == right.shape else np.reshape(turned, right.shape)


def transposed_result(finding: Finding) -> Diagnosis | None:
    """The diagnosis of a finding of the check ``contract``: a shape the wrong way round."""
    if "transposed?" not in finding.message:
        return None
    return Diagnosis("transposed", f"{finding.block} has the shape of its transpose", {})


TRANSPOSED = Rule(_TRANSPOSED_PAGE, _fit_transposed)
"""A matrix is transposed: the gradient of a weight, or a weight in the backward product."""


_SWAPPED_GATES_PAGE = Page(
    "swapped-gates",
    "The gradients of two gates, or of two parameters of one shape, are exchanged.",
    "a = [a_i, a_f, a_g, a_o]  ->  d_a = [d_a_i, d_a_f, d_a_g, d_a_o], in the same order",
    "d_a = np.concatenate([d_a_f, d_a_i, d_a_g, d_a_o], axis=-1)",
    "d_a = np.concatenate([d_a_i, d_a_f, d_a_g, d_a_o], axis=-1)",
    "The block is the right one with two of its parts, n_hidden wide each, exchanged.",
)


def _fit_swapped_gates(evidence: Evidence) -> Diagnosis | None:
    """Two parts of the block exchanged, or two blocks of one shape."""
    block = evidence.block
    if not evidence.examples:
        return None
    for axis, i, j, letter in _pairs(evidence.examples[0], block):
        residual = evidence.fits_block(
            lambda right, s, at=(axis, i, j), x=letter: _exchanged(right, s.sizes[x], *at)
        )
        if residual is not None:
            return diagnosis(
                "swapped-gates", f"gates {i} and {j} of {block} are exchanged", residual,
                gates=[i, j],
            )  # fmt: skip
    for other in evidence.examples[0].right:
        if other == block or {Block(other).kind, Block(block).kind} != {"params"}:
            continue
        residual = evidence.fits_block(lambda _, s, other=other: s.right[other])
        if residual is not None:
            return diagnosis(
                "swapped-gates", f"{block} holds what belongs in {other}", residual, other=other
            )
    return None


def _pairs(example: FailingExample, block: str) -> Iterator[tuple[int, int, int, str]]:
    """Axis, two parts of it, and the size that is their width, ``n_hidden`` first."""
    sizes = example.sizes
    order = ["n_hidden"] if "n_hidden" in sizes else list(sizes)
    for axis, size in enumerate(example.right[block].shape):
        for letter in order:
            if size % sizes[letter] == 0 and size > sizes[letter] > 1:
                for i, j in combinations(range(size // sizes[letter]), 2):
                    yield axis, i, j, letter


def _exchanged(right: Array, H: int, axis: int, i: int, j: int) -> Array | None:
    if right.shape[axis] % H or right.shape[axis] // H <= j:
        return None
    parts = np.split(right, right.shape[axis] // H, axis)
    parts[i], parts[j] = parts[j], parts[i]
    return np.concatenate(parts, axis)


SWAPPED_GATES = Rule(_SWAPPED_GATES_PAGE, _fit_swapped_gates)
"""The gradients of two gates are exchanged."""


_BATCH_REDUCTION_PAGE = Page(
    "batch-reduction",
    "A parameter's gradient does not sum over the rows of the batch.",
    "d_W = sum over rows n of outer(d_z[n], x[n]) = d_z.T @ x        d_b = sum over rows of d_z",
    "d_b = d_z.mean(axis=0)       # the mean belongs to the loss, which put it into d_y\n"
    "d_b = d_z[0]                 # right for a batch of one",
    "d_b = d_z.sum(axis=0)",
    "The block is the right one divided by B, or the right one of a single row of the batch.",
)


def _fit_batch_reduction(evidence: Evidence) -> Diagnosis | None:
    """A mean over the batch, or one row of it."""
    examples = [s for s in evidence.examples if s.problem.case.B > 1]
    signature = evidence.run.subject.traits.signature
    if not examples or (signature is not None and not signature.batch):
        return None
    few = replace(evidence, examples=examples)
    block = evidence.block
    residual = few.fits_block(lambda right, s: right / s.problem.case.B)
    if residual is not None:
        return diagnosis(
            "batch-reduction", f"{block} is a mean over the batch, but should be the sum (times B)",
            residual, factor="1/B",
        )  # fmt: skip
    for row, name in ((0, "first"), (-1, "last")):
        residual = few.fits_block(lambda _, s, row=row: _of_row(s, row, block))
        if residual is not None:
            return diagnosis(
                "batch-reduction", f"{block} counts only the {name} row of the batch", residual,
                row=row,
            )  # fmt: skip
    return None


def _of_row(example: FailingExample, row: int, block: str) -> Array:
    """The right block if only one row has a cotangent."""
    p, signature = example.problem, example.run.subject.traits.signature
    if signature is not None:
        return example.right_for(function_rows.only_row(signature, p, row))[block]

    def only(leaf: Array, axis: int) -> Array:
        keep = np.zeros(leaf.shape[axis], leaf.dtype)
        keep[row] = 1
        return leaf * keep.reshape([-1 if a == axis else 1 for a in range(leaf.ndim)])

    changed = replace(
        p, d_ys=only(p.d_ys, 1), d_state=trees.map_leaves(lambda leaf: only(leaf, 0), p.d_state)
    )
    return example.right_for(changed)[block]


BATCH_REDUCTION = Rule(_BATCH_REDUCTION_PAGE, _fit_batch_reduction)
"""The sum over the batch is a mean, or only some rows of the batch count."""


_BROADCAST_ROW_PAGE = Page(
    "broadcast-row",
    "One row of a gradient, or a mean or sum over the wrong axis, appears in place of others.",
    "d_x[n] = d_z[n] @ U, row by row",
    "d_x[:] = d_z[0] @ U          # NumPy silently repeats the row\n"
    "d_q = d_q.mean(axis=1, keepdims=True) + 0 * q    # each head has a gradient of its own\n"
    "d_x = (d_n - d_n.mean(axis=0)) / s               # n = (x - x.mean(axis=1)) / s",
    "d_x = d_z @ U\nd_x = (d_n - d_n.mean(axis=1, keepdims=True)) / s",
    "Every wrong row of the block equals a right row of the same block; or all places of an axis "
    "hold the mean, or the sum, of the right ones; or JAX's gradient, with one sum of the backward "
    "pass taken over another axis than that of the forward pass, gives the block.",
)


def _fit_broadcast_row(evidence: Evidence) -> Diagnosis | None:
    """One value for a whole axis; or each row the right one of this or of another place."""
    return _fit_one_for_all(evidence) or _fit_repeated(evidence)


def _fit_one_for_all(evidence: Evidence) -> Diagnosis | None:
    """The mean or the sum over an axis, put into every place of it."""
    axes = min((s.right[evidence.block].ndim for s in evidence.examples), default=0)
    for axis in range(axes):
        some = [s for s in evidence.examples if s.right[evidence.block].shape[axis] > 1]
        few = replace(evidence, examples=some)
        for word, reduced in (("mean", np.mean), ("sum", np.sum)):
            residual = few.fits_block(
                lambda right, _, axis=axis, reduced=reduced: np.broadcast_to(
                    reduced(right, axis=axis, keepdims=True), right.shape
                )
            )
            if residual is not None:
                return diagnosis(
                    "broadcast-row",
                    f"{evidence.block} has the {word} over axis {axis} in every place of that axis",
                    residual, axis=axis,
                )  # fmt: skip
    return None


def _fit_repeated(evidence: Evidence) -> Diagnosis | None:
    """Each row is the right one of this or of another place, along one axis."""
    for axis in (0, 1):
        found = [_sources(s, evidence.block, axis) for s in evidence.examples]
        if not found or any(one is None for one in found):
            continue

        def predict(right: Array, s: FailingExample, axis: int = axis) -> Array | None:
            sources = _sources(s, evidence.block, axis)
            return None if sources is None else np.take(right, sources, axis=axis)

        residual = evidence.fits_block(predict)
        if residual is not None:
            sources = found[0] or []
            moved = [f"{i} is row {j}" for i, j in enumerate(sources) if i != j]
            return diagnosis(
                "broadcast-row",
                f"{evidence.block} repeats a row (axis {axis}: {', '.join(moved[:3])})",
                residual, axis=axis, sources=sources,
            )  # fmt: skip
    return None


def _sources(example: FailingExample, block: str, axis: int) -> list[int] | None:
    """For each row the right row that it equals; None if there is none, or if no row repeats."""
    hand, right = example.given(block), example.right[block]
    if hand.ndim <= axis or hand.shape[axis] < 2:
        return None
    g, r = np.moveaxis(hand, axis, 0), np.moveaxis(right, axis, 0)
    gaps = np.abs(g[:, None] - r[None]).reshape(len(g), len(r), -1).max(axis=2)
    own = np.diagonal(gaps)
    nearest = gaps.argmin(axis=1)
    scale = np.abs(r).max(initial=0.0)
    sources = [i if own[i] <= 1e-3 * scale else int(j) for i, j in enumerate(nearest)]
    repeated = len(set(sources)) < len(sources)
    return sources if repeated and sources != list(range(len(sources))) else None


BROADCAST_ROW = Rule(_BROADCAST_ROW_PAGE, _fit_broadcast_row)
"""A row of a block is a copy of another one."""


_ONE_SIZE_PAGE = Page(
    "one-size",
    "The gradient is wrong at some sizes and right at all others.",
    "nothing in the formulas depends on a particular size",
    "if n_in == n_hidden: d_U = d_U.T         # a shape check that a square matrix passes\n"
    "d_W[:8] = ...                            # a constant that was meant to be n_hidden",
    "sizes taken from the shapes of the arguments",
    "Every case in which the block is wrong shares that size, and no case of that size is right.",
)

_TRAITS: tuple[tuple[str, Callable[[Case], object]], ...] = (
    ("n_in == n_hidden", lambda c: c.n_in == c.n_hidden or None),
    ("n_in == n_hidden > 1", lambda c: 1 < c.n_in == c.n_hidden or None),
    ("n_hidden", lambda c: c.n_hidden),
    ("n_in", lambda c: c.n_in),
    ("B", lambda c: c.B),
    ("T", lambda c: c.T),
    ("n_in and n_hidden", lambda c: (c.n_in, c.n_hidden)),
)


def _is_below(size: object, other: object) -> bool:
    return isinstance(size, int) and isinstance(other, int) and size < other


def _traits(case: Case) -> Sequence[tuple[str, Callable[[Case], object]]]:
    """What may tell sizes apart; those of a function are its letters."""
    return _TRAITS if not case.letters else [
        (letter, lambda c, letter=letter: dict(c.letters).get(letter)) for letter, _ in case.letters
    ]  # fmt: skip


def _fit_one_size(evidence: Evidence) -> Diagnosis | None:
    """One size separates the wrong cases from the right ones."""
    wrong, right = evidence.wrong_cases(), evidence.right_cases()
    if len(wrong) < 2 or len(right) < 5:
        return None
    if all(case.regime == "long" for case in wrong):
        return None  # long sequences have one width: their length is an equal explanation
    for name, trait in _traits(wrong[0]):
        values = {trait(case) for case in wrong}
        value = next(iter(values))
        others = {trait(case) for case in right}
        if len(values) > 1 or value is None or value in others:
            continue
        said = name if value is True else f"{name} = {value}"
        if value is not True and all(_is_below(other, value) for other in others):
            said += ", the largest that was judged"
        return diagnosis(
            "one-size", f"{evidence.block} is wrong only where {said}", 0.0,
            wrong=len(wrong), right=len(right),
        )  # fmt: skip
    return None


ONE_SIZE = Rule(_ONE_SIZE_PAGE, _fit_one_size)
"""Wrong only at one size."""
