"""A path of the chain rule is missing."""

from __future__ import annotations

import numpy as np

from bpttcheck.diagnose import surgery
from bpttcheck.diagnose.base import Evidence, Page, Specimen, diagnosis
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "missing-path",
    "One way on which a quantity acts on the loss is left out.",
    "d_h = (every way from h to the loss): through the new state *and* through the output,\n"
    "through each gate that reads h, and through each state leaf that h changes",
    "d_h = d_state                # the cotangent of the output, d_y, is ignored\n"
    "return d_params, np.zeros_like(h), d_x",
    "d_h = d_state + d_y\nreturn d_params, d_z @ W, d_x",
    "The block equals the right gradient with that path cut, to rounding, in every problem.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """The whole block zero; a cotangent ignored; a path inside the step cut."""
    block = evidence.block
    residual = evidence.alone(lambda right, _: np.zeros_like(right))
    if residual is not None:
        return diagnosis("missing-path", f"{block} is zero: nothing flows back on it", residual)
    for part in _parts(evidence):
        for wide in (True, False):
            residual = evidence.explained(
                lambda s, part=part, wide=wide: without(s, part, evidence, wide)
            )
            if residual is not None:
                where = "" if wide else f" in {block}"
                return diagnosis(
                    "missing-path", f"the cotangent {part} is ignored{where}", residual, path=part
                )
    found = surgery.best(evidence, surgery.CUT)
    if found is None:
        return None
    cut, residual = found
    return diagnosis(
        "missing-path", f"the path through {cut.text} is missing, at {cut.where}", residual,
        where=cut.where, operation=cut.text,
    )  # fmt: skip


def _parts(evidence: Evidence) -> list[str]:
    return list(evidence.specimens[0].parts) if evidence.specimens else []


def without(
    specimen: Specimen, part: str, evidence: Evidence, wide: bool, times: float = -1.0
) -> dict[str, np.ndarray] | None:
    """The right blocks plus ``times`` what one cotangent contributes."""
    share = specimen.parts.get(part)
    if share is None or not any(np.any(value) for value in share.values()):
        return None
    names = specimen.right if wide else [evidence.block]
    return {name: specimen.right[name] + times * share[name] for name in names}
