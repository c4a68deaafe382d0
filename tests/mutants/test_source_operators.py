from __future__ import annotations

import ast
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpttcheck.mutants.source.edits import OPERATORS
from bpttcheck.mutants.source.expressions import factors, multiplied, summed, terms, text
from bpttcheck.mutants.source.scene import LocalsSnapshot
from bpttcheck.mutants.source.sites import context, replaced, sites, statements

HARVEST = [
    pytest.param(operator, example, id=f"{operator.name}: {example.after}")
    for operator in OPERATORS
    for example in operator.examples
]


def arrays(shapes, draw):
    if isinstance(shapes, Mapping):
        return {key: arrays(shape, draw) for key, shape in shapes.items()}
    return draw(shapes)


def scenes(tree, shapes):
    """The scene of an example: names with ``d_`` in front are cotangents, as given."""
    rng = np.random.default_rng(0)
    values = arrays(shapes, rng.standard_normal)
    at_rest = {k: np.zeros_like(v) if k.startswith("d_") else v for k, v in values.items()}
    given = frozenset(id(v) for k, v in values.items() if k.startswith("d_"))
    definitions = {
        node.targets[0].id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    scene = LocalsSnapshot(values, at_rest, values.get("params", {}), given, definitions)
    return {id(path[-1]): scene for path in statements((tree,))}


def changed(operator, source, shapes=None):
    """Every statement that the operator makes of ``source``, with the diagnosis of each."""
    tree = ast.parse("def step_vjp():\n" + "".join(f"    {s}\n" for s in source.split("; "))).body[
        0
    ]
    found = {}
    for site in sites(tree, scenes(tree, shapes or {})):
        for change in operator.changes(site):
            start = max(k for k, node in enumerate(site.path) if isinstance(node, ast.stmt))
            new = ast.Pass() if change.new is None else change.new
            ast.fix_missing_locations(ast.copy_location(new, site.node))
            found[text(replaced(site.path[start:], new))] = change.diagnosis
    return found


def named(name):
    return next(operator for operator in OPERATORS if operator.name == name)


@pytest.mark.parametrize(("operator", "example"), HARVEST)
def test_an_operator_does_what_its_example_shows(operator, example):
    found = changed(operator, example.before, example.shapes)
    assert text(ast.parse(example.after)) in found
    assert text(ast.parse(example.before)) not in found


def test_every_operator_has_an_example_and_its_own_name():
    assert all(operator.examples for operator in OPERATORS)
    assert len({operator.name for operator in OPERATORS}) == len(OPERATORS) >= 20


ROWS = {"d_h": (2, 3), "d_y": (2, 3), "i": (2, 3), "c": (2, 3), "d_z": (2, 3), "h": (2, 3)}


@pytest.mark.parametrize(
    ("operator", "source", "wrong", "code"),
    [
        ("drop_term", "d_c = d_h + d_y", "d_c = d_h", "missing-path"),
        ("drop_term", "d_c = d_h * (i - c)", "d_c = d_h * i", ""),
        ("drop_term", "d_c = d_h * (1 - c**2)", "d_c = d_h * 1", "wrong-derivative"),
        ("flip_sign", "d_c = d_h + d_y", "d_c = d_h - d_y", "sign"),
        ("flip_sign", "d_c = d_h * (1 - i)", "d_c = d_h * (1 + i)", ""),
        ("flip_sign", "d_c = d_h * i * (1 - i)", "d_c = d_h * i * (1 + i)", "wrong-derivative"),
        ("drop_factor", "d_c = d_h * i * (1 - i)", "d_c = d_h * (1 - i)", "wrong-derivative"),
        ("drop_factor", "d_c = d_h * (1 - c**2)", "d_c = d_h", "wrong-derivative"),
        ("drop_factor", "d_c = d_h * f.derivative(c)", "d_c = d_h", "wrong-derivative"),
        ("drop_factor", "d_c = d_h * i", "d_c = d_h", ""),
        ("other_name", "d_c = d_h * f.derivative(c)", "d_c = d_h * f.derivative(i)",
         "wrong-derivative"),
        ("drop_activation", "s = 1 - np.tanh(c)**2", "s = 1 - c**2", "wrong-derivative"),
        ("reduce_otherwise", "d_b = d_h.sum(axis=0)", "d_b = d_h[0]", "batch-reduction"),
        ("swap_blocks", "d_a = np.hstack([d_h, d_y])", "d_a = np.hstack([d_y, d_h])",
         "swapped-gates"),
        ("drop_transpose", "d_W = d_z.T @ h", "d_W = d_z @ h", "transposed"),
    ],
)  # fmt: skip
def test_the_diagnosis_is_what_the_change_implies(operator, source, wrong, code):
    assert changed(named(operator), source, ROWS)[text(ast.parse(wrong))] == code


@pytest.mark.parametrize(
    ("operator", "source"),
    [
        ("flip_sign", "d_c = d_h * d_y"),
        ("drop_factor", "d_c = d_h + d_y"),
        ("drop_factor", "d_W = d_z.T @ h"),
        ("change_constant", "d_a = np.concatenate([d_h, d_y], axis=1)"),
        ("change_constant", "d_c = d_h[:, : 2 * H]"),
        ("reduce_otherwise", "s = d_h.sum(axis=1)"),
        ("reduce_otherwise", "s = d_h.sum()"),
        ("reduce_otherwise", "s = sum(d_h, 0)"),
        ("change_constant", "s = 'a' + b"),
        ("move_transpose", "d_W = np.dot(d_z)"),
        ("drop_transpose", "d_W = np.transpose(d_z, (1, 0))"),
        ("other_name", "d_h[0] = i"),
        ("swap_operands", "d_c = d_h @ i"),
        ("add_transpose", "d_c = d_h @ i"),
        ("drop_reassignment", "fresh = d_h"),
        ("negate_value", "d_a, d_b = np.split(d_h, 2)"),
        ("negate_value", "s = 1 - i"),
        ("swap_targets", "x, h = (1, 2)"),
    ],
)
def test_an_operator_leaves_alone_what_is_not_its_own(operator, source):
    found = changed(named(operator), source, {**ROWS, "H": ()} | {"i": (2, 3)})
    assert all("d_h[0] =" in wrong for wrong in found) if "d_h[0]" in source else not found


def test_a_variable_is_exchanged_only_for_one_of_its_kind_and_shape():
    shapes = {"d_h": (2, 3), "d_y": (2, 3), "i": (2, 3), "f": (2, 3), "x": (2, 5), "W": (3, 3)}
    found = set(changed(named("other_name"), "d_c = d_h * i", shapes))
    assert found == {"d_c = d_y * i", "d_c = d_h * f"}


def test_a_longer_sum_or_product_is_one_whole():
    dropped = set(changed(named("drop_factor"), "s = a * b * c / d"))
    assert dropped == {"s = b * c / d", "s = a * c / d", "s = a * b / d", "s = a * b * c"}
    dropped = set(changed(named("drop_term"), "s = a - (b + c) * d + e"))
    assert dropped >= {"s = -((b + c) * d) + e", "s = a + e", "s = a - b * d + e"}
    squared = set(changed(named("flip_sign"), "s = (a + b) ** 2"))
    assert squared == {"s = (-a + b) ** 2", "s = (a - b) ** 2"}


EXPRESSIONS = st.recursive(
    st.sampled_from(["a", "b", "c", "d"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"{t[0]} {t[1]} {t[2]}"),
        inner.map(lambda words: f"-({words})"),
    ),
    max_leaves=8,
)


@given(EXPRESSIONS)
def test_a_sum_or_product_taken_apart_and_put_together_is_the_same_in_every_bit(source):
    node = ast.parse(source, mode="eval").body
    values = {name: np.float64(v) for name, v in (("a", 0.3), ("b", -1.7), ("c", 2.9), ("d", 0.5))}
    with np.errstate(all="ignore"):
        expected = eval(source, {}, values)
        for again in (summed(terms(node)), multiplied(factors(node))):
            np.testing.assert_array_equal(eval(text(again), {}, values), expected)


def test_inner_functions_branches_and_loops_are_sites_and_annotations_are_not():
    source = (
        "def step_vjp():\n"
        "    'text'\n"
        "    def slope(v: a + b = c * d) -> e + f:\n"
        "        return v * (1 - v)\n"
        "    if g + h:\n"
        "        x: i + j = k + l\n"
        "    for t in m + n:\n"
        "        with o + p:\n"
        "            y = q + r\n"
        "    try:\n"
        "        pass\n"
        "    except Exception:\n"
        "        z = s + t\n"
        "    assert u + v\n"
    )
    tree = ast.parse(source).body[0]
    sums = [site for site in sites(tree, {}) if isinstance(site.node, ast.BinOp)]
    found = {text(site.node) for site in sums if isinstance(site.node.op, ast.Add)}
    assert found == {"g + h", "k + l", "m + n", "o + p", "q + r", "s + t"}
    shown = {context(site.path)[1] for site in sums}
    assert {"if ", "for ", "with "} <= shown
