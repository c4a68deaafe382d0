"""What a wrong node may have to become: the catalogue of planted bugs, read backwards.

Each rule undoes an operator of :mod:`bpttcheck.mutants.source`: where that one leaves a factor out,
the rule puts one in. Operators that undo themselves (a sign, a swap) are taken as they are.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from itertools import combinations, product
from typing import Any

import numpy as np

from bpttcheck.mutants.source.edits import OPERATORS
from bpttcheck.mutants.source.expressions import (
    Part,
    called,
    is_product,
    is_sum,
    negated,
    summed,
)
from bpttcheck.mutants.source.expressions import terms as parts_of
from bpttcheck.mutants.source.operators import Site
from bpttcheck.remedy.fit import PlaceFit
from bpttcheck.remedy.patch import two
from bpttcheck.remedy.vocabulary import Vocabulary, Word

Node = ast.expr | ast.stmt | ast.Module | None
_CLOSE = 1e-6
_LEAVES = (ast.Name, ast.Attribute, ast.Subscript)


def of_the_catalogue(site: Site, _: Vocabulary, _fit: PlaceFit | None) -> Iterator[Node]:
    """What an operator of the catalogue makes of it: most undo themselves."""
    for operator in OPERATORS:
        for change in operator.changes(site):
            new: Any = change.new
            yield new


def small(site: Site, words: Vocabulary, _fit: PlaceFit | None) -> Iterator[Node]:
    """Another name, a sign, a power, a constant, an axis, a transposition, a function."""
    node = site.node
    if isinstance(node, ast.Assign):
        yield from _added_up(node, site)
    if not isinstance(node, ast.expr) or _written(site):
        return
    if isinstance(node, ast.Constant):
        yield from _constants(node, words)
    if isinstance(node, _LEAVES):
        yield from (word.node for word in words.words)
    if isinstance(node, ast.Dict):
        for j, k in combinations(range(len(node.values)), 2):
            values = list(node.values)
            values[j], values[k] = values[k], values[j]
            yield ast.Dict(node.keys, values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        yield from _products(node)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from _subscripts(node, site.parent)
    if isinstance(node, ast.Call) and called(node) == "mean":
        yield from _summed(node)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield ast.BinOp(ast.Constant(1.0), ast.Sub(), node.operand)
    if isinstance(node, ast.Name) and any(isinstance(a, ast.Subscript) for a in site.path[:-1]):
        for sign in (ast.Add(), ast.Sub()):
            yield ast.BinOp(node, sign, ast.Constant(1))
    known = words.evaluated(node)
    if known is None or not known.shape:
        return
    yield negated(node)
    rows = ast.Attribute(node, "sum", ast.Load())
    if len(known.shape) >= 2:
        yield ast.Call(rows, [], [ast.keyword("axis", ast.Constant(0))])
        yield ast.Attribute(node, "T", ast.Load())
    if isinstance(node, ast.Subscript):
        whole = ast.Attribute(node.value, "sum", ast.Load())
        yield ast.Call(whole, [], [ast.keyword("axis", ast.Constant(0))])
    if not known.cotangent:
        yield ast.BinOp(node, ast.Pow(), ast.Constant(2))
        yield ast.BinOp(ast.Constant(1.0), ast.Sub(), node)
        yield from (ast.Call(function, [node], []) for function in words.functions())


def factors(site: Site, words: Vocabulary, fit: PlaceFit | None) -> Iterator[Node]:
    """One more factor: an array, a slope, a difference, a number."""
    known = None if is_product(site.parent) else _host(site, words)
    if known is None:
        return
    cotangents = () if known.cotangent else words.cotangents
    for word in (*words.values, *words.slopes, *cotangents, *words.differences):
        if not _fits(word.shape, known.shape):
            continue
        if fit is None or fit.is_mended_by(known.value * word.value - known.value):
            yield ast.BinOp(known.node, ast.Mult(), word.node)
    if is_sum(known.node):
        yield from _in_a_term(known, words, fit)
    more = 1.0 if fit is None else fit.times(known.value)
    if more is not None:
        yield from _multiplied(known.node, more + 1.0, words)


def _in_a_term(known: Word, words: Vocabulary, fit: PlaceFit | None) -> Iterator[Node]:
    """A cotangent as a factor of one term of a sum, which may have fewer axes than the sum."""
    parts = parts_of(known.node)
    for k, part in enumerate(parts):
        own = words.evaluated(part.node)
        if own is None or own.cotangent or own.shape == known.shape:
            continue
        for word in words.cotangents:
            if word.shape != known.shape or not _fits(own.shape, word.shape):
                continue
            sign = -1.0 if part.inverse else 1.0
            if fit is None or fit.is_mended_by(sign * (own.value * word.value - own.value)):
                product_of_both = ast.BinOp(word.node, ast.Mult(), part.node)
                yield summed([*parts[:k], Part(product_of_both, part.inverse), *parts[k + 1 :]])


def terms(site: Site, words: Vocabulary, fit: PlaceFit | None) -> Iterator[Node]:
    """One more term: a cotangent, times an array, times a slope; or a matrix product."""
    known = None if is_sum(site.parent) else _host(site, words)
    if known is None or not known.cotangent:
        return
    for added, value in _terms(known.shape, words, deep=fit is not None):
        if fit is None:
            yield ast.BinOp(known.node, ast.Add(), added)
            yield ast.BinOp(known.node, ast.Sub(), added)
            continue
        number = fit.times(value)
        if number is None:
            continue
        sign = ast.Add() if number > 0 else ast.Sub()
        if abs(abs(number) - 1.0) < _CLOSE:
            yield ast.BinOp(known.node, sign, added)
            continue
        for new in _multiplied(added, abs(number), words):
            yield ast.BinOp(known.node, sign, new)


def _multiplied(node: ast.expr, number: float, words: Vocabulary) -> Iterator[ast.expr]:
    """A value times a number: a variable, a size, one minus or one over it, a short decimal."""
    for word in words.scalars:
        value = float(word.value)
        if abs(value - number) < _CLOSE * abs(number):
            yield ast.BinOp(word.node, ast.Mult(), node)
        if value and abs(1.0 / value - number) < _CLOSE * abs(number):
            yield ast.BinOp(node, ast.Div(), word.node)
        if abs(1.0 - value - number) < _CLOSE * abs(number):
            yield ast.BinOp(ast.BinOp(ast.Constant(1.0), ast.Sub(), word.node), ast.Mult(), node)
    short = float(f"{number:.4g}")
    if abs(short - number) < _CLOSE * abs(number) and abs(short - 1.0) > _CLOSE:
        yield ast.BinOp(ast.Constant(short), ast.Mult(), node)


Term = tuple[ast.expr, Any]
"""An expression and its value."""


def _terms(shape: tuple[int, ...], words: Vocabulary, deep: bool) -> Iterator[Term]:
    alike = [w for w in words.cotangents if w.shape == shape]
    yield from ((w.node, w.value) for w in alike)
    values = [w for w in words.values if w.shape and _fits(w.shape, shape)]
    slopes = [w for w in words.slopes if _fits(w.shape, shape)]
    for c, v in product(alike, [*values, *slopes]):
        yield ast.BinOp(c.node, ast.Mult(), v.node), c.value * v.value
    yield from _matrix_terms(shape, words)
    for c, v, s in product(alike, values, slopes) if deep else ():
        node = ast.BinOp(ast.BinOp(c.node, ast.Mult(), v.node), ast.Mult(), s.node)
        yield node, c.value * v.value * s.value


def _matrix_terms(shape: tuple[int, ...], words: Vocabulary) -> Iterator[Term]:
    flat = [w for w in words.cotangents if len(w.shape) == 2]
    matrices = [w for w in words.values if len(w.shape) == 2]
    for c, m in product(flat, matrices):
        for a, b in product((_plain(c), _transposed(c)), (_plain(m), _transposed(m))):
            for left, right in ((a, b), (b, a)):
                rows, columns = left[1].shape, right[1].shape
                if rows[1] == columns[0] and (rows[0], columns[1]) == shape:
                    yield ast.BinOp(left[0], ast.MatMult(), right[0]), left[1] @ right[1]
    for c in words.cotangents:
        if len(c.shape) >= 2 and c.shape[1:] == shape:
            yield _over_rows(c.node), c.value.sum(axis=0)
            for v in words.values:
                if v.shape == c.shape:
                    product_of_both = ast.BinOp(c.node, ast.Mult(), v.node)
                    yield _over_rows(product_of_both), (c.value * v.value).sum(axis=0)


def _plain(word: Word) -> Term:
    return word.node, word.value


def _transposed(word: Word) -> Term:
    return ast.Attribute(word.node, "T", ast.Load()), word.value.T


def _summed(call: ast.Call) -> Iterator[Node]:
    if isinstance(call.func, ast.Attribute):
        function = ast.Attribute(call.func.value, "sum", ast.Load())
        yield ast.Call(function, call.args, call.keywords)


def statements(site: Site, words: Vocabulary, _fit: PlaceFit | None) -> Iterator[Node]:
    """A statement that is missing at the end of a loop: a sum that goes on, or the carry."""
    node, loop = site.node, site.parent
    if not isinstance(node, ast.stmt) or not isinstance(loop, ast.For) or loop.body[-1] is not node:
        return
    for word in words.words:
        target = _target(word.node)
        if target is None or word.value.dtype.kind != "f":
            continue
        for value, _ in _terms(word.shape, words, deep=False):
            if isinstance(target, ast.Name):
                yield two(node, ast.Assign([target], value))
                yield two(node, ast.Assign([target], ast.BinOp(word.node, ast.Add(), value)))
            else:
                yield two(node, ast.AugAssign(target, ast.Add(), value))
                yield two(node, ast.Assign([target], value))


def _target(node: ast.expr) -> ast.Name | ast.Subscript | None:
    """The variable, or the item by key or by step, as something to write to."""
    if isinstance(node, ast.Name):
        return ast.Name(node.id, ast.Store())
    if not isinstance(node, ast.Subscript):
        return None
    by_number = isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, int)
    return None if by_number else ast.Subscript(node.value, node.slice, ast.Store())


def _subscripts(node: ast.Constant, call: Any) -> Iterator[Node]:
    """The subscripts of einsum with two letters of one term exchanged."""
    if not isinstance(call, ast.Call) or called(call) != "einsum" or call.args[0] is not node:
        return
    text = str(node.value)
    parts = [part.strip() for part in text.replace("->", ",").split(",")]
    if "->" not in text or any(not part.isalpha() for part in parts):
        return
    for k, part in enumerate(parts):
        for a, b in combinations(dict.fromkeys(part), 2):
            turn = str.maketrans(a + b, b + a)
            others = [one if j == k else one.translate(turn) for j, one in enumerate(parts)]
            alone = [one.translate(turn) if j == k else one for j, one in enumerate(parts)]
            for *terms, out in (others, alone):  # the same sum, written in two ways
                yield ast.Constant(f"{','.join(terms)}->{out}")


def _over_rows(node: ast.expr) -> ast.expr:
    function = ast.Attribute(node, "sum", ast.Load())
    return ast.Call(function, [], [ast.keyword("axis", ast.Constant(0))])


def _host(site: Site, words: Vocabulary) -> Word | None:
    """The expression that gets one more factor or term, if it is an array and stands for itself."""
    node = site.node
    if not isinstance(node, ast.expr) or _written(site) or isinstance(node, ast.Starred):
        return None
    if is_product(node) and not site.on_top:
        return None
    part = isinstance(site.parent, ast.Attribute | ast.Subscript) and site.parent.value is node
    if part and (isinstance(site.parent, ast.Subscript) or isinstance(node, ast.Attribute)):
        return None
    known = words.evaluated(node)
    return known if known is not None and isinstance(known.value, np.ndarray) else None


def _fits(one: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """True if an array of shape ``one`` can be a factor in an array of this shape."""
    if len(one) > len(shape):
        return False
    return all(a in (1, b) for a, b in zip(one[::-1], shape[::-1], strict=False))


def _written(site: Site) -> bool:
    return any(isinstance(getattr(above, "ctx", None), ast.Store) for above in site.path)


def _added_up(node: ast.Assign, site: Site) -> Iterator[Node]:
    """``=`` where ``+=`` is meant."""
    if len(node.targets) != 1:
        return
    target = node.targets[0]
    if isinstance(target, ast.Subscript):
        yield ast.AugAssign(target, ast.Add(), node.value)
    if isinstance(target, ast.Name) and target.id in site.scene.values:
        # Not in place: the array may be an argument.
        before = ast.Name(target.id, ast.Load())
        yield ast.Assign([target], ast.BinOp(before, ast.Add(), node.value))


def _constants(node: ast.Constant, words: Vocabulary) -> Iterator[Node]:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if isinstance(value, int):
        yield from (ast.Constant(other) for other in (value - 1, value + 1))
        yield ast.UnaryOp(ast.USub(), ast.Constant(1))
    yield from (ast.Constant(other) for other in (value / 2, 2.0 * value, -value))
    if value == 1:
        for word in words.slopes:
            yield word.node


def _products(node: ast.BinOp) -> Iterator[Node]:
    """The matrix product with its factors in either order, each transposed or not."""
    sides = [_either_way(node.left), _either_way(node.right)]
    for a, b in product(*sides):
        yield ast.BinOp(a, ast.MatMult(), b)
        yield ast.BinOp(b, ast.MatMult(), a)


def _either_way(node: ast.expr) -> tuple[ast.expr, ast.expr]:
    if isinstance(node, ast.Attribute) and node.attr == "T":
        return node, node.value
    return node, ast.Attribute(node, "T", ast.Load())


Rule = Callable[[Site, Vocabulary, PlaceFit | None], Iterator[Node]]
RULES: tuple[Rule, ...] = (of_the_catalogue, small, factors, terms, statements)
"""From what changes a node to what adds something new; the first that finds an edit suffices."""
