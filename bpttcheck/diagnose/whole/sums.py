"""Sums over another axis than that over which the forward pass made one value of many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, product
from math import prod

import numpy as np

from bpttcheck.diagnose.base import Array
from bpttcheck.diagnose.whole.paths import axes_named, said
from bpttcheck.diagnose.whole.scene import LoopEdit, Scene
from bpttcheck.oracles.step_graph.graph import ELEMENTWISE, MOVES, gradient_of
from bpttcheck.oracles.step_graph.pullback import BackwardChange, Edge, EdgeChange, Lookup
from bpttcheck.oracles.step_graph.whole import Turns

_READERS = 4
_MOST = 8


@dataclass(frozen=True)
class SumAgain:
    """A sum over axes, and an operation that uses it again in every place of them.

    With ``m = f(x.sum(axes))`` and ``v = g(x, m)``, ``d_m`` sums ``d_v dv/dm`` over ``axes``, and
    every place of ``x`` gets the same of it.

    Args:
        total: the edge through which the sum reads ``x``.
        result: what the operation makes.
        slope: its derivative by the sum's result, of the shape of ``result``.
        factor: the derivative of what it reads by the sum, of the shape ``kept``.
        axes: those of the sum.
        reader: the operand through which the result sends what is summed; None: all that read it.
    """

    total: Edge
    result: int
    slope: Array
    factor: Array
    axes: tuple[int, ...]
    reader: Edge | None = None

    @property
    def kept(self) -> tuple[int, ...]:
        """The shape of the sum with its axes kept."""
        return tuple(1 if a in self.axes else n for a, n in enumerate(self.slope.shape))

    def terms(self, scene: Scene, adjoint: Lookup) -> Array:
        """What is summed."""
        if self.reader is None:
            return adjoint(self.result) * self.slope
        made = scene.graph.ops[self.reader[0]].outs[0]
        return scene.pull.pulled(self.reader, adjoint(made)[None])[0] * self.slope


@dataclass(frozen=True)
class Place:
    """An operand that is such a sum, in every turn.

    Args:
        turns: the operation.
        j: the operand.
        sums: one for each turn.
        part: of the readers of the result, that which sends what is summed; -1: all.
    """

    turns: Turns
    j: int
    sums: list[SumAgain]
    part: int = -1


def edits(scene: Scene) -> Iterator[LoopEdit]:
    """All of them: each sum alone, and all at once."""
    places: list[Place] = []
    if any(scene.op(turns).primitive.name == "reduce_sum" for turns in scene.turns):
        for turns in scene.turns:
            for j, edges in scene.sides(turns) if _is_elementwise(scene, turns) else ():
                sums = [one for one in (_sum_again(scene, edge) for edge in edges) if one]
                if len(sums) == len(turns.ops) and len({s.slope.shape for s in sums}) == 1:
                    places.append(Place(turns, j, sums))
    told: list[list[Place]] = []
    empty: list[SumAgain] = []
    for place in places:
        if _is_empty(scene, place):
            empty += place.sums
            continue
        told.append([])
        for part in _parts(scene, place):
            if _is_empty(scene, part):
                empty += part.sums
            else:
                told[-1].append(part)
    every: list[Sequence[Place]] = [(place,) for parts in told for place in parts]
    every += islice(product(*told), _MOST) if len(told) > 1 else []
    for together in every:
        yield from _over_others(scene, together, empty)


def _is_elementwise(scene: Scene, turns: Turns) -> bool:
    return scene.op(turns).primitive.name in ELEMENTWISE


def _is_empty(scene: Scene, place: Place) -> bool:
    """True if it sums to nothing, whatever comes in: of ``x - mean(x)``, squared.

    Nobody derives it. Where another sum is wrong, it would not be nothing.
    """
    for one in place.sums:
        terms = one.terms(scene, scene.pull.adjoint)
        sent = np.abs(terms.sum(axis=one.axes)).max(initial=0.0)
        if sent > 1e-10 * np.abs(terms).max(initial=0.0):
            return False
    return True


def _parts(scene: Scene, place: Place) -> list[Place]:
    """The sum of all that comes in, and that of what one reader sends, where there are several.

    Of ``x - mean(x)`` some readers send what sums to zero over the right axis, and nobody sums it.
    """
    readers = [scene.readers(one.result) for one in place.sums]
    several = range(len(readers[0])) if 1 < len(readers[0]) <= _READERS else ()
    if len({len(edges) for edges in readers}) > 1:
        return [place]
    alone = [
        [replace(one, reader=edges[i]) for one, edges in zip(place.sums, readers, strict=True)]
        for i in several
    ]
    return [place, *(replace(place, sums=sums, part=i) for i, sums in enumerate(alone))]


def _sum_again(scene: Scene, edge: Edge) -> SumAgain | None:
    """The sum that an operand is made of, if the operation repeats it over the axes of the sum."""
    graph, local = scene.graph, scene.pull.local
    shape, result = scene.shape(edge), scene.result(edge[0])
    if result is None or len(shape) != len(graph.shapes[result]) or shape == graph.shapes[result]:
        return None
    slope = local[edge].sum(axis=1).reshape(graph.shapes[result])  # an entry reads one of its own
    factor, ref = np.ones(prod(shape)), scene.operand(edge)
    while (k := scene.made.get(ref)) is not None:
        op = graph.ops[k]
        sides = [j for j in range(len(op.ins)) if (k, j) in local]
        if len(sides) != 1:
            return None
        ref = op.ins[sides[0]]
        if op.primitive.name == "reduce_sum":
            one = SumAgain((k, sides[0]), result, slope, factor, tuple(op.params["axes"]))
            alike = graph.shapes[ref] == slope.shape and one.kept == shape
            return replace(one, factor=factor.reshape(shape)) if alike else None
        if prod(graph.shapes[ref]) != factor.size:
            return None
        if op.primitive.name in ELEMENTWISE:
            factor = factor * np.ravel(local[k, sides[0]])
        elif op.primitive.name not in MOVES:
            return None
    return None


def _over_others(
    scene: Scene, places: Sequence[Place], empty: list[SumAgain]
) -> Iterator[LoopEdit]:
    """The same sums over each other axis, or over all: of the terms as they are, or in a unit."""
    sums = [one for place in places for one in place.sums]
    axes, shape = sums[0].axes, sums[0].slope.shape
    if any(one.axes != axes or one.slope.shape != shape for one in sums):
        return
    where = scene.where(places[-1].turns)
    names = [gradient_of(scene.read(place.turns, place.j)) for place in places]
    others = [(a,) for a, n in enumerate(shape) if a not in axes and n > 1]
    others += [tuple(range(len(shape)))] if others else []
    of, in_words = prod(shape[a] for a in axes), " and in ".join(names)
    right = axes_named(axes)
    for other in [*others, ()]:
        by = prod(shape[a] for a in other)
        code = "broadcast-row" if other else "missing-path"
        sentence = (
            f"the sum in {in_words} goes over {axes_named(other)}, but should go over {right}"
        )
        if not other:
            sentence = f"the sum over {right} in {in_words} is left out: each term stands alone"
        sentence += said(where)
        evidence = (("where", where), ("axes", list(other)))
        for unit, scales in enumerate(_units(scene, places) if other else [_ones(sums)]):
            for mean in (False, True) if other else (False,):
                factor = of / by if mean else 1.0
                measured = list(zip(sums, scales, strict=True))
                key = tuple((place.turns.key, place.j, place.part) for place in places)
                over = "all" if len(other) == len(shape) else other
                key = ("sum", *key, over, unit, mean)
                for cut in ([], empty) if empty else ([],):
                    made = _changes(scene, measured, cut, other, factor)
                    change = BackwardChange(made, reads=True)
                    yield LoopEdit((*key, bool(cut)), code, sentence, change, evidence)


def _ones(sums: list[SumAgain]) -> list[Array]:
    return [np.ones(one.kept) for one in sums]


def _units(scene: Scene, places: Sequence[Place]) -> Iterator[list[Array]]:
    """What the terms may be measured in before they are summed, and the sum after: one a term."""
    sums = [one for place in places for one in place.sums]
    yield _ones(sums)
    for turns in scene.turns:
        refs = scene.results(turns)
        if refs is not None and all(len(refs) == len(place.sums) for place in places):
            values = [scene.pull.values[ref] for ref in refs] * len(places)
            if all(v.shape == one.kept for v, one in zip(values, sums, strict=True)):
                yield values


def _changes(
    scene: Scene,
    wrong: list[tuple[SumAgain, Array]],
    nothing: list[SumAgain],
    axes: tuple[int, ...],
    factor: float,
) -> dict[Edge, EdgeChange]:
    """What flows to the sums: some over other axes, in their units, and some not at all."""
    places: dict[Edge, list[tuple[SumAgain, Array | None]]] = {}
    for one, unit in [*wrong, *((one, None) for one in nothing)]:
        places.setdefault(one.total, []).append((one, unit))

    def of(total: Edge, adjoint: Array, lookup: Lookup) -> Array:
        share = scene.pull.pulled(total, adjoint[None])[0]
        for one, unit in places[total]:
            terms = one.terms(scene, lookup)
            share = share - terms.sum(axis=one.axes, keepdims=True) * one.factor
            if unit is not None:
                summed = (terms * unit).sum(axis=axes, keepdims=True)
                share = share + factor * summed / unit * one.factor
        return share

    return {total: partial(of, total) for total in places}
