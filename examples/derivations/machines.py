"""Statements about whole networks: one transition for all lengths, three designs, probabilities."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

import bpttcheck
from bpttcheck import unroll
from bpttcheck.calibration import LIMIT
from bpttcheck.cells import Elman, Jordan
from bpttcheck.judge.run import SEQUENCE
from bpttcheck.judge.verdict import judge, rounding
from bpttcheck.oracles.autodiff.autodiff import Spread
from bpttcheck.problems.problem import Problem, Template
from bpttcheck.results.records import Case

from .formula import Outcome, Statement
from .grid import LARGEST, oracle
from .grid import LENGTHS as LONGER
from .network import K, Network
from .search import Condition


@dataclass(frozen=True)
class Length:
    """A sequence of ``T`` steps."""

    T: int


def _one_transition(kind: Length, index: int) -> Outcome:
    """The loop, the composed function of all inputs, and the loop over a longer sequence agree."""
    rng = np.random.default_rng([index, kind.T])
    cell = Elman()
    params = cell.init(rng, 2, 3)
    xs, h0 = rng.standard_normal((kind.T + 4, 1, 2)), rng.standard_normal((1, 3))
    composed = h0
    for x in xs[: kind.T]:
        composed = np.tanh(x @ params["U"].T + composed @ params["W"].T + params["b"])
    _, last, _ = unroll(cell, params, xs[: kind.T], h0)
    longer = unroll(cell, params, xs, h0)[2].states[kind.T]
    gap = max(np.abs(last - composed).max(), np.abs(last - longer).max())
    return Outcome(bool(gap < 1e-14), f"differs by {gap:.1e}")


LENGTHS = Statement(
    "the composed g^(t), the loop, and the first t steps of a longer loop, same theta",
    [Length(T) for T in (1, 2, 7, 40)],
    _one_transition,
)


@dataclass(frozen=True)
class Design:
    """A design by name."""

    name: str


DESIGNS_BY_NAME: dict[str, Any] = {
    "(i) hidden to hidden, an output at each step": Network(),
    "(ii) output to hidden, running freely": Jordan(),
    "(ii) output to hidden, teacher forced": Jordan(teacher_forced=True),
}


def _is_verified(kind: Design, index: int) -> Outcome:
    """The harness's own verdict on the design's hand-derived backward pass."""
    report = bpttcheck.check(
        DESIGNS_BY_NAME[kind.name], examples=10, checks=["sequence_vjp"], raises=False
    )
    return Outcome(report.passed, str(report.verdict))


DESIGNS = Statement(
    "each design exists, and the harness finds its gradient right; (iii) is (i) with dE/dE_t = 0"
    " before the last step, the kinds of problem with one loss here",
    [Design(name) for name in DESIGNS_BY_NAME],
    _is_verified,
    problems=1,
)


def _forward(kind: Length, index: int) -> Outcome:
    """The loss of the network, against the text's five equations for column vectors."""
    rng = np.random.default_rng([index, kind.T])
    H, n, T = LARGEST.H, LARGEST.n, kind.T
    params = Network().init(rng, LARGEST.width, H)
    xs, h = np.zeros((T, 1, LARGEST.width)), rng.standard_normal(H)
    xs[:, 0, :n] = rng.standard_normal((T, n))
    xs[:, 0, LARGEST.columns("y")] = np.eye(K)[rng.integers(K, size=T)]
    ys, _, _ = unroll(Network(), params, xs, h[None])
    loss = 0.0
    for x in xs[:, 0]:
        a = params["W"] @ h + params["U"] @ x[:n] + params["b"]
        h = np.tanh(a)
        o = params["V"] @ h + params["c"]
        yhat = np.exp(o) / np.exp(o).sum()
        loss -= np.log(yhat[x[LARGEST.columns("y")] == 1][0])
    gap = abs(loss - ys[:, 0, 0].sum())
    return Outcome(bool(gap < 1e-13 * (1 + loss)), f"differs by {gap:.1e}")


FORWARD = Statement(
    "the five equations for columns, beside the network that is judged here",
    [Length(T) for T in (1, 2, 7)],
    _forward,
)


@dataclass(frozen=True)
class Fed:
    """What comes back at the second step of an output-recurrent network with two classes.

    Args:
        fed: ``"true"`` (teacher forcing) or ``"own"`` (the network's own probabilities).
        strength: the size of the weights from the output to the next hidden units.
    """

    fed: str
    strength: float


def _log_probability(kind: Fed, index: int) -> Outcome:
    """All four outcomes: the joint probability is that of drawing y1 first and feeding it."""
    rng = np.random.default_rng(index)
    cell = Jordan(n_out=K, teacher_forced=True)
    params = cell.init(rng, 2 + K, 3)
    params["W"] = rng.standard_normal(params["W"].shape) * kind.strength
    x = rng.standard_normal((2, 2))
    worst, total = 0.0, 0.0
    for y1, y2 in itertools.product(range(K), repeat=2):
        first = _probabilities(cell, params, [x[0]], [np.eye(K)[y1]])[0]
        # The joint distribution by its definition: draw y1, feed what was drawn, draw y2.
        drawn = _probabilities(cell, params, x, [np.eye(K)[y1], np.eye(K)[y2]])[1]
        joint = first[y1] * drawn[y2]
        total += joint
        fed = np.eye(K)[y1] if kind.fed == "true" else first
        second = _probabilities(cell, params, x, [fed, np.eye(K)[y2]])[1]
        worst = max(worst, abs(np.log(joint) - np.log(second[y2]) - np.log(first[y1])))
    holds = worst < 1e-13 and abs(total - 1) < 1e-13
    return Outcome(bool(holds), f"log p(y1, y2) differs from the sum by {worst:.3g}")


def _probabilities(cell: Jordan, params: dict, x: Any, targets: Any) -> np.ndarray:
    xs = np.concatenate([np.stack(x), np.stack(targets)], axis=1)[:, None]
    o = unroll(cell, params, xs)[0][:, 0]
    odds = np.exp(o - o.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


LOG_PROBABILITY = tuple(
    Statement(
        words,
        [Fed(fed, strength) for strength in (0.0, 1.0, 3.0)],
        _log_probability,
        [Condition("nothing comes back (W = 0)", lambda k: k.strength == 0)],
    )
    for fed, words in (
        ("true", "p(y2 | y1, x1, x2) is the output when the true y1 is fed"),
        ("own", "p(y2 | y1, x1, x2) is the output when the network's own yhat is fed"),
    )
)


@dataclass(frozen=True)
class Rows:
    """A batch of ``B`` sequences of ``T`` steps."""

    B: int
    T: int


def _batch(*, mean: bool):
    def rule(kind: Rows, index: int) -> Outcome:
        """``grad_o`` of every row, and ``grad_c``, with JAX's copies beside them."""
        rng = np.random.default_rng([index, kind.B, kind.T])
        B, T, H = kind.B, kind.T, LARGEST.H
        params = Network().init(rng, LARGEST.width, H)
        xs = np.zeros((T, B, LARGEST.width))
        xs[:, :, : LARGEST.n] = rng.standard_normal((T, B, LARGEST.n))
        xs[:, :, LARGEST.columns("y")] = np.eye(K)[rng.integers(K, size=(T, B))]
        h0, d_ys = rng.standard_normal((B, H)), np.zeros((T, B, 1 + H + K))
        d_ys[:, :, 0] = 1.0
        case = Case(0, index, T, B, LARGEST.width, H, "float64", "none", "ordinary")
        problem = Problem(case, params, xs, h0, None, d_ys, np.zeros_like(h0))
        template = Template(LARGEST.width, H, max(LONGER), 3)
        found = oracle("tanh").jax.gradient(SEQUENCE, problem, template).gradients
        o = unroll(Network(), params, xs, h0)[0][:, :, 1 + H :]
        odds = np.exp(o - o.max(axis=2, keepdims=True))
        do = odds / odds.sum(axis=2, keepdims=True) - xs[:, :, LARGEST.columns("y")]
        do = do / B if mean else do
        columns, d_xs = LARGEST.columns("o"), found["d_xs"]
        taps = Spread(d_xs.value[:, :, columns], d_xs.copies[..., columns])
        pairs = [(do, taps), (do.sum(axis=(0, 1)), found["d_params['c']"])]
        unit = rounding(np.float64)
        judged = [judge("o", said, s.value, s.copies, *unit) for said, s in pairs]
        worst = max(judged, key=lambda j: j.ratio)
        return Outcome(worst.ratio <= LIMIT, f"{worst.hand:.4g}, true {worst.value:.4g}")

    return rule


ROWS = [Rows(B, T) for B in (1, 2, 3) for T in (1, 3)]
ONE_ROW = [Condition("B = 1", lambda k: k.B == 1), Condition("T = 1", lambda k: k.T == 1)]
BATCH = (
    Statement("a batch, L the sum over its rows", ROWS, _batch(mean=False), ONE_ROW),
    Statement("a batch, with 1/B for its rows", ROWS, _batch(mean=True), ONE_ROW),
)
