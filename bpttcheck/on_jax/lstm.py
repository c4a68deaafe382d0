"""The native forms of the LSTM, without and with peepholes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from bpttcheck.cells import LSTM, PeepholeLSTM
from bpttcheck.on_jax.activations import sigmoid, tanh_slope
from bpttcheck.on_jax.form import JaxArray, JaxCell
from bpttcheck.on_jax.products import back_through, columns, rows, split, transposed


class LSTMResiduals(NamedTuple):
    """The gates, ``tanh(c')`` and the cell state before the step."""

    i: JaxArray
    f: JaxArray
    g: JaxArray
    o: JaxArray
    tanh_c: JaxArray
    c: JaxArray


class _LSTMState:
    """What both forms share: the state, and the inputs' part of the gates."""

    def state_shapes(self, params: Any, batch_size: int) -> Any:
        """``h (B, H)`` and ``c (B, H)``."""
        H = params["W_hh"].shape[-1]
        return (batch_size, H), (batch_size, H)

    def weights(self, params: Any) -> Any:
        """``W_ih.T``, ``W_hh.T`` and the parameters."""
        return transposed(params["W_ih"]), transposed(params["W_hh"]), params

    def project(self, weights: Any, x: JaxArray) -> JaxArray:
        """The inputs' part of equation (1)."""
        W_ih_T, _, params = weights
        return x @ W_ih_T + params["b"]

    def memory(self, state: Any) -> JaxArray:
        """``h``; equation (8)."""
        return state[0]


@dataclass(frozen=True)
class LSTMForm(_LSTMState):
    """Long short-term memory; the numbers are the equations of :class:`bpttcheck.cells.LSTM`.

    Deferred is ``d_a (B, 4H)``.
    """

    def shapes(self, params: Any, n_in: int) -> dict[str, tuple[int, ...]]:
        """``W_ih (4H, N)``, ``W_hh (4H, H)``, ``b (4H,)``."""
        H = params["W_hh"].shape[-1]
        return {"W_ih": (4 * H, n_in), "W_hh": (4 * H, H), "b": (4 * H,)}

    def step(self, weights: Any, state: Any, a: JaxArray) -> tuple[Any, LSTMResiduals]:
        """Equations (1) to (7)."""
        _, W_hh_T, _ = weights
        h, c = state
        a_i, a_f, a_g, a_o = split(a + h @ W_hh_T, 4)  # (1)
        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)  # (2), (3), (5)
        g = jnp.tanh(a_g)  # (4)
        c_new = f * c + i * g  # (6)
        tanh_c = jnp.tanh(c_new)
        h_new = o * tanh_c  # (7)
        return (h_new, c_new), LSTMResiduals(i, f, g, o, tanh_c, c)

    def step_vjp(
        self,
        params: Any,
        memory: tuple[JaxArray, JaxArray],
        kept: LSTMResiduals,
        d_state: Any,
        d_y: JaxArray,
    ) -> tuple[Any, JaxArray]:
        """Equations (9) to (19) and (23)."""
        i, f, g, o, tanh_c, c = kept
        d_h_next, d_c_next = d_state
        d_h_new = d_h_next + d_y  # (9)
        d_c_new = d_c_next + d_h_new * (o * tanh_slope(tanh_c))  # (11)
        d_a_i = d_c_new * (g * i * (1 - i))  # (13), (16)
        d_a_f = d_c_new * (c * f * (1 - f))  # (12), (17)
        d_a_g = d_c_new * (i * tanh_slope(g))  # (14), (18)
        d_a_o = d_h_new * (tanh_c * o * (1 - o))  # (10), (19)
        d_a = jnp.concatenate([d_a_i, d_a_f, d_a_g, d_a_o], axis=-1)
        d_h = d_a @ params["W_hh"]  # (23)
        d_c = d_c_new * f  # (15)
        return (d_h, d_c), d_a

    def accumulate(
        self, params: Any, xs: JaxArray, memories: JaxArray, kept: LSTMResiduals, deferred: JaxArray
    ) -> tuple[dict[str, JaxArray], JaxArray]:
        """Equations (20), (21), (22) and (24) for all steps."""
        d_a, d_a_T = deferred, columns(deferred)
        d_params = {
            "W_ih": d_a_T @ rows(xs),  # (20)
            "W_hh": d_a_T @ rows(memories),  # (21)
            "b": d_a_T.sum(axis=1),  # (22)
        }
        return d_params, back_through(d_a, params["W_ih"])  # (24)


@dataclass(frozen=True)
class PeepholeLSTMForm(_LSTMState):
    """The numbers are the equations of :class:`bpttcheck.cells.PeepholeLSTM`.

    Deferred is ``d_a (B, 4H)``.
    """

    def shapes(self, params: Any, n_in: int) -> dict[str, tuple[int, ...]]:
        """``W_ih (4H, N)``, ``W_hh (4H, H)``, ``b (4H,)``, ``p_i, p_f, p_o (H,)``."""
        H = params["W_hh"].shape[-1]
        matrices = {"W_ih": (4 * H, n_in), "W_hh": (4 * H, H), "b": (4 * H,)}
        return matrices | dict.fromkeys(("p_i", "p_f", "p_o"), (H,))

    def step(self, weights: Any, state: Any, a: JaxArray) -> tuple[Any, LSTMResiduals]:
        """Equations (1) to (7)."""
        _, W_hh_T, params = weights
        h, c = state
        a_i, a_f, a_g, a_o = split(a + h @ W_hh_T, 4)  # (1)
        i = sigmoid(a_i + params["p_i"] * c)  # (2)
        f = sigmoid(a_f + params["p_f"] * c)  # (3)
        g = jnp.tanh(a_g)  # (4)
        c_new = f * c + i * g  # (5)
        o = sigmoid(a_o + params["p_o"] * c_new)  # (6)
        tanh_c = jnp.tanh(c_new)
        h_new = o * tanh_c  # (7)
        return (h_new, c_new), LSTMResiduals(i, f, g, o, tanh_c, c)

    def step_vjp(
        self,
        params: Any,
        memory: tuple[JaxArray, JaxArray],
        kept: LSTMResiduals,
        d_state: Any,
        d_y: JaxArray,
    ) -> tuple[Any, JaxArray]:
        """Equations (9) to (19) and (26)."""
        i, f, g, o, tanh_c, c = kept
        d_h_next, d_c_next = d_state
        d_h_new = d_h_next + d_y  # (9)
        d_a_o = d_h_new * (tanh_c * o * (1 - o))  # (10), (11)
        d_c_new = (
            d_c_next  # (12a)
            + d_h_new * (o * tanh_slope(tanh_c))  # (12b)
            + d_a_o * params["p_o"]  # (12c)
        )
        d_a_i = d_c_new * (g * i * (1 - i))  # (13), (16)
        d_a_f = d_c_new * (c * f * (1 - f))  # (14), (17)
        d_a_g = d_c_new * (i * tanh_slope(g))  # (15), (18)
        d_c = (
            d_c_new * f  # (19a)
            + d_a_i * params["p_i"]  # (19b)
            + d_a_f * params["p_f"]  # (19c)
        )
        d_a = jnp.concatenate([d_a_i, d_a_f, d_a_g, d_a_o], axis=-1)
        d_h = d_a @ params["W_hh"]  # (26)
        return (d_h, d_c), d_a

    def accumulate(
        self, params: Any, xs: JaxArray, memories: JaxArray, kept: LSTMResiduals, deferred: JaxArray
    ) -> tuple[dict[str, JaxArray], JaxArray]:
        """Equations (20) to (25) and (27) for all steps."""
        d_a, d_a_T = deferred, columns(deferred)
        d_a_i, d_a_f, _, d_a_o = split(d_a, 4)
        c_new = kept.f * kept.c + kept.i * kept.g  # (5)
        d_params = {
            "W_ih": d_a_T @ rows(xs),  # (23)
            "W_hh": d_a_T @ rows(memories),  # (24)
            "b": d_a_T.sum(axis=1),  # (25)
            "p_i": (d_a_i * kept.c).sum(axis=(0, 1)),  # (20)
            "p_f": (d_a_f * kept.c).sum(axis=(0, 1)),  # (21)
            "p_o": (d_a_o * c_new).sum(axis=(0, 1)),  # (22)
        }
        return d_params, back_through(d_a, params["W_ih"])  # (27)


def form(cell: LSTM | PeepholeLSTM) -> JaxCell | None:
    """The form of this cell."""
    return LSTMForm() if isinstance(cell, LSTM) else PeepholeLSTMForm()
