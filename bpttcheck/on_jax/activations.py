"""The activations of :mod:`bpttcheck.activations` and their slopes in ``jax.numpy``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.scipy import special

from bpttcheck.activations import INV_SQRT_2PI, LEAKY_SLOPE, SQRT_HALF
from bpttcheck.on_jax.form import JaxArray

sigmoid = jax.nn.sigmoid


@dataclass(frozen=True)
class JaxActivation:
    """A value and a slope, both entry by entry.

    Args:
        value: ``f(z)``.
        slope: ``f'`` of ``z``, or of ``f(z)`` with ``from_value``.
        from_value: True if the slope is a function of the value, so that ``z`` need not be kept.
    """

    value: Callable[[JaxArray], JaxArray]
    slope: Callable[[JaxArray], JaxArray]
    from_value: bool = False


def _elu(z: JaxArray) -> JaxArray:
    return jnp.where(z > 0, z, jnp.expm1(jnp.minimum(z, 0)))


def _gelu(z: JaxArray) -> JaxArray:
    return 0.5 * z * special.erfc(-SQRT_HALF * z)


def _gelu_slope(z: JaxArray) -> JaxArray:
    return 0.5 * special.erfc(-SQRT_HALF * z) + INV_SQRT_2PI * z * jnp.exp(-0.5 * z * z)


def _silu_slope(z: JaxArray) -> JaxArray:
    return sigmoid(z) * (1 + z * sigmoid(-z))


def _one_where(condition: JaxArray, like: JaxArray, scale: float = 1.0) -> JaxArray:
    return jnp.where(condition, scale, jnp.zeros_like(like))


def tanh_slope(value: JaxArray) -> JaxArray:
    """``1 - tanh²`` from ``tanh``; as a product it loses no digits near 1."""
    return (1 - value) * (1 + value)


ACTIVATIONS: dict[str, JaxActivation] = {
    "identity": JaxActivation(lambda z: z, jnp.ones_like, from_value=True),
    "tanh": JaxActivation(jnp.tanh, tanh_slope, from_value=True),
    "sigmoid": JaxActivation(sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
    "relu": JaxActivation(
        lambda z: jnp.maximum(z, 0), lambda h: _one_where(h > 0, h), from_value=True
    ),
    "leaky_relu": JaxActivation(
        lambda z: jnp.where(z > 0, z, LEAKY_SLOPE * z),
        lambda z: jnp.where(z > 0, jnp.ones_like(z), LEAKY_SLOPE),
    ),
    "elu": JaxActivation(_elu, lambda z: jnp.exp(jnp.minimum(z, 0))),
    "softplus": JaxActivation(lambda z: jnp.logaddexp(z, 0), sigmoid),
    "silu": JaxActivation(lambda z: z * sigmoid(z), _silu_slope),
    "gelu": JaxActivation(_gelu, _gelu_slope),
    "softsign": JaxActivation(lambda z: z / (1 + jnp.abs(z)), lambda z: 1 / (1 + jnp.abs(z)) ** 2),
    "hard_tanh": JaxActivation(
        lambda z: jnp.clip(z, -1, 1), lambda z: _one_where(jnp.abs(z) < 1, z)
    ),
    "hard_sigmoid": JaxActivation(
        lambda z: jnp.clip(z / 6 + 0.5, 0, 1), lambda z: _one_where(jnp.abs(z) < 3, z, 1 / 6)
    ),
    "sine": JaxActivation(jnp.sin, jnp.cos),
}
"""Every activation that has a native form, by its name."""
