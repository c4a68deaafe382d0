"""One output, or one path, has the wrong sign."""

from __future__ import annotations

from bpttcheck.diagnose import surgery
from bpttcheck.diagnose.base import Evidence, Page, diagnosis
from bpttcheck.diagnose.missing_path import without
from bpttcheck.results.records import Diagnosis

PAGE = Page(
    "sign",
    "One output of the backward pass, or one term of it, has the wrong sign.",
    "d_z = d_h * f'(z)            for h = f(z)\n"
    "d_f -= d_h * n               for h = ... - f * n: minus, since d h / d f = -n",
    "d_z = d_h * (z - h)          # the two terms of a difference exchanged\n"
    "d_f = d_h * n                # the minus of (1 - f) forgotten",
    "d_f = -d_h * n",
    "The hand-derived block is the right one times -1, or the right one with one term times -1.",
)


def fit(evidence: Evidence) -> Diagnosis | None:
    """The block is minus the right one; or one cotangent, or one path, enters with a minus."""
    block = evidence.block
    residual = evidence.alone(lambda right, _: -right)
    if residual is not None:
        return diagnosis("sign", f"{block} is right but for its sign", residual, factor=-1.0)
    for part in evidence.specimens[0].parts if evidence.specimens else ():
        for wide in (True, False):
            residual = evidence.explained(
                lambda s, part=part, wide=wide: without(s, part, evidence, wide, -2.0)
            )
            if residual is not None:
                where = "" if wide else f" in {block}"
                return diagnosis(
                    "sign", f"the cotangent {part} enters with the wrong sign{where}", residual,
                    path=part,
                )  # fmt: skip
    found = surgery.best(evidence, surgery.NEGATED)
    if found is None:
        return None
    cut, residual = found
    return diagnosis(
        "sign", f"the path through {cut.text} has the wrong sign, at {cut.where}", residual,
        where=cut.where, operation=cut.text,
    )  # fmt: skip
