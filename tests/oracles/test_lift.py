"""The tracer: NumPy idioms traced or declined, views, names put back, exceptions, states."""

from __future__ import annotations

import builtins
import collections
import contextlib
import functools
import importlib.util
import inspect
import math
import random
import sys
import textwrap
import threading
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxpr_as_fun
from jax.flatten_util import ravel_pytree
from numpy import zeros

from bpttcheck.errors import Declined
from bpttcheck.jax_mode import enable_x64
from bpttcheck.oracles.tracer.trace import lift

ROOT = Path(__file__).resolve().parents[2]
CHEAP = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def load(path: Path, name: str):
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLE = load(ROOT / "tests" / "oracles" / "numpy_idioms.py", "numpy_idioms")
TRACED = [idiom for idiom in TABLE.IDIOMS if idiom.remedy is None]
REFUSED = [idiom for idiom in TABLE.IDIOMS if idiom.remedy is not None]


@pytest.fixture(autouse=True)
def double_precision():
    with enable_x64(True):
        yield


def point():
    rng = np.random.default_rng(3)
    shapes = {"U": (4, 2), "W": (4, 4), "b": (4,), "s": ()}
    params = {name: np.array(rng.standard_normal(shape)) for name, shape in shapes.items()}
    return params, rng.standard_normal((3, 4)), rng.standard_normal((3, 2))


def natively(function, flat):
    params, h, x = (ravel_pytree(point())[1])(jnp.asarray(flat))
    params = {name: np.array(value) for name, value in params.items()}
    params["s"] = np.float64(params["s"])
    return function(params, np.array(h), np.array(x))


def cotangent(size):
    return np.cos(np.arange(size))


@pytest.fixture(scope="session")
def asked(request):
    """The idioms that this session asks about: the others need no tracing and no compiling."""
    rows = [item for item in request.session.items if "idiom" in getattr(item, "fixturenames", ())]
    return frozenset(
        row.callspec.params["idiom"].name for row in rows if not row.get_closest_marker("skip")
    )


@functools.cache
def outcomes(section, asked):
    """Of each idiom asked about in a section: value and gradient, or the exception."""
    flat, unflatten = ravel_pytree(point())
    programs, made = {}, {}
    for idiom in TRACED:
        if idiom.section == section and idiom.name in asked:
            lifted = lift(idiom.function)
            try:
                traced = jax.make_jaxpr(lambda v, f=lifted: f(*unflatten(v)))(flat)
                programs[idiom.name] = jaxpr_as_fun(traced)
            except Exception as error:
                made[idiom.name] = error

    def run(flat):
        found = {}
        for name, program in programs.items():
            value = program(flat)[0]

            def total(v, program=program, size=value.size):
                return jnp.vdot(cotangent(size), program(v)[0].reshape(-1).astype(float))

            found[name] = (value, jax.grad(total)(flat))
        return found

    return {**made, **jax.jit(run).lower(flat).compile(CHEAP)(flat)}


@pytest.mark.sampled(52)
@pytest.mark.parametrize("idiom", TRACED, ids=lambda idiom: idiom.name)
def test_an_idiom_traces_to_numpys_value_and_the_right_gradient(idiom, asked):
    outcome = outcomes(idiom.section, asked)[idiom.name]
    if isinstance(outcome, Exception):
        raise outcome
    value, gradient = (np.asarray(item) for item in outcome)
    flat = np.asarray(ravel_pytree(point())[0])
    expected = np.asarray(natively(idiom.function, flat))
    assert value.shape == expected.shape
    assert value.dtype == expected.dtype
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12 * abs(expected).max())

    def total(v):
        return cotangent(value.size) @ np.asarray(natively(idiom.function, v)).reshape(-1)

    direction = np.random.default_rng(5).standard_normal(flat.size)
    step = 1e-6
    slope = (total(flat + step * direction) - total(flat - step * direction)) / (2 * step)
    scale = max(1.0, abs(slope), np.linalg.norm(gradient))
    assert abs(gradient @ direction - slope) < 1e-5 * scale


@pytest.mark.parametrize("idiom", REFUSED, ids=lambda idiom: idiom.name)
def test_an_idiom_is_declined_with_its_line_and_a_remedy(idiom):
    before = TABLE.TABLE.copy()
    with pytest.raises(Declined) as caught:
        jax.make_jaxpr(lift(idiom.function))(*point())
    place, _, line = caught.value.where.partition(": ")
    assert place.startswith("numpy_idioms.py:")
    assert line in inspect.getsource(idiom.function)
    assert caught.value.remedy == idiom.remedy
    np.testing.assert_array_equal(TABLE.TABLE, before)


# Corners: steps of one array h (3, 4), and what NumPy makes of them.


def buffers_and_outs(h):
    quotient, rest = np.empty_like(h), np.empty_like(h)
    np.divmod(h, 0.3, out=(quotient, rest))
    np.exp(h, quotient, where=h > 0)
    product = np.empty((3, 3))
    np.dot(h, h.T, product)
    return quotient, rest, product, np.add(h, 1, dtype=np.float32), np.take(h, [0], out=rest[0, :1])


def updates_at_places(h):
    z, k = h * 2.0 @ np.eye(4), np.argmax(h, axis=1)
    np.add.at(z, (np.arange(3), k), 1.0)
    np.add.at(z, (0, [1, 1]), h[0, :2])
    np.maximum.at(z, ([0, 1], [0, 2]), 0.5)
    np.divide.at(z, 2, 2.0)
    return z


def puts_with_modes(h):
    z = np.zeros((3, 4))
    z += h
    np.put(z, [13, -1], [1.0, 2.0], mode="wrap")
    np.put(z, [99], h[0, 0], mode="clip")
    np.place(z, np.arange(12).reshape(3, 4) == 4, h[1, 1])
    z.put(2, 9.0)
    return z


def flat_views(h):
    z = h @ np.eye(4)
    z.flat = [float(k) for k in range(12)]
    z.flat[[1, 3]] = h[0, :2]
    z.flat[5:7] = 1.5
    return z, len(z.flat) * z, np.array(list(z.flat)), z.flat[2:4] * 2


def assigned_shapes(h):
    z = np.zeros((3, 4))
    z[0] = [h[0, 0], 1.0, h[0, 1], 2.0]
    z[1:2] = h[None, :1]
    z[2] = (h[:1] + 0j).real
    z[[0, 1], 1] = h[None, :2, 0]
    z[...] = z * 2
    return z, z.mT, z.view(), z.nbytes * z, z.itemsize * z.strides[0] * h


def constants_stay_numpy(h):
    k = np.arange(4)
    k[1] = 7
    k.partition(2)
    table = {k.item(0): 1.0, int(k[1]): 2.0}
    picked = [table.get(n, 0.5) for n in k.tolist()]
    rows, _ = np.nonzero(np.eye(3))
    total = complex(np.ones(())).real + float(np.float64(2)) + hash(np.int64(3)) + len(k.data)
    assert f"{k[0]} {k}" == "0 [0 2 3 7]"
    assert np.vectorize(lambda v: v + 1)(k).sum() == k.sum() + 4
    return h * picked + total + rows[:, None] + math.sqrt(np.array(4.0)) + (k.base is None)


def odds_and_ends(h):
    out = np.zeros(h.shape)
    for place, value in np.ndenumerate(h):
        out[place] = value
    h.conj()[0] = 1.0
    w = h.copy()
    w.setflags(write=False)
    drawn = np.random.RandomState(0).rand(3, 4)
    return out, h, w, drawn + h, np.r_[h[0], 1.0, h[1, :1]], h == h, np.real(h), h.imag


def empty_arrays(h):
    none = h[:0]
    none *= 2
    return none, none.sum(axis=0), np.concatenate([none, h]), none.reshape(0, 2, 2), none.T @ none


def diagonal_by_stride(h):
    w = h.T @ h
    w.ravel()[::5] = 0.0
    w.reshape(2, 2, 4)[:, 0, ::3] += 1.0
    w.reshape(8, 2)[1::3, 0] -= 1.0
    return w


def pieces_and_fills(h):
    w, z = h * 1.0, h * 2.0
    w[0, 0] = np.nan
    np.nan_to_num(w, copy=False, nan=2.0)
    z.sort(axis=0)
    z[1:].fill(h[0, 0])
    rows = np.full((2, 4), h[0]), np.full((2, 4), 0.5) + h[:2], np.full_like(h, h[0, 1])
    by_three = np.piecewise(h, [h < -1, h > 1], [-1.0, lambda v: v * v, 0.5])
    return w, z, *rows, by_three, np.piecewise(h[0], h[0] > 0, [np.sqrt, 0.0])


def entries_of_a_mask(h):
    z, mask = h * 1.0, h > 0
    some = h[mask].copy()
    some *= 2.0
    assert some.ndim == 1
    z[mask] = some.astype(float) + np.clip(h[mask], 0.0, 1.0)
    return z


def lists_among_arrays(h):
    table = [[1.0, 2.0, 3.0, 4.0]]
    joined = np.concatenate([h, table, [list(h[0])]]), np.vstack([h, table]), np.c_[h, h[:, :1]]
    picked = np.where([True, False, True, False], h, 0.0), (h * h) ** np.array(0.5)
    constant_rows = np.apply_along_axis(lambda row: 1.0, 1, h)
    return *joined, *picked, *np.broadcast_arrays(h, h[0]), constant_rows * np.shares_memory(h, h)


def numbers_that_are_known(h):
    k, square = np.arange(4), np.zeros((3, 3))
    np.add.at(k, [0, 0], 1)
    np.cumsum(np.arange(4), out=k)
    np.add(k, 1, out=k)
    assert np.array2string(k) == str(k) == "[1 2 4 7]"
    assert (repr(k), bool(k[0])) == ("array([1, 2, 4, 7])", True)
    np.fill_diagonal(square, 2.0)
    np.fill_diagonal(square, h[0, 0])
    np.put_along_axis(square, np.array([[0], [1], [2]]), h[:, :1], axis=1)
    return h * np.random.default_rng(0).choice(k) + np.vectorize(abs)(k), square, 1.0, k


def views_at_a_traced_place(h):
    z, k = h * 1.0, np.argmax(h[0])
    row = z[:, k]
    row += 1.0
    return z, np.copy(row), row[::2]


CORNERS = [
    buffers_and_outs,
    updates_at_places,
    puts_with_modes,
    flat_views,
    assigned_shapes,
    constants_stay_numpy,
    odds_and_ends,
    empty_arrays,
    diagonal_by_stride,
    pieces_and_fills,
    entries_of_a_mask,
    lists_among_arrays,
    numbers_that_are_known,
    views_at_a_traced_place,
]


@pytest.mark.parametrize("step", CORNERS)
def test_a_corner_of_numpy_is_kept(step):
    program = jax.make_jaxpr(lift(step))(CORNER.copy())
    got = jax.jit(jaxpr_as_fun(program)).lower(CORNER).compile(CHEAP)(CORNER)
    for one, other in zip(got, jax.tree.leaves(step(CORNER.copy())), strict=True):
        assert one.dtype == np.asarray(other).dtype
        np.testing.assert_allclose(one, other, rtol=1e-6 if one.dtype == np.float32 else 1e-13)


CORNER = np.random.default_rng(8).standard_normal((3, 4))
FROM_OUTSIDE = [np.zeros((3, 4))]


@pytest.mark.parametrize(
    "step",
    [
        lambda h: len(h[h > 0]) * h,
        lambda h: sum(h[h > 0]),
        lambda h: h if h[h > 0] else -h,
        lambda h: h[h > 0][0] * h,
        lambda h: h[h > 0].shape,
        lambda h: np.add.reduce(h[h > 0]) * h,
        lambda h: np.exp(h[h > 0], out=np.ones(3)),
        lambda h: np.array([h[h > 0]]),
        lambda h: np.cumsum(h[h > 0]),
        lambda h: h[:, h[0] > 0],
        lambda h: h == None,  # noqa: E711 - the idiom under test
        lambda h: np.exp(h, where=h > 0),
        lambda h: np.add(h, 1, signature="dd->d"),
        lambda h: np.maximum.at(h, ([0, 0], [0, 0]), 1.0),
        lambda h: np.multiply.at(h, np.argmax(h, axis=1), 1.0),
        lambda h: np.median(h, overwrite_input=True),
        lambda h: np.place(h, h > 0, [1.0, 2.0]),
        lambda h: h.flat.__setitem__(slice(0, 4), h[0, :3]),
        lambda h: np.shares_memory(np.einsum("ij->ji", h), h) * h,
        lambda h: setattr(h, "shape", (4, 3)),
        lambda h: h.partition(2),
        lambda h: complex(h[0, 0]),
        lambda h: np.fromfunction(lambda i, j: float(h[0, 0]) * i, (2, 2)),
        lambda h: np.pad(h, 1, mode=lambda *a: None),
        lambda h: h.astype(np.longdouble) * 2,
        lambda h: np.array(["a"]) == h,
        lambda h: h * np.vectorize(abs)(h),
        lambda h: np.trapezoid(h > 0),
        lambda h: (h * 2).resize(2, 2),
        lambda h: h[h > 0] + h[h < 0],
        lambda h: np.exp(h[h > 0], out=np.zeros_like(h)),
        lambda h: np.random.default_rng(0).permutation(h[h > 0]),
        lambda h: np.random.default_rng(0).permutation(h),
        lambda h: (h * 1).__setitem__(h > 0, np.arange(12.0)),
        lambda h: np.copyto(FROM_OUTSIDE[0], h),
        lambda h: np.arctan2.reduce(h),
        lambda h: np.apply_along_axis(np.sum, 1, h[:0]),
        lambda h: np.require(h, np.float32),
        lambda h: np.ix_(h[0] > 0, h[0] > 0),
        lambda h: h * math.pow(h[0, 0], 2),
        lambda h: [0 for _ in range(np.argmax(h[0]))],
    ],
)
def test_what_has_no_safe_form_is_declined(step):
    with pytest.raises(Declined) as caught:
        jax.make_jaxpr(lift(step))(CORNER.copy())
    assert "test_lift.py:" in caught.value.where


def test_at_least_a_hundred_idioms_trace_and_most_view_traps_do():
    assert len(TRACED) >= 100
    assert sum(idiom.section == "Views and aliases" for idiom in TRACED) >= 25


def test_the_page_of_idioms_is_current():
    maker = load(ROOT / "docs" / "_make" / "make_idioms.py", "make_idioms")
    assert maker.PAGE.read_text(encoding="utf-8") == maker.page()


def test_a_tracer_that_loses_writes_through_views_is_seen_by_the_table(monkeypatch):
    route = importlib.import_module("bpttcheck.oracles.tracer.memory").Route
    monkeypatch.setattr(route, "put", lambda self, whole, value: whole)
    flat = np.asarray(ravel_pytree(point())[0])
    for name in ("slice_changed_in_place", "transposed_write", "split_pieces_changed"):
        function = getattr(TABLE, name)
        traced = np.asarray(lift(function)(*point()))
        assert not np.allclose(traced, natively(function, flat))


def view_program(seed, h, x):
    """A random mix of views, copies and writes; the same for NumPy and for the tracer."""
    rng = random.Random(seed)
    arrays = [h @ x.T, np.tanh(x @ x.T), np.zeros((2, 3, 2)), np.array(x)]
    for _ in range(rng.randint(3, 9)):
        array, other = rng.choice(arrays), rng.choice(arrays)
        act = rng.choice(VIEWERS + WRITERS + COPIERS)
        made = act(array, other, rng)
        if isinstance(made, np.ndarray):
            arrays.append(made)
    return tuple(arrays)


def axis_of(array, rng):
    return rng.randrange(array.ndim) if array.ndim else None


def sliced(array, other, rng):
    axis = axis_of(array, rng)
    part = rng.choice([slice(1, None), slice(None, None, 2), slice(None, None, -1), 0])
    return None if axis is None else array[(slice(None),) * axis + (part,)]


def assigned(array, other, rng):
    if other.shape == array.shape:
        array[...] = other
    elif array.ndim == 2 and other.shape == array.shape[::-1]:
        np.copyto(array, other.T)


def shifted(array, other, rng):
    if array.ndim:
        array[..., 1:] = array[..., :-1]


VIEWERS = [
    sliced,
    sliced,
    lambda array, other, rng: array.T,
    lambda array, other, rng: np.flip(array, 0) if array.ndim else None,
    lambda array, other, rng: array[..., None],
    lambda array, other, rng: np.squeeze(array),
    lambda array, other, rng: array.reshape(-1),
    lambda array, other, rng: array.reshape(array.shape[::-1]),
    lambda array, other, rng: array.ravel(order=rng.choice("CF")),
    lambda array, other, rng: np.asarray(array),
]
WRITERS = [
    assigned,
    shifted,
    lambda array, other, rng: array.__imul__(rng.random()),
    lambda array, other, rng: array.fill(rng.random()),
    lambda array, other, rng: np.add(array, 1.0, out=array),
]
COPIERS = [
    lambda array, other, rng: array.copy(),
    lambda array, other, rng: np.copy(array),
    lambda array, other, rng: -array,
    lambda array, other, rng: np.array(array, order="F"),
    lambda array, other, rng: array[[0, -1]] if array.ndim and array.shape[0] else None,
]


@pytest.mark.nightly
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_mix_of_views_and_writes_is_numpys_or_is_declined(seed):
    rng = np.random.default_rng(seed)
    h, x = rng.standard_normal((4, 2)), rng.standard_normal((6, 2))
    try:
        expected = view_program(seed, h.copy(), x.copy())
    except (ValueError, TypeError, IndexError):
        return
    with enable_x64(True):
        try:
            traced = lift(functools.partial(view_program, seed))(h, x)
        except Declined:
            return
    for one, other in zip(traced, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


# The names that a trace swaps, and how they are put back.


def names_of(module):
    return {name: value for name, value in vars(module).items() if not name.startswith("@")}


def fill_rows(h):
    out = zeros(h.shape)
    out[:] = h
    return out


def fail_after(h):
    out = np.zeros(3)
    raise KeyError(f"{out.shape} of {h.shape}")


def branch(h):
    return h if h.sum() > 0 else -h


@pytest.mark.parametrize("function", [fill_rows, fail_after, branch])
def test_every_swapped_name_is_put_back_whatever_happens(function):
    module, importer = sys.modules[__name__], builtins.__import__
    before = names_of(module)
    with contextlib.suppress(Declined, KeyError):
        lift(function)(jnp.ones((2, 3)))
    assert names_of(module) == before
    assert np is sys.modules["numpy"]
    assert zeros is np.zeros
    assert builtins.__import__ is importer


def test_names_are_swapped_only_while_and_only_where_a_step_is_traced():
    seen = {}

    def elsewhere():
        seen["other thread"] = type(zeros(2)), isinstance(np.ones(2) + zeros(2), np.ndarray)

    def step(h):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        seen["this thread"] = type(zeros(2))
        seen["jax"] = type(sys.modules["numpy"].zeros(2))
        return h

    lift(step)(jnp.ones(2))
    assert seen["other thread"] == (np.ndarray, True)
    assert seen["this thread"] is not np.ndarray
    assert seen["jax"] is np.ndarray


def test_threads_trace_one_after_another():
    def step(h):
        out = np.empty(h.shape)
        for k in range(len(h)):
            out[k] = np.sin(h[k]) * k
        return out

    found = {}

    def trace(number):
        with enable_x64(True):
            program = jaxpr_as_fun(jax.make_jaxpr(lift(step))(np.zeros((20, number + 1))))
            found[number] = np.asarray(program(np.ones((20, number + 1)))[0])

    threads = [threading.Thread(target=trace, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        expected = np.sin(1.0) * np.arange(20)[:, None] * np.ones(number + 1)
        np.testing.assert_allclose(found[number], expected, rtol=1e-14)


def test_a_lifted_function_may_run_inside_another():
    inner = lift(lambda h: fill_rows(h) * 2)

    def outer(h):
        out = np.zeros(h.shape)
        out[:] = h
        twice = inner(jnp.ones((2, 2)))
        again = np.zeros(h.shape)
        again[:] = out
        return again + np.asarray(twice)

    np.testing.assert_array_equal(lift(outer)(jnp.ones((2, 2))), np.full((2, 2), 3.0))


HELPER = """
    import functools
    from numpy import empty_like, matmul
    from scipy.special import softmax as soft
    import math, numpy, scipy.special

    ACTIVATIONS = {"soft": soft, "tanh": numpy.tanh}

    def halves(z):
        out = empty_like(z)
        out[:, :1], out[:, 1:] = z[:, :1] * 2, matmul(z[:, 1:], numpy.eye(z.shape[1] - 1))
        return out

    def logarithm(z):
        return math.log(z[0, 0])

    class Base:
        def mix(self, h):
            return halves(h) + self.extra(h)

        @staticmethod
        def extra(h):
            return numpy.full(h.shape, h.sum())

    @functools.lru_cache
    def mask(n):
        return numpy.triu(numpy.ones((n, n)))
"""
CELL = """
    import numpy as np
    import {helper} as helper

    def wrap(function):
        import functools
        @functools.wraps(function)
        def call(*args):
            return function(*args)
        return call

    class Cell(helper.Base):
        def __init__(self, name):
            self.activation = helper.ACTIVATIONS[name]
            self.table = np.arange(3.0)

        @wrap
        def step(self, params, state, x):
            z = self.mix(state) + x @ helper.mask(x.shape[1]) + self.table
            buffer = np.zeros_like(z)
            buffer[...] = self.activation(z, axis=1)
            return buffer, buffer * params["a"], {{"buffer": buffer}}

    class Bad(Cell):
        def step(self, params, state, x):
            return state * helper.logarithm(state), x, None
"""


@pytest.fixture
def user_files(tmp_path, request):
    folder = tmp_path / getattr(request, "param", "mine")
    folder.mkdir()
    names = f"helper_{abs(hash(tmp_path))}", f"cell_{abs(hash(tmp_path))}"
    for name, text in zip(names, (HELPER, CELL.format(helper=names[0])), strict=True):
        (folder / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
    modules = [load(folder / f"{name}.py", name) for name in names]
    yield modules
    for name in names:
        del sys.modules[name]


STATE, X = np.array([[0.1, -0.2, 0.3], [0.5, 0.7, -1.0]]), np.arange(6.0).reshape(2, 3)


def test_helper_modules_base_classes_and_tables_of_functions_are_user_code(user_files):
    cell = user_files[1].Cell("soft")
    before = [names_of(module) for module in user_files] + [dict(vars(cell))]
    lifted = lift(lambda params, state, x: cell.step(params, state, x)[:2])
    params = {"a": np.array(2.0)}
    traced = jax.make_jaxpr(lifted)(params, STATE, X)
    got = jaxpr_as_fun(traced)(params["a"], STATE, X)
    np.testing.assert_allclose(got[1], cell.step(params, STATE, X)[1], rtol=1e-14)
    after = [names_of(module) for module in user_files] + [dict(vars(cell))]
    assert all(one.keys() == two.keys() for one, two in zip(before, after, strict=True))
    assert all(a[name] is b[name] for a, b in zip(before, after, strict=True) for name in a)


@pytest.mark.parametrize("user_files", ["site-packages"], indirect=True)
def test_a_cell_from_an_installed_package_is_user_code_too(user_files):
    cell = user_files[1].Cell("soft")
    traced = lift(lambda p, s, x: cell.step(p, s, x)[0])({"a": jnp.array(2.0)}, STATE, X)
    np.testing.assert_allclose(traced, cell.step({"a": 2.0}, STATE, X)[0], rtol=1e-14)


def test_a_refusal_in_a_helper_names_the_helpers_line(user_files):
    cell = user_files[1].Bad("soft")
    with pytest.raises(Declined, match=r"helper_\d+\.py:\d+: return math\.log.*instead: np\.log"):
        lift(lambda p, s, x: cell.step(p, s, x)[:2])({}, STATE, X)


def test_a_constant_cached_while_tracing_does_no_harm_afterwards(user_files):
    mask = user_files[0].mask
    lift(lambda x: x @ mask(3))(jnp.asarray(X))
    native = X @ mask(3)
    assert type(native) is np.ndarray
    np.testing.assert_array_equal(native, X @ np.triu(np.ones((3, 3))))
    again = lift(lambda x: x @ mask(3))(jnp.asarray(X))
    np.testing.assert_array_equal(again, native)

    def spoil(x):
        mask(3)[0] = x[0]
        return x

    with pytest.raises(Declined, match="outside the step"):
        lift(spoil)(jnp.asarray(X))


def test_numpy_in_a_closure_is_swapped():
    def make():
        import numpy as own

        def step(h):
            out = own.empty(h.shape)
            out[:] = h
            return out

        return step

    step = make()
    np.testing.assert_array_equal(lift(step)(jnp.arange(3.0)), np.arange(3.0))
    assert step.__closure__[0].cell_contents is np


def test_partials_and_methods_lift():
    def scaled(factor, h):
        out = np.zeros_like(h)
        out += h * factor
        return out

    np.testing.assert_array_equal(
        lift(functools.partial(scaled, np.arange(3.0)))(jnp.ones(3)), np.arange(3.0)
    )


# Exceptions.


def test_an_exception_that_user_code_raises_on_purpose_passes():
    def step(h):
        if h.ndim != 3:
            raise ValueError(f"h has {h.ndim} axes, expected 3")
        return h

    with pytest.raises(ValueError, match="expected 3"):
        lift(step)(jnp.ones(3))


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (lambda h: h + {}["missing"], KeyError),
        (lambda h: h @ np.ones((5, 5)), ValueError),
        (lambda h: h.no_such_method(), AttributeError),
        (lambda h: np.add(h, 1, out=np.zeros(h.shape, int)), TypeError),
        (lambda h: h[:, 7], IndexError),
        (lambda h: h[(h > 0).T], IndexError),
        (lambda h: np.broadcast_to(h[0], (2, 3)).__setitem__(0, 1.0), ValueError),
        (lambda h: memoryview(h), TypeError),
    ],
)
def test_any_other_exception_is_declined_with_its_line_and_cause(step, error):
    with pytest.raises(Declined) as caught:
        lift(step)(jnp.ones((2, 3)))
    assert isinstance(caught.value.__cause__, error)
    assert error.__name__ in str(caught.value) or isinstance(caught.value.__cause__, TypeError)
    assert "test_lift.py:" in caught.value.where


def test_a_refusal_that_user_code_turns_into_its_own_error_stays_a_refusal():
    def step(h):
        try:
            return h * float(h[0])
        except Exception as error:
            raise ValueError("no") from error

    with pytest.raises(Declined, match=r"float\(\).*test_lift\.py:\d+: return h \* float"):
        lift(step)(jnp.ones(3))


def test_a_traced_array_says_so_when_it_is_printed():
    said = []

    def step(h):
        said.extend([str(h), np.array_repr(h), repr(h[h > 0])])
        return h

    jax.make_jaxpr(lift(step))(CORNER)
    assert said == [*2 * ["<traced float64 array of shape (3, 4)>"], "<traced float64 z[mask]>"]


@pytest.mark.parametrize("made", ["text", object()])
def test_a_step_returns_arrays(made):
    with pytest.raises(Declined, match=f"the step returned {type(made).__name__}"):
        jax.make_jaxpr(lift(lambda h: made))(CORNER)


def test_a_traced_array_kept_from_an_earlier_call_is_declined():
    kept = collections.deque()  # what a plain list keeps is taken out again

    def step(h):
        kept.append(h * 2)
        return h + kept[0]

    jax.make_jaxpr(lift(step))(np.ones(2))
    with pytest.raises(Declined, match="earlier call"):
        jax.make_jaxpr(lift(step))(np.ones(2))
    with pytest.raises(Declined, match="earlier call"):
        kept[0] + 1


def test_single_precision_mode_is_declined():
    with enable_x64(False), pytest.raises(Declined, match="32-bit"):
        lift(lambda h: h)(jnp.ones(2))


# States, dtypes and transformations.


class State(NamedTuple):
    h: np.ndarray
    count: np.ndarray


def test_named_tuples_dicts_and_integer_leaves_keep_their_kind():
    def step(params, state, x):
        count = state["lstm"].count + 1
        seen = state["seen"] | (x[:, 0] > 0)
        h = np.tanh(state["lstm"].h + x / count[:, None]) * seen[:, None]
        return {"seen": seen, "lstm": State(h, count)}, h * 0.5 + (count // 2)[:, None]

    state = {"seen": np.array([True, False]), "lstm": State(STATE, np.array([1, 2]))}
    expected, got = step({}, state, X), lift(step)({}, state, X)
    assert type(got[0]["lstm"]) is State
    assert list(got[0]) == ["seen", "lstm"]
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        assert not one.weak_type
        np.testing.assert_allclose(one, other, rtol=1e-14)


@pytest.mark.parametrize(
    "step",
    [
        lambda k: (k * 0.5, k / 2, k // 2, k % 2, k**2, k + True, -k, k > 1),
        lambda k: (np.where(k > 1, k, 0.5), np.where(k > 1, k, 0), np.mean(k), np.sum(k)),
        lambda k: (k + np.float32(1), np.sqrt(k), np.ones(2, np.float32) * 2, k.astype(float)),
        lambda k: (np.concatenate([k, np.ones(1, np.float32)]), np.full(2, k[0]), np.arange(3) + k),
        lambda k: (k.max(), k.cumsum(), np.dot(k, k), np.minimum(k, 2), k & 1, np.int32(1) + k),
    ],
)
def test_integers_promote_as_numpy_promotes_them(step):
    counts = np.array([1, 2, 5])
    for one, other in zip(lift(step)(counts), step(counts), strict=True):
        assert one.dtype == np.asarray(other).dtype
        np.testing.assert_allclose(one, other, rtol=1e-15)


def test_a_number_from_outside_may_be_counted_up_but_not_read_again():
    def count(k):
        k += 1
        return k * 2

    def read_again(k):
        old = k
        k += 1
        return old + k

    assert lift(count)(np.array(3)) == 8
    with pytest.raises(Declined, match="changed in place"):
        lift(read_again)(np.array(3))


def test_an_index_that_depends_on_values_reads_and_writes():
    def step(z, k):
        row = z[k[0]]
        row *= 2.0
        z[k[1]] += 1.0
        z[:, k[0]] = 5.0
        z[k, k] -= row[k]
        return z + z[k[1] - 2] + np.arange(12.0).reshape(3, 4)[k[0]]

    z, k = np.arange(12.0).reshape(3, 4), np.array([0, 1, 2])
    expected = step(z.copy(), k)
    got = jaxpr_as_fun(jax.make_jaxpr(lift(step))(z, k))(z, k)[0]
    np.testing.assert_allclose(got, expected, rtol=1e-14)


def test_a_row_at_a_number_from_outside_may_be_read_but_not_changed():
    table = np.arange(12.0).reshape(3, 4)

    def read(z, k):
        return z[k] * z[k, 0] + table[0]

    def change(z, k):
        z[k] *= 2
        return z

    np.testing.assert_array_equal(lift(read)(table, np.array(1)), read(table, 1))
    with pytest.raises(Declined, match=r"may or may not be a view"):
        lift(change)(table, np.array(1))


def test_a_step_that_changes_its_inputs_changes_nothing_outside():
    def step(params, h):
        params["W"] *= 0.0
        h[0] = 7.0
        return h + params["W"]

    weights, h = np.ones((2, 2)), np.ones((2, 2))
    got = lift(step)({"W": weights}, h)
    np.testing.assert_array_equal(got, [[7, 7], [1, 1]])
    np.testing.assert_array_equal(weights, np.ones((2, 2)))
    np.testing.assert_array_equal(h, np.ones((2, 2)))


def test_scan_vmap_jit_and_grad_go_through():
    def step(w, h, x):
        z = np.concatenate([h, x], axis=1) @ w
        z[z < 0] *= 0.1
        return np.tanh(z)

    lifted = lift(step)
    rng = np.random.default_rng(0)
    w, xs, h0 = rng.standard_normal((5, 3)), rng.standard_normal((4, 2, 2)), np.zeros((2, 3))

    def loss(w):
        last = jax.lax.scan(lambda h, x: (lifted(w, h, x), None), h0, xs)[0]
        return (last**2).sum()

    expected = functools.reduce(lambda h, x: step(w, h, x), xs, h0)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(loss)))(np.stack([w, w]))
    np.testing.assert_allclose(values, (expected**2).sum(), rtol=1e-12)
    shifted = w.copy()
    shifted[0, 0] += 1e-6
    moved = functools.reduce(lambda h, x: step(shifted, h, x), xs, h0)
    slope = ((moved**2).sum() - (expected**2).sum()) / 1e-6
    np.testing.assert_allclose(slopes[1, 0, 0], slope, rtol=1e-4)


def test_the_far_side_of_a_mask_spoils_no_gradient():
    def sigmoid(z):
        out = np.empty_like(z)
        positive = z >= 0
        out[positive] = 1 / (1 + np.exp(-z[positive]))
        e = np.exp(z[~positive])
        out[~positive] = e / (1 + e)
        return out

    z = jnp.array([-800.0, -1.0, 0.0, 1.0, 800.0])
    gradient = jax.grad(lambda v: lift(sigmoid)(v).sum())(z)
    s = sp.expit(np.asarray(z))
    np.testing.assert_allclose(gradient, s * (1 - s), rtol=1e-12)


def test_the_program_of_a_plain_cell_is_what_jax_code_would_give():
    def in_numpy(w, h, x):
        gates = np.split(np.concatenate([x, h], axis=1) @ w, 2, axis=1)
        return np.tanh(gates[0]) * gates[1]

    def in_jax(w, h, x):
        gates = jnp.split(jnp.concatenate([x, h], axis=1) @ w, 2, axis=1)
        return jnp.tanh(gates[0]) * gates[1]

    arguments = np.ones((5, 6)), np.ones((2, 3)), np.ones((2, 2))
    one = [str(e.primitive) for e in jax.make_jaxpr(lift(in_numpy))(*arguments).eqns]
    other = [str(e.primitive) for e in jax.make_jaxpr(in_jax)(*arguments).eqns]
    assert one.count("dot_general") == other.count("dot_general") == 1
    assert not {"gather", "scatter", "convert_element_type"} & set(one)
    assert len(one) <= len(other) + 2


def test_a_list_is_no_state():
    with pytest.raises(Declined, match="returned list"):
        lift(lambda h: [h])(jnp.ones(2))
