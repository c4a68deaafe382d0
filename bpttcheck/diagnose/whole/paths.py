"""Paths that are missing, doubled or of the wrong sign; gradients that are exchanged or turned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from math import prod
from typing import Any

import numpy as np

from bpttcheck.diagnose.base import Array
from bpttcheck.diagnose.whole.scene import LoopEdit, Scene
from bpttcheck.oracles.step_graph.graph import ELEMENTWISE, gradient_of
from bpttcheck.oracles.step_graph.pullback import (
    BackwardChange,
    Edge,
    EdgeChange,
    Lookup,
    ValueChange,
)
from bpttcheck.oracles.step_graph.whole import Turns

# A factor, its diagnosis, and what is said of a path.
_FACTORS = (
    (0.0, "missing-path", "is missing"),
    (-1.0, "sign", "has the wrong sign"),
    (2.0, "doubled-path", "counts twice"),
)
_WORDS = {
    "dot_general": "the matrix product", "mul": "the product", "add": "the sum",
    "sub": "the difference", "div": "the quotient", "gather": "the rows that are looked up",
    "concatenate": "the arrays side by side", "slice": "the part", "dynamic_slice": "the part",
    "reduce_sum": "the sum over an axis", "integer_pow": "the power", "neg": "the minus",
}  # fmt: skip


def edits(scene: Scene) -> Iterator[LoopEdit]:
    """All of them, the simplest first."""
    yield from _edges(scene)
    yield from _values(scene)
    yield from _overwritten(scene)
    yield from _factors(scene)
    yield from _factors_twice(scene)
    yield from _turned(scene)
    yield from _side_by_side(scene)
    yield from _parts(scene)
    yield from _heads(scene)
    yield from _backwards(scene)
    yield from _reversed(scene)


def times(scene: Scene, edge: Edge, factor: float | Array) -> EdgeChange:
    """The right contribution of an edge, its adjoint times a factor."""
    return lambda adjoint, _: scene.pull.pulled(edge, (factor * adjoint)[None])[0]


def total(parts: Sequence[Array]) -> Array:
    """The sum of contributions."""
    whole = parts[0].copy()
    for part in parts[1:]:
        whole += part
    return whole


def scaled(factor: float | Array) -> ValueChange:
    """The adjoint of a value, times a factor."""
    return lambda parts, _: factor * total(parts)


def said(place: str) -> str:
    """Where, if it is known."""
    return f", in the gradient of {place}" if place else ""


def axes_named(axes: tuple[int, ...]) -> str:
    """``"axis 1"``, ``"axes 0, 2"``."""
    return f"ax{'i' if len(axes) == 1 else 'e'}s {', '.join(map(str, axes))}"


def word(name: str) -> str:
    """An operation in words."""
    return _WORDS.get(name, name)


def _edges(scene: Scene) -> Iterator[LoopEdit]:
    """The path through one operand of an operation, in every turn."""
    for turns in scene.turns:
        where = scene.where(turns)
        sides = dict(scene.sides(turns))
        # Of a value that an operation reads twice, one side of the wrong sign takes the other away.
        twice = [j for j in sides if _is_read_again(scene, sides, j)]
        every = [(edges, (j,)) for j, edges in sides.items()]
        every += [([edge for j in twice for edge in sides[j]], tuple(twice))] if twice else []
        for edges, js in every:
            name = scene.read(turns, js[0])
            for factor, code, what in _FACTORS:
                if js[0] in twice and len(js) == 1 and factor < 0:
                    continue
                change = BackwardChange({edge: times(scene, edge, factor) for edge in edges})
                path = f"the path from {name} through {word(scene.op(turns).primitive.name)}"
                if not scene.op(turns).calls:  # ours: it puts the outputs together
                    path, what = f"the cotangent of {name}", what.replace("missing", "ignored")
                key = ("edge", turns.key, *js, factor)
                evidence = (("where", where),)
                yield LoopEdit(key, code, f"{path} {what}{said(where)}", change, evidence)
        yield from _sized(scene, turns)


def _is_read_again(scene: Scene, sides: Mapping[int, list[Edge]], j: int) -> bool:
    read = [scene.operand(edge) for edge in sides[j]]
    others = (edges for other, edges in sides.items() if other != j)
    return any([scene.operand(edge) for edge in edges] == read for edges in others)


def _sized(scene: Scene, turns: Turns) -> Iterator[LoopEdit]:
    """A path times a size, or divided by one."""
    sizes = scene.example.sizes
    for j, edges in scene.sides(turns):
        name, where = scene.read(turns, j), scene.where(turns)
        for letter, size in sizes.items():
            factors = [(float(size), f"times {letter}"), (1 / size, f"over {letter}")]
            if scene.op(turns).primitive.name == "div" and size > 1:
                factors.append((size / (size - 1), f"times {letter}/({letter} - 1)"))
            for factor, text in factors:
                if size < 2:
                    continue
                change = BackwardChange({edge: times(scene, edge, factor) for edge in edges})
                path = f"the path from {name} through {word(scene.op(turns).primitive.name)}"
                sentence = f"{path} counts {text}{said(where)}"
                key = ("sized", turns.key, j, text)
                evidence = (("where", where), ("factor", text))
                yield LoopEdit(key, "scale", sentence, change, evidence)
        yield from _averaged(scene, turns, j, edges)


def _averaged(scene: Scene, turns: Turns, j: int, edges: list[Edge]) -> Iterator[LoopEdit]:
    """A mean for a sum: over the axes of a sum, or those over which an operand is repeated."""
    op, shape = scene.op(turns), scene.shape(edges[-1])
    whole = shape
    if op.primitive.name == "reduce_sum":
        axes = tuple(op.params["axes"])
    else:
        whole = scene.graph.shapes[op.outs[0]]
        same = op.primitive.name in ELEMENTWISE and len(whole) == len(shape)
        axes = tuple(a for a, n in enumerate(shape) if n != whole[a]) if same else ()
    count = prod(whole[a] for a in axes)
    if count < 2:
        return
    change = BackwardChange({edge: times(scene, edge, 1 / count) for edge in edges})
    name, where = scene.read(turns, j), scene.where(turns)
    over = axes_named(axes)
    sentence = f"{gradient_of(name)} is made with a mean over {over}, but should be with the sum"
    key, evidence = ("mean", turns.key, j), (("where", where), ("axes", list(axes)))
    yield LoopEdit(key, "scale", sentence + said(where), change, evidence)


def _values(scene: Scene) -> Iterator[LoopEdit]:
    """Every path through a value that several operations read."""
    readers = scene.graph.uses()
    for turns in scene.turns:
        refs = scene.results(turns)
        if refs is None or all(readers[ref] < 2 for ref in refs):
            continue
        name, where = scene.text(refs[-1]), scene.where(turns)
        for factor, code, what in _FACTORS:
            change = BackwardChange(values=dict.fromkeys(refs, scaled(factor)))
            sentence = f"the gradient of {name} {what}{said(where)}"
            yield LoopEdit(
                ("value", turns.key, factor), code, sentence, change, (("where", where),)
            )


def _overwritten(scene: Scene) -> Iterator[LoopEdit]:
    """``=`` for ``+=``: of several contributions to an entry only the one written last counts."""
    places: list[tuple[Any, str, list[int]]] = [
        (("input", i), scene.text(ref), [ref]) for i, ref in enumerate(scene.graph.inputs)
        if scene.graph.floats[ref]
    ]  # fmt: skip
    places += [
        (turns.key, scene.text(refs[-1]), refs)
        for turns in scene.turns
        if (refs := scene.results(turns)) is not None
    ]
    readers = scene.graph.uses()
    gathers = {
        edge: scene.operand(edge) for edge in scene.edges
        if scene.graph.ops[edge[0]].primitive.name == "gather"
    }  # fmt: skip
    for key, name, refs in places:
        looked_up = [edge for edge, ref in gathers.items() if ref in refs]
        if all(readers[ref] < 2 for ref in refs) and not looked_up:
            continue
        if key[0] != "input" and not _read_in_parts(scene, refs):
            yield from _replaced(key, name, refs)
            continue
        if looked_up:
            change = BackwardChange({edge: _rows(scene, edge, False) for edge in looked_up})
            sentence = (
                f"{gradient_of(name)} lacks terms: a row that is looked up twice at once gets "
                "that of the last time alone (np.add.at adds them all)"
            )
            yield LoopEdit(("overwritten", key, "rows"), "overwritten", sentence, change)
        for first in (True, False):
            change = BackwardChange(
                {edge: _rows(scene, edge, first) for edge in looked_up},
                dict.fromkeys(refs, _last_written(first)),
            )
            which = "first" if first else "last"
            sentence = (
                f"{gradient_of(name)} is overwritten: of the terms that belong in an entry only "
                f"that of the {which} step remains (= for +=, or the others are left out)"
            )
            yield LoopEdit(("overwritten", key, first), "overwritten", sentence, change)


def _replaced(key: Any, name: str, refs: list[int]) -> Iterator[LoopEdit]:
    """Of all that flows to a value, what its first reader sends alone: it is added last."""
    sentence = (
        f"{gradient_of(name)} is overwritten: what came first is lost where something else flows "
        "to it, too (= for +=)"
    )
    change = BackwardChange(values=dict.fromkeys(refs, lambda parts, _: parts[-1]))
    yield LoopEdit(("overwritten", key, "whole"), "overwritten", sentence, change)


def _read_in_parts(scene: Scene, refs: list[int]) -> bool:
    """True if values are read a part at a time, as an array of all steps is."""
    readers = [op for op in scene.graph.ops if any(ref in refs for ref in op.ins)]
    parts = ("slice", "dynamic_slice", "gather")
    return all(op.primitive.name in parts for op in readers)


def _last_written(first: bool) -> ValueChange:
    """Contributions come in from the last reader to the first."""

    def of(parts: list[Array], _: Lookup) -> Array:
        found = np.zeros_like(parts[0])
        for part in parts if first else reversed(parts):
            found = np.where(part != 0, part, found)
        return found

    return of


def _rows(scene: Scene, edge: Edge, first: bool) -> EdgeChange:
    """Rows that are looked up again, written and not added."""
    matrix, shape = scene.pull.local[edge], scene.shape(edge)

    def of(adjoint: Array, _: Lookup) -> Array:
        terms = adjoint.reshape(-1, 1) * matrix
        found = np.zeros(matrix.shape[1])
        for i in reversed(range(len(terms))) if first else range(len(terms)):
            found = np.where(matrix[i] != 0, terms[i], found)
        return found.reshape(shape)

    return of


def _factors(scene: Scene) -> Iterator[LoopEdit]:
    """A factor of a product that is left out on the way back."""
    for turns in scene.turns:
        op = scene.op(turns)
        if op.primitive.name not in ("mul", "div"):
            continue
        for j, edges in scene.sides(turns):
            if op.primitive.name == "div" and j:
                continue
            factor, name = scene.read(turns, 1 - j), scene.read(turns, j)
            what = f"divided by {factor}" if op.primitive.name == "div" else f"times {factor}"
            change = BackwardChange({edge: _as_it_is(scene, edge) for edge in edges})
            sentence = (
                f"{gradient_of(name)} lacks a factor: it is not {what}{said(scene.where(turns))}"
            )
            evidence = (("where", scene.where(turns)), ("factor", factor))
            yield LoopEdit(("factor", turns.key, j), "wrong-operand", sentence, change, evidence)


def _factors_twice(scene: Scene) -> Iterator[LoopEdit]:
    """A factor of a product that comes in twice, on one way back or on both."""
    for turns in scene.turns:
        op, refs = scene.op(turns), scene.results(turns)
        if op.primitive.name not in ("mul", "div") or refs is None:
            continue
        for j, edges in scene.sides(turns):
            if len(edges) != len(turns.ops) or (op.primitive.name == "div" and j):
                continue
            factors = [_other(scene, edge) for edge in edges]
            factor, where = scene.read(turns, 1 - j), scene.where(turns)
            what = f"divided by {factor}" if op.primitive.name == "div" else f"times {factor}"
            evidence = (("where", where), ("factor", factor))
            one = {edge: times(scene, edge, by) for edge, by in zip(edges, factors, strict=True)}
            both = {ref: scaled(by) for ref, by in zip(refs, factors, strict=True)}
            for name, change in (
                (scene.read(turns, j), BackwardChange(one)),
                (scene.text(refs[-1]), BackwardChange(values=both)),
            ):
                sentence = f"{gradient_of(name)} has a factor too many: {what}{said(where)}"
                key = ("twice", turns.key, j, bool(change.edges))
                yield LoopEdit(key, "wrong-operand", sentence, change, evidence)


def _other(scene: Scene, edge: Edge) -> Array:
    """What the operand of a product is multiplied with, or of a quotient one over the divisor."""
    op = scene.graph.ops[edge[0]]
    value = np.asarray(scene.graph.read(scene.pull.values, op.ins[1 - edge[1]]), np.float64)
    return 1 / value if op.primitive.name == "div" else value


def _as_it_is(scene: Scene, edge: Edge) -> EdgeChange:
    shape = scene.shape(edge)

    def of(adjoint: Array, _: Lookup) -> Array:
        if not shape:
            return adjoint.sum()
        spread = tuple(i for i, n in enumerate(shape) if n != adjoint.shape[i])
        return adjoint.sum(axis=spread, keepdims=True)

    return of


def _turned(scene: Scene) -> Iterator[LoopEdit]:
    """A square gradient, or one contribution to it, that is transposed; or a weight."""
    weights = _weights(scene)
    for turns in scene.turns:
        op = scene.op(turns)
        for j, edges in scene.sides(turns):
            name = scene.read(turns, j)
            evidence = (("where", scene.where(turns)),)
            if all(_square(scene.shape(edge)) for edge in edges):
                change = BackwardChange({edge: _transposed(scene, edge) for edge in edges})
                sentence = f"what flows to {name} is transposed{said(scene.where(turns))}"
                yield LoopEdit(("turned", turns.key, j), "transposed", sentence, change, evidence)
            if op.primitive.name == "dot_general" and _ends_square(scene.graph.shapes[op.outs[0]]):
                change = BackwardChange({edge: _of_transposed(scene, edge) for edge in edges})
                out = gradient_of(scene.text(op.outs[0]))
                sentence = f"{gradient_of(name)} is computed from the transpose of {out}"
                sentence += said(scene.where(turns))
                key = ("turned before", turns.key, j)
                yield LoopEdit(key, "transposed", sentence, change, evidence)
            other = op.ins[1 - j] if op.primitive.name == "dot_general" else None
            square = all(_square(scene.pull.local[edge].shape) for edge in edges)
            if isinstance(other, int) and other in weights and square:
                change = BackwardChange({edge: _through(scene, edge) for edge in edges})
                sentence = (
                    f"{gradient_of(name)} is computed with a transposed {scene.read(turns, 1 - j)}"
                    f"{said(scene.where(turns))}"
                )
                yield LoopEdit(("weight", turns.key, j), "transposed", sentence, change, evidence)
    for turns in scene.turns:
        refs = scene.results(turns)
        if refs is not None and _square(scene.graph.shapes[refs[0]]):
            change = BackwardChange(values=dict.fromkeys(refs, _whole_transposed))
            sentence = f"the gradient of {scene.text(refs[-1])} is transposed"
            yield LoopEdit(("turned", turns.key), "transposed", sentence, change)


def _weights(scene: Scene) -> set[int]:
    """Square matrices of parameters, and what is only moved of them."""
    graph = scene.graph
    found = {ref for ref in graph.inputs if _square(graph.shapes[ref]) and graph.floats[ref]}
    for op in graph.ops:
        moved = op.primitive.name in ("transpose", "copy", "convert_element_type")
        if moved and op.ins[0] in found:
            found.update(op.outs)
    return found


def _square(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[0] == shape[1] > 1


def _transposed(scene: Scene, edge: Edge) -> EdgeChange:
    return lambda adjoint, _: scene.pull.pulled(edge, adjoint[None])[0].T


def _ends_square(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and shape[-1] == shape[-2] > 1


def _of_transposed(scene: Scene, edge: Edge) -> EdgeChange:
    return lambda adjoint, _: scene.pull.pulled(edge, np.swapaxes(adjoint, -1, -2)[None])[0]


def _through(scene: Scene, edge: Edge) -> EdgeChange:
    other = scene.pull.local[edge].T
    return lambda adjoint, _: scene.pull.with_other(edge, adjoint, other)


def _whole_transposed(parts: list[Array], _: Lookup) -> Array:
    return total(parts).T


def _side_by_side(scene: Scene) -> Iterator[LoopEdit]:
    """Arrays that were joined, and are cut apart in another order."""
    for turns in scene.turns:
        op = scene.op(turns)
        if op.primitive.name != "concatenate" or not 2 <= len(op.ins) <= 4:
            continue
        axis: int = op.params["dimension"]
        changes: dict[Edge, EdgeChange] = {}
        for k in turns.ops:
            widths = [_width(scene, ref, axis) for ref in scene.graph.ops[k].ins]
            for j in range(len(widths)):
                if (k, j) in scene.edges:
                    start = sum(widths[j + 1 :])  # from the other end
                    changes[k, j] = _cut(axis, start, widths[j])
        if changes:
            names = " and ".join(scene.text(ref) for ref in op.ins)
            where = scene.where(turns)
            sentence = f"the gradients of {names} are cut apart in the wrong order{said(where)}"
            evidence = (("where", where),)
            yield LoopEdit(
                ("order", turns.key), "swapped-gates", sentence, BackwardChange(changes), evidence
            )


def _parts(scene: Scene) -> Iterator[LoopEdit]:
    """The gradient of an array of several gates side by side, with two of them exchanged."""
    for turns in scene.turns:
        refs = scene.results(turns)
        shape = scene.graph.shapes[refs[-1]] if refs else ()
        for size in sorted({size for size in scene.example.sizes.values() if size > 1}):
            if not shape or shape[-1] % size or not 2 <= shape[-1] // size <= 4:
                continue
            assert refs is not None
            name, where = scene.text(refs[-1]), scene.where(turns)
            for i, j in combinations(range(shape[-1] // size), 2):
                change = BackwardChange(values=dict.fromkeys(refs, _exchanged(-1, size, i, j)))
                sentence = f"the gradients of parts {i} and {j} of {name} are exchanged"
                key = ("parts", turns.key, shape[-1] // size, i, j)
                evidence = (("where", where), ("gates", [i, j]))
                yield LoopEdit(key, "swapped-gates", sentence + said(where), change, evidence)


def _heads(scene: Scene) -> Iterator[LoopEdit]:
    """The gradient of an array with two places of a short axis exchanged: heads, for instance."""
    for turns in scene.turns:
        refs = scene.results(turns)
        shape = scene.graph.shapes[refs[-1]] if refs else ()
        for axis in [a for a, n in enumerate(shape) if 2 <= n <= 4]:
            assert refs is not None
            name, where = scene.text(refs[-1]), scene.where(turns)
            for i, j in combinations(range(shape[axis]), 2):
                change = BackwardChange(values=dict.fromkeys(refs, _exchanged(axis, 1, i, j)))
                sentence = f"the gradients of places {i} and {j} of axis {axis} of {name} are "
                sentence += f"exchanged{said(where)}"
                key = ("places", turns.key, axis, shape[axis], i, j)  # of one size in every example
                evidence = (("where", where),)
                yield LoopEdit(key, "swapped-gates", sentence, change, evidence)


def _exchanged(axis: int, size: int, i: int, j: int) -> ValueChange:
    """Two of the parts of an axis, ``size`` wide each."""

    def of(parts: list[Array], _: Lookup) -> Array:
        gates = np.split(total(parts), parts[0].shape[axis] // size, axis)
        gates[i], gates[j] = gates[j], gates[i]
        return np.concatenate(gates, axis)

    return of


def _backwards(scene: Scene) -> Iterator[LoopEdit]:
    """What runs the same way back, or is cut off at the other end."""
    for turns in scene.turns:
        name, where = scene.op(turns).primitive.name, scene.where(turns)
        for j, edges in scene.sides(turns):
            text, evidence = scene.read(turns, j), (("where", where),)
            if name == "cumsum":
                change = BackwardChange({edge: _along(scene, edge) for edge in edges})
                sentence = f"the cumulative sum of {text} is not reversed{said(where)}"
                yield LoopEdit(("cumsum", turns.key), "time-order", sentence, change, evidence)
            elif name == "rev":
                change = BackwardChange({edge: lambda adjoint, _: adjoint for edge in edges})
                sentence = f"what flows to {text} is not turned back{said(where)}"
                yield LoopEdit(("rev", turns.key), "time-order", sentence, change, evidence)
            elif name == "pad" and j == 0:
                change = BackwardChange({edge: _other_end(scene, edge) for edge in edges})
                sentence = f"the padding of {text} is cut off at the wrong end{said(where)}"
                yield LoopEdit(("pad", turns.key), "off-by-one", sentence, change, evidence)


def _reversed(scene: Scene) -> Iterator[LoopEdit]:
    """The gradient of an array of all steps with its steps in reversed order."""
    steps = scene.example.sizes.get("T", 0)
    seen: dict[int, None] = {}
    for turns in scene.turns:
        where, op = scene.where(turns), scene.op(turns).primitive.name
        # Two layers of one class run the same lines: each array is its own place.
        for number, ref in enumerate(map(scene.result, turns.ops)):
            shape = () if ref is None or ref in seen else scene.graph.shapes[ref]
            for axis in [k for k, n in enumerate(shape) if n == steps > 1 and len(shape) > 1]:
                assert ref is not None
                seen[ref] = None
                change = BackwardChange(values={ref: _flipped(axis)})
                sentence = f"the gradient of {scene.text(ref)} has its steps in reversed order"
                key, evidence = ("reversed", where, op, number, axis), (("where", where),)
                yield LoopEdit(key, "time-order", sentence + said(where), change, evidence)


def _flipped(axis: int) -> ValueChange:
    return lambda parts, _: np.flip(total(parts), axis)


def _along(scene: Scene, edge: Edge) -> EdgeChange:
    matrix, shape = scene.pull.local[edge], scene.shape(edge)
    return lambda adjoint, _: (matrix @ adjoint.reshape(-1)).reshape(shape)


def _other_end(scene: Scene, edge: Edge) -> EdgeChange:
    shape = scene.shape(edge)
    ends = [high for _, high, _ in scene.graph.ops[edge[0]].params["padding_config"]]
    parts = tuple(slice(max(end, 0), max(end, 0) + n) for end, n in zip(ends, shape, strict=True))
    return lambda adjoint, _: adjoint[parts]


def _width(scene: Scene, ref: Any, axis: int) -> int:
    shape = scene.graph.shapes[ref] if isinstance(ref, int) else np.shape(ref.value)
    return shape[axis]


def _cut(axis: int, start: int, width: int) -> EdgeChange:
    return lambda adjoint, _: np.take(adjoint, range(start, start + width), axis)


def exchanged(scene: Scene) -> Iterator[LoopEdit]:
    """The gradients of two values of one shape, exchanged."""
    known: list[tuple[Any, str, list[int]]] = []
    for turns in scene.loops:
        refs = scene.results(turns)
        if refs is not None and "block" not in turns.key:
            known.append((turns.key, scene.text(refs[-1]), refs))
    shapes = scene.graph.shapes
    for (one, a, mine), (two, b, other) in combinations(known, 2):
        if len(mine) != len(other) or shapes[mine[0]] != shapes[other[0]]:
            continue
        swapped: dict[int, ValueChange] = {}
        for x, y in zip(mine, other, strict=True):
            swapped |= {x: _that_of(y), y: _that_of(x)}
        sentence = f"the gradients of {a} and {b} are exchanged"
        if a == b:
            sentence = f"two of the gradients of {a} are exchanged"
        change = BackwardChange(values=swapped, reads=True)
        yield LoopEdit(("exchanged", one, two), "swapped-gates", sentence, change)


def _that_of(ref: int) -> Callable[[list[Array], Lookup], Array]:
    return lambda _, adjoint: adjoint(ref)
