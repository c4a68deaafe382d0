"""One sequence as the texts see it: column vectors by time step, and the Jacobians they name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from bpttcheck.activations import Activation

Array = np.ndarray


@dataclass(frozen=True)
class Sequence:
    """Everything a formula may use. Lists over time start at index 1, ``h`` at the initial state.

    A vector has shape ``(H,)``. A gradient of the loss that multiplies a Jacobian from the left is
    a row, and a derivative of a vector by a matrix is an array ``(H, rows, columns)``.

    Args:
        f: the activation.
        params: ``U (H, n)``, ``W (H, H)``, ``b (H,)``, and ``V (K, H)``, ``c (K,)`` if there is a
            readout.
        x: the inputs ``x_1 .. x_T``.
        h: the states ``h_0 .. h_T``.
        z: the pre-activations ``z_1 .. z_T``.
        de_dh: ``de_t/dh_t`` for the loss ``e_t`` of each step, along the direct path alone.
        do: ``de_t/do_t`` likewise, where ``o_t = V h_t + c``.
    """

    f: Activation
    params: dict[str, Array]
    x: list[Array]
    h: list[Array]
    z: list[Array]
    de_dh: list[Array]
    do: list[Array] = field(default_factory=list)
    _known: dict[object, Array] = field(default_factory=dict, repr=False)

    def _once(self, key: object, make: Callable[[], Array]) -> Array:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.x) - 1

    @property
    def steps(self) -> range:
        """1 to T."""
        return range(1, self.T + 1)

    @property
    def U(self) -> Array:
        return self.params["U"]

    @property
    def W(self) -> Array:
        return self.params["W"]

    @property
    def V(self) -> Array:
        return self.params["V"]

    def slope(self, t: int) -> Array:
        """``f'(z_t)``."""
        return self._once(t, lambda: self.f.derivative(self.z[t]))

    def jacobian(self, t: int) -> Array:
        """``dh_t/dh_{t-1} = diag(f'(z_t)) W``."""
        return self._once(("J", t), lambda: np.diag(self.slope(t)) @ self.W)

    def immediate(self, t: int, name: str = "W") -> Array:
        """``d+h_t/dW`` (or ``U``, ``b``): everything but this occurrence held constant."""
        other = {"W": self.h[t - 1], "U": self.x[t], "b": np.ones(1)}[name]
        made = lambda: np.diag(self.slope(t))[:, :, None] * other  # noqa: E731
        found = self._once(("d+", t, name), made)
        return found[:, :, 0] if name == "b" else found

    def total(self, t: int, name: str = "W") -> Array:
        """``dh_t/dW`` along every path from the occurrences at steps 1 to t."""
        if t == 1:
            return self.immediate(t, name)
        later = lambda: apply(self.jacobian(t), self.total(t - 1, name))  # noqa: E731
        return self._once(("d", t, name), lambda: self.immediate(t, name) + later())

    def from_to(self, k: int, t: int) -> Array:
        """``dh_t/dh_k``, the product of the Jacobians of steps t down to k + 1."""
        factors = (self.jacobian(i) for i in range(t, k, -1))
        return self._once(("J", k, t), lambda: product(factors, len(self.h[t])))

    def adjoints(self) -> list[Array]:
        """The right ``dE/dh_t`` of the whole loss, by the recursion; index 0 to T + 1."""
        found = [np.zeros_like(self.h[0])] * (self.T + 2)
        for t in reversed(self.steps):
            later = found[t + 1] @ self.jacobian(t + 1) if t < self.T else 0.0
            found[t] = self.de_dh[t] + later
        return found

    def errors(self) -> list[Array]:
        """The right ``delta_t = dE/dz_t``, index 1 to T."""
        found = self.adjoints()
        return [found[0], *(self.slope(t) * found[t] for t in self.steps)]


def product(factors: Iterable[Array], size: int) -> Array:
    """The matrix product from left to right, as it is written; no factor gives the identity."""
    found = np.eye(size)
    for factor in factors:
        found = found @ factor
    return found


def apply(row: Array, tensor: Array) -> Array:
    """A row vector, or the rows of a matrix, times a derivative by a vector or a matrix."""
    return (row @ tensor.reshape(len(tensor), -1)).reshape(*row.shape[:-1], *tensor.shape[1:])


def outer(column: Array, other: Array) -> Array:
    """``column other^T``."""
    return np.outer(column, other)


Reader = Callable[[Sequence], "dict[object, Array]"]
