from __future__ import annotations

import ast
import functools
import importlib.util
import linecache
import sys
import textwrap
import types

import numpy as np
import pytest

from bpttcheck import adapt
from bpttcheck.cells import BUILTINS, LSTM, Elman, builtin
from bpttcheck.errors import BpttcheckError, ContractError, Declined
from bpttcheck.mutants import catalogue
from bpttcheck.mutants.source import source_mutants, why_no_source
from bpttcheck.mutants.source.problems import compare, problem
from bpttcheck.mutants.source.reading import read

FORWARD = """
import numpy as np
from typing import NamedTuple

RUNS = []

class Cache(NamedTuple):
    x: object
    h: object
    new: object

class Forward:
    def init(self, rng, n_in, n_hidden):
        RUNS.append("init")
        shapes = {"U": (n_hidden, n_in), "W": (n_hidden, n_hidden), "b": (n_hidden,)}
        return {name: rng.standard_normal(shape) for name, shape in shapes.items()}

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["b"])))

    def step(self, params, state, x):
        h = state
        new = np.tanh(x @ params["U"].T + h @ params["W"].T + params["b"])
        return new, new, Cache(x, h, new)
"""

PLAIN = """
class Cell(Forward):
    def step_vjp(self, params, cache, d_state, d_y):
        x, h, new = cache
        d_z = (d_state + d_y) * (1 - new**2)
        d_params = {"U": d_z.T @ x, "W": d_z.T @ h, "b": d_z.sum(0)}
        return d_params, d_z @ params["W"], d_z @ params["U"]
"""

INHERITED = f"""
{PLAIN}

class Base(Cell):
    pass

class Cell(Base):
    pass
"""

EXTENDED = f"""
{PLAIN}

class Base(Cell):
    pass

class Cell(Base):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state + d_y, 0.0 * d_y)
        return d_params, d_h, 1.0 * d_x
"""

ATTRIBUTES_UPDATES_AND_CALLS = """
class Cell(Forward):
    def step_vjp(self, params, cache, d_state, d_y):
        d_z = d_state.copy()
        d_z += d_y
        d_z *= 1 - np.square(cache.new)
        d_params = {}
        for name, seen in (("U", cache.x), ("W", cache.h)):
            d_params[name] = np.dot(np.transpose(d_z), seen)
        d_params["b"] = np.sum(d_z, axis=0)
        if d_z.size > 0:
            d_x = np.matmul(d_z, params["U"])
        else:
            d_x = 0 * cache.x
        return d_params, d_z.dot(params["W"]), d_x
"""

STATIC = """
class Cell(Forward):
    @staticmethod
    def step_vjp(params, cache, d_state, d_y):
        x, h, new = cache
        d_z = (d_state + d_y) * slope(new)
        return gradients(d_z, x, h), d_z @ params["W"], d_z @ params["U"]

def slope(new):
    return 1 - new**2

def gradients(d_z, x, h):
    return {"U": d_z.T @ x, "W": d_z.T @ h, "b": d_z.sum(0)}
"""

PRIVATE_NAMES_AND_THE_CLASS_ITSELF = """
class Cell(Forward):
    __one = 1.0

    @classmethod
    def step_vjp(cls, params, cache, d_state, d_y):
        x, h, new = cache
        d_z = (d_state + d_y) * (cls.__one - new**2)
        return Cell.__gradients(d_z, x, h), d_z @ params["W"], d_z @ params["U"]

    @staticmethod
    def __gradients(d_z, x, h):
        return {"U": d_z.T @ x, "W": d_z.T @ h, "b": d_z.sum(0)}
"""

CLOSURE = """
def make(one):
    def ones(like):
        return one * np.ones_like(like)

    class Cell(Forward):
        def step_vjp(self, params, cache, d_state, d_y, *, two=RUNS.append("default") or 2):
            "The text of the\\nmethod."
            assert isinstance(self, Cell) and __class__ is Cell
            slope = lambda new: ones(new) - new**two
            x, h, new = cache
            d_z = (d_state + d_y) * slope(new)
            d_params = {k: d_z.T @ v for k, v in {"U": x, "W": h}.items()}
            return d_params | {"b": d_z.sum(0)}, d_z @ params["W"], d_z @ params["U"]

    return Cell

Cell = make(1.0)
"""

STATES = """
class Cell(Forward):
    def initial_state(self, params, batch_size):
        zeros = np.zeros((batch_size, len(params["b"])))
        return {"h": zeros, "s": zeros.copy(), "count": np.zeros(batch_size, int)}

    def step(self, params, state, x):
        new, y, cache = super().step(params, state["h"], x)
        s = 0.5 * state["s"] + new
        return {"h": new, "s": s, "count": state["count"] + 1}, s, tuple(cache)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, new = cache
        d_s = d_state["s"] + d_y
        d_z = (d_state["h"] + d_s) * (1 - new**2)
        d_params = {"U": d_z.T @ x, "W": d_z.T @ h, "b": d_z.sum(0)}
        d_previous = {"h": d_z @ params["W"], "s": 0.5 * d_s, "count": d_state["count"]}
        return d_params, d_previous, d_z @ params["U"]
"""

CELLS = {
    "plain": PLAIN,
    "inherited": INHERITED,
    "extended": EXTENDED,
    "attributes, updates and calls": ATTRIBUTES_UPDATES_AND_CALLS,
    "static": STATIC,
    "private names and the class itself": PRIVATE_NAMES_AND_THE_CLASS_ITSELF,
    "closure": CLOSURE,
    "states": STATES,
}


@pytest.fixture
def load(tmp_path):
    """A module made of source, in a file of its own."""

    def make(source, name="cell.py"):
        path = tmp_path / name
        path.write_text(FORWARD + textwrap.dedent(source))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return make


def one_step(cell, seed=0, **more):
    return problem(cell, np.random.default_rng(seed), (5, 4), 3, **more)


def outcome(cell, step_vjp, seed=0):
    one = one_step(cell, seed)
    return compare(one.run(cell, cell.step_vjp), one, cell, step_vjp)


def written(cell):
    return {m.sentence.partition(", where")[0].strip("`") for m in source_mutants(cell)}


@pytest.mark.parametrize("name", CELLS)
def test_the_source_of_a_users_cell_compiles_to_what_it_was(name, load):
    cell = load(CELLS[name]).Cell()
    assert why_no_source(cell) == ""
    method = read(cell)
    assert outcome(cell, method.bind(method.compile(method.tree), cell)) == ""


@pytest.mark.parametrize("name", BUILTINS)
def test_the_source_of_a_built_in_compiles_to_what_it_was(name):
    cell = builtin(name)
    method = read(cell)
    assert outcome(cell, method.bind(method.compile(method.tree), cell)) == ""


@pytest.mark.parametrize("name", CELLS)
def test_a_users_cell_has_mutants_that_differ_and_stays_as_it_is(name, load):
    cell = load(CELLS[name]).Cell()
    before = [dict(vars(cls)) for cls in type(cell).__mro__]
    found = [m for m in source_mutants(cell) if m.note == ""]
    assert len(found) >= 5
    for mutant in found:
        wrong = mutant.plant(cell)
        seen = {outcome(cell, wrong.step_vjp, seed) for seed in range(4)}
        assert "differs" in seen, mutant.name
    assert [dict(vars(cls)) for cls in type(cell).__mro__] == before


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("plain", "d_z = (d_state + d_y) * (new * (1 - new))"),
        ("plain", "x, new, h = cache"),
        ("inherited", "d_z = d_state * (1 - new ** 2)"),
        ("attributes, updates and calls", "d_z -= d_y"),
        ("attributes, updates and calls", "d_z *= 1 - np.square(cache.h)"),
        ("attributes, updates and calls", "d_z *= 1 - cache.new"),
        ("attributes, updates and calls", "d_params['b'] = np.mean(d_z, axis=0)"),
        ("states", "d_s = d_state['h'] + d_y"),
        ("states", "'s': 1.0 * d_s"),
        ("closure", "slope = lambda new: ones(new) - new"),
    ],
)
def test_a_users_cell_gets_the_mistakes_that_its_way_of_writing_invites(name, wrong, load):
    assert wrong in written(load(CELLS[name]).Cell())


def test_a_missing_statement_is_a_mutant(load):
    sentences = {m.sentence for m in source_mutants(load(ATTRIBUTES_UPDATES_AND_CALLS).Cell())}
    assert {"`d_z += d_y` is missing", "`d_z *= 1 - np.square(cache.new)` is missing"} <= sentences


def test_a_class_that_extends_another_has_its_own_lines_changed_and_calls_the_right_base(load):
    cell = load(EXTENDED).Cell()
    found = source_mutants(cell)
    assert any("super().step_vjp(params, cache, d_state, 0.0 * d_y)" in m.sentence for m in found)
    mutant = next(m for m in found if "`return (d_params, d_h, 2.0 * d_x)`" in m.sentence)
    one = one_step(cell)
    right, wrong = (one.run(cell, c.step_vjp) for c in (cell, mutant.plant(cell)))
    assert np.array_equal(wrong["d_x"], 2.0 * right["d_x"])
    assert all(np.array_equal(wrong[k], v) for k, v in right.items() if k != "d_x")


def test_neither_the_module_nor_decorators_nor_defaults_run_a_second_time(load):
    module = load(CLOSURE + "\nRUNS.append('module')\n")
    assert sorted(module.RUNS) == ["default", "module"]
    mutants = source_mutants(module.Cell())
    for mutant in mutants:
        mutant.plant(module.Cell())
    assert set(module.RUNS) == {"default", "module", "init"}
    assert [module.RUNS.count(what) for what in ("default", "module")] == [1, 1]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (PLAIN.replace("    def step_vjp", "    @traced\n    def step_vjp"),
         "step_vjp is the function 'inner', which a decorator"),
        (PLAIN.replace("    def step_vjp", "    @kept\n    def step_vjp"),
         "step_vjp is decorated with @kept: its source is not all of it"),
        (PLAIN.replace("    def step_vjp", "    @partial\n    def step_vjp"),
         "step_vjp is a partialmethod, which has no Python source"),
        (PLAIN.replace("step_vjp", "backward") + "    step_vjp = backward\n",
         "step_vjp is the function 'backward', which"),
        (PLAIN.replace("        x, h", "        while False:\n            pass\n        x, h"),
         "step_vjp has a `while` loop, which might not end"),
        (PLAIN.replace("d_state + d_y", "d_state + d_yy"),
         "the cell cannot be run: NameError: name 'd_yy'"),
        (PLAIN.replace("class Cell(Forward):", "class Cell(Forward):\n    init = None"),
         "no cell: only a step_vjp is changed"),
        ("""
         def backward(*arguments):
             raise AssertionError("never run")

         class Cell(Forward):
             def step_vjp(self, *arguments):
                 return RUNS and Cell.right(*arguments)

             def right(params, cache, d_state, d_y):
                 return {k: 0 * v for k, v in params.items()}, 0 * d_state, 0 * cache.x
         """, "there is nothing to change in the source of step_vjp"),
    ],
)  # fmt: skip
def test_what_cannot_be_changed_is_declined_with_the_reason(source, reason, load):
    decorators = """
    import functools

    def traced(function):
        @functools.wraps(function)
        def inner(*arguments):
            return function(*arguments)
        return inner

    def kept(function):
        function.kept = True
        return function

    def partial(function):
        return functools.partialmethod(function)
    """
    cell = load(textwrap.dedent(decorators) + textwrap.dedent(source)).Cell()
    assert source_mutants(cell) == ()
    assert reason in why_no_source(cell)


def test_a_file_that_was_changed_after_its_import_is_declined(load, tmp_path):
    module = load(PLAIN)
    assert source_mutants(module.Cell())
    (tmp_path / "cell.py").write_text(FORWARD + PLAIN.replace("1 - new**2", "1 + new**2"))
    assert source_mutants(module.Cell()) == ()
    assert "is not what runs: the file was changed" in why_no_source(module.Cell())
    (tmp_path / "cell.py").write_text("no source (")
    assert "cannot be read" in why_no_source(module.Cell())
    (tmp_path / "cell.py").unlink()
    assert "cannot be read" in why_no_source(module.Cell())


def test_a_class_without_a_file_is_declined():
    names = {}
    exec(compile(FORWARD + PLAIN, "<made by hand>", "exec"), names)
    assert source_mutants(names["Cell"]()) == ()
    assert "the source of step_vjp cannot be read" in why_no_source(names["Cell"]())


def test_a_cell_of_a_notebook_whose_statements_are_compiled_one_by_one_is_read(monkeypatch):
    text, name = FORWARD + PLAIN, "/tmp/kernel_1/cell.py"
    monkeypatch.setitem(linecache.cache, name, (len(text), None, text.splitlines(True), name))
    module = types.ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", module)
    for statement in ast.parse(text).body:
        exec(compile(ast.Module([statement], []), name, "exec"), vars(module))
    assert source_mutants(module.Cell())


def test_code_under_the_name_of_a_file_that_is_not_its_own_is_declined():
    names = {"__name__": "elsewhere"}
    exec(compile(FORWARD + PLAIN, Elman.step_vjp.__code__.co_filename, "exec"), names)
    assert "is not what runs" in why_no_source(names["Cell"]())


class Native(Elman):
    """A method without Python source, as one of a C extension."""

    step_vjp = functools.partial(print)


class OnTheInstance(Elman):
    def __init__(self):
        object.__setattr__(self, "step_vjp", Elman().step_vjp)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (Native(), "step_vjp is a partial, which has no Python source; instead: a plain method"),
        (OnTheInstance(), "step_vjp is an attribute of the instance"),
        (source_mutants(LSTM())[0].plant(LSTM()), "step_vjp delegates to another function"),
        (object(), "no cell"),
        (None, "no cell"),
    ],
)
def test_a_step_vjp_without_source_of_its_own_is_declined(target, reason):
    assert source_mutants(target) == ()
    assert why_no_source(target).startswith(reason)
    with pytest.raises(Declined, match=reason):
        read(target)


def loss_and_gradient(x, W):
    h = np.tanh(x @ W)
    value = 0.5 * np.sum(h**2)
    d = h * (1 - h**2)
    if len(x) > 1000:
        d = d * 1.0
    return value, x.T @ d


def test_of_a_loss_with_gradients_the_loss_stays_as_it_is():
    function = adapt.from_grad(loss_and_gradient, "x: N D, W: D H", returns="loss, dW")
    mutants = catalogue(function)
    x, W = np.random.default_rng(0).standard_normal((2, 3, 3))
    value, right = loss_and_gradient(x, W)
    differ = [one for one in mutants if not one.note]
    assert len(differ) > 5
    for one in differ:
        same, wrong = one.plant(function).forward_function(x, W)
        assert same == value, one.name
        assert not np.allclose(wrong, right), one.name
    never = [one.note for one in mutants if "d * 1.0" in one.name]
    assert never
    assert {note.partition(", ")[2] for note in never} == {"none of which reached its line"}
    with pytest.raises(BpttcheckError, match="should be the function that was changed"):
        differ[0].plant(LSTM())
    with pytest.raises(ContractError, match="in which only the family 'source' is planted"):
        catalogue(function, families=("sign",))


def test_a_cell_made_of_functions_is_declined():
    cell = adapt.from_callables(
        lambda params, state, x: (state, state, x),
        lambda params, cache, d_state, d_y: ({"b": d_y.sum(0)}, d_state, cache),
        init={"b": ("n_hidden",)},
    )
    assert source_mutants(cell) == ()
    assert "delegates to another function" in why_no_source(cell)
