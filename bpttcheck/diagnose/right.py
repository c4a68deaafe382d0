"""The right gradient of a problem: from the first oracle that gives one, else by differences."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.errors import Declined
from bpttcheck.judge.oracle import Reference
from bpttcheck.judge.run import Run
from bpttcheck.oracles.autodiff.autodiff import Spread
from bpttcheck.problems.problem import Problem, Template

Array = NDArray[Any]

# Entries that are differentiated one by one; more would take too long.
_MOST_ENTRIES = 400


def right_gradient(run: Run, mode: str, problem: Problem, template: Template | None) -> Reference:
    """The gradient of every block, with copies that show how precise it is.

    Args:
        run: the subject and its oracles.
        mode: ``STEP`` or ``SEQUENCE``.
        problem: the problem.
        template: the compiled shape that it fits.

    Raises:
        Declined: if no oracle gives it, and there are too many entries for differences.
        ContractError: if the subject's code fails.
    """
    for oracle in run.oracles.values():
        try:
            return oracle.gradient(mode, problem, template)
        except Declined:
            continue
    return _by_differences(run, mode, problem)


def _by_differences(run: Run, mode: str, problem: Problem) -> Reference:
    """Entry by entry, each with its error bar."""
    hand = run.code.run(mode, problem)
    if sum(np.size(g) for g in hand.gradients.values()) > _MOST_ENTRIES:
        raise Declined("too many entries to differentiate one by one")
    found: dict[str, Spread] = {}
    for block, given in hand.gradients.items():
        value, error = np.zeros(np.shape(given)), np.zeros(np.shape(given))
        for index in np.ndindex(*value.shape):
            along = np.zeros(value.shape)
            along[index] = 1.0
            estimate = run.oracles["differences"].directional(problem, {block: along})
            value[index], error[index] = float(estimate.value), float(estimate.error)
        if not np.isfinite(error).all():
            raise Declined("the differences abstain")
        found[block] = Spread(value, np.stack([value + error, value - error]))
    return Reference({}, found)
