"""Wrong steps of time: paths and terms that are missing, masks, the initial state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bpttcheck.blocks import D_X, d_state0
from bpttcheck.mutants._stepwise import BackwardStep, reached_by_step, rows_only, summed
from bpttcheck.mutants.base import (
    ACTIVE_REGIMES,
    Change,
    Edit,
    Loop,
    Mutant,
    SubjectInfo,
    VjpCall,
    VjpResult,
    change_block,
    change_blocks,
    change_leaf,
    in_layer,
    planted,
    stepped,
    times,
    zero_state,
    zeros,
)

_HOW_PATH: tuple[tuple[str, Edit, str], ...] = (
    ("ignored", zeros, "missing-path"),
    ("doubled", times(2.0), "doubled-path"),
)


def path(parts: SubjectInfo) -> Iterator[Mutant]:
    """Each output zero; each cotangent ignored and doubled.

    An unused cotangent and an output that is always zero give no mutant.
    """
    for block in parts.blocks:
        sizes = parts.where_filled(block)
        if sizes is not None:
            yield Mutant(
                f"{block} missing", "path", f"{block} is zero", planted(_output(block)),
                parts.kind, (block,), "missing-path", sizes=sizes,
            )  # fmt: skip
    cotangents: dict[str, tuple[str, ...]] = {"d_y": (), "d_state": parts.state_paths}
    cotangents |= {f"d_state{path}": (path,) for path in parts.state_paths}
    for cotangent, paths in cotangents.items():
        for verb, how, code in _HOW_PATH:
            change = _input(cotangent, paths, how)
            blocks = parts.reached(change)
            if blocks:
                yield Mutant(
                    f"{cotangent} {verb}", "path", f"{cotangent} is {verb}", planted(change),
                    parts.kind, blocks, code,
                )  # fmt: skip


def _output(block: str) -> Change:
    def change(call: VjpCall) -> VjpResult:
        return change_block(call.right(), block, zeros)

    return change


def _input(cotangent: str, paths: tuple[str, ...], how: Edit) -> Change:
    def change(call: VjpCall) -> VjpResult:
        if cotangent == "d_y":
            return call.pull(call.d_state, how(call.d_y))
        d_state = call.d_state
        for path in paths:
            d_state = change_leaf(d_state, path, how)
        return call.pull(d_state, call.d_y)

    return change


STEPS = (1, 2, 4, 10, 16, 35, 70, 200)
WINDOWS = (4, 16)
LONGEST_ORDINARY = 12
"""The largest number of steps of an ordinary problem."""


def truncated(parts: SubjectInfo) -> Iterator[Mutant]:
    """Only the last ``k`` steps; no gradient across the borders of windows; no carry at all.

    A target that sends nothing back in time has no carry to lose.
    """
    for k in STEPS:
        steps = "step" if k == 1 else f"{k} steps"
        yield _mutant(
            f"only the last {steps}", f"the backward loop stops after {steps}", _last(k), k
        )
    if not parts.recurrent:
        return
    for k in WINDOWS:
        sentence = f"d_state is set to zero wherever t is a multiple of {k}"
        yield _mutant(f"windows of {k} steps", sentence, _windows(k), k)
    yield _mutant("carry lost", "d_state is not carried from step to step", _windows(1), 1)


def _mutant(name: str, sentence: str, backward_step: BackwardStep, k: int) -> Mutant:
    regimes = ACTIVE_REGIMES if k < LONGEST_ORDINARY else ("long",)
    return Mutant(
        name, "truncated", sentence, stepped(backward_step), "layer", (), "truncated",
        regimes=regimes, least_T=k + 1,
    )  # fmt: skip


def _last(k: int) -> BackwardStep:
    def backward_step(loop: Loop, t: int, d_state: Any) -> VjpResult:
        return loop.pull(t, d_state) if t >= loop.T - k else loop.nothing(d_state)

    return backward_step


def _windows(k: int) -> BackwardStep:
    def backward_step(loop: Loop, t: int, d_state: Any) -> VjpResult:
        found = loop.pull(t, d_state)
        # The result of step 0 is the gradient of the initial state, not a carry.
        border = t > 0 and t % k == 0
        return replace(found, d_state=zero_state(found.d_state)) if border else found

    return backward_step


_WHICH = ((0, "t = 0"), (-1, "t = T-1"))
_HOW_TERMS = ((0.0, "missing", "missing-term"), (2.0, "doubled", "doubled-term"))


def terms(parts: SubjectInfo) -> Iterator[Mutant]:
    """The first and the last term, of the parameters and of the input; a mean over time."""
    for blocks, name in ((parts.param_blocks, "d_params"), ((D_X,), "d_x")):
        for t, when in _WHICH:
            for factor, verb, code in _HOW_TERMS:
                backward_step = _term(t, blocks, factor)
                if reached_by_step(parts, backward_step):
                    yield Mutant(
                        f"{when} {verb} in {name}", "terms",
                        f"the term {when} of {name} is {verb}", stepped(backward_step),
                        "layer", blocks, code, regimes=ACTIVE_REGIMES, least_T=2, time_step=t,
                    )  # fmt: skip
    if parts.params:
        mean = in_layer(_mean(parts.param_blocks))
        yield Mutant(
            "mean over time", "terms", "d_params is divided by T", mean, "layer",
            parts.param_blocks, "time-reduction", least_T=2,
        )  # fmt: skip


def _term(which: int, blocks: tuple[str, ...], factor: float) -> BackwardStep:
    def backward_step(loop: Loop, t: int, d_state: Any) -> VjpResult:
        found = loop.pull(t, d_state)
        wrong = t == which % loop.T
        return change_blocks(found, blocks, times(factor)) if wrong else found

    return backward_step


def _mean(blocks: tuple[str, ...]):
    def change(call: VjpCall) -> VjpResult:
        T = len(call.d_y)
        # T = 0: nothing to divide.
        return change_blocks(call.right(), blocks, times(1.0 / max(T, 1)))

    return change


def records(parts: SubjectInfo) -> Iterator[Mutant]:
    """An index off by one in the records and in ``d_ys``; one step's record used for all."""
    backward_steps: dict[str, BackwardStep] = {
        "step t reads the record of t - 1": _record_before,
        "step t reads the record of t + 1": _record_after,
        "every step reads the record of t = 0": _record_first,
        "step t reads d_ys[t + 1]": _d_y_after,
        "every step reads d_ys[T - 1]": _d_y_last,
    }
    for name, backward_step in backward_steps.items():
        if reached_by_step(parts, backward_step):
            yield Mutant(
                name, "records", name, stepped(backward_step), "layer",
                regimes=ACTIVE_REGIMES, least_T=2,
            )  # fmt: skip


def _record_before(loop: Loop, t: int, d_state: Any) -> VjpResult:
    return loop.pull(t, d_state, of=max(t - 1, 0))


def _record_after(loop: Loop, t: int, d_state: Any) -> VjpResult:
    return loop.pull(t, d_state, of=min(t + 1, loop.T - 1))


def _record_first(loop: Loop, t: int, d_state: Any) -> VjpResult:
    return loop.pull(t, d_state, of=0)


def _d_y_after(loop: Loop, t: int, d_state: Any) -> VjpResult:
    # The last step keeps its own: a single step is right.
    return loop.pull(t, d_state, d_y=loop.d_ys[min(t + 1, loop.T - 1)])


def _d_y_last(loop: Loop, t: int, d_state: Any) -> VjpResult:
    return loop.pull(t, d_state, d_y=loop.d_ys[-1])


def masks(parts: SubjectInfo) -> Iterator[Mutant]:
    """Masked steps treated as real, wholly or in part; none without masks."""
    if not parts.masks:
        return
    for name, sentence, backward_step in (
        ("mask ignored", "masked steps are differentiated as if they were real", _ignored),
        ("d_ys of masked steps used", "the cotangent of a masked output counts", _d_ys_used),
        ("masked steps not stopped",
         "masked steps send the carried cotangent into parameters and inputs", _not_stopped),
        ("masked steps lose the carry", "a masked step sets d_state to zero", _carry_lost),
    ):  # fmt: skip
        if reached_by_step(parts, backward_step, masked=True):
            yield Mutant(
                name, "masks", sentence, stepped(backward_step), "layer", (), "mask-ignored",
                regimes=ACTIVE_REGIMES, needs_mask=True,
            )  # fmt: skip


def _ignored(loop: Loop, t: int, d_state: Any) -> VjpResult:
    return loop.pull(t, d_state, masked=loop.padded(t) is None)


def _d_ys_used(loop: Loop, t: int, d_state: Any) -> VjpResult:
    right, padded = loop.pull(t, d_state), loop.padded(t)
    if padded is None:
        return right
    d_y = rows_only(loop.d_ys[t], padded)
    return summed(right, loop.pull(t, zero_state(d_state), d_y=d_y, masked=False))


def _not_stopped(loop: Loop, t: int, d_state: Any) -> VjpResult:
    right, padded = loop.pull(t, d_state), loop.padded(t)
    if padded is None:
        return right
    carried = rows_only(d_state, padded)
    more = loop.pull(t, carried, d_y=zeros(loop.d_ys[t]), masked=False)
    return replace(summed(right, more), d_state=right.d_state)


def _carry_lost(loop: Loop, t: int, d_state: Any) -> VjpResult:
    right, padded = loop.pull(t, d_state), loop.padded(t)
    if padded is None:
        return right
    return replace(right, d_state=rows_only(right.d_state, ~padded))


_HOW_INITIAL_STATE = (
    (zeros, "missing", "is zero", "missing-path"),
    (times(2.0), "times 2", "is 2 times the right one", "scale"),
)


def initial_state(parts: SubjectInfo) -> Iterator[Mutant]:
    """The whole gradient of the initial state, and each leaf of it, zero or doubled."""
    leaves = parts.state_blocks
    groups = {d_state0(): leaves}
    if len(leaves) > 1:
        groups |= {block.in_sequence: (block,) for block in leaves}
    for name, blocks in groups.items():
        for how, verb, what, plain in _HOW_INITIAL_STATE:
            change = _wrong(blocks, how)
            if parts.reached(change):
                yield Mutant(
                    f"{name} {verb}", "initial_state", f"{name} {what}", in_layer(change),
                    "layer", blocks, "initial-state", (plain,), regimes=ACTIVE_REGIMES,
                )  # fmt: skip


def _wrong(blocks: tuple[str, ...], how: Edit) -> Change:
    def change(call: VjpCall) -> VjpResult:
        return change_blocks(call.right(), blocks, how)

    return change
