"""The expected adjoint beside what the user wrote, term by term.

The step is differentiated and written as NumPy. Its backward pass and the user's are run on one
problem. The first adjoint, in reverse order, of which the user has a variable of the same name with
other numbers is the one at fault, if with the right numbers in its place a wrong gradient becomes
right. Terms are compared by their values, so that names and order do not matter.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import D_X, Block, d_param, of_state
from bpttcheck.diagnose.user_rule import (
    UserRule,
    WrittenSum,
    evaluated,
    factors,
    product,
    with_variables,
)
from bpttcheck.errors import BpttcheckError
from bpttcheck.oracles.step_source.backward import Adjoint, GivenCotangent
from bpttcheck.oracles.step_source.python_text import Python
from bpttcheck.oracles.step_source.recording import Value
from bpttcheck.oracles.step_source.terms import Term
from bpttcheck.oracles.step_source.traces import traced
from bpttcheck.oracles.step_source.writing import Writer, compiled
from bpttcheck.problems.problem import Problem
from bpttcheck.problems.step_points import step_points
from bpttcheck.results.records import Expected, Finding
from bpttcheck.subject.filled import unfilled

_NEAR = 1e-9
_SEED = 3
_MOST_PARTS = 7
_D_STATE = Block("d_previous_state")


def with_expected(target: Any, findings: Sequence[Finding]) -> list[Finding]:
    """The findings about one step, each with the expected expression where it is certain.

    Args:
        target: the cell.
        findings: what is wrong with its ``step_vjp``.
    """
    try:
        return list(_with_expected(unfilled(target), findings))
    except BpttcheckError:
        return list(findings)  # the step cannot be written out, or the rule has no source
    except Exception:
        # An explanation that fails must not hide the finding that it explains.
        if os.environ.get("BPTTCHECK_DEBUG"):
            raise
        return list(findings)


def _with_expected(cell: Any, findings: Sequence[Finding]) -> Iterator[Finding]:
    sides = _Sides(cell, [f.problem for f in findings if f.problem is not None])
    for finding in findings:
        said = sides.expected(Block(finding.block))
        yield finding if said is None else replace(finding, expected=said)


@dataclass(frozen=True)
class _Point:
    state: Any
    args: tuple[Any, Any, Any, Any]
    right: dict[str, Any]
    ours: dict[str, Any]
    wrong: dict[str, Any]
    theirs: dict[str, Any]

    @property
    def blocks(self) -> list[str]:
        """The gradients that differ."""
        return [key for key, value in self.right.items() if not _same(value, self.wrong.get(key))]


class _Sides:
    """Both backward passes at a point."""

    def __init__(self, cell: Any, problems: Sequence[Problem]) -> None:
        points = step_points(cell)
        self._writer = Writer(cell, traced(cell, points))
        self._rule = UserRule(cell)
        self._function = compiled(cell, self._writer.source([]))
        self._cell = cell
        self._point = next(filter(None, self._points(points[0], problems)), None)
        self._found: tuple[Adjoint, WrittenSum] | None = None
        self._mended: list[str] = []
        if self._point is not None:
            self._find(self._point)

    def _points(self, first: Any, problems: Sequence[Problem]) -> Iterator[_Point | None]:
        """A generic point, and those of the findings: the first at which they differ."""
        rng = np.random.default_rng(_SEED)

        def drawn(leaf: Any) -> Any:
            real = np.issubdtype(leaf.dtype, np.floating)
            return rng.standard_normal(leaf.shape) if real else leaf

        params, state, x = first
        for _ in range(2):
            x = rng.standard_normal(x.shape)
            state = self._cell.step(params, state, x)[0]
        new, y, _ = self._cell.step(params, state, x)
        given = trees.map_leaves(drawn, trees.map_leaves(np.asarray, new)), drawn(np.asarray(y))
        yield self._at(params, state, x, *given)
        for problem in problems:
            if problem.xs.shape[0] == 1:
                yield self._at(
                    problem.params, problem.state0, problem.xs[0], problem.d_state, problem.d_ys[0]
                )

    def _at(self, params: Any, state: Any, x: Any, d_state: Any, d_y: Any) -> _Point | None:
        cache = self._cell.step(params, state, x)[2]
        args = (params, cache, d_state, d_y)
        own = (self._cell,) if self._rule.bound else ()
        function = self._function
        right, ours = with_variables(function.__code__, function, (*own, *args))
        wrong, theirs = self._rule.run(*own, *args)
        point = _Point(state, args, _blocks(right, state), ours, _blocks(wrong, state), theirs)
        return point if point.blocks else None

    def _find(self, point: _Point) -> None:
        """The adjoint at fault: the first whose variable differs and mends a gradient."""
        inputs = set(self._writer.backward.inputs.values())
        own = (self._cell,) if self._rule.bound else ()
        for adjoint in self._writer.backward.adjoints:
            if adjoint in inputs:
                return
            name = self._writer.name(adjoint)
            a, u = point.ours.get(name), point.theirs.get(name)
            alike = isinstance(u, np.ndarray) and isinstance(a, np.ndarray) and u.shape == a.shape
            if not alike or _same(a, u):
                continue
            written = self._rule.variable(name)
            if written is None:
                return
            again = _blocks(self._rule.corrected(name, a, *own, *point.args), point.state)
            mended = [key for key in point.blocks if _same(again.get(key), point.right[key])]
            if mended:
                self._found, self._mended = (adjoint, written), mended
                return

    def expected(self, block: Block) -> Expected | None:
        """What is expected for a block that is wrong."""
        point = self._point
        if point is None or block not in point.blocks:
            return None
        if self._found is not None and block in self._mended:
            return self._said(point, *self._found)
        adjoint = self._adjoint_of(block)
        written = self._rule.result(block)
        return None if adjoint is None else self._said(point, adjoint, written)

    def _adjoint_of(self, block: Block) -> Adjoint | None:
        backward = self._writer.backward
        first = self._writer.scene.traced.first
        named = {d_param(key): v for key, v in first.params.items()}
        named |= dict(of_state(_D_STATE, first.structure.unflatten(first.state),
                               first.structure.unflatten(first.state)).items())  # fmt: skip
        named[D_X] = first.x
        value = named.get(block)
        return None if value is None else backward.inputs.get(value)

    def _said(self, point: _Point, adjoint: Adjoint, written: WrittenSum | None) -> Expected | None:
        text = _Text(self._writer, self._rule, point)
        target = self._writer.name(adjoint) if written is None else written.target
        formula = f"{target} = {text.of(adjoint.whole)}"
        if adjoint.scattered or adjoint.cleared:
            return None
        difference = "" if written is None else _Comparison(text, adjoint, written).sentence()
        if not difference and not text.is_at_hand(adjoint):
            return None  # something that it is made of is wrong, or has no name
        where = "" if written is None else written.where
        return Expected(formula, where, difference)


class _Text:
    """Expressions in the user's own names where they have the values, and their values."""

    def __init__(self, writer: Writer, rule: UserRule, point: _Point) -> None:
        self._writer, self._point = writer, point
        self.rule = rule
        self._python = Python(self._called, writer.scene.function, writer.at_hand.shape)
        self._plain = Python(writer.called, writer.scene.function, writer.at_hand.shape)

    def of(self, term: Term, at_least: int = 0) -> str:
        """The source in the user's names."""
        return self._python.text(term, at_least)

    def value(self, term: Term) -> Any:
        """The value of an expression of ours."""
        tree = ast.parse(self._plain.text(term), mode="eval").body
        return evaluated(tree, self.rule.variables | {"np": np}, self._point.ours)

    def user_value(self, node: ast.expr) -> Any:
        """The value of an expression of the user."""
        return evaluated(node, self.rule.variables, self._point.theirs)

    def is_at_hand(self, adjoint: Adjoint) -> bool:
        """True if the user has a variable with the values of everything that it is made of."""
        return all(
            self._same_name(what) is not None
            for term, _ in adjoint.parts for what in term.refs()
            if isinstance(what, (Adjoint, GivenCotangent))
        )  # fmt: skip

    def _called(self, what: Any) -> str | Term:
        called = self._writer.called(what)
        if isinstance(called, Term) or (isinstance(what, Value) and called.endswith("]")):
            return called
        return self._same_name(what) or called

    def _same_name(self, what: Any) -> str | None:
        """The user's variable with the value of ours: of the same name, if there is one."""
        called = self._writer.called(what)
        assert isinstance(called, str)
        tree = ast.parse(called, mode="eval").body
        own = evaluated(tree, self.rule.variables, self._point.ours)
        theirs = self._point.theirs
        if called in theirs and _same(theirs[called], own):
            return called
        if own is None:
            return None
        for name, value in theirs.items():
            if isinstance(value, np.ndarray) and _same(value, own):
                return name
        path = evaluated(tree, self.rule.variables, theirs)
        return called if path is not None and _same(path, own) else None


class _Comparison:
    """The terms of an adjoint and those that the user wrote, matched by their values."""

    def __init__(self, text: _Text, adjoint: Adjoint, written: WrittenSum) -> None:
        self._text = text
        self._ours = [term for term, _ in adjoint.parts]
        self._terms = list(written.terms)
        self._total = text.value(adjoint.whole)
        self._written = written

    def sentence(self) -> str:
        """What is missing, or what is the user's alone; ``""`` where that is not certain."""
        values = [self._text.user_value(node) for _, node in self._terms]
        if any(not isinstance(v, (np.ndarray, float, np.generic)) for v in values):
            return ""
        signed = [sign * v for (sign, _), v in zip(self._terms, values, strict=True)]
        own = [self._text.value(term) for term in self._ours]
        if len(own) > _MOST_PARTS or any(v is None for v in own):
            return ""
        left, alone = self._unmatched(own, signed)
        if left and not alone:
            parts = [self._signed(self._ours[k]) for k in left]
            return f"yours lacks `{' '.join(parts)}`"
        if alone and not left:
            parts = [_signed(*self._terms[k]) for k in alone]
            return f"`{' '.join(parts)}` is yours alone"
        if len(alone) == 1 and left:
            return self._in_one_term(own, left, alone[0], signed[alone[0]])
        return ""

    def _signed(self, term: Term) -> str:
        minus = term.head == "neg"
        return ("- " if minus else "+ ") + self._text.of(term.args[0] if minus else term, 4)

    def _unmatched(self, own: list[Any], theirs: list[Any]) -> tuple[list[int], list[int]]:
        """The numbers of the terms that have no counterpart, ours and the user's."""
        left, alone = list(range(len(own))), []
        for k, value in enumerate(theirs):
            fits = (
                some
                for size in range(1, len(left) + 1)
                for some in combinations(left, size)
                if _same(sum(own[j] for j in some), value)
            )
            some = next(fits, None)
            if some is None:
                alone.append(k)
            else:
                left = [j for j in left if j not in some]
        return left, alone

    def _in_one_term(self, own: list[Any], left: list[int], k: int, value: Any) -> str:
        """A factor too few, too many, or another one, in one term."""
        wanted = sum(own[j] for j in left)
        sign, node = self._terms[k]
        if _same(wanted, -value):
            return f"`{ast.unparse(node)}` has the other sign in yours"
        user = factors(node)
        fewer = {
            j: sign * part
            for j in range(len(user))
            if (part := self._text.user_value(product(user[:j] + user[j + 1 :]))) is not None
        }
        for j, part in fewer.items():
            if len(user) > 1 and _same(wanted, part):
                return f"`* {_factor(user[j])}` is yours alone"
        if len(left) > 1:
            return ""
        term = self._ours[left[0]]
        minus = term.head == "neg"
        term = term.args[0] if minus else term
        if term.head != "mul":
            return ""
        for j, factor in enumerate(term.args):
            rest = self._product([*term.args[:j], *term.args[j + 1 :]], minus)
            if rest is None:
                continue
            if _same(rest, value):
                return f"yours lacks `* {self._text.of(factor, 5)}`"
            for i, part in fewer.items():
                if len(user) > 1 and _same(rest, part):
                    belongs = self._text.of(factor, 5)
                    return f"yours has `* {_factor(user[i])}` where `* {belongs}` belongs"
        return ""

    def _product(self, parts: Sequence[Term], minus: bool) -> Any:
        values = [self._text.value(part) for part in parts]
        if any(v is None for v in values):
            return None
        made: Any = -1.0 if minus else 1.0
        for v in values:
            made = made * v
        return made


def _factor(node: ast.expr) -> str:
    text = ast.unparse(node)
    return f"({text})" if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.Pow) else text


def _signed(sign: int, node: ast.expr) -> str:
    return f"{'+' if sign > 0 else '-'} {ast.unparse(node)}"


def _blocks(gradients: Any, state: Any) -> dict[str, Any]:
    """The gradients by block."""
    d_params, d_state, d_x = gradients
    found: dict[str, Any] = {d_param(key): value for key, value in d_params.items()}
    found |= of_state(_D_STATE, d_state, state)
    found[D_X] = d_x
    return found


def _same(a: Any, b: Any) -> bool:
    """True for arrays that are equal up to rounding."""
    if a is None or b is None or np.shape(a) != np.shape(b):
        return False
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind not in "fciub" or b.dtype.kind not in "fciub" or a.size == 0:
        return False
    scale = max(float(np.max(np.abs(a))), float(np.max(np.abs(b))))
    return bool(np.max(np.abs(a - b)) <= _NEAR * scale) if np.isfinite(scale) else False
