"""The gradient does not flow back over the whole sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from bpttcheck import trees
from bpttcheck.diagnose.base import Blocks, Evidence, Page, Specimen, diagnosis
from bpttcheck.results.records import Diagnosis

PAGE = Page(
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


def fit(evidence: Evidence) -> Diagnosis | None:
    """The carry cut after k steps from the end, or every k steps."""
    long = [s for s in evidence.specimens if s.problem.case.T > 1]
    if not evidence.sequence or not long:
        return None
    few, block = replace(evidence, specimens=long), evidence.block
    shortest = min(min(s.problem.case.T for s in long), _LONGEST)
    # All blocks together; then this one alone, for others may have bugs of their own.
    for alone in (False, True) if not block.startswith("d_state0") else (False,):
        for text, steps, predict in _ways(shortest):
            residual = few.explained(
                lambda s, predict=predict, alone=alone: _part(predict(s), block, alone)
            )
            if residual is not None:
                where = f" in {block}" if alone else ""
                return diagnosis("truncated", text + where, residual, steps=steps)
    return None


def _part(candidate: Blocks, block: str, alone: bool) -> Blocks:
    return {block: candidate[block]} if alone else candidate


def _ways(shortest: int) -> Iterator[tuple[str, int, Callable[[Specimen], Blocks]]]:
    """What is said, the number of steps, and the gradient that it gives."""
    for k in range(1, shortest):
        yield f"only the last {_steps(k)} count", k, partial(_last, k=k)
    for k, aligned in _windows(shortest):
        text = _LOST if k == 1 else f"the adjoint of the state is dropped every {_steps(k)}"
        yield text, k, partial(_cut, k=k, aligned=aligned)
    for aligned in ("start", "end"):
        yield f"{_LOST}, the last one too", 1, partial(_never, aligned=aligned)


def _steps(k: int) -> str:
    return "step" if k == 1 else f"{k} steps"


def _last(specimen: Specimen, k: int) -> dict[str, np.ndarray]:
    """Every block if the backward pass stops after ``k`` steps."""
    T, terms = specimen.problem.case.T, specimen.untied.d_params
    found = {f"d_params[{key!r}]": leaf[T - k :].sum(axis=0) for key, leaf in terms.items()}
    for name, right in specimen.right.items():
        if name == "d_xs":
            found[name] = np.where(np.arange(T)[:, None, None] < T - k, 0.0, right)
        elif name.startswith("d_state0") and name in specimen.wrong:
            # Zero, or what the loop held when it stopped.
            found[name] = _stopped(specimen, name, T - k)
    return found


def _stopped(specimen: Specimen, name: str, t: int) -> np.ndarray:
    hand = specimen.given(name)
    if not hand.any():
        return np.zeros_like(hand)
    paths = trees.structure(specimen.problem.state0).paths
    leaves = trees.leaves(specimen.untied.d_states)
    return np.asarray(dict(zip((f"d_state0{p}" for p in paths), leaves, strict=True))[name])[t]


def _windows(shortest: int) -> Iterator[tuple[int, str]]:
    for k in range(1, min(shortest, 65)):
        yield k, "start"
        yield k, "end"


def _cut(specimen: Specimen, k: int, aligned: str) -> dict[str, np.ndarray]:
    """Every block if the carry is dropped at each border of windows of ``k`` steps."""
    T = specimen.problem.case.T
    t = np.arange(T)
    border = (T - t) % k == 0 if aligned == "end" else t % k == 0
    keep = np.where(border, 0.0, 1.0)
    if k > 1 or aligned == "start":
        keep[0] = 1.0  # the initial state still gets the gradient of its own window
    return specimen.run.carried(specimen.problem, specimen.template, keep)


def _never(specimen: Specimen, aligned: str) -> dict[str, np.ndarray]:
    """Every block if each step knows its own output only, not even the final state."""
    p = specimen.problem
    alone = replace(p, d_state=trees.map_leaves(np.zeros_like, p.d_state))
    return _cut(replace(specimen, problem=alone), 1, aligned)
