"""Libraries that are in use, and the gradients of torch and JAX as controls."""

# Packages are imported in the adapter that needs them: few of them are installed at a time.

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.wild.implementation import CONTROL, implementation
from bpttcheck import adapt
from bpttcheck.adapt.function import Function
from bpttcheck.jax_mode import enable_x64

LSTM = "x: T N D, Wx: 4H D, bx: 4H, Wh: 4H H, bh: 4H -> y: T N H"


def thinc_lstm(ops: Any, name: str) -> Function:
    def sizes(x: Any) -> Any:
        return np.full(len(x), x.shape[1], np.int32)

    def forward(x: Any, *weights: Any) -> tuple[Any, Any]:
        T, N, D = x.shape
        start = np.zeros((1, 1, weights[-1].shape[0] // 4), x.dtype)
        flat = np.concatenate([w.reshape(-1) for w in weights])
        y, state = ops.lstm_forward_training(flat, start, start, x.reshape(T * N, D), sizes(x))
        return y.reshape(T, N, -1), (x, weights, flat, state)

    def backward(dy: Any, cache: Any) -> list[Any]:
        x, weights, flat, state = cache
        dx, found = ops.backprop_lstm(
            dy.reshape(-1, dy.shape[-1]).copy(), sizes(x), flat.copy(), state
        )
        parts = np.split(found, np.cumsum([w.size for w in weights])[:-1])
        return [dx.reshape(x.shape), *(g.reshape(w.shape) for g, w in zip(parts, weights))]  # noqa: B905

    return adapt.from_vjp(forward, backward, LSTM, name=name, contiguous=True)


@implementation(
    "thinc",
    "LSTM, compiled (`NumpyOps`)",
    "check_vjp",
    "The layer `LSTM` on the CPU; `PyTorchLSTM` is torch's and not concerned. The first step has "
    "no share in any gradient, and the gradients of the weights start from the weights instead of "
    "from zero. Float32 only. The initial state is a parameter whose gradient the layer does not "
    "compute: it was not asked for.",
    coarse=True,
)
def thinc_numpy() -> Function:
    from thinc.api import NumpyOps

    return thinc_lstm(NumpyOps(), "thinc.NumpyOps.lstm")


@implementation(
    "thinc",
    "LSTM, of any array library (`Ops`)",
    "check_vjp",
    "The code for array libraries without a kernel of their own; here it ran on NumPy. What it "
    "computes for the gates is not kept, so that every gradient is zero. Float32 and the initial "
    "state as above.",
    coarse=True,
)
def thinc_generic() -> Function:
    from thinc.backends.ops import Ops

    return thinc_lstm(Ops(), "thinc.Ops.lstm")


@implementation(
    "mygrad",
    "`gru`",
    "check_vjp",
    "Documented: the initial state is a constant. It was handed in, and its gradient not asked "
    "for. Numba compiles it anew for every memory layout: contiguous arrays alone were handed in.",
)
def mygrad_gru() -> Function:
    import mygrad
    from mygrad.nnet.layers.gru import gru

    def graph(*arrays: Any) -> tuple[Any, list[Any]]:
        leaves = [mygrad.tensor(a) for a in arrays[:-1]]
        return gru(*leaves, s0=arrays[-1])[1:], leaves

    def backward(dy: Any, cache: Any) -> list[Any]:
        y, leaves = graph(*cache)
        y.backward(dy)
        return [*(leaf.grad for leaf in leaves), None]

    gates = ", ".join(f"U{g}: D H, W{g}: H H, b{g}: H" for g in "zrh")
    return adapt.from_vjp(
        lambda *arrays: (graph(*arrays)[0].data, arrays), backward,
        f"X: T N D, {gates}, s0: N H -> y: T N H", name="mygrad.gru",
        contiguous=True,
    )  # fmt: skip


def numpy_ml_cell(which: str, params: dict[str, str]) -> Function:
    import collections
    import collections.abc

    # What its import asks for has moved in Python 3.10.
    collections.Hashable = collections.abc.Hashable  # type: ignore[attr-defined]
    from numpy_ml.neural_nets import layers

    def make(p: dict[str, Any]) -> Any:
        cell = getattr(layers, which)(n_out=p[next(iter(p))].shape[1])
        cell.n_in = p[next(iter(params))].shape[0] - (cell.n_out if which == "LSTMCell" else 0)
        cell._init_params()
        cell.parameters.update(p)
        kept = (lambda found: found[0]) if which == "LSTMCell" else (lambda found: found)
        cell.run = lambda x: np.stack([kept(cell.forward(one)) for one in x])
        cell.back = lambda dy: np.stack([cell.backward(one) for one in dy[::-1]])[::-1]
        return cell

    return adapt.from_object(
        make, params, "T N D", y="T N H", forward="run", backward="back",
        grads=lambda cell: cell.gradients, name=f"numpy_ml.{which}",
    )  # fmt: skip


BROKEN = (
    "Its layers `RNN` and `LSTM` cannot be run as published (they call their cells with an "
    "argument that these do not take), so the cell was run over the sequence as they do. Needs "
    "`collections.Hashable`, which Python 3.10 removed; it was put back."
)


@implementation("numpy-ml", "`RNNCell` over a sequence", "check_object", BROKEN, licence="GPL-3.0")
def numpy_ml_rnn() -> Function:
    return numpy_ml_cell("RNNCell", {"Wax": "D H", "Waa": "H H", "ba": "H 1", "bx": "H 1"})


@implementation(
    "numpy-ml", "`LSTMCell` over a sequence", "check_object", "As above.", licence="GPL-3.0"
)
def numpy_ml_lstm() -> Function:
    weights = {f"W{gate}": "(D+H) H" for gate in "fuco"}
    return numpy_ml_cell("LSTMCell", weights | {f"b{gate}": "1 H" for gate in "fuco"})


@implementation("torch", "`nn.LSTM` under autograd", "check_vjp", CONTROL, licence="BSD-3-Clause")
def torch_lstm() -> Function:
    import torch

    def run(x: Any, *weights: Any) -> tuple[Any, list[Any]]:
        leaves = [torch.tensor(a, requires_grad=True) for a in (x, *weights)]
        start = torch.zeros(1, x.shape[1], weights[1].shape[1], dtype=leaves[0].dtype)
        found = torch._VF.lstm(
            leaves[0], (start, start), leaves[1:], True, 1, 0.0, True, False, False
        )
        return found[0], leaves

    def backward(dy: Any, cache: Any) -> list[Any]:
        y, leaves = run(*cache)
        return [g.numpy() for g in torch.autograd.grad(y, leaves, torch.tensor(dy))]

    return adapt.from_vjp(
        lambda *arrays: (run(*arrays)[0].detach().numpy(), arrays), backward,
        "x: T N D, Wx: 4H D, Wh: 4H H, bx: 4H, bh: 4H -> y: T N H", name="torch.nn.LSTM",
    )  # fmt: skip


@implementation(
    "jax", "a GRU in `lax.scan` under `vjp`", "check_vjp", CONTROL, licence="Apache-2.0"
)
def jax_gru() -> Function:
    import jax
    import jax.numpy as jnp

    def run(x: Any, h0: Any, W: Any, U: Any, b: Any) -> Any:
        def step(h: Any, x: Any) -> tuple[Any, Any]:
            z, r, n = jnp.split(x @ W + b, 3, -1)
            a, c, d = jnp.split(h @ U, 3, -1)
            z = jax.nn.sigmoid(z + a)
            h = (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + c) * d) + z * h
            return h, h

        return jax.lax.scan(step, h0, x)[1]

    outputs = jax.jit(run)
    pulled = jax.jit(lambda arrays, dy: jax.vjp(run, *arrays)[1](dy))

    def backward(dy: Any, cache: Any) -> list[Any]:
        with enable_x64(True):
            return [np.asarray(g) for g in pulled(cache, dy)]

    def forward(*arrays: Any) -> tuple[Any, Any]:
        with enable_x64(True):
            return np.asarray(outputs(*arrays)), arrays

    text = "x: T N D, h0: N H, W: D 3H, U: H 3H, b: 3H -> y: T N H"
    return adapt.from_vjp(forward, backward, text, name="jax.vjp of a GRU")
