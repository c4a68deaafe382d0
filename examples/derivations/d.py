"""Text D, with biases: ``z_t = u x_t + w s_{t-1} + k``, ``s_t = tanh(z_t)``, ``q = v s``, softmax.

The text numbers its two steps 0 and 1; here they are the last two, T - 1 and T.
"""

from __future__ import annotations

import numpy as np

from .formula import Formula, Reading
from .grid import Kind
from .sequence import Sequence, apply, outer


def literal(name: str):
    """``(dE/dq) v (ds_1/dz_1) (x_1 + w (ds_0/dz_0) x_0)``, the products as they are written."""

    def rule(s: Sequence) -> dict:
        t, other = s.T, (s.x[1:] if name == "U" else s.h[:-1])
        bracket = other[t - 1] + s.W @ np.diag(s.slope(t - 1)) @ other[t - 2]
        found = s.do[t] @ s.V @ np.diag(s.slope(t)) @ bracket
        return {name: np.full((1, 1), found)}

    return rule


def outer_products(name: str):
    """The same with every product by ``x`` or ``s`` an outer product."""

    def rule(s: Sequence) -> dict:
        t, other = s.T, (s.x[1:] if name == "U" else s.h[:-1])
        row = s.do[t] @ s.V @ np.diag(s.slope(t))
        before = row @ s.W @ np.diag(s.slope(t - 1))
        return {name: outer(row, other[t - 1]) + outer(before, other[t - 2])}

    return rule


def every_step(name: str):
    """All steps, all losses: ``sum_t delta_t x_t^T``."""

    def rule(s: Sequence) -> dict:
        delta, other = s.errors(), (s.x if name == "U" else [None, *s.h])
        return {name: sum(outer(delta[t], other[t]) for t in s.steps)}

    return rule


def d3(s: Sequence) -> dict:
    """``(dE/dq) (dq/ds_1) (ds_1/dz_1) (db_1/ds_0) (ds_0/dz_0) (da_0/du_0)``, a = u x, b = w s."""
    t = s.T
    chain = s.do[t] @ s.V @ np.diag(s.slope(t)) @ s.W @ np.diag(s.slope(t - 1))
    return {("U", t - 1): outer(chain, s.x[t - 1])}


def d3_all(s: Sequence) -> dict:
    """The same with every loss that comes after, for every step."""
    return {("U", t): apply(s.adjoints()[t], s.immediate(t, "U")) for t in s.steps}


def within(kind: Kind) -> bool:
    """The text has tanh or sigmoid, and two steps at least."""
    return kind.T > 1 and kind.activation in ("tanh", "sigmoid")


MODEL = "tanh or sigmoid; the text's steps 0 and 1 are the last two"
LITERAL = "scalars: every product as it is written"
VECTORS = "vectors: outer products with {}, Jacobians on the row"

FORMULAS = (
    Formula(
        "D1",
        "dE/du = (dE/do) (do/dq) v (ds_1/dz_1) (x_1 + w (ds_0/dz_0) x_0)",
        (
            Reading(LITERAL, literal("U")),
            Reading(VECTORS.format("x"), outer_products("U")),
        ),
        by_eye="right only if everything is scalar, T = 2 and the loss is at the last step only",
        against="with outer products nothing need be scalar; T = 2 and the last loss must stay.",
        corrected="dE/dU = sum_t delta_t x_t^T, delta_t = diag(ds_t/dz_t) (V^T (dE_t/dq_t)^T + W^T"
        " delta_{t+1})",
        correction=Reading("every step, every loss", every_step("U")),
        model=MODEL,
        within=within,
    ),
    Formula(
        "D2",
        "dE/dw = (dE/do) (do/dq) v (ds_1/dz_1) (s_0 + w (ds_0/dz_0) s_{-1})",
        (
            Reading(LITERAL, literal("W")),
            Reading(VECTORS.format("s"), outer_products("W")),
        ),
        by_eye="right only if everything is scalar, T = 2 and the loss is at the last step only",
        against="n need not be 1; with h_0 = 0 it is right for T = 2 with a loss at every step too,"
        " and for T = 3 with one at the last: the terms it lacks are products with h_0. With outer"
        " products nothing need be scalar.",
        corrected="dE/dW = sum_t delta_t s_{t-1}^T, delta_t as in D1",
        correction=Reading("every step, every loss", every_step("W")),
        model=MODEL,
        within=within,
    ),
    Formula(
        "D3",
        "dE/du_0 = (dE/do) (do/dq) (dq/ds_1) (ds_1/dz_1) (dz_1/db_1) (db_1/ds_0) (ds_0/dz_0)"
        " (dz_0/da_0) (da_0/du_0)",
        (Reading("vectors, u_0 the matrix as it is used at the last step but one", d3),),
        by_eye="right only if everything is scalar, T = 2 and the loss is at the last step only",
        against="nothing need be scalar and T may be anything: one chain from the last loss to the"
        " step before it is right wherever that loss is the only one.",
        corrected="dE/dU_t = delta_t x_t^T, with every loss from step t on in delta_t",
        correction=Reading("every step, every loss that comes after it", d3_all),
        model=MODEL,
        within=within,
    ),
)
