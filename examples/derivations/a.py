"""Text A, a blog of 2019: ``h_{t+1} = f(U x + W h_t)``, ``O_t = g(V S_t)``, ``E = sum e``."""

from __future__ import annotations

import numpy as np

from .formula import Formula, Reading, last_step
from .sequence import Sequence, apply, outer, product


def a1(s: Sequence) -> dict:
    """Each ``de_t/dU`` on its own, with all its paths; then their sum."""
    found = {"V": sum(outer(s.do[t], s.h[t]) for t in s.steps)}
    for name in ("U", "W"):
        found[name] = sum(apply(s.de_dh[t], s.total(t, name)) for t in s.steps)
    return found


def a2(name: str):
    """Every time differentiated on its own: earlier states are constants."""

    def rule(s: Sequence) -> dict:
        if name == "V":
            return {"V": sum(outer(s.do[t], s.h[t]) for t in s.steps)}
        return {name: sum(apply(s.de_dh[t], s.immediate(t, name)) for t in s.steps)}

    return rule


def a3(s: Sequence) -> dict:
    """``(de/dh_{t+1}) (dh_{t+1}/dh_t) ... (dh_k/dW^k)`` for every k, and their sum."""
    e, found = s.T, {}
    for name in ("W", "U"):
        for k in s.steps:
            found[name, k] = apply(s.de_dh[e] @ s.from_to(k, e), s.immediate(k, name))
        found[name] = sum(found[name, k] for k in s.steps)
    return found


def a4(s: Sequence) -> dict:
    """``(de/dh_{t+1}) W W h_{t-2}``: the row ``de/dh`` times W, and the outer product with h."""
    e, found = s.T, {}
    for k in s.steps:
        row = s.de_dh[e] @ product([s.W] * (e - k), len(s.z[k]))
        found["W", k] = outer(row, s.h[k - 1])
    return found | {"W": sum(found["W", k] for k in s.steps)}


def a4_columns(s: Sequence) -> dict:
    """The same with ``de/dh`` as a column, so that W acts on it from the left."""
    e, found = s.T, {}
    for k in s.steps:
        found["W", k] = outer(product([s.W] * (e - k), len(s.z[k])) @ s.de_dh[e], s.h[k - 1])
    return found | {"W": sum(found["W", k] for k in s.steps)}


def a5(first: int, *, ascending: bool = False, total: bool = False):
    """``sum_k (de_t/dh_t) (prod_{i=k+first..t} dh_i/dh_{i-1}) (dh_k/dW)``."""

    def rule(s: Sequence) -> dict:
        t, terms = s.T, []
        for k in s.steps:
            order = range(k + first, t + 1) if ascending else range(t, k + first - 1, -1)
            row = s.de_dh[t] @ product((s.jacobian(i) for i in order), len(s.z[t]))
            terms.append(apply(row, s.total(k) if total else s.immediate(k)))
        return {"W": np.sum(terms, axis=0)}

    return rule


CORRECT_PATHS = Reading("the product from i = k + 1, the latest factor first", a5(1))

FORMULAS = (
    Formula(
        "A1",
        "dE/dU = sum_t de_t/dU, the same for V and W",
        (Reading("each de_t/dU with every path that leads to it", a1),),
        by_eye="right",
    ),
    Formula(
        "A2",
        "one outer matrix needs no earlier states: each time can be differentiated on its own",
        (
            Reading("the matrix is U (the text writes ΔU)", a2("U")),
            Reading("the matrix is V (the text argues from O_t = g(V S_t))", a2("V")),
            Reading("the same said of W", a2("W")),
        ),
        by_eye="right for V only",
        against="for W it is right too where T is at most 2 and h_0 = 0: the term it lacks is a"
        " product with h_0. For U for T = 1 only.",
        corrected="dE/dV = sum_t (de_t/do_t) S_t^T needs no earlier states; dE/dU does",
        correction=Reading("V on its own, U and W with every path", a1),
    ),
    Formula(
        "A3",
        "de_{t+1}/dW^{t+1} = (de/dh_{t+1}) (dh_{t+1}/dW^{t+1}); de_{t+1}/dW^t = (de/dh_{t+1})"
        " (dh_{t+1}/dh_t) (dh_t/dW^t); and so on back; the tied gradient is their sum",
        (Reading("every dh_k/dW^k immediate; both the terms and their sum; U alike", a3),),
        by_eye="right",
        model="the error of one step, the last",
        within=last_step,
    ),
    Formula(
        "A4",
        'with f "ignored": de_{t+1}/dW^{t+1} = (de/dh_{t+1}) h_t, de_{t+1}/dW^t = (de/dh_{t+1}) W'
        " h_{t-1}, de_{t+1}/dW^{t-1} = (de/dh_{t+1}) W W h_{t-2}",
        (
            Reading("de/dh is a row: (de/dh W W)^T h^T, in a network that has f", a4),
            Reading("de/dh is a column: (W W de/dh) h^T, in a network that has f", a4_columns),
        ),
        by_eye="right only if f is the identity",
        corrected="de_{t+1}/dW^{t-1} = diag(f'_{t-1}) W^T diag(f'_t) W^T diag(f'_{t+1})"
        " (de/dh_{t+1})^T h_{t-2}^T",
        correction=Reading("with f' at every step", a3),
        model="the error of one step, the last",
        within=last_step,
    ),
    Formula(
        "A5",
        "de_t/dW = sum_{k=1..t} (de_t/dh_t) (prod_{i=k..t} dh_i/dh_{i-1}) (d+h_k/dW)",
        (
            Reading("as written, the latest factor first", a5(0)),
            Reading("as written, the factors in the order of i", a5(0, ascending=True)),
            Reading("from i = k + 1, the factors in the order of i", a5(1, ascending=True)),
            Reading("from i = k + 1, with the total derivative for d+", a5(1, total=True)),
        ),
        by_eye="wrong",
        against="wrong on every problem, as read. Starting the product at k + 1 is not enough: the"
        " factors in the order of i are right for T up to 2, a diagonal W or the identity only.",
        corrected="de_t/dW = sum_{k=1..t} (de_t/dh_t) (prod_{i=t..k+1} dh_i/dh_{i-1}) (d+h_k/dW)",
        correction=CORRECT_PATHS,
        model="the error of one step, the last",
        within=last_step,
        note="One Jacobian too many: dh_k/dh_{k-1} is already inside d+h_k/dW as f'.",
    ),
)
