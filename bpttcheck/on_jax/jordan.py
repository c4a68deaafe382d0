"""The native form of the network whose output comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from bpttcheck.cells import Jordan
from bpttcheck.on_jax.activations import ACTIVATIONS
from bpttcheck.on_jax.form import JaxArray, JaxCell
from bpttcheck.on_jax.products import back_through, columns, rows, transposed


class JordanResiduals(NamedTuple):
    """``h``, and both pre-activations where a slope is not a function of the value."""

    h: JaxArray
    z: Any
    q: Any


@dataclass(frozen=True)
class JordanForm:
    """Free running; the numbers are the equations of :class:`bpttcheck.cells.Jordan`.

    Deferred are ``d_q (B, n_out)`` and ``d_z (B, H)``.

    Args:
        activation: a name in :data:`bpttcheck.on_jax.activations.ACTIVATIONS`, that of ``f``.
        output_activation: that of ``g``.
    """

    activation: str
    output_activation: str

    def shapes(self, params: Any, n_in: int) -> dict[str, tuple[int, ...]]:
        """``U (H, N)``, ``W (H, n_out)``, ``b (H,)``, ``V (n_out, H)``, ``c (n_out,)``."""
        (H,), (n_out,) = params["b"].shape, params["c"].shape
        return {"U": (H, n_in), "W": (H, n_out), "b": (H,), "V": (n_out, H), "c": (n_out,)}

    def state_shapes(self, params: Any, batch_size: int) -> Any:
        """``o (B, n_out)``."""
        return (batch_size, params["c"].shape[0])

    def weights(self, params: Any) -> Any:
        """``U.T``, ``W.T``, ``V.T`` and both biases."""
        U_T, W_T, V_T = (transposed(params[name]) for name in "UWV")
        return U_T, W_T, V_T, params["b"], params["c"]

    def project(self, weights: Any, x: JaxArray) -> JaxArray:
        """The inputs' part of equation (2)."""
        U_T, _, _, b, _ = weights
        return x @ U_T + b

    def step(self, weights: Any, state: JaxArray, a: JaxArray) -> tuple[JaxArray, JordanResiduals]:
        """Equations (2) to (5)."""
        _, W_T, V_T, _, c = weights
        f, g = ACTIVATIONS[self.activation], ACTIVATIONS[self.output_activation]
        z = a + state @ W_T  # (2)
        h = f.value(z)  # (3)
        q = h @ V_T + c  # (4)
        o_new = g.value(q)  # (5), (6a)
        return o_new, JordanResiduals(h, () if f.from_value else z, () if g.from_value else q)

    def memory(self, state: JaxArray) -> JaxArray:
        """``o``; equation (6a)."""
        return state

    def step_vjp(
        self,
        params: Any,
        memory: tuple[JaxArray, JaxArray],
        kept: JordanResiduals,
        d_state: JaxArray,
        d_y: JaxArray,
    ) -> tuple[JaxArray, Any]:
        """Equations (7a), (9), (12), (13) and (17)."""
        _, o_new = memory
        h, z, q = kept
        f, g = ACTIVATIONS[self.activation], ACTIVATIONS[self.output_activation]
        d_out = d_y + d_state  # (7a)
        d_q = d_out * g.slope(o_new if g.from_value else q)  # (9)
        d_h = d_q @ params["V"]  # (12)
        d_z = d_h * f.slope(h if f.from_value else z)  # (13)
        d_o = d_z @ params["W"]  # (17)
        return d_o, (d_q, d_z)

    def accumulate(
        self, params: Any, xs: JaxArray, memories: JaxArray, kept: JordanResiduals, deferred: Any
    ) -> tuple[dict[str, JaxArray], JaxArray]:
        """Equations (10), (11), (14), (15), (16), (18) and (19a) for all steps."""
        d_q, d_z = deferred
        d_q_T, d_z_T = columns(d_q), columns(d_z)
        d_params = {
            "U": d_z_T @ rows(xs),  # (14)
            "W": d_z_T @ rows(memories),  # (15)
            "b": d_z_T.sum(axis=1),  # (16)
            "V": d_q_T @ rows(kept.h),  # (10)
            "c": d_q_T.sum(axis=1),  # (11)
        }
        return d_params, back_through(d_z, params["U"])  # (18), (19a)


def form(cell: Jordan) -> JaxCell | None:
    """The form of this cell; None if it is teacher forced or has an activation of the user's."""
    f, g = cell.activation, cell.output_activation
    if cell.teacher_forced or not (isinstance(f, str) and isinstance(g, str)):
        return None
    return JordanForm(f, g) if f in ACTIVATIONS and g in ACTIVATIONS else None
