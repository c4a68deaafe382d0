"""What the edits of a whole sequence are made of: its operations in turn, and its quantities."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bpttcheck.diagnose.base import Array, FailingExample
from bpttcheck.oracles.step_graph.graph import MOVES, Fixed, Graph, Op, Stand
from bpttcheck.oracles.step_graph.pullback import BackwardChange, Edge, EdgeChange
from bpttcheck.oracles.step_graph.whole import Turns

# Operations that put the results of the turns into one array.
GATHERING = frozenset(["concatenate", "stack", "dynamic_update_slice", "scatter", "pad"])
_PARTS = frozenset(["slice", "dynamic_slice", "split"])


@dataclass(frozen=True)
class LoopEdit:
    """One mistake.

    Args:
        key: the same at every size.
        code: the diagnosis that it stands for.
        sentence: what is wrong, with ``{block}`` for the gradient.
        change: what it changes.
        evidence: what else is known.
    """

    key: tuple[Any, ...]
    code: str
    sentence: str
    change: BackwardChange
    evidence: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Quantity:
    """One quantity of the forward pass in every turn of the loop.

    Args:
        key: the same at every size.
        text: what it is called.
        arrays: its values; one more than there are turns if the first is an initial state.
        refs: the numbers of those that the turns make.
    """

    key: tuple[Any, ...]
    text: str
    arrays: tuple[Array, ...]
    refs: tuple[int, ...]

    def at(self, t: int, shift: int, wrap: bool) -> Array:
        """Its value ``shift`` turns after turn ``t``: beyond the ends from the other end, or 0."""
        at, n = t + shift, len(self.arrays)
        if 0 <= at < n:
            return self.arrays[at]
        return self.arrays[at % n] if wrap else np.zeros_like(self.arrays[0])


class Scene:
    """The graph of one example, with its operations sorted.

    Args:
        example: a problem on which the bug shows.

    Raises:
        Declined: if JAX cannot trace it, or it is too large.
    """

    def __init__(self, example: FailingExample) -> None:
        self.example = example
        self.whole, self.pull = example.run.jax.whole(example.problem)
        self.graph = self.whole.graph
        self.made = self.whole.made
        self.turns = self.whole.turns(_lengths(example))
        self._leave_out_shifts()
        self.edges = set(self.pull.local)

    def _leave_out_shifts(self) -> None:
        """A maximum that is subtracted before an exponential changes nothing: nobody derives it."""
        graph, pull = self.graph, self.pull
        shifts = [edge for edge in pull.local if graph.ops[edge[0]].primitive.name == "reduce_max"]
        cut = BackwardChange({edge: _nothing(graph.shapes[self.operand(edge)]) for edge in shifts})
        pairs = pull.inputs([cut, BackwardChange()]) if shifts else []
        if all(np.allclose(both[0], both[1], rtol=1e-9, atol=1e-12) for both in pairs):
            for edge in shifts:
                pull.forget(edge)

    @property
    def loops(self) -> list[Turns]:
        """The operations that run once in each turn of a loop."""
        return [turns for turns in self.turns if turns.steps]

    @cached_property
    def time(self) -> dict[int, int]:
        """Operation -> the turn in which it runs."""
        found: dict[int, int] = {}
        for turns in self.loops:
            if "block" not in turns.key:
                found.update({k: t for t, k in enumerate(turns.ops)})
        return found

    @cached_property
    def last(self) -> dict[int, int]:
        """Operation -> the same operation in the last turn, which has the names."""
        plain = [turns for turns in self.loops if "block" not in turns.key]
        return {k: turns.ops[-1] for turns in plain for k in turns.ops}

    def operand(self, edge: Edge) -> int:
        """The value that an edge leads to."""
        return self.graph.ops[edge[0]].ins[edge[1]]

    def shape(self, edge: Edge) -> tuple[int, ...]:
        """The shape of that value."""
        return self.graph.shapes[self.operand(edge)]

    def sides(self, turns: Turns) -> Iterator[tuple[int, list[Edge]]]:
        """Each operand of an operation that something flows to, in every turn."""
        for j in range(len(self.graph.ops[turns.ops[0]].ins)):
            edges = [(k, j) for k in turns.ops if (k, j) in self.edges]
            if edges:
                yield j, edges

    @cached_property
    def _names(self) -> SourceNames:
        return SourceNames(self.graph)

    @cached_property
    def _inputs(self) -> dict[int, str]:
        state = [f"state{path}" for path in self.whole.state.paths]
        names = [*(path.strip("[]'") for path in self.whole.params.paths), *state, "xs"]
        return dict(zip(self.graph.inputs, names, strict=True))

    def text(self, ref: Any) -> str:
        """What a value is called."""
        if isinstance(ref, Fixed):
            value = np.asarray(ref.value)
            return f"{value:g}" if value.ndim == 0 and value.dtype.kind in "fiu" else "a constant"
        k = self.made.get(ref)
        return self._inputs[ref] if k is None else self._names.of(self.last.get(k, k))

    def read(self, turns: Turns, j: int) -> str:
        """What an operand is called where it is read."""
        return self._names.operand(turns.ops[-1], j) or self.text(self.op(turns).ins[j])

    @cached_property
    def delivered(self) -> set[int]:
        """Values that are only moved on, into the outputs."""
        graph = self.graph
        found = {ref for ref in graph.outputs if isinstance(ref, int)}
        read: dict[int, bool] = dict.fromkeys(found, True)
        for op in reversed(graph.ops):
            passes = op.primitive.name in MOVES | GATHERING and all(
                read.get(out, False) for out in op.outs
            )
            for ref in op.ins:
                if isinstance(ref, int):
                    read[ref] = read.get(ref, True) and passes
        return {ref for ref, only in read.items() if only}

    def where(self, turns: Turns) -> str:
        """The user's line; of a helper that is called from several places, that of the call."""
        return self._names.where(turns.ops[-1])

    def op(self, turns: Turns) -> Op:
        """One of the operations, for all."""
        return self.graph.ops[turns.ops[-1]]

    def result(self, k: int) -> int | None:
        """The one floating result of an operation that depends on the inputs, or None."""
        op = self.graph.ops[k]
        fixed = self.graph.constant | self.graph.still
        if len(op.outs) != 1 or op.outs[0] in fixed or not self.graph.floats[op.outs[0]]:
            return None
        return op.outs[0]

    def results(self, turns: Turns) -> list[int] | None:
        """The result in every turn, all of one shape."""
        found = [self.result(k) for k in turns.ops]
        refs = [ref for ref in found if ref is not None]
        shapes = {self.graph.shapes[ref] for ref in refs}
        return refs if len(refs) == len(found) and len(shapes) == 1 else None

    @cached_property
    def quantities(self) -> list[Quantity]:
        """What changes from turn to turn and has a name, and what the turns hand on."""
        values = self.pull.values
        made: list[Quantity] = []
        for turns in self.loops:
            refs, text = self.results(turns), self._name(turns)
            if refs is not None and text:
                arrays = tuple(values[ref] for ref in refs)
                made.append(Quantity(turns.key, text, arrays, tuple(refs)))
        kept = [
            Quantity((*q.key, "kept"), q.text, q.arrays[:-1], q.refs) for q in self.states
        ]  # fmt: skip
        return list(_distinct([*self._inputs_of_steps(), *made, *self.states, *kept]))

    def _inputs_of_steps(self) -> Iterator[Quantity]:
        """What a layer is handed for every step."""
        xs = self.example.problem.xs
        if self.example.run.subject.traits.signature is None:
            yield Quantity(("xs",), "x", tuple(np.asarray(x, np.float64) for x in xs), ())

    def _name(self, turns: Turns) -> str:
        """What user code calls it: a variable, or a part of one as it is read; or ``""``."""
        k = turns.ops[-1]
        name = self._names.variable(k)
        if name or self.graph.ops[k].primitive.name not in MOVES:
            return name
        read = (
            self._names.operand(*edge) for edge in self._readers.get(self.op(turns).outs[0], ())
        )
        return next(filter(None, read), "")

    @cached_property
    def _readers(self) -> dict[int, list[Edge]]:
        found: dict[int, list[Edge]] = {}
        for k, op in enumerate(self.graph.ops):
            for j, ref in enumerate(op.ins):
                if isinstance(ref, int):
                    found.setdefault(ref, []).append((k, j))
        return found

    def readers(self, ref: int) -> list[Edge]:
        """The operands by which something flows to a value."""
        return [edge for edge in self._readers.get(ref, ()) if edge in self.edges]

    def width_of_parts(self, ref: int) -> int:
        """The width of the 2 to 4 equal parts of a last axis that are read by themselves, or 0."""
        ops = [self.graph.ops[k] for k, _ in self._readers.get(ref, ())]
        parts = {self.graph.shapes[out] for op in ops for out in op.outs}
        shape = self.graph.shapes[ref]
        if len(parts) != 1 or any(op.primitive.name not in _PARTS for op in ops) or not shape:
            return 0
        (part,) = parts
        whole = part[:-1] == shape[:-1] and 2 <= shape[-1] // max(part[-1], 1) <= 4
        return part[-1] if whole and shape[-1] % part[-1] == 0 else 0

    @cached_property
    def states(self) -> list[Quantity]:
        """What one turn makes and the next reads, with what the first turn reads before it."""
        values = self.pull.values
        made = [
            Quantity(turns.key, self.text(refs[-1]), tuple(values[r] for r in refs), tuple(refs))
            for turns in self.loops if (refs := self.results(turns)) is not None
        ]  # fmt: skip
        return list(self._states(made))

    def is_beside(self, own: Sequence[Array], other: Sequence[Array]) -> bool:
        """True if one is a state before every turn, and the other the same state after it."""
        n = len(own)
        return any(
            len(q.arrays) == n + 1 and alike(before, q.arrays[:n]) and alike(after, q.arrays[1:])
            for q in self.states
            for before, after in ((own, other), (other, own))
        )

    def _states(self, made: Sequence[Quantity]) -> Iterator[Quantity]:
        known: set[Any] = set()
        values = self.pull.values
        for turns in self.loops:
            for j in range(len(self.op(turns).ins)):
                refs = [self.graph.ops[k].ins[j] for k in turns.ops]
                read = [np.asarray(self.graph.read(values, ref)) for ref in refs]
                for q in made:
                    one_each = 1 < len(q.arrays) == turns.steps and q.key not in known
                    if one_each and all(map(np.array_equal, q.arrays[1:], q.arrays)):
                        continue  # a parameter
                    if one_each and alike(read[1:], q.arrays[:-1]):
                        known.add(q.key)
                        text = self._names.operand(turns.ops[-1], j)
                        text = text or f"{q.text} of the step before"
                        yield Quantity((*q.key, "state"), text, (read[0], *q.arrays), q.refs)

    @cached_property
    def constants(self) -> list[tuple[Any, str, Array]]:
        """Inputs and what is made of them outside of loops: key, name, value."""
        found: list[tuple[Any, str, Array]] = []
        for i, ref in enumerate(self.graph.inputs):
            if self.graph.floats[ref]:
                found.append((("input", i), self.text(ref), self.pull.values[ref]))
        for turns in self.turns:
            refs = self.results(turns) if len(turns.ops) == 1 else None
            if refs:
                found.append((turns.key, self.text(refs[0]), self.pull.values[refs[0]]))
        return found


def alike(some: Sequence[Array], others: Sequence[Array]) -> bool:
    """True if they are equal, to the precision of a buffer in float32."""
    pairs = list(zip(some, others, strict=True))
    return all(a.shape == b.shape and np.allclose(a, b, 1e-6, 1e-12) for a, b in pairs)


def _nothing(shape: tuple[int, ...]) -> EdgeChange:
    return lambda adjoint, _: np.zeros(shape)


def _lengths(example: FailingExample) -> dict[str, int]:
    """How many turns a loop may have: the time axis first, then every other but the batch."""
    signature, case = example.run.subject.traits.signature, example.problem.case
    if signature is None:
        return {"T": case.T}
    sizes = dict(case.letters)
    order = dict.fromkeys([signature.time, *sizes])
    return {x: sizes[x] for x in order if x in sizes and x != signature.batch}


def _distinct(quantities: Sequence[Quantity]) -> Iterator[Quantity]:
    """Each once, under the best of its names."""
    seen: set[Any] = set()
    for q in quantities:
        content = (q.arrays[0].shape, *(a.tobytes() for a in q.arrays))
        if content not in seen:
            seen.add(content)
            yield q


_LONGEST = 40

Span = tuple[int | None, ...]


class SourceNames:
    """Names of values, from the places in the source at which they were made.

    Args:
        graph: the graph; of the turns of a loop the last one is named.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._files: dict[str, tuple[dict[Span, str], dict[Span, ast.expr]]] = {}
        # An expression may take several operations: the last one has its value.
        self._last: dict[tuple[Stand, ...], int] = {}
        self._callers: dict[tuple[str, int], set[tuple[Stand, ...]]] = {}
        for k, op in enumerate(graph.ops):
            for i, stand in enumerate(op.calls):
                self._last[op.calls[i:]] = k
                self._callers.setdefault((stand.file, stand.first), set()).add(op.calls[i + 1 :])

    def variable(self, k: int) -> str:
        """The variable that the result of an operation is assigned to, or ``""``."""
        names = (self._file(stand.file)[0].get(stand.span) for stand in self._whole(k))
        return next(filter(None, names), "")

    def where(self, k: int) -> str:
        """The line, ``"cell.py:12: h = tanh(z)"``; of a helper of several callers, the call."""
        for stand in self._graph.ops[k].calls:
            if len(self._callers[stand.file, stand.first]) == 1 and stand.span[0]:
                text = linecache.getline(stand.file, stand.span[0]).strip()
                return f"{Path(stand.file).name}:{stand.span[0]}: {text}"
        return self._graph.ops[k].where

    def _whole(self, k: int) -> list[Stand]:
        """The expressions whose value it makes, the innermost first."""
        calls = self._graph.ops[k].calls
        return [s for i, s in enumerate(calls) if self._last[calls[i:]] == k]

    def of(self, k: int) -> str:
        """That variable, else its expression."""
        name = self.variable(k)
        if name:
            return name
        op = self._graph.ops[k]
        for stand in self._whole(k)[:1]:
            node = self._file(stand.file)[1].get(stand.span)
            if node is not None:
                return _short(node)
        stand = op.calls[0] if op.calls else None
        node = self._file(stand.file)[1].get(stand.span) if stand else None
        return f"a part of {_short(node)}" if node is not None else f"a part of {op.where}"

    def operand(self, k: int, j: int) -> str:
        """An operand of a sum, product or quotient as it stands in the source, or ``""``."""
        op = self._graph.ops[k]
        if not op.calls or self._last[op.calls] != k or len(op.ins) != 2:
            return ""
        node = self._file(op.calls[0].file)[1].get(op.calls[0].span)
        parts = list(_operands(node))
        return _short(parts[j]) if len(parts) == 2 else ""

    def _file(self, file: str) -> tuple[dict[Span, str], dict[Span, ast.expr]]:
        if file not in self._files:
            self._files[file] = _read(file)
        return self._files[file]


def _read(file: str) -> tuple[dict[Span, str], dict[Span, ast.expr]]:
    """By place: the target of each assigned expression, and every expression."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return {}, {}
    targets: dict[Span, str] = {}
    nodes: dict[Span, ast.expr] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.expr):
            nodes[_span(node)] = node
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            for target, value in _pairs(node.targets[0], node.value):
                targets[_span(value)] = ast.unparse(target)
    return targets, nodes


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    both = (target, value)
    if all(isinstance(one, ast.Tuple | ast.List) for one in both):
        a: list[ast.expr] = target.elts  # type: ignore[attr-defined]
        b: list[ast.expr] = value.elts  # type: ignore[attr-defined]
        yield from zip(a, b, strict=False)
    elif not isinstance(target, ast.Tuple | ast.List):
        yield target, value


def _operands(node: Any) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp):
        yield node.left
        yield node.right
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.keywords:
        if node.func.attr in ("dot", "matmul") and len(node.args) == 1:
            yield node.func.value
        if node.func.attr in ("dot", "matmul"):
            yield from node.args


def _span(node: ast.expr) -> Span:
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset


def _short(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
