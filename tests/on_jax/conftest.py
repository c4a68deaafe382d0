"""What the tests of JAX layers share: 64 bits, twins of the cells, and a layer for the checker."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpttcheck import cells
from bpttcheck.activations import ACTIVATIONS
from bpttcheck.adapt.programs import Programs, compiled
from bpttcheck.jax_mode import enable_x64
from bpttcheck.on_jax import layer

sg = jax.nn.sigmoid

TWIN_ACTIVATIONS = {
    "identity": lambda z: z,
    "tanh": jnp.tanh,
    "sigmoid": sg,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "softplus": jax.nn.softplus,
    "silu": jax.nn.silu,
    "gelu": lambda z: jax.nn.gelu(z, approximate=False),
    "softsign": jax.nn.soft_sign,
    "hard_tanh": jax.nn.hard_tanh,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "sine": jnp.sin,
}


def elman_twin(f):
    def step(p, h, x):
        new = f(p["U"] @ x + p["W"] @ h + p["b"])
        return new, new

    return step


def lstm_twin(p, state, x):
    h, c = state
    i, f, g, o = (p["W_ih"] @ x + p["W_hh"] @ h + p["b"]).reshape(4, -1)
    c = sg(f) * c + sg(i) * jnp.tanh(g)
    h = sg(o) * jnp.tanh(c)
    return (h, c), h


def peephole_twin(p, state, x):
    h, c = state
    i, f, g, o = (p["W_ih"] @ x + p["W_hh"] @ h + p["b"]).reshape(4, -1)
    new = sg(f + p["p_f"] * c) * c + sg(i + p["p_i"] * c) * jnp.tanh(g)
    h = sg(o + p["p_o"] * new) * jnp.tanh(new)
    return (h, new), h


def gru_after_twin(p, h, x):
    (xr, xz, xn), (hr, hz, hn) = (
        (p["W_ih"] @ x + p["b"]).reshape(3, -1),
        (p["W_hh"] @ h).reshape(3, -1),
    )
    n = jnp.tanh(xn + sg(xr + hr) * (hn + p["b_hn"]))
    h = n + sg(xz + hz) * (h - n)
    return h, h


def gru_before_twin(p, h, x):
    xr, xz, xn = (p["W_ih"] @ x + p["b"]).reshape(3, -1)
    W_r, W_z, W_n = p["W_hh"].reshape(3, len(h), len(h))
    n = jnp.tanh(xn + W_n @ (sg(xr + W_r @ h) * h))
    h = n + sg(xz + W_z @ h) * (h - n)
    return h, h


def jordan_twin(p, o, x):
    y = sg(p["V"] @ jnp.tanh(p["U"] @ x + p["W"] @ o + p["b"]) + p["c"])
    return y, y


TWINS = {
    "lstm": (cells.LSTM(), lstm_twin),
    "peephole_lstm": (cells.PeepholeLSTM(), peephole_twin),
    "gru_reset_after": (cells.GRUResetAfter(), gru_after_twin),
    "gru_reset_before": (cells.GRUResetBefore(), gru_before_twin),
    "jordan": (cells.Jordan(n_out=2, output_activation="sigmoid"), jordan_twin),
    **{f"elman[{a}]": (cells.Elman(a), elman_twin(TWIN_ACTIVATIONS[a])) for a in ACTIVATIONS},
}
"""Each cell with a native form, and the same step of one row in ``jax.numpy``, for autodiff."""
USUAL = ("elman[tanh]", "elman[relu]", "elman[gelu]")
"""Slopes from the value, at a kink and from the pre-activation; the other activations nightly."""


def scan(step):
    """``f(params, xs, state0, mask)`` of a step of one row, for JAX to differentiate."""

    def of_row(params, xs, state0, mask):
        def masked(state, inputs):
            x, real = inputs
            new, y = step(params, state, x)
            new = jax.tree.map(lambda n, old: jnp.where(real, n, old), new, state)
            return new, jnp.where(real, y, 0)

        state_T, ys = jax.lax.scan(masked, state0, (xs, mask))
        return ys, state_T

    def f(params, xs, state0, mask=None):
        mask = jnp.ones(xs.shape[:2], bool) if mask is None else mask
        return jax.vmap(of_row, (None, 1, 0, 1), (1, 0))(params, xs, state0, mask)

    return f


@dataclass(frozen=True)
class Problem:
    """The arguments of ``f``, and the cotangents of its results."""

    arguments: tuple
    mask: np.ndarray | None
    cotangents: tuple


def draw_problem(cell, T=5, B=3, n_in=2, n_hidden=4, masked=False, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    params = {name: value.astype(dtype) for name, value in cell.init(rng, n_in, n_hidden).items()}

    def draw(like):
        like = np.asarray(like)
        return rng.uniform(-1, 1, like.shape).astype(dtype) if like.dtype.kind == "f" else like

    state0 = jax.tree.map(draw, cell.initial_state(params, B))
    xs = draw(np.zeros((T, B, n_in)))
    n_out = cell.step(params, state0, np.zeros((B, n_in), dtype))[1].shape[1]
    mask = rng.random((T, B)) < 0.6 if masked else None
    return Problem(
        (params, xs, state0), mask, (draw(np.zeros((T, B, n_out))), jax.tree.map(draw, state0))
    )


def pull_back(f, problem):
    """The results of ``f`` and the cotangents of its arguments."""

    def run(arguments, cotangents):
        out, pull = jax.vjp(lambda *a: f(*a, problem.mask), *arguments)
        return out, pull(cotangents)

    return run_compiled(run, problem.arguments, problem.cotangents)


def run_compiled(f, *arguments):
    """``f(*arguments)``, compiled in a hurry: each program runs once."""
    arguments = jax.tree.map(jnp.asarray, arguments)
    return compiled(jax.jit(f).trace(*arguments))(*arguments)


def assert_equal_to_rounding(found, expected, dtype=np.float64):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        if a.dtype != jax.dtypes.float0:
            np.testing.assert_allclose(a, b, rtol=0, atol=200 * np.finfo(dtype).eps)


@dataclass(frozen=True, eq=False)
class OnJax:
    """``f`` as a layer of the contract, so that the checker can judge it."""

    cell: Any
    f: Any = None
    supports_mask: bool = True
    fixed_sizes: ClassVar[bool] = True

    def __post_init__(self):
        f = layer(self.cell) if self.f is None else self.f

        def run_back(arguments, mask, cotangents):
            return jax.vjp(lambda *a: f(*a, mask), *arguments)[1](cotangents)

        object.__setattr__(self, "_functions", {"forward": f, "back": run_back})
        object.__setattr__(self, "_programs", Programs())

    def _run(self, name, *arguments):
        with enable_x64() if arguments[-1] == np.float64 else nullcontext():
            arguments = jax.tree.map(jnp.asarray, arguments[:-1])
            leaves, tree = jax.tree.flatten(arguments)
            key = name, tree, *((leaf.shape, str(leaf.dtype)) for leaf in leaves)
            program = self._programs.get(
                key, lambda: compiled(jax.jit(self._functions[name]).trace(*arguments))
            )
            return jax.tree.map(np.array, program(*arguments))

    def init(self, rng, n_in, n_hidden):
        return self.cell.init(rng, n_in, n_hidden)

    def initial_state(self, params, batch_size):
        return self.cell.initial_state(params, batch_size)

    def forward(self, params, xs, state0, mask=None):
        ys, state_T = self._run("forward", params, xs, state0, mask, xs.dtype)
        return ys, state_T, (xs, state0, mask)

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, state0, mask = tape
        return self._run("back", (params, xs, state0), mask, (d_ys, d_state_T), xs.dtype)


@dataclass(frozen=True)
class Kit:
    """The functions above, for tests, which cannot import this file."""

    twins: ClassVar = TWINS
    scan = staticmethod(scan)
    problem = staticmethod(draw_problem)
    pull_back = staticmethod(pull_back)
    run = staticmethod(run_compiled)
    assert_equal = staticmethod(assert_equal_to_rounding)
    layer = OnJax


@pytest.fixture
def kit():
    return Kit()


@pytest.fixture
def x64():
    with enable_x64():
        yield


def pytest_generate_tests(metafunc):
    if "twin" in metafunc.fixturenames:
        rows = [
            pytest.param(
                pair, id=name, marks=[] if name in USUAL or "[" not in name else pytest.mark.nightly
            )
            for name, pair in TWINS.items()
        ]
        metafunc.parametrize("twin", rows)
    if "gated" in metafunc.fixturenames:
        names = [name for name in TWINS if "[" not in name or name == "elman[tanh]"]
        dear = metafunc.function.__name__.startswith("test_a_native_form_passes")
        rows = [
            pytest.param(
                TWINS[name], id=name, marks=[pytest.mark.nightly] if dear and name != "lstm" else []
            )
            for name in names
        ]
        metafunc.parametrize("gated", rows)
    if "two" in metafunc.fixturenames:
        names = ["lstm", "gru_reset_before"]
        metafunc.parametrize("two", [TWINS[name] for name in names], ids=names)
