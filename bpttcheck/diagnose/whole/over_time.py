"""Mistakes of the loop itself: a carry that is lost, steps left out, gradients of another step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck.diagnose.whole.paths import times, total
from bpttcheck.diagnose.whole.scene import GATHERING, LoopEdit, Scene
from bpttcheck.oracles.step_graph.graph import MOVES
from bpttcheck.oracles.step_graph.pullback import (
    BackwardChange,
    Edge,
    EdgeChange,
    Lookup,
    ValueChange,
)
from bpttcheck.oracles.step_graph.whole import Turns


def edits(scene: Scene) -> Iterator[LoopEdit]:
    """All of them."""
    steps = max((turns.steps for turns in scene.loops), default=0)
    if steps < 2:
        return
    yield from _lost_carries(scene, steps)
    yield from _terms(scene, steps)
    yield from _left_out(scene, steps)
    yield from _outputs(scene)
    yield from _forwards(scene)


def carries(scene: Scene) -> dict[Any, tuple[str, list[tuple[int, Edge]]]]:
    """By state: its name, and the edges to it from the turn after, with that turn."""
    found: dict[Any, tuple[str, list[tuple[int, Edge]]]] = {}
    groups = {
        k: turns.key for turns in scene.loops if "block" not in turns.key for k in turns.ops
    }  # fmt: skip
    for k, j in sorted(scene.edges):
        ref = scene.operand((k, j))
        source = scene.made.get(ref)
        if source is None or source not in scene.time or k not in scene.time:
            continue
        if scene.graph.ops[k].primitive.name in GATHERING:
            continue
        if scene.time[k] == scene.time[source] + 1:
            _, edges = found.setdefault(groups[source], (scene.text(ref), []))
            edges.append((scene.time[k], (k, j)))
    return found


def _first_reads(scene: Scene, states: Mapping[Any, Any]) -> list[Edge]:
    """The edges by which the first turn reads the initial states."""
    again = {edge for _, edges in states.values() for _, edge in edges}
    places = {(groups, j) for groups, j in ((_group(scene, k), j) for k, j in again)}
    return [
        (k, j) for k, j in scene.edges
        if scene.time.get(k) == 0 and (_group(scene, k), j) in places
    ]  # fmt: skip


def _group(scene: Scene, k: int) -> int:
    return scene.last.get(k, k)


def _lost_carries(scene: Scene, steps: int) -> Iterator[LoopEdit]:
    """The adjoint of one state or of all is lost: at every step, or but for the last ones."""
    states = carries(scene)
    everything = [pair for _, edges in states.values() for pair in edges]
    if not everything:
        return
    first = _first_reads(scene, states)
    lost = "the adjoint of the state is lost at every step"
    yield _cut(("carry", "all"), lost, scene, [edge for _, edge in everything], 1)
    yield _cut(
        ("carry", "all", 0), f"{lost}, the first one too", scene,
        [*(edge for _, edge in everything), *first], 1,
    )  # fmt: skip
    for key, (name, edges) in states.items():
        yield _and_the_last(scene, key, name, edges)
        lost = f"the adjoint of {name} is lost at every step"
        yield _cut(("carry", key), lost, scene, [edge for _, edge in edges], 1)
    for k in range(2, steps):
        for part, text in (
            ([edge for t, edge in everything if t == steps - k],
             f"the adjoint of the state goes back over the last {k} steps alone"),
            ([edge for t, edge in everything if (steps - t) % k == 0],
             f"the adjoint of the state is dropped every {k} steps"),
        ):  # fmt: skip
            if part:
                yield _cut(("carry", text), text, scene, part, k)


def _and_the_last(scene: Scene, key: Any, name: str, edges: Sequence[tuple[int, Edge]]) -> LoopEdit:
    """What the final state is told is lost, too: each step knows its own outputs alone."""
    final, start = _final(scene, edges), scene.operand(edges[0][1])
    everywhere = {_group(scene, k) for k, j in scene.edges if scene.operand((k, j)) == start}
    alone = [
        (k, j) for k, j in scene.edges
        if final is not None and scene.operand((k, j)) == final
        and _group(scene, k) not in everywhere
    ]  # fmt: skip
    lost = [*(edge for _, edge in edges), *alone]
    values: dict[int, ValueChange] = {}
    given = None if final is None else scene.pull.given(final)
    if final is not None and given is not None:
        values[final] = lambda parts, _: total(parts) - given
    change = BackwardChange({edge: times(scene, edge, 0.0) for edge in lost}, values)
    sentence = f"the adjoint of {name} is lost at every step, the last one too"
    return LoopEdit(("carry", key, "last"), "truncated", sentence, change, (("steps", 1),))


def _cut(key: Any, sentence: str, scene: Scene, edges: Sequence[Edge], steps: int) -> LoopEdit:
    change = BackwardChange({edge: times(scene, edge, 0.0) for edge in edges})
    return LoopEdit(key, "truncated", sentence, change, (("steps", steps),))


def _terms(scene: Scene, steps: int) -> Iterator[LoopEdit]:
    """The term of one step in what all of them share: missing, twice, or the only one."""
    taps: dict[int, list[Edge]] = {}
    for k, j in scene.edges:
        source = scene.made.get(scene.operand((k, j)))
        if k in scene.time and (source is None or source not in scene.time):
            taps.setdefault(scene.time[k], []).append((k, j))
    for t, place in ((0, "t = 0"), (steps - 1, "t = T-1")):
        index = 0 if t == 0 else -1
        others = [edge for s, edges in taps.items() if s != t for edge in edges]
        for code, factor, edges, text in (
            ("missing-term", 0.0, taps.get(t, []), f"the term of step {place} is missing from"),
            ("doubled-term", 2.0, taps.get(t, []), f"the term of step {place} counts twice in"),
            ("overwritten", 0.0, others, f"only the term of step {place} is left (= for +=) in"),
        ):
            if edges:
                change = BackwardChange({edge: times(scene, edge, factor) for edge in edges})
                evidence = (("time_step", index),)
                yield LoopEdit((code, index), code, text + " {block}", change, evidence)


def _left_out(scene: Scene, steps: int) -> Iterator[LoopEdit]:
    """The loop back does not reach every step."""
    for skipped, index, text in (
        ((0,), 0, "the backward pass stops before step t = 0"),
        ((steps - 1,), -1, "the backward pass leaves out the last step, t = T-1"),
    ):
        edges = [(k, j) for k, j in scene.edges if scene.time.get(k) in skipped]
        change = BackwardChange({edge: times(scene, edge, 0.0) for edge in edges})
        if index == 0:
            change = replace(change, values=_as_it_stopped(scene), reads=True)
        yield LoopEdit(("left out", index), "missing-term", text, change, (("time_step", index),))
    for k in range(1, steps):
        edges = [(op, j) for op, j in scene.edges if scene.time.get(op, steps) < steps - k]
        change = BackwardChange({edge: times(scene, edge, 0.0) for edge in edges})
        count = "step" if k == 1 else f"{k} steps"
        text = f"only the last {count} count"
        yield LoopEdit(("only the last", k), "truncated", text, change, (("steps", k),))


def _as_it_stopped(scene: Scene) -> dict[int, ValueChange]:
    """The initial states get what the second turn sends back, which the loop held last."""
    found: dict[int, ValueChange] = {}
    states = carries(scene)
    reads = _first_reads(scene, states)
    for _, edges in states.values():
        sent = [edge for t, edge in edges if t == 1]
        places = {(_group(scene, k), j) for k, j in sent}
        starts = {scene.operand((k, j)) for k, j in reads if (_group(scene, k), j) in places}
        for start in starts:
            found[start] = _sent_by(scene, sent)
    return found


def _sent_by(scene: Scene, edges: Sequence[Edge]) -> ValueChange:
    def of(parts: list[Any], adjoint: Lookup) -> Any:
        found = 0.0 * parts[0]
        for edge in edges:
            result = scene.graph.ops[edge[0]].outs[0]
            found = found + scene.pull.pulled(edge, adjoint(result)[None])[0]
        return found

    return of


def _outputs(scene: Scene) -> Iterator[LoopEdit]:
    """The gradients of the outputs of other steps: one off, in reverse order, the last alone."""
    for turns in scene.turns:
        for edges in _to_outputs(scene, turns):
            n = len(edges)
            name = scene.text(scene.operand(edges[-1]))
            for key, code, order, text in (
                ("before", "off-by-one", lambda t: t - 1, "the one of the step before"),
                ("after", "off-by-one", lambda t: t + 1, "the one of the step after"),
                ("reversed", "time-order", lambda t, n=n: n - 1 - t, "in reversed order"),
                ("last", "missing-path", lambda t, n=n: t if t == n - 1 else -1,
                 "that of the last step alone"),
                ("not last", "missing-path", lambda t, n=n: t if t < n - 1 else -1,
                 "that of every step but the last"),
            ):  # fmt: skip
                change = BackwardChange(dict(_reordered(scene, edges, order)))
                sentence = f"the gradient that the output sends to {name} is {text}"
                yield LoopEdit(("output", turns.key, key), code, sentence, change)


def _to_outputs(scene: Scene, turns: Turns) -> Iterator[list[Edge]]:
    """Edges by which what the turns made is put side by side, in the order of the turns."""
    name = scene.op(turns).primitive.name
    if turns.steps and (name in GATHERING or name in MOVES):
        for _, edges in scene.sides(turns):
            made = [scene.made.get(scene.operand(edge)) for edge in edges]
            in_turn = [scene.time.get(-1 if k is None else k) for k in made]
            if in_turn == list(range(turns.steps)) and _delivered(scene, edges):
                yield edges
    elif name in ("concatenate", "stack") and len(turns.ops) == 1:
        k = turns.ops[0]
        edges = [(k, j) for j in range(len(scene.graph.ops[k].ins)) if (k, j) in scene.edges]
        made = [scene.made.get(scene.operand(edge)) for edge in edges]
        in_turn = [scene.time.get(-1 if k is None else k) for k in made]
        if in_turn == list(range(len(edges))) and len(edges) > 1 and _delivered(scene, edges):
            yield edges


def _delivered(scene: Scene, edges: list[Edge]) -> bool:
    return all(scene.graph.ops[k].outs[0] in scene.delivered for k, _ in edges)


def _reordered(
    scene: Scene, edges: list[Edge], order: Callable[[int], int]
) -> Iterator[tuple[Edge, EdgeChange]]:
    """What the outputs send, as it should be, to the steps in another order."""
    sent = [
        scene.pull.pulled(edge, scene.pull.adjoint(scene.graph.ops[edge[0]].outs[0])[None])[0]
        for edge in edges
    ]
    for t, edge in enumerate(edges):
        at = order(t)
        share = sent[at] if 0 <= at < len(sent) else np.zeros_like(sent[t])
        yield edge, _always(share)


def _always(share: Any) -> EdgeChange:
    return lambda adjoint, _: share


def _forwards(scene: Scene) -> Iterator[LoopEdit]:
    """The loop back runs from the first step to the last; or its carry stays what it was.

    Forwards, the carry into step t is what step t - 1 sends, made with that step's derivatives.
    """
    states = carries(scene)
    changes: dict[Edge, EdgeChange] = {}
    stays: dict[Edge, EdgeChange] = {}
    values: dict[int, ValueChange] = {}
    last = max(scene.time.values(), default=0)
    for _, edges in states.values():
        places: dict[tuple[int, int], dict[int, Edge]] = {}
        for t, (k, j) in edges:
            places.setdefault((_group(scene, k), j), {})[t] = (k, j)
        again = [turns.get(last - 1) for turns in places.values()]
        final = _final(scene, edges)
        given = None if final is None else scene.pull.given(final)
        for number, turns in enumerate(places.values()):
            for t, edge in turns.items():
                begins = t == 1 and not number and given is not None
                # What step t - 2 sends comes in at step t - 1.
                source = turns.get(t - 2) or (_first(scene, edge) if t == 2 else None)
                changes[edge] = _always(given) if begins else _carried(scene, edge, source)
                stays[edge] = times(scene, edge, 0.0) if number or given is None else _always(given)
        if final is not None:
            values[final] = _ended(scene, [edge for edge in again if edge], given)
    for edge in _first_reads(scene, states) if states else ():
        k = next((op for op in _same(scene, edge[0]) if scene.time[op] == last), None)
        if k is not None:  # what the last step sends is left at the end
            changes[edge] = _carried(scene, edge, (k, edge[1]))
    if changes:
        sentence = "the loop back runs forwards in time: the carry comes from the step before"
        change = BackwardChange(changes, values, reads=True)
        yield LoopEdit(("forwards",), "time-order", sentence, change)
        sentence = "the carry is not updated: every step gets the adjoint of the final state"
        yield LoopEdit(("stays",), "truncated", sentence, BackwardChange(stays))


def _first(scene: Scene, edge: Edge) -> Edge | None:
    """The same edge in the first turn."""
    found = [(k, edge[1]) for k in _same(scene, edge[0]) if scene.time[k] == 0]
    return found[0] if found and found[0] in scene.edges else None


def _final(scene: Scene, edges: Sequence[tuple[int, Edge]]) -> int | None:
    """The value of a state that the last turn makes."""
    source = scene.made[scene.operand(edges[0][1])]
    ops = [k for k in _same(scene, source) if scene.time[k] == max(scene.time.values())]
    return scene.result(ops[0]) if ops else None


def _same(scene: Scene, k: int) -> list[int]:
    """An operation in all turns."""
    return [op for op, last in scene.last.items() if last == _group(scene, k) and op in scene.time]


def _carried(scene: Scene, edge: Edge, source: Edge | None) -> EdgeChange:
    if source is None:
        return times(scene, edge, 0.0)
    result = scene.graph.ops[source[0]].outs[0]
    return lambda _, adjoint: scene.pull.pulled(source, adjoint(result)[None])[0]


def _ended(scene: Scene, edges: Sequence[Edge], given: Any) -> ValueChange:
    """The last step of a loop that runs forwards: no longer the one where the carry begins."""

    def of(parts: list[Any], adjoint: Lookup) -> Any:
        found = total(parts) - (0.0 if given is None else given)
        for edge in edges:
            result = scene.graph.ops[edge[0]].outs[0]
            found = found + scene.pull.pulled(edge, adjoint(result)[None])[0]
        return found

    return of
