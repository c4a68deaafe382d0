"""The rows of a batch of a function, one by one, and what stands in their padding.

The batch has an axis of its own, or its rows are packed: they stand one after another in one axis
S. ``lens: N packs S`` says how many steps each has, ``cu: N+1 offsets S`` where each begins.
Padded, ``lens: N within T`` says how many of the T steps of each row are real.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from bpttcheck.blocks import YS, Block, d_param
from bpttcheck.contract import Array
from bpttcheck.problems.problem import Problem
from bpttcheck.signature import Leaf, Length, Signature


def lengths_leaf(signature: Signature) -> Leaf | None:
    """The input that says how long the rows are, or None."""
    return next((x for x in signature.leaves if x.kind in ("packs", "offsets", "within")), None)


def is_packed(signature: Signature) -> bool:
    """True if the rows of the batch stand one after another."""
    leaf = lengths_leaf(signature)
    return leaf is not None and leaf.kind != "within"


def is_padded(signature: Signature) -> bool:
    """True if the rows of the batch have steps that are not real."""
    leaf = lengths_leaf(signature)
    return leaf is not None and leaf.kind == "within"


def draw_lengths(leaf: Leaf, sizes: Mapping[str, int], rng: np.random.Generator) -> Array:
    """Lengths of rows, or where they begin: often an empty row, and one of a single step."""
    whole = leaf.below.at(sizes)
    rows = leaf.shape(sizes)[0] - (leaf.kind == "offsets")
    if leaf.kind == "within":
        return rng.integers(0, whole + 1, rows)
    cuts = np.sort(rng.integers(0, whole + 1, max(rows - 1, 0)))
    if rows > 2 and whole > 1:
        cuts[1] = cuts[0]  # an empty row
    offsets = np.concatenate([[0], np.sort(cuts), [whole]]) if rows else np.zeros(1, int)
    return offsets if leaf.kind == "offsets" else np.diff(offsets)


def rows_of(signature: Signature, problem: Problem) -> list[Problem]:
    """The rows of a batch, each as a problem of its own."""
    return _packed(signature, problem) if is_packed(signature) else _single(signature, problem)


def _single(signature: Signature, problem: Problem) -> list[Problem]:
    sizes = dict(problem.case.letters)
    letters = {**sizes, signature.batch: 1}
    leaves = dict(signature.expanded(sizes))
    outputs = unpacked(signature, problem.d_ys, sizes)

    def part(leaf: Leaf, value: Any, row: int) -> Any:
        axis = leaf.axis(signature.batch)
        return value if axis is None else np.take(value, [row], axis)

    return [
        replace(
            problem,
            case=replace(problem.case, B=1, letters=tuple(letters.items())),
            params={name: part(leaves[name], v, row) for name, v in problem.params.items()},
            d_ys=_packed_row([part(leaf, value, row) for leaf, value in outputs], problem),
        )
        for row in range(sizes[signature.batch])
    ]


def _packed_row(parts: Sequence[Any], problem: Problem) -> Array:
    """Cotangents of outputs as one row ``(1, 1, M)``."""
    flat = [np.zeros(0), *(np.reshape(part, -1) for part in parts)]
    return np.concatenate(flat).astype(problem.d_ys.dtype).reshape(1, 1, -1)


def _packed(signature: Signature, problem: Problem) -> list[Problem]:
    leaf = lengths_leaf(signature)
    assert leaf is not None
    sizes = dict(problem.case.letters)
    offsets = np.asarray(problem.params[leaf.name])
    if leaf.kind == "packs":
        offsets = np.concatenate([[0], np.cumsum(offsets)])
    steps, rows = leaf.below.letter, _rows_letter(leaf)
    outputs = unpacked(signature, problem.d_ys, sizes)
    found: list[Problem] = []
    for row, (start, stop) in enumerate(pairwise(offsets)):

        def part(
            one: Leaf, value: Any, row: int = row, start: int = int(start), stop: int = int(stop)
        ) -> Any:
            if one.name == leaf.name:
                length = stop - start
                made = [0, length] if one.kind == "offsets" else [length]
                return np.asarray(made, np.asarray(value).dtype)
            if one.axis(steps) is not None:
                return np.take(value, range(start, stop), one.axis(steps))
            axis = one.axis(rows)
            return value if axis is None else np.take(value, [row], axis)

        letters = {**sizes, steps: int(stop - start), rows: 1}
        leaves = dict(signature.expanded(letters))
        found.append(
            replace(
                problem,
                case=replace(problem.case, letters=tuple(letters.items())),
                params={name: part(leaves[name], v) for name, v in problem.params.items()},
                d_ys=_packed_row([part(one, value) for one, value in outputs], problem),
            )
        )
    return found


def joined(
    signature: Signature, problem: Problem, rows: Sequence[Problem], block: str, parts: list[Any]
) -> Any:
    """One block of a batch from those of its rows: side by side, or their sum."""
    leaf = lengths_leaf(signature) if is_packed(signature) else None
    steps, batch = (
        ("", signature.batch) if leaf is None else (leaf.below.letter, _rows_letter(leaf))
    )

    def together(one: Leaf, values: list[Any]) -> Any:
        axis = one.axis(steps)
        axis = one.axis(batch) if axis is None else axis
        return sum(values) if axis is None else np.concatenate(values, axis)

    if Block(block) == YS:
        split = [
            unpacked(signature, part, dict(row.case.letters))
            for row, part in zip(rows, parts, strict=True)
        ]
        whole = [
            together(split[0][i][0], [one[i][1] for one in split]) for i in range(len(split[0]))
        ]
        return np.concatenate([np.reshape(one, -1) for one in whole]).reshape(1, 1, -1)
    leaves = {
        str(d_param(name)): one for name, one in signature.expanded(dict(problem.case.letters))
    }
    return together(leaves[block], parts)


def leaf_of(signature: Signature, problem: Problem, block: str) -> Leaf | None:
    """The input of which a block is the gradient."""
    leaves = signature.expanded(dict(problem.case.letters))
    return next((leaf for name, leaf in leaves if d_param(name) == block), None)


def only_row(signature: Signature, problem: Problem, row: int) -> Problem:
    """The problem with cotangents in one row of the batch alone."""

    def kept(leaf: Leaf, value: Array) -> Array:
        axis = leaf.axis(signature.batch)
        if axis is None:
            return value
        keep = np.zeros(value.shape[axis])
        keep[row] = 1
        return value * keep.reshape([-1 if a == axis else 1 for a in range(value.ndim)])

    outputs = unpacked(signature, problem.d_ys, dict(problem.case.letters))
    parts = [kept(leaf, value) for leaf, value in outputs]
    return replace(problem, d_ys=_packed_row(parts, problem))


def real_only(signature: Signature, problem: Problem) -> Problem:
    """The padded problem without cotangents in the padding of outputs."""
    sizes = dict(problem.case.letters)
    parts = [
        np.where(_real(signature, problem, leaf, value.shape), value, 0.0)
        for leaf, value in unpacked(signature, problem.d_ys, sizes)
    ]
    return replace(problem, d_ys=_packed_row(parts, problem))


def with_garbage(signature: Signature, problem: Problem, garbage: float) -> Problem:
    """The padded problem with ``garbage`` in the padding of every float input."""
    leaves = dict(signature.expanded(dict(problem.case.letters)))

    def spoilt(name: str, value: Any) -> Any:
        if leaves[name].kind != "float":
            return value
        real = _real(signature, problem, leaves[name], np.shape(value))
        return np.where(real, value, np.asarray(garbage, np.asarray(value).dtype))

    params = {name: spoilt(name, value) for name, value in problem.params.items()}
    return replace(real_only(signature, problem), params=params)


def real_outputs(signature: Signature, problem: Problem, row: Any) -> Any:
    """The outputs ``(1, 1, M)`` with zeros in the padding."""
    parts = [
        np.where(_real(signature, problem, leaf, value.shape), value, 0.0).reshape(-1)
        for leaf, value in unpacked(signature, row, dict(problem.case.letters))
    ]
    return np.concatenate(parts).reshape(1, 1, -1)


def unpacked(signature: Signature, row: Any, sizes: Mapping[str, int]) -> list[tuple[Leaf, Array]]:
    """Every output with its part of a row ``(1, 1, M)``; outputs that have no name are one."""
    flat, at = np.asarray(row).reshape(-1), 0
    found: list[tuple[Leaf, Array]] = []
    for name, leaf in signature.expanded_outputs(sizes):
        if leaf.kind == "float":
            shape = leaf.shape(sizes)
            found.append((replace(leaf, name=name), flat[at : at + prod(shape)].reshape(shape)))
            at += prod(shape)
    if not signature.outputs:  # such as the loss of a function that returns its gradients
        found.append((Leaf("", "", "float", (Length(number=flat.size),)), flat))
    return found


def _rows_letter(leaf: Leaf) -> str:
    """The letter of the batch: N of ``N packs S`` and of ``N+1 offsets S``."""
    return leaf.axes[0].letters[0]


def _real(signature: Signature, problem: Problem, leaf: Leaf, shape: tuple[int, ...]) -> Array:
    """Where an array with the padded axis holds real steps."""
    told = lengths_leaf(signature)
    assert told is not None
    time, batch = leaf.axis(told.below.letter), leaf.axis(_rows_letter(told))
    if time is None or batch is None:
        return np.ones(shape, bool)
    lengths = np.asarray(problem.params[told.name])
    steps = np.arange(shape[time]).reshape([-1 if i == time else 1 for i in range(len(shape))])
    ends = lengths.reshape([-1 if i == batch else 1 for i in range(len(shape))])
    return np.broadcast_to(steps < ends, shape)
