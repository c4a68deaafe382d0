"""What holds of every built-in cell, whatever its equations."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from bpttcheck import activations, cells, trees
from bpttcheck.cells import BUILTINS, builtin
from bpttcheck.contract import is_cell
from bpttcheck.errors import ContractError
from bpttcheck.jax_mode import enable_x64

SMOOTH = [name for name, f in activations.ACTIVATIONS.items() if not f.kinks]
NAMES = [*BUILTINS, *(f"elman[{name}]" for name in activations.ACTIVATIONS), "jordan[relu]"]
SMOOTH_NAMES = [*BUILTINS, *(f"elman[{name}]" for name in SMOOTH)]
# The slope of these has a corner, where differences extrapolate to less than is asked for.
CORNERS = ["elman[elu]", "elman[softsign]"]
CLASSES = ["Elman", "GRUResetAfter", "GRUResetBefore", "Jordan", "LSTM", "PeepholeLSTM"]


def one_step(name, seed=0, dtype=np.float64, B=3, n_in=4, n_hidden=3):
    """A cell, and what goes into its step and its step_vjp."""
    cell, rng = builtin(name), np.random.default_rng(seed)
    params = {k: v.astype(dtype) for k, v in cell.init(rng, n_in, n_hidden).items()}

    def draw(like):
        return rng.uniform(-1, 1, np.shape(like)).astype(dtype)

    state = trees.map_leaves(draw, cell.initial_state(params, B))
    x = draw(np.zeros((B, n_in)))
    new_state, y, cache = cell.step(params, state, x)
    return cell, params, state, x, cache, trees.map_leaves(draw, new_state), draw(y)


def arrays(tree):
    """Every array in nested dicts and tuples."""
    return [leaf for leaf in trees.leaves(tree) if isinstance(leaf, np.ndarray)]


def fingerprint(tree):
    return [hashlib.sha256(np.ascontiguousarray(a)).hexdigest() for a in arrays(tree)]


def transpose_defect(cell, case, seed) -> float:
    """``<cotangents, derivative of step along a direction>`` against ``<step_vjp, direction>``."""
    params, state, x, cache, d_state, d_y = case
    gradient = cell.step_vjp(params, cache, d_state, d_y)
    rng = np.random.default_rng(seed)
    direction = trees.map_leaves(lambda a: rng.uniform(-1, 1, a.shape), (params, state, x))

    def loss(h):
        moved = trees.map_leaves(lambda a, d: a + h * d, (params, state, x), direction)
        new_state, y, _ = cell.step(*moved)
        pairs = zip(trees.leaves((d_state, d_y)), trees.leaves((new_state, y)), strict=True)
        return sum(np.vdot(d, a) for d, a in pairs)

    # Richardson's extrapolation of central differences: an error of order h⁴.
    coarse, fine = ((loss(h) - loss(-h)) / (2 * h) for h in (2e-3, 1e-3))
    in_order = ({k: gradient[0][k] for k in params}, *gradient[1:])
    pairs = zip(trees.leaves(in_order), trees.leaves(direction), strict=True)
    terms = [np.vdot(g, d) for g, d in pairs]
    return abs(sum(terms) - (4 * fine - coarse) / 3) / (1 + sum(map(abs, terms)))


@pytest.mark.parametrize("name", [n for n in SMOOTH_NAMES if n not in CORNERS])
@settings(deadline=None, max_examples=5)
@given(
    seed=st.integers(0, 2**32 - 1),
    B=st.integers(1, 3),
    n_in=st.integers(2, 4),
    n_hidden=st.integers(1, 4),
)
def test_the_step_vjp_is_the_transpose_of_the_derivative_of_the_step(name, seed, **sizes):
    cell, *case = one_step(name, seed, **sizes)
    assert transpose_defect(cell, case, seed) < 1e-8


@pytest.mark.parametrize("name", list(BUILTINS))
def test_a_turned_sign_anywhere_is_no_transpose(name, wrong_signs):
    cell, *case = one_step(name)
    for _, wrong in wrong_signs(cell):
        assert transpose_defect(wrong, case, seed=0) > 1e-4


@pytest.mark.parametrize("name", SMOOTH_NAMES)
def test_jax_traces_the_step_as_it_is_written_and_finds_the_same_gradient(name, monkeypatch):
    jax = pytest.importorskip("jax", reason="the code is traced by JAX")
    cell, params, state, x, cache, d_state, d_y = one_step(name)
    by_hand = cell.step_vjp(params, cache, d_state, d_y)
    for module in (importlib.import_module(type(cell).__module__), activations):
        monkeypatch.setattr(module, "np", jax.numpy)
        if hasattr(module, "special"):
            monkeypatch.setattr(module, "special", jax.scipy.special)
    with enable_x64(True):
        entering = jax.tree_util.tree_map(jax.numpy.asarray, (params, state, x))
        _, vjp = jax.vjp(lambda *a: cell.step(*a)[:2], *entering)
        by_jax = vjp(jax.tree_util.tree_map(jax.numpy.asarray, (d_state, d_y)))
    for got, expected in zip(trees.leaves(by_hand[1:]), trees.leaves(by_jax[1:]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)
    for key, got in by_hand[0].items():
        np.testing.assert_allclose(got, by_jax[0][key], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_every_array_keeps_the_dtype_of_the_parameters(name, dtype):
    cell, params, state, x, cache, d_state, d_y = one_step(name, dtype=dtype)
    everything = (
        cell.initial_state(params, 2),
        cell.step(params, state, x)[:2],
        tuple(cache),
        cell.step_vjp(params, cache, d_state, d_y),
    )
    assert {a.dtype for a in arrays(everything)} == {np.dtype(dtype)}


def is_pure(cell, params, state, x, cache, d_state, d_y) -> bool:
    given = (params, state, x, tuple(cache), d_state, d_y)
    before = fingerprint(given)
    outputs = [
        (cell.step(params, state, x)[:2], cell.step_vjp(params, cache, d_state, d_y))
        for _ in range(2)
    ]
    repeats = fingerprint(outputs[0]) == fingerprint(outputs[1])
    return repeats and fingerprint(given) == before


@pytest.mark.parametrize("name", NAMES)
def test_neither_method_changes_what_it_is_given_and_both_repeat_themselves(name):
    assert is_pure(*one_step(name))


def test_a_cell_that_adds_into_its_cotangent_is_not_pure():
    class InPlace(cells.Elman):
        def step_vjp(self, params, cache, d_state, d_y):
            d_state += d_y
            return super().step_vjp(params, cache, d_state, np.zeros_like(d_y))

    _, *case = one_step("elman")
    assert not is_pure(InPlace(), *case)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradients_have_the_names_and_shapes_of_what_they_belong_to(name):
    cell, params, state, x, cache, d_state, d_y = one_step(name)
    d_params, d_previous, d_x = cell.step_vjp(params, cache, d_state, d_y)
    assert {k: v.shape for k, v in d_params.items()} == {k: v.shape for k, v in params.items()}
    assert trees.structure(d_previous) == trees.structure(state)
    assert [a.shape for a in arrays(d_previous)] == [a.shape for a in arrays(state)]
    assert d_x.shape == x.shape


@pytest.mark.parametrize("name", NAMES)
def test_fresh_parameters_are_uniform_within_one_over_the_root_of_the_width(name):
    cell = builtin(name)
    params = cell.init(np.random.default_rng(0), 40, 64)
    again = cell.init(np.random.default_rng(0), 40, 64)
    assert fingerprint(params) == fingerprint(again)
    for value in params.values():
        assert value.dtype == np.float64
        assert 0.11 < np.abs(value).max() <= 1 / 8
        assert np.abs(value.mean()) < 0.03


@pytest.mark.parametrize("name", NAMES)
def test_the_initial_state_is_zero_and_has_a_row_for_each_sample(name):
    cell = builtin(name)
    params = cell.init(np.random.default_rng(0), 4, 3)
    leaves = trees.leaves(cell.initial_state(params, 5))
    assert all(len(leaf) == 5 and not leaf.any() for leaf in leaves)
    if len(leaves) > 1:
        assert not np.shares_memory(*leaves)


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_is_a_value_that_prints_on_one_line_and_travels(name):
    cell = builtin(name)
    assert is_cell(cell)
    assert "\n" not in repr(cell)
    assert eval(repr(cell), {n: getattr(cells, n) for n in CLASSES}) == cell
    assert hash(cell) == hash(pickle.loads(pickle.dumps(cell)))


@pytest.mark.parametrize("name", CLASSES)
def test_every_equation_of_the_docstring_tags_a_line_of_the_code_and_vice_versa(name):
    cls = getattr(cells, name)
    in_doc = set(re.findall(r"\((\d+[a-c]?)\)\n", cls.__doc__))
    steps = inspect.getsource(cls.step) + inspect.getsource(cls.step_vjp)
    in_code = {tag for line in steps.splitlines() for tag in tags_of_comment(line)}
    assert in_doc == in_code
    assert len(in_doc) >= 10


def tags_of_comment(line):
    return re.findall(r"\((\d+[a-c]?)\)", line.partition("#")[2])


@pytest.mark.parametrize("name", CLASSES)
def test_every_statement_of_step_vjp_that_computes_carries_a_tag(name):
    source = inspect.getsource(getattr(cells, name).step_vjp)
    untagged = [
        line.strip()
        for line in source.splitlines()
        if re.search(r"[@*]|\.sum\(| [+-] ", line.partition("#")[0])
        and not tags_of_comment(line)
        and '"""' not in line
    ]
    assert untagged == []


def test_the_index_gives_every_cell_by_its_name_on_the_command_line():
    assert repr(builtin("jordan_teacher_forced")).endswith("teacher_forced=True)")
    assert builtin("elman[relu]") == cells.Elman(activation="relu")
    assert builtin("jordan_teacher_forced[sine]").activation == "sine"
    assert builtin("elman") == BUILTINS["elman"]() == cells.Elman()
    assert BUILTINS["jordan"](n_out=2) == cells.Jordan(n_out=2)


def test_the_names_to_verify_are_every_cell_and_every_activation_once():
    made = [builtin(name) for name in cells.every_name()]
    assert len(set(made)) == len(made) == len(BUILTINS) - 1 + len(activations.ACTIVATIONS)
    assert {BUILTINS[name]() for name in BUILTINS} <= set(made)


@pytest.mark.parametrize("name", ["elmann", "", "elman[", "elman[relu]x", "Elman", "lstm[]"])
def test_an_unknown_cell_is_answered_with_the_names(name):
    with pytest.raises(
        ContractError, match=f"{re.escape(repr(name))}, expected one of elman, lstm"
    ):
        builtin(name)


def test_an_unknown_activation_or_one_that_the_cell_does_not_take_is_refused():
    with pytest.raises(ContractError, match=r"'tahn' .* expected one of identity, tanh"):
        builtin("elman[tahn]")
    with pytest.raises(ContractError, match="LSTM has no option activation"):
        builtin("lstm[relu]")


def test_naming_the_cells_loads_neither_numpy_nor_scipy():
    program = (
        "import sys, bpttcheck.cells as c; c.BUILTINS, dir(c);"
        "assert not {'numpy', 'scipy', 'hypothesis'} & set(sys.modules), sorted(sys.modules);"
        "c.Jordan(teacher_forced=True); assert 'hypothesis' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_index_has_nothing_but_its_cells():
    assert set(CLASSES) <= set(dir(cells))
    with pytest.raises(AttributeError, match="no attribute 'Elmann'"):
        cells.Elmann  # noqa: B018 - the access is the test


def test_the_comparison_with_jax_swaps_what_the_cells_compute_with():
    # If a cell imported SciPy under another name, the swap above would compare NumPy with itself.
    gated = [importlib.import_module(f"bpttcheck.cells.{m}") for m in ("lstm", "gru_reset_after")]
    assert all(module.special is special and module.np is np for module in gated)
