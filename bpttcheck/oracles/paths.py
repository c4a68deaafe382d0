"""The gradient of one step with a single path of the chain rule changed.

The traced step is a graph of operations. For each of its edges this module differentiates the step
with that edge cut; for each nonlinear function of one variable, with its local derivative replaced;
for each product with a square weight, with the weight transposed in the backward product. The value
of the forward pass never changes, only what flows back:

    cut         x  ->  stop_gradient(x)
    replaced    v  ->  stop_gradient(v) + c (z - stop_gradient(z))      for v = f(z)

A hand-derived gradient that equals one of these names its own mistake.
"""

from __future__ import annotations

import linecache
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from numpy.typing import NDArray

from bpttcheck import trees
from bpttcheck.oracles.noise import inlined
from bpttcheck.oracles.programs import compile_cheaply, enable_x64, trace

Array = NDArray[Any]

_ELEMENTWISE = frozenset(
    "abs acos acosh add add_any asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type "
    "copy cos cosh digamma div erf erf_inv erfc eq exp exp2 expm1 floor ge gt integer_pow "
    "is_finite le lgamma log log1p logistic lt max min mul ne neg not or and pow reduce_precision "
    "rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan tanh".split()
)
_MOVES = frozenset(
    "transpose reshape broadcast_in_dim slice squeeze convert_element_type copy expand_dims "
    "dynamic_slice gather split".split()
)
_LINEAR = frozenset("neg add sub mul div convert_element_type copy add_any".split())
_CHUNK = 64
_PACKAGE = Path(__file__).resolve().parents[1]
_LIBRARIES = tuple(str(Path(m.__file__).resolve().parent) for m in (jax, np) if m.__file__)


@dataclass(frozen=True)
class Site:
    """A place in the user's step where something can be changed.

    Args:
        kind: ``"edge"``, ``"function"`` or ``"product"``.
        index: its number among those of its kind.
        place: operation and operand: the same for every shape at which the step is traced.
        text: the operation, such as ``"tanh"``.
        where: the line of user code, ``"cell.py:12: h = np.tanh(z)"``, or ``""``.
    """

    kind: str
    index: int
    place: tuple[int, int]
    text: str
    where: str


@dataclass(frozen=True)
class _Op:
    primitive: Any
    params: dict[str, Any]
    ins: tuple[Any, ...]
    outs: tuple[int, ...]
    where: str


class _Fixed:
    """An operand that does not depend on the inputs of the step."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Paths:
    """One step as a graph, differentiated with one change at a time.

    Args:
        step: ``step(params, state, x) -> (new_state, y)`` on JAX arrays.
        params: parameters.
        state: the state before the step.
        x: its input ``(B, n_in)``.

    Raises:
        Declined: if the step cannot be traced.
    """

    def __init__(self, step: Callable[..., Any], params: Any, state: Any, x: Array) -> None:
        with enable_x64():
            traced = trace(step, params, state, x)
        self._params, self._state = traced.params, traced.state
        flat = _Flat(traced.jaxpr, traced.consts)
        self._flat = flat
        self._edges = _edges(flat)
        self._functions = _functions(flat)
        self._products = _products(flat, traced.params.size)
        self._compiled: Any = None
        self._forward: Any = None

    def sites(self, kind: str) -> list[Site]:
        """All places of one kind."""
        places = {
            "edge": self._edges,
            "function": [(k, 0) for k, _, _ in self._functions],
            "product": self._products,
        }[kind]
        ops = self._flat.ops
        return [
            Site(kind, i, place, ops[place[0]].primitive.name, ops[place[0]].where)
            for i, place in enumerate(places)
        ]

    def values(self, params: Any, state: Any, x: Array) -> list[tuple[Array, Array]]:
        """For each function its argument ``z`` and its value ``v`` at these inputs."""
        found = self._all_values(params, state, x)
        return [(found[z], found[v]) for _, z, v in self._functions]

    def like(self, index: int, params: Any, state: Any, x: Array) -> list[tuple[str, Array]]:
        """Other values of the step, of the shape of function ``index``, and where they come from.

        Each value is told once, under a name of its own; the argument and the value of the function
        itself are left out.
        """
        _, z, v = self._functions[index]
        made = {ref: f"input {i} of the step" for i, ref in enumerate(self._flat.inputs)}
        made |= {out: op.where for op in self._flat.ops for out in op.outs}
        found = self._all_values(params, state, x)
        others: list[tuple[str, Array]] = []
        seen = [found[z], found[v]]
        lines: Counter[str] = Counter()
        for ref, array in found.items():
            if self._flat.shapes[ref] != self._flat.shapes[v] or not self._flat.floats[ref]:
                continue
            lines[made[ref]] += 1  # counted even if not told: names must not depend on the values
            if not any(np.array_equal(array, known) for known in seen):
                seen.append(array)
                nth = lines[made[ref]]
                others.append((made[ref] + (f" (value {nth})" if nth > 1 else ""), array))
        return others

    def gradients(
        self,
        point: tuple[Any, Any, Array],
        cotangents: tuple[Any, Array],
        changes: Sequence[tuple[Site, Array | None]],
    ) -> list[tuple[Any, Any, Array]]:
        """The gradient with each change alone.

        Args:
            point: ``(params, state, x)``.
            cotangents: of the new state and of the output.
            changes: a site, and the local derivative to use there for a function, else None: an
                edge is cut, a product transposed.

        Returns:
            ``(d_params, d_state, d_x)`` for each change.
        """
        with enable_x64():
            leaves = self._leaves(*point)
            d_state = [_double(leaf) for leaf in trees.leaves(cotangents[0])]
            given = (leaves, d_state, _double(cotangents[1]))
            out: list[tuple[Any, Any, Array]] = []
            for start in range(0, len(changes), _CHUNK):
                part = changes[start : start + _CHUNK]
                flat = self._run(*given, self._switches(part, leaves))
                for i in range(len(part)):
                    mine = [np.asarray(leaf)[i] for leaf in flat]
                    n = self._params.size
                    out.append((
                        self._params.unflatten(mine[:n]),
                        self._state.unflatten(mine[n:-1]),
                        mine[-1],
                    ))  # fmt: skip
        return out

    def _all_values(self, params: Any, state: Any, x: Array) -> dict[int, Array]:
        """Every intermediate value; one program, since many small ones take longer to compile."""
        with enable_x64():
            leaves = self._leaves(params, state, x)
            if self._forward is None:
                forward = jax.jit(lambda leaves: self._evaluate(leaves, None))
                self._forward = compile_cheaply(forward.lower(leaves))
            return {ref: np.asarray(value) for ref, value in self._forward(leaves).items()}

    def _leaves(self, params: Any, state: Any, x: Array) -> list[Array]:
        return [_double(leaf) for leaf in [*trees.leaves(params), *trees.leaves(state), x]]

    def _switches(self, part: Sequence[tuple[Site, Array | None]], leaves: list[Array]) -> Any:
        keep = np.ones((_CHUNK, len(self._edges)))
        use = np.zeros((_CHUNK, len(self._functions)))
        turn = np.zeros((_CHUNK, len(self._products)))
        factors = [np.zeros((_CHUNK, *self._flat.shapes[v])) for _, _, v in self._functions]
        for i, (site, factor) in enumerate(part):
            if site.kind == "edge":
                keep[i, site.index] = 0.0
            elif site.kind == "product":
                turn[i, site.index] = 1.0
            else:
                use[i, site.index] = 1.0
                factors[site.index][i] = factor
        return keep, use, turn, factors

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
            found = self._evaluate(whole, switches)
            return [self._read(found, ref) for ref in self._flat.outputs]

        outputs, pull = jax.vjp(forward, *(leaves[i] for i in floats))
        given = [
            c.astype(o.dtype) if jnp.issubdtype(o.dtype, jnp.floating)
            else np.zeros(o.shape, jax.dtypes.float0)
            for c, o in zip([*d_state, d_y], outputs, strict=True)
        ]  # fmt: skip
        found = dict(zip(floats, pull(given), strict=True))
        return [found.get(i, jnp.zeros(leaf.shape)) for i, leaf in enumerate(leaves)]

    def _evaluate(self, leaves: Sequence[Any], switches: Any) -> dict[int, Any]:
        """Every intermediate value, with the changes that ``switches`` ask for."""
        values: dict[int, Any] = dict(zip(self._flat.inputs, leaves, strict=True))
        edges = {place: i for i, place in enumerate(self._edges)}
        functions = {v: (i, z) for i, (_, z, v) in enumerate(self._functions)}
        products = {k: (i, side) for i, (k, side) in enumerate(self._products)}
        for k, op in enumerate(self._flat.ops):
            ins = [self._read(values, ref) for ref in op.ins]
            if switches is not None:
                keep = switches[0]
                for j, x in enumerate(ins):
                    if (k, j) in edges:
                        ins[j] = _scaled(x, keep[edges[k, j]])
            out = op.primitive.bind(*ins, **op.params)
            outs = list(out) if op.primitive.multiple_results else [out]
            if switches is not None and k in products:
                i, side = products[k]
                outs = [_turned(op, ins, outs[0], side, switches[2][i])]
            for ref, value in zip(op.outs, outs, strict=True):
                if switches is not None and ref in functions:
                    i, z = functions[ref]
                    value = _replaced(value, values[z], switches[1][i], switches[3][i])
                values[ref] = value
        return values

    def _read(self, values: dict[int, Any], ref: Any) -> Any:
        return ref.value if isinstance(ref, _Fixed) else values[ref]


def _scaled(x: Any, keep: Any) -> Any:
    fixed = jax.lax.stop_gradient(x)
    return fixed + keep * (x - fixed)


def _replaced(v: Any, z: Any, use: Any, factor: Any) -> Any:
    fixed, at = jax.lax.stop_gradient(v), jax.lax.stop_gradient(z)
    return fixed + (1 - use) * (v - fixed) + use * factor * (z - at)


def _turned(op: _Op, ins: list[Any], out: Any, side: int, turn: Any) -> Any:
    """A product whose other operand gets its gradient through the transposed weight."""
    fixed = [jax.lax.stop_gradient(x) for x in ins]
    other = 1 - side
    through = [fixed[0], fixed[1]]
    through[other] = ins[other] - fixed[other]
    through[side] = jnp.swapaxes(fixed[side], 0, 1)
    own = [fixed[0], fixed[1]]
    own[side] = ins[side] - fixed[side]
    wrong = op.primitive.bind(*through, **op.params) + op.primitive.bind(*own, **op.params)
    held = jax.lax.stop_gradient(out)
    return held + (1 - turn) * (out - held) + turn * wrong


class _Flat:
    """A jaxpr with its inner calls inlined: operations on numbered values."""

    def __init__(self, jaxpr: Any, consts: Sequence[Any]) -> None:
        self.ops: list[_Op] = []
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.floats: dict[int, bool] = {}
        self.constant: set[int] = set()
        env: dict[Any, Any] = {}
        self.inputs = [self._new(variable) for variable in jaxpr.invars]
        self.still = {number for number in self.inputs if not self.floats[number]}
        env.update(zip(jaxpr.invars, self.inputs, strict=True))
        env.update(zip(jaxpr.constvars, map(_Fixed, consts), strict=True))
        self.outputs = self._inline(jaxpr, env, "")

    def _new(self, variable: Any) -> int:
        number = len(self.shapes)
        self.shapes[number] = tuple(variable.aval.shape)
        self.floats[number] = bool(jnp.issubdtype(variable.aval.dtype, jnp.floating))
        return number

    def _inline(self, jaxpr: Any, env: dict[Any, Any], where: str) -> list[Any]:
        def read(variable: Any) -> Any:
            return _Fixed(variable.val) if isinstance(variable, Literal) else env[variable]

        for eqn in jaxpr.eqns:
            place = where or _place(eqn)
            ins = tuple(read(v) for v in eqn.invars)
            inner = inlined(eqn)
            if inner is not None:
                body, consts = inner
                below = dict(zip(body.constvars, map(_Fixed, consts), strict=True))
                below.update(zip(body.invars, ins, strict=True))
                outs = self._inline(body, below, place)
                env.update(zip(eqn.outvars, outs, strict=True))
                continue
            numbers = tuple(self._new(v) for v in eqn.outvars)
            op = _Op(eqn.primitive, dict(eqn.params), ins, numbers, place)
            self.ops.append(op)
            moving = {op.ins[j] for j in self.moving(op)}
            if not moving:
                self.constant.update(numbers)
            elif moving <= self.still:
                self.still.update(numbers)  # made from integers of the state alone
            env.update(zip(eqn.outvars, numbers, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def moving(self, op: _Op) -> list[int]:
        """The operands that depend on the inputs of the step, by position."""
        return [
            j for j, ref in enumerate(op.ins) if isinstance(ref, int) and ref not in self.constant
        ]

    def uses(self) -> Counter[int]:
        """How often each value is read."""
        read = [ref for op in self.ops for ref in op.ins] + list(self.outputs)
        return Counter(ref for ref in read if isinstance(ref, int))


def _edges(flat: _Flat) -> list[tuple[int, int]]:
    """Operation and operand; where a chain has no fork, only its last edge."""
    uses = flat.uses()
    found: list[tuple[int, int]] = []
    for k, op in enumerate(flat.ops):
        floats = [j for j in flat.moving(op) if flat.floats[op.ins[j]]]
        moving = [j for j in floats if op.ins[j] not in flat.still]
        if not any(flat.floats[out] for out in op.outs):
            continue
        chained = len(moving) == 1 and len(op.outs) == 1 and uses[op.outs[0]] == 1
        if not chained or op.outs[0] in flat.outputs:
            found += [(k, j) for j in moving]
    return found


def _functions(flat: _Flat) -> list[tuple[int, int, int]]:
    """Operation, argument and value of each nonlinear function of one variable, to its end."""
    root: dict[int, int] = {}
    curved: dict[int, bool] = {}
    readers: dict[int, list[int]] = {}
    for k, op in enumerate(flat.ops):
        for ref in op.ins:
            if isinstance(ref, int):
                readers.setdefault(ref, []).append(k)
        moving: list[int] = [op.ins[j] for j in flat.moving(op)]
        roots = {root.get(ref, ref) for ref in moving}
        name = op.primitive.name
        for out in op.outs:
            one = len(roots) == 1 and name in _ELEMENTWISE and moving
            start = next(iter(roots)) if one else out
            if one and flat.shapes[start] == flat.shapes[out]:
                root[out] = start
                bent = name not in _LINEAR or len(moving) > 1
                curved[out] = bent or any(curved.get(ref, False) for ref in moving)
    made = {out: k for k, op in enumerate(flat.ops) for out in op.outs}
    found: list[tuple[int, int, int]] = []
    for v, z in root.items():
        inside = [k for k in readers.get(v, []) if any(root.get(o) == z for o in flat.ops[k].outs)]
        ends = len(inside) < len(readers.get(v, [])) or v in flat.outputs
        if ends and curved[v] and flat.floats[v] and flat.floats[z]:
            found.append((made[v], z, v))
    return found


def _products(flat: _Flat, parameters: int) -> list[tuple[int, int]]:
    """Matrix products and the side on which a square matrix of parameters stands."""
    weights: set[int] = set(flat.inputs[:parameters])
    found: list[tuple[int, int]] = []
    for k, op in enumerate(flat.ops):
        name = op.primitive.name
        if name in _MOVES and op.ins and isinstance(op.ins[0], int) and op.ins[0] in weights:
            weights.update(op.outs)
        if name != "dot_general":
            continue
        for side, ref in enumerate(op.ins):
            shape = flat.shapes[ref] if isinstance(ref, int) else ()
            other = op.ins[1 - side]
            square = len(shape) == 2 and shape[0] == shape[1] > 1
            if square and ref in weights and isinstance(other, int) and other not in weights:
                found.append((k, side))
    return found


def _place(eqn: Any) -> str:
    """The innermost line of user code that made this equation, or ``""``."""
    # Only what the line tells is taken from here: without it a change is found all the same.
    traceback = getattr(getattr(eqn, "source_info", None), "traceback", None)
    for frame in getattr(traceback, "frames", ()):
        path = Path(frame.file_name)
        ours = _PACKAGE in path.parents and path.parent.name != "cells"
        foreign = str(path).startswith(_LIBRARIES) or "site-packages" in path.parts
        if ours or (foreign and _PACKAGE not in path.parents) or frame.file_name.startswith("<"):
            continue
        text = linecache.getline(frame.file_name, frame.line_num).strip()
        return f"{path.name}:{frame.line_num}: {text}"
    return ""


def _double(leaf: Any) -> Array:
    array = np.asarray(leaf)
    return array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array
