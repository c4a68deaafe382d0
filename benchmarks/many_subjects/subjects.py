"""Subjects that no two processes' worth of caches could share: each has classes of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

KINDS = ("plain", "leaky", "relu", "gated", "no bias", "sine", "untraceable", "numpy reference",
         "jax reference", "wrong")  # fmt: skip
"""What subject i is: ``KINDS[i % 10]``.

An untraceable one asks for the truth of a value, at some sizes only. A wrong one has 1 % too much
in one gradient.
"""


def make(index: int) -> tuple[Any, Any]:
    """``(cell, reference)`` number ``index``; the reference is None but for two of the kinds."""
    kind = KINDS[index % len(KINDS)]
    gain, inner = (float(v) for v in np.random.default_rng([index, 5]).uniform(0.5, 1.5, 2))
    options = {"leak": 0.3 * (kind == "leaky"), "bias": kind != "no bias"}
    value, slope = _function(kind, inner)
    cell_class = _gated(gain) if kind == "gated" else _elman(gain, value, slope, **options)
    if kind == "wrong":
        return _spoilt(cell_class)(), None
    if kind == "untraceable":
        return _untraceable(cell_class)(), None
    if kind == "numpy reference":
        return cell_class(), _elman(gain, value, slope, **options)()
    return cell_class(), _on_jax(gain, inner) if kind == "jax reference" else None


def _function(kind: str, inner: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    if kind == "relu":
        return lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(z.dtype)
    if kind == "sine":
        return lambda z: np.sin(inner * z), lambda z: inner * np.cos(inner * z)
    return lambda z: np.tanh(inner * z), lambda z: inner * (1 - np.tanh(inner * z) ** 2)


def _elman(
    gain: float,
    value: Callable[[Any], Any],
    slope: Callable[[Any], Any],
    *,
    leak: float = 0.0,
    bias: bool = True,
) -> type:
    """A class for ``h' = leak h + f(U x + gain W h + b)``."""

    class Elman:
        def init(self, rng: Any, n_in: int, n_hidden: int) -> dict[str, Any]:
            shapes = {"U": (n_hidden, n_in), "W": (n_hidden, n_hidden)}
            shapes |= {"b": (n_hidden,)} if bias else {}
            return {key: rng.standard_normal(s) / np.sqrt(s[-1]) for key, s in shapes.items()}

        def initial_state(self, params: Any, batch_size: int) -> Any:
            W = params["W"]
            return np.zeros((batch_size, len(W)), W.dtype)

        def step(self, params: Any, state: Any, x: Any) -> Any:
            z = x @ params["U"].T + gain * (state @ params["W"].T)
            z = z + params["b"] if bias else z
            h = leak * state + value(z)
            return h, h, (x, state, z)

        def step_vjp(self, params: Any, cache: Any, d_state: Any, d_y: Any) -> Any:
            x, h, z = cache
            d_h = d_state + d_y
            d_z = d_h * slope(z)
            d_params = {"U": d_z.T @ x, "W": gain * (d_z.T @ h)}
            d_params |= {"b": d_z.sum(axis=0)} if bias else {}
            return d_params, leak * d_h + gain * (d_z @ params["W"]), d_z @ params["U"]

    return Elman


def _gated(gain: float) -> type:
    """A class for ``h' = h + s (tanh(U x) - h)`` with ``s = sigmoid(gain W h + b)``."""

    class Gated:
        def init(self, rng: Any, n_in: int, n_hidden: int) -> dict[str, Any]:
            shapes = {"U": (n_hidden, n_in), "W": (n_hidden, n_hidden), "b": (n_hidden,)}
            return {key: rng.standard_normal(s) / np.sqrt(s[-1]) for key, s in shapes.items()}

        def initial_state(self, params: Any, batch_size: int) -> Any:
            b = params["b"]
            return np.zeros((batch_size, len(b)), b.dtype)

        def step(self, params: Any, state: Any, x: Any) -> Any:
            s = 1 / (1 + np.exp(-gain * (state @ params["W"].T) - params["b"]))
            n = np.tanh(x @ params["U"].T)
            h = state + s * (n - state)
            return h, h, (x, state, s, n)

        def step_vjp(self, params: Any, cache: Any, d_state: Any, d_y: Any) -> Any:
            x, h, s, n = cache
            d_h = d_state + d_y
            d_a = d_h * (n - h) * s * (1 - s)
            d_n = d_h * s * (1 - n * n)
            d_params = {"U": d_n.T @ x, "W": gain * (d_a.T @ h), "b": d_a.sum(axis=0)}
            return d_params, d_h * (1 - s) + gain * (d_a @ params["W"]), d_n @ params["U"]

    return Gated


def _spoilt(cell_class: Any) -> type:
    class Wrong(cell_class):
        def step_vjp(self, params: Any, cache: Any, d_state: Any, d_y: Any) -> Any:
            d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
            return d_params | {"W": 1.01 * d_params["W"]}, d_h, d_x

    return Wrong


def _untraceable(cell_class: Any) -> type:
    class Untraceable(cell_class):
        def step(self, params: Any, state: Any, x: Any) -> Any:
            if x.shape[1] > 2 and x[0, 0] > 0:
                return super().step(params, state, 1.0 * x)
            return super().step(params, state, x)

    return Untraceable


def _on_jax(gain: float, inner: float) -> Callable[..., Any]:
    import jax.numpy as jnp

    def step(params: Any, state: Any, x: Any) -> Any:
        z = x @ params["U"].T + gain * (state @ params["W"].T) + params["b"]
        h = jnp.tanh(inner * z)
        return h, h

    return step
