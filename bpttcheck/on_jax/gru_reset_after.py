"""The native form of the GRU whose reset gate acts after the product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from bpttcheck.cells import GRUResetAfter
from bpttcheck.on_jax.activations import sigmoid, tanh_slope
from bpttcheck.on_jax.form import JaxArray, JaxCell
from bpttcheck.on_jax.products import (
    back_through_parts,
    columns,
    is_few,
    rows,
    split,
    transposed,
)


class GRUResetAfterResiduals(NamedTuple):
    """The gates and what ``r`` scales."""

    r: JaxArray
    z: JaxArray
    n: JaxArray
    q: JaxArray


@dataclass(frozen=True)
class GRUResetAfterForm:
    """The numbers are the equations of :class:`bpttcheck.cells.GRUResetAfter`.

    Deferred is ``d_a`` in parts, the last of which is ``d_a_n``; ``d_q`` follows from that one and
    need not be stored. With few rows the two gates are one part, because the number of operations
    dominates; with many rows each is a part, because copies dominate.
    """

    def shapes(self, params: Any, n_in: int) -> dict[str, tuple[int, ...]]:
        """``W_ih (3H, N)``, ``W_hh (3H, H)``, ``b (3H,)``, ``b_hn (H,)``."""
        H = params["W_hh"].shape[-1]
        return {"W_ih": (3 * H, n_in), "W_hh": (3 * H, H), "b": (3 * H,), "b_hn": (H,)}

    def state_shapes(self, params: Any, batch_size: int) -> Any:
        """``h (B, H)``."""
        return (batch_size, params["W_hh"].shape[-1])

    def weights(self, params: Any) -> Any:
        """``W_ih.T``, ``W_hh.T`` and both biases."""
        return (
            transposed(params["W_ih"]),
            transposed(params["W_hh"]),
            params["b"],
            params["b_hn"],
        )

    def project(self, weights: Any, x: JaxArray) -> JaxArray:
        """Equation (1)."""
        W_ih_T, _, b, _ = weights
        return x @ W_ih_T + b  # (1)

    def step(
        self, weights: Any, state: JaxArray, a: JaxArray
    ) -> tuple[JaxArray, GRUResetAfterResiduals]:
        """Equations (2) to (7)."""
        _, W_hh_T, _, b_hn = weights
        h = state
        a_r, a_z, a_n = split(a, 3)
        s_r, s_z, s_n = split(h @ W_hh_T, 3)  # (2)
        r = sigmoid(a_r + s_r)  # (3)
        z = sigmoid(a_z + s_z)  # (4)
        q = s_n + b_hn  # (5)
        n = jnp.tanh(a_n + r * q)  # (6)
        h_new = (1 - z) * n + z * h  # (7)
        return h_new, GRUResetAfterResiduals(r, z, n, q)

    def memory(self, state: JaxArray) -> JaxArray:
        """``h``; equation (8)."""
        return state

    def step_vjp(
        self,
        params: Any,
        memory: tuple[JaxArray, JaxArray],
        kept: GRUResetAfterResiduals,
        d_state: JaxArray,
        d_y: JaxArray,
    ) -> tuple[JaxArray, tuple[JaxArray, ...]]:
        """Equations (9) to (16) and (22)."""
        h, _ = memory
        r, z, n, q = kept
        d_h_new = d_state + d_y  # (9)
        d_a_n = d_h_new * ((1 - z) * tanh_slope(n))  # (10), (12)
        d_q = d_a_n * r  # (14)
        d_a_z = d_h_new * ((h - n) * z * (1 - z))  # (11), (15)
        d_a_r = d_a_n * (q * r * (1 - r))  # (13), (16)
        d_a_g = (d_a_r, d_a_z)
        if is_few(h):
            d_a_g = (jnp.concatenate(d_a_g, axis=-1),)
        d_s = jnp.concatenate([*d_a_g, d_q], axis=-1)
        d_h = (
            d_h_new * z  # (22a)
            + d_s @ params["W_hh"]  # (22b)
        )
        return d_h, (*d_a_g, d_a_n)

    def accumulate(
        self,
        params: Any,
        xs: JaxArray,
        memories: JaxArray,
        kept: GRUResetAfterResiduals,
        deferred: tuple[JaxArray, ...],
    ) -> tuple[dict[str, JaxArray], JaxArray]:
        """Equations (17) to (21) for all steps."""
        *d_a_g_T, d_a_n_T = (columns(part) for part in deferred)
        d_q_T = columns(deferred[-1] * kept.r)  # (14)
        d_a_T, d_s_T = (*d_a_g_T, d_a_n_T), (*d_a_g_T, d_q_T)
        x, h = rows(xs), rows(memories)
        d_params = {
            "W_ih": jnp.concatenate([part @ x for part in d_a_T]),  # (18)
            "W_hh": jnp.concatenate([part @ h for part in d_s_T]),  # (21)
            "b": jnp.concatenate([part.sum(axis=1) for part in d_a_T]),  # (19)
            "b_hn": d_q_T.sum(axis=1),  # (17)
        }
        return d_params, back_through_parts(deferred, params["W_ih"])  # (20)


def form(cell: GRUResetAfter) -> JaxCell | None:
    """The form of this cell."""
    return GRUResetAfterForm()
