"""torch's own layers, given the parameters of the cell that they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bpttcheck import cells
from bpttcheck.bench.form import Blocks, Ready, by_name
from bpttcheck.contract import Array
from bpttcheck.errors import Declined
from bpttcheck.problems.problem import Problem
from bpttcheck.subject.subject import Subject


def native(subject: Subject, problem: Problem) -> Ready:
    """``torch.nn.RNN``, ``LSTM`` or ``GRU``, with autograd.

    torch has two biases where the cells have one; their gradients are the same sums, so that it
    computes one sum over rows more.

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

    return Ready(run, blocks)


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
