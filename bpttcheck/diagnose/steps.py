"""Steps of time: a pass cut short, a term missing or counted twice, masks, the first state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import D_XS, Block, d_state0, of_params, of_state
from bpttcheck.diagnose.base import Blocks, Evidence, FailingExample, Page, Rule, diagnosis
from bpttcheck.results.records import Diagnosis

_TRUNCATED_PAGE = Page(
    "truncated",
    "The adjoint of the state is dropped after some steps: truncation, or a lost carry.",
    "d_state[t] = (d new_state / d state).T @ d_state[t+1], for every t down to 0",
    "for t in reversed(range(max(0, T - 10), T)): ...     # only the last ten steps\n"
    "d_state = np.zeros_like(h)                           # inside the loop: the carry is lost",
    "d_state = d_state_T                                  # before the loop\n"
    "for t in reversed(range(T)): d_p, d_state, d_x = step_vjp(params, cache[t], d_state, d_ys[t])",
    "Every block equals JAX's gradient with the carry cut there. If truncation is meant, the "
    "gradient is of another loss: declare it.",
)

_LONGEST = 400
_LOST = "the adjoint of the state is lost at every step"


def _fit_truncated(evidence: Evidence) -> Diagnosis | None:
    """The carry cut after k steps from the end, or every k steps."""
    long = [s for s in evidence.examples if s.problem.case.T > 1]
    if not evidence.sequence or not long:
        return None
    few, block = replace(evidence, examples=long), evidence.block
    shortest = min(min(s.problem.case.T for s in long), _LONGEST)
    # All blocks together; then this one alone, because others may have bugs of their own.
    for alone in (False, True) if Block(block).kind != "state" else (False,):
        for text, steps, predict in _ways(shortest):
            residual = few.fits_all(
                lambda s, predict=predict, alone=alone: _part(predict(s), block, alone)
            )
            if residual is not None:
                where = f" in {block}" if alone else ""
                return diagnosis("truncated", text + where, residual, steps=steps)
    return None


def _part(candidate: Blocks, block: str, alone: bool) -> Blocks:
    return {block: candidate[block]} if alone else candidate


def _ways(shortest: int) -> Iterator[tuple[str, int, Callable[[FailingExample], Blocks]]]:
    """The message, the number of steps, and the gradient of each truncation."""
    for k in range(1, shortest):
        yield f"only the last {_steps(k)} count", k, partial(_last, k=k)
    for k, aligned in _windows(shortest):
        text = _LOST if k == 1 else f"the adjoint of the state is dropped every {_steps(k)}"
        yield text, k, partial(_cut, k=k, aligned=aligned)
    for aligned in ("start", "end"):
        yield f"{_LOST}, the last one too", 1, partial(_never, aligned=aligned)


def _steps(k: int) -> str:
    return "step" if k == 1 else f"{k} steps"


def _last(example: FailingExample, k: int) -> dict[str, np.ndarray]:
    """Every block if the backward pass stops after ``k`` steps."""
    T, terms = example.problem.case.T, example.untied.d_params
    found = {block: leaf[T - k :].sum(axis=0) for block, leaf in of_params(terms).items()}
    for name, right in example.right.items():
        if name == D_XS:
            found[name] = np.where(np.arange(T)[:, None, None] < T - k, 0.0, right)
        elif Block(name).kind == "state" and name in example.wrong:
            # Zero, or what the loop held when it stopped.
            found[name] = _stopped(example, name, T - k)
    return found


def _stopped(example: FailingExample, name: str, t: int) -> np.ndarray:
    hand = example.given(name)
    if not hand.any():
        return np.zeros_like(hand)
    return _adjoint(example, name, t)


def _windows(shortest: int) -> Iterator[tuple[int, str]]:
    for k in range(1, min(shortest, 65)):
        yield k, "start"
        yield k, "end"


def _cut(example: FailingExample, k: int, aligned: str) -> dict[str, np.ndarray]:
    """Every block if the carry is dropped at each border of windows of ``k`` steps."""
    T = example.problem.case.T
    t = np.arange(T)
    border = (T - t) % k == 0 if aligned == "end" else t % k == 0
    keep = np.where(border, 0.0, 1.0)
    if k > 1 or aligned == "start":
        keep[0] = 1.0  # the initial state still gets the gradient of its own window
    return example.run.jax.carried(example.problem, example.template, keep)


def _never(example: FailingExample, aligned: str) -> dict[str, np.ndarray]:
    """Every block if each step knows its own output only, not even the final state."""
    p = example.problem
    alone = replace(p, d_state=trees.map_leaves(np.zeros_like, p.d_state))
    return _cut(replace(example, problem=alone), 1, aligned)


TRUNCATED = Rule(_TRUNCATED_PAGE, _fit_truncated)
"""The gradient does not flow back over the whole sequence."""


_MISSING_TERM_PAGE = Page(
    "missing-term",
    "The sum over time lacks the term of one step.",
    "d_W = sum over t = 0 .. T-1 of d_W[t]",
    "for t in range(T - 1, 0, -1): ...     # stops before t = 0\n"
    "for t in range(T - 1): ...            # never reaches t = T - 1",
    "for t in reversed(range(T)): ...",
    "The block equals the right sum without the contribution of that step, from JAX with the "
    "parameters untied in time; or every block equals that of a backward pass that never reaches "
    "the last step.",
)

FROM_START, FROM_END = "start", "end"


def _fit_missing_term(evidence: Evidence) -> Diagnosis | None:
    """One step's term is missing, or the loop never reaches the last step."""
    found = one_step(evidence, "missing-term", -1.0, "is missing from {block}")
    if found is not None or not evidence.sequence:
        return found
    residual = evidence.fits_all(_without_the_last_step)
    if residual is None:
        return None
    return diagnosis(
        "missing-term", "the backward pass leaves out the last step, t = T-1", residual,
        time_step=-1,
    )  # fmt: skip


def _without_the_last_step(example: FailingExample) -> dict[str, np.ndarray]:
    """Every block if the adjoint of the final state is passed to the step before the last."""
    real = example.problem.real.copy()
    real[-1:] = False  # a masked step passes its cotangent through
    return example.right_for(replace(example.problem, mask=real))


def one_step(evidence: Evidence, code: str, times: float, said: str) -> Diagnosis | None:
    """The right blocks plus ``times`` the contribution of one and the same step.

    The step is the same counted from the start, or from the end, in every problem.
    """
    if not evidence.sequence or not evidence.examples:
        return None
    shortest = min(s.problem.case.T for s in evidence.examples)
    if shortest < 2:
        return None
    block = evidence.block
    for alone in (False, True):  # in all that is wrong, or in this block only
        for index in [i for t in range(shortest) for i in (t, -1 - t)]:
            residual = evidence.fits_all(
                lambda s, i=index, alone=alone: _changed(
                    s, i, times, [block] if alone else [*s.wrong, block]
                )
            )
            if residual is not None:
                place = f"t = {index}" if index >= 0 else f"t = T{index}"
                return diagnosis(
                    code, f"the term of step {place} {said.format(block=block)}", residual,
                    time_step=index,
                )  # fmt: skip
    return None


def _changed(
    example: FailingExample, index: int, times: float, blocks: Sequence[str]
) -> dict[str, np.ndarray]:
    """The given blocks with one step's share changed, ``d_xs`` at that step."""
    terms = example.untied.d_params
    named = of_params(terms)
    t = index if index >= 0 else example.problem.case.T + index
    found: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(blocks):
        right = example.right[name]
        if name in named:
            found[name] = right + times * named[name][t]
        elif name == D_XS:
            found[name] = right.copy()
            found[name][t] *= 1 + times
        else:
            found[name] = _state_after(example, name, t, right)
    return found


def _state_after(example: FailingExample, name: str, t: int, right: np.ndarray) -> np.ndarray:
    """``d_state0`` if the loop stops before it has gone through step ``t = 0``."""
    if t != 0:
        return right
    return _adjoint(example, name, 1)


def _adjoint(example: FailingExample, name: str, t: int) -> np.ndarray:
    """The right gradient of one leaf of the state before step ``t``."""
    leaves = trees.leaves(example.untied.d_states)
    blocks = of_state(d_state0(), example.problem.state0)
    return np.asarray(dict(zip(blocks, leaves, strict=True))[Block(name)])[t]


MISSING_TERM = Rule(_MISSING_TERM_PAGE, _fit_missing_term)
"""The contribution of one time step is missing."""


_DOUBLED_TERM_PAGE = Page(
    "doubled-term",
    "The sum over time has the term of one step twice.",
    "d_W = sum over t = 0 .. T-1 of d_W[t]",
    "d_W = d_W_last               # initialised with the last term\n"
    "for t in reversed(range(T)): d_W += d_W[t]   # and the last term again",
    "d_W = 0\nfor t in reversed(range(T)): d_W += d_W[t]",
    "The block equals the right sum plus once more the contribution of that step.",
)


def _fit_doubled_term(evidence: Evidence) -> Diagnosis | None:
    """One step's term counts twice."""
    return one_step(evidence, "doubled-term", 1.0, "counts twice in {block}")


DOUBLED_TERM = Rule(_DOUBLED_TERM_PAGE, _fit_doubled_term)
"""The contribution of one time step counts twice."""


_TIME_REDUCTION_PAGE = Page(
    "time-reduction",
    "A gradient is divided by the number of steps.",
    "d_W = sum over t of d_W[t]",
    "d_W /= T                     # the mean belongs to the loss, which put it into d_ys",
    "d_W = sum(d_W[t] for t in range(T))",
    "The block is the right one divided by T, for every T.",
)


def _fit_time_reduction(evidence: Evidence) -> Diagnosis | None:
    """The right block divided by T."""
    examples = [s for s in evidence.examples if s.problem.case.T > 1]
    if not evidence.sequence or not examples:
        return None
    few = replace(evidence, examples=examples)
    residual = few.fits_block(lambda right, s: right / s.problem.case.T)
    if residual is None:
        return None
    return diagnosis(
        "time-reduction", f"{evidence.block} is a mean over the steps, but should be the sum",
        residual, factor="1/T",
    )  # fmt: skip


TIME_REDUCTION = Rule(_TIME_REDUCTION_PAGE, _fit_time_reduction)
"""The sum over time is a mean."""


_CHANCE = 0.05
"""The largest probability that random cases share by chance what all wrong ones share."""

_MASK_IGNORED_PAGE = Page(
    "mask-ignored",
    "The backward pass ignores the mask, or treats it differently from the forward pass.",
    "mask[t] false:  d_state[t] = d_state[t+1],  d_xs[t] = 0,  no term in d_params",
    "d_p, d_state, d_x = step_vjp(params, cache[t], d_state, d_ys[t])      # padded rows too",
    "real = mask[t][:, None]\n"
    "d_p, d_new, d_x = step_vjp(params, cache[t], d_state * real, d_ys[t] * real)\n"
    "d_state = np.where(real, d_new, d_state)",
    "Every case in which the block is wrong has masked steps; cases without them are right.",
)


def _fit_mask_ignored(evidence: Evidence) -> Diagnosis | None:
    """All wrong cases have a mask."""
    wrong = evidence.wrong_cases()
    plain = sum(case.mask == "none" for case in evidence.right_cases())
    if not evidence.sequence or not wrong or plain < 3:
        return None
    if any(case.mask == "none" for case in wrong):
        return None
    masked = len(wrong) + sum(case.mask != "none" for case in evidence.right_cases())
    share = masked / (masked + plain)
    if share ** len(wrong) > _CHANCE or any(s.problem.mask is None for s in evidence.examples):
        return None
    return diagnosis(
        "mask-ignored", f"{evidence.block} is wrong only where steps are masked", 0.0,
        wrong=len(wrong), right=plain,
    )  # fmt: skip


MASK_IGNORED = Rule(_MASK_IGNORED_PAGE, _fit_mask_ignored)
"""Wrong only where there is a mask."""


_INITIAL_STATE_PAGE = Page(
    "initial-state",
    "The gradient of the initial state is missing or wrong, and everything else is right.",
    "d_state0 = d_state after the backward loop has gone through step t = 0",
    "return d_params, d_xs, np.zeros_like(h0)     # the initial state is no constant",
    "return d_params, d_xs, d_state               # what the loop leaves",
    "d_state0 is the only wrong block, in every problem.",
)


def _fit_initial_state(evidence: Evidence) -> Diagnosis | None:
    """No other block is wrong, of a whole sequence."""
    if not evidence.sequence or Block(evidence.block).kind != "state":
        return None
    if evidence.run.subject.kind == "cell":
        return None  # one step shows it as d_previous_state
    others = {b for one in evidence.seen for b in one.wrong if Block(b).kind != "state"}
    if others or not evidence.examples:
        return None
    zero = all(not s.given(evidence.block).any() for s in evidence.examples)
    what = "is zero: the initial state gets no gradient" if zero else "is wrong"
    return diagnosis("initial-state", f"{evidence.block} {what}, all else is right", 0.0)


INITIAL_STATE = Rule(_INITIAL_STATE_PAGE, _fit_initial_state)
"""Only the gradient of the initial state is wrong."""
