"""The native form of a cell: its equations, written for a loop that JAX compiles.

Invalid arguments of a layer are rejected here, before anything is compiled.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from bpttcheck import trees
from bpttcheck.errors import ContractError

JaxArray = Any
"""A ``jax.Array`` or a tracer of one."""


class JaxCell(Protocol):
    """One cell's step forward and backward in ``jax.numpy``, without the deferred terms.

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
        """The parameters prepared for the forward step, outside the loop."""
        ...

    def project(self, weights: Any, x: JaxArray) -> JaxArray:
        """The part of the step that needs no state: ``x (R, n_in)`` to ``a (R, n)``.

        The rows are those of one step or of all steps.
        """
        ...

    def step(self, weights: Any, state: Any, a: JaxArray) -> tuple[Any, Any]:
        """The rest of one step forward: ``(new_state, kept)``.

        ``a`` is the projection of the step's inputs by :meth:`project`; ``kept`` are the residuals.
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
        :meth:`accumulate` needs of this step, arrays ``(B, n)``.
        """
        ...

    def accumulate(
        self, params: Any, xs: JaxArray, memories: JaxArray, kept: Any, deferred: Any
    ) -> tuple[dict[str, JaxArray], JaxArray]:
        """``(d_params, d_xs)``: one product each over the rows of all steps.

        Every array is ``(T, B, n)``; ``memories[t]`` is the memory before step ``t``.
        """
        ...


def require_sequence(
    params: Any, xs: Any, state0: Any, mask: Any
) -> tuple[Any, JaxArray, Any, JaxArray | None]:
    """The arguments as JAX arrays.

    Raises:
        ContractError: ``params`` is not a dict of floating arrays, ``xs`` not a floating array
            ``(T, B, n_in)``, ``state0`` None, ``mask`` not a bool array ``(T, B)``, or two dtypes
            are mixed.
    """
    if not isinstance(params, dict):
        raise ContractError(
            f"params is of type {type(params).__name__}, expected a dict of floating arrays",
            item="params",
        )
    if state0 is None:
        raise ContractError(
            "state0=None, expected a state; give cell.initial_state(params, batch_size)",
            item="state0",
        )
    params, xs, state0 = jax.tree.map(jnp.asarray, (params, xs, state0))
    if xs.ndim != 3 or not jnp.issubdtype(xs.dtype, jnp.floating):
        raise ContractError(
            f"xs.shape={xs.shape}, xs.dtype={xs.dtype}, but expected a floating array (T, B, n_in);"
            " for one sequence use xs[:, None], for more axes jax.vmap",
            item="xs",
        )
    for name, value in params.items():
        _require_dtype(f"params[{name!r}]", value, xs)
    for leaf in jax.tree.leaves(state0):
        if is_float(leaf):
            _require_dtype("a leaf of state0", leaf, xs)
    if mask is None:
        return params, xs, state0, None
    mask = jnp.asarray(mask)
    if mask.shape != xs.shape[:2] or mask.dtype != jnp.bool_:
        raise ContractError(
            f"mask.shape={mask.shape}, mask.dtype={mask.dtype}, but expected a bool array"
            f" (T, B) = {xs.shape[:2]}, true where the step is real",
            item="mask",
        )
    return params, xs, state0, mask


def require_form(form: JaxCell, params: Any, xs: JaxArray, state0: Any) -> None:
    """Reject parameters and states of other shapes than the equations have.

    Raises:
        ContractError: a parameter is missing or has another shape, or ``state0`` has.
    """
    _, B, n_in = xs.shape
    try:
        expected = form.shapes(params, n_in)
    except (KeyError, ValueError) as error:
        raise ContractError(
            f"params has {_shapes(params)}, which are not the parameters of {form}: expected those"
            " of the cell's init",
            item="params",
        ) from error
    if _shapes(params) != expected:
        raise ContractError(
            f"params has {_shapes(params)}, but expected {expected} for xs.shape={xs.shape}",
            item="params",
        )
    wanted = form.state_shapes(params, B)
    # A shape is a tuple as well, so leaves are counted in the cell's own state.
    leaves = list(wanted) if isinstance(wanted[0], tuple) else [wanted]
    structure = "an array" if wanted is leaves[0] else "a tuple"
    given = [leaf.shape for leaf in trees.leaves(state0)]
    is_plain = type(state0) is tuple if structure == "a tuple" else not isinstance(state0, tuple)
    if not is_plain or isinstance(state0, dict) or given != leaves:
        raise ContractError(
            f"state0 is {trees.structure(state0).describe()} of shapes {given}, but expected"
            f" {structure} of shapes {leaves}",
            item="state0",
        )


def is_float(leaf: Any) -> bool:
    """True if a leaf of a state is differentiated."""
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _require_dtype(name: str, value: JaxArray, xs: JaxArray) -> None:
    if value.dtype != xs.dtype:
        raise ContractError(
            f"{name} has dtype {value.dtype}, but expected that of xs, {xs.dtype}; convert one of"
            " them",
            item=name,
        )


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in params.items()}
