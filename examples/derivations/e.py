"""Text E, "RNN": ``a = W h + U x + b``, ``h = tanh(a)``, ``o = V h + c``, ``yhat = softmax(o)``."""

from __future__ import annotations

import numpy as np

from .formula import Formula, Reading
from .grid import Kind
from .machines import BATCH, DESIGNS, FORWARD, LENGTHS, LOG_PROBABILITY
from .sequence import Sequence, outer


def e5(s: Sequence) -> dict:
    """``yhat_i - 1[i = y]`` where there is a loss; the sequence holds it as ``do``."""
    return {("o", t): s.do[t] for t in s.steps}


def e6(s: Sequence) -> dict:
    """``V^T grad_{o(tau)} L`` at the last step."""
    return {("h", s.T): s.V.T @ s.do[s.T]}


def e6_everywhere(s: Sequence) -> dict:
    """The same at every step."""
    return {("h", t): s.V.T @ s.do[t] for t in s.steps}


def e7(product):
    """``W^T grad_{h(t+1)} diag(1 - h_{t+1}^2) + V^T grad_{o(t)}`` from the last step back."""

    def rule(s: Sequence) -> dict:
        g, found = s.V.T @ s.do[s.T], {}
        for t in range(s.T - 1, 0, -1):
            g = product(s.W.T, g, np.diag(1 - s.h[t + 1] ** 2)) + s.V.T @ s.do[t]
            found["h", t] = g
        return found

    return rule


def as_columns(Wt: np.ndarray, g: np.ndarray, diag: np.ndarray) -> np.ndarray:
    """``W^T g diag``: the column ``W^T g`` times a matrix, which has a shape if H = 1 only."""
    return ((Wt @ g[:, None]) @ diag)[:, 0]


def e8(s: Sequence) -> dict:
    """The sums over the steps, from the right ``grad_h`` and ``grad_o``."""
    g = s.adjoints()
    d = [np.zeros(0), *((1 - s.h[t] ** 2) * g[t] for t in s.steps)]
    return {
        "c": sum(s.do[t] for t in s.steps),
        "b": sum(d[t] for t in s.steps),
        "V": sum(outer(s.do[t], s.h[t]) for t in s.steps),
        "W": sum(outer(d[t], s.h[t - 1]) for t in s.steps),
        "U": sum(outer(d[t], s.x[t]) for t in s.steps),
    }


def tanh(kind: Kind) -> bool:
    """The text has tanh."""
    return kind.activation == "tanh"


def tanh_later(kind: Kind) -> bool:
    """And two steps at least: the recursion has a step to make."""
    return kind.activation == "tanh" and kind.T > 1


FORMULAS = (
    Formula(
        "E1",
        "h^(t) = g^(t)(x^(t), ..., x^(1)) = f(h^(t-1), x^(t); theta): one transition function for"
        " every length",
        (LENGTHS,),
        by_eye="right",
    ),
    Formula(
        "E2",
        "three designs: (i) output at each step, hidden-to-hidden recurrence; (ii) output at each"
        " step, recurrence only from the output to the next hidden units; (iii) hidden-to-hidden"
        " recurrence, one output after the whole sequence",
        (DESIGNS,),
        by_eye="right",
    ),
    Formula(
        "E3",
        "a = W h_{t-1} + U x_t + b, h = tanh(a), o = V h + c, yhat = softmax(o), initial state"
        " h^(0), loss summed over the steps",
        (FORWARD,),
        by_eye="right",
    ),
    Formula(
        "E4",
        "teacher forcing: the true y^(t) is fed at t+1; log p(y1, y2 | x1, x2) = log p(y2 | y1, x1,"
        " x2) + log p(y1 | x1, x2)",
        LOG_PROBABILITY,
        by_eye="right",
        corrected="the conditional probability is what the network puts out when the true y1 is"
        " fed",
        correction=LOG_PROBABILITY[0],
    ),
    Formula(
        "E5",
        "dL/dL^(t) = 1; (grad_{o(t)} L)_i = yhat_i - 1[i = y(t)]",
        (
            Reading("at every step that has a loss", e5),
            *BATCH,
        ),
        by_eye="right",
        corrected="(grad_{o(t)} L)_i = yhat_i - 1[i = y(t)] in every row, grad_c the sum over rows",
        correction=BATCH[0],
    ),
    Formula(
        "E6",
        "grad_{h(tau)} L = V^T grad_{o(tau)} L",
        (
            Reading("tau is the last step", e6),
            Reading("tau is any step", e6_everywhere),
        ),
        by_eye="right",
        against="right at the last step; at any other it holds for no T above 1.",
        corrected="at the last step tau, where nothing comes after",
        correction=Reading("at the last step", e6),
    ),
    Formula(
        "E7",
        "grad_{h(t)} L = W^T (grad_{h(t+1)} L) diag(1 - (h^(t+1))^2) + V^T grad_{o(t)} L",
        (
            Reading("column vectors, every product as it is written", e7(as_columns)),
            Reading("diag acts on the column W^T grad", e7(lambda Wt, g, diag: diag @ (Wt @ g))),
            Reading(
                "diag next to the gradient: the row grad^T diag(1 - h^2) W",
                e7(lambda Wt, g, diag: g @ diag @ Wt.T),
            ),
        ),
        by_eye="wrong",
        against="as it is written it has a shape for H = 1, and is right there; read with diag in"
        " front of W^T it is right where W is diagonal, for every H.",
        corrected="grad_{h(t)} L = W^T diag(1 - (h^(t+1))^2) (grad_{h(t+1)} L) + V^T grad_{o(t)} L",
        correction=Reading(
            "diag between W^T and the gradient", e7(lambda Wt, g, diag: Wt @ diag @ g)
        ),
        model="tanh, T of 2 and more, every t before the last",
        within=tanh_later,
    ),
    Formula(
        "E8",
        "grad_c = sum grad_o; grad_b = sum diag(1-h^2) grad_h; grad_V = sum grad_o h^T; grad_W ="
        " sum diag(1-h_t^2) grad_{h_t} h_{t-1}^T; grad_U = sum diag(1-h_t^2) grad_{h_t} x_t^T",
        (Reading("as written, all five", e8),),
        by_eye="right",
        model="tanh",
        within=tanh,
    ),
)
