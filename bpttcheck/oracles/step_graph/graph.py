"""A traced step as a graph: operations on numbered values, each with its line and its name."""

from __future__ import annotations

import ast
import linecache
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from bpttcheck.oracles.autodiff.noise import inlined
from bpttcheck.trees import Structure

ELEMENTWISE = frozenset(
    "abs acos acosh add add_any asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type "
    "copy cos cosh digamma div erf erf_inv erfc eq exp exp2 expm1 floor ge gt integer_pow "
    "is_finite le lgamma log log1p logistic lt max min mul ne neg not or and pow reduce_precision "
    "rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan tanh".split()
)
MOVES = frozenset(
    "transpose reshape broadcast_in_dim slice squeeze convert_element_type copy expand_dims "
    "dynamic_slice gather split".split()
)
LINEAR = frozenset("neg add sub mul div convert_element_type copy add_any".split())
_PACKAGE = Path(__file__).resolve().parents[2]
_LIBRARIES = tuple(str(Path(m.__file__).resolve().parent) for m in (jax, np) if m.__file__)


@dataclass(frozen=True)
class Stand:
    """An instruction of user code.

    Args:
        file: its file.
        first: the first line of its function.
        instruction: its number in the function.
        span: of the expression: first and last line, first and last column.
    """

    file: str
    first: int
    instruction: int
    span: tuple[int | None, ...] = field(compare=False)

    @property
    def where(self) -> str:
        """The line, ``"cell.py:12: h = np.tanh(z)"``."""
        return _line_of(self.file, self.span[0] or 0)


@dataclass(frozen=True)
class Op:
    """One operation.

    Args:
        primitive: JAX's primitive.
        params: its parameters.
        ins: a number or a :class:`Fixed` for each operand.
        outs: the numbers of its results.
        line: file and number of the innermost line of user code, or None.
        calls: where user code stood, innermost first: equal in every turn of a loop.
    """

    primitive: Any
    params: dict[str, Any]
    ins: tuple[Any, ...]
    outs: tuple[int, ...]
    line: tuple[str, int] | None
    calls: tuple[Stand, ...] = ()

    @property
    def where(self) -> str:
        """The line of user code, ``"cell.py:12: h = np.tanh(z)"``, or ``""``."""
        if self.line is None:
            return ""
        return _line_of(*self.line)

    def bind(self, ins: Sequence[Any]) -> list[Any]:
        """Its results for these operands."""
        out = self.primitive.bind(*ins, **self.params)
        return list(out) if self.primitive.multiple_results else [out]


def _line_of(file: str, number: int) -> str:
    return f"{Path(file).name}:{number}: {linecache.getline(file, number).strip()}"


class Fixed:
    """An operand that does not depend on the inputs of the step."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Graph:
    """A jaxpr with its inner calls inlined: operations on numbered values.

    Args:
        jaxpr: the traced step.
        consts: the values of its constants.
    """

    def __init__(self, jaxpr: Any, consts: Sequence[Any]) -> None:
        self.ops: list[Op] = []
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.floats: dict[int, bool] = {}
        self.constant: set[int] = set()
        env: dict[Any, Any] = {}
        self.inputs = [self._new(variable) for variable in jaxpr.invars]
        self.still = {number for number in self.inputs if not self.floats[number]}
        env.update(zip(jaxpr.invars, self.inputs, strict=True))
        env.update(zip(jaxpr.constvars, map(Fixed, consts), strict=True))
        self.outputs = self._inline(jaxpr, env, None, ())

    def _new(self, variable: Any) -> int:
        number = len(self.shapes)
        self.shapes[number] = tuple(variable.aval.shape)
        self.floats[number] = bool(jnp.issubdtype(variable.aval.dtype, jnp.floating))
        return number

    def _inline(
        self,
        jaxpr: Any,
        env: dict[Any, Any],
        line: tuple[str, int] | None,
        calls: tuple[Stand, ...],
    ) -> list[Any]:
        def read(variable: Any) -> Any:
            return Fixed(variable.val) if isinstance(variable, Literal) else env[variable]

        for eqn in jaxpr.eqns:
            place, led = line or _line(eqn), calls or _calls(eqn)
            ins = tuple(read(v) for v in eqn.invars)
            inner = inlined(eqn)
            if inner is not None:
                body, consts = inner
                below = dict(zip(body.constvars, map(Fixed, consts), strict=True))
                below.update(zip(body.invars, ins, strict=True))
                outs = self._inline(body, below, place, led)
                env.update(zip(eqn.outvars, outs, strict=True))
                continue
            numbers = tuple(self._new(v) for v in eqn.outvars)
            op = Op(eqn.primitive, dict(eqn.params), ins, numbers, place, led)
            self.ops.append(op)
            moving = {op.ins[j] for j in self.moving(op)}
            if not moving:
                self.constant.update(numbers)
            elif moving <= self.still:
                self.still.update(numbers)  # made from integers of the state alone
            env.update(zip(eqn.outvars, numbers, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def run(
        self,
        leaves: Sequence[Any],
        apply: Callable[[int, Sequence[Any], Mapping[int, Any]], Sequence[Any]] | None = None,
    ) -> dict[int, Any]:
        """Every value, from the inputs.

        Args:
            leaves: the inputs.
            apply: ``apply(k, operands, values)`` stands for operation ``k``; None: itself.
        """
        values: dict[int, Any] = dict(zip(self.inputs, leaves, strict=True))
        for k, op in enumerate(self.ops):
            ins = [self.read(values, ref) for ref in op.ins]
            outs = op.bind(ins) if apply is None else apply(k, ins, values)
            values.update(zip(op.outs, outs, strict=True))
        return values

    def read(self, values: Mapping[int, Any], ref: Any) -> Any:
        """The value of an operand."""
        return ref.value if isinstance(ref, Fixed) else values[ref]

    def moving(self, op: Op) -> list[int]:
        """The operands that depend on the inputs of the step, by position."""
        return [
            j for j, ref in enumerate(op.ins) if isinstance(ref, int) and ref not in self.constant
        ]

    def uses(self) -> Counter[int]:
        """How often each value is read."""
        read = [ref for op in self.ops for ref in op.ins] + list(self.outputs)
        return Counter(ref for ref in read if isinstance(ref, int))


def edges(graph: Graph) -> list[tuple[int, int]]:
    """Operation and operand of each edge; of a chain without a fork, only the last."""
    uses = graph.uses()
    found: list[tuple[int, int]] = []
    for k, op in enumerate(graph.ops):
        floats = [j for j in graph.moving(op) if graph.floats[op.ins[j]]]
        moving = [j for j in floats if op.ins[j] not in graph.still]
        if not any(graph.floats[out] for out in op.outs):
            continue
        chained = len(moving) == 1 and len(op.outs) == 1 and uses[op.outs[0]] == 1
        if not chained or op.outs[0] in graph.outputs:
            found += [(k, j) for j in moving]
    return found


def functions(graph: Graph) -> list[tuple[int, int, int]]:
    """Operation, argument and value of each nonlinear function of one variable, to its end."""
    root: dict[int, int] = {}
    curved: dict[int, bool] = {}
    readers: dict[int, list[int]] = {}
    for k, op in enumerate(graph.ops):
        for ref in op.ins:
            if isinstance(ref, int):
                readers.setdefault(ref, []).append(k)
        moving: list[int] = [op.ins[j] for j in graph.moving(op)]
        roots = {root.get(ref, ref) for ref in moving}
        name = op.primitive.name
        for out in op.outs:
            one = len(roots) == 1 and name in ELEMENTWISE and moving
            start = next(iter(roots)) if one else out
            if one and graph.shapes[start] == graph.shapes[out]:
                root[out] = start
                bent = name not in LINEAR or len(moving) > 1
                curved[out] = bent or any(curved.get(ref, False) for ref in moving)
    made = {out: k for k, op in enumerate(graph.ops) for out in op.outs}
    found: list[tuple[int, int, int]] = []
    for v, z in root.items():
        inside = [k for k in readers.get(v, []) if any(root.get(o) == z for o in graph.ops[k].outs)]
        ends = len(inside) < len(readers.get(v, [])) or v in graph.outputs
        if ends and curved[v] and graph.floats[v] and graph.floats[z]:
            found.append((made[v], z, v))
    return found


def products(graph: Graph, parameters: int) -> list[tuple[int, int]]:
    """Matrix products and the side on which a square matrix stands.

    It is one of parameters, or one for each row of the batch.
    """
    weights: set[int] = set(graph.inputs[:parameters])
    found: list[tuple[int, int]] = []
    for k, op in enumerate(graph.ops):
        name = op.primitive.name
        if name in MOVES and op.ins and isinstance(op.ins[0], int) and op.ins[0] in weights:
            weights.update(op.outs)
        if name != "dot_general":
            continue
        for side, ref in enumerate(op.ins):
            shape = graph.shapes[ref] if isinstance(ref, int) else ()
            other = op.ins[1 - side]
            if not isinstance(other, int):
                continue
            weight = len(shape) == 2 and shape[0] == shape[1] > 1 and ref in weights
            stack = _square(shape) and _is_one_sum(op, side)
            if stack or (weight and other not in weights):
                found.append((k, side))
    return found


def turned(graph: Graph) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Operation and operand: where the operand, and where the result, is a stack of matrices.

    The matrices are square, so that their transposes have the same shape.
    """
    to, back = list[tuple[int, int]](), list[tuple[int, int]]()
    for k, op in enumerate(graph.ops):
        if len(op.outs) != 1 or not graph.floats[op.outs[0]]:
            continue
        for j in graph.moving(op):
            ref = op.ins[j]
            if not graph.floats[ref] or ref in graph.still:
                continue
            if _square(graph.shapes[ref]):
                to.append((k, j))
            if _square(graph.shapes[op.outs[0]]) and not _square(graph.shapes[ref]):
                back.append((k, j))
    return to, back


def _square(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 3 and shape[-1] == shape[-2] > 1


def _is_one_sum(op: Op, side: int) -> bool:
    """True if a product sums over one of the last two axes of an operand."""
    (contracted, batch) = op.params["dimension_numbers"]
    axes, rank = contracted[side], len(batch[side]) + 2
    return len(axes) == 1 and tuple(batch[side]) == tuple(range(rank - 2)) and axes[0] >= rank - 2


def _line(eqn: Any) -> tuple[str, int] | None:
    """File and number of the innermost line of user code that made this equation."""
    # JAX's private API serves for the line only; without a line an edit is still found.
    traceback = getattr(getattr(eqn, "source_info", None), "traceback", None)
    for frame in getattr(traceback, "frames", ()):
        if _is_the_user(frame.file_name):
            return frame.file_name, frame.line_num
    return None


def _calls(eqn: Any) -> tuple[Stand, ...]:
    """Where user code stood when it made this equation: file and instruction, innermost first."""
    traceback = getattr(getattr(eqn, "source_info", None), "traceback", None)
    if traceback is None:
        return ()
    codes, instructions = traceback.raw_frames()
    found: list[Stand] = []
    for code, at in zip(codes, instructions, strict=True):
        if _is_the_user(code.co_filename):
            found.append(Stand(code.co_filename, code.co_firstlineno, at, _spans(code)[at // 2]))
        elif found and _is_ours(code.co_filename):
            break  # who asked for the trace
    return tuple(found)


@cache
def _spans(code: Any) -> list[tuple[int | None, ...]]:
    return list(code.co_positions())


@cache
def _is_the_user(file: str) -> bool:
    path = Path(file)
    foreign = file.startswith(_LIBRARIES) or "site-packages" in path.parts
    outside = foreign and _PACKAGE not in path.parents
    return not (_is_ours(file) or outside or file.startswith("<"))


@cache
def _is_ours(file: str) -> bool:
    path = Path(file)
    return _PACKAGE in path.parents and path.parent.name != "cells"


_SIGNS = {"add": "+", "add_any": "+", "sub": "-", "mul": "*", "div": "/", "dot_general": "@"}
_WHOLE = frozenset(
    "transpose reshape broadcast_in_dim convert_element_type copy expand_dims squeeze".split()
)
_LONGEST = 40


def spelled(graph: Graph, params: Structure, state: Structure) -> dict[int, str]:
    """A text for every value: the name that it is assigned to, else its expression.

    Args:
        graph: the step.
        params: the structure of the parameters.
        state: the structure of the state.
    """
    named = dict(zip(graph.inputs, _inputs(graph, params, state), strict=True))
    named |= _assigned(graph)
    for op in graph.ops:
        texts = [_literal(ref) if isinstance(ref, Fixed) else named[ref] for ref in op.ins]
        name = op.primitive.name
        if name in MOVES:
            text = texts[0] if name in _WHOLE else f"a part of {texts[0]}"
        elif name in _SIGNS:
            text = f"({texts[0]} {_SIGNS[name]} {texts[1]})"
        else:
            text = f"{name}({', '.join(texts)})"
        for out in op.outs:
            named.setdefault(out, text if len(text) <= _LONGEST else f"a part of {op.where}")
    return named


def gradient_of(text: str) -> str:
    """The name of the gradient of a value."""
    plain = text.partition("[")[0].isidentifier()
    return f"d_{text}" if plain else f"the gradient of {text}"


def _inputs(graph: Graph, params: Structure, state: Structure) -> list[str]:
    plain = [path.strip(".[]'") for path in state.paths]
    states = [
        text if text.isidentifier() else f"state{path}"
        for text, path in zip(plain, state.paths, strict=True)
    ]
    own, x = _arguments(graph)
    if own and len(own) == len(states):
        states = own
    return [*(path.strip("[]'") for path in params.paths), *states, x]


def _arguments(graph: Graph) -> tuple[list[str], str]:
    """The names in ``step`` of the leaves of its state, if it unpacks them, and of its input."""
    step = _method(graph)
    names = [arg.arg for arg in step.args.args] if step else []
    if step is None or len(names) < 3:
        return [], "x"
    own = [names[-2]]
    for node in ast.walk(step):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            unpacked = _targets(ast.unparse(node))
            if node.value.id == names[-2] and isinstance(node.targets[0], ast.Tuple | ast.Name):
                own = list(unpacked)
    return own, names[-1]


def _method(graph: Graph) -> ast.FunctionDef | None:
    """The function ``step`` around a line of the traced step."""
    lines = {op.line for op in graph.ops if op.line}
    for file in dict.fromkeys(file for file, _ in sorted(lines)):
        try:
            tree = ast.parse("".join(linecache.getlines(file)))
        except (SyntaxError, ValueError):
            continue
        numbers = {number for other, number in lines if other == file}
        for node in ast.walk(tree):
            if not (isinstance(node, ast.FunctionDef) and node.name == "step"):
                continue
            if not numbers.isdisjoint(range(node.lineno, (node.end_lineno or 0) + 1)):
                return node
    return None


def _assigned(graph: Graph) -> dict[int, str]:
    """The names on the left of a line, for the values that the line makes last."""
    lines: dict[str, list[int]] = {}
    for op in graph.ops:
        lines.setdefault(op.where, []).extend(op.outs)
        for caller in op.calls[1:]:  # the line that a helper was called in
            lines.setdefault(caller.where, []).extend(op.outs)
    found: dict[int, str] = {}
    for where, made in lines.items():
        names = _targets(where.partition(": ")[2])
        like = graph.shapes[made[-1]]
        last = made[-len(names) :] if names else []
        if len(last) == len(names) and all(graph.shapes[ref] == like for ref in last):
            found.update(zip(last, names, strict=True))
    return found


def _targets(line: str) -> Sequence[str]:
    try:
        (statement,) = ast.parse(line).body
    except (SyntaxError, ValueError):
        return ()  # a part of a longer statement
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return ()
    target = statement.targets[0]
    several = isinstance(target, ast.Tuple | ast.List)
    parts = target.elts if several else [target]
    # The values of a tuple on the right are computed in turn, each by several operations.
    if several and isinstance(statement.value, ast.Tuple | ast.List):
        return ()
    names = [part.id for part in parts if isinstance(part, ast.Name)]
    return names if len(names) == len(parts) else ()


def _literal(ref: Fixed) -> str:
    value = np.asarray(ref.value)
    return f"{value:g}" if value.ndim == 0 and value.dtype.kind in "fiu" else "a constant"
