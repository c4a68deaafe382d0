"""Correct cells as their users write them: textbook formulas that cancel, and less usual shapes.

The built-in cells are careful with rounding; a user's cell need not be, and is right all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bpttcheck.cells import builtin, every_name


def sigmoid(z: Any) -> Any:
    """The textbook's, which overflows inside and is right all the same."""
    return 1 / (1 + np.exp(-z))


def _softmax(z: Any) -> Any:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


class _Affine:
    """What the cells below share: ``z = x U' + h W' + b`` with ``gates`` rows of blocks."""

    gates = 1

    def init(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> dict[str, Any]:
        rows = self.gates * n_hidden
        shapes = {"U": (rows, n_in), "W": (rows, n_hidden), "b": (rows,)}
        return {key: rng.standard_normal(s) / np.sqrt(n_hidden) for key, s in shapes.items()}

    def initial_state(self, params: Any, batch_size: int) -> Any:
        W = params["W"]
        return np.zeros((batch_size, W.shape[1]), W.dtype)

    def z(self, params: Any, h: Any, x: Any) -> Any:
        return x @ params["U"].T + h @ params["W"].T + params["b"]

    def back(self, params: Any, h: Any, x: Any, d_z: Any) -> tuple[Any, Any, Any]:
        d_params = {"U": d_z.T @ x, "W": d_z.T @ h, "b": d_z.sum(axis=0)}
        return d_params, d_z @ params["W"], d_z @ params["U"]


class Simple(_Affine):
    """``h' = f(z)`` with a derivative written in ``h'`` or in ``z``, as textbooks do."""

    def __init__(self, value: Callable[[Any], Any], slope: Callable[[Any, Any], Any]) -> None:
        self.value, self.slope = value, slope

    def step(self, params: Any, h: Any, x: Any) -> Any:
        z = self.z(params, h, x)
        new = self.value(z)
        return new, new, (x, h, z, new)

    def step_vjp(self, params: Any, cache: Any, d_state: Any, d_y: Any) -> Any:
        x, h, z, new = cache
        return self.back(params, h, x, (d_state + d_y) * self.slope(z, new))


class Softmax(_Affine):
    """``h' = softmax(z)`` over the units."""

    def step(self, params: Any, h: Any, x: Any) -> Any:
        new = _softmax(self.z(params, h, x))
        return new, new, (x, h, new)

    def step_vjp(self, params: Any, cache: Any, d_state: Any, d_y: Any) -> Any:
        x, h, s = cache
        d = d_state + d_y
        return self.back(params, h, x, s * (d - (d * s).sum(axis=1, keepdims=True)))


class Normalised(_Affine):
    """``h' = tanh((z - mean) / sqrt(variance + 1e-5))``, mean and variance over the units."""

    def step(self, params: Any, h: Any, x: Any) -> Any:
        z = self.z(params, h, x)
        centred = z - z.mean(axis=1, keepdims=True)
        scale = 1 / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
        new = np.tanh(centred * scale)
        return new, new, (x, h, centred * scale, scale, new)

    def step_vjp(self, params: Any, cache: Any, d_state: Any, d_y: Any) -> Any:
        x, h, n, scale, new = cache
        d_n = (d_state + d_y) * (1 - new**2)
        mean = d_n.mean(axis=1, keepdims=True)
        return self.back(params, h, x, scale * (d_n - mean - n * (d_n * n).mean(1, keepdims=True)))


class Multiplicative(_Affine):
    """``h' = tanh((x U') (h W') + b)``."""

    def step(self, params: Any, h: Any, x: Any) -> Any:
        a, c = x @ params["U"].T, h @ params["W"].T
        new = np.tanh(a * c + params["b"])
        return new, new, (x, h, a, c, new)

    def step_vjp(self, params: Any, cache: Any, d_state: Any, d_y: Any) -> Any:
        x, h, a, c, new = cache
        d_z = (d_state + d_y) * (1 - new**2)
        d_a, d_c = d_z * c, d_z * a
        d_params = {"U": d_a.T @ x, "W": d_c.T @ h, "b": d_z.sum(axis=0)}
        return d_params, d_c @ params["W"], d_a @ params["U"]


class Oscillator(_Affine):
    """``v' = v + dt (tanh(z) - y - v)``, ``y' = y + dt v'``: two coupled states."""

    dt = 0.25

    def initial_state(self, params: Any, batch_size: int) -> Any:
        zeros = super().initial_state(params, batch_size)
        return zeros, zeros.copy()

    def step(self, params: Any, state: Any, x: Any) -> Any:
        y, v = state
        f = np.tanh(self.z(params, y, x))
        v_new = v + self.dt * (f - y - v)
        y_new = y + self.dt * v_new
        return (y_new, v_new), y_new, (x, y, f)

    def step_vjp(self, params: Any, cache: Any, d_state: Any, d_output: Any) -> Any:
        x, y, f = cache
        d_y = d_state[0] + d_output
        d_v = d_state[1] + self.dt * d_y
        d_params, d_h, d_x = self.back(params, y, x, self.dt * d_v * (1 - f**2))
        return d_params, (d_y - self.dt * d_v + d_h, d_v - self.dt * d_v), d_x


class TextbookLSTM(_Affine):
    """An LSTM with ``s (1 - s)`` and ``1 - tanh^2``."""

    gates = 4

    def initial_state(self, params: Any, batch_size: int) -> Any:
        zeros = super().initial_state(params, batch_size)
        return zeros, zeros.copy()

    def step(self, params: Any, state: Any, x: Any) -> Any:
        h, c = state
        z = np.split(self.z(params, h, x), 4, axis=1)
        i, f, o, g = sigmoid(z[0]), sigmoid(z[1]), sigmoid(z[2]), np.tanh(z[3])
        c_new = f * c + i * g
        h_new = o * np.tanh(c_new)
        return (h_new, c_new), h_new, (x, h, c, i, f, o, g, c_new)

    def step_vjp(self, params: Any, cache: Any, d_state: Any, d_y: Any) -> Any:
        x, h, c, i, f, o, g, c_new = cache
        d_h = d_state[0] + d_y
        t = np.tanh(c_new)
        d_c = d_state[1] + d_h * o * (1 - t**2)
        d_gates = (
            d_c * g * i * (1 - i),
            d_c * c * f * (1 - f),
            d_h * t * o * (1 - o),
            d_c * i * (1 - g**2),
        )
        d_params, d_previous, d_x = self.back(params, h, x, np.concatenate(d_gates, axis=1))
        return d_params, (d_previous, d_c * f), d_x


def _of(condition: Any, like: Any) -> Any:
    return condition.astype(like.dtype)


TEXTBOOK: dict[str, Callable[[], Any]] = {
    "textbook tanh": lambda: Simple(np.tanh, lambda z, h: 1 - h**2),
    "textbook sigmoid": lambda: Simple(sigmoid, lambda z, h: h * (1 - h)),
    "textbook sine": lambda: Simple(np.sin, lambda z, h: np.cos(z)),
    "textbook gaussian": lambda: Simple(lambda z: np.exp(-(z**2)), lambda z, h: -2 * z * h),
    "textbook softsign": lambda: Simple(
        lambda z: z / (1 + np.abs(z)), lambda z, h: (1 - np.abs(h)) ** 2
    ),
    "textbook isru": lambda: Simple(
        lambda z: z / np.sqrt(1 + z**2), lambda z, h: (1 - h**2) ** 1.5
    ),
    "maximum, slope z > 0": lambda: Simple(
        lambda z: np.maximum(z, 0), lambda z, h: _of(z > 0, z)
    ),
    "maximum, slope z >= 0": lambda: Simple(
        lambda z: np.maximum(z, 0), lambda z, h: _of(z >= 0, z)
    ),
    "clip": lambda: Simple(lambda z: np.clip(z, -1, 1), lambda z, h: _of(np.abs(z) < 1, z)),
    "absolute": lambda: Simple(np.abs, lambda z, h: np.sign(z)),
    "softmax": Softmax,
    "normalised": Normalised,
    "multiplicative": Multiplicative,
    "oscillator": Oscillator,
    "textbook lstm": TextbookLSTM,
}  # fmt: skip
"""Name -> a function that makes the cell."""


def names() -> tuple[str, ...]:
    """Every built-in, and every cell of this file."""
    return (*every_name(), *TEXTBOOK)


def correct(name: str) -> Any:
    """The correct cell of this name."""
    return TEXTBOOK[name]() if name in TEXTBOOK else builtin(name)
