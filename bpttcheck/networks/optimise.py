"""From a gradient to the next parameters: clipping by the norm, gradient descent, and Adam.

Pure functions and frozen records: they return new parameters and state and change nothing in place.
Parameters and gradients are flat dicts of arrays with the same names; the result has the dtype of
the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bpttcheck.contract import Params
from bpttcheck.errors import ContractError


class Clipped(NamedTuple):
    """The clipped gradients, and the norm that they had before."""

    gradients: Params
    norm: float


def clip_by_norm(gradients: Params, limit: float) -> Clipped:
    """Gradients shortened to the norm ``limit``, if they are longer; their direction stays.

    The norm is one for all parameters together, with the sum over every entry of every array::

        n  = sqrt(sum of g²)                                              (1)
        g' = g                      if n <= limit                         (2a)
        g' = g limit / n            otherwise                             (2b)

    The entries are divided by the largest before they are squared, so that no square overflows or
    vanishes. A norm beyond the range of float64 is returned as infinity, and its gradients are
    clipped all the same. ``torch.nn.utils.clip_grad_norm_`` has ``n + 1e-6`` in (2b).

    Args:
        gradients: a floating array for each name.
        limit: the largest norm to leave as it is, positive and finite.

    Returns:
        ``(gradients, norm)``.

    Raises:
        ContractError: an entry is NaN or infinite, a gradient is not a floating array, or the limit
            is not positive and finite.

    Source:
        Pascanu, Mikolov and Bengio (2013), "On the difficulty of training recurrent neural
        networks", algorithm 1.
    """
    _require_positive("limit", limit)
    for name, g in gradients.items():
        _require_gradient(name, g)
    wide = [g.astype(np.float64) for g in gradients.values()]
    largest = max((float(np.abs(g).max(initial=0.0)) for g in wide), default=0.0)
    if largest == 0.0:
        return Clipped(dict(gradients), 0.0)
    scaled = math.sqrt(sum(float(np.sum((g / largest) ** 2)) for g in wide))
    n = largest * scaled  # (1)
    if n <= limit:
        return Clipped(dict(gradients), n)  # (2a)
    # One entry after the other is at most the limit: neither the factor nor a product overflows.
    clipped = {
        name: (g.astype(np.float64) / largest * (limit / scaled)).astype(g.dtype)  # (2b)
        for name, g in gradients.items()
    }
    return Clipped(clipped, n)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent: a step against the gradient of one batch.

    With the parameter ``p``, its gradient ``g`` and the learning rate ``r``::

        p' = p - r g                                                      (1)

    It keeps no state: that of :meth:`start` is None.

    Args:
        learning_rate: ``r``, positive and finite.

    Raises:
        ContractError: the learning rate is not positive and finite.

    Source:
        Robbins and Monro (1951), "A stochastic approximation method".
    """

    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        _require_positive("learning_rate", self.learning_rate)

    def start(self, params: Params) -> None:
        """The state before the first step: None."""

    def step(self, params: Params, gradients: Params, state: None = None) -> tuple[Params, None]:
        """One step, equation (1).

        Args:
            params: a floating array for each name.
            gradients: an array of the same shape for each name.
            state: None.

        Returns:
            The new parameters, and None.

        Raises:
            ContractError: the names or shapes differ, or an entry is NaN or infinite.
        """
        _require_fit(params, gradients)
        r = float(self.learning_rate)
        return _each(params, lambda k: params[k] - r * gradients[k]), None  # (1)


class AdamState(NamedTuple):
    """How many steps were taken, and the running means of the gradient and of its square."""

    t: int
    m: Params
    v: Params


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction.

    With the parameter ``p``, its gradient ``g``, and ``m = v = 0``, ``t = 0`` at the start::

        t' = t + 1                                                        (1)
        m' = b1 m + (1 - b1) g                                            (2)
        v' = b2 v + (1 - b2) g²                                           (3)
        m^ = m' / (1 - b1^t')                                             (4)
        v^ = v' / (1 - b2^t')                                             (5)
        p' = p - r m^ / (sqrt(v^) + eps)                                  (6)

    A constant factor of an entry's gradient cancels in (6), up to ``eps``. A backward pass with a
    wrong factor therefore trains as if it were right: look for such errors in the gradient.

    Args:
        learning_rate: ``r``, positive and finite.
        beta1: ``b1``, in [0, 1).
        beta2: ``b2``, in [0, 1).
        epsilon: ``eps``, positive and finite.

    Raises:
        ContractError: an option is out of its range.

    Source:
        Kingma and Ba (2015), "Adam: a method for stochastic optimization", algorithm 1.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        _require_positive("learning_rate", self.learning_rate)
        _require_positive("epsilon", self.epsilon)
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                _refuse(name, f"{name}={getattr(self, name)!r}", "a number in [0, 1)")

    def start(self, params: Params) -> AdamState:
        """The state before the first step: zeros in the shapes of the parameters."""
        zeros = {name: np.zeros_like(p) for name, p in params.items()}
        return AdamState(0, zeros, zeros)

    def step(self, params: Params, gradients: Params, state: AdamState) -> tuple[Params, AdamState]:
        """One step, equations (1) to (6).

        Args:
            params: a floating array for each name.
            gradients: an array of the same shape for each name.
            state: that of :meth:`start`, or of the step before.

        Returns:
            The new parameters and the new state.

        Raises:
            ContractError: the names or shapes differ, or an entry is NaN or infinite.
        """
        _require_fit(params, gradients)
        _require_fit(params, state.m, "state.m")
        _require_fit(params, state.v, "state.v")
        b1, b2 = float(self.beta1), float(self.beta2)
        r, eps = float(self.learning_rate), float(self.epsilon)
        t = state.t + 1  # (1)
        m = _each(params, lambda k: b1 * state.m[k] + (1.0 - b1) * gradients[k])  # (2)
        v = _each(params, lambda k: b2 * state.v[k] + (1.0 - b2) * gradients[k] ** 2)  # (3)
        m_hat = _each(params, lambda k: m[k] / (1.0 - b1**t))  # (4)
        v_hat = _each(params, lambda k: v[k] / (1.0 - b2**t))  # (5)
        new = _each(params, lambda k: params[k] - r * m_hat[k] / (np.sqrt(v_hat[k]) + eps))  # (6)
        return new, AdamState(t, m, v)


def _each(params: Params, value: Callable[[str], Any]) -> Params:
    return {name: np.asarray(value(name), p.dtype) for name, p in params.items()}


def _require_fit(params: Params, given: Params, called: str = "gradients") -> None:
    """Reject arrays that do not belong to these parameters."""
    if set(given) != set(params):
        _refuse(called, f"{called} of {sorted(given)}", f"those of the parameters {sorted(params)}")
    for name, g in given.items():
        _require_floating(name, params[name], "params")
        _require_gradient(name, g, called)
        if g.shape != params[name].shape:
            shape = params[name].shape
            _refuse(name, f"{called}[{name!r}].shape={g.shape}", f"the parameter's {shape}")


def _require_gradient(name: str, g: Any, called: str = "gradients") -> None:
    _require_floating(name, g, called)
    bad = np.argwhere(~np.isfinite(g))
    if len(bad):
        position = tuple(bad[0].tolist())
        raise ContractError(
            f"{called}[{name!r}][{', '.join(map(str, position))}]={g[position]}, and so in"
            f" {len(bad)} of {g.size} entries, but a step needs finite ones: if the loss is finite,"
            " check the backward pass with bpttcheck.check; else lower the learning rate or clip",
            item=name,
        )


def _require_floating(name: str, value: Any, called: str) -> None:
    # Arithmetic on arrays without axes gives NumPy scalars.
    if not isinstance(value, (np.ndarray, np.floating)) or value.dtype.kind != "f":
        given = f"type={type(value).__name__}, dtype={getattr(value, 'dtype', None)}"
        _refuse(name, f"{called}[{name!r}] of {given}", "a floating NumPy array")


def _require_positive(name: str, value: Any) -> None:
    if not (math.isfinite(value) and value > 0):
        _refuse(name, f"{name}={value!r}", "a positive finite number")


def _refuse(item: str, given: str, expected: str) -> None:
    raise ContractError(f"{given}, but expected {expected}", item=item)
