"""The native form of the simple recurrent cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bpttcheck.cells import Elman
from bpttcheck.on_jax.activations import ACTIVATIONS
from bpttcheck.on_jax.form import JaxArray, JaxCell
from bpttcheck.on_jax.products import back_through, columns, rows, transposed


@dataclass(frozen=True)
class ElmanForm:
    """``h' = f(U x + W h + b)``; the numbers are the equations of :class:`bpttcheck.cells.Elman`.

    Kept is ``z``, or nothing where the slope is a function of ``h'``; deferred is ``d_z``.

    Args:
        activation: a name in :data:`bpttcheck.on_jax.activations.ACTIVATIONS`.
    """

    activation: str

    def shapes(self, params: Any, n_in: int) -> dict[str, tuple[int, ...]]:
        """``U (H, N)``, ``W (H, H)``, ``b (H,)``."""
        (H,) = params["b"].shape
        return {"U": (H, n_in), "W": (H, H), "b": (H,)}

    def state_shapes(self, params: Any, batch_size: int) -> Any:
        """``h (B, H)``."""
        return (batch_size, params["b"].shape[0])

    def weights(self, params: Any) -> Any:
        """``U.T``, ``W.T`` and ``b``."""
        return transposed(params["U"]), transposed(params["W"]), params["b"]

    def project(self, weights: Any, x: JaxArray) -> JaxArray:
        """The inputs' part of equation (1)."""
        U_T, _, b = weights
        return x @ U_T + b

    def step(self, weights: Any, state: JaxArray, a: JaxArray) -> tuple[JaxArray, Any]:
        """Equations (1) and (2)."""
        _, W_T, _ = weights
        f = ACTIVATIONS[self.activation]
        z = a + state @ W_T  # (1)
        h_new = f.value(z)  # (2)
        return h_new, () if f.from_value else z

    def memory(self, state: JaxArray) -> JaxArray:
        """``h``; equation (3)."""
        return state

    def step_vjp(
        self, params: Any, memory: tuple[JaxArray, JaxArray], kept: Any, d_state: Any, d_y: JaxArray
    ) -> tuple[JaxArray, JaxArray]:
        """Equations (4), (5) and (9)."""
        _, h_new = memory
        f = ACTIVATIONS[self.activation]
        d_h_new = d_state + d_y  # (4)
        d_z = d_h_new * f.slope(h_new if f.from_value else kept)  # (5)
        d_h = d_z @ params["W"]  # (9)
        return d_h, d_z

    def accumulate(
        self, params: Any, xs: JaxArray, memories: JaxArray, kept: Any, deferred: JaxArray
    ) -> tuple[dict[str, JaxArray], JaxArray]:
        """Equations (6), (7), (8) and (10) for all steps."""
        d_z, d_z_T = deferred, columns(deferred)
        d_params = {
            "U": d_z_T @ rows(xs),  # (6)
            "W": d_z_T @ rows(memories),  # (7)
            "b": d_z_T.sum(axis=1),  # (8)
        }
        return d_params, back_through(d_z, params["U"])  # (10)


def form(cell: Elman) -> JaxCell | None:
    """The form of this cell; None for an activation of the user's own."""
    name = cell.activation
    return ElmanForm(name) if isinstance(name, str) and name in ACTIVATIONS else None
