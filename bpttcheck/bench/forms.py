"""Every implementation that is timed, by its key; torch's layers with a cell's parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck import cells
from bpttcheck.bench import by_hand, correct, in_jax
from bpttcheck.bench.form import Blocks, PreparedRun, by_name
from bpttcheck.contract import Array
from bpttcheck.errors import Declined
from bpttcheck.problems.problem import Problem
from bpttcheck.subject.subject import Subject


@dataclass(frozen=True)
class Implementation:
    """A way to compute all gradients of a problem.

    Args:
        title: for a reader.
        build: prepares it, or raises :class:`bpttcheck.errors.Declined` with the reason.
        smallest_only: True if it is so slow that it is measured at the smallest size only, and in
            few rounds.
        limit: the largest relative error in float64 and float32, for what cannot be held to the
            limits of :mod:`bpttcheck.bench.correct`.
    """

    title: str
    build: Callable[[Subject, Problem], PreparedRun]
    smallest_only: bool = False
    limit: dict[str, float] | None = None


# The gradients that autodiff provides for a forward pass alone; part of the backward pass of
# "jax_deferred" is written by hand.
BASELINES = ("jax", "jax_hoisted")
NUMPY = ("numpy", "deferred", "fused")
FEW_ROUNDS = 3


def native(subject: Subject, problem: Problem) -> PreparedRun:
    """``torch.nn.RNN``, ``LSTM`` or ``GRU``, with autograd.

    torch has two biases where the cells have one; their gradients are equal, so torch computes one
    more sum over rows.

    Raises:
        Declined: torch has no such layer, or is not installed.
    """
    kind = _kind(subject.target)
    if kind is None:
        raise Declined("torch has no such layer")
    try:
        import torch
    except ImportError as error:
        raise Declined("torch is not installed") from error
    dtype = getattr(torch, problem.case.dtype)
    module = getattr(torch.nn, kind)(problem.case.n_in, problem.case.n_hidden, dtype=dtype)
    given = _LOAD[kind](problem.params)
    for name, value in given.items():
        getattr(module, f"{name}_l0").data.copy_(torch.from_numpy(np.array(value)))
    pair = kind == "LSTM"

    def tensors(values: Any, moving: bool = True) -> Any:
        made = [torch.from_numpy(np.array(v)) for v in values]
        return [tensor.requires_grad_(moving) for tensor in made]

    (xs,) = tensors([problem.xs])
    state0 = tensors([s[None] for s in (problem.state0 if pair else (problem.state0,))])
    d_state = problem.d_state if pair else (problem.d_state,)
    cotangents = tensors([problem.d_ys, *(d[None] for d in d_state)], moving=False)
    weights = [getattr(module, f"{name}_l0") for name in given]

    def run() -> Any:
        ys, last = module(xs, tuple(state0) if pair else state0[0])
        outputs = [ys, *(last if pair else (last,))]
        return torch.autograd.grad(outputs, [*weights, xs, *state0], cotangents)

    def blocks(result: Any) -> Blocks:
        arrays: list[Array] = [tensor.numpy() for tensor in result]
        named = dict(zip(given, arrays, strict=False))
        d_state0 = [array[0] for array in arrays[len(given) + 1 :]]
        d_params = _SAVE[kind](named)
        return by_name(
            problem, d_params, arrays[len(given)], tuple(d_state0) if pair else d_state0[0]
        )

    return PreparedRun(run, blocks)


def _kind(cell: Any) -> str | None:
    if type(cell) is cells.Elman:
        return "RNN" if cell.activation == "tanh" else None
    return {cells.LSTM: "LSTM", cells.GRUResetAfter: "GRU"}.get(type(cell))


def _two_biases(weight_ih: Array, weight_hh: Array, b: Array) -> dict[str, Array]:
    return {
        "weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": b, "bias_hh": np.zeros_like(b),
    }  # fmt: skip


def _gru_biases(p: dict[str, Array]) -> dict[str, Array]:
    given = _two_biases(p["W_ih"], p["W_hh"], p["b"])
    given["bias_hh"][2 * len(p["b_hn"]) :] = p["b_hn"]
    return given


_LOAD: dict[str, Callable[[Any], dict[str, Array]]] = {
    "RNN": lambda p: _two_biases(p["U"], p["W"], p["b"]),
    "LSTM": lambda p: _two_biases(p["W_ih"], p["W_hh"], p["b"]),
    "GRU": _gru_biases,
}
_SAVE: dict[str, Callable[[dict[str, Array]], dict[str, Array]]] = {
    "RNN": lambda d: {"U": d["weight_ih"], "W": d["weight_hh"], "b": d["bias_ih"]},
    "LSTM": lambda d: {"W_ih": d["weight_ih"], "W_hh": d["weight_hh"], "b": d["bias_ih"]},
    "GRU": lambda d: {
        "W_ih": d["weight_ih"], "W_hh": d["weight_hh"], "b": d["bias_ih"],
        "b_hn": d["bias_hh"][2 * d["weight_hh"].shape[1] :],
    },
}  # fmt: skip


FORMS: dict[str, Implementation] = {
    "numpy": Implementation("hand-written in NumPy, as it is", by_hand.as_it_is),
    "deferred": Implementation(
        "hand-written in NumPy, weight gradients deferred", by_hand.deferred
    ),
    "fused": Implementation("hand-written in NumPy, fused", by_hand.fused),
    "on_jax": Implementation("hand-written on JAX, jitted", in_jax.by_hand),
    "jax": Implementation("JAX autodiff of one scan, jitted", in_jax.plain),
    "jax_hoisted": Implementation("JAX autodiff, projection hoisted, jitted", in_jax.hoisted),
    "jax_deferred": Implementation(
        "JAX autodiff, weight gradients deferred, jitted", in_jax.weights_deferred
    ),
    "torch": Implementation("torch's own layer, autograd", native),
    "jax_eager": Implementation("JAX autodiff, not jitted", in_jax.not_jitted, smallest_only=True),
    "differences": Implementation(
        "central differences, entry by entry",
        correct.every_entry,
        smallest_only=True,
        limit={"float64": 1e-5, "float32": 3e-2},
    ),
}
