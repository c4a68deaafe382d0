"""Statements about sizes: the largest slope, vanishing, exploding, and the bound on error terms."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from bpttcheck import activations

from .formula import Outcome, Statement
from .search import Condition

STEPS = 60
CLAIMED = {"sigmoid": 0.25, "tanh": 1.0, "relu": 1.0}


@dataclass(frozen=True)
class Slope:
    """An activation whose largest slope is stated."""

    activation: str


def _largest_slope(kind: Slope, index: int) -> Outcome:
    """On a fine grid that has 0 in it, and 1 for ReLU; the package's own bound is compared too."""
    f = activations.get(kind.activation)
    z = np.linspace(-8.0, 8.0, 16001 + 2 * index)
    most = float(f.derivative(np.append(z, [0.0, 1.0])).max())
    claimed = CLAIMED[kind.activation]
    holds = most <= claimed and most >= claimed * (1 - 1e-12) and f.lipschitz == claimed
    return Outcome(holds, f"max f' = {most:.4g}, stated {claimed}")


LARGEST_SLOPE = Statement(
    "the largest slopes: 1/4 for the sigmoid, 1 for tanh and ReLU",
    [Slope(name) for name in CLAIMED],
    _largest_slope,
)


@dataclass(frozen=True)
class Long:
    """A network without inputs, ``h_t = f(W h_{t-1} + b)``, run for many steps.

    Args:
        activation: the name of ``f``.
        H: hidden units.
        norm: the largest singular value of ``W``.
    """

    activation: str
    H: int
    norm: float

    @cache  # noqa: B019 - a frozen record: nothing is kept alive that matters
    def norms(self, index: int) -> tuple[float, float]:
        """``||dh_T/dh_0||`` and ``||W||^T max|f'|^T``, as logarithms to base 10."""
        rng = np.random.default_rng([index, self.H, int(100 * self.norm)])
        f = activations.get(self.activation)
        W = rng.standard_normal((self.H, self.H))
        W *= self.norm / np.linalg.norm(W, 2)
        b, h = rng.standard_normal(self.H), rng.standard_normal(self.H)
        found, size = np.eye(self.H), 0.0
        for _ in range(STEPS):
            z = W @ h + b
            found, h = np.diag(f.derivative(z)) @ W @ found, f.value(z)
            norm = np.linalg.norm(found, 2)
            if norm == 0:
                return -np.inf, STEPS * np.log10(self.norm * f.lipschitz)
            found, size = found / norm, size + np.log10(norm)
        return float(size), float(STEPS * np.log10(self.norm * f.lipschitz))


NORMS = (0.5, 0.9, 2.0, 3.5, 10.0, 100.0)
LONG = [
    Long(f, H, norm)
    for norm, H, f in itertools.product(NORMS, (1, 3, 8), ("tanh", "sigmoid", "relu", "identity"))
]


def _long_conditions() -> list[Condition]:
    found = [Condition(f"f is {f}", lambda k, f=f: k.activation == f) for f in ("tanh", "sigmoid")]
    found += [
        Condition("f is ReLU", lambda k: k.activation == "relu"),
        Condition("f is the identity", lambda k: k.activation == "identity"),
        Condition("H = 1", lambda k: k.H == 1),
        Condition(
            "||W|| max f' < 1", lambda k: k.norm * activations.get(k.activation).lipschitz < 1
        ),
    ]
    for norm in NORMS[1:]:
        found.append(Condition(f"||W|| >= {norm:g}", lambda k, norm=norm: k.norm >= norm))
    for norm in NORMS[:-1]:
        found.append(Condition(f"||W|| <= {norm:g}", lambda k, norm=norm: k.norm <= norm))
    return found


def _statement(words: str, kinds: list[Long], holds: Callable[[float, float], bool]) -> Statement:
    def rule(kind: Long, index: int) -> Outcome:
        size, bound = kind.norms(index)
        shown = (
            f"norm of the product of {STEPS} Jacobians 1e{size:.0f}" if size > -300 else "norm 0"
        )
        return Outcome(holds(size, bound), shown)

    return Statement(words, kinds, rule, _long_conditions(), problems=30)


VANISHING = (
    _statement(
        f"products vanish for long k: below 1e-2 after {STEPS} steps", LONG, lambda s, _: s < -2
    ),
    _statement(
        "the norm of the product is at most (||W_rec|| max sigma')^(t-k)",
        LONG,
        lambda s, bound: s <= bound + 1e-9,
    ),
)
EXPLODING = (
    _statement(
        f"products explode for large W_rec: above 1e2 after {STEPS} steps", LONG, lambda s, _: s > 2
    ),
)


@dataclass(frozen=True)
class Bound:
    """A chain of error terms ``delta_k^T = delta_t^T prod W diag(f'(net_i))``.

    Args:
        vector: the norm of delta.
        matrix: what is taken for ``beta_W``.
        H: units.
        W: ``"general"`` or ``"symmetric"``.
        loss: ``"last step"``, or ``"every step"``: then delta_k has terms of its own.
    """

    vector: str
    matrix: str
    H: int
    W: str
    loss: str


VECTORS = {"1": 1, "2": 2, "infinity": np.inf}
MATRICES: dict[str, Callable[[np.ndarray], float]] = {
    "the norm induced by that of delta, on W^T": lambda W: np.nan,
    "the norm induced by that of delta, on W": lambda W: np.nan,
    "Frobenius": np.linalg.norm,
    "the spectral norm": lambda W: np.linalg.norm(W, 2),
    "the spectral radius": lambda W: np.abs(np.linalg.eigvals(W)).max(),
    "the largest entry": lambda W: np.abs(W).max(),
}
BOUNDS = [
    Bound(v, m, H, W, loss)
    for H, W, loss, v, m in itertools.product(
        (1, 2, 4), ("general", "symmetric"), ("last step", "every step"), VECTORS, MATRICES
    )
    if H > 1 or W == "general"
]


def bound_holds(kind: Bound, index: int) -> Outcome:
    """``||delta_k|| <= ||delta_t|| (beta_W beta_f)^(t-k)`` on random chains of tanh steps."""
    order = VECTORS[kind.vector]
    worst = 0.0
    for trial in range(100):
        rng = np.random.default_rng([index, trial, kind.H])
        W = rng.standard_normal((kind.H, kind.H)) * rng.choice([0.3, 1.0])
        W = np.tril(W) + np.tril(W, -1).T if kind.W == "symmetric" else W
        # Small pre-activations, where the slopes come near beta_f = 1.
        nets = 0.02 * rng.standard_normal((1 + trial % 4, kind.H))
        delta = last = rng.standard_normal(kind.H)
        for net in nets:
            delta = delta @ W @ np.diag(1 - np.tanh(net) ** 2)
            if kind.loss == "every step":
                delta = delta + rng.standard_normal(kind.H)
        induced = {
            "the norm induced by that of delta, on W^T": lambda W: np.linalg.norm(W.T, order),
            "the norm induced by that of delta, on W": lambda W: np.linalg.norm(W, order),
        }
        beta = induced.get(kind.matrix, MATRICES[kind.matrix])(W)
        limit = np.linalg.norm(last, order) * beta ** len(nets)
        worst = max(worst, float(np.linalg.norm(delta, order) / limit))
    return Outcome(worst <= 1 + 1e-12, f"||delta_k|| is {worst:.3g} times the bound")


def bound_conditions() -> list[Condition]:
    """What tells the kinds of a bound apart."""
    found = [Condition(f"beta_W is {m}", lambda k, m=m: k.matrix == m) for m in MATRICES]
    found += [Condition(f"delta in the {v}-norm", lambda k, v=v: k.vector == v) for v in VECTORS]
    return [
        *found,
        Condition("H = 1", lambda k: k.H == 1),
        Condition("W is symmetric", lambda k: k.H == 1 or k.W == "symmetric"),
        Condition("the loss is at the last step only", lambda k: k.loss == "last step"),
    ]
