"""What the right cells share: how parameters are drawn, zeros, a sigmoid, a softmax."""

from __future__ import annotations

from typing import Any

import numpy as np


def draw(rng: np.random.Generator, *shape: int) -> Any:
    """Normal entries of variance one over the rows."""
    return rng.standard_normal(shape) / np.sqrt(shape[0])


def blank(like: Any, *shape: int) -> Any:
    """Zeros of the dtype of a parameter."""
    return np.zeros(shape, like.dtype)


def sigmoid(z: Any) -> Any:
    """Overflows nowhere."""
    return 0.5 + 0.5 * np.tanh(0.5 * z)


def softmax(z: Any) -> Any:
    """Along the last axis."""
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def flat(a: Any) -> Any:
    """``(T, B, H) -> (T B, H)``."""
    return a.reshape(-1, a.shape[-1])
