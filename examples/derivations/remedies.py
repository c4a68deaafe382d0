"""Exploding and vanishing gradients, and what is done about them, executed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck import backpropagate, unroll
from bpttcheck.cells import LSTM, Elman, GRUResetBefore
from bpttcheck.errors import ContractError
from bpttcheck.networks.optimise import clip_by_norm

from .formula import Outcome, Statement
from .search import Condition


@dataclass(frozen=True)
class Growth:
    """A linear network ``h_t = w h_{t-1} + x_t`` of one unit, in float32.

    Args:
        w: its weight.
        T: steps.
    """

    w: float
    T: int

    def gradient(self) -> float:
        """``dh_T/dw`` with a unit input at the first step."""
        params = {"U": np.ones((1, 1)), "W": np.array([[self.w]]), "b": np.zeros(1)}
        params = {name: value.astype(np.float32) for name, value in params.items()}
        xs = np.zeros((self.T, 1, 1), np.float32)
        xs[0] = 1
        cell = Elman("identity")
        with np.errstate(all="ignore"):
            ys, _, tape = unroll(cell, params, xs)
            d_ys = np.zeros_like(ys)
            # The squared error of the last output, half of it.
            d_ys[-1] = ys[-1] - 1
            return float(backpropagate(cell, params, tape, d_ys).d_params["W"][0, 0])


GROWTHS = [Growth(w, T) for w, T in itertools.product((1.5, 3.0, 10.0), (10, 30, 100, 300))]


def _shows_up(kind: Growth, index: int) -> Outcome:
    found = kind.gradient()
    if np.isfinite(found) and abs(found) < 1e4:
        return Outcome(None)
    return Outcome(not np.isfinite(found), f"the gradient is {found:.1e}, and finite")


NAN = Statement(
    "a gradient above 1e4 shows up as NaN or infinity (one linear unit, float32)",
    GROWTHS,
    _shows_up,
    [
        *(Condition(f"w >= {w:g}", lambda k, w=w: k.w >= w) for w in (3.0, 10.0)),
        *(Condition(f"T >= {T}", lambda k, T=T: k.T >= T) for T in (30, 100, 300)),
    ],
    problems=1,
)


@dataclass(frozen=True)
class Size:
    """A gradient of a size that is clipped at 1."""

    size: float


def _clip(kind: Size, index: int) -> Outcome:
    direction = np.random.default_rng(index).standard_normal(5)
    direction /= np.linalg.norm(direction)
    try:
        found = clip_by_norm({"W": direction * kind.size}, 1.0).gradients["W"]
    except ContractError:
        return Outcome(False, "refused: a gradient that is not finite has no direction to keep")
    expected = direction * min(kind.size, 1.0)
    holds = bool(np.allclose(found, expected, rtol=1e-12, atol=0))
    return Outcome(holds, f"the largest entry is {np.abs(found).max():.3g} after clipping at 1")


SIZES = [Size(1e-3), Size(10.0), Size(1e8), Size(1e200)]
BROKEN = [Size(np.inf), Size(np.nan)]
CLIPPING = (
    Statement("clipping brings a finite gradient to the threshold, direction kept", SIZES, _clip),
    Statement("clipping mends a gradient that shows up as infinity or NaN", BROKEN, _clip),
)


@dataclass(frozen=True)
class Spread:
    """Weights drawn with a spread: large ones saturate."""

    activation: str
    spread: float

    def survival(self, index: int) -> float:
        """``||dh_T/dh_0||`` over 20 steps of 20 units, as a logarithm to base 10."""
        rng = np.random.default_rng([index, 20])
        H, T, cell = 20, 20, Elman(self.activation)
        params = {
            "U": rng.standard_normal((H, H)) * self.spread / np.sqrt(H),
            "W": np.linalg.qr(rng.standard_normal((H, H)))[0],
            "b": np.zeros(H),
        }
        xs = rng.standard_normal((T, 1, H))
        ys, last, tape = unroll(cell, params, xs)
        found = backpropagate(cell, params, tape, np.zeros_like(ys), np.ones_like(last))
        size = float(np.linalg.norm(found.d_state0) / np.sqrt(H))
        return np.log10(size) if size else -np.inf


PAIRS = [Spread(f, s) for s in (0.1, 1.0, 10.0, 100.0) for f in ("tanh", "sigmoid")]


def _saturates(kind: Spread, index: int) -> Outcome:
    small = Spread(kind.activation, kind.spread / 10).survival(index)
    found = kind.survival(index)
    return Outcome(found < small, f"1e{found:.1f}, and 1e{small:.1f} with a tenth of the spread")


def _relu(kind: Spread, index: int) -> Outcome:
    relu, other = Spread("relu", kind.spread).survival(index), kind.survival(index)
    return Outcome(relu > other, f"ReLU 1e{relu:.1f}, {kind.activation} 1e{other:.1f}")


def _by_spread() -> list[Condition]:
    return [
        *(Condition(f"f is {f}", lambda k, f=f: k.activation == f) for f in ("tanh", "sigmoid")),
        *(Condition(f"spread >= {s:g}", lambda k, s=s: k.spread >= s) for s in (1.0, 10.0, 100.0)),
        *(Condition(f"spread <= {s:g}", lambda k, s=s: k.spread <= s) for s in (0.1, 1.0, 10.0)),
    ]


SATURATION = (
    Statement(
        "ten times the spread of U, more saturation, less gradient after 20 steps (W orthogonal)",
        PAIRS, _saturates, _by_spread(), problems=6,
    ),
    Statement(
        "ReLU keeps more of the gradient than the other activation (the same networks)",
        PAIRS, _relu, _by_spread(), problems=6,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Gated:
    """A gated cell, its gate biased so that it remembers, or not."""

    cell: str
    remembers: bool


def _keeps(kind: Gated, index: int) -> Outcome:
    """The gradient by the initial state after 100 steps, beside that of the simple cell."""
    cell: Any = {"LSTM": LSTM(), "GRU": GRUResetBefore()}[kind.cell]
    found, simple = _after(cell, index, kind.remembers), _after(Elman(), index, False)
    text = f"{kind.cell} 1e{found:.1f}, simple cell 1e{simple:.1f}"
    return Outcome(found > simple + 2, text)


def _after(cell: Any, index: int, remembers: bool) -> float:
    rng = np.random.default_rng(index)
    H, T = 8, 100
    params = cell.init(rng, H, H)
    if remembers:
        # The second block of rows: the LSTM's forget gate, the GRU's update gate.
        params["b"] = params["b"] + np.repeat([0.0, 5.0, 0.0, 0.0], H)[: len(params["b"])]
    xs = rng.standard_normal((T, 1, H))
    ys, _, tape = unroll(cell, params, xs)
    d_ys = np.zeros_like(ys)
    d_ys[-1] = 1.0
    first = backpropagate(cell, params, tape, d_ys).d_state0
    leaves = first if isinstance(first, tuple) else (first,)
    size = float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in leaves)))
    return np.log10(size) if size else -np.inf


GATES = (
    Statement(
        "LSTM and GRU keep at least 100 times more of the gradient than the simple cell, T = 100",
        [Gated(c, r) for c in ("LSTM", "GRU") for r in (True, False)], _keeps,
        [
            Condition("the gate is biased to remember", lambda k: k.remembers),
            Condition("the cell is the LSTM", lambda k: k.cell == "LSTM"),
        ],
    ),
)  # fmt: skip
