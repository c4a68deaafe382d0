"""Text B, lecture-style: ``h_t = sigma(W_rec h_{t-1} + W_in x_t + b)``, ``y_t = softmax(W_s h_t)``.

Here ``W_rec = W_hh = W``, ``W_in = W_hx = U`` and ``W_s = V``.
"""

from __future__ import annotations

import itertools

import numpy as np

from .bounds import EXPLODING, LARGEST_SLOPE, VANISHING
from .formula import Formula, Reading, last_step, later
from .sequence import Sequence, apply, product

W = ("W", "U")


def b1(s: Sequence) -> dict:
    """``(dE_k/dy_k) (dy_k/dh_k) (prod_{t=2..k} dh_t/dh_{t-1}) (dh_1/dW)``."""
    k = s.T
    row = s.de_dh[k] @ product((s.jacobian(t) for t in range(k, 1, -1)), len(s.z[k]))
    return {name: apply(row, s.immediate(1, name)) for name in W}


def b2(s: Sequence) -> dict:
    """``diag(sigma'(W_rec h_{t-1} + W_in x_t + b)) W_rec``."""
    t = s.T
    return {("dh", "h", t - 1): np.diag(s.f.derivative(s.z[t])) @ s.W}


def b4(last: int, *, total: bool):
    """``(dE_t/dy_t) (dy_t/dh_t) (sum_{k=1..t-1} dh_t/dh_k) (dh_k/dW)``, the sum to ``t - last``."""

    def rule(s: Sequence) -> dict:
        return {name: one_loss(s, s.T, s.T - last, name, total) for name in W}

    return rule


def b6(last: int, *, total: bool):
    """``sum_t sum_{k=1..t-1} ...``, the inner sum to ``t - last``."""

    def rule(s: Sequence) -> dict:
        return {n: sum(one_loss(s, t, t - last, n, total) for t in s.steps) for n in W}

    return rule


def one_loss(s: Sequence, t: int, last: int, name: str, total: bool) -> np.ndarray:
    """The sum over k of the paths of the loss of step t through ``h_k``."""
    found = np.zeros_like(s.params[name])
    for k in range(1, last + 1):
        d_h = s.total(k, name) if total else s.immediate(k, name)
        found = found + apply(s.de_dh[t] @ s.from_to(k, t), d_h)
    return found


ARGUMENTS = {
    "f'(h_{j-1}): the state is put into f'": lambda s, j: s.f.derivative(s.h[j - 1]),
    "f' of step j-1, at the pre-activation that gives h_{j-1}": lambda s, j: s.slope(j - 1),
    "f' at the pre-activation of step j": lambda s, j: s.slope(j),
}
ORDERS = {
    "j falling from left to right": lambda k, t: range(t, k, -1),
    "j rising from left to right": lambda k, t: range(k + 1, t + 1),
}
LAYOUTS = {"": False, "; the transpose of dh_t/dh_k meant": True}


def b5(argument: str, order: str, layout: str) -> Reading:
    """``dh_t/dh_k = prod_{j=k+1..t} W_hh diag(f'(.))`` for k = 1."""

    def rule(s: Sequence) -> dict:
        k, t = 1, s.T
        factors = (s.W @ np.diag(ARGUMENTS[argument](s, j)) for j in ORDERS[order](k, t))
        found = product(factors, len(s.z[t]))
        return {("dh", "h", k): found.T if LAYOUTS[layout] else found}

    return Reading(f"{argument}; {order}{layout}", rule)


def b5_right(s: Sequence) -> dict:
    """``prod_{j=t..k+1} diag(f'(z_j)) W_hh``."""
    t = s.T
    factors = (np.diag(s.slope(j)) @ s.W for j in range(t, 1, -1))
    return {("dh", "h", 1): product(factors, len(s.z[t]))}


B5 = tuple(itertools.starmap(b5, itertools.product(ARGUMENTS, ORDERS, LAYOUTS)))
NO_LAST = "The paths of the occurrence at step t itself, k = t, are not in the sum."

FORMULAS = (
    Formula(
        "B1",
        "dE_k/dW = (dE_k/dy_k) (dy_k/dh_k) (prod_{t=2..k} dh_t/dh_{t-1}) (dh_1/dW),"
        " W = [W_rec, W_in]",
        (Reading("as written; dh_1/dW immediate and total are the same, h_0 being given", b1),),
        by_eye="wrong",
        against="right for T = 1, where h_1 is the only path.",
        corrected="dE_k/dW = sum_{j=1..k} (dE_k/dy_k) (dy_k/dh_k) (prod_{t=k..j+1} dh_t/dh_{t-1})"
        " (d+h_j/dW)",
        correction=Reading("every occurrence j, not the first alone", b4(0, total=False)),
        model="the error of one step, the last",
        within=last_step,
    ),
    Formula(
        "B2",
        "dh_t/dh_{t-1} = diag(sigma'(W_rec h_{t-1} + W_in x_t + b_t)) W_rec",
        (Reading("as written", b2),),
        by_eye="right",
        model="one step, the last",
        within=last_step,
    ),
    Formula(
        "B3",
        "max sigma' is 1/4 for the sigmoid and 1 for tanh and ReLU; hence products vanish for long"
        " k, and explode for large W_rec",
        (LARGEST_SLOPE, VANISHING[0], *EXPLODING),
        parts=True,
        by_eye="right",
        against="the slopes are right. That products vanish follows only where ||W_rec|| max sigma'"
        " < 1; ReLU with a larger W explodes. That they explode for large W_rec does not follow:"
        " tanh and the sigmoid saturate, and at ||W|| = 100 they vanish.",
        corrected="||dh_t/dh_k|| <= (||W_rec|| max sigma')^(t-k): products must vanish if"
        " ||W_rec|| max sigma' < 1; nothing makes them explode",
        correction=VANISHING[1],
    ),
    Formula(
        "B4",
        "dE_t/dW = (dE_t/dy_t) (dy_t/dh_t) (sum_{k=1..t-1} dh_t/dh_k) (dh_k/dW)",
        (
            Reading("the sum takes in dh_k/dW, which is immediate", b4(1, total=False)),
            Reading("the sum takes in dh_k/dW, which is total", b4(1, total=True)),
            Reading("the sum to k = t, with the total dh_k/dW", b4(0, total=True)),
        ),
        by_eye="wrong",
        corrected="dE_t/dW = (dE_t/dy_t) (dy_t/dh_t) sum_{k=1..t} (dh_t/dh_k) (d+h_k/dW)",
        correction=Reading("the sum to k = t, with the immediate d+h_k/dW", b4(0, total=False)),
        model="the error of one step, the last",
        within=last_step,
        note=NO_LAST,
    ),
    Formula(
        "B5",
        "dh_t/dh_k = prod_{j=k+1..t} dh_j/dh_{j-1} = prod_{j=k+1..t} W_hh diag(f'(h_{j-1}))",
        B5,
        by_eye="wrong",
        against="right where f is the identity; with f' at the pre-activation of step j also where"
        " W is diagonal; and read as the transpose, with that f' and j rising from left to right,"
        " wherever W is symmetric.",
        corrected="dh_t/dh_k = prod_{j=t..k+1} diag(f'(z_j)) W_hh, z_j the pre-activation"
        " of step j",
        correction=Reading("f' at z_j, before W_hh, the latest factor first", b5_right),
        model="k = 1 and t = T, for T of 2 and more",
        within=later,
    ),
    Formula(
        "B6",
        "dE/dW = sum_t sum_{k=1..t-1} (dE_t/dy_t) (dy_t/dh_t) (prod_{j=k+1..t} dh_j/dh_{j-1})"
        " (dh_k/dW)",
        (
            Reading("dh_k/dW immediate", b6(1, total=False)),
            Reading("dh_k/dW total", b6(1, total=True)),
            Reading("the inner sum to k = t, with the total dh_k/dW", b6(0, total=True)),
        ),
        by_eye="wrong",
        corrected="dE/dW = sum_t sum_{k=1..t} (dE_t/dy_t) (dy_t/dh_t) (prod_{j=t..k+1}"
        " dh_j/dh_{j-1}) (d+h_k/dW)",
        correction=Reading(
            "the inner sum to k = t, with the immediate d+h_k/dW", b6(0, total=False)
        ),
        note=NO_LAST,
    ),
)
