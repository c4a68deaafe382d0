"""A graph pulled back in NumPy, many times at once, each time with other changes of the way back.

The graph of a whole sequence has the operations of every step. Its backward pass is a sum over
paths. For the operations that read a value,

    adjoint of the value = sum of (local derivative).T @ (adjoint of their result)

Local derivatives are computed once, by JAX, operation by operation. What is pulled back along one
edge, or what the adjoint of one value is, may then be changed at will: at all steps alike, at one
step, or with quantities of another step. The values of the forward pass never change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bpttcheck.errors import Declined
from bpttcheck.jax_mode import reference_mode
from bpttcheck.oracles.autodiff.programs import compile_cheaply
from bpttcheck.oracles.step_graph.graph import ELEMENTWISE, Graph, Op
from bpttcheck.oracles.step_graph.operands import contribution, subscripts

Array = NDArray[Any]
Edge = tuple[int, int]
"""An operation and one of its operands, by position."""

Lookup = Callable[[int], Array]
"""The adjoint of a value."""

EdgeChange = Callable[[Array, Lookup], Array]
"""What flows to an operand, from the adjoint of the result."""

ValueChange = Callable[[list[Array], Lookup], Array]
"""The adjoint of a value, from what its readers send, the last reader first."""

_CHUNK = 128
_LARGEST = 4_000_000
_ROUNDS = 16


@dataclass(frozen=True)
class BackwardChange:
    """One change of the backward pass, at any number of places.

    Args:
        edges: what flows along an edge instead.
        values: what the adjoint of a value is instead.
        extra: value -> (another value, local derivative): what it passes to that one directly,
            and to its own operands nothing.
        reads: True if it reads adjoints of other values.
    """

    edges: Mapping[Edge, EdgeChange] = field(default_factory=dict)
    values: Mapping[int, ValueChange] = field(default_factory=dict)
    extra: Mapping[int, tuple[int, Array]] = field(default_factory=dict)
    reads: bool = False


class Derivatives:
    """The local derivatives of a graph, compiled once.

    Args:
        graph: the graph.
        leaves: inputs of its shapes.
    """

    def __init__(self, graph: Graph, leaves: Sequence[Any]) -> None:
        self.graph = graph
        known = graph.constant | graph.still
        self.edges: list[Edge] = [
            (k, j)
            for k, op in enumerate(graph.ops)
            for j in graph.moving(op)
            if op.ins[j] not in known and graph.floats[op.ins[j]]
            and any(graph.floats[out] for out in op.outs)
        ]  # fmt: skip
        self._require_small()
        with reference_mode():
            lowered = jax.jit(self._all).lower([_double(leaf) for leaf in leaves])
            self._compiled = compile_cheaply(lowered)

    def at(self, leaves: Sequence[Any], cotangents: Sequence[Array]) -> Pullback:
        """The pullback at a point.

        Args:
            leaves: the inputs.
            cotangents: of the outputs.
        """
        with reference_mode():
            values, local = self._compiled([_double(leaf) for leaf in leaves])
        return Pullback(
            self.graph,
            {ref: np.asarray(value) for ref, value in values.items()},
            {edge: np.asarray(d) for edge, d in zip(self.edges, local, strict=True)},
            [np.asarray(c, np.float64) for c in cotangents],
        )

    def _require_small(self) -> None:
        graph = self.graph
        size = sum(
            prod(graph.shapes[graph.ops[k].ins[j]]) * prod(graph.shapes[graph.ops[k].outs[0]])
            for k, j in self.edges if how(graph, k, j) == "dense"
        )  # fmt: skip
        if size > _LARGEST:
            raise Declined("the sequence is too large to change its paths one by one")

    def _all(self, leaves: list[Any]) -> Any:
        graph = self.graph
        values = graph.run(leaves)
        local = [
            _local(graph, k, j, [graph.read(values, ref) for ref in graph.ops[k].ins])
            for k, j in self.edges
        ]
        return values, local


def how(graph: Graph, k: int, j: int) -> str:
    """How an edge is pulled back: ``"dot"``, ``"elementwise"`` or ``"dense"``."""
    op = graph.ops[k]
    if op.primitive.name == "dot_general":
        return "dot"
    shape = graph.shapes[op.ins[j]]
    alike = shape in ((), graph.shapes[op.outs[0]])
    return "elementwise" if op.primitive.name in ELEMENTWISE and alike else "dense"


def _local(graph: Graph, k: int, j: int, ins: list[Any]) -> Any:
    """The derivative: of each entry by itself, or as a matrix; of a product the other factor."""
    op, kind = graph.ops[k], how(graph, k, j)
    if kind == "dot":
        return ins[1 - j]

    def of(x: Any) -> list[Any]:
        outs = op.bind([x if i == j else y for i, y in enumerate(ins)])
        return [out for out in outs if jnp.issubdtype(out.dtype, jnp.floating)]

    x = jnp.asarray(ins[j])
    if kind == "elementwise":
        return jax.jvp(of, (x,), (jnp.ones_like(x),))[1][0]
    outs, pull = jax.vjp(of, x)
    sizes = [prod(out.shape) for out in outs]
    units = jnp.eye(sum(sizes))

    def one(unit: Any) -> Any:
        parts = jnp.split(unit, np.cumsum(sizes)[:-1].tolist())
        given = [p.reshape(o.shape).astype(o.dtype) for p, o in zip(parts, outs, strict=True)]
        return pull(given)[0].reshape(-1)

    return jax.vmap(one)(units)


class Pullback:
    """The backward pass of a graph at one point.

    Args:
        graph: the graph.
        values: every value.
        local: edge -> its local derivative.
        cotangents: of the outputs.
    """

    def __init__(
        self,
        graph: Graph,
        values: Mapping[int, Array],
        local: Mapping[Edge, Array],
        cotangents: Sequence[Array],
    ) -> None:
        self.graph, self.values, self.local = graph, values, dict(local)
        self._cotangents = cotangents
        self._operands: dict[int, list[int]] = {}
        for k, j in local:
            self._operands.setdefault(k, []).append(j)
        right = self._sweep([BackwardChange()], [self._nothing])
        self.right: dict[int, Array] = {ref: adjoint[0] for ref, adjoint in right.items()}

    def forget(self, edge: Edge) -> None:
        """Let nothing flow along an edge any more."""
        self.local.pop(edge)
        self._operands[edge[0]].remove(edge[1])

    def adjoint(self, ref: int) -> Array:
        """The right adjoint of a value."""
        found = self.right.get(ref)
        return np.zeros(self.graph.shapes[ref]) if found is None else found

    def given(self, ref: int) -> Array | None:
        """The cotangent that a value gets as an output, or None; the last output apart."""
        for output, cotangent in zip(self.graph.outputs[:-1], self._cotangents, strict=False):
            if output == ref:
                return np.broadcast_to(cotangent, self.graph.shapes[ref])
        return None

    def inputs(self, changes: Sequence[BackwardChange]) -> list[Array]:
        """The gradient of every input, ``(E, ...)``: one for each change alone."""
        parts: list[list[Array]] = []
        for start in range(0, len(changes), _CHUNK):
            part = changes[start : start + _CHUNK]
            adjoints = self._settled(part)
            parts.append([
                adjoints[ref] if ref in adjoints else np.zeros((len(part), *self.graph.shapes[ref]))
                for ref in self.graph.inputs
            ])  # fmt: skip
        return [np.concatenate(one) for one in zip(*parts, strict=True)]

    def pulled(self, edge: Edge, adjoint: Array) -> Array:
        """What an edge passes on of an adjoint ``(E, ...)`` of its result, as it should."""
        k, j = edge
        op, d = self.graph.ops[k], self.local[edge]
        shape = self.graph.shapes[op.ins[j]]
        kind = how(self.graph, k, j)
        if kind == "dot":
            a, b, v = subscripts(op, len(shape), d.ndim, j)
            return np.einsum(f"Z{v},{b}->Z{a}", adjoint, d)
        if kind == "elementwise":
            passed = adjoint * d
            return passed if shape else passed.reshape(len(passed), -1).sum(axis=1)
        return (adjoint.reshape(len(adjoint), -1) @ d).reshape(len(adjoint), *shape)

    def with_other(self, edge: Edge, adjoint: Array, other: Array) -> Array:
        """What a product passes on if ``other`` stands for its other factor."""
        k, j = edge
        op = self.graph.ops[k]
        return contribution(op, j, adjoint, other, self.graph.shapes[op.ins[j]])

    def _nothing(self, ref: int) -> Array:
        return np.zeros(self.graph.shapes[ref])

    def _settled(self, changes: Sequence[BackwardChange]) -> dict[int, Array]:
        """Sweep until what is read of other adjoints is what they are."""
        lookups: list[Lookup] = [self.adjoint] * len(changes)
        reads = any(change.reads for change in changes)
        adjoints = self._sweep(changes, lookups)
        for _ in range(_ROUNDS if reads else 0):
            before = adjoints
            lookups = [self._from(before, e) for e in range(len(changes))]
            adjoints = self._sweep(changes, lookups)
            if all(np.array_equal(adjoints[ref], before[ref]) for ref in self.graph.inputs
                   if ref in adjoints):  # fmt: skip
                break
        return adjoints

    def _from(self, adjoints: Mapping[int, Array], e: int) -> Lookup:
        return lambda ref: adjoints[ref][e] if ref in adjoints else self._nothing(ref)

    def _sweep(
        self, changes: Sequence[BackwardChange], lookups: Sequence[Lookup]
    ) -> dict[int, Array]:
        """The adjoint ``(E, ...)`` of every value, one for each change."""
        graph, size = self.graph, len(changes)
        edges: dict[Edge, list[int]] = {}
        values: dict[int, list[int]] = {}
        extras: dict[int, list[int]] = {}
        for e, change in enumerate(changes):
            for edge in change.edges:
                edges.setdefault(edge, []).append(e)
            for ref in change.values:
                values.setdefault(ref, []).append(e)
            for ref in change.extra:
                extras.setdefault(ref, []).append(e)
        sent: dict[int, list[Array]] = {}
        for ref, cotangent in zip(graph.outputs, self._cotangents, strict=True):
            if isinstance(ref, int) and graph.floats[ref]:
                given = np.broadcast_to(cotangent, graph.shapes[ref])
                sent.setdefault(ref, []).append(np.repeat(given[None], size, axis=0))
        found: dict[int, Array] = {}
        gradients: dict[int, Array] = {}
        inputs = set(graph.inputs)

        def total(ref: int) -> Array | None:
            parts = sent.pop(ref, None)
            if parts is None:
                return None
            whole = parts[0].copy()
            for part in parts[1:]:
                whole += part
            found[ref] = whole
            if ref not in values:
                return whole
            changed = whole.copy()
            for e in values[ref]:
                changed[e] = changes[e].values[ref]([part[e] for part in parts], lookups[e])
            if ref in inputs:
                gradients[ref] = changed
            return changed

        for k in range(len(graph.ops) - 1, -1, -1):
            op = graph.ops[k]
            adjoint = self._of_results(op, total, size)
            if adjoint is None:
                continue
            for e in extras.get(op.outs[0], ()):
                ref, slope = changes[e].extra[op.outs[0]]
                part = np.zeros((size, *graph.shapes[ref]))
                part[e] = adjoint[e] * slope
                sent.setdefault(ref, []).append(part)
                adjoint[e] = 0.0
            for j in self._operands.get(k, ()):
                passed = self.pulled((k, j), adjoint)
                for e in edges.get((k, j), ()):
                    passed[e] = changes[e].edges[k, j](adjoint[e], lookups[e])
                sent.setdefault(op.ins[j], []).append(passed)
        for ref in graph.inputs:
            total(ref)
        return found | gradients

    def _of_results(self, op: Op, total: Callable[[int], Array | None], size: int) -> Array | None:
        """The adjoint of an operation's results; of several, side by side."""
        floats = [out for out in op.outs if self.graph.floats[out]]
        parts = [total(out) for out in floats]
        if all(part is None for part in parts):
            return None
        if len(parts) == 1:
            assert parts[0] is not None
            return parts[0].copy()
        flat = [
            np.zeros((size, prod(self.graph.shapes[out]))) if part is None
            else part.reshape(size, -1)
            for out, part in zip(floats, parts, strict=True)
        ]  # fmt: skip
        return np.concatenate(flat, axis=1)


def _double(leaf: Any) -> Array:
    array = np.asarray(leaf)
    return array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array
