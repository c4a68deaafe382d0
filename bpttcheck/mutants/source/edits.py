"""Every changed source of a backward pass: terms, factors, signs and operands, none twice."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bpttcheck.mutants.source import operators
from bpttcheck.mutants.source.expressions import (
    Part,
    called,
    complement_of,
    factors,
    is_product,
    is_slope,
    is_sum,
    logistic_pair,
    multiplied,
    negated,
    slopes,
    square_of,
    summed,
    terms,
    text,
)
from bpttcheck.mutants.source.operators import Example, Site, SourceChange, operator
from bpttcheck.mutants.source.scene import MISSING, LocalsSnapshot
from bpttcheck.mutants.source.sites import context, replaced, sites

_ACTIVATIONS = ("tanh", "expit", "sigmoid", "relu", "softplus", "sin")


@operator(
    Example("d_z = d_h * i * (1 - i)", "d_z = d_h * i"),
    Example("d_z = d_h * i * (1 - i)", "d_z = i * (1 - i)"),
    Example("d_z = d_h / n", "d_z = d_h"),
)
def drop_factor(site: Site) -> Iterator[SourceChange]:
    """One factor of a product is missing."""
    node = site.node
    if not (isinstance(node, ast.BinOp) and is_product(node) and site.on_top):
        return
    parts = factors(node)
    of_slope = slopes(parts)
    for k, part in enumerate(parts):
        rest = [*parts[:k], *parts[k + 1 :]]
        if rest[0].inverse:
            continue
        code = "wrong-derivative" if k in of_slope else site.slope_code
        yield SourceChange(multiplied(rest), f"without the factor {text(part.node)}", code)


@operator(
    Example("d_z = d_h * (1.0 - c ** 2)", "d_z = d_h * (c * (1.0 - c))"),
    Example("d_z = d_h * i * (1.0 - i)", "d_z = d_h * (1.0 - i ** 2)"),
)
def other_derivative(site: Site) -> Iterator[SourceChange]:
    """The derivative of the logistic function replaces that of tanh, or the reverse."""
    node = site.node
    squared = complement_of(node)
    v = square_of(squared)
    if isinstance(node, ast.BinOp) and squared is not None and v is not None:
        logistic = ast.BinOp(v, ast.Mult(), ast.BinOp(node.left, ast.Sub(), v))
        yield SourceChange(logistic, f"{text(node)} -> {text(logistic)}", "wrong-derivative")
    if not (isinstance(node, ast.BinOp) and is_product(node) and site.on_top):
        return
    parts = factors(node)
    pair = logistic_pair(parts)
    if pair is None:
        return
    j, k = pair
    complement = parts[k].node
    assert isinstance(complement, ast.BinOp)
    square = ast.BinOp(parts[j].node, ast.Pow(), ast.Constant(2))
    tanh = ast.BinOp(complement.left, ast.Sub(), square)
    rest = [part for m, part in enumerate(parts) if m not in pair]
    wrong = multiplied([*rest, Part(tanh)]) if rest and not rest[0].inverse else tanh
    label = f"{text(parts[j].node)} * ({text(complement)}) -> {text(tanh)}"
    yield SourceChange(wrong, label, "wrong-derivative")


@operator(
    Example("s = 1.0 - v ** 2", "s = 1.0 - v"),
    Example("s = np.square(v)", "s = v"),
)
def drop_power(site: Site) -> Iterator[SourceChange]:
    """A power is missing."""
    node = site.node
    base: ast.expr | None = None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        base = node.left
    elif isinstance(node, ast.Call):
        base = square_of(node)
    if base is not None:
        yield SourceChange(base, f"{text(node)} -> {text(base)}", site.slope_code)


@operator(
    Example("s = 1.0 - v ** 2", "s = 2.0 - v ** 2"),
    Example("s = 1.0 - v ** 2", "s = 1.0 - v ** 3"),
    Example("s = 0.5 * v", "s = 1.0 * v"),
    Example("s = 0.0 + v", "s = 1.0 + v"),
)
def change_constant(site: Site) -> Iterator[SourceChange]:
    """A number is twice what it should be; an integer is one more."""
    node = site.node
    if not (isinstance(node, ast.Constant) and isinstance(site.parent, ast.BinOp)):
        return
    if any(isinstance(above, ast.Subscript) for above in site.path):
        return
    if isinstance(node.value, float):
        wrong = 2.0 * node.value if node.value else 1.0
    elif type(node.value) is int:
        wrong = node.value + 1
    else:
        return
    yield SourceChange(ast.Constant(wrong), f"{node.value!r} -> {wrong!r}", site.slope_code)


@operator(Example("s = 1 - np.tanh(z) ** 2", "s = 1 - z ** 2"))
def drop_activation(site: Site) -> Iterator[SourceChange]:
    """The pre-activation replaces the activation."""
    node = site.node
    if isinstance(node, ast.Call) and called(node) in _ACTIVATIONS and len(node.args) == 1:
        z = node.args[0]
        yield SourceChange(z, f"{text(node)} -> {text(z)}", site.slope_code)


_ROWS = {"d_a": (2, 3), "d_b": (2, 3)}


def _terms(site: Site) -> list[Part]:
    """The terms of a whole sum; none for another node."""
    node = site.node
    if isinstance(node, ast.BinOp) and is_sum(node) and site.on_top:
        return terms(node)
    return []


@operator(
    Example("d_h = d_a + d_b", "d_h = d_a - d_b", _ROWS),
    Example("d_h = d_a + d_b", "d_h = -d_a + d_b", _ROWS),
    Example("s = 1.0 - v", "s = 1.0 + v"),
    Example("s = -v + w", "s = v + w"),
)
def flip_sign(site: Site) -> Iterator[SourceChange]:
    """One term of a sum has the other sign."""
    parts = _terms(site)
    for k, part in enumerate(parts):
        flipped = [*parts[:k], Part(part.node, not part.inverse), *parts[k + 1 :]]
        code = "sign" if site.scene.linear(part.node) else site.slope_code
        sign = "+" if part.inverse else "-"
        yield SourceChange(summed(flipped), f"{sign} before {text(part.node)}", code)


@operator(
    Example("d_h = d_a + d_b", "d_h = d_b", _ROWS),
    Example("d_h = d_a - d_b", "d_h = -d_b", _ROWS),
    Example("s = 1.0 - v ** 2", "s = 1.0"),
)
def drop_term(site: Site) -> Iterator[SourceChange]:
    """One term of a sum is missing."""
    parts = _terms(site)
    for k, part in enumerate(parts):
        rest = summed([*parts[:k], *parts[k + 1 :]])
        code = "missing-path" if site.scene.linear(part.node) else site.slope_code
        yield SourceChange(rest, f"without the term {text(part.node)}", code)


@operator(
    Example("d_h = d_a @ W", "d_h = -(d_a @ W)", {"d_a": (2, 3), "W": (3, 3)}),
    Example("d_params = {'b': d_a.sum(axis=0)}", "d_params = {'b': -d_a.sum(axis=0)}", _ROWS),
)
def negate_value(site: Site) -> Iterator[SourceChange]:
    """An expression that is assigned, stored under a key or returned has the other sign."""
    node, parent = site.node, site.parent
    if not isinstance(node, ast.BinOp | ast.Call) or not site.scene.linear(node):
        return
    returned = any(isinstance(above, ast.Return) for above in site.path)
    if not isinstance(parent, ast.Assign | ast.AnnAssign | ast.Dict) and not (
        returned and isinstance(parent, ast.Tuple | ast.Return)
    ):
        return
    if isinstance(parent, ast.Assign) and isinstance(parent.targets[0], ast.Tuple | ast.List):
        return
    yield SourceChange(negated(node), f"-({text(node)})", "sign")


@operator(Example("d_h = -d_a", "d_h = d_a", _ROWS))
def drop_minus(site: Site) -> Iterator[SourceChange]:
    """A minus is missing."""
    node = site.node
    if not (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)):
        return
    if isinstance(node.operand, ast.Constant) or is_sum(site.parent):
        return
    code = "sign" if site.scene.linear(node.operand) else site.slope_code
    yield SourceChange(node.operand, f"{text(node)} -> {text(node.operand)}", code)


@operator(
    Example("d_a += d_b", "pass", _ROWS),
    Example("d_a += d_b", "d_a -= d_b", _ROWS),
    Example("d_a += d_b", "d_a = d_b", _ROWS),
    Example("d_a *= 1 - c ** 2", "pass", {"d_a": (2, 3), "c": (2, 3)}),
)
def change_update(site: Site) -> Iterator[SourceChange]:
    """An update in place is missing, has the other sign, or overwrites what was there."""
    node = site.node
    if not isinstance(node, ast.AugAssign):
        return
    if isinstance(node.op, ast.Add | ast.Sub):
        linear = site.scene.linear(node.value)
        other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield SourceChange(None, "statement missing", "missing-path" if linear else "")
        flipped = ast.AugAssign(node.target, other, node.value)
        yield SourceChange(flipped, "other sign", "sign" if linear else "")
        yield SourceChange(ast.Assign([node.target], node.value), "= for the update", "")
    elif isinstance(node.op, ast.Mult | ast.Div):
        code = "wrong-derivative" if is_slope(node.value) or is_product(node.value) else ""
        yield SourceChange(None, "statement missing", code)


@operator(Example("d_a = d_a * d_b", "pass", _ROWS))
def drop_reassignment(site: Site) -> Iterator[SourceChange]:
    """A second assignment to a variable is missing."""
    node = site.node
    if not (isinstance(node, ast.Assign) and len(node.targets) == 1):
        return
    target = node.targets[0]
    if isinstance(target, ast.Name) and target.id in site.scene.values:
        yield SourceChange(None, "statement missing")


_Rebuild = Callable[[ast.expr, ast.expr], ast.expr]


@operator(
    Example("d_W = d_z.T @ x", "d_W = d_z @ x"),
    Example("d_W = np.transpose(d_z) @ x", "d_W = d_z @ x"),
    Example("d_W = d_z.transpose() @ x", "d_W = d_z @ x"),
)
def drop_transpose(site: Site) -> Iterator[SourceChange]:
    """A transposition is missing."""
    plain = _transposed_of(site.node)
    if plain is not None:
        yield SourceChange(plain, f"{text(site.node)} -> {text(plain)}", "transposed")


@operator(
    Example("d_W = d_z.T @ x", "d_W = d_z @ x.T"),
    Example("d_W = d_z.T @ x", "d_W = x.T @ d_z"),
    Example("d_W = d_z @ x.T", "d_W = d_z.T @ x"),
    Example("d_W = np.dot(d_z.T, x)", "d_W = np.dot(x.T, d_z)"),
    Example("d_W = d_z.T.dot(x)", "d_W = d_z.dot(x.T)"),
)
def move_transpose(site: Site) -> Iterator[SourceChange]:
    """The other factor is transposed; the transposed product replaces the product."""
    found = _product(site.node)
    if found is None:
        return
    left, right, rebuild = found
    was_left, was_right = _transposed_of(left), _transposed_of(right)
    wrong: list[ast.expr] = []
    if was_left is not None and was_right is None:
        wrong = [rebuild(was_left, _transposed(right)), rebuild(_transposed(right), was_left)]
    elif was_right is not None and was_left is None:
        wrong = [rebuild(_transposed(left), was_right), rebuild(was_right, _transposed(left))]
    for node in wrong:
        yield SourceChange(node, f"{text(site.node)} -> {text(node)}", "transposed")


@operator(
    Example("d_h = d_z @ W", "d_h = d_z @ W.T", {"d_z": (2, 3), "W": (3, 3)}),
    Example("d_h = W @ d_z", "d_h = W.T @ d_z", {"d_z": (3, 2), "W": (3, 3)}),
)
def add_transpose(site: Site) -> Iterator[SourceChange]:
    """A square factor of a product is transposed."""
    found = _product(site.node)
    if found is None:
        return
    left, right, rebuild = found
    if _is_square(site.scene.value(left)) and _transposed_of(left) is None:
        yield _matrix_change(site, rebuild(_transposed(left), right), "transposed")
    if _is_square(site.scene.value(right)) and _transposed_of(right) is None:
        yield _matrix_change(site, rebuild(left, _transposed(right)), "transposed")


@operator(Example("P = A @ B", "P = B @ A", {"A": (2, 3), "B": (3, 2)}))
def swap_operands(site: Site) -> Iterator[SourceChange]:
    """The factors of a matrix product change places, where their shapes allow it."""
    found = _product(site.node)
    if found is None:
        return
    left, right, rebuild = found
    a, b = (getattr(site.scene.value(node), "shape", ()) for node in (left, right))
    if len(a) == len(b) == 2 and a == b[::-1]:
        yield _matrix_change(site, rebuild(right, left), "")


@operator(
    Example("d_b = d_z.sum(axis=0)", "d_b = d_z.mean(axis=0)"),
    Example("d_b = d_z.sum(0)", "d_b = d_z[0]"),
    Example("d_b = np.sum(d_z, axis=0)", "d_b = np.mean(d_z, axis=0)"),
    Example("d_b = np.sum(d_z, axis=0)", "d_b = d_z[0]"),
)
def reduce_otherwise(site: Site) -> Iterator[SourceChange]:
    """The mean, or the first row, replaces the sum over the batch."""
    node = site.node
    if not (isinstance(node, ast.Call) and called(node) == "sum" and _over_rows(node)):
        return
    assert isinstance(node.func, ast.Attribute)
    mean = ast.Attribute(node.func.value, "mean", ast.Load())
    yield SourceChange(
        ast.Call(mean, node.args, node.keywords), "sum -> mean", "batch-reduction", least_B=2
    )
    if not any(keyword.arg == "keepdims" for keyword in node.keywords):
        rows = node.args[0] if _is_function(node) else node.func.value
        first = ast.Subscript(rows, ast.Constant(0), ast.Load())
        yield SourceChange(first, "sum -> first row", "batch-reduction", least_B=2)


def _matrix_change(site: Site, wrong: ast.expr, code: str) -> SourceChange:
    return SourceChange(wrong, f"{text(site.node)} -> {text(wrong)}", code)


def _transposed(node: ast.expr) -> ast.expr:
    return ast.Attribute(node, "T", ast.Load())


def _transposed_of(node: ast.AST) -> ast.expr | None:
    """``v`` if ``node`` is ``v.T``, ``v.transpose()`` or ``np.transpose(v)``."""
    if isinstance(node, ast.Attribute) and node.attr == "T" and isinstance(node.ctx, ast.Load):
        return node.value
    if isinstance(node, ast.Call) and called(node) == "transpose":
        if len(node.args) == 1 and _is_function(node):
            return node.args[0]
        if not node.args and isinstance(node.func, ast.Attribute):
            return node.func.value
    return None


def _product(node: ast.AST) -> tuple[ast.expr, ast.expr, _Rebuild] | None:
    """Both factors of ``a @ b``, ``np.dot(a, b)`` or ``a.dot(b)``, and how to put them together."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        return node.left, node.right, lambda a, b: ast.BinOp(a, ast.MatMult(), b)
    if not isinstance(node, ast.Call) or called(node) not in ("dot", "matmul") or node.keywords:
        return None
    function = node.func
    if len(node.args) == 2:
        return node.args[0], node.args[1], lambda a, b: ast.Call(function, [a, b], [])
    if len(node.args) == 1 and isinstance(function, ast.Attribute):
        name = function.attr

        def method(a: ast.expr, b: ast.expr) -> ast.expr:
            return ast.Call(ast.Attribute(a, name, ast.Load()), [b], [])

        return function.value, node.args[0], method
    return None


def _is_function(call: ast.Call) -> bool:
    """True for ``np.sum(v)``, where ``v.sum()`` is a method."""
    function = call.func
    if not isinstance(function, ast.Attribute):
        return True
    return isinstance(function.value, ast.Name) and function.value.id in ("np", "numpy")


def _over_rows(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute):
        return False
    position = 1 if _is_function(call) else 0
    axes: list[ast.expr] = list(call.args[position : position + 1])
    axes += [keyword.value for keyword in call.keywords if keyword.arg == "axis"]
    return any(isinstance(axis, ast.Constant) and axis.value == 0 for axis in axes)


def _is_square(value: Any) -> bool:
    shape = () if value is MISSING else getattr(value, "shape", ())
    return len(shape) == 2 and shape[0] == shape[1]


_LONGEST = 100


@dataclass(frozen=True)
class Edit:
    """A changed source.

    Args:
        tree: the whole function.
        line: where it was changed, in the file.
        title: what was changed and in what, without the line; not unique.
        sentence: the wrong line and the right one.
        diagnosis: the code that the change implies, or ``""``.
        least_B: the smallest batch that shows it.
        reached: False if the right function did not reach the place.
    """

    tree: ast.FunctionDef
    line: int
    title: str
    sentence: str
    diagnosis: str
    least_B: int
    reached: bool


def edits(tree: ast.FunctionDef, scenes: Mapping[int, LocalsSnapshot]) -> Iterator[Edit]:
    """Every edit of ``tree``, in the order of the source; no two of them read alike.

    Args:
        tree: the function.
        scenes: the locals at each statement that was reached, by the statement's ``id``.
    """
    seen: set[tuple[int, str]] = set()
    for site in sites(tree, scenes):
        for kind in OPERATORS:
            for change in kind.changes(site):
                edit, where = _edit(site, change)
                if edit is not None and where not in seen:
                    seen.add(where)
                    yield edit


def numbered(found: list[Edit]) -> list[str]:
    """The unique name of each edit, such as ``"line 7: i -> f in `d_g = d_c * i`"``."""
    total = Counter((edit.line, edit.title) for edit in found)
    count: Counter[tuple[int, str]] = Counter()
    names: list[str] = []
    for edit in found:
        key = (edit.line, edit.title)
        count[key] += 1
        which = f" ({count[key]})" if total[key] > 1 else ""
        names.append(f"line {edit.line}{which}: {edit.title}")
    return names


def _edit(site: Site, change: SourceChange) -> tuple[Edit | None, tuple[int, str]]:
    """The edit, None if its text is unchanged; and a key that must be unique."""
    path, node = site.path, site.node
    new = ast.Pass() if change.new is None else change.new
    ast.fix_missing_locations(ast.copy_location(new, node))
    shown, prefix = context(path)
    wrong = replaced(path[shown:], new)
    before, after = prefix + text(path[shown]), prefix + text(wrong)
    where = (id(path[shown]), after)
    if before == after:
        return None, where
    tree = replaced(path[: shown + 1], wrong)
    assert isinstance(tree, ast.FunctionDef)
    sentence = f"`{after}`, where `{before}` is right"
    if change.new is None:
        sentence = f"`{before}` is missing"
    line = int(getattr(node, "lineno", 0))
    edit = Edit(
        tree, line, f"{_short(change.label)} in `{_short(before)}`", sentence,
        change.diagnosis, change.least_B, bool(site.scene.values),
    )  # fmt: skip
    return edit, where


def _short(words: str) -> str:
    return words if len(words) <= _LONGEST else words[: _LONGEST - 3] + "..."


# Of two operators with the same result the first counts: it knows the diagnosis.
OPERATORS = (
    other_derivative,
    drop_power,
    drop_factor,
    drop_activation,
    change_constant,
    drop_term,
    flip_sign,
    negate_value,
    drop_minus,
    change_update,
    drop_reassignment,
    drop_transpose,
    move_transpose,
    add_transpose,
    swap_operands,
    reduce_otherwise,
    operators.swap_values,
    operators.swap_blocks,
    operators.swap_targets,
    operators.swap_returned,
    operators.other_name,
    operators.earlier_name,
)
