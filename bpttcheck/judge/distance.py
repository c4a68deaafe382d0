"""How far a gradient that is cut on purpose is from the full one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.problems.problem import Problem
from bpttcheck.subject.subject import Subject

_CASES = 9


def distance_from_full(run: Run) -> dict[str, float]:
    """Block -> median relative distance of the subject's gradient from that of its ``full`` layer.

    The distance of a block is ``|surrogate - full| / |full|``, 2-norms, on ordinary cases in
    float64; blocks whose full gradient is zero are left out.
    """
    full = run.subject.traits.full
    if full is None or not run.subject.surrogate:
        return {}
    whole = Run(Subject(full, sizes=run.subject.sizes), run.seed, run.dtypes)
    found: dict[str, list[float]] = {}
    for index in range(_CASES):
        case = replace(
            run.cases.case(index, free=True, steps=12), dtype="float64", regime="ordinary"
        )
        problem: Problem = run.cases.problem(case)
        mine, its = (r.code.run(SEQUENCE, problem).gradients for r in (run, whole))
        for block, value in its.items():
            size = float(np.linalg.norm(value))
            if size:
                gap = float(np.linalg.norm(mine[block] - value))
                found.setdefault(block, []).append(gap / size)
    return {block: float(np.median(values)) for block, values in found.items()}
