"""Wrong numbers in a backward pass: signs, factors, entries, bounds, wrong slopes, few digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.activations import ACTIVATIONS
from bpttcheck.contract import Array, is_cell, is_float
from bpttcheck.mutants._planted import cell_call
from bpttcheck.mutants.base import (
    ACTIVE_REGIMES,
    Change,
    Edit,
    Mutant,
    MutatedCell,
    SubjectInfo,
    VjpCall,
    VjpResult,
    change_block,
    change_blocks,
    in_layer,
    planted,
    times,
)


def sign(parts: SubjectInfo) -> Iterator[Mutant]:
    """One for each output that is not always zero."""
    for block in parts.blocks:

        def change(call: VjpCall, block: str = block) -> VjpResult:
            return change_block(call.right(), block, times(-1.0))

        sizes = parts.where_filled(block)
        if sizes is None:
            continue
        yield Mutant(
            f"sign of {block}", "sign", f"{block} has the wrong sign", planted(change),
            parts.kind, (block,), "sign", sizes=sizes, error=2.0,
        )  # fmt: skip


LADDER = tuple(range(1, 13))
"""The exponents ``k`` of the factors ``1 + 10**-k``."""

FINEST_IN_FLOAT32 = 4
"""The last of them that is visible in float32, whose own rounding is 6e-8."""


def scale(parts: SubjectInfo) -> Iterator[Mutant]:
    """For each output the factors 2 and 1/2, and a series of factors near 1."""
    for block in parts.blocks:
        sizes = parts.where_filled(block)
        if sizes is None:
            continue
        for text, factor, error, dtypes in _factors():
            yield Mutant(
                f"{block} times {text}", "scale", f"{block} is {text} times the right gradient",
                planted(_scaled(block, factor)), parts.kind, (block,), "scale", dtypes=dtypes,
                sizes=sizes, error=error,
            )  # fmt: skip


def _factors() -> Iterator[tuple[str, float, float, tuple[str, ...]]]:
    both = ("float64", "float32")
    yield "2", 2.0, 1.0, both
    yield "0.5", 0.5, 0.5, both
    for k in LADDER:
        # A float power is off in its last digit; the parsed text is exact.
        error = float(f"1e-{k}")
        yield f"(1 + 1e-{k})", 1.0 + error, error, both if k <= FINEST_IN_FLOAT32 else both[:1]


def _scaled(block: str, factor: float):
    def change(call: VjpCall) -> VjpResult:
        return change_block(call.right(), block, times(factor))

    return change


def entry(parts: SubjectInfo) -> Iterator[Mutant]:
    """The first and the last entry of each block zero; the first row of a parameter repeated.

    A block of a single entry is all zero then.
    """
    for block in parts.blocks:
        for which, name in ((0, "first"), (-1, "last")):
            change = _changed(block, _zeroed(which))
            sizes = parts.where_filled(block)
            if sizes is not None and parts.reached(change):
                yield Mutant(
                    f"{name} entry of {block} zeroed", "entry",
                    f"the {name} entry of {block} is zero", planted(change), parts.kind, (block,),
                    "zeroed-entry", ("missing-path",), regimes=ACTIVE_REGIMES, sizes=sizes,
                )  # fmt: skip
    for key, block in zip(parts.params, parts.param_blocks, strict=True):
        sizes = parts.where(
            lambda _, shapes, key=key: shapes[key][:1] > (1,) and 0 not in shapes[key]
        )
        if sizes is None:
            continue
        for name, sentence, how in (
            ("row 1 is row 0", "row 1 is row 0", _copied),
            ("every row is row 0", "every row is row 0", _broadcast),
        ):
            change = _changed(block, how)
            if parts.reached(change, sizes[0] if sizes else None):
                yield Mutant(
                    f"{block}: {name}", "entry", f"of {block}, {sentence}", planted(change),
                    parts.kind, (block,), "broadcast-row", regimes=ACTIVE_REGIMES, sizes=sizes,
                )  # fmt: skip


def _changed(block: str, how: Edit) -> Change:
    def change(call: VjpCall) -> VjpResult:
        return change_block(call.right(), block, how)

    return change


def _zeroed(which: int) -> Edit:
    def how(gradient: Array) -> Array:
        out = np.array(gradient)
        if out.size:
            out.flat[which] = 0
        return out

    return how


def _copied(gradient: Array) -> Array:
    out = np.array(gradient)
    if out.ndim and len(out) > 1:
        out[1] = out[0]
    return out


def _broadcast(gradient: Array) -> Array:
    out = np.array(gradient)
    if out.ndim and len(out):
        out[:] = out[0].copy()
    return out


BOUNDS = (5.0, 1.0)


def clipped(parts: SubjectInfo) -> Iterator[Mutant]:
    """Every block, the parameters' or the carry clipped entry by entry, or by their joint norm.

    Of a cell each step is clipped; the sum over the steps of a whole sequence is, too.
    """
    groups = {"everything": parts.blocks, "d_params": parts.param_blocks,
              "d_state": parts.state_blocks}  # fmt: skip
    for name, blocks in groups.items():
        if not set(blocks) & set(parts.nonzero):
            continue
        for bound in BOUNDS:
            yield _mutant(parts, f"{name} clipped at {bound:g}", _clip(blocks, bound), blocks)
    if not set(parts.param_blocks) & set(parts.nonzero):
        return
    blocks = parts.param_blocks
    yield _mutant(parts, "joint norm of d_params clipped at 1", _clip_norm(blocks, 1.0), blocks)
    if parts.kind == "layer":
        return
    for name, change in (
        ("d_params of the sequence clipped at 5", _clip(blocks, 5.0)),
        ("joint norm of d_params of the sequence clipped at 1", _clip_norm(blocks, 1.0)),
    ):
        yield Mutant(
            name, "clipped", f"{name}, once the loop is over", in_layer(change), "layer", blocks,
            "clipped", regimes=("large_cotangents",),
        )  # fmt: skip


def _mutant(parts: SubjectInfo, name: str, change: Change, blocks: tuple[str, ...]) -> Mutant:
    return Mutant(
        name, "clipped", name, planted(change), parts.kind, blocks, "clipped",
        regimes=("large_cotangents",),
    )  # fmt: skip


def _clip(blocks: tuple[str, ...], bound: float) -> Change:
    def clip(gradient: Array) -> Array:
        return np.clip(gradient, -bound, bound)

    def change(call: VjpCall) -> VjpResult:
        return change_blocks(call.right(), blocks, clip)

    return change


def _clip_norm(blocks: tuple[str, ...], bound: float) -> Change:
    def change(call: VjpCall) -> VjpResult:
        right = call.right()
        named = right.blocks()
        # In float64: the square of a float32 gradient may overflow.
        norm = np.sqrt(sum(float(np.sum(np.square(named[b], dtype=np.float64))) for b in blocks))
        return change_blocks(right, blocks, times(float(bound / norm))) if norm > bound else right

    return change


_FORMATS = (
    ("float32", np.float32, ("float64",), 2.0**-26),
    ("float16", np.float16, ("float64", "float32"), 2.0**-13),
)
"""The format, the dtypes in which it shows, and the relative error that most entries exceed."""


def precision(parts: SubjectInfo) -> Iterator[Mutant]:
    """The results, each result, or the cotangents rounded to float32 and to float16."""
    for name, short, dtypes, error in _FORMATS:
        rounded = _rounded(short)
        blocks = parts.nonzero
        groups = [("every gradient", blocks, ())]
        groups += [(block, (block,), parts.where_filled(block) or ()) for block in blocks]
        for what, blocks, sizes in groups:
            yield Mutant(
                f"{what} through {name}", "precision", f"{what} is rounded to {name}",
                planted(_results(blocks, rounded)), parts.kind, blocks, "precision", ("range",),
                dtypes, sizes=sizes, error=error,
            )  # fmt: skip
        yield Mutant(
            f"cotangents through {name}", "precision", f"d_state and d_y are rounded to {name}",
            planted(_cotangents(rounded)), parts.kind, (), "precision", ("range",), dtypes,
            error=error,
        )  # fmt: skip


def _rounded(short: Any) -> Edit:
    def how(array: Array) -> Array:
        if not is_float(array):
            return array
        # A cotangent of 1e6 overflows float16: that is the bug, not worth a warning.
        with np.errstate(all="ignore"):
            return array.astype(short).astype(array.dtype)

    return how


def _results(blocks: tuple[str, ...], how: Edit) -> Change:
    def change(call: VjpCall) -> VjpResult:
        return change_blocks(call.right(), blocks, how)

    return change


def _cotangents(how: Edit) -> Change:
    def change(call: VjpCall) -> VjpResult:
        return call.pull(trees.map_leaves(how, call.d_state), how(call.d_y))

    return change


def activation(parts: SubjectInfo) -> Iterator[Mutant]:
    """For each option of a cell that names an activation, each other activation's derivative.

    The cell must be a dataclass: a copy with another activation does the backward step.
    """
    for option, own in _activations(parts.target):
        for other in ACTIVATIONS:
            change = _change(parts.target, option, other)
            if other == own or not _reaches(parts, change):
                continue
            yield Mutant(
                f"{option} {own} differentiated as {other}", "activation",
                f"step_vjp has the derivative of {other}, but {option}={own!r}",
                _plant(option, other), "cell", (), "wrong-derivative", regimes=ACTIVE_REGIMES,
            )  # fmt: skip


def _activations(target: Any) -> Iterator[tuple[str, str]]:
    if not is_cell(target) or not is_dataclass(target):
        return
    for option in fields(target):
        value = getattr(target, option.name, None)
        name = getattr(value, "name", value)
        if option.init and "activation" in option.name and name in tuple(ACTIVATIONS):
            yield option.name, name


def _change(target: Any, option: str, other: str) -> Change:
    stranger: Any = replace(target, **{option: other})

    def change(call: VjpCall) -> VjpResult:
        return cell_call(stranger, call.params, call.record, call.d_state, call.d_y).right()

    return change


def _plant(option: str, other: str) -> Callable[[Any], Any]:
    def plant(target: Any) -> Any:
        return MutatedCell(target, _change(target, option, other))

    return plant


def _reaches(parts: SubjectInfo, change: Change) -> bool:
    try:
        return bool(parts.reached(change))
    except Exception:  # a cache that only its own activation can use
        return False
