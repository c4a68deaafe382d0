"""The expected adjoint beside what the user wrote, term by term.

The step is differentiated and written as NumPy. Its backward pass and the user's are run on one
problem. The first adjoint, in reverse order, that mends a wrong gradient if it stands in the place
of one of the user's variables is the one at fault. Terms are compared by their values, so that
neither names nor order matter.
"""

from __future__ import annotations

import ast
import inspect
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import D_X, Block, d_param, d_previous_state, of_state
from bpttcheck.errors import BpttcheckError, Declined
from bpttcheck.oracles.step_source.backward import Adjoint
from bpttcheck.oracles.step_source.python_text import Python
from bpttcheck.oracles.step_source.recording import Value
from bpttcheck.oracles.step_source.terms import BackwardTerm, Term
from bpttcheck.oracles.step_source.traces import traced
from bpttcheck.oracles.step_source.writing import Writer, compiled
from bpttcheck.problems.problem import Problem
from bpttcheck.problems.step_points import step_points
from bpttcheck.results.records import ExpectedAdjoint, Finding
from bpttcheck.subject.filled import unfilled
from bpttcheck.subject.user_code import call

_RIGHT = "_bpttcheck_right_"


@dataclass(frozen=True)
class WrittenSum:
    """What a variable or a result is the sum of.

    Args:
        target: what is computed, ``"d_a"``.
        terms: the sign of each term, and it itself.
        where: ``"cell.py:31: d_a = d_h * (1 - h**2)"``.
        variable: True for a variable, False for an expression among the results.
    """

    target: str
    terms: tuple[tuple[int, ast.expr], ...]
    where: str
    variable: bool


class UserRule:
    """The backward pass of a cell, from its source.

    Args:
        cell: the cell.

    Raises:
        Declined: there is no source, or it is no plain function.
    """

    def __init__(self, cell: Any) -> None:
        method = cell.step_vjp
        self._function = getattr(method, "__func__", method)
        self.bound = hasattr(method, "__func__")
        code = getattr(self._function, "__code__", None)
        try:
            lines, self._first = inspect.getsourcelines(self._function)
            (tree,) = ast.parse(textwrap.dedent("".join(lines))).body
        except (OSError, TypeError, SyntaxError, ValueError):
            raise Declined("a step_vjp without a source") from None
        if code is None or code.co_freevars or not isinstance(tree, ast.FunctionDef):
            raise Declined("a step_vjp that is no plain function")
        self._code: CodeType = code
        self._lines, self._tree = lines, tree
        self._stored = [
            n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        ]
        self._loaded = [
            n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
        ]
        self._results = self._returned()

    @property
    def variables(self) -> dict[str, Any]:
        """The globals that it sees."""
        return self._function.__globals__

    def run(self, *args: Any) -> tuple[Any, dict[str, Any]]:
        """What it returns, and its variables at its end.

        Raises:
            ContractError: it raises.
        """
        return call("step_vjp", with_variables, self._code, self._function, args)

    @property
    def assigned(self) -> list[str]:
        """The variables that plain statements set, in order."""
        names = (name for node in self._tree.body for name, _ in _assigned(node))
        return list(dict.fromkeys(names))

    def corrector(self, name: str) -> Any:
        """``corrected(value, *args)``: the rule with another value for a variable, once it is set.

        Args:
            name: a variable that statements of the body set.
        """
        tree = ast.parse(ast.unparse(self._tree)).body[0]
        assert isinstance(tree, ast.FunctionDef)
        tree.decorator_list = []
        last = max(k for k, statement in enumerate(tree.body) if name in _set_by(statement))
        tree.body.insert(last + 1, ast.parse(f"{name} = {_RIGHT}.copy()").body[0])
        variables = dict(self.variables)
        module = ast.fix_missing_locations(ast.Module([tree], []))
        exec(compile(module, "<step_vjp with one value corrected>", "exec"), variables)

        def corrected(value: Any, *args: Any) -> Any:
            variables[_RIGHT] = value
            return call("step_vjp", variables[tree.name], *args)

        return corrected

    def variable(self, name: str) -> WrittenSum | None:
        """What a variable is the sum of; None if it is not set by plain statements."""
        found: list[tuple[int, ast.expr]] = []
        first: ast.stmt | None = None
        count = 0
        for node in self._tree.body:
            pairs = dict(_assigned(node))
            if name in pairs:
                found, first = list(_terms(pairs[name], 1)), node
                count += 1
            elif isinstance(node, ast.AugAssign) and _is_name(node.target, name):
                if not isinstance(node.op, (ast.Add, ast.Sub)):
                    return None
                sign = 1 if isinstance(node.op, ast.Add) else -1
                found += _terms(node.value, sign)
                count += 1
        if first is None or count != self._stored.count(name):
            return None
        return WrittenSum(name, tuple(found), self._where(first), True)

    def cotangents(self, names: Mapping[str, Any]) -> dict[str, Any]:
        """The leaves of the cotangent of the state, ``d_state[0]``, by how they are read."""
        own = self._code.co_varnames[: self._code.co_argcount][-2:]
        if len(own) < 2 or own[0] not in names:
            return {}
        state = names[own[0]]
        paths = trees.structure(state).paths
        return {own[0] + p: v for p, v in zip(paths, trees.leaves(state), strict=True) if p}

    def result(self, block: Block, *, resolve: bool = True) -> WrittenSum | None:
        """What a gradient that is returned is the sum of.

        Args:
            block: the gradient.
            resolve: of a variable that serves for nothing else, what that is the sum of.
        """
        node = self._results.get(block)
        if node is None:
            return None
        if isinstance(node, ast.Name) and resolve and self._loaded.count(node.id) == 1:
            return self.variable(node.id)
        return WrittenSum(str(block), tuple(_terms(node, 1)), self._where(node), False)

    def _where(self, node: ast.stmt | ast.expr) -> str:
        number = self._first + node.lineno - 1
        last = node.end_lineno if isinstance(node, ast.stmt) else node.lineno
        lines = self._lines[node.lineno - 1 : last]
        text = " ".join(line.partition("  #")[0].strip() for line in lines).rstrip(",")
        return f"{Path(self._code.co_filename).name}:{number}: {text}"

    def _returned(self) -> dict[str, ast.expr]:
        """The expressions of the gradients that are returned, by block."""
        last = self._tree.body[-1]
        value = last.value if isinstance(last, ast.Return) else None
        if not isinstance(value, ast.Tuple) or len(value.elts) != 3:
            return {}
        params, state, x = value.elts
        found: dict[str, ast.expr] = {D_X: x}
        state = self._resolved(state)
        if isinstance(state, ast.Tuple):
            found |= {d_previous_state(f"[{k}]"): part for k, part in enumerate(state.elts)}
        else:
            found[d_previous_state()] = state
        if isinstance(params, ast.Name):
            for node in self._tree.body:
                found |= dict(_items_set(node, params.id))
        params = self._resolved(params)
        if isinstance(params, ast.Dict):
            found |= dict(_items(params))
        return found

    def _resolved(self, node: ast.expr) -> ast.expr:
        """A dict or a tuple behind a variable."""
        if isinstance(node, ast.Name):
            for statement in self._tree.body:
                value = dict(_assigned(statement)).get(node.id)
                if isinstance(value, (ast.Dict, ast.Tuple)):
                    return value
        return node


def with_variables(
    code: CodeType, function: Any, args: tuple[Any, ...]
) -> tuple[Any, dict[str, Any]]:
    """What a function returns, and its variables at its end."""
    seen: dict[str, Any] = {}

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and frame.f_code is code:
            seen.update(frame.f_locals)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        with np.errstate(all="ignore"):
            result = function(*args)
    finally:
        sys.setprofile(before)
    return result, seen


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _assigned(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """The variables that a statement sets, each with its own expression."""
    if not isinstance(node, ast.Assign) or len(node.targets) != 1:
        return
    target, value = node.targets[0], node.value
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, part in zip(target.elts, value.elts, strict=False):
            if isinstance(one, ast.Name):
                yield one.id, part


def _set_by(node: ast.stmt) -> set[str]:
    return {
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }


def _items(node: ast.Dict) -> Iterator[tuple[str, ast.expr]]:
    for key, value in zip(node.keys, node.values, strict=True):
        if isinstance(key, ast.Constant):
            yield d_param(key.value), value


def _items_set(node: ast.stmt, name: str) -> Iterator[tuple[str, ast.expr]]:
    """The entries of a dict that a statement sets: ``d["W"] = ...`` and ``d |= {...}``."""
    if isinstance(node, ast.AugAssign) and _is_name(node.target, name):
        if isinstance(node.value, ast.Dict):
            yield from _items(node.value)
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        target = node.targets[0]
        if _is_name(target.value, name) and isinstance(target.slice, ast.Constant):
            yield d_param(target.slice.value), node.value


def _terms(node: ast.expr, sign: int) -> Iterator[tuple[int, ast.expr]]:
    """The terms of a sum with their signs."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        yield from _terms(node.left, sign)
        yield from _terms(node.right, sign if isinstance(node.op, ast.Add) else -sign)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield from _terms(node.operand, -sign)
    else:
        yield sign, node


def factors(node: ast.expr) -> list[ast.expr]:
    """The factors of a product of entries."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return [*factors(node.left), *factors(node.right)]
    return [node]


def product(parts: list[ast.expr]) -> ast.expr:
    """The product of some factors."""
    made: ast.expr = parts[0] if parts else ast.Constant(1)
    for part in parts[1:]:
        made = ast.BinOp(made, ast.Mult(), part)
    return made


def evaluated(node: ast.expr, variables: Mapping[str, Any], names: Mapping[str, Any]) -> Any:
    """The value of an expression, or None."""
    text = ast.unparse(ast.fix_missing_locations(node))
    try:
        with np.errstate(all="ignore"):
            return eval(text, dict(variables), dict(names))
    except Exception:
        return None


_NEAR = 1e-9
_SEED = 3
_SIZES = 2  # enough to tell the sizes of a formula that is shown apart
_MOST_PARTS = 7
_MOST_VARIABLES = 12
_LONGEST = 84
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
        points = step_points(cell)[:_SIZES]
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
            state = call("step", self._cell.step, params, state, x)[0]
        new, y, _ = call("step", self._cell.step, params, state, x)
        given = trees.map_leaves(drawn, trees.map_leaves(np.asarray, new)), drawn(np.asarray(y))
        yield self._at(params, state, x, *given)
        for problem in problems:
            if problem.xs.shape[0] == 1:
                yield self._at(
                    problem.params, problem.state0, problem.xs[0], problem.d_state, problem.d_ys[0]
                )

    def _at(self, params: Any, state: Any, x: Any, d_state: Any, d_y: Any) -> _Point | None:
        cache = call("step", self._cell.step, params, state, x)[2]
        args = (params, cache, d_state, d_y)
        own = (self._cell,) if self._rule.bound else ()
        function = self._function
        right, ours = with_variables(function.__code__, function, (*own, *args))
        wrong, theirs = self._rule.run(*own, *args)
        point = _Point(state, args, _blocks(right, state), ours, _blocks(wrong, state), theirs)
        return point if point.blocks else None

    def _find(self, point: _Point) -> None:
        """The adjoint at fault: the first that, for a variable of the user, mends a gradient."""
        own = (self._cell,) if self._rule.bound else ()
        wrong = self._wrong_variables(point)
        inputs = set(self._writer.backward.inputs.values())
        for adjoint in self._writer.backward.adjoints:
            a = point.ours.get(self._writer.name(adjoint))
            if adjoint in inputs or not isinstance(a, np.ndarray):
                continue
            for name, (u, again) in wrong.items():
                if u.shape != a.shape:
                    continue
                found = _blocks(again(a, *own, *point.args), point.state)
                mended = [key for key in point.blocks if _same(found.get(key), point.right[key])]
                written = self._rule.variable(name)
                if mended and written is not None:
                    self._found, self._mended = (adjoint, written), mended
                    return

    def _wrong_variables(self, point: _Point) -> dict[str, tuple[Any, Any]]:
        """The user's variables that are no adjoint, or not that of their name, and how to mend."""
        right = self._right(point)
        found: dict[str, tuple[Any, Any]] = {}
        for name in self._rule.assigned:
            u = point.theirs.get(name)
            real = isinstance(u, np.ndarray) and u.dtype.kind in "fc"
            if not real or len(found) == _MOST_VARIABLES:
                continue
            fits = _same(u, right[name]) if name in right else _among(u, right)
            if not fits:
                found[name] = u, self._rule.corrector(name)
        return found

    def _right(self, point: _Point) -> dict[str, Any]:
        """Our adjoints by name."""
        names = [self._writer.name(adjoint) for adjoint in self._writer.backward.adjoints]
        return {name: point.ours[name] for name in names if name in point.ours}

    def expected(self, block: Block) -> ExpectedAdjoint | None:
        """What is expected for a block that is wrong."""
        point = self._point
        if point is None or block not in point.blocks:
            return None
        if self._found is not None and block in self._mended:
            return self._said(point, *self._found)
        adjoint = self._adjoint_of(block)
        written = self._rule.result(block)
        if written is not None and _among(point.theirs.get(written.target), point.ours):
            written = self._rule.result(block, resolve=False)  # it is right, for something else
        return None if adjoint is None else self._said(point, adjoint, written)

    def _adjoint_of(self, block: Block) -> Adjoint | None:
        backward = self._writer.backward
        first = self._writer.scene.traced.first
        named = {d_param(key): v for key, v in first.params.items()}
        paths = zip(first.structure.paths, first.state, strict=True)
        named |= {Block(_D_STATE + path): value for path, value in paths}
        named[D_X] = first.x
        value = named.get(block)
        return None if value is None else backward.inputs.get(value)

    def _said(
        self, point: _Point, adjoint: Adjoint, written: WrittenSum | None
    ) -> ExpectedAdjoint | None:
        if adjoint.scattered or adjoint.cleared:
            return None
        target = self._writer.name(adjoint) if written is None else written.target
        text = _Text(self._writer, self._rule, point, target)
        try:
            shown = text.of(self._writer.grouped(adjoint))
        except Declined:
            return None  # something that it is made of has other values or no name in the user's
        difference = "" if written is None else _Comparison(text, adjoint, written).sentence()
        if not difference and len(shown) > _LONGEST:
            return None
        return ExpectedAdjoint(
            f"{target} = {shown}", "" if written is None else written.where, difference
        )


def _among(value: Any, known: Mapping[str, Any]) -> bool:
    return any(_same(value, one) for one in known.values() if isinstance(one, np.ndarray))


class _Text:
    """Expressions in the user's own names where they have the values, and their values.

    Args:
        writer: our backward pass.
        rule: the user's.
        point: both at a point.
        target: what is computed: it is no operand of itself.
    """

    def __init__(self, writer: Writer, rule: UserRule, point: _Point, target: str) -> None:
        self._writer, self._point = writer, point
        self.rule, self._target = rule, target
        self._python = Python(self._called, writer.scene.function, writer.at_hand.shape)
        self._plain = Python(writer.called, writer.scene.function, writer.at_hand.shape)

    def of(self, term: Term, at_least: int = 0) -> str:
        """The source in the user's names.

        Raises:
            Declined: the user has not everything that it is made of.
        """
        return self._python.text(term, at_least)

    def value(self, term: Term) -> Any:
        """The value of an expression of ours."""
        tree = ast.parse(self._plain.text(term), mode="eval").body
        return evaluated(tree, self.rule.variables | {"np": np}, self._point.ours)

    def user_value(self, node: ast.expr) -> Any:
        """The value of an expression of the user."""
        return evaluated(node, self.rule.variables, self._point.theirs)

    def _called(self, what: Any) -> str | Term:
        """The user's variable with this value, else what it is made of."""
        called = self._writer.called(what)
        if isinstance(called, Term):
            return called
        name = self._same_name(called)
        if name:
            return name
        if isinstance(what, Adjoint) and not (what.scattered or what.cleared):
            return self._writer.grouped(what)
        term = self._writer.at_hand.again.get(what) if isinstance(what, Value) else None
        if term is None:
            raise Declined(f"no variable has the values of {called}")
        return term

    def _same_name(self, called: str) -> str:
        """The user's variable with the value of ours: of the same name, if there is one."""
        tree = ast.parse(called, mode="eval").body
        own = evaluated(tree, self.rule.variables, self._point.ours)
        theirs = {k: v for k, v in self._point.theirs.items() if k != self._target}
        if own is None:
            return ""
        if _same(evaluated(tree, self.rule.variables, theirs), own):
            return called
        theirs |= self.rule.cotangents(theirs)
        fits = [k for k, v in theirs.items() if isinstance(v, np.ndarray) and _same(v, own)]
        # Of several, none is certain: equal here, they may differ elsewhere.
        return fits[0] if len(fits) == 1 else ""


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
        if alone and left:
            return self._in_one_term(own, left, alone, sum(signed[k] for k in alone))
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

    def _in_one_term(self, own: list[Any], left: list[int], alone: list[int], value: Any) -> str:
        """A factor too few, too many, or another one, in one term."""
        wanted = sum(own[j] for j in left)
        sign, node = self._terms[alone[0]]
        if _same(wanted, -value):
            return f"yours has the wrong sign at `{ast.unparse(node)}`" if len(alone) == 1 else ""
        user = factors(node) if len(alone) == 1 else []
        fewer = {
            j: sign * part
            for j in range(len(user) if len(user) > 1 else 0)
            if (part := self._text.user_value(product(user[:j] + user[j + 1 :]))) is not None
        }
        for j, part in fewer.items():
            if _same(wanted, part):
                return f"`* {_factor(user[j])}` is yours alone"
        if len(left) > 1:
            return ""
        term = self._ours[left[0]]
        minus = term.head == "neg"
        term = term.args[0] if minus else term
        for j, factor in enumerate(term.args if term.head == "mul" else ()):
            rest = self._product([*term.args[:j], *term.args[j + 1 :]], minus)
            belongs = self._text.of(factor, 5)
            known = not any(isinstance(what, BackwardTerm) for what in factor.refs())
            if rest is None or not (known or belongs.isidentifier()):
                continue
            if _same(rest, value):
                return f"yours lacks `* {belongs}`"
            for i, part in fewer.items():
                if _same(rest, part):
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
    if not isinstance(d_params, dict):
        raise Declined("gradients of the parameters that are no dict")
    found: dict[str, Any] = {d_param(key): value for key, value in d_params.items()}
    found |= of_state(_D_STATE, d_state, state)
    found[D_X] = d_x
    return found


def _same(a: Any, b: Any) -> bool:
    """True for arrays that are equal up to rounding."""
    plain = (np.ndarray, np.generic, int, float, complex)
    if not isinstance(a, plain) or not isinstance(b, plain) or np.shape(a) != np.shape(b):
        return False
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind not in "fciub" or b.dtype.kind not in "fciub" or a.size == 0:
        return False
    scale = max(float(np.max(np.abs(a))), float(np.max(np.abs(b))))
    return bool(np.max(np.abs(a - 1.0 * b)) <= _NEAR * scale) if np.isfinite(scale) else False
