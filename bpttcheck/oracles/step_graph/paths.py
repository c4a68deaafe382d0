"""The gradient of one step with a single path of the chain rule changed.

The traced step is a graph of operations. This module differentiates the step with any one edge cut;
with the local derivative of any one nonlinear function of one variable replaced; with any one
square matrix transposed in the backward product; or with the cotangent of a stack of square
matrices transposed on its way. The values of the forward pass never change, only the cotangents:

    cut         x  ->  stop_gradient(x)
    replaced    v  ->  stop_gradient(v) + c (z - stop_gradient(z))      for v = f(z)
    turned      x  ->  stop_gradient(x) + (x - stop_gradient(x))^T

A hand-derived gradient that equals one of these is explained by that edit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bpttcheck import trees
from bpttcheck.jax_mode import reference_mode
from bpttcheck.oracles.autodiff.programs import compile_cheaply, trace
from bpttcheck.oracles.step_graph.graph import Graph, Op, edges, functions, products, turned
from bpttcheck.oracles.step_graph.operands import GradientShift, OperandSwaps

Array = NDArray[Any]

_CHUNK = 64


@dataclass(frozen=True)
class EditSite:
    """A place in the user's step where something can be changed.

    Args:
        kind: ``"edge"``, ``"function"``, ``"product"``, ``"to"`` or ``"from"``: what an operation
            passes on to an operand, and what comes to it for that operand.
        index: its number among those of its kind.
        place: operation and operand; where a size is 1, the traced step may have others.
        text: the operation, such as ``"tanh"``.
        where: the line of user code, ``"cell.py:12: h = np.tanh(z)"``, or ``""``.
    """

    kind: str
    index: int
    place: tuple[int, int]
    text: str
    where: str


class Paths:
    """One step as a graph, differentiated with one edit at a time.

    Args:
        step: ``step(params, state, x) -> (new_state, y)`` on JAX arrays.
        params: parameters.
        state: the state before the step.
        x: its input ``(B, n_in)``.

    Raises:
        Declined: if the step cannot be traced.
    """

    def __init__(self, step: Callable[..., Any], params: Any, state: Any, x: Array) -> None:
        with reference_mode():
            traced = trace(step, params, state, x)
        self._params, self._state = traced.params, traced.state
        flat = Graph(traced.jaxpr, traced.consts)
        self.graph = flat
        self._edges = edges(flat)
        self._functions = functions(flat)
        self._products = products(flat, traced.params.size)
        self._to, self._from = turned(flat)
        self._compiled: Any = None
        self._forward: Any = None

    def jumps(self) -> list[str]:
        """The lines that convert a comparison of moving values to a number."""
        graph = self.graph
        fixed = graph.constant | graph.still
        made = {ref: op for op in graph.ops for ref in op.outs}
        found: dict[str, None] = {}
        for op in graph.ops:
            if op.primitive.name != "convert_element_type":
                continue
            (ref,) = op.ins
            source = made.get(ref) if isinstance(ref, int) and ref not in fixed else None
            if source is not None and source.primitive.name in ("gt", "ge", "lt", "le"):
                found.setdefault(op.where)
        return list(found)

    def sites(self, kind: str) -> list[EditSite]:
        """All places of one kind."""
        places = {
            "edge": self._edges,
            "function": [(k, 0) for k, _, _ in self._functions],
            "product": self._products,
            "to": self._to,
            "from": self._from,
        }[kind]
        ops = self.graph.ops
        return [
            EditSite(kind, i, place, ops[place[0]].primitive.name, ops[place[0]].where)
            for i, place in enumerate(places)
        ]

    def values(self, params: Any, state: Any, x: Array) -> list[tuple[Array, Array]]:
        """For each function its argument ``z`` and its value ``v`` at these inputs."""
        found = self._all_values(params, state, x)
        return [(found[z], found[v]) for _, z, v in self._functions]

    def like(self, index: int, params: Any, state: Any, x: Array) -> list[tuple[str, Array]]:
        """Other values of the step, of the shape of function ``index``, and where they come from.

        Each value is reported once, under a unique name; the argument and the value of the function
        itself are left out.
        """
        _, z, v = self._functions[index]
        made = {ref: f"input {i} of the step" for i, ref in enumerate(self.graph.inputs)}
        made |= {out: op.where for op in self.graph.ops for out in op.outs}
        found = self._all_values(params, state, x)
        others: list[tuple[str, Array]] = []
        seen = [found[z], found[v]]
        lines: Counter[str] = Counter()
        for ref, array in found.items():
            if self.graph.shapes[ref] != self.graph.shapes[v] or not self.graph.floats[ref]:
                continue
            lines[made[ref]] += 1  # in any case: names must not depend on the values
            if not any(np.array_equal(array, known) for known in seen):
                seen.append(array)
                nth = lines[made[ref]]
                others.append((made[ref] + (f" (value {nth})" if nth > 1 else ""), array))
        return others

    def gradients(
        self,
        point: tuple[Any, Any, Array],
        cotangents: tuple[Any, Array],
        changes: Sequence[tuple[EditSite, Array | None]],
    ) -> list[tuple[Any, Any, Array]]:
        """The gradient with each change alone.

        Args:
            point: ``(params, state, x)``.
            cotangents: of the new state and of the output.
            changes: a site, and the local derivative to use there for a function, else None: an
                edge is cut, a product or a cotangent transposed.

        Returns:
            ``(d_params, d_state, d_x)`` for each change.
        """
        with reference_mode():
            leaves = self._leaves(*point)
            *d_state, d_y = self._given(cotangents)
            given = (leaves, d_state, d_y)
            out: list[tuple[Any, Any, Array]] = []
            for start in range(0, len(changes), _CHUNK):
                part = changes[start : start + _CHUNK]
                flat = self._run(*given, self._switches(part))
                for i in range(len(part)):
                    mine = [np.asarray(leaf)[i] for leaf in flat]
                    n = self._params.size
                    out.append((
                        self._params.unflatten(mine[:n]),
                        self._state.unflatten(mine[n:-1]),
                        mine[-1],
                    ))  # fmt: skip
        return out

    def swaps(
        self, point: tuple[Any, Any, Array], cotangents: tuple[Any, Array]
    ) -> list[GradientShift]:
        """Every use of another quantity of the same shape in the backward pass."""
        return self._operands.shifts(self._leaves(*point), self._given(cotangents))

    def swapped(
        self,
        point: tuple[Any, Any, Array],
        cotangents: tuple[Any, Array],
        shifts: Sequence[GradientShift],
    ) -> Iterator[tuple[Any, Any, Array]]:
        """What each of these swaps alone adds to ``(d_params, d_state, d_x)``."""
        given = self._given(cotangents)
        return self._operands.gradients(self._leaves(*point), given, shifts)

    @cached_property
    def _operands(self) -> OperandSwaps:
        return OperandSwaps(self.graph, self._params, self._state)

    def _given(self, cotangents: tuple[Any, Array]) -> list[Array]:
        return [_double(leaf) for leaf in [*trees.leaves(cotangents[0]), cotangents[1]]]

    def _all_values(self, params: Any, state: Any, x: Array) -> dict[int, Array]:
        """Every intermediate value; one program, since many small ones take longer to compile."""
        with reference_mode():
            leaves = self._leaves(params, state, x)
            if self._forward is None:
                forward = jax.jit(lambda leaves: self.graph.run(leaves))
                self._forward = compile_cheaply(forward.lower(leaves))
            return {ref: np.asarray(value) for ref, value in self._forward(leaves).items()}

    def _leaves(self, params: Any, state: Any, x: Array) -> list[Array]:
        return [_double(leaf) for leaf in [*trees.leaves(params), *trees.leaves(state), x]]

    def _switches(self, part: Sequence[tuple[EditSite, Array | None]]) -> Any:
        keep = np.ones((_CHUNK, len(self._edges)))
        use = np.zeros((_CHUNK, len(self._functions)))
        turn = np.zeros((_CHUNK, len(self._products)))
        to, back = np.zeros((_CHUNK, len(self._to))), np.zeros((_CHUNK, len(self._from)))
        factors = [np.zeros((_CHUNK, *self.graph.shapes[v])) for _, _, v in self._functions]
        for i, (site, factor) in enumerate(part):
            if site.kind == "edge":
                keep[i, site.index] = 0.0
            elif site.kind in ("product", "to", "from"):
                {"product": turn, "to": to, "from": back}[site.kind][i, site.index] = 1.0
            else:
                use[i, site.index] = 1.0
                factors[site.index][i] = factor
        return keep, use, turn, to, back, factors

    def _run(self, leaves: Any, d_state: Any, d_y: Any, switches: Any) -> Any:
        args = (leaves, d_state, d_y, switches)
        if self._compiled is None:
            over = jax.vmap(self._one, in_axes=(None, None, None, 0))
            self._compiled = compile_cheaply(jax.jit(over).lower(*args))
        return self._compiled(*args)

    def _one(self, leaves: Any, d_state: Any, d_y: Any, switches: Any) -> Any:
        floats = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

        def forward(*inputs: Any) -> Any:
            whole = list(leaves)
            for i, value in zip(floats, inputs, strict=True):
                whole[i] = value
            found = self.graph.run(whole, self._switched(switches))
            return [self.graph.read(found, ref) for ref in self.graph.outputs]

        outputs, pull = jax.vjp(forward, *(leaves[i] for i in floats))
        given = [
            c.astype(o.dtype) if jnp.issubdtype(o.dtype, jnp.floating)
            else np.zeros(o.shape, jax.dtypes.float0)
            for c, o in zip([*d_state, d_y], outputs, strict=True)
        ]  # fmt: skip
        found = dict(zip(floats, pull(given), strict=True))
        return [found.get(i, jnp.zeros(leaf.shape)) for i, leaf in enumerate(leaves)]

    def _switched(self, switches: Any) -> Any:
        """Each operation with the changes that ``switches`` ask for."""
        edge = {place: i for i, place in enumerate(self._edges)}
        function = {v: (i, z) for i, (_, z, v) in enumerate(self._functions)}
        product = {k: (i, side) for i, (k, side) in enumerate(self._products)}
        to, back = ({place: i for i, place in enumerate(p)} for p in (self._to, self._from))
        keep, use, turn, turn_to, turn_back, factors = switches

        def apply(k: int, ins: Sequence[Any], values: Mapping[int, Any]) -> list[Any]:
            op = self.graph.ops[k]
            given = [
                _scaled(x, keep[edge[k, j]]) if (k, j) in edge else x for j, x in enumerate(ins)
            ]
            given = [
                _flipped(x, x, turn_to[to[k, j]]) if (k, j) in to else x
                for j, x in enumerate(given)
            ]
            outs = op.bind(given)
            for j in range(len(ins)):
                if (k, j) in back:
                    held = [jax.lax.stop_gradient(x) for x in given]
                    held[j] = given[j]
                    outs = [_flipped(outs[0], op.bind(held)[0], turn_back[back[k, j]])]
            if k in product:
                i, side = product[k]
                outs = [_turned(op, given, outs[0], side, turn[i])]
            for n, ref in enumerate(op.outs):
                if ref in function:
                    i, z = function[ref]
                    outs[n] = _replaced(outs[n], values[z], use[i], factors[i])
            return outs

        return apply


def _scaled(x: Any, keep: Any) -> Any:
    fixed = jax.lax.stop_gradient(x)
    return fixed + keep * (x - fixed)


def _flipped(x: Any, part: Any, turn: Any) -> Any:
    """``x``; if ``turn`` is 1, the cotangent goes to ``part`` of it transposed."""
    moving = part - jax.lax.stop_gradient(part)
    return x + turn * (jnp.swapaxes(moving, -1, -2) - moving)


def _replaced(v: Any, z: Any, use: Any, factor: Any) -> Any:
    fixed, at = jax.lax.stop_gradient(v), jax.lax.stop_gradient(z)
    return fixed + (1 - use) * (v - fixed) + use * factor * (z - at)


def _turned(op: Op, ins: list[Any], out: Any, side: int, turn: Any) -> Any:
    """A product whose other operand gets its gradient through the transposed weight."""
    fixed = [jax.lax.stop_gradient(x) for x in ins]
    other = 1 - side
    through = [fixed[0], fixed[1]]
    through[other] = ins[other] - fixed[other]
    through[side] = jnp.swapaxes(fixed[side], -1, -2)
    own = [fixed[0], fixed[1]]
    own[side] = ins[side] - fixed[side]
    wrong = op.primitive.bind(*through, **op.params) + op.primitive.bind(*own, **op.params)
    held = jax.lax.stop_gradient(out)
    return held + (1 - turn) * (out - held) + turn * wrong


def _double(leaf: Any) -> Array:
    array = np.asarray(leaf)
    return array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array
