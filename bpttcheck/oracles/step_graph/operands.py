"""The gradient of one step whose backward pass uses a wrong operand.

At a product ``v = a b`` (of arrays or of matrices) the contribution to ``a`` is ``d_v b``. Here
another quantity ``q`` of the step replaces ``b`` or ``d_v``, or the whole gradient of a value is
replaced by another. The quantities are the values of the forward pass and their gradients. The rest
is linear in the contribution: the gradient shifts by the pull-back of

    d_v q - d_v b         (likewise for the others)

from ``a`` to the inputs of the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from string import ascii_letters
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bpttcheck.jax_mode import reference_mode
from bpttcheck.oracles.autodiff.programs import compile_cheaply
from bpttcheck.oracles.step_graph.graph import Graph, Op, gradient_of, spelled
from bpttcheck.trees import Structure

Array = NDArray[Any]

_PRODUCTS = ("mul", "dot_general")
_CHUNK = 64
_MOST = 4096


@dataclass(frozen=True)
class OperandSwap:
    """One quantity used instead of another.

    Args:
        key: the operation, its operand and the quantity: the same at every size of the step.
        made: the gradient computed with it, such as ``"d_W"``.
        used: the wrong quantity, such as ``"h"``.
        belongs: the correct one.
        where: the line of user code, or ``""``.
    """

    key: tuple[Any, ...]
    made: str
    used: str
    belongs: str
    where: str


@dataclass(frozen=True)
class GradientShift:
    """How much a swap changes the gradient of one value."""

    swap: OperandSwap
    ref: int
    by: Array


@dataclass(frozen=True)
class _Quantity:
    key: tuple[str, int]
    text: str
    array: Array


class OperandSwaps:
    """One step whose backward pass may use the wrong quantities.

    Args:
        graph: the step.
        params: the structure of its parameters.
        state: the structure of its state.
    """

    def __init__(self, graph: Graph, params: Structure, state: Structure) -> None:
        self._graph = graph
        self._params, self._state = params, state
        self._texts = spelled(graph, params, state)
        known = graph.constant | graph.still
        self._moving = [ref for ref, real in graph.floats.items() if real and ref not in known]
        self._called: dict[int, str] = {}
        self._compiled: Any = None

    def shifts(self, leaves: Sequence[Array], cotangents: Sequence[Array]) -> list[GradientShift]:
        """Every swap at these inputs, the likeliest first.

        Args:
            leaves: parameters, state and input of the step, flat.
            cotangents: of the new state and of the output, flat.
        """
        values, totals = self._quantities(leaves, cotangents)
        names = [*(f"d_state{path}" for path in self._state.paths), "d_y"]
        given = [
            _Quantity(("given", i), name, array)
            for i, (name, array) in enumerate(zip(names, cotangents, strict=True))
        ]
        forward = self._distinct("value", {ref: values[ref] for ref in self._moving})
        backward = [*self._distinct("gradient", totals), *given]
        for ref, total in totals.items():  # of equal gradients the one with a name
            self._called[ref] = next(q.text for q in backward if np.array_equal(q.array, total))
        found = chain(
            self._factors(forward, values, totals),
            self._incoming(backward, values, totals),
            self._given(given, backward),
            self._whole(backward, totals),
            self._factors(backward, values, totals),
            self._incoming(forward, values, totals),
        )
        # A matrix instead of its own transpose has a separate diagnosis.
        named = (shift for shift in found if shift.swap.used != shift.swap.belongs)
        return list(islice(named, _MOST))

    def gradients(
        self, leaves: Sequence[Array], cotangents: Sequence[Array], shifts: Sequence[GradientShift]
    ) -> Iterator[tuple[Any, Any, Array]]:
        """What each shift alone adds to ``(d_params, d_state, d_x)``."""
        n = self._params.size
        for start in range(0, len(shifts), _CHUNK):
            part = shifts[start : start + _CHUNK]
            on = np.zeros(_CHUNK)
            nudges = {ref: self._zeros(ref) for ref in self._moving}
            for i, shift in enumerate(part):
                nudges[shift.ref][i] = shift.by
            flat = [np.asarray(d) for d in self._run(leaves, cotangents, on, nudges)[1]]
            for i in range(len(part)):
                mine = [leaf[i] for leaf in flat]
                yield (
                    self._params.unflatten(mine[:n]), self._state.unflatten(mine[n:-1]), mine[-1]
                )  # fmt: skip

    def _factors(
        self, quantities: list[_Quantity], values: dict[int, Array], totals: dict[int, Array]
    ) -> Iterator[GradientShift]:
        """Another factor: ``d_v q`` for ``d_v b``."""
        for k, op, side in self._sites():
            other = op.ins[1 - side]
            if not isinstance(other, int):
                continue  # a literal constant
            d_v, b = totals[op.outs[0]], values[other]
            for q in _like(b, quantities):
                by = contribution(op, side, d_v, q.array - b, self._graph.shapes[op.ins[side]])
                swap = self._swap((k, side, "factor", q.key), op, side, q, self._texts[other])
                yield GradientShift(swap, op.ins[side], by)

    def _incoming(
        self, quantities: list[_Quantity], values: dict[int, Array], totals: dict[int, Array]
    ) -> Iterator[GradientShift]:
        """Another cotangent: ``q b`` for ``d_v b``."""
        for k, op, side in self._sites():
            other, v = op.ins[1 - side], op.outs[0]
            b = np.asarray(self._graph.read(values, other))
            for q in _like(totals[v], quantities):
                shape = self._graph.shapes[op.ins[side]]
                by = contribution(op, side, q.array - totals[v], b, shape)
                key = (k, side, "incoming", q.key)
                yield GradientShift(self._swap(key, op, side, q, self._called[v]), op.ins[side], by)

    def _given(
        self, given: list[_Quantity], quantities: list[_Quantity]
    ) -> Iterator[GradientShift]:
        """Another cotangent instead of one that is passed to the step."""
        where = self._lines()
        moving = set(self._moving)
        for ref, right in zip(self._graph.outputs, given, strict=True):
            if ref not in moving:
                continue
            for q in _like(right.array, quantities):
                swap = OperandSwap((*right.key, q.key), "", q.text, right.text, where.get(ref, ""))
                yield GradientShift(swap, ref, q.array - right.array)

    def _lines(self) -> dict[int, str]:
        return {out: op.where for op in self._graph.ops for out in op.outs}

    def _whole(
        self, quantities: list[_Quantity], totals: dict[int, Array]
    ) -> Iterator[GradientShift]:
        """Another gradient of a value: ``q`` for ``d_v``."""
        where = self._lines()
        for ref in self._moving:
            for q in _like(totals[ref], quantities):
                belongs, line = self._called[ref], where.get(ref, "")
                swap = OperandSwap((ref, "whole", q.key), "", q.text, belongs, line)
                yield GradientShift(swap, ref, q.array - totals[ref])

    def _swap(self, key: Any, op: Op, side: int, q: _Quantity, belongs: str) -> OperandSwap:
        return OperandSwap(key, gradient_of(self._texts[op.ins[side]]), q.text, belongs, op.where)

    def _sites(self) -> Iterator[tuple[int, Op, int]]:
        moving = set(self._moving)
        for k, op in enumerate(self._graph.ops):
            if op.primitive.name in _PRODUCTS:
                for side, ref in enumerate(op.ins):
                    if isinstance(ref, int) and ref in moving:
                        yield k, op, side

    def _distinct(self, kind: str, arrays: dict[int, Array]) -> list[_Quantity]:
        """Each array once, under the best of its names."""
        found: dict[Any, _Quantity] = {}
        plain = [ref for ref in arrays if self._texts[ref].isidentifier()]
        for ref in dict.fromkeys([*plain, *arrays]):
            text = self._texts[ref]
            text = text if kind == "value" else gradient_of(text)
            array = arrays[ref]
            found.setdefault((array.shape, array.tobytes()), _Quantity((kind, ref), text, array))
        return list(found.values())

    def _quantities(
        self, leaves: Sequence[Array], cotangents: Sequence[Array]
    ) -> tuple[dict[int, Array], dict[int, Array]]:
        """Every value, and the gradient of each that depends on the inputs."""
        on = np.zeros(_CHUNK)
        on[0] = 1.0
        nudges = {ref: self._zeros(ref) for ref in self._moving}
        values, _, totals = self._run(leaves, cotangents, on, nudges)
        return (
            {ref: np.asarray(value) for ref, value in values.items()},
            {ref: np.asarray(total)[0] for ref, total in totals.items()},
        )

    def _zeros(self, ref: int) -> Array:
        return np.zeros((_CHUNK, *self._graph.shapes[ref]))

    def _run(self, leaves: Any, cotangents: Any, on: Array, nudges: dict[int, Array]) -> Any:
        args = (list(leaves), list(cotangents), on, nudges)
        with reference_mode():
            if self._compiled is None:
                over = jax.vmap(self._one, in_axes=(None, None, 0, 0), out_axes=(None, 0, 0))
                self._compiled = compile_cheaply(jax.jit(over).lower(*args))
            return self._compiled(*args)

    def _one(self, leaves: Any, cotangents: Any, on: Any, nudges: Any) -> Any:
        """Values, gradients of the inputs, and of every value, with ``nudges`` added to these."""
        graph = self._graph

        def forward(added: dict[int, Any]) -> Any:
            def apply(k: int, ins: Sequence[Any], _: Any) -> list[Any]:
                op = graph.ops[k]
                outs = zip(op.outs, op.bind(ins), strict=True)
                return [out + added[ref] if ref in added else out for ref, out in outs]

            moved = [
                leaf + added[ref] if ref in added else leaf
                for ref, leaf in zip(graph.inputs, leaves, strict=True)
            ]
            found = graph.run(moved, apply)
            outputs = [graph.read(found, ref) for ref in graph.outputs]
            return (outputs, {ref: found[ref] for ref in added}), found

        zeros = {ref: jnp.zeros(graph.shapes[ref]) for ref in self._moving}
        (outputs, _), pull, values = jax.vjp(forward, zeros, has_aux=True)
        d_outputs = [
            on * c if jnp.issubdtype(o.dtype, jnp.floating)
            else np.zeros(o.shape, jax.dtypes.float0)
            for c, o in zip(cotangents, outputs, strict=True)
        ]  # fmt: skip
        (totals,) = pull((d_outputs, nudges))
        none = [jnp.zeros(np.shape(leaf)) for leaf in leaves]
        inputs = [totals.get(ref, zero) for ref, zero in zip(graph.inputs, none, strict=True)]
        return values, inputs, totals


def _like(array: Array, quantities: list[_Quantity]) -> Iterator[_Quantity]:
    """The arrays of its shape other than itself."""
    for q in quantities:
        if q.array.shape == array.shape and not np.allclose(q.array, array, rtol=1e-12, atol=0):
            yield q


def contribution(op: Op, side: int, d_v: Array, other: Array, shape: tuple[int, ...]) -> Array:
    """The cotangent that a product passes to the operand on one side, of this shape."""
    if op.primitive.name == "dot_general":
        a, b, v = subscripts(op, len(shape), other.ndim, side)
        return np.einsum(f"{v},{b}->{a}", d_v, other)
    passed = d_v * other
    if not shape:
        return passed.sum()
    spread = tuple(i for i, (n, m) in enumerate(zip(shape, passed.shape, strict=True)) if n != m)
    return passed.sum(axis=spread, keepdims=True)


def subscripts(op: Op, own: int, other: int, side: int) -> tuple[str, str, str]:
    """The indices of the operand on one side, of the other operand, and of the product."""
    (contracted, batch) = op.params["dimension_numbers"]
    ranks = (own, other) if side == 0 else (other, own)
    letters = iter(ascii_letters)
    texts: list[dict[int, str]] = [{}, {}]
    for dims in (batch, contracted):
        for i, j in zip(*dims, strict=True):
            texts[0][i] = texts[1][j] = next(letters)
    product = [texts[0][i] for i in batch[0]]
    for mine, rank in zip(texts, ranks, strict=True):
        for i in range(rank):
            if i not in mine:
                mine[i] = next(letters)
                product.append(mine[i])
    sides = ["".join(mine[i] for i in range(rank)) for mine, rank in zip(texts, ranks, strict=True)]
    return sides[side], sides[1 - side], "".join(product)
