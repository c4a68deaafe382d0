"""Defects of the tracer are internal errors; what the user's code or JAX refuses is declined."""

import itertools
import sys
import threading
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpttcheck.cells import LSTM
from bpttcheck.errors import Declined, InternalError
from bpttcheck.jax_mode import reference_mode
from bpttcheck.oracles.autodiff import autodiff, noise, programs
from bpttcheck.oracles.autodiff.autodiff import Autodiff, Point
from bpttcheck.oracles.tracer import call as _lift_call
from bpttcheck.oracles.tracer import trace as lift_module
from bpttcheck.oracles.tracer import ufuncs as _lift_ufuncs
from bpttcheck.oracles.tracer.trace import lift

pytestmark = pytest.mark.usefixtures("programs_apart")

EPS = 2.0**-52


def point(params, T=2, B=2, N=2, H=3):
    n = np.random.default_rng(0).standard_normal
    mask = np.ones((T, B), bool)
    return Point(params, n((B, H)), n((T, B, N)), mask, n((T, B, H)), n((B, H)))


def plain(step):
    """What autodiff says of a step on plain NumPy arrays whose one parameter is W (H, H)."""
    return Autodiff(lift(step)).gradients(point({"W": np.eye(3)}), EPS, 1)


def in_jax(step):
    return Autodiff(step).gradients(point({"W": np.eye(3)}), EPS, 1)


def ordinary(p, s, x):
    y = np.tanh(s @ p["W"] + x[:, :1])
    return y, y


def broken(*_, **__):
    raise KeyError("jaxpr")


@pytest.mark.parametrize(
    ("home", "name"),
    [
        (_lift_call, "_pair"),
        (_lift_ufuncs, "fresh"),
        (lift_module, "enter"),
        (lift_module, "leave"),
        (programs, "count_draws"),
        (programs, "_perturbed"),
        (programs, "compile_cheaply"),
        (noise, "_round"),
        (noise, "_draws"),
        (noise.Noise, "_next"),
    ],
)
def test_a_function_of_ours_that_breaks_is_an_internal_error(monkeypatch, home, name):
    monkeypatch.setattr(home, name, broken)
    with pytest.raises(InternalError, match=r"KeyError: 'jaxpr'.*defect of bpttcheck") as caught:
        plain(ordinary)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("home", "name"), [(_lift_call, "_arrays"), (_lift_ufuncs, "cast"), (noise, "_curved")]
)
def test_so_is_a_name_that_is_gone(monkeypatch, home, name):
    monkeypatch.delattr(home, name)
    with pytest.raises(InternalError, match=f"NameError: .*{name}"):
        plain(ordinary)


def test_so_is_a_primitive_whose_parameter_has_another_name(monkeypatch):
    for call in ("pjit", "jit"):
        monkeypatch.setitem(noise._INLINED, call, "renamed")
    with pytest.raises(InternalError, match=r"differentiating the step: KeyError: 'renamed'"):
        in_jax(lambda p, s, x: (jax.jit(jnp.tanh)(s @ p["W"]), s))


def test_so_is_a_jax_form_that_breaks(monkeypatch):
    def form(*_, **__):
        return {}["missing"]

    # As it would be if it stood in the table's own module.
    code = form.__code__.replace(co_filename=_lift_ufuncs.__file__)
    ours = types.FunctionType(code, vars(_lift_ufuncs))
    monkeypatch.setitem(_lift_ufuncs.FORMS, np.sum, ours)
    with pytest.raises(InternalError, match="KeyError: 'missing'"):
        plain(lambda p, s, x: (s @ p["W"] + np.sum(x), s))


def test_every_kind_of_error_in_the_noise_is_internal(monkeypatch):
    def wrong(*_):
        raise TypeError("mul got incompatible shapes")

    monkeypatch.setattr(noise, "_round", wrong)
    with pytest.raises(InternalError, match="TypeError: mul got"):
        plain(ordinary)


def test_a_built_in_cell_is_no_part_of_the_tracer(monkeypatch):
    cell = LSTM()
    monkeypatch.setattr(_lift_call, "_pair", broken)
    params = cell.init(np.random.default_rng(0), 2, 3)
    oracle = Autodiff(lift(lambda p, s, x: cell.step(p, s, x)[:2]))
    state = cell.initial_state(params, 2)
    p = point(params)
    with pytest.raises(InternalError):
        oracle.gradients(Point(params, state, p.xs, p.mask, p.d_ys, state), EPS, 1)


def test_debugging_raises_the_error_itself(monkeypatch):
    monkeypatch.setattr(noise, "_round", broken)
    monkeypatch.setenv("BPTTCHECK_DEBUG", "1")
    with pytest.raises(KeyError, match="jaxpr"):
        plain(ordinary)
    monkeypatch.undo()
    monkeypatch.setattr(_lift_call, "_pair", broken)
    monkeypatch.setenv("BPTTCHECK_DEBUG", "1")
    with pytest.raises(KeyError, match="jaxpr"):
        plain(ordinary)


def too_deep(p, s, x):
    return too_deep(p, s, x)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (lambda p, s, x: (s @ p["V"], s), "KeyError"),
        (lambda p, s, x: (s[:, 7], s), "IndexError"),
        (lambda p, s, x: (s[range(2), [0, 9]], s), "IndexError"),
        (lambda p, s, x: (np.add.at(s.copy(), [9], 1.0), s), "IndexError"),
        (lambda p, s, x: (s.copy().flat[99], s), "IndexError"),
        (lambda p, s, x: (np.take(s, [9], axis=1), s), "IndexError"),
        (lambda p, s, x: (np.put_along_axis(s.copy(), np.array([[9]]), 1.0, 1), s), "IndexError"),
        (lambda p, s, x: (s.no_such_thing, s), "AttributeError"),
        (lambda p, s, x: (np.no_such_thing(s), s), "AttributeError"),
        (lambda p, s, x: (s / len([]) if 1 / len([]) else s, s), "ZeroDivisionError"),
        (lambda p, s, x: (undefined, s), "NameError"),  # noqa: F821 - the mistake under test
        (lambda p, s, x: (s[s.sum() > 0] if s.sum() > 0 else s, s), "`if`"),
        (lambda p, s, x: None, "NoneType"),
        (lambda p, s, x: (s,), "unpack|values"),
        (lambda p, s, x: (s, "text"), "returned str"),
        (too_deep, "RecursionError"),
    ],
)
def test_what_the_users_code_raises_is_declined(step, text):
    with pytest.raises(Declined, match=text):
        plain(step)


def one_way(x):
    return jax.lax.while_loop(lambda c: (c < 1).all(), lambda c: c + 1, x)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (lambda p, s, x: (s @ p["V"], s), "KeyError"),
        (lambda p, s, x: (s if s.sum() > 0 else -s, s), "TracerBool|Boolean"),
        (lambda p, s, x: (one_way(s), s), "everse-mode"),
        (lambda p, s, x: (jax.pure_callback(np.tanh, s, s), s), "callback"),
        (lambda p, s, x: (s[:, jnp.arange(3)[s[0] > 0]], s), "NonConcreteBooleanIndex"),
        (lambda p, s, x: None, "NoneType"),
        (lambda p, s, x: (s, object()), "object"),
        (lambda p, s, x: (s @ x, s), "TypeError"),
    ],
)
def test_what_jax_refuses_of_a_reference_is_declined(step, text):
    with pytest.raises(Declined, match=text):
        in_jax(step)


def test_a_reference_that_carries_single_precision_in_a_loop_is_judged():
    def step(p, s, x):
        last, _ = jax.lax.scan(lambda c, _: (c * jnp.float32(0.5), None), x.astype(jnp.float32),
                               None, 3)  # fmt: skip
        return s @ p["W"] + last[:, :1], s

    assert np.isfinite(in_jax(step).d_xs.value).all()


# User code runs in the thread that calls, and what it assigns does not stay.


def test_lowering_runs_user_code_at_once_and_compiling_runs_none():
    threads = []

    def step(p, s, x):
        threads.append(threading.current_thread())
        y = np.tanh(s @ p["W"] + x[:, :1])
        return y, y

    oracle, at = Autodiff(lift(step)), point({"W": np.eye(3)})
    finish = oracle.lower(at)
    assert threads == [threading.current_thread()]
    assert oracle.compilations == 0
    worker = threading.Thread(target=finish)
    worker.start()
    worker.join()
    assert oracle.compilations == 1
    oracle.gradients(at, EPS, 1)
    oracle.lower(at)()
    assert threads == [threading.current_thread()]
    assert oracle.compilations == 1


def test_a_program_that_is_needed_before_it_is_compiled_is_compiled_once():
    oracle, at = Autodiff(lift(ordinary)), point({"W": np.eye(3)})
    finish = oracle.lower(at)
    oracle.gradients(at, EPS, 1)
    finish()
    assert oracle.compilations == 1


def test_a_step_that_cannot_be_traced_is_declined_when_it_is_lowered():
    with pytest.raises(Declined, match="KeyError"):
        Autodiff(lift(lambda p, s, x: (s @ p["V"], s))).lower(point({"W": np.eye(3)}))


G = types.ModuleType("outside")
KEPT = {}


class Keeper:
    """Keeps what it is given in a module, a global, a class, a list, a dict and on itself."""

    last = None

    def __init__(self):
        self.log, self.buffers = [], {"h": None}

    def step(self, p, s, x):
        global CURRENT
        CURRENT = G.W = p["W"]
        self.x = Keeper.last = x
        self.log.append(s)
        self.buffers["h"] = (s, [x])
        KEPT["p"] = p
        y = np.tanh(s @ G.W + x[:, :1])
        return y, y


CURRENT = "before"


@pytest.mark.parametrize("lifted", [True, False])
def test_what_user_code_assigns_while_it_is_traced_is_put_back(lifted):
    G.W = "outside"
    keeper = Keeper()
    if lifted:
        plain(keeper.step)
    else:

        def step(p, s, x):
            global CURRENT
            CURRENT = G.W = p["W"]
            keeper.x = x
            return jnp.tanh(s @ G.W + x[:, :1]), s

        in_jax(step)
    assert (CURRENT, G.W, Keeper.last, vars(keeper)) == (
        "before", "outside", None, {"log": [], "buffers": {"h": None}},
    )  # fmt: skip
    assert not KEPT


def test_a_step_that_fails_leaves_nothing_behind_either():
    def step(p, s, x):
        G.W = p["W"]
        raise ValueError("no")

    G.W = "outside"
    with pytest.raises(Declined, match="no"):
        plain(step)
    assert G.W == "outside"


def test_what_counts_calls_goes_on_counting():
    calls, seen = [], {}

    def step(p, s, x):
        calls.append(x.shape)
        seen["shape"] = x.shape
        return ordinary(p, s, x)

    plain(step)
    assert calls
    assert seen["shape"] == (2, 2)


# Warnings, devices.


def test_warnings_raised_while_a_step_is_traced_do_not_escape():
    def step(p, s, x):
        warnings.warn("from the step", DeprecationWarning, stacklevel=1)
        return ordinary(p, s, x)

    before = warnings.showwarning, list(warnings.filters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain(step)
    assert (warnings.showwarning, list(warnings.filters)) == before


def test_overflow_in_our_own_arithmetic_does_not_escape():
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        found = autodiff.spread_estimate(autodiff.Spread(np.array(1e308), np.array([-1e308])), 1.0)
    assert found.error == np.inf


def test_the_reference_runs_on_the_cpu_and_the_default_device_is_left_alone():
    before = jax.config.jax_default_device
    with reference_mode():
        assert jnp.ones(2).devices() == {jax.devices("cpu")[0]}
        assert jax.config.jax_default_device == jax.devices("cpu")[0]
    assert jax.config.jax_default_device == before


def test_every_program_of_an_oracle_is_lowered_for_the_cpu(monkeypatch):
    devices = []
    lower = programs.lower

    def spy(*args):
        devices.append(jax.config.jax_default_device)
        return lower(*args)

    monkeypatch.setattr(programs, "lower", spy)
    plain(ordinary)
    assert devices == [jax.devices("cpu")[0]]


# Old names of NumPy.


@pytest.mark.skipif("row_stack" not in vars(np), reason="this NumPy has no row_stack")
def test_row_stack_is_traced_without_its_warning():
    with reference_mode():
        found = lift(lambda h: np.vstack([h, 2 * h]))(jnp.ones((1, 2)))
    np.testing.assert_array_equal(found, [[1, 1], [2, 2]])


@pytest.mark.parametrize("make", [np.asmatrix, np.bmat])
def test_matrices_are_declined_by_name_with_a_remedy(make):
    with reference_mode(), pytest.raises(Declined, match=rf"np\.{make.__name__}.*with @"):
        lift(lambda h: make(h) * 2)(jnp.ones((2, 2)))


def test_a_module_that_reads_globals_is_right_for_two_subjects_in_a_row():
    home = types.ModuleType("author_of_two")
    sys.modules[home.__name__] = home
    exec("import numpy as np\ndef f(x, s): return np.tanh(s @ W + x[:, :1])\n", vars(home))
    try:
        for _ in itertools.repeat(None, 2):

            def step(p, s, x):
                home.W = p["W"]
                y = home.f(x, s)
                return y, y

            found = plain(step).ys.value
            assert np.isfinite(found).all()
            assert not hasattr(home, "W")
    finally:
        del sys.modules[home.__name__]
