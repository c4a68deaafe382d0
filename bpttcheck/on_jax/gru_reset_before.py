"""The native form of the GRU whose reset gate acts before the product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from bpttcheck.cells import GRUResetBefore
from bpttcheck.on_jax.activations import sigmoid, tanh_slope
from bpttcheck.on_jax.form import JaxArray, JaxCell
from bpttcheck.on_jax.products import back_through, columns, rows, split, transposed


class GRUResetBeforeResiduals(NamedTuple):
    """The gates."""

    r: JaxArray
    z: JaxArray
    n: JaxArray


@dataclass(frozen=True)
class GRUResetBeforeForm:
    """The numbers are the equations of :class:`bpttcheck.cells.GRUResetBefore`.

    Deferred is ``d_a (B, 3H)``, of which ``d_uv`` is the first part.
    """

    def shapes(self, params: Any, n_in: int) -> dict[str, tuple[int, ...]]:
        """``W_ih (3H, N)``, ``W_hh (3H, H)``, ``b (3H,)``."""
        H = params["W_hh"].shape[-1]
        return {"W_ih": (3 * H, n_in), "W_hh": (3 * H, H), "b": (3 * H,)}

    def state_shapes(self, params: Any, batch_size: int) -> Any:
        """``h (B, H)``."""
        return (batch_size, params["W_hh"].shape[-1])

    def weights(self, params: Any) -> Any:
        """``W_ih.T``, ``W_g.T``, ``W_n.T`` and ``b``."""
        W_g, W_n = _gates_and_candidate(params)
        return transposed(params["W_ih"]), transposed(W_g), transposed(W_n), params["b"]

    def project(self, weights: Any, x: JaxArray) -> JaxArray:
        """Equation (1)."""
        W_ih_T, _, _, b = weights
        return x @ W_ih_T + b  # (1)

    def step(
        self, weights: Any, state: JaxArray, a: JaxArray
    ) -> tuple[JaxArray, GRUResetBeforeResiduals]:
        """Equations (2) to (6)."""
        _, W_g_T, W_n_T, _ = weights
        h = state
        a_r, a_z, a_n = split(a, 3)
        u, v = split(h @ W_g_T, 2)  # (2)
        r = sigmoid(a_r + u)  # (3)
        z = sigmoid(a_z + v)  # (4)
        n = jnp.tanh(a_n + (r * h) @ W_n_T)  # (5)
        h_new = z * h + (1 - z) * n  # (6)
        return h_new, GRUResetBeforeResiduals(r, z, n)

    def memory(self, state: JaxArray) -> JaxArray:
        """``h``; equation (7)."""
        return state

    def step_vjp(
        self,
        params: Any,
        memory: tuple[JaxArray, JaxArray],
        kept: GRUResetBeforeResiduals,
        d_state: JaxArray,
        d_y: JaxArray,
    ) -> tuple[JaxArray, JaxArray]:
        """Equations (8) to (16)."""
        h, _ = memory
        r, z, n = kept
        W_g, W_n = _gates_and_candidate(params)
        d_h_new = d_state + d_y  # (8)
        d_a_n = d_h_new * ((1 - z) * tanh_slope(n))  # (9), (11)
        d_rh = d_a_n @ W_n  # (12)
        d_a_r = d_rh * (h * r * (1 - r))  # (13), (14)
        d_a_z = d_h_new * ((h - n) * z * (1 - z))  # (10), (15)
        d_uv = jnp.concatenate([d_a_r, d_a_z], axis=-1)
        d_h = (
            d_h_new * z  # (16a)
            + d_rh * r  # (16b)
            + d_uv @ W_g  # (16c)
        )
        return d_h, jnp.concatenate([d_uv, d_a_n], axis=-1)

    def accumulate(
        self,
        params: Any,
        xs: JaxArray,
        memories: JaxArray,
        kept: GRUResetBeforeResiduals,
        deferred: JaxArray,
    ) -> tuple[dict[str, JaxArray], JaxArray]:
        """Equations (17) to (21) for all steps."""
        d_a, d_a_T = deferred, columns(deferred)
        H = params["W_hh"].shape[-1]
        d_W_g = d_a_T[: 2 * H] @ rows(memories)  # (17)
        d_W_n = d_a_T[2 * H :] @ rows(kept.r * memories)  # (18)
        d_params = {
            "W_ih": d_a_T @ rows(xs),  # (19)
            "W_hh": jnp.concatenate([d_W_g, d_W_n]),
            "b": d_a_T.sum(axis=1),  # (20)
        }
        return d_params, back_through(d_a, params["W_ih"])  # (21)


def form(cell: GRUResetBefore) -> JaxCell | None:
    """The form of this cell."""
    return GRUResetBeforeForm()


def _gates_and_candidate(params: Any) -> tuple[JaxArray, JaxArray]:
    W_hh = params["W_hh"]
    H = W_hh.shape[-1]
    return W_hh[: 2 * H], W_hh[2 * H :]
