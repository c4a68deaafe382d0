"""A jaxpr as a graph of equations on numbered values, and values of it on demand.

This is how the equations of one step are told apart by what they depend on, and evaluated in
different places: before a loop, inside it and after it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

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
