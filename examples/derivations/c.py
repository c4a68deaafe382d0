"""Text C, the recurrent layer: ``s_t = f(U x_t + W s_{t-1})``, ``delta_j = dE/dnet_j``."""

from __future__ import annotations

import numpy as np

from .bounds import BOUNDS, bound_conditions, bound_holds
from .formula import Formula, Reading, Statement, later
from .remedies import CLIPPING, GATES, NAN, SATURATION
from .sequence import Sequence, outer, product
from .stack import STACKS, below_only, both_ways, down, stack_conditions, through_time_only


def c2(s: Sequence) -> dict:
    """``W diag[f'(net_{t-1})]``."""
    return {("dz", "z", s.T - 1): s.W @ np.diag(s.slope(s.T - 1))}


def c3(*, falling: bool):
    """``delta_k^T = delta_t^T prod_{i=k..t-1} W diag[f'(net_i)]`` for k = 1 and t = T."""

    def rule(s: Sequence) -> dict:
        k, t = 1, s.T
        delta = s.slope(t) * s.de_dh[t]
        order = range(t - 1, k - 1, -1) if falling else range(k, t)
        factors = (s.W @ np.diag(s.slope(i)) for i in order)
        return {("z", k): delta @ product(factors, len(delta))}

    return rule


def c3_sum(s: Sequence) -> dict:
    """The factors from t - 1 down to k, and every loss from step k on."""
    terms = []
    for t in s.steps:
        factors = (s.W @ np.diag(s.slope(i)) for i in range(t - 1, 0, -1))
        terms.append((s.slope(t) * s.de_dh[t]) @ product(factors, len(s.z[t])))
    return {("z", 1): np.sum(terms, axis=0)}


def c3_transposed(s: Sequence) -> dict:
    """The same for a column: ``delta_k = (prod_{i=k..t-1} W diag[f'(net_i)]) delta_t``."""
    k, t = 1, s.T
    delta = s.slope(t) * s.de_dh[t]
    factors = (s.W @ np.diag(s.slope(i)) for i in range(k, t))
    return {("z", k): product(factors, len(delta)) @ delta}


def c5(s: Sequence) -> dict:
    """``grad_{W_t} E = delta_t s_{t-1}^T``, ``grad_W E`` their sum; U alike with ``x_t``."""
    delta, found = s.errors(), {}
    for t in s.steps:
        found["W", t] = outer(delta[t], s.h[t - 1])
        found["U", t] = outer(delta[t], s.x[t])
    return found | {name: sum(found[name, t] for t in s.steps) for name in ("W", "U")}


BOUND = Statement(
    "delta in any norm, beta_W in any way of measuring W, beta_f = max |f'|",
    BOUNDS,
    bound_holds,
    bound_conditions(),
    problems=1,
)
BY_INDUCED = Statement(
    "beta_W the norm of W^T that the norm of delta induces",
    [k for k in BOUNDS if k.matrix.endswith("W^T")],
    bound_holds,
    bound_conditions(),
    problems=1,
)
INDUCED = Statement(
    "beta_W the norm of W^T that the norm of delta induces; the loss at step t only",
    [k for k in BOUNDS if k.matrix.endswith("W^T") and k.loss == "last step"],
    bound_holds,
    problems=1,
)

FORMULAS = (
    Formula(
        "C1",
        "the error term travels in two directions: through time (W only) and to the layer below (U"
        " only)",
        (
            Statement("both ways together give delta", STACKS, both_ways, stack_conditions()),
            Statement("through time alone", STACKS, through_time_only, stack_conditions()),
            Statement("to the layer below alone", STACKS, below_only, stack_conditions()),
        ),
        by_eye="right",
        model="two stacked layers of different widths",
    ),
    Formula(
        "C2",
        "dnet_t/dnet_{t-1} = W diag[f'(net_{t-1})]",
        (Reading("as written", c2),),
        by_eye="right",
        model="one step, the last, for T of 2 and more",
        within=later,
    ),
    Formula(
        "C3",
        "delta_k^T = delta_t^T prod_{i=k..t-1} W diag[f'(net_i)]",
        (
            Reading("the factors in the order of i, from left to right", c3(falling=False)),
            Reading(
                "the factors from i = t - 1 down to k; delta_k of the whole loss", c3(falling=True)
            ),
            Reading("delta a column, the product before it", c3_transposed),
        ),
        against="with the factors in the order of i it is right too for T up to 2, for a diagonal"
        " W, and for the identity; in either order, where step t has the only loss.",
        by_eye="right, if the order of the factors is from t - 1 down to k",
        corrected="delta_k^T = sum_{t>=k} (f'(net_t) dE_t/ds_t)^T prod_{i=t-1..k} W"
        " diag[f'(net_i)]",
        correction=Reading("summed over t >= k, each loss for itself", c3_sum),
        model="k = 1 and t = T",
    ),
    Formula(
        "C4",
        "(delta_t^{l-1})^T = (delta_t^l)^T U diag[f_{l-1}'(net_t^{l-1})]",
        (
            Statement(
                "what comes down from layer l at step t, beside what comes through time",
                STACKS,
                down,
                stack_conditions(),
            ),
            Statement(
                "the whole error term of the layer below", STACKS, below_only, stack_conditions()
            ),
        ),
        by_eye="right",
        against="right for what comes down at step t; as the whole error term only for T = 1, since"
        " layer l - 1 has a way through time of its own.",
        corrected="(delta_t^{l-1})^T = (delta_t^l)^T U diag[f_{l-1}'(net_t^{l-1})]"
        " + (delta_{t+1}^{l-1})^T W_{l-1} diag[f_{l-1}'(net_t^{l-1})]",
        correction=Statement("with the way through time", STACKS, both_ways, stack_conditions()),
        model="two stacked layers of different widths",
    ),
    Formula(
        "C5",
        "grad_{W_t} E = delta_t s_{t-1}^T; grad_W E = sum_t grad_{W_t} E; grad_U E = sum_t delta_t"
        " x_t^T",
        (Reading("as written, delta_t the whole error term; each step and the sums", c5),),
        by_eye="right",
    ),
    Formula(
        "C6",
        "||delta_k|| <= ||delta_t|| (beta_W beta_f)^(t-k) with norm bounds beta",
        (BY_INDUCED, BOUND),
        by_eye="right",
        against="the bound is on the error of step t alone, and beta_W must bound W^T in the norm"
        " that delta is measured in: the spectral radius will not do unless W is symmetric, the"
        " largest entry never for H above 1, the norm of W instead of W^T only in the 2-norm.",
        corrected="beta_W = ||W^T||, the matrix norm that the norm of delta induces; E = E_t",
        correction=INDUCED,
        model="chains of one to four steps with tanh, 100 to a kind",
    ),
    Formula(
        "C7",
        "exploding gradients show up as NaN and are clipped at a threshold; vanishing ones need"
        " initialisation that avoids saturation, ReLU in place of sigmoid/tanh, LSTM and GRU",
        (NAN, *CLIPPING, *SATURATION, *GATES),
        parts=True,
        by_eye="right",
        against="a gradient can be 1e11 and finite, so that no NaN shows; and what is infinite or"
        " NaN can no longer be clipped. ReLU does not always keep more than tanh does.",
        corrected="clip before anything overflows: a finite gradient of any size is brought to the"
        " threshold in its own direction, a NaN is not",
        correction=CLIPPING[0],
    ),
)
