"""Values of all steps at once, and sums over all steps, without a loop."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bpttcheck.on_jax.partition import Equation, Graph, Values

# f(a + b) = f(a) + f(b), for each of the equation's inputs together.
_FEW = 8
_LINEAR = frozenset(
    "add add_any sub neg transpose reshape broadcast_in_dim squeeze slice concatenate pad real imag"
    " complex copy rev expand_dims cumsum".split()
)


class Steps:
    """The values of a graph for all steps: stacked along a first axis, or the same at every step.

    Args:
        graph: the equations of one step.
        constant: the values that are the same at every step, on demand.
        moving: the values that are not.
        stacked: values ``(T, ...)`` that are known.
        T: the number of steps.
    """

    def __init__(self, graph: Graph, constant: Values, moving: set[int], stacked: Any, T: int) -> None:
        self.graph, self.constant, self.moving, self.T = graph, constant, moving, T
        self.stacked = Values(graph, stacked, self._apply, constant, moving)
        self.sums: dict[int, Any] = {}

    def _apply(self, equation: Equation, arrays: list[Any]) -> tuple[Any, ...]:
        if equation.primitive.name == "reduce_sum":
            return (_summed(arrays[0], [axis + 1 for axis in equation.params["axes"]]),)
        axes = [0 if one in self.moving else None for one in equation.inputs]
        return jax.vmap(equation.bind, axes)(*arrays)

    def total(self, value: int) -> Any:
        """The sum of a value over all steps; products are contracted over the steps as well."""
        if value not in self.sums:
            self.sums[value] = self._total(value)
        return self.sums[value]

    def _total(self, value: int) -> Any:
        if value not in self.moving:
            return self.constant[value] * self.T
        equation = self.graph.makers.get(value)
        if equation is None or value in self.stacked.known:
            return _summed(self.stacked[value], (0,))
        name, params, inputs = equation.primitive.name, equation.params, equation.inputs
        moving = [one in self.moving for one in inputs]
        if name in _LINEAR or (name == "convert_element_type" and _is_inexact(params["new_dtype"])):
            return equation.bind(*map(self.total, inputs))[0]
        if name == "dot_general" and all(moving):
            return self._product(equation)
        if (name in ("dot_general", "mul") and sum(moving) == 1) or (name == "div" and moving == [True, False]):
            given = [self.total(v) if m else self.constant[v] for v, m in zip(inputs, moving, strict=True)]
            return equation.bind(*given)[0]
        if name == "reduce_sum":
            return _summed(self.stacked[inputs[0]], (0, *(axis + 1 for axis in params["axes"])))
        return _summed(self.stacked[value], (0,))

    def _product(self, equation: Equation) -> Any:
        (contracted, batch), params = equation.params["dimension_numbers"], equation.params
        sides = [self._untransposed(v, c, b) for v, c, b in zip(equation.inputs, contracted, batch, strict=True)]
        arrays, contracted, batch = zip(*sides, strict=True)
        params = params | {"dimension_numbers": (contracted, batch)}
        return equation._replace(params=params).bind(*arrays)[0]

    def _untransposed(self, value: int, contracted: Any, batch: Any) -> tuple[Any, Any, Any]:
        """A factor with the steps among its contracted axes; its layout as it was made."""
        maker = self.graph.makers.get(value)
        rank_ = None
        if value not in self.stacked.known and maker is not None and maker.primitive.name == "transpose":
            order = maker.params["permutation"]
            free = [order[i] for i in range(len(order)) if i not in contracted and i not in batch]
            if free == sorted(free):
                value = maker.inputs[0]
                contracted, batch = ([order[i] for i in axes] for axes in (contracted, batch))
        return self.stacked[value], (0, *(i + 1 for i in contracted)), tuple(i + 1 for i in batch)


def _is_inexact(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def _summed(array: Any, axes: Any) -> Any:
    """The sum over these axes, in a form at which XLA's library for a CPU is fast.

    That library takes up to twenty times as long as a loop where an axis of size one is left, and
    five times with few terms on the last axis. Axes of size one are summed as well; and a sum
    that is not written as one gets a loop.
    """
    shape = [size for axis, size in enumerate(array.shape) if axis not in axes]
    last = array.ndim - 1
    if tuple(axes) == (last,) and array.shape[last] <= _FEW:
        return lax.reduce(array, np.zeros((), array.dtype), lambda a, b: a - (-b), (last,))
    axes = [axis for axis, size in enumerate(array.shape) if axis in axes or size == 1]
    return array.sum(axes).reshape(shape)
