"""Activations by name: value, derivative, kinks and the largest slope.

Every function takes the *pre-activation* ``z``, an array of any shape, works entry by entry, keeps
the dtype, and is finite without a warning at ``z = ±1000``. None looks at a value with ``if`` or
indexes with a mask, so that JAX can trace and differentiate them; where a formula has branches, the
branch that is not taken is fed a harmless argument, so that its gradient is finite too.

================ ======================================== ===========================
name             value ``f(z)``                           derivative ``f'(z)``
================ ======================================== ===========================
``identity``     ``z``                                    ``1``
``tanh``         ``tanh(z)``                              ``1 - tanh(z)²``
``sigmoid``      ``σ(z) = 1 / (1 + exp(-z))``             ``σ(z) σ(-z)``
``relu``         ``max(z, 0)``                            1 for ``z > 0``, else 0
``leaky_relu``   ``z`` for ``z > 0``, else ``0.01 z``     1 for ``z > 0``, else 0.01
``elu``          ``z`` for ``z > 0``, else ``exp(z) - 1`` ``exp(min(z, 0))``
``softplus``     ``log(1 + exp(z))``                      ``σ(z)``
``silu``         ``z σ(z)``                               ``σ(z) (1 + z σ(-z))``
``gelu``         ``z Φ(z)``, ``Φ(z) = erfc(-z/√2) / 2``   ``Φ(z) + z φ(z)``
``softsign``     ``z / (1 + |z|)``                        ``1 / (1 + |z|)²``
``hard_tanh``    ``clip(z, -1, 1)``                       1 for ``|z| < 1``, else 0
``hard_sigmoid`` ``clip(z/6 + 1/2, 0, 1)``                1/6 for ``|z| < 3``, else 0
``sine``         ``sin(z)``                               ``cos(z)``
================ ======================================== ===========================

``Φ`` and ``φ`` are the standard normal distribution and its density: this is the exact ``gelu``,
not its ``tanh`` approximation. ``hard_sigmoid`` is that of torch; others use other slopes.

**At a kink** the derivative is the one-sided value of the flatter side: ``relu``, ``hard_tanh`` and
``hard_sigmoid`` answer 0 there and ``leaky_relu`` its slope 0.01, as torch does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from bpttcheck.errors import ContractError

Array = NDArray[Any]

LEAKY_SLOPE = 0.01
SQRT_HALF = math.sqrt(0.5)
INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)


@dataclass(frozen=True)
class Activation:
    """A function of the pre-activation and its derivative, both entry by entry.

    Args:
        name: its name in :data:`ACTIVATIONS`.
        value: ``f(z)``, of the shape and dtype of ``z``.
        derivative: ``f'(z)``, of the shape and dtype of ``z``; at a kink a one-sided value.
        kinks: the points where the left and the right derivative differ, in ascending order.
        lipschitz: the supremum of ``|f'|``: by how much one step can stretch an adjoint.
    """

    name: str
    value: Callable[[Array], Array] = field(repr=False)
    derivative: Callable[[Array], Array] = field(repr=False)
    kinks: tuple[float, ...] = ()
    lipschitz: float = 1.0


def get(activation: str | Activation) -> Activation:
    """The activation of this name; an :class:`Activation` of your own is returned as it is.

    Args:
        activation: a key of :data:`ACTIVATIONS`, or an :class:`Activation`.

    Returns:
        The activation.

    Raises:
        ContractError: no activation has this name.
    """
    if isinstance(activation, Activation):
        return activation
    try:
        return ACTIVATIONS[activation]
    except (KeyError, TypeError):
        raise ContractError(
            f"activation={activation!r} (type={type(activation).__name__}) is unknown, expected one"
            f" of {', '.join(ACTIVATIONS)}; or pass an Activation(name, value, derivative) of your"
            " own",
            item="activation",
        ) from None


# Python floats as constants, never NumPy's: np.float64(0.5) * float32 would be float64.


def _identity(z: Array) -> Array:
    # A copy: an output must not share memory with the input.
    return np.positive(z)


def _identity_slope(z: Array) -> Array:
    return np.ones_like(z)


def _tanh(z: Array) -> Array:
    return np.tanh(z)


def _tanh_slope(z: Array) -> Array:
    # 1 - tanh² = 4 σ(2z) σ(-2z): no cancellation in the tails, where tanh² rounds to 1.
    return 4.0 * special.expit(2.0 * z) * special.expit(-2.0 * z)


def _sigmoid(z: Array) -> Array:
    return special.expit(z)


def _sigmoid_slope(z: Array) -> Array:
    # σ(-z) rather than 1 - σ(z), which loses all digits for large z.
    return special.expit(z) * special.expit(-z)


def _relu(z: Array) -> Array:
    # np.maximum lets a NaN through; np.where(z > 0, z, 0) would hide it.
    return np.maximum(z, 0.0)


def _relu_slope(z: Array) -> Array:
    return np.where(z > 0.0, np.ones_like(z), 0.0)


def _leaky_relu(z: Array) -> Array:
    return np.where(z > 0.0, z, LEAKY_SLOPE * z)


def _leaky_relu_slope(z: Array) -> Array:
    return np.where(z > 0.0, np.ones_like(z), LEAKY_SLOPE)


def _elu(z: Array) -> Array:
    # Not expm1(min(z, 0)): at z = 0, JAX gives `minimum` the slope 1/2, and elu has slope 1.
    return np.where(z > 0.0, z, np.expm1(np.where(z > 0.0, 0.0, z)))


def _elu_slope(z: Array) -> Array:
    return np.exp(np.minimum(z, 0.0))


def _softplus(z: Array) -> Array:
    return np.logaddexp(z, 0.0)


def _silu(z: Array) -> Array:
    return z * special.expit(z)


def _silu_slope(z: Array) -> Array:
    return special.expit(z) * (1.0 + z * special.expit(-z))


def _gelu(z: Array) -> Array:
    # erfc, because 1 + erf(z/√2) loses all digits for negative z.
    return 0.5 * z * special.erfc(-SQRT_HALF * z)


def _gelu_slope(z: Array) -> Array:
    return 0.5 * special.erfc(-SQRT_HALF * z) + INV_SQRT_2PI * z * np.exp(-0.5 * z * z)


def _softsign(z: Array) -> Array:
    return z / (1.0 + np.abs(z))


def _softsign_slope(z: Array) -> Array:
    return 1.0 / (1.0 + np.abs(z)) ** 2


def _hard_tanh(z: Array) -> Array:
    return np.clip(z, -1.0, 1.0)


def _hard_tanh_slope(z: Array) -> Array:
    return np.where(np.abs(z) < 1.0, np.ones_like(z), 0.0)


def _hard_sigmoid(z: Array) -> Array:
    return np.clip(z / 6.0 + 0.5, 0.0, 1.0)


def _hard_sigmoid_slope(z: Array) -> Array:
    return np.where(np.abs(z) < 3.0, np.ones_like(z) / 6.0, 0.0)


def _sine(z: Array) -> Array:
    return np.sin(z)


def _sine_slope(z: Array) -> Array:
    return np.cos(z)


ACTIVATIONS: dict[str, Activation] = {
    activation.name: activation
    for activation in (
        Activation("identity", _identity, _identity_slope),
        Activation("tanh", _tanh, _tanh_slope),
        Activation("sigmoid", _sigmoid, _sigmoid_slope, lipschitz=0.25),
        Activation("relu", _relu, _relu_slope, kinks=(0.0,)),
        Activation("leaky_relu", _leaky_relu, _leaky_relu_slope, kinks=(0.0,)),
        Activation("elu", _elu, _elu_slope),
        Activation("softplus", _softplus, _sigmoid),
        # The largest slope is at z = 2.39936..., where z tanh(z/2) = 2.
        Activation("silu", _silu, _silu_slope, lipschitz=1.0998393201288669),
        # The largest slope is at z = √2: Φ(√2) + √2 φ(√2).
        Activation("gelu", _gelu, _gelu_slope, lipschitz=1.1289041451851548),
        Activation("softsign", _softsign, _softsign_slope),
        Activation("hard_tanh", _hard_tanh, _hard_tanh_slope, kinks=(-1.0, 1.0)),
        Activation(
            "hard_sigmoid",
            _hard_sigmoid,
            _hard_sigmoid_slope,
            kinks=(-3.0, 3.0),
            lipschitz=1.0 / 6.0,
        ),
        Activation("sine", _sine, _sine_slope),
    )
}
"""Every activation, by name."""
