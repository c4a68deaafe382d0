"""A quantity of the step stands in the backward pass where another of its shape belongs."""

from __future__ import annotations

from typing import Any

from bpttcheck.calibration import LIMIT
from bpttcheck.diagnose.base import Array, Evidence, Page, Specimen, diagnosis
from bpttcheck.diagnose.surgery import blocks_of
from bpttcheck.errors import BpttcheckError
from bpttcheck.oracles.step_graph.operands import Shift, Swap
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "wrong-operand",
    "A product of the backward pass is made with another quantity of the same shape.",
    "c_new = f * c + i * g:    d_f = d_c_new * c,  d_c = d_c_new * f\n"
    "z = x @ U.T + h @ W.T:    d_U = d_z.T @ x,    d_W = d_z.T @ h",
    "d_c = d_c_new * i            # another gate\n"
    "d_c = d_h_new * f            # the gradient of another quantity\n"
    "d_W = d_z.T @ h_new          # the new state for the old one",
    "d_c = d_c_new * f\nd_W = d_z.T @ h",
    "The block equals JAX's gradient with one contribution made from another value of the step, or "
    "from another gradient, of the same shape, in every problem.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """One quantity of a single contribution replaced by another of the same shape."""
    if evidence.sequence or not evidence.specimens:
        return None
    try:
        swaps, tables = _candidates(evidence)
    except BpttcheckError:
        return None
    for wide in (True, False):
        for swap in swaps:
            residual = _residual(evidence, tables, swap.key, wide)
            if residual is not None:
                # Others that fit too give the same gradient: the likeliest comes first.
                return _told(swap, residual)
    return None


def _told(swap: Swap, residual: float) -> Diagnosis:
    place = f", at {swap.where}" if swap.where else ""
    what = f"{swap.made} is made with {swap.used}" if swap.made else f"{swap.used} is used"
    return diagnosis(
        "wrong-operand", f"{what} where {swap.belongs} belongs{place}", residual,
        where=swap.where, used=swap.used, belongs=swap.belongs,
    )  # fmt: skip


_Table = dict[Any, dict[str, Array]]


def _candidates(evidence: Evidence) -> tuple[list[Swap], list[_Table]]:
    """The swaps that explain the block at hand in every specimen, and what they predict."""
    tables: list[_Table] = []
    swaps: list[Swap] = []
    for specimen in evidence.specimens:
        shifts = _shifts(specimen)
        if tables:
            shifts = [shift for shift in shifts if shift.swap.key in tables[-1]]
        found = _fitting(evidence.block, specimen, shifts)
        tables.append(found)
        swaps = [shift.swap for shift in shifts if shift.swap.key in found]
    return swaps, tables


def _shifts(specimen: Specimen) -> list[Shift]:
    p = specimen.problem
    paths = specimen.run.paths(p)
    point = (p.params, p.state0, p.xs[0])
    return specimen.run.remember("operands", p, lambda: paths.swaps(point, (p.d_state, p.d_ys[0])))


def _fitting(block: str, specimen: Specimen, shifts: list[Shift]) -> _Table:
    p = specimen.problem
    point = (p.params, p.state0, p.xs[0])
    given = (p.d_state, p.d_ys[0])
    found: _Table = {}
    moved = specimen.run.paths(p).swapped(point, given, shifts)
    for shift, added in zip(shifts, moved, strict=True):
        more = blocks_of(specimen, added)
        if not more[block].any():
            continue
        if specimen.residual({block: specimen.right[block] + more[block]}) <= LIMIT:
            found[shift.swap.key] = {n: right + more[n] for n, right in specimen.right.items()}
    return found


def _residual(evidence: Evidence, tables: list[_Table], key: Any, wide: bool) -> float | None:
    by_specimen = {id(s): t[key] for s, t in zip(evidence.specimens, tables, strict=True)}

    def predict(specimen: Specimen) -> dict[str, Array]:
        found = by_specimen[id(specimen)]
        return found if wide else {evidence.block: found[evidence.block]}

    return evidence.explained(predict)
