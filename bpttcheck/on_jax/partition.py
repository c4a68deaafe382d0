"""A jaxpr as a graph of equations on numbered values, and values of it on demand.

This is how the equations of one step are told apart by what they depend on, and evaluated in
different places: before a loop, for all steps at once, inside the loop and after it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal

from bpttcheck.on_jax.form import JaxArray

# Calls that stand for their bodies, and where these are.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}


class Equation(NamedTuple):
    """``outputs = primitive(inputs, **params)``, on values that are numbered."""

    primitive: Any
    params: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def bind(self, *arrays: Any) -> tuple[Any, ...]:
        """The outputs for these inputs."""
        params = self.primitive.get_bind_params(self.params)
        if isinstance(params, tuple):  # older JAX: the functions apart
            functions, params = params
            arrays = *functions, *arrays
        found = self.primitive.bind(*arrays, **params)
        return tuple(found) if self.primitive.multiple_results else (found,)


class EquationGraph:
    """The equations of a jaxpr, calls inlined.

    Args:
        closed: the jaxpr.

    Attributes:
        makers: value -> the equation that it is an output of, in the order of evaluation.
        constants: value -> its array, for the literals and the captured arrays.
        inputs: the values of the arguments.
        outputs: the values of the results.
    """

    def __init__(self, closed: ClosedJaxpr) -> None:
        self.makers: dict[int, Equation] = {}
        self.constants: dict[int, Any] = {}
        self._count = 0
        self.inputs = [self._new() for _ in closed.jaxpr.invars]
        self.outputs = self._inline(closed.jaxpr, closed.consts, self.inputs)

    def _new(self) -> int:
        self._count += 1
        return self._count - 1

    def _constant(self, array: Any) -> int:
        value = self._new()
        self.constants[value] = array
        return value

    def _inline(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[int]) -> list[int]:
        names: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))
        names.update(zip(jaxpr.constvars, map(self._constant, consts), strict=True))

        def read(atom: Any) -> int:
            if isinstance(atom, Literal):
                return self._constant(np.asarray(atom.val, getattr(atom.aval, "dtype", None)))
            return names[atom]

        for equation in jaxpr.eqns:
            given = tuple(map(read, equation.invars))
            inner = equation.params.get(_CALLS.get(equation.primitive.name, ""))
            if inner is not None:
                found = self._inline(inner.jaxpr, inner.consts, given)
            else:
                found = [self._new() for _ in equation.outvars]
                made = Equation(equation.primitive, equation.params, given, tuple(found))
                self.makers.update(dict.fromkeys(found, made))
            names.update(zip(equation.outvars, found, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def depending(self, on: Iterable[int]) -> set[int]:
        """These values, and those that depend on one of them."""
        found = set(on)
        for value, equation in self.makers.items():
            if not found.isdisjoint(equation.inputs):
                found.add(value)
        return found

    def reached(self, targets: Iterable[int], stop: Callable[[int], bool]) -> set[int]:
        """The targets and what they are made of, down to values at which ``stop``, and these."""
        found: set[int] = set()
        rest = list(targets)
        while rest:
            value = rest.pop()
            if value not in found:
                found.add(value)
                if not stop(value) and value in self.makers:
                    rest += self.makers[value].inputs
        return found


Apply = Callable[[Equation, list[Any]], Sequence[Any]]


def as_written(equation: Equation, arrays: list[Any]) -> Sequence[Any]:
    """The outputs of an equation for arrays of one step."""
    return equation.bind(*arrays)


class OnDemand:
    """Arrays of the values of a graph, on demand, each computed once.

    Args:
        graph: the equations.
        known: value -> array.
        apply: evaluates an equation.
        outer: where the values that are not ``inside`` come from; None: all are made here.
        inside: those that are made here.
    """

    def __init__(
        self,
        graph: EquationGraph,
        known: Mapping[int, Any],
        apply: Apply = as_written,
        outer: OnDemand | None = None,
        inside: Collection[int] = (),
    ) -> None:
        self.known = {**graph.constants, **known} if outer is None else dict(known)
        self._makers, self._apply, self._outer, self._inside = graph.makers, apply, outer, inside

    def __getitem__(self, value: int) -> Any:
        rest = [value]
        while rest:
            one = rest[-1]
            if one in self.known:
                rest.pop()
            elif self._outer is not None and one not in self._inside:
                self.known[one] = self._outer[one]
            else:
                equation = self._makers[one]
                missing = [item for item in equation.inputs if item not in self.known]
                rest += missing
                if not missing:
                    found = self._apply(equation, [self.known[item] for item in equation.inputs])
                    self.known.update(zip(equation.outputs, found, strict=True))
        return self.known[value]


# f(a + a', b + b') = f(a, b) + f(a', b'): a sum over the steps passes through.
_LINEAR = frozenset(
    "add add_any sub neg transpose reshape broadcast_in_dim squeeze slice concatenate pad rev copy"
    " real imag complex".split()
)
# So many terms on the last axis are few to a CPU.
_FEW = 8


class Steps:
    """The values of a graph for all steps: one for each along a first axis, or one for all.

    Args:
        graph: the equations of one step.
        constants: the values that are the same at every step, by its inputs that are.
        moving: the inputs that are not; what depends on one is not either.
        known: value -> array ``(T, ...)``.
        T: the number of steps.
    """

    def __init__(
        self,
        graph: EquationGraph,
        constants: Mapping[int, Any],
        moving: Collection[int],
        known: Mapping[int, JaxArray],
        T: int,
    ) -> None:
        self.moving = graph.depending(moving)
        self._graph, self._T = graph, T
        self._constant = OnDemand(graph, constants)
        self._stacked = OnDemand(graph, known, self._at_once, self._constant, self.moving)
        self._totals: dict[int, Any] = {}

    def known(self) -> dict[int, JaxArray]:
        """The stacked arrays that have been made or given."""
        return {v: array for v, array in self._stacked.known.items() if v in self.moving}

    def stacked(self, value: int) -> JaxArray:
        """A value of all steps, ``(T, ...)``."""
        if value in self.moving:
            return self._stacked[value]
        return jnp.broadcast_to(self._constant[value], (self._T, *self._constant[value].shape))

    def _at_once(self, equation: Equation, arrays: list[Any]) -> Sequence[Any]:
        if equation.primitive.name == "reduce_sum":
            return [_sum(arrays[0], [axis + 1 for axis in equation.params["axes"]])]
        axes = [0 if item in self.moving else None for item in equation.inputs]
        return jax.vmap(equation.bind, axes)(*arrays)

    def loop(
        self,
        inside: Collection[int],
        carried: Mapping[int, Any],
        results: Sequence[int],
        kept: Sequence[int],
        summed: Mapping[int, Any] | None = None,
        **how: Any,
    ) -> tuple[list[Any], list[Any]]:
        """Evaluate values step by step; whatever else they need, before the loop.

        Args:
            inside: the values that are evaluated in the loop.
            carried: the inputs that are carried -> their arrays at the first step.
            results: what is carried on.
            kept: values of which those of all steps are known afterwards.
            summed: values that are summed over the steps -> zeros.
            how: ``reverse`` and ``unroll`` of ``lax.scan``.

        Returns:
            What the last step carries on, and the sums.
        """
        makers, sums = self._graph.makers, summed or {}
        fed = {item for v in inside if v in makers for item in makers[v].inputs}
        fed = fed.union(results, kept, sums) - {*inside, *carried}
        given = {v: self._stacked[v] for v in fed & self.moving}
        fixed = {v: self._constant[v] for v in fed - self.moving}  # such as a weight, transposed

        def body(carry: Any, given: dict[int, Any]) -> tuple[Any, Any]:
            arrays, totals = carry
            known = {**fixed, **given, **dict(zip(carried, arrays, strict=True))}
            values = OnDemand(self._graph, known)
            totals = [total + values[v] for total, v in zip(totals, sums, strict=True)]
            return ([values[v] for v in results], totals), [values[v] for v in kept]

        first = list(carried.values()), list(sums.values())
        (last, totals), found = lax.scan(body, first, given, self._T, **how)
        self._stacked.known.update(zip(kept, found, strict=True))
        return last, totals

    def total(self, value: int) -> JaxArray:
        """The sum of a value over all steps.

        It passes through the linear equations down to a product, of which the steps become one
        more contracted axis: ``sum_t a[t]^T b[t]`` is one product over the rows of all steps.
        """
        if value not in self._totals:
            self._totals[value] = self._total(value)
        return self._totals[value]

    def _total(self, value: int) -> JaxArray:
        if value not in self.moving:
            return self._constant[value] * self._T
        equation = self._graph.makers.get(value)
        if equation is None or value in self._stacked.known:
            return _sum(self._stacked[value], [0])
        name, params, inputs = equation.primitive.name, equation.params, equation.inputs
        moving = tuple(item in self.moving for item in inputs)
        if name == "dot_general" and all(moving):
            return self._product(equation)
        if name == "reduce_sum":
            return _sum(self._stacked[inputs[0]], [0, *(axis + 1 for axis in params["axes"])])
        if name in _LINEAR or (
            name == "convert_element_type" and jnp.issubdtype(params["new_dtype"], jnp.inexact)
        ):
            return equation.bind(*map(self.total, inputs))[0]
        if (name in ("dot_general", "mul") and sum(moving) == 1) or (
            name == "div" and moving == (True, False)
        ):
            each = zip(inputs, moving, strict=True)
            return equation.bind(*(self.total(v) if m else self._constant[v] for v, m in each))[0]
        return _sum(self._stacked[value], [0])

    def _product(self, equation: Equation) -> JaxArray:
        contracted, batch = equation.params["dimension_numbers"]
        sides = map(self._factor, equation.inputs, contracted, batch)
        arrays, contracted, batch = zip(*sides, strict=True)
        params = {**equation.params, "dimension_numbers": (contracted, batch)}
        return equation._replace(params=params).bind(*arrays)[0]

    def _factor(self, value: int, contracted: Any, batch: Any) -> tuple[Any, Any, Any]:
        """A factor of a product, its contracted axes with the steps, and its batch axes.

        Where it is a transposed matrix it is taken as it was before: a copy less.
        """
        maker = self._graph.makers.get(value)
        if maker is not None and maker.primitive.name == "transpose":
            order = maker.params["permutation"]
            free = [a for i, a in enumerate(order) if i not in contracted and i not in batch]
            if free == sorted(free):
                value = maker.inputs[0]
                contracted, batch = ([order[i] for i in axes] for axes in (contracted, batch))
        moved = [tuple(axis + 1 for axis in axes) for axes in (contracted, batch)]
        return self._stacked[value], (0, *moved[0]), moved[1]


def in_chunks(arrays: Any, length: int) -> list[Any]:
    """Arrays ``(T, ...)`` in chunks of equal length, at least two, about ``length`` steps each.

    The steps that are left over stand before them, as a chunk of their own.

    Returns:
        The left-over steps ``(rest, ...)``, if any, and the chunks ``(count, size, ...)``.
    """
    T = len(jax.tree.leaves(arrays)[0])
    count = max(T // length, min(T, 2), 1)
    size = T // count
    rest = T - count * size
    chunks = jax.tree.map(lambda a: a[rest:].reshape(count, size, *a.shape[1:]), arrays)
    return [jax.tree.map(lambda a: a[:rest], arrays), chunks] if rest else [chunks]


def over_chunks(
    body: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    parts: Sequence[Any],
    reverse: bool = False,
) -> tuple[Any, list[Any]]:
    """``lax.scan`` over what :func:`in_chunks` made, the left-over steps in their place."""
    found: list[Any] = []
    for part in reversed(parts) if reverse else parts:
        if part is parts[-1]:
            carry, made = lax.scan(body, carry, part, reverse=reverse)
        else:
            carry, made = body(carry, part)
        found.append(made)
    return carry, found[::-1] if reverse else found


def joined(parts: Sequence[JaxArray]) -> JaxArray:
    """The array ``(T, ...)`` whose chunks these are."""
    *rest, chunks = parts
    return jnp.concatenate([*rest, chunks.reshape(-1, *chunks.shape[2:])])


def _sum(array: JaxArray, axes: Sequence[int]) -> JaxArray:
    """The sum over these axes, in a form at which XLA's library for a CPU is fast.

    It takes up to twenty times as long as a loop where an axis of size one is left, and five times
    for few terms on the last axis. So axes of size one are summed as well, and ``a - (-b)``, which
    it does not know for a sum, gets a loop.
    """
    last = array.ndim - 1
    if list(axes) == [last] and array.shape[last] <= _FEW:
        return lax.reduce(array, np.zeros((), array.dtype), lambda a, b: a - (-b), (last,))
    shape = [size for axis, size in enumerate(array.shape) if axis not in axes]
    ones = [axis for axis, size in enumerate(array.shape) if axis in axes or size == 1]
    return array.sum(tuple(ones)).reshape(shape)
