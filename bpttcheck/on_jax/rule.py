"""A cell's ``step`` and ``step_vjp`` at one set of shapes, traced together into one graph."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp

from bpttcheck import trees
from bpttcheck.on_jax.form import JaxArray, is_float
from bpttcheck.on_jax.partition import EquationGraph
from bpttcheck.oracles.tracer.trace import lift


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False)
class TracedRule:
    """One step and its rule, masked rows included.

    ::

        new, y, cache               = step(params, state, x)
        d_params, d_previous, d_x   = step_vjp(params, cache, d_new, d_y)

    A row that is masked keeps its state, and its ``d_new`` becomes ``d_previous``; its output and
    its other cotangents are zero.

    Args:
        graph: the equations; the other fields are values of it, leaf by leaf.
        params: the parameters.
        state: the state before the step.
        given: ``x``, and where there is a mask whether each row is real.
        d_new: the cotangent of the new state; of an integer leaf, floating zeros.
        d_y: the cotangent of the output.
        new: the new state.
        y: the output.
        d_params: the step's part of the gradients of the parameters.
        d_previous: the cotangent of ``state``.
        d_x: the gradient of ``x``.
    """

    graph: EquationGraph
    params: tuple[int, ...]
    state: tuple[int, ...]
    given: tuple[int, ...]
    d_new: tuple[int, ...]
    d_y: int
    new: tuple[int, ...]
    y: int
    d_params: tuple[int, ...]
    d_previous: tuple[int, ...]
    d_x: int

    @property
    def moving(self) -> list[int]:
        """The inputs that differ from step to step."""
        return [*self.state, *self.given, *self.d_new, self.d_y]


def traced(
    cell: Any, params: Any, state: Any, xs: JaxArray, mask: JaxArray | None = None
) -> TracedRule:
    """The rule of a cell for arguments of these shapes and dtypes, in 64-bit mode.

    Args:
        cell: any :class:`bpttcheck.Cell`.
        params: its parameters.
        state: a state.
        xs: the inputs of all steps, ``(T, B, n_in)``.
        mask: ``(T, B)``, whether a row is real, or None.

    Raises:
        Declined: the code cannot be traced.
    """
    at_params, at_state = trees.structure(params), trees.structure(state)

    def both(params: Any, state: Any, x: Any, d_state: Any, d_y: Any) -> Any:
        new, y, cache = cell.step(params, state, x)
        return new, y, cell.step_vjp(params, cache, d_state, d_y)

    def flat(params: Any, state: Any, given: Any, d_state: Any, d_y: Any) -> Any:
        params, state = at_params.unflatten(params), at_state.unflatten(state)
        d_state, (x, real) = at_state.unflatten(d_state), (*given, None)[:2]
        d_new = _where(real, d_state)
        new, y, found = lift(both)(params, state, x, d_new, _where(real, d_y))
        d_params, d_previous, d_x = found
        d_previous = _where(real, trees.map_leaves(_as, d_new, d_previous), d_state)
        new = _where(real, trees.map_leaves(_as, state, new), state)
        y, d_x = _where(real, y.astype(xs.dtype)), _where(real, _as(x, d_x))
        d_params = trees.map_leaves(_as, params, d_params)
        return trees.leaves(new), y, trees.leaves(d_params), trees.leaves(d_previous), d_x

    params, state = (trees.map_leaves(_shape, tree) for tree in (params, state))
    x = jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype)
    given = [x] if mask is None else [x, jax.ShapeDtypeStruct(mask.shape[1:], mask.dtype)]
    y = jax.eval_shape(
        lift(lambda params, state, x: cell.step(params, state, x)[1]), params, state, x
    )
    leaves = trees.leaves(state)
    d_new = [jax.ShapeDtypeStruct(a.shape, a.dtype if is_float(a) else x.dtype) for a in leaves]
    d_y = jax.ShapeDtypeStruct(y.shape, x.dtype)
    program = jax.make_jaxpr(flat)(trees.leaves(params), leaves, given, d_new, d_y)
    graph = EquationGraph(program)
    values = iter([*graph.inputs, *graph.outputs])

    def take(count: int) -> tuple[int, ...]:
        return tuple(islice(values, count))

    P, S = at_params.size, at_state.size
    return TracedRule(
        graph, take(P), take(S), take(len(given)), take(S), next(values),
        take(S), next(values), take(P), take(S), next(values),
    )  # fmt: skip


def _shape(array: Any) -> Any:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _as(of: Any, array: Any) -> JaxArray:
    return jnp.broadcast_to(jnp.asarray(array, of.dtype), of.shape)


def _where(real: JaxArray | None, tree: Any, old: Any = None) -> Any:
    """The leaves where a row is real; elsewhere the old ones, or zeros."""
    if real is None:
        return tree
    old = trees.map_leaves(jnp.zeros_like, tree) if old is None else old

    def one(old: Any, new: Any) -> Any:
        return jnp.where(real.reshape(*real.shape, *[1] * (new.ndim - 1)), new, old)

    return trees.map_leaves(one, old, tree)
