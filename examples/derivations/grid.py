"""The kinds of problem that every formula is tried on, and what is true of each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from bpttcheck import Subject, activations, unroll
from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.oracles.autodiff.autodiff import Spread
from bpttcheck.problems.problem import Problem, Template
from bpttcheck.results.records import Case

from .network import K, Layout, Network
from .sequence import Sequence

ACTIVATIONS = ("tanh", "sigmoid", "relu", "identity")
LENGTHS = (1, 2, 3, 5)
SIZES = ((1, 1), (2, 1), (1, 3), (2, 3), (3, 3))
LARGEST = Layout(max(n for n, _ in SIZES), max(H for _, H in SIZES))
"""The one size that JAX compiles: smaller networks lie in it, the rest of it being zero."""

PROBLEMS = {"relu": 8}
"""Random problems of each kind: 3, but for ReLU every pattern twice."""


@dataclass(frozen=True)
class Kind:
    """A kind of problem: everything about it but the numbers.

    Args:
        activation: the name of ``f``.
        T: the number of steps.
        n: inputs.
        H: hidden units.
        W: ``"general"``, ``"symmetric"`` or ``"diagonal"``.
        loss: ``"every step"`` or ``"last step"``.
        h0: ``"random"`` or ``"zero"``.
    """

    activation: str
    T: int
    n: int
    H: int
    W: str = "general"
    loss: str = "every step"
    h0: str = "random"


def kinds() -> Iterator[Kind]:
    """Every kind, the smallest first; kinds that are the same are there once."""
    for T, (n, H) in itertools.product(LENGTHS, SIZES):
        matrices = ("general", "symmetric", "diagonal") if H > 1 else ("general",)
        losses = ("every step", "last step") if T > 1 else ("last step",)
        for h0, loss, W, f in itertools.product(("zero", "random"), losses, matrices, ACTIVATIONS):
            yield Kind(f, T, n, H, W, loss, h0)


class Truth:
    """One problem with its numbers: what the formulas see, and what JAX says with error bars.

    Args:
        kind: its kind.
        index: which of the problems of this kind.
        decimals: round every number to so many decimals, to be read; None: leave them.
    """

    def __init__(self, kind: Kind, index: int, decimals: int | None = None) -> None:
        self.kind, self.index = kind, index
        self.layout = Layout(kind.n, kind.H)
        self.params, self.xs, self.h0 = _draw(kind, index, decimals)

    @cached_property
    def weights(self) -> np.ndarray:
        """The weight ``dE/dE_t`` of every step's loss."""
        every = self.kind.loss == "every step"
        return np.array([float(every or t == self.kind.T - 1) for t in range(self.kind.T)])

    @cached_property
    def sequence(self) -> Sequence:
        """The forward pass, by the package's own loop."""
        cell = Network(self.kind.activation)
        ys, _, tape = unroll(cell, self.params, self.xs, self.h0[None])
        H, layout = self.kind.H, self.layout
        h = [state[0] for state in tape.states]
        z, o = ys[:, 0, 1 : 1 + H], ys[:, 0, 1 + H :]
        target = self.xs[:, 0, layout.columns("y")]
        odds = np.exp(o - o.max(axis=1, keepdims=True))
        do = (odds / odds.sum(axis=1, keepdims=True) - target) * self.weights[:, None]
        nothing = np.full(1, np.nan)
        return Sequence(
            f=activations.get(self.kind.activation),
            params=self.params,
            x=[nothing, *self.xs[:, 0, layout.columns("x")]],
            h=h,
            z=[nothing, *z],
            de_dh=[nothing, *(do @ self.params["V"])],
            do=[nothing, *do],
        )

    def spread(self, block: object) -> Spread:
        """The true value of a block, with JAX's noisy copies.

        Args:
            block: a parameter's name; ``("z" | "h" | "o" | "W" | "U", t)`` for the gradient of the
                loss by the occurrence at step t; ``("dh", "h" | "z", k)`` or ``("dz", "z", k)`` for
                the Jacobian of ``h_T`` or ``z_T`` by the quantity at step k.
        """
        if isinstance(block, str):
            return self._gradient[f"d_params[{block!r}]"]
        name, *where = block
        if name in ("dh", "dz"):
            rows = [self._tap(found, *where) for found in self._unit_rows(name)]
            value = np.stack([row.value for row in rows])
            return Spread(value, np.stack([row.copies for row in rows], axis=1))
        return self._tap(self._gradient, name, *where)

    @cached_property
    def _gradient(self) -> dict[str, Spread]:
        d_ys = np.zeros((self.kind.T, 1, 1 + LARGEST.H + K))
        d_ys[:, 0, 0] = self.weights
        return self._ask(d_ys, np.zeros(LARGEST.H))

    def _unit_rows(self, of: str) -> list[dict[str, Spread]]:
        known = self.__dict__.setdefault(f"_rows_{of}", [])
        for i in range(self.kind.H if not known else 0):
            d_ys, d_h = np.zeros((self.kind.T, 1, 1 + LARGEST.H + K)), np.zeros(LARGEST.H)
            if of == "dz":
                d_ys[-1, 0, 1 + i] = 1.0
            else:
                d_h[i] = 1.0
            known.append(self._ask(d_ys, d_h))
        return known

    def _tap(self, found: dict[str, Spread], name: str, t: int) -> Spread:
        """The gradient by the tap of step t; ``h`` at step 0 is the initial state."""
        n, H = self.kind.n, self.kind.H
        if name == "h" and t == 0:
            return _cut(found["d_state0"], (slice(1), slice(H)), (H,))
        columns, big = LARGEST.columns(name), LARGEST
        whole = {"W": (big.H, big.H), "U": (big.H, big.n)}.get(name, (LARGEST.widths[name],))
        small = {"W": (H, H), "U": (H, n), "o": (K,)}.get(name, (H,))
        row = _cut(found["d_xs"], (t - 1, 0, columns), whole)
        return _cut(row, tuple(map(slice, small)), small)

    def _ask(self, d_ys: np.ndarray, d_h: np.ndarray) -> dict[str, Spread]:
        kind, width = self.kind, LARGEST.width
        params = {name: _grown(value, name) for name, value in self.params.items()}
        xs = np.zeros((kind.T, 1, width))
        for name in ("x", "y"):
            values = self.xs[:, 0, self.layout.columns(name)]
            xs[:, 0, LARGEST.columns(name)][:, : values.shape[1]] = values
        h0 = np.concatenate([self.h0, np.zeros(LARGEST.H - kind.H)])
        case = Case(0, self.index, kind.T, 1, width, LARGEST.H, "float64", "none", "ordinary")
        problem = Problem(case, params, xs, h0[None], None, d_ys, d_h[None])
        template = Template(width, LARGEST.H, max(LENGTHS), 1)
        found = oracle(kind.activation).jax.gradient(SEQUENCE, problem, template).gradients
        parameters = {
            f"d_params[{name!r}]": _cut(
                found[f"d_params[{name!r}]"], tuple(map(slice, value.shape)), value.shape
            )
            for name, value in self.params.items()
        }
        return {**found, **parameters}


def _cut(spread: Spread, where: tuple, shape: tuple[int, ...]) -> Spread:
    """A part of a block, its noisy copies with it."""
    copies = spread.copies[(slice(None), *where)]
    return Spread(spread.value[where].reshape(shape), copies.reshape(len(copies), *shape))


def _grown(value: np.ndarray, name: str) -> np.ndarray:
    """A parameter with rows and columns of zeros up to the largest size."""
    n, H = LARGEST.n, LARGEST.H
    shape = {"U": (H, n), "W": (H, H), "b": (H,), "V": (K, H), "c": (K,)}[name]
    return np.pad(value, [(0, big - small) for big, small in zip(shape, value.shape, strict=True)])


@cache
def oracle(activation: str) -> Run:
    """The harness's own run of the network, which keeps its compiled programs."""
    return Run(Subject(Network(activation)), 0, ("float64",))


def _draw(kind: Kind, index: int, decimals: int | None):
    """Numbers for a problem: a function of the kind and the index alone."""
    seed = [index, kind.T, kind.n, kind.H, *map(ord, kind.W[0] + kind.loss[0] + kind.h0[0])]
    rng = np.random.default_rng(seed)
    params, xs, h0 = _numbers(kind, rng, decimals)
    if kind.activation != "relu":
        return params, xs, h0
    if index % 4 == 0:
        return {k: v if k in "Vc" else np.abs(v) for k, v in params.items()}, np.abs(xs), np.abs(h0)
    while not _pattern_fits(kind, index, params, xs, h0):
        params, xs, h0 = _numbers(kind, rng, decimals)
    return params, xs, h0


def _numbers(kind: Kind, rng: np.random.Generator, decimals: int | None):
    T, n, H, layout = kind.T, kind.n, kind.H, Layout(kind.n, kind.H)
    short = lambda value: value if decimals is None else np.round(value, decimals)  # noqa: E731
    # Not so large that the softmax saturates and the losses of early steps are lost in rounding.
    draw = lambda *shape: short(0.7 * rng.standard_normal(shape)) + 0.0  # noqa: E731
    W = draw(H, H)
    if kind.W == "diagonal":
        W = np.diag(np.diag(W))
    elif kind.W == "symmetric":
        W = np.tril(W) + np.tril(W, -1).T
    params = {"U": draw(H, n), "W": W, "b": draw(H), "V": draw(K, H), "c": draw(K)}
    xs = np.zeros((T, 1, layout.width))
    xs[:, 0, layout.columns("x")] = draw(T, n)
    xs[:, 0, layout.columns("y")] = np.eye(K)[rng.integers(K, size=T)]
    return params, xs, draw(H) * (kind.h0 == "random") + 0.0


def _pattern_fits(kind: Kind, index: int, params, xs, h0) -> bool:
    """ReLU needs problems of every pattern, or a dead unit makes a wrong formula look right.

    In turn: every unit alive at every step, because no number is negative; the first unit dead at
    the last step only; at the first step only; any pattern.
    """
    _, _, tape = unroll(Network("relu"), params, xs, h0[None])
    alive = np.array([cache[2][0] > 0 for cache in tape.caches])
    wanted = np.ones(kind.T, bool)
    if index % 4 == 3:
        return True
    wanted[-1 if index % 4 == 1 else 0] = False
    return bool((alive[:, 0] == wanted).all())
