"""The gradient does not flow back over the whole sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bpttcheck import trees
from bpttcheck.verify.diagnose.base import Evidence, Page, Specimen, diagnosis
from bpttcheck.verify.results import Diagnosis

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
    few = replace(evidence, specimens=long)
    shortest = min(min(s.problem.case.T for s in long), _LONGEST)
    for k in range(1, shortest):
        residual = few.explained(lambda s, k=k: _last(s, k))
        if residual is not None:
            return diagnosis("truncated", f"only the last {_steps(k)} count", residual, steps=k)
    for k, aligned in _windows(shortest):
        residual = few.explained(lambda s, k=k, aligned=aligned: _cut(s, k, aligned))
        if residual is not None:
            text = _LOST if k == 1 else f"the adjoint of the state is dropped every {_steps(k)}"
            return diagnosis("truncated", text, residual, steps=k)
    for aligned in ("start", "end"):
        residual = few.explained(lambda s, aligned=aligned: _never(s, aligned))
        if residual is not None:
            return diagnosis("truncated", f"{_LOST}, the last one too", residual, steps=1)
    return None


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
