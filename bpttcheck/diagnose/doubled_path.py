"""A path of the chain rule is counted twice."""

from __future__ import annotations

from bpttcheck.diagnose import surgery
from bpttcheck.diagnose.base import Evidence, Page, diagnosis
from bpttcheck.diagnose.missing_path import without
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "doubled-path",
    "One way on which a quantity acts on the loss is counted twice.",
    "each way from a quantity to the loss is a term, once",
    "d_h = d_state + d_y + d_y    # added here, and again by the caller",
    "d_h = d_state + d_y",
    "The block equals the right gradient plus once more what flows on that path.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """A cotangent, or a path inside the step, counted twice."""
    parts = list(evidence.specimens[0].parts) if evidence.specimens else []
    for part in parts:
        for wide in (True, False):
            residual = evidence.explained(
                lambda s, part=part, wide=wide: without(s, part, evidence, wide, 1.0)
            )
            if residual is not None:
                where = "" if wide else f" in {evidence.block}"
                return diagnosis(
                    "doubled-path", f"the cotangent {part} counts twice{where}", residual,
                    path=part,
                )  # fmt: skip
    found = surgery.best(evidence, surgery.DOUBLED)
    if found is None:
        return None
    cut, residual = found
    return diagnosis(
        "doubled-path", f"the path through {cut.text} counts twice, at {cut.where}", residual,
        where=cut.where, operation=cut.text,
    )  # fmt: skip
