"""Two stacked layers, and the two ways in which an error term travels in them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np

from bpttcheck import Subject, activations, unroll
from bpttcheck.calibration import LIMIT
from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.judge.verdict import judge, rounding
from bpttcheck.problems.problem import Problem, Template
from bpttcheck.results.records import Case

from .formula import Outcome
from .search import Condition

N, LONGEST = 2, 4


@dataclass(frozen=True)
class Stack:
    """Layer 1 of H + 1 units below layer 2 of H, with taps ``e`` that are zero.

    ``x = [x_in, e1, e2]``, ``net1 = U1 x_in + W1 s1 + e1``, ``net2 = U2 s1' + W2 s2 + e2``,
    ``y = s2'``: the gradient by ``e`` is the error term.

    Args:
        activation: the name of ``f``, in both layers.
    """

    activation: str = "tanh"

    def init(self, rng, n_in, n_hidden):
        H, L = n_hidden, n_hidden + 1
        shapes = {"U1": (L, N), "W1": (L, L), "U2": (H, L), "W2": (H, H)}
        return {name: rng.standard_normal(shape) for name, shape in shapes.items()}

    @property
    def sizes(self):
        """The widths that the taps need."""
        from hypothesis import strategies as st

        return st.integers(1, 3).map(lambda H: (N + 2 * H + 1, H))

    def initial_state(self, params, batch_size):
        dtype = params["W1"].dtype
        return tuple(np.zeros((batch_size, len(params[name])), dtype) for name in ("W1", "W2"))

    def step(self, params, state, x):
        f, (s1, s2), L = activations.get(self.activation), state, len(params["W1"])
        x_in, e1, e2 = x[:, :N], x[:, N : N + L], x[:, N + L :]
        net1 = x_in @ params["U1"].T + s1 @ params["W1"].T + e1
        new1 = f.value(net1)
        net2 = new1 @ params["U2"].T + s2 @ params["W2"].T + e2
        new2 = f.value(net2)
        return (new1, new2), np.positive(new2), (x_in, s1, s2, net1, new1, net2)

    def step_vjp(self, params, cache, d_state, d_y):
        f, (d_new1, d_new2) = activations.get(self.activation), d_state
        x_in, s1, s2, net1, new1, net2 = cache
        d2 = (d_new2 + d_y) * f.derivative(net2)
        d1 = (d_new1 + d2 @ params["U2"]) * f.derivative(net1)
        d_params = {"U1": d1.T @ x_in, "W1": d1.T @ s1, "U2": d2.T @ new1, "W2": d2.T @ s2}
        d_x = np.concatenate([d1 @ params["U1"], d1, d2], axis=1)
        return d_params, (d1 @ params["W1"], d2 @ params["W2"]), d_x


@dataclass(frozen=True)
class Kind:
    """A kind of problem for the stack; the loss is linear in ``s2`` of every or the last step."""

    activation: str
    T: int
    H: int
    loss: str


STACKS = [
    Kind(f, T, H, loss)
    for T, H, f, loss in itertools.product(
        (1, 2, 4), (1, 2), ("tanh", "sigmoid", "identity"), ("last step", "every step")
    )
    if T > 1 or loss == "last step"
]


def stack_conditions() -> list[Condition]:
    """What tells the kinds apart."""
    return [
        Condition("T = 1", lambda k: k.T == 1),
        Condition("T <= 2", lambda k: k.T <= 2),
        Condition("H = 1", lambda k: k.H == 1),
        Condition("f is the identity", lambda k: k.activation == "identity"),
        Condition("the loss is at the last step only", lambda k: k.loss == "last step"),
    ]


@cache
def oracle(activation: str) -> Run:
    """The harness's own run of the stack."""
    return Run(Subject(Stack(activation)), 0, ("float64",))


@cache
def _problem(kind: Kind, index: int):
    """Parameters, pre-activations, cotangents, and the true error terms with their copies."""
    rng = np.random.default_rng([index, kind.T, kind.H, len(kind.activation)])
    H, L, T, cell = kind.H, kind.H + 1, kind.T, Stack(kind.activation)
    params = cell.init(rng, N + L + H, H)
    xs = np.zeros((T, 1, N + L + H))
    xs[:, 0, :N] = rng.standard_normal((T, N))
    state = (rng.standard_normal((1, L)), rng.standard_normal((1, H)))
    d_ys = rng.standard_normal((T, 1, H))
    if kind.loss == "last step":
        d_ys[:-1] = 0.0
    _, _, tape = unroll(cell, params, xs, state)
    net1, net2 = ([c[i][0] for c in tape.caches] for i in (3, 5))
    case = Case(0, index, T, 1, N + L + H, H, "float64", "none", "ordinary")
    nothing = tuple(map(np.zeros_like, state))
    problem = Problem(case, params, xs, state, None, d_ys, nothing)
    template = Template(N + L + H, H, LONGEST, 1)
    found = oracle(kind.activation).jax.gradient(SEQUENCE, problem, template).gradients["d_xs"]
    return params, net1, net2, d_ys[:, 0], found.value[:, 0], found.copies[:, :, 0]


def _compare(kind: Kind, index: int, rule) -> Outcome:
    """The error terms of layer 1, and of layer 2, that ``rule`` gives from the true ones."""
    params, net1, net2, d_ys, value, copies = _problem(kind, index)
    L, T = kind.H + 1, kind.T
    below, above = slice(N, N + L), slice(N + L, None)
    slope = activations.get(kind.activation).derivative
    worst, numbers = 0.0, ""
    for t in range(T):
        later = value[t + 1] if t + 1 < T else np.zeros_like(value[t])
        said = rule(params, slope(net1[t]), slope(net2[t]), d_ys[t], value[t], later, below, above)
        for columns, what in said.items():
            where = {"below": below, "above": above}[columns]
            true, noisy = value[t, where], copies[:, t, where]
            # A rule that starts from the true error terms inherits their rounding errors.
            ratio = judge("delta", what, true, noisy, *rounding(np.float64)).ratio
            if ratio > worst:
                worst = ratio
                shown = [" ".join(f"{v:.4g}" for v in np.atleast_1d(a)) for a in (what, true)]
                numbers = f"delta of step {t + 1}: [{shown[0]}], true [{shown[1]}]"
    return Outcome(worst <= LIMIT, numbers)


def both_ways(kind: Kind, index: int) -> Outcome:
    """Through time by W only, downwards by U only, and the sum is all of it."""

    def rule(p, slope1, slope2, d_y, now, later, below, above):
        return {
            "above": slope2 * (d_y + later[above] @ p["W2"]),
            "below": slope1 * (now[above] @ p["U2"] + later[below] @ p["W1"]),
        }

    return _compare(kind, index, rule)


def through_time_only(kind: Kind, index: int) -> Outcome:
    """``W`` only, for the layer below."""
    return _compare(
        kind, index, lambda p, s1, s2, d, now, later, below, above: {
            "below": s1 * (later[below] @ p["W1"])
        }
    )  # fmt: skip


def below_only(kind: Kind, index: int) -> Outcome:
    """``(delta_t^l)^T U diag[f']`` as the whole error term of layer l - 1."""
    return _compare(
        kind, index, lambda p, s1, s2, d, now, later, below, above: {
            "below": now[above] @ p["U2"] @ np.diag(s1)
        }
    )  # fmt: skip


def down(kind: Kind, index: int) -> Outcome:
    """The same beside what the true error term holds besides the way through time."""

    def rule(p, slope1, slope2, d_y, now, later, below, above):
        came_down = now[above] @ p["U2"] @ np.diag(slope1)
        return {"below": came_down + later[below] @ p["W1"] @ np.diag(slope1)}

    return _compare(kind, index, rule)
