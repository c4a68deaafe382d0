"""A ``step_vjp`` in two parts, each with the statements of the source that it needs.

A backward slice: from the ``return`` upward, a statement is kept if it defines a name that is read
below, or changes an array that may be one of these. What was written is run, nothing else.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bpttcheck.errors import Declined
from bpttcheck.mutants.source.reading import Method, read

_D_PARAMS, _D_STATE, _D_X = range(3)
# What makes a new array, or a new container, whatever it is given.
_FRESH_NODES = (
    ast.BinOp, ast.UnaryOp, ast.Compare, ast.Constant, ast.Dict, ast.DictComp, ast.List,
    ast.ListComp, ast.JoinedStr,
)  # fmt: skip
_FRESH_CALLS = frozenset(
    "abs add copy concatenate cosh cumsum divide dot einsum empty empty_like exp full full_like"
    " hstack log log1p logaddexp matmul maximum mean minimum multiply negative ones ones_like outer"
    " power prod reciprocal sign sin sinh sqrt square stack subtract sum tanh tensordot vstack"
    " where zeros zeros_like".split()
)
_ALWAYS = (ast.Raise, ast.Assert, ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal)


@dataclass(frozen=True)
class Slices:
    """A ``step_vjp`` in two parts, with its arguments ``(params, cache, d_state, d_y)``.

    Args:
        flowing: returns ``d_previous_state``.
        summed: returns ``(d_params, d_x)``.
        text: the source of ``flowing``.
    """

    flowing: Callable[..., Any]
    summed: Callable[..., Any]
    text: str


def slices(cell: Any) -> Slices:
    """Both parts of ``cell.step_vjp``.

    Raises:
        Declined: there is no source that says what runs, or it does not end with one
            ``return d_params, d_state, d_x``.
    """
    method = read(cell)
    flowing = _sliced(method.tree, (_D_STATE,))
    summed = _sliced(method.tree, (_D_PARAMS, _D_X))
    return Slices(_bound(method, flowing, cell), _bound(method, summed, cell), ast.unparse(flowing))


def _bound(method: Method, tree: ast.FunctionDef, cell: Any) -> Callable[..., Any]:
    return method.bind(method.compile(tree, f"<a part of {method.function.__qualname__}>"), cell)


def _sliced(whole: ast.FunctionDef, parts: Sequence[int]) -> ast.FunctionDef:
    """A copy that returns these of its three results."""
    tree = copy.deepcopy(whole)
    *body, last = tree.body
    returns = [node for node in _of_itself(tree) if isinstance(node, ast.Return | ast.Yield)]
    value = last.value if isinstance(last, ast.Return) and returns == [last] else None
    if not isinstance(value, ast.Tuple) or len(value.elts) != 3:
        raise Declined(
            "step_vjp does not end with its only return of three results",
            where=f"line {returns[0].lineno if returns else whole.lineno}",
            remedy="return d_params, d_state, d_x",
        )
    kept = [value.elts[part] for part in parts]
    result = ast.Return(kept[0] if len(kept) == 1 else ast.Tuple(kept, ast.Load()))
    given = {argument.arg for argument in ast.walk(tree.args) if isinstance(argument, ast.arg)}
    needed, _ = _Slice(tree, given).block(_apart(body), _loaded(result))
    tree.body = [*needed, ast.copy_location(result, last)]
    return tree


class _Slice:
    """Which statements of one function are needed.

    Args:
        tree: the function.
        given: its parameters: by the contract nothing that is passed in is changed, so that what
            is taken from them is one's own.
    """

    def __init__(self, tree: ast.FunctionDef, given: set[str]) -> None:
        self._local = _stored(tree) - given
        self._one_of: dict[str, str] = {}
        for node in list(ast.walk(tree))[1:]:
            for names in _sharing(node, self._local):
                self._join(names & self._local)

    def block(self, body: Sequence[ast.stmt], live: set[str]) -> tuple[list[ast.stmt], set[str]]:
        """What is needed of ``body`` for the names ``live`` after it, and for which before it."""
        needed: list[ast.stmt] = []
        for statement in reversed(body):
            kept, live = self._statement(statement, live)
            needed += kept
        return needed[::-1], live

    def _statement(self, one: ast.stmt, live: set[str]) -> tuple[list[ast.stmt], set[str]]:
        if isinstance(one, ast.Assign | ast.AnnAssign) and one.value is not None:
            return self._assignment(one, live)
        if isinstance(one, ast.If):
            return self._branch(one, live)
        if isinstance(one, ast.For) and not _leaves_early(one):
            return self._loop(one, live)
        if isinstance(one, ast.With):
            body, before = self.block(one.body, live)
            heads = set[str]().union(*map(_loaded, one.items))
            return self._with(one, before | heads, body=body) if body else ([], live)
        if isinstance(one, ast.AugAssign):
            needed = self._changes(_names(one.target), live)
        elif isinstance(one, ast.FunctionDef):
            needed = one.name in live
        elif isinstance(one, ast.Delete | ast.Pass | ast.AnnAssign) or _is_text(one):
            needed = False
        else:
            needed = isinstance(one, _ALWAYS) or self._changes(_written(one), live)
        return ([one], live | _names(one)) if needed else ([], live)

    def _assignment(
        self, one: ast.Assign | ast.AnnAssign, live: set[str]
    ) -> tuple[list[ast.stmt], set[str]]:
        targets = one.targets if isinstance(one, ast.Assign) else [one.target]
        bound = {n.id for target in targets for n in _plain(target)}
        bound |= {n.target.id for n in ast.walk(one) if isinstance(n, ast.NamedExpr)}
        into = set[str]().union(*map(_loaded, targets))  # a[0] = ..., a.b = ...
        into |= _outs(one)
        if not (bound & live or (into and self._changes(into, live))):
            return [], live
        return [one], (live - bound) | _loaded(one)

    def _branch(self, one: ast.If, live: set[str]) -> tuple[list[ast.stmt], set[str]]:
        body, first = self.block(one.body, live)
        other, second = self.block(one.orelse, live)
        if not body and not other:
            return [], live
        return self._with(one, first | second | _loaded(one.test), body=body, orelse=other)

    def _loop(self, one: ast.For, live: set[str]) -> tuple[list[ast.stmt], set[str]]:
        around = live
        while True:  # what one turn reads, the turn before it may have written
            body, before = self.block(one.body, around)
            if before <= around:
                break
            around = around | before
        other, after = self.block(one.orelse, live)
        if not body and not other:
            return [], live
        return self._with(one, around | after | _loaded(one.iter), body=body, orelse=other)

    def _with(self, one: Any, live: set[str], **blocks: Any) -> tuple[list[ast.stmt], set[str]]:
        for name, block in blocks.items():
            setattr(one, name, block or ([ast.Pass()] if name == "body" else []))
        return [one], live

    def _changes(self, names: set[str], live: set[str]) -> bool:
        """True if one of ``names`` may be what a live name is, or what is not of this function."""
        if not names & self._local:
            return True
        roots = {self._root(name) for name in names & self._local}
        return any(self._root(name) in roots for name in live)

    def _root(self, name: str) -> str:
        while name in self._one_of:
            name = self._one_of[name]
        return name

    def _join(self, names: Iterable[str]) -> None:
        roots = list(dict.fromkeys(map(self._root, sorted(names))))
        for other in roots[1:]:
            self._one_of[other] = roots[0]


def _apart(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """``a, b = x, y`` as two statements, where no value reads what is bound before it."""
    found: list[ast.stmt] = []
    for one in body:
        pairs = _pairs(one)
        bound = [_names(target) for target, _ in pairs]
        if any(set[str]().union(*bound[:i]) & _names(part) for i, (_, part) in enumerate(pairs)):
            pairs = []
        found += [ast.copy_location(ast.Assign([to], part), one) for to, part in pairs] or [one]
    return found


def _pairs(one: ast.stmt) -> list[tuple[ast.expr, ast.expr]]:
    """The assignments of ``a, b = x, y``; none where it is anything else."""
    if not isinstance(one, ast.Assign) or len(one.targets) != 1:
        return []
    target, value = one.targets[0], one.value
    if not isinstance(target, ast.Tuple) or not isinstance(value, ast.Tuple):
        return []
    if len(target.elts) != len(value.elts) or len(_plain(target)) != len(target.elts):
        return []
    return list(zip(target.elts, value.elts, strict=True))


def _of_itself(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function, without those of functions inside it."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            yield node
            yield from _of_itself(node)


def _plain(target: ast.expr) -> list[ast.Name]:
    """The names that an assignment binds; not those of what it writes into."""
    if isinstance(target, ast.Name):
        return [target]
    if isinstance(target, ast.Starred):
        return _plain(target.value)
    if isinstance(target, ast.Tuple | ast.List):
        return [name for one in target.elts for name in _plain(one)]
    return []


def _names(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _loaded(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _written(statement: ast.stmt) -> set[str]:
    """The names that a statement may bind or change; of one that is a call, all in it."""
    found = _stored(statement) | _outs(statement)
    for node in ast.walk(statement):
        if isinstance(node, ast.Expr):
            found |= _names(node)
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= _names(node.value)
    return found


def _outs(node: ast.AST) -> set[str]:
    words = [n for n in ast.walk(node) if isinstance(n, ast.keyword) and n.arg == "out"]
    return set[str]().union(*map(_names, words))


def _stored(node: ast.AST) -> set[str]:
    found = {n.name for n in ast.walk(node) if isinstance(n, ast.FunctionDef) and n is not node}
    return found | {
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }


def _sharing(node: ast.AST, local: set[str]) -> Iterator[set[str]]:
    """Names of which one may afterwards be, or hold, or change what another is."""
    if isinstance(node, ast.FunctionDef):
        yield {node.name} | _names(node)
    elif isinstance(node, ast.For):
        yield from _held(node.target, node.iter, local)
    elif isinstance(node, ast.NamedExpr):
        yield from _held(node.target, node.value, local)
    elif isinstance(node, ast.Assign):
        if len(node.targets) > 1:
            yield set[str]().union(*map(_names, node.targets))
        for target in node.targets:
            yield from _held(target, node.value, local)


def _held(target: ast.expr, value: ast.expr, local: set[str]) -> Iterator[set[str]]:
    pairs = _pairs(ast.Assign([target], value))
    for one, part in pairs:
        yield from _held(one, part, local)
    if (
        not pairs and not _is_fresh(value) and _names(value) & local
    ):  # not what was given to the function
        yield _names(target) | _names(value)


def _is_fresh(value: ast.expr) -> bool:
    """True if the value shares no memory with what it is made of."""
    if isinstance(value, ast.Call) and not any(word.arg == "out" for word in value.keywords):
        called = value.func
        return isinstance(called, ast.Attribute) and called.attr in _FRESH_CALLS
    return isinstance(value, _FRESH_NODES)


def _is_text(one: ast.stmt) -> bool:
    return isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)


def _leaves_early(loop: ast.For) -> bool:
    return any(isinstance(node, ast.Break | ast.Continue) for node in ast.walk(loop))
