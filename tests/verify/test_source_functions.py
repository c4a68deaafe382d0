"""Which functions are the user's own, found without running any of them."""

import functools
import sys
import textwrap

import jax
import numpy as np
import pytest
from scipy import special

from bpttcheck import adapt, cells
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.subject.source import LineCoverage, float_constants, integer_constants, user_code

SHAPES = {"W": ("n_hidden", "n_in"), "R": ("n_hidden", "n_hidden")}


def names(target, backward=None):
    return {
        found.function.__qualname__.rpartition("<locals>.")[2]
        for found in user_code(target).functions
        if backward is None or found.backward is backward
    }


def slope(h):
    return 1 - h * h


def logged(function):
    @functools.wraps(function)
    def inner(*arguments):
        return function(*arguments)

    return inner


@logged
def decorated_slope(h):
    return slope(h)


class Half:
    def __init__(self, by):
        self.by = by

    def __call__(self, d):
        return d * self.by

    def undo(self, d):
        return d / self.by


class Tanh:
    """h' = tanh(x W' + h R')."""

    def init(self, rng, n_in, n_hidden):
        return {
            "W": rng.standard_normal((n_hidden, n_in)),
            "R": rng.standard_normal((n_hidden, n_hidden)),
        }

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["R"])))

    def step(self, params, state, x):
        h = np.tanh(special.xlogy(1, 1) + x @ params["W"].T + state @ params["R"].T)
        return h, h, (x, state, h)

    def step_vjp(self, params, cache, d_state, d_y):
        return self.back(params, cache, (d_state + d_y) * slope(cache[2]))

    def back(self, params, cache, a):
        x, state, _ = cache
        return {"W": a.T @ x, "R": a.T @ state}, a @ params["R"], a @ params["W"]


class Derived(Tanh):
    halve = Half(0.5)

    def __init__(self):
        self.inner = [Tanh()]
        self.act = functools.partial(decorated_slope)

    def back(self, params, cache, a):
        import helper_that_is_not_imported  # noqa: F401 - read, never run

        return super().back(params, cache, self.twice(self.halve(a)) * self.act(cache[2]))

    @staticmethod
    def twice(a):
        return a * 2

    @property
    def unused(self):
        raise AssertionError("a property must not be run")


def test_methods_helpers_and_what_they_call_are_found():
    assert names(Tanh(), backward=True) == {"Tanh.step_vjp", "Tanh.back", "slope"}
    assert names(Tanh(), backward=False) == {"Tanh.step", "Tanh.initial_state"}


def test_overrides_super_instances_partials_and_decorators_are_followed():
    qualified = {f.function.__code__.co_qualname for f in user_code(Derived()).backward}
    assert qualified == {
        *("Tanh.step_vjp", "Derived.back", "Tanh.back", "Derived.twice", "Half.__call__"),
        *("logged.<locals>.inner", "decorated_slope", "slope"),
    }


class PrivateNames:
    def __init__(self):
        self.__half = Half(2)

    def step(self, params, state, x):
        return state, state, None

    def step_vjp(self, params, cache, d_state, d_y):
        return {}, self.__half.undo(d_state), self.__own(d_y)

    @classmethod
    def __own(cls, d):
        return cls.other(d)

    @classmethod
    def other(cls, d):
        return d


def test_private_names_and_class_methods_are_followed():
    assert names(PrivateNames(), backward=True) == {
        *("PrivateNames.step_vjp", "Half.undo", "PrivateNames.__own", "PrivateNames.other"),
    }


class Stack:
    def __init__(self, *layers):
        self.layers = layers

    def step(self, params, state, x):
        return state, x, None

    def step_vjp(self, params, cache, d_state, d_y):
        for layer in self.layers:
            d_state = layer.undo(d_state)
        return {}, d_state, d_y


def test_a_method_of_an_item_of_a_list_is_found_by_its_name_and_is_not_certain():
    found = {f.function.__qualname__: f.certain for f in user_code(Stack(Half(1))).functions}
    assert found == {"Stack.step": True, "Stack.step_vjp": True, "Half.undo": False}


class TapeOfClosures:
    def forward(self, params, xs, state0, mask=None):
        def back(d):
            return slope(d)

        def run(x):
            return Half.undo(self, x)

        return run(xs), state0, [back]

    def vjp(self, params, tape, d_ys, d_state_T):
        return {}, tape[0](d_ys), d_state_T


def test_what_a_deferred_closure_calls_belongs_to_the_backward_pass():
    assert names(TapeOfClosures(), backward=True) == {"TapeOfClosures.vjp", "slope"}
    assert names(TapeOfClosures(), backward=False) == {"TapeOfClosures.forward", "Half.undo"}


class Memorised:
    def step(self, params, state, x):
        return state, x, None

    def step_vjp(self, params, cache, d_state, d_y):
        return {}, d_state * kept(len(d_y)), d_y


@functools.lru_cache
def kept(n):
    return n


def test_a_memorised_function_is_marked():
    found = {f.function.__qualname__: f.compiled for f in user_code(Memorised()).functions}
    assert found == {"Memorised.step": False, "Memorised.step_vjp": False, "kept": True}


def raw_step(params, state, x):
    h = np.tanh(x @ params["W"].T + state @ params["R"].T)
    return h, h, (x, state, h)


def raw_back(params, cache, d_state, d_y):
    return Tanh().step_vjp(params, cache, d_state, d_y)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that modules can be imported from; they are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize(
    "vjp",
    [
        raw_back,
        functools.partial(raw_back),
        lambda params, cache, d_state, d_y: raw_back(params, cache, d_state, d_y),
        Tanh().step_vjp,
    ],
    ids=["function", "partial", "lambda", "method"],
)
def test_the_functions_inside_an_adapter_are_the_users(vjp):
    found = names(adapt.from_callables(raw_step, vjp, init=SHAPES))
    assert {"Tanh.step_vjp", "Tanh.back", "slope", "raw_step"} <= found
    assert not [name for name in found if "Adapted" in name or name.startswith("parameters")]


def test_the_rule_of_a_custom_vjp_is_found_and_is_compiled():
    @jax.custom_vjp
    def f(params, state, x):
        return state, state

    def forward(params, state, x):
        return f(params, state, x), (params, x)

    def backward(residuals, cotangents):
        if len(residuals[1]) > 77:
            return None
        return residuals[0], cotangents[0], residuals[1]

    f.defvjp(forward, backward)
    cell = adapt.from_custom_vjp(f, init=SHAPES)
    assert {"backward", "forward", "f"} == names(cell)
    assert all(found.compiled for found in user_code(cell).functions)
    assert integer_constants(cell) == (77,)
    coverage = LineCoverage(cell)
    assert not coverage.available
    assert "backward: compiled" in coverage.reason


def test_the_rule_of_a_torch_function_is_found():
    torch = pytest.importorskip("torch")

    class Rule(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, h, W, R):
            return x @ W.T + h @ R.T

        @staticmethod
        def backward(ctx, d):
            return None, slope(d), None, None

    cell = adapt.from_autograd_function(Rule, init=SHAPES)
    assert {"Rule.backward", "slope"} <= names(cell, backward=True)


def test_a_built_in_is_its_own_code_and_a_users_cell_in_our_layer_is_only_the_users():
    assert names(cells.LSTM(), backward=True) == {"LSTM.step_vjp"}
    assert "backpropagate" in names(CellLayer(cells.LSTM()), backward=True)
    assert {"Tanh.step_vjp", "slope"} <= names(CellLayer(Tanh()), backward=True)
    assert "backpropagate" not in names(CellLayer(Tanh()))


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner):
        self.inner = inner

    @functools.cached_property
    def factor(self):
        return first(self)

    @property
    def other(self):
        return second(self)

    def undo(self, d):
        return self.inner.undo(d)


class Older(Tanh):
    def back(self, params, cache, a):
        found: Half = self.slotted
        older = super(Older, self)  # noqa: UP008 - the form under test
        a = older.back(params, cache, type(self).scaled(found.undo(a)))
        if (whole := self.table["slotted"]) is not None:
            a = whole.undo(a)
        for half in (self.table, *self.table):
            a = half.twice(a) if len(a) else a
        with Opened() as opened:
            a += opened.closed(a)
        return a, found.factor, found.other

    @staticmethod
    def scaled(a):
        return third(a)

    def __init__(self):
        self.slotted = Slotted(Half(2))
        self.table = {"slotted": self.slotted}


class Opened:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def closed(self, a):
        return a


def first(x):
    return x


def second(x):
    return x


def third(x):
    return x


def test_slots_properties_and_the_older_form_of_super_are_followed():
    found = names(Older(), backward=True)
    assert {"Slotted.undo", "Half.undo", "Tanh.back", "Older.scaled", "third"} <= found
    assert {"Slotted.factor", "Slotted.other", "first", "second"} <= found


def outer_step_vjp(params, cache, d_state, d_y):
    if fourth is None:
        return None
    return fourth(d_y)


def make_late():
    def inner(params, cache, d_state, d_y):
        return later(d_y)

    found = names(adapt.from_callables(raw_step, inner, init=SHAPES), backward=True)

    def later(d):
        return d

    return found, names(adapt.from_callables(raw_step, inner, init=SHAPES), backward=True)


fourth = None


def test_names_that_mean_nothing_yet_are_left_alone():
    before, after = make_late()
    assert before == {"inner"}
    assert after == {"inner", "later"}
    cell = adapt.from_callables(raw_step, outer_step_vjp, init=SHAPES)
    assert names(cell, backward=True) == {"outer_step_vjp"}


def test_installed_packages_and_the_standard_library_are_not_the_users():
    for found in user_code(Derived()).functions:
        assert found.filename == __file__


def test_a_module_beside_the_users_is_the_users(folder):
    (folder / "helping_slopes.py").write_text(
        "def helped(h):\n    return h if len(h) > 99 else 0\n"
    )
    (folder / "cell_with_help.py").write_text(
        textwrap.dedent(
            """
            class Cell:
                def step(self, params, state, x):
                    return state, x, None
                def step_vjp(self, params, cache, d_state, d_y):
                    from helping_slopes import helped
                    return {}, helped(d_state), d_y
            """
        )
    )
    import cell_with_help
    import helping_slopes  # noqa: F401 - a late import is followed once it has been done

    assert "helped" in names(cell_with_help.Cell(), backward=True)
    assert integer_constants(cell_with_help.Cell()) == (99,)


SOURCELESS = """
class Cell:
    def step(self, params, state, x):
        return state, x, None
    def step_vjp(self, params, cache, d_state, d_y):
        return ({}, d_state, d_y) if len(d_y) > 77 else None
"""


class Strange:
    """Everything that can be asked of it raises."""

    def __getattribute__(self, name):
        raise RuntimeError(name)


class NoFunctions:
    step = np.sin
    step_vjp = np.cos
    initial_state = 3


def test_code_without_source_gives_nothing_and_raises_nothing():
    module = {}
    exec(SOURCELESS, module)
    for target in (module["Cell"](), Strange(), NoFunctions(), object(), None, 3, type, np):
        assert user_code(target).functions == ()
        assert integer_constants(target) == ()
        assert float_constants(target) == ()
        coverage = LineCoverage(target)
        assert not coverage.available
        assert coverage.reason
        with coverage.recording():
            pass
        coverage.commit()
        assert coverage.unreached() == []
        assert coverage.share() == (0, 0)


def test_a_file_that_no_longer_parses_gives_nothing(folder):
    path = folder / "broken_later.py"
    path.write_text(SOURCELESS)
    import broken_later

    path.write_text("class (:\n")
    assert user_code(broken_later.Cell()).functions == ()


def test_a_proxy_is_followed_to_what_it_stands_for():
    class Proxy:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

    assert {"Tanh.step_vjp", "Tanh.back"} <= names(Proxy(Tanh()), backward=True)
