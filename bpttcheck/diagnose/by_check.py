"""Diagnoses that a check states by itself, without any gradient to fit."""

from __future__ import annotations

from dataclasses import replace

from bpttcheck.diagnose.axes import transposed_result
from bpttcheck.diagnose.conduct import impure
from bpttcheck.results.records import Diagnosis, Finding

_LAWS = {
    "linearity": ("nonlinear", "the gradient is not linear in the cotangent"),
    "masking": ("mask-ignored", "masked steps change what they should leave alone"),
}


def diagnosed(finding: Finding) -> Finding:
    """The finding with what its check says, unless something better is known."""
    if finding.diagnoses or finding.exception:
        return finding
    found: Diagnosis | None = None
    if finding.check == "purity":
        found = impure(finding)
    elif finding.check == "contract":
        found = transposed_result(finding)
    elif finding.check in _LAWS:
        code, sentence = _LAWS[finding.check]
        found = Diagnosis(code, sentence, {"law": finding.check})
    return finding if found is None else replace(finding, diagnoses=(found,))
