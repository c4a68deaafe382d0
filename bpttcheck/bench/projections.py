"""The package's own cells in plain JAX, in two parts: the products of the inputs, and the rest.

One definition gives both forms that a JAX user might write: all of it inside the scan, or the
products of all inputs made in one before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bpttcheck import activations, cells
from bpttcheck.oracles.tracer.trace import lift


@dataclass(frozen=True)
class Split:
    """A step in two parts.

    Args:
        project: ``(params, xs) -> a``, for one step or for all at once.
        step: ``(params, state, a) -> state``; the output is the state, or the first part of it.
    """

    project: Callable[[Any, Any], Any]
    step: Callable[[Any, Any, Any], Any]

    def plain(self, params: Any, xs: Any, state0: Any) -> tuple[Any, Any]:
        """Everything inside the scan."""
        return self._scan(lambda state, x: self.step(params, state, self.project(params, x)),
                          state0, xs)  # fmt: skip

    def hoisted(self, params: Any, xs: Any, state0: Any) -> tuple[Any, Any]:
        """The projection of all inputs before the scan."""
        projected = self.project(params, xs)
        return self._scan(lambda state, a: self.step(params, state, a), state0, projected)

    @staticmethod
    def _scan(step: Callable[[Any, Any], Any], state0: Any, inputs: Any) -> tuple[Any, Any]:
        def body(state: Any, given: Any) -> tuple[Any, Any]:
            new = step(state, given)
            return new, new[0] if isinstance(new, tuple) else new

        last, ys = jax.lax.scan(body, state0, inputs)
        return ys, last


def of(cell: Any) -> Split | None:
    """The two parts of ``cell``; None unless its type is one of those here."""
    if type(cell) is cells.Elman:
        return _elman(cell)
    if type(cell) is cells.LSTM:
        return Split(_gates, _lstm)
    if type(cell) is cells.GRUResetAfter:
        return Split(_gates, _gru_reset_after)
    if type(cell) is cells.GRUResetBefore:
        return Split(_gates, lambda params, h, a: gru_reset_before(params, h, a)[0])
    return None


def _elman(cell: cells.Elman) -> Split:
    value = lift(activations.get(cell.activation).value)
    return Split(
        project=lambda p, x: x @ p["U"].T + p["b"],
        step=lambda p, h, a: value(a + h @ p["W"].T),
    )


def _gates(params: Any, x: Any) -> Any:
    return x @ params["W_ih"].T + params["b"]


def _lstm(params: Any, state: Any, a: Any) -> Any:
    h, c = state
    i, f, g, o = jnp.split(a + h @ params["W_hh"].T, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _gru_reset_after(params: Any, h: Any, a: Any) -> Any:
    a_r, a_z, a_n = jnp.split(a, 3, axis=-1)
    s_r, s_z, s_n = jnp.split(h @ params["W_hh"].T, 3, axis=-1)
    r, z = jax.nn.sigmoid(a_r + s_r), jax.nn.sigmoid(a_z + s_z)
    n = jnp.tanh(a_n + r * (s_n + params["b_hn"]))
    return (1 - z) * n + z * h


def gru_reset_before(params: Any, h: Any, a: Any) -> tuple[Any, Any]:
    """The new state, and ``r * h``, which the last recurrent product multiplies."""
    H = h.shape[-1]
    a_r, a_z, a_n = jnp.split(a, 3, axis=-1)
    u, v = jnp.split(h @ params["W_hh"][: 2 * H].T, 2, axis=-1)
    r, z = jax.nn.sigmoid(a_r + u), jax.nn.sigmoid(a_z + v)
    scaled = r * h
    n = jnp.tanh(a_n + scaled @ params["W_hh"][2 * H :].T)
    return z * h + (1 - z) * n, scaled
