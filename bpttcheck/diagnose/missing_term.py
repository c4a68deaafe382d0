"""The contribution of one time step is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bpttcheck import trees
from bpttcheck.diagnose.base import Evidence, Page, Specimen, diagnosis
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "missing-term",
    "The sum over time lacks the term of one step.",
    "d_W = sum over t = 0 .. T-1 of d_W[t]",
    "for t in range(T - 1, 0, -1): ...     # stops before t = 0\n"
    "for t in range(T - 1): ...            # never reaches t = T - 1",
    "for t in reversed(range(T)): ...",
    "The block equals the right sum without the contribution of that step, from JAX with the "
    "parameters untied in time; or every block equals that of a backward pass that never comes to "
    "the last step.",
)

FROM_START, FROM_END = "start", "end"


def fit(evidence: Evidence) -> Diagnosis | None:
    """One step's term is missing, or the loop never comes to the last step."""
    found = one_step(evidence, "missing-term", -1.0, "is missing from {block}")
    if found is not None or not evidence.sequence:
        return found
    residual = evidence.explained(_without_the_last_step)
    if residual is None:
        return None
    return diagnosis(
        "missing-term", "the backward pass leaves out the last step, t = T-1", residual,
        time_step=-1,
    )  # fmt: skip


def _without_the_last_step(specimen: Specimen) -> dict[str, np.ndarray]:
    """Every block if the adjoint of the final state is handed to the step before the last."""
    real = specimen.problem.real.copy()
    real[-1:] = False  # a masked step hands on what it gets
    return specimen.right_for(replace(specimen.problem, mask=real))


def one_step(evidence: Evidence, code: str, times: float, said: str) -> Diagnosis | None:
    """The right blocks plus ``times`` the contribution of one and the same step.

    The step is the same counted from the start, or from the end, in every problem.
    """
    if not evidence.sequence or not evidence.specimens:
        return None
    shortest = min(s.problem.case.T for s in evidence.specimens)
    if shortest < 2:
        return None
    block = evidence.block
    for alone in (False, True):  # in all that is wrong, or in this block only
        for index in [i for t in range(shortest) for i in (t, -1 - t)]:
            residual = evidence.explained(
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
    specimen: Specimen, index: int, times: float, blocks: Sequence[str]
) -> dict[str, np.ndarray]:
    """The given blocks with one step's share changed, ``d_xs`` at that step."""
    terms = specimen.untied.d_params
    named = {f"d_params[{key!r}]": leaf for key, leaf in terms.items()}
    t = index if index >= 0 else specimen.problem.case.T + index
    found: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(blocks):
        right = specimen.right[name]
        if name in named:
            found[name] = right + times * named[name][t]
        elif name == "d_xs":
            found[name] = right.copy()
            found[name][t] *= 1 + times
        else:
            found[name] = _state_after(specimen, name, t, right)
    return found


def _state_after(specimen: Specimen, name: str, t: int, right: np.ndarray) -> np.ndarray:
    """``d_state0`` if the loop stops before it has gone through step ``t = 0``."""
    if t != 0:
        return right
    paths = trees.structure(specimen.problem.state0).paths
    leaves = trees.leaves(specimen.untied.d_states)
    return np.asarray(dict(zip((f"d_state0{p}" for p in paths), leaves, strict=True))[name])[1]
