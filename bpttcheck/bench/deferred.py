"""JAX autodiff of the package's own cells, with the weight gradients deferred until after the loop.

Autodiff of a scan adds a product to every recurrent weight gradient in each step. Here the weights
are constants of the scan: it gives the cotangents of what the recurrent products are added to, and
each weight gradient is one product over all ``T B`` rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bpttcheck import cells
from bpttcheck.bench import projections
from bpttcheck.bench.projections import Split

# (params, state, a, addend) -> (state, what the recurrent weights multiply)
Step = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Recurrent:
    """The recurrent products of a cell.

    Args:
        step: one step; its second result is what the recurrent weights multiply.
        gradients: ``(d_a, d_addend, lefts) -> d_params``, for the recurrent weights and what is
            added to their products alone.
        addend: ``(params, a) -> (T, B, H)``, what is added to a recurrent product that is not
            simply a part of ``a``; where there is none, ``d_a`` is its cotangent already.
    """

    step: Step
    gradients: Callable[[Any, Any, Any], dict[str, Any]]
    addend: Callable[[Any, Any], Any] = lambda params, a: None


def of(cell: Any) -> Callable[[Any, Any, Any], tuple[Any, Any]] | None:
    """``f(params, xs, state0) -> (ys, state_T)`` with such gradients; None for other cells."""
    split, make = projections.of(cell), _RECURRENT.get(type(cell))
    return None if split is None or make is None else _sequence(split, make(split))


def _sequence(
    split: Split, recurrent: Recurrent
) -> Callable[[Any, Any, Any], tuple[Any, Any]]:  # fmt: skip
    @jax.custom_vjp
    def sequence(params: Any, xs: Any, state0: Any) -> tuple[Any, Any]:
        return split.hoisted(params, xs, state0)

    def forward(params: Any, xs: Any, state0: Any) -> tuple[Any, Any]:
        a, pull_a = jax.vjp(split.project, params, xs)

        def scan(a: Any, addend: Any, state0: Any) -> tuple[Any, Any]:
            def body(state: Any, given: Any) -> tuple[Any, Any]:
                new, left = recurrent.step(params, state, *given)
                return new, (new[0] if isinstance(new, tuple) else new, left)

            last, (ys, lefts) = jax.lax.scan(body, state0, (a, addend))
            return (ys, last), lefts

        addend = recurrent.addend(params, a)
        out, pull, lefts = jax.vjp(scan, a, addend, state0, has_aux=True)
        return out, (pull_a, pull, lefts)

    def backward(kept: Any, cotangents: Any) -> tuple[Any, Any, Any]:
        pull_a, pull, lefts = kept
        d_a, d_addend, d_state0 = pull(cotangents)
        d_params, d_xs = pull_a(d_a)
        return {**d_params, **recurrent.gradients(d_a, d_addend, lefts)}, d_xs, d_state0

    sequence.defvjp(forward, backward)
    return sequence


def _elman(split: Split) -> Recurrent:
    return Recurrent(
        step=lambda p, h, a, _: (split.step(p, h, a), h),
        gradients=lambda d_a, _, hs: {"W": over_rows(d_a, hs)},
    )


def _lstm(split: Split) -> Recurrent:
    return Recurrent(
        step=lambda p, state, a, _: (split.step(p, state, a), state[0]),
        gradients=lambda d_a, _, hs: {"W_hh": over_rows(d_a, hs)},
    )


def _gru_reset_after(split: Split) -> Recurrent:
    """The reset gate scales ``s_n + b_hn``: a bias for each step and row is the addend of ``s_n``.

    Its gradient is the cotangent of that product, and summed up that of the bias.
    """

    def gradients(d_a: Any, d_bias: Any, hs: Any) -> dict[str, Any]:
        d_s = jnp.concatenate([d_a[..., : 2 * d_bias.shape[-1]], d_bias], axis=-1)
        return {"W_hh": over_rows(d_s, hs), "b_hn": d_bias.sum((0, 1))}

    return Recurrent(
        step=lambda p, h, a, bias: (split.step({**p, "b_hn": bias}, h, a), h),
        gradients=gradients,
        addend=lambda p, a: jnp.broadcast_to(p["b_hn"], (*a.shape[:2], len(p["b_hn"]))),
    )


def _gru_reset_before(_: Split) -> Recurrent:
    """All products are parts of ``a``, but the last multiplies ``r * h``."""

    def step(params: Any, h: Any, a: Any, _: Any) -> tuple[Any, Any]:
        new, scaled = projections.gru_reset_before(params, h, a)
        return new, (h, scaled)

    def gradients(d_a: Any, _: Any, lefts: Any) -> dict[str, Any]:
        hs, scaled = lefts
        H = hs.shape[-1]
        parts = [over_rows(d_a[..., : 2 * H], hs), over_rows(d_a[..., 2 * H :], scaled)]
        return {"W_hh": jnp.concatenate(parts)}

    return Recurrent(step, gradients)


def over_rows(d_products: Any, lefts: Any) -> Any:
    """The sum over steps and rows of outer products, ``(K, H)``, as one product."""
    K, H = d_products.shape[-1], lefts.shape[-1]
    return d_products.reshape(-1, K).T @ lefts.reshape(-1, H)


_RECURRENT: dict[type, Callable[[Split], Recurrent]] = {
    cells.Elman: _elman,
    cells.LSTM: _lstm,
    cells.GRUResetAfter: _gru_reset_after,
    cells.GRUResetBefore: _gru_reset_before,
}
