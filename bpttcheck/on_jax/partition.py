"""A traced step and its rule as one graph of equations, and what each equation depends on.

What needs no carried value is evaluated for all steps at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal

JaxArray = Any

_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr"}


class Equation(NamedTuple):
    """``outputs = primitive(inputs, **params)``, on values that are numbered."""

    primitive: Any
    params: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def bind(self, *arrays: Any) -> tuple[Any, ...]:
        """The outputs for these inputs."""
        params = self.primitive.get_bind_params(self.params)
        if isinstance(params, tuple):  # JAX before 0.8
            functions, params = params
            arrays = *functions, *arrays
        found = self.primitive.bind(*arrays, **params)
        return tuple(found) if self.primitive.multiple_results else (found,)


class Graph:
    """The equations of a jaxpr, calls inlined."""

    def __init__(self, closed: ClosedJaxpr) -> None:
        self.makers: dict[int, Equation] = {}
        self.constants: dict[int, Any] = {}
        self._count = 0
        self.inputs = [self._new() for _ in closed.jaxpr.invars]
        self.outputs = self._inline(closed, self.inputs)

    def _new(self) -> int:
        self._count += 1
        return self._count - 1

    def _constant(self, value: Any) -> int:
        number = self._new()
        self.constants[number] = value
        return number

    def _inline(self, closed: ClosedJaxpr, inputs: Sequence[int]) -> list[int]:
        jaxpr = closed.jaxpr
        names: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))
        names.update(zip(jaxpr.constvars, map(self._constant, closed.consts), strict=True))

        def read(atom: Any) -> int:
            if isinstance(atom, Literal):
                return self._constant(jnp.asarray(atom.val, atom.aval.dtype))
            return names[atom]

        for equation in jaxpr.eqns:
            given = tuple(map(read, equation.invars))
            inner = equation.params.get(_CALLS.get(equation.primitive.name, ""))
            if inner is not None:
                found = self._inline(inner, given)
            else:
                found = [self._new() for _ in equation.outvars]
                made = Equation(equation.primitive, equation.params, given, tuple(found))
                self.makers.update(dict.fromkeys(found, made))
            names.update(zip(equation.outvars, found, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def depending(self, on: Iterable[int]) -> set[int]:
        """The values that depend on one of these, and these."""
        found = set(on)
        for value, equation in self.makers.items():  # in the order of evaluation
            if any(one in found for one in equation.inputs):
                found.add(value)
        return found

    def reached(self, targets: Iterable[int], stop: Callable[[int], bool]) -> set[int]:
        """What the targets are made of, down to values at which ``stop``, and these."""
        found: set[int] = set()
        rest = list(targets)
        while rest:
            value = rest.pop()
            if value in found:
                continue
            found.add(value)
            if not stop(value) and value in self.makers:
                rest += self.makers[value].inputs
        return found


class Values:
    """Values of a graph on demand, each computed once.

    Args:
        graph: the equations.
        known: values that are known.
        apply: evaluates an equation.
        outer: where the values that are not ``inside`` come from.
        inside: the values that are made here; None: all.
    """

    def __init__(
        self,
        graph: Graph,
        known: Mapping[int, Any],
        apply: Callable[[Equation, list[Any]], tuple[Any, ...]],
        outer: Values | None = None,
        inside: Collection[int] = (),
    ) -> None:
        self.graph, self.known, self.apply = graph, dict(known), apply
        self.outer, self.inside = outer, inside

    def __getitem__(self, value: int) -> Any:
        todo = [value]
        while todo:
            one = todo[-1]
            if one in self.known:
                todo.pop()
            elif self.outer is not None and one not in self.inside:
                self.known[one] = self.outer[one]
            elif one in self.graph.constants:
                self.known[one] = self.graph.constants[one]
            else:
                equation = self.graph.makers[one]
                missing = [item for item in equation.inputs if item not in self.known]
                todo += missing
                if not missing:
                    arrays = [self.known[item] for item in equation.inputs]
                    self.known.update(zip(equation.outputs, self.apply(equation, arrays), strict=True))
        return self.known[value]


def apply(equation: Equation, arrays: list[Any]) -> tuple[Any, ...]:
    """As it is written."""
    return equation.bind(*arrays)
