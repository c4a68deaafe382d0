"""The adjoints of operations on whole arrays."""

from __future__ import annotations

from bpttcheck.oracles.step_source.array_parts import ArrayScene, Sent
from bpttcheck.oracles.step_source.forward import of
from bpttcheck.oracles.step_source.piece_rules import PIECES, concatenate
from bpttcheck.oracles.step_source.product_rules import PRODUCTS
from bpttcheck.oracles.step_source.recording import Value
from bpttcheck.oracles.step_source.sum_rules import SUMS
from bpttcheck.oracles.step_source.terms import Term

_RULES = PRODUCTS | PIECES | SUMS


def sent(here: ArrayScene, v: Value, d: Term) -> Sent | None:
    """What each operand gets of the adjoint ``d``; None for an unknown operation."""
    rule = _RULES.get(v.op)
    return None if rule is None else rule(here, v, d)


def piece(here: ArrayScene, whole: Value, part: Value) -> Term | None:
    """An array as a slice of the one into which it was put, or None."""
    if _RULES.get(whole.op) is not concatenate:
        return None
    pieces = concatenate(here, whole, of(whole))
    return next((p for v, p in pieces if v is part and isinstance(p, Term)), None)
