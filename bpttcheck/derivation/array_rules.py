"""The adjoints of operations on whole arrays."""

from __future__ import annotations

from bpttcheck.derivation.array_parts import ArrayScene, Sent
from bpttcheck.derivation.forward import of
from bpttcheck.derivation.piece_rules import PIECES, concatenate
from bpttcheck.derivation.product_rules import PRODUCTS
from bpttcheck.derivation.recording import Value
from bpttcheck.derivation.sum_rules import SUMS
from bpttcheck.derivation.terms import Term

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
