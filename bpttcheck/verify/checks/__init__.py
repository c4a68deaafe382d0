"""The checks, in the order in which they run; one file each."""

from __future__ import annotations

from bpttcheck.verify.checks.base import Check, Context, NotApplicable
from bpttcheck.verify.checks.batch_additivity import batch_additivity
from bpttcheck.verify.checks.causality import causality
from bpttcheck.verify.checks.contract import contract
from bpttcheck.verify.checks.initial_state import initial_state
from bpttcheck.verify.checks.linearity import linearity
from bpttcheck.verify.checks.masking import masking
from bpttcheck.verify.checks.purity import purity
from bpttcheck.verify.checks.sequence_vjp import sequence_vjp
from bpttcheck.verify.checks.step_vjp import step_vjp
from bpttcheck.verify.checks.time_splitting import time_splitting
from bpttcheck.verify.checks.zero_length import zero_length

CHECKS: dict[str, Check] = {
    "contract": contract,
    "purity": purity,
    "step_vjp": step_vjp,
    "sequence_vjp": sequence_vjp,
    "initial_state": initial_state,
    "linearity": linearity,
    "batch_additivity": batch_additivity,
    "time_splitting": time_splitting,
    "causality": causality,
    "masking": masking,
    "zero_length": zero_length,
}

__all__ = ["CHECKS", "Check", "Context", "NotApplicable"]
