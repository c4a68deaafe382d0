"""The search for a wrongly translated operation: planted ones are named, all else is not blamed."""

import gc
import weakref

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpttcheck import trees
from bpttcheck.cells import LSTM, GRUResetAfter
from bpttcheck.errors import InternalError
from bpttcheck.jax_mode import enable_x64
from bpttcheck.oracles.tracer import functions as _lift_functions
from bpttcheck.oracles.tracer import index as _lift_index
from bpttcheck.oracles.tracer import memory as _lift_memory
from bpttcheck.oracles.tracer import ufuncs as _lift_ufuncs
from bpttcheck.oracles.tracer.divergence import first_departure
from bpttcheck.oracles.tracer.functions import SPECIAL
from bpttcheck.oracles.tracer.trace import lift

RNG = np.random.default_rng(11)
PARAMS = {"U": RNG.standard_normal((4, 2)), "W": RNG.standard_normal((4, 4))}
STATE = RNG.standard_normal((3, 4))
XS = RNG.standard_normal((3, 3, 2))


def search(step, xs=XS):
    """The departure, of a step that JAX is known to trace."""
    with enable_x64():
        lift(step)(*(trees.map_leaves(np.array, tree) for tree in (PARAMS, STATE, xs[0])))
    return first_departure(step, PARAMS, STATE, xs)


def step(params, state, x):
    z = x @ params["U"].T + state @ params["W"].T
    v = z[:, :2]
    v *= 0.5
    z[:, 3] = np.cumsum(z, axis=1)[:, 2]
    h = np.tanh(z)
    return h, np.where(h > 0, h, 0.1 * h).sum(axis=1, keepdims=True)


def spoilt(form, change):
    return lambda *args, **kwargs: change(form(*args, **kwargs))


@pytest.fixture
def plant(monkeypatch):
    """Translate one NumPy function wrongly: what JAX gives for it is changed."""

    def plant(function, change):
        if not isinstance(function, np.ufunc):
            form = _lift_functions.FORMS[function]
            monkeypatch.setitem(_lift_functions.FORMS, function, spoilt(form, change))
            return
        form_of = _lift_ufuncs.form_of
        wrong = spoilt(form_of(function), change)
        forms = lambda ufunc: wrong if ufunc is function else form_of(ufunc)  # noqa: E731
        monkeypatch.setattr(_lift_ufuncs, "form_of", forms)

    return plant


PLANTED = {
    "np.matmul": (np.matmul, "z = x @ params", "off by"),
    "np.multiply": (np.multiply, "v *= 0.5", "off by"),
    "np.cumsum": (np.cumsum, "z[:, 3] = np.cumsum(z, axis=1)", "off by"),
    "np.tanh": (np.tanh, "h = np.tanh(z)", "off by"),
    "np.greater": (np.greater, "return h, np.where(h > 0", "off by 1 "),
    "np.sum": (np.sum, "return h, np.where(h > 0", "off by"),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", PLANTED)
def test_a_wrong_translation_is_named_with_its_line(plant, name):
    function, line, what = PLANTED[name]
    assert search(step) is None
    plant(function, lambda value: ~value if value.dtype == bool else value * (1 + 1e-9))
    found = search(step)
    assert found.function == name
    assert found.where.startswith("test_divergence.py:")
    assert line in found.where
    assert found.what.startswith(what)
    assert str(found) == f"{name} at {found.where} ({found.what})"


def test_the_first_of_several_wrong_translations_is_named(plant):
    plant(np.tanh, lambda value: -value)
    plant(np.cumsum, lambda value: -value)
    assert search(step).function == "np.cumsum"


@settings(max_examples=30, deadline=None)
@given(exponent=st.floats(-12, 2), negative=st.booleans())
def test_an_error_of_any_size_above_rounding_is_found(exponent, negative):
    factor = 1 + (-1) ** negative * 10.0**exponent
    with pytest.MonkeyPatch.context() as patch:
        form = spoilt(_lift_functions.FORMS[np.cumsum], lambda value: value * factor)
        patch.setitem(_lift_functions.FORMS, np.cumsum, form)
        assert search(step, XS[:1]).function == "np.cumsum"


def test_a_number_that_is_lost_is_found(plant):
    plant(np.cumsum, lambda value: value * jnp.nan)
    found = search(step)
    assert (found.function, "off by nan" in found.what) == ("np.cumsum", True)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (lambda v: v[:2, 0], "shape (2,) where NumPy gives (4,)"),
        (lambda v: (v[0], v[1]), "2 results where NumPy gives 1"),
    ],
)
def test_a_result_of_another_form_is_found(monkeypatch, wrong, what):
    def diagonal(params, state, x):
        h = state * np.diag(params["W"])
        return h, h

    assert search(diagonal) is None
    monkeypatch.setitem(SPECIAL, np.diag, wrong)
    found = first_departure(diagonal, PARAMS, STATE, XS)
    assert (found.function, found.what) == ("np.diag", what)
    assert "h = state * np.diag" in found.where


def test_a_write_through_a_view_that_is_lost_is_named_where_it_is_written(monkeypatch):
    monkeypatch.setattr(_lift_memory.Route, "put", lambda self, whole, value: whole)
    found = search(step)
    assert found.function == "np.multiply"
    assert "v *= 0.5" in found.where


def test_an_assignment_that_is_lost_is_named(monkeypatch):
    def assigns(params, state, x):
        h = state * 2.0
        h[0, 1:] = x[0, 0]
        return h, h

    monkeypatch.setattr(_lift_memory.Route, "put", lambda self, whole, value: whole)
    found = search(assigns)
    assert found.function == "z[...] = ..."
    assert "h[0, 1:] = x[0, 0]" in found.where


def test_a_view_taken_for_a_copy_is_named_where_it_is_made(monkeypatch):
    def copies(native, args, kwargs=None):
        return _lift_index.perform(lambda *a: native(*a).copy(), native, args, kwargs)

    monkeypatch.setattr(_lift_index, "rearrange", copies)
    found = search(step)
    assert (found.function, found.what) == ("z[...]", "NumPy gives a view, and the trace does not")
    assert "v = z[:, :2]" in found.where


def test_a_translation_that_is_wrong_at_some_values_only_is_found_at_a_later_step(plant):
    plant(np.tanh, lambda value: jnp.where(jnp.abs(value) > 0.9999, 1.0, value))

    def grows(params, state, x):
        h = 3.0 * np.tanh(x + 0.5 * state[:, :2])
        return np.concatenate([h, h], axis=1), h

    small = 0 * XS
    assert first_departure(grows, PARAMS, 0 * STATE, small) is None
    small[2] = 10.0
    found = first_departure(grows, PARAMS, 0 * STATE, small)
    assert (found.function, "h = 3.0 * np.tanh" in found.where) == ("np.tanh", True)


class Keeps:
    """Each call is another function: a counter, a random number or a changed argument."""

    def __init__(self):
        self.count = 0
        self.rng = np.random.default_rng(0)

    def counter(self, params, state, x):
        self.count += 1
        h = np.tanh(state * self.count)
        return h, h

    def random_numbers(self, params, state, x):
        h = np.tanh(state) * self.rng.random(4)
        return h, h

    def changed_argument(self, params, state, x):
        params["W"] *= 0.5
        h = np.tanh(state @ params["W"])
        return h, h


@pytest.mark.parametrize("name", ["counter", "random_numbers", "changed_argument"])
def test_no_operation_is_blamed_for_state_or_random_numbers(name):
    before = {key: value.copy() for key, value in PARAMS.items()}
    one, other = Keeps(), Keeps()
    natively = [getattr(one, name)(before, STATE, XS[0])[1] for _ in range(2)]
    assert not np.array_equal(*natively)
    assert search(getattr(other, name)) is None


def test_the_searched_arguments_stay_as_they_were():
    kept = [leaf.copy() for leaf in (*PARAMS.values(), STATE, XS)]
    search(Keeps().changed_argument)
    for leaf, before in zip((*PARAMS.values(), STATE, XS), kept, strict=True):
        np.testing.assert_array_equal(leaf, before)


@pytest.mark.parametrize("cell", [LSTM(), GRUResetAfter()], ids=lambda cell: type(cell).__name__)
def test_a_correct_cell_has_no_departure(cell):
    params = cell.init(np.random.default_rng(0), 2, 4)
    state = cell.initial_state(params, 3)
    assert first_departure(lambda *a: cell.step(*a)[:2], params, state, XS) is None


def corners(params, state, x):
    z = np.asfortranarray(state @ params["W"])
    flat = z.T.ravel()
    flat[::3] += 1.0
    z.flat[5:7] = x[0]
    z[z > 1] = z[z > 1] ** 2
    z[1:2] = z[1:2] - z[1:2].mean()
    np.clip(z, -2, 2, out=z)
    np.add.at(z, (np.array([0, 0, 2]), 1), 0.25)
    z.T[0, :] = np.sort(z, axis=0)[::-1, 3]
    pieces = np.split(np.r_[z.reshape(-1), x.ravel()], [6, 12])
    pieces[0] -= pieces[1]
    np.copyto(z[:, 0], pieces[0][:3], where=state[:, 0] > 0)
    half = np.apply_along_axis(lambda row: row / row.sum(), 1, np.exp(z)).astype(np.float32)
    return z, half * np.einsum("bi,ij->bj", state, params["W"]).astype(np.float32)


def test_views_masks_buffers_and_single_precision_are_followed_without_a_false_alarm():
    assert search(corners) is None


def test_cancellation_is_rounding_and_no_departure():
    def cancels(params, state, x):
        h = np.exp(state) - np.exp(state * (1 + 1e-15))
        return state, 1e12 * h / np.abs(h + 1e-16)

    with enable_x64():
        traced = np.asarray(lift(cancels)(PARAMS, jnp.asarray(STATE), XS[0])[1])
    assert np.abs(traced - cancels(PARAMS, STATE, XS[0])[1]).max() > 1
    assert search(cancels) is None


def test_a_step_that_cannot_be_traced_or_fails_names_nothing():
    def branches(params, state, x):
        return (state, x) if state.sum() > 0 else (-state, x)

    def fails(params, state, x):
        raise ValueError("nothing to see")

    assert first_departure(branches, PARAMS, STATE, XS) is None
    assert first_departure(fails, PARAMS, STATE, XS) is None


def test_a_departure_before_what_cannot_be_traced_is_still_named(plant):
    def branches(params, state, x):
        h = np.cumsum(state, axis=1)
        return (h, x) if h.sum() > 0 else (-h, x)

    plant(np.cumsum, lambda value: 2 * value)
    assert first_departure(branches, PARAMS, STATE, XS).function == "np.cumsum"


def test_whole_numbers_of_a_state_are_carried():
    def counts(params, state, x):
        h, n = state
        return (np.tanh(h + n[:, None]), n + 1), h

    n = np.zeros(3, np.int64)
    assert first_departure(counts, PARAMS, (STATE, n), XS) is None


def test_a_search_that_fails_keeps_nothing_of_its_caller_alive():
    class ArrayProxy:
        pass

    def branches(params, state, x):
        return (state, x) if state.sum() > 0 else (-state, x)

    def caller():
        held = ArrayProxy()
        assert first_departure(branches, PARAMS, STATE, XS) is None
        return weakref.ref(held)

    gc.collect()
    gc.disable()
    try:
        assert caller()() is None
    finally:
        gc.enable()


def test_a_defect_of_the_tracer_does_not_end_the_search_in_silence(monkeypatch):
    monkeypatch.delattr(_lift_ufuncs, "fresh")
    with pytest.raises(InternalError, match=r"NameError: .*'fresh'"):
        first_departure(lambda p, s, x: (s * x, s), {}, np.ones((2, 3)), np.ones((1, 2, 3)))
