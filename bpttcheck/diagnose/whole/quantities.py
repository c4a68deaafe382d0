"""Another quantity than the right one: of another line, of another step, of another function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from bpttcheck import activations
from bpttcheck.diagnose.base import Array
from bpttcheck.diagnose.graph_edits import mistakes
from bpttcheck.diagnose.whole.paths import exchanged, said, scaled, total
from bpttcheck.diagnose.whole.scene import LoopEdit, Quantity, Scene
from bpttcheck.jax_mode import reference_mode
from bpttcheck.oracles.step_graph.graph import ELEMENTWISE, LINEAR, Fixed, functions, gradient_of
from bpttcheck.oracles.step_graph.pullback import (
    BackwardChange,
    Edge,
    EdgeChange,
    Lookup,
    ValueChange,
)
from bpttcheck.oracles.step_graph.whole import Turns

_PRODUCTS = ("mul", "dot_general")
_SHIFTS = ((0, False), (-1, False), (-1, True), (1, False), (1, True))

Formula = Callable[[Array], Array]


def edits(scene: Scene) -> Iterator[LoopEdit]:
    """All of them, those of the same step first."""
    yield from _derivatives(scene)
    yield from _factors(scene)
    yield from _factors_exchanged(scene)
    yield from _cotangents(scene)
    yield from _added(scene)
    yield from _without_constants(scene)
    yield from exchanged(scene)


def _derivatives(scene: Scene) -> Iterator[LoopEdit]:
    """The local derivative of a function of one variable: of another one, or of another value."""
    found = [*functions(scene.graph), *_chains(scene)]
    edits: list[LoopEdit] = []
    for some in (found[::-1], found, list(_alone(scene))):
        edits += _of_spans(scene, {k: (z, v) for k, z, v in some})
    # Another formula may have the same values: exp(a) (1 + exp(a)) is that of a factor left out.
    yield from sorted(edits, key=lambda edit: not edit.key[2].startswith("missing"))


def _alone(scene: Scene) -> Iterator[tuple[int, int, int]]:
    """Operation, argument and value of each function that is no part of a longer one here."""
    graph = scene.graph
    for k, op in enumerate(graph.ops):
        out, moving = scene.result(k), graph.moving(op)
        if out is not None and len(moving) == 1 and op.primitive.name in ELEMENTWISE - LINEAR:
            yield k, op.ins[moving[0]], out


def _chains(scene: Scene) -> Iterator[tuple[int, int, int]]:
    """Operation, argument and value of each function of one operand, though others share it."""
    graph, uses = scene.graph, scene.graph.uses()
    root: dict[int, int] = {}
    ends: dict[int, int] = {}
    for k, op in enumerate(graph.ops):
        moving: list[int] = [op.ins[j] for j in graph.moving(op) if graph.floats[op.ins[j]]]
        out = scene.result(k)
        if out is None or len(moving) != 1 or op.primitive.name not in ELEMENTWISE:
            continue
        if graph.shapes[out] == graph.shapes[moving[0]]:
            root[out] = root.get(moving[0], moving[0])
            if uses[moving[0]] == 1:
                ends.pop(moving[0], None)
            ends[out] = k
    for out, k in ends.items():
        yield k, root[out], out


def _of_spans(scene: Scene, spans: Mapping[int, tuple[int, int]]) -> Iterator[LoopEdit]:
    for turns in scene.turns:
        if "block" in turns.key or any(k not in spans for k in turns.ops):
            continue
        pairs = [spans[k] for k in turns.ops]
        values = scene.pull.values
        named = [list(mistakes(values[z], values[v])) for z, v in pairs]
        where, name = scene.where(turns), scene.op(turns).primitive.name
        of = scene.text(pairs[-1][1])
        made = [(one[0][1], tuple(f for f, _ in one)) for one in zip(*named, strict=True)]
        made += list(_of_others(scene, turns, pairs))
        made += list(_in_parts(scene, pairs, made))
        for formula, slopes in made:
            if not all(np.isfinite(slope).all() for slope in slopes):
                continue
            extra = {v: (z, slope) for (z, v), slope in zip(pairs, slopes, strict=True)}
            sentence = (
                f"the derivative of {name}, whose value is {of}{said(where)}, is {formula} "
                "(h its value, z its argument)"
            )
            evidence = (("where", where), ("instead", formula))
            key = ("derivative", turns.key, formula, scene.text(pairs[-1][0]))
            yield LoopEdit(key, "wrong-derivative", sentence, BackwardChange(extra=extra), evidence)


def _in_parts(
    scene: Scene, pairs: list[tuple[int, int]], wrong: list[tuple[str, tuple[Array, ...]]]
) -> Iterator[tuple[str, tuple[Array, ...]]]:
    """The same in one of the gates that stand side by side, the others right."""
    width, shape = scene.width_of_parts(pairs[-1][1]), scene.graph.shapes[pairs[-1][1]]
    if not width:
        return
    right = [_slope(scene, *pair) for pair in pairs]
    for i in range(shape[-1] // width):
        here = np.arange(shape[-1]) // width == i
        for formula, slopes in wrong:
            mixed = tuple(np.where(here, w, r) for w, r in zip(slopes, right, strict=True))
            yield f"{formula} in part {i}", mixed


def _slope(scene: Scene, start: int, end: int) -> Array:
    """The right derivative of one value by another, along operations of one operand."""
    slope: Array = np.ones(scene.graph.shapes[end])
    while end != start:
        k = scene.made[end]
        (j,) = [j for j in scene.graph.moving(scene.graph.ops[k]) if (k, j) in scene.pull.local]
        slope, end = slope * scene.pull.local[k, j], scene.operand((k, j))
    return slope


_FORMULAS: tuple[tuple[str, Formula], ...] = (
    ("1 - u**2", lambda u: 1 - u**2),
    ("u * (1 - u)", lambda u: u * (1 - u)),
    ("(u > 0)", lambda u: (u > 0).astype(float)),
    ("cos(u)", np.cos),
    *((f"that of {name} at u", activations.ACTIVATIONS[name].derivative)
      for name in ("tanh", "sigmoid")),
)  # fmt: skip


def _of_others(
    scene: Scene, turns: Turns, pairs: list[tuple[int, int]]
) -> Iterator[tuple[str, tuple[Array, ...]]]:
    """Formulas of the right form at another quantity."""
    own = [scene.pull.values[v] for _, v in pairs]
    for q, shift, wrap, arrays in _alike(scene, turns, own):
        called = f"u = {q.text}{_when(shift, wrap)}"
        for formula, slope in _FORMULAS:
            with np.errstate(all="ignore"):
                yield f"{formula}, {called}", tuple(slope(u) for u in arrays)


def _alike(
    scene: Scene, turns: Turns, own: list[Array]
) -> Iterator[tuple[Quantity, int, bool, list[Array]]]:
    """Other quantities of the same shape, at this step and at those beside it."""
    shape, n = own[0].shape, len(own)
    like = [q for q in scene.quantities if q.arrays[0].shape == shape and len(q.arrays) >= n]
    for shift, wrap in _SHIFTS if turns.steps else ():
        for q in like:
            arrays = [q.at(t, shift, wrap) for t in range(n)]
            if not all(map(np.array_equal, arrays, own)):
                yield q, shift, wrap, arrays
    for key, text, value in scene.constants:
        if value.shape == shape and not all(np.array_equal(value, a) for a in own):
            yield Quantity(key, text, (value,) * n, ()), 0, False, [value] * n


def _when(shift: int, wrap: bool) -> str:
    if not shift:
        return ""
    end = "" if not wrap else " (at the end of the sequence from its other end)"
    return f" of the step {'before' if shift < 0 else 'after'}{end}"


def _instead(made: str, used: str, belongs: str, shift: int) -> str:
    """What is wrong: another quantity, or the right one of another step."""
    if shift and used.startswith(f"{belongs} of "):
        return f"{made} is made with {used}, not of its own step"
    return f"{made} is made with {used} where {belongs} belongs"


def _factors(scene: Scene) -> Iterator[LoopEdit]:
    """``d_v q`` for ``d_v b`` at a product ``v = a b``."""
    for turns in scene.turns:
        op = scene.op(turns)
        if op.primitive.name not in _PRODUCTS:
            continue
        for j, edges in scene.sides(turns):
            if len(edges) != len(turns.ops):
                continue
            graph, values = scene.graph, scene.pull.values
            own = [np.asarray(graph.read(values, graph.ops[k].ins[1 - j])) for k, _ in edges]
            if len({array.shape for array in own}) > 1:
                continue
            made, belongs = gradient_of(scene.read(turns, j)), scene.read(turns, 1 - j)
            for q, shift, wrap, arrays in _alike(scene, turns, own):
                moved = shift or q.text == belongs
                moved = moved or scene.is_beside(own, arrays)
                used = f"{q.text}{_when(shift, wrap)}"
                if q.text == belongs and not shift:
                    used = f"{q.text} of another step"
                sentence = _instead(made, used, belongs, shift) + said(scene.where(turns))
                change = BackwardChange({
                    edge: _with(scene, edge, array)
                    for edge, array in zip(edges, arrays, strict=True)
                })  # fmt: skip
                key = ("other", turns.key, j, q.key, shift, wrap)
                evidence = (("where", scene.where(turns)), ("used", used), ("belongs", belongs))
                code = "off-by-one" if moved else "wrong-operand"
                yield LoopEdit(key, code, sentence, change, evidence)


_MOST = 24


def _factors_exchanged(scene: Scene) -> Iterator[LoopEdit]:
    """Each of two products with the factor of the other: of ``g a + (1 - g) c``."""
    sides: list[tuple[Turns, int, list[Edge], list[Array]]] = []
    for turns in scene.turns:
        if scene.op(turns).primitive.name != "mul" or "block" in turns.key:
            continue
        for j, edges in scene.sides(turns):
            values = [scene.graph.read(scene.pull.values, scene.graph.ops[k].ins[1 - j])
                      for k, j in edges]  # fmt: skip
            if len(edges) == len(turns.ops) and np.ndim(values[0]):
                sides.append((turns, j, edges, [np.asarray(v, np.float64) for v in values]))
    for (one, i, mine, a), (two, j, its, b) in combinations(sides[:_MOST], 2):
        shapes = {scene.shape(mine[0]), scene.shape(its[0]), a[0].shape, b[0].shape}
        if one is two or len(mine) != len(its) or len(shapes) > 1 or _equal(a, b):
            continue
        change = BackwardChange(
            {edge: _with(scene, edge, other) for edge, other in zip([*mine, *its], [*b, *a],
                                                                    strict=True)}
        )  # fmt: skip
        first, second = (gradient_of(scene.read(t, k)) for t, k in ((one, i), (two, j)))
        used, where = (scene.read(one, 1 - i), scene.read(two, 1 - j)), scene.where(one)
        sentence = (
            f"{first} and {second} are made with each other's factor, {used[1]} and {used[0]}"
            f"{said(where)}"
        )
        key, evidence = ("exchanged", one.key, i, two.key, j), (("where", where),)
        yield LoopEdit(key, "swapped-gates", sentence, change, evidence)


def _equal(some: Sequence[Array], others: Sequence[Array]) -> bool:
    return all(map(np.array_equal, some, others))


def _with(scene: Scene, edge: Edge, other: Array) -> EdgeChange:
    return lambda adjoint, _: scene.pull.with_other(edge, adjoint, other)


def _cotangents(scene: Scene) -> Iterator[LoopEdit]:
    """``q b`` for ``d_v b``: the gradient of another value of the same shape, or of its step."""
    shapes = scene.graph.shapes
    made = [
        (turns, refs)
        for turns in scene.loops
        if "block" not in turns.key and (refs := scene.results(turns)) is not None
    ]
    for turns in scene.loops:
        mine = scene.results(turns)
        if mine is None or "block" in turns.key:
            continue
        op = scene.op(turns)
        for j, edges in scene.sides(turns):
            if len(edges) != len(turns.ops):
                continue
            product = op.primitive.name in _PRODUCTS or _is_shared(scene, edges)
            for other, refs in made:
                if len(refs) != len(mine) or shapes[refs[0]] != shapes[mine[0]]:
                    continue
                for shift in (-1, 1) if other is turns else (0,):
                    if not (product or shift):
                        continue
                    yield _incoming(scene, turns, j, edges, other, refs, shift)


def _is_shared(scene: Scene, edges: list[Edge]) -> bool:
    """True if every turn reads the same value: a parameter."""
    return len({scene.operand(edge) for edge in edges}) == 1


def _incoming(
    scene: Scene, turns: Turns, j: int, edges: list[Edge], other: Turns, refs: list[int], shift: int
) -> LoopEdit:
    op = scene.op(turns)
    made = gradient_of(scene.read(turns, j))
    belongs, used = (gradient_of(scene.text(x)) for x in (op.outs[0], refs[-1]))
    if shift:
        used = f"{used}{_when(shift, False)}"
    changes = {
        edge: _from(scene, edge, refs[t + shift] if 0 <= t + shift < len(refs) else None)
        for t, edge in enumerate(edges)
    }
    sentence = _instead(made, used, belongs, shift) + said(scene.where(turns))
    evidence = (("where", scene.where(turns)), ("used", used), ("belongs", belongs))
    key = ("incoming", turns.key, j, other.key, shift)
    code = "off-by-one" if shift else "wrong-operand"
    return LoopEdit(key, code, sentence, BackwardChange(changes, reads=True), evidence)


def _from(scene: Scene, edge: Edge, ref: int | None) -> EdgeChange:
    if ref is None:
        return lambda adjoint, _: np.zeros(scene.shape(edge))
    return lambda _, adjoint: scene.pull.pulled(edge, adjoint(ref)[None])[0]


def _added(scene: Scene) -> Iterator[LoopEdit]:
    """What belongs to the last step alone comes in at every step."""
    once = [turns for turns in scene.turns if len(turns.ops) == 1]
    readers: dict[int, list[tuple[Any, Edge]]] = {}
    for turns in once:
        for j, edges in scene.sides(turns):
            readers.setdefault(scene.operand(edges[0]), []).append(((turns.key, j), edges[0]))
    for turns in scene.loops:
        refs = scene.results(turns)
        for key, edge in readers.get(refs[-1], []) if refs else ():
            assert refs is not None
            op = scene.graph.ops[edge[0]]
            adjoint = scene.pull.adjoint(op.outs[0])
            share = scene.pull.pulled(edge, adjoint[None])[0]
            change = BackwardChange(values=dict.fromkeys(refs[:-1], _plus(share)))
            sentence = (
                f"what {scene.text(op.outs[0])} sends to the last {scene.text(refs[-1])} is added "
                f"at every step{said(scene.where(turns))}"
            )
            evidence = (("where", scene.where(turns)),)
            yield LoopEdit(("added", turns.key, key), "doubled-path", sentence, change, evidence)


_SMALL = 1e-2
"""A constant up to this size may keep a quotient finite: an epsilon."""


def _without_constants(scene: Scene) -> Iterator[LoopEdit]:
    """A quotient or product with a value of which a small constant is left out."""
    for added in scene.turns:
        for j, number in _small_constants(scene, added):
            changed = _values_without(scene, added, j)
            for turns in scene.turns:
                for k in {"div": (1,), "mul": (0, 1)}.get(scene.op(turns).primitive.name, ()):
                    change = _with_values(scene, turns, k, changed)
                    if change is None:
                        continue
                    where = scene.where(turns)
                    made = gradient_of(scene.text(scene.op(turns).outs[0]))
                    sentence = f"{made} is made with {scene.read(turns, k)} without its {number:g}"
                    key = ("constant", turns.key, k, added.key, number)
                    evidence = (("where", where), ("constant", number))
                    yield LoopEdit(key, "wrong-operand", sentence + said(where), change, evidence)


def _small_constants(scene: Scene, turns: Turns) -> Iterator[tuple[int, float]]:
    """The operands of a sum that are small numbers."""
    op = scene.op(turns)
    if op.primitive.name != "add":
        return
    for j, ref in enumerate(op.ins):
        if isinstance(ref, Fixed) and not np.ndim(ref.value) and 0 < abs(ref.value) <= _SMALL:
            yield j, float(ref.value)


def _with_values(
    scene: Scene, turns: Turns, k: int, changed: Mapping[int, Array]
) -> BackwardChange | None:
    """What flows back to both factors, made with other values of factor ``k``."""
    refs, values = scene.results(turns), scene.pull.values
    read = [scene.graph.ops[i].ins[k] for i in turns.ops]
    if refs is None or not all(isinstance(ref, int) and ref in values for ref in read):
        return None
    pairs = [(values[ref], changed[ref]) for ref in read]
    if all(np.array_equal(own, other) for own, other in pairs):
        return None
    divides = scene.op(turns).primitive.name == "div"
    factors = [own / other if divides else other / own for own, other in pairs]
    return BackwardChange(values={r: scaled(f) for r, f in zip(refs, factors, strict=True)})


def _values_without(scene: Scene, added: Turns, j: int) -> dict[int, Array]:
    """Every value of the forward pass if operand ``j`` of some sums were zero."""
    graph, without = scene.graph, set(added.ops)

    def apply(k: int, ins: Sequence[Any], _: Mapping[int, Any]) -> Sequence[Any]:
        given = list(ins)
        if k in without:
            given[j] = np.zeros_like(np.asarray(given[j]))
        return graph.ops[k].bind(given)

    with reference_mode():
        values = graph.run([scene.pull.values[ref] for ref in graph.inputs], apply)
    return {ref: np.asarray(value, np.float64) for ref, value in values.items()}


def _plus(share: Array) -> ValueChange:
    def more(parts: list[Array], _: Lookup) -> Array:
        return total(parts) + share

    return more
