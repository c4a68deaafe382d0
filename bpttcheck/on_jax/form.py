"""What a native form of a cell is: its equations, written for a loop that JAX compiles."""

from __future__ import annotations

from typing import Any, Protocol

JaxArray = Any
"""A ``jax.Array`` or a tracer of one."""


class JaxCell(Protocol):
    """One cell's step forward and backward in ``jax.numpy``, without anything that is deferred.

    The loops of :mod:`bpttcheck.on_jax.function` call it. The output of every form is the part of
    its state that meets the recurrent weights, its *memory* (``h``; the output ``o`` of a Jordan
    network). All arrays are rows of samples, as in the cells.
    """

    def shapes(self, params: Any, n_in: int) -> dict[str, tuple[int, ...]]:
        """The shapes that the parameters must have, by their names."""
        ...

    def state_shapes(self, params: Any, batch_size: int) -> Any:
        """The shapes of the leaves of the state, in its structure."""
        ...

    def weights(self, params: Any) -> Any:
        """The parameters as the forward step wants them: what need not be done in every step."""
        ...

    def project(self, weights: Any, x: JaxArray) -> JaxArray:
        """The part of the step that needs no state: ``x (R, n_in)`` to ``a (R, n)``.

        The rows are those of one step or of all steps.
        """
        ...

    def step(self, weights: Any, state: Any, a: JaxArray) -> tuple[Any, Any]:
        """The rest of one step forward: ``(new_state, kept)``.

        ``a`` is what :meth:`project` made of the step's inputs, and ``kept`` is what the way back
        needs.
        """
        ...

    def memory(self, state: Any) -> JaxArray:
        """The part of the state that is the output and meets the recurrent weights."""
        ...

    def step_vjp(
        self, params: Any, memory: tuple[JaxArray, JaxArray], kept: Any, d_state: Any, d_y: JaxArray
    ) -> tuple[Any, Any]:
        """One step backward without the parameters: ``(d_previous_state, deferred)``.

        ``memory`` is the pair of the memories before and after the step; ``deferred`` is what
        :meth:`gather` needs of this step, arrays ``(B, n)``.
        """
        ...

    def gather(
        self, params: Any, xs: JaxArray, memories: JaxArray, kept: Any, deferred: Any
    ) -> tuple[dict[str, JaxArray], JaxArray]:
        """``(d_params, d_xs)``: one product each over the rows of all steps.

        Every array is ``(T, B, n)``; ``memories[t]`` is the memory before step ``t``.
        """
        ...
