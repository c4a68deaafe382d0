from __future__ import annotations

import copy
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpttcheck.adapt import from_custom_vjp
from bpttcheck.contract import is_cell, is_layer
from bpttcheck.errors import ContractError
from bpttcheck.jax_mode import enable_x64

TABLE = {"W": ("n_hidden", "n_in"), "U": ("n_hidden", "n_hidden")}
DTYPES = [np.float64, np.float32]


def plain_elman(params, state, x):
    new = jnp.tanh(x @ params["W"].T + state @ params["U"].T)
    return new, new


def elman_bwd(saved, cotangents):
    params, state, x, new = saved
    d_pre = (cotangents[0] + cotangents[1]) * (1 - new**2)
    return {"W": d_pre.T @ x, "U": d_pre.T @ state}, d_pre @ params["U"], d_pre @ params["W"]


def elman(change=lambda gradients: gradients):
    """An Elman step with a hand-derived rule, whose gradients go through ``change``."""
    step = jax.custom_vjp(plain_elman)

    def fwd(params, state, x):
        new, y = step(params, state, x)
        return (new, y), (params, state, x, new)

    step.defvjp(fwd, lambda saved, cotangents: change(elman_bwd(saved, cotangents)))
    return step


def zero(gradients):
    return jax.tree.map(jnp.zeros_like, gradients)


def transposed(gradients):
    return {**gradients[0], "U": gradients[0]["U"].T}, *gradients[1:]


def adapted(f, **options):
    return from_custom_vjp(f, init=TABLE, **options)


def problem(cell, dtype=np.float64, T=None):
    """Parameters, state, x (or xs) and the cotangents of state and y (or ys)."""
    rng = np.random.default_rng(0)
    params = {name: value.astype(dtype) for name, value in cell.init(rng, 3, 2).items()}
    lead = () if T is None else (T,)
    shapes = [(4, 2), (*lead, 4, 3), (4, 2), (*lead, 4, 2)]
    return params, *(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def hand_gradients(cell, dtype=np.float64):
    params, state, x, d_state, d_y = problem(cell, dtype)
    cache = cell.step(params, state, x)[2]
    return cell.step_vjp(params, cache, d_state, d_y)


def jax_gradients(cell, dtype=np.float64):
    params, state, x, d_state, d_y = problem(cell, dtype)
    with enable_x64(dtype is np.float64):
        _, pull = jax.vjp(plain_elman, params, state, x)
        return jax.tree.map(np.asarray, pull((jnp.asarray(d_state), jnp.asarray(d_y))))


def assert_close(found, expected, dtype=np.float64):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert f.dtype == e.dtype == dtype
        np.testing.assert_allclose(f, e, rtol=0, atol=100 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_right_rule_gives_the_gradient_of_the_primal(dtype):
    cell = adapted(elman())
    assert is_cell(cell)
    assert not is_layer(cell)
    assert_close(hand_gradients(cell, dtype), jax_gradients(cell, dtype), dtype)


def test_the_forward_pass_is_the_primal():
    cell = adapted(elman())
    params, state, x, *_ = problem(cell)
    new, y, _ = cell.step(params, state, x)
    expected = np.tanh(x @ params["W"].T + state @ params["U"].T)
    np.testing.assert_allclose(new, expected, rtol=1e-14)
    np.testing.assert_allclose(y, expected, rtol=1e-14)
    assert cell.initial_state(params, 3).shape == (3, 2)


def test_a_wrong_rule_with_a_right_forward_pass_differs_from_the_reference():
    cell = adapted(elman(zero))
    params, state, x, d_state, d_y = problem(cell)
    with enable_x64(True):
        _, pull = jax.vjp(cell.reference, params, state, x)
        of_reference = jax.tree.map(np.asarray, pull((jnp.asarray(d_state), jnp.asarray(d_y))))
    assert_close(of_reference, jax_gradients(cell))
    assert not any(leaf.any() for leaf in jax.tree.leaves(hand_gradients(cell)))


def test_a_wrong_block_is_the_only_one_that_differs():
    cell = adapted(elman(transposed))
    found, expected = hand_gradients(cell), jax_gradients(cell)
    assert np.abs(found[0]["U"] - expected[0]["U"]).max() > 0.1
    np.testing.assert_allclose(found[0]["U"].T, expected[0]["U"], rtol=1e-12)
    np.testing.assert_allclose(found[0]["W"], expected[0]["W"], rtol=1e-12)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-12)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-12)


def test_a_custom_vjp_inside_the_primal_is_named_and_its_rule_is_not_used():
    @jax.custom_vjp
    def squash(z):
        return jnp.tanh(z)

    squash.defvjp(lambda z: (squash(z), z), lambda z, d: (7 * d,))

    @jax.jit
    def scanned(z):
        return jax.lax.scan(lambda carry, _: (squash(carry), None), z, length=1)[0]

    def primal(params, state, x):
        new = scanned(x @ params["W"].T + state @ params["U"].T)
        return new, new

    step = jax.custom_vjp(primal)
    step.defvjp(lambda *arguments: (step(*arguments), (*arguments, step(*arguments)[0])), elman_bwd)
    cell = adapted(step)
    assert cell.nested_rules == ()
    assert_close(hand_gradients(cell), jax_gradients(cell))
    assert cell.nested_rules == ("squash",)


class Both(NamedTuple):
    h: np.ndarray
    c: np.ndarray


@pytest.mark.parametrize(
    ("pack", "unpack"),
    [
        (lambda h, c: (h, c), lambda s: (s[0], s[1])),
        (Both, lambda s: (s.h, s.c)),
        (lambda h, c: {"h": h, "c": c}, lambda s: (s["h"], s["c"])),
        (lambda h, c: {"z": (h,), "a": {"c": c}}, lambda s: (s["z"][0], s["a"]["c"])),
    ],
    ids=["tuple", "namedtuple", "dict", "nested"],
)
def test_states_of_every_structure_keep_their_structure(pack, unpack):
    @jax.custom_vjp
    def step(params, state, x):
        h, c = unpack(state)
        new_c = c * 0.5 + jnp.tanh(x @ params["W"].T + h @ params["U"].T)
        return pack(jnp.tanh(new_c), new_c), new_c * 2

    step.defvjp(
        lambda *arguments: (step(*arguments), arguments),
        lambda saved, cotangents: jax.vjp(step.fun, *saved)[1](cotangents),
    )
    cell = adapted(step, initial_state=lambda params, B: pack(jnp.zeros((B, 2)), jnp.ones((B, 2))))
    params, h, x, d_h, d_y = problem(cell)
    state, d_new = pack(h, h + 1), pack(d_h, d_h - 1)
    start = cell.initial_state(params, 4)
    new, _, cache = cell.step(params, state, x)
    d_params, d_state, _ = cell.step_vjp(params, cache, d_new, d_y)
    for tree in (start, new, d_state):
        assert jax.tree.structure(tree) == jax.tree.structure(state)
        if isinstance(state, dict):
            assert list(tree) == list(state)
        assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(tree))
    assert list(d_params) == ["W", "U"]
    with enable_x64(True):
        _, pull = jax.vjp(step.fun, params, state, x)
        expected = pull(jax.tree.map(jnp.asarray, (d_new, d_y)))
    for found, true in zip(unpack(d_state), unpack(expected[1]), strict=True):
        np.testing.assert_allclose(found, true, rtol=1e-12)


@pytest.mark.parametrize("integer", [np.int32, np.int64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_integer_leaves_are_carried_and_have_zero_cotangents(dtype, integer):
    @jax.custom_vjp
    def step(params, state, x):
        new, count = plain_elman(params, state[0], x)[0], state[1] + 1
        return (new, count), new

    def bwd(saved, cotangents):
        params, (h, count), x, new = saved
        d_params, d_h, d_x = elman_bwd((params, h, x, new), (cotangents[0][0], cotangents[1]))
        return d_params, (d_h, np.zeros(count.shape, jax.dtypes.float0)), d_x

    step.defvjp(lambda *a: (step(*a), (*a, step(*a)[0][0])), bwd)
    cell = adapted(step)
    params, h, x, d_h, d_y = problem(cell, dtype)
    count = np.full((4, 1), 5, integer)
    new, _, cache = cell.step(params, (h, count), x)
    assert new[1].dtype == integer
    np.testing.assert_array_equal(new[1], count + 1)
    _, d_state, _ = cell.step_vjp(params, cache, (d_h, np.zeros_like(count)), d_y)
    assert d_state[1].shape == count.shape
    assert not d_state[1].any()
    np.testing.assert_allclose(d_state[0], jax_gradients(cell, dtype)[1], rtol=1e-4)


def plain_sequence(params, xs, state0):
    def body(state, x):
        return plain_elman(params, state, x)

    last, ys = jax.lax.scan(body, state0, xs)
    return ys, last


def sequence(scale):
    f = jax.custom_vjp(plain_sequence)
    f.defvjp(
        lambda *arguments: (f(*arguments), arguments),
        lambda saved, cotangents: jax.tree.map(
            lambda d: d * scale, jax.vjp(plain_sequence, *saved)[1](cotangents)
        ),
    )
    return f


@pytest.mark.sampled(1)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_sequence_makes_a_layer_whose_reference_is_one_step(scale):
    layer = adapted(sequence(scale), sequence=True)
    assert is_layer(layer)
    assert not is_cell(layer)
    assert layer.supports_mask is False
    params, state0, xs, d_last, d_ys = problem(layer, T=6)
    ys, last, tape = layer.forward(params, xs, state0)
    found = layer.vjp(params, tape, d_ys, d_last)
    with enable_x64(True):
        state, steps = jnp.asarray(state0), []
        for x in xs:
            state, y = layer.reference(params, state, jnp.asarray(x))
            steps.append(np.asarray(y))
        _, pull = jax.vjp(plain_sequence, params, xs, state0)
        expected = pull((jnp.asarray(d_ys), jnp.asarray(d_last)))
    np.testing.assert_allclose(ys, np.stack(steps), rtol=1e-13)
    np.testing.assert_allclose(last, np.asarray(state), rtol=1e-13)
    for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(f, scale * np.asarray(e), rtol=1e-11)


def test_an_empty_sequence_passes_the_state_through():
    layer = adapted(sequence(1.0), sequence=True)
    params, state0, xs, d_last, d_ys = problem(layer, T=0)
    ys, last, tape = layer.forward(params, xs, state0)
    assert ys.shape == (0, 4, 2)
    np.testing.assert_array_equal(last, state0)
    np.testing.assert_array_equal(layer.vjp(params, tape, d_ys, d_last)[2], d_last)


def test_jit_around_the_custom_vjp_is_taken_off():
    cell = adapted(jax.jit(elman(zero)))
    assert cell.reference is plain_elman
    assert not any(leaf.any() for leaf in jax.tree.leaves(hand_gradients(cell)))


def test_arguments_that_are_not_differentiated_are_bound_by_partial():
    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def step(activation, params, state, x):
        new = activation(x @ params["W"].T + state @ params["U"].T)
        return new, new

    step.defvjp(
        lambda activation, *rest: (step(activation, *rest), (*rest, step(activation, *rest)[0])),
        lambda activation, saved, cotangents: elman_bwd(saved, cotangents),
    )
    for bound in (functools.partial(step, jnp.tanh), functools.partial(jax.jit(step), jnp.tanh)):
        cell = adapted(bound)
        assert cell.name == "step"
        assert_close(hand_gradients(cell), jax_gradients(cell))
        assert cell.reference.func is step.fun
    with pytest.raises(ContractError, match=r"\['activation'\].*functools.partial"):
        adapted(step)
    with pytest.raises(ContractError, match=r"functools.partial binds arguments"):
        adapted(functools.partial(step, nothing=1))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (plain_elman, "no jax.custom_vjp function, expected one"),
        (jax.jit(plain_elman), "no jax.custom_vjp function, expected one"),
        (functools.partial(plain_elman), "no jax.custom_vjp function, expected one"),
        (jax.custom_vjp, "expected a jax.custom_vjp function"),
        (3, r"f=3 \(type=int\), expected a jax.custom_vjp function"),
        (jax.custom_vjp(plain_elman), "has no rule yet"),
    ],
    ids=["function", "jitted", "partial", "class", "number", "no rule"],
)
def test_what_has_no_rule_of_its_own_is_refused(wrong, says):
    with pytest.raises(ContractError, match=says) as info:
        adapted(wrong)
    assert info.value.item == "f"


def test_a_rule_of_other_arguments_is_refused():
    f = jax.custom_vjp(lambda params, x: x)
    f.defvjp(lambda p, x: (x, None), lambda saved, d: (None, d))
    with pytest.raises(ContractError, match=r"expected a function of \(params, state, x\)"):
        adapted(f)
    with pytest.raises(ContractError, match=r"expected a function of \(params, xs, state0\)"):
        adapted(f, sequence=True)


def test_code_that_calls_a_custom_vjp_is_accepted_with_a_primal():
    def wrapped(step):
        def f(params, state, x):
            return step(params, state, x)

        return f

    cell = adapted(wrapped(elman()), primal=plain_elman)
    assert_close(hand_gradients(cell), jax_gradients(cell))
    wrong = adapted(wrapped(elman(zero)), primal=plain_elman)
    assert not any(leaf.any() for leaf in jax.tree.leaves(hand_gradients(wrong)))
    nothing = adapted(wrapped(plain_elman), primal=plain_elman)
    with pytest.raises(ContractError, match=r"calls no jax\.custom_vjp function"):
        hand_gradients(nothing)


def test_a_function_decorated_twice_is_undecorated_twice():
    inner = elman(zero)
    outer = jax.custom_vjp(inner)
    outer.defvjp(lambda *a: (inner(*a), (*a, inner(*a)[0])), elman_bwd)
    cell = adapted(outer)
    assert cell.reference is plain_elman
    assert_close(hand_gradients(cell), jax_gradients(cell))


def test_partials_inside_and_outside_jit_are_put_together():
    @functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
    def step(gain, activation, params, state, x):
        new = activation(gain * (x @ params["W"].T + state @ params["U"].T))
        return new, new

    step.defvjp(
        lambda g, a, *rest: (step(g, a, *rest), (*rest, step(g, a, *rest)[0])),
        lambda g, a, saved, cotangents: elman_bwd(saved, cotangents),
    )
    inner = jax.jit(functools.partial(step, 1.0), static_argnums=0)
    cell = adapted(functools.partial(inner, jnp.tanh))
    assert_close(hand_gradients(cell), jax_gradients(cell))


def test_a_primal_that_is_decorated_itself_is_undecorated():
    step = elman(zero)
    for primal in (step, jax.jit(step)):
        assert adapted(step, primal=primal).reference is plain_elman
    with pytest.raises(ContractError, match="primal=3"):
        adapted(step, primal=3)


def test_one_value_instead_of_a_pair_is_refused():
    f = jax.custom_vjp(lambda params, state, x: state)
    f.defvjp(lambda *a: (a[1], a), lambda saved, d: saved)
    cell = adapted(f)
    params, state, x, *_ = problem(cell)
    with pytest.raises(ContractError, match=r"one value, expected the pair \(state, y\)"):
        cell.step(params, state, x)


def test_cotangents_of_another_structure_are_refused():
    cell = adapted(elman())
    params, state, x, d_state, d_y = problem(cell)
    cache = cell.step(params, state, x)[2]
    with pytest.raises(ContractError, match="the cotangents have the structure"):
        cell.step_vjp(params, cache, (d_state, d_state), d_y)


def departing(change):
    """A step whose fwd computes another value than its primal."""
    step = jax.custom_vjp(plain_elman)

    def fwd(params, state, x):
        new, y = plain_elman(params, state, x)
        return change(new, y), (params, state, x, new)

    step.defvjp(fwd, elman_bwd)
    return adapted(step)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fwd_that_computes_another_value_is_named(dtype):
    cell = departing(lambda new, y: (new, y.at[1, 0].add(1e-2)))
    with pytest.raises(ContractError, match=r"fwd returns y\[1, 0\] = .*expected") as info:
        hand_gradients(cell, dtype)
    assert info.value.method == "fwd"
    cell = departing(lambda new, y: (new * 1.01, y))
    with pytest.raises(ContractError, match=r"fwd returns state\["):
        hand_gradients(cell, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fwd_that_rounds_otherwise_is_no_complaint(dtype):
    cell = departing(lambda new, y: (new * 3 / 3, (y + 1) - 1))
    assert_close(hand_gradients(cell, dtype), jax_gradients(cell, dtype), dtype)


def test_a_fwd_that_rounds_otherwise_in_chaos_is_no_complaint():
    def logistic(params, xs, state0, one):
        def body(h, x):
            new = (one * params["r"]) * h * (1 - h) if one == 1 else params["r"] * (h - h * h)
            return new, new + 0 * x.sum()

        last, ys = jax.lax.scan(body, state0, xs)
        return ys, last

    f = jax.custom_vjp(lambda params, xs, state0: logistic(params, xs, state0, 1))
    f.defvjp(
        lambda *a: (logistic(*a, 2), a),
        lambda saved, cotangents: jax.vjp(lambda *a: logistic(*a, 1), *saved)[1](cotangents),
    )
    layer = from_custom_vjp(
        f, init={"r": ()}, initial_state=lambda params, B: np.full((B, 1), 0.3), sequence=True
    )
    params = {"r": np.float32(3.9) * np.ones((), np.float32)}
    xs, state0 = np.zeros((200, 2, 1), np.float32), np.full((2, 1), 0.3, np.float32)
    ys, last, tape = layer.forward(params, xs, state0)
    with enable_x64(False):
        assert np.abs(np.asarray(f.fwd(params, xs, state0)[0][1]) - last).max() > 0.01
    layer.vjp(params, tape, np.zeros_like(ys), np.zeros_like(last))


def test_the_cache_serves_twice_and_what_is_returned_is_the_callers_own():
    cell = adapted(elman())
    params, state, x, d_state, d_y = problem(cell)
    kept = copy.deepcopy((params, state, x, d_state, d_y))
    new, y, cache = cell.step(params, state, x)
    first = cell.step_vjp(params, cache, d_state, d_y)
    second = cell.step_vjp(params, cache, d_state, d_y)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.shares_memory(a, b)
        assert a.flags.writeable
        a += 1
    new += 1
    y += 1
    for a, b in zip(
        jax.tree.leaves((params, state, x, d_state, d_y)), jax.tree.leaves(kept), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_the_64_bit_mode_of_the_program_stays_as_it_is():
    cell = adapted(elman())
    for mode in (False, True):
        with enable_x64(mode):
            for dtype in DTYPES:
                assert_close(hand_gradients(cell, dtype), jax_gradients(cell, dtype), dtype)
            assert bool(jax.config.jax_enable_x64) is mode


def test_float32_runs_in_the_mode_that_the_program_has_set():
    def primal(params, state, x):
        new, y = plain_elman(params, state, x)
        return new, y + jnp.zeros(y.shape)

    step = jax.custom_vjp(primal)
    step.defvjp(lambda *a: (step(*a), (*a, step(*a)[0])), elman_bwd)
    cell = adapted(step)
    params, state, x, *_ = problem(cell, np.float32)
    for mode, dtype in [(False, np.float32), (True, np.float64), (False, np.float32)]:
        with enable_x64(mode):
            assert cell.step(params, state, x)[1].dtype == dtype


def test_an_init_written_in_jax_gives_float64_arrays_of_numpy():
    def init(rng, n_in, n_hidden):
        return {
            "W": jnp.asarray(rng.standard_normal((n_hidden, n_in))),
            "U": jnp.eye(n_hidden),
        }

    cell = from_custom_vjp(
        elman(), init=init, initial_state=lambda params, B: jnp.zeros((B, len(params["U"])))
    )
    params = cell.init(np.random.default_rng(0), 3, 2)
    for dtype in DTYPES:
        typed = {name: value.astype(dtype) for name, value in params.items()}
        start = cell.initial_state(typed, 4)
        assert isinstance(start, np.ndarray)
        assert start.dtype == dtype
    assert all(isinstance(p, np.ndarray) and p.dtype == np.float64 for p in params.values())


def test_names_and_representation_say_what_it_is():
    cell = adapted(elman())
    assert cell.name == "plain_elman"
    assert adapted(elman(), name="mine").name == "mine"
    assert repr(cell) == "<cell 'plain_elman' from_custom_vjp, reference=plain_elman>"
    layer = adapted(sequence(1.0), sequence=True)
    assert repr(layer) == (
        "<layer 'plain_sequence' from_custom_vjp, reference=one step of plain_sequence>"
    )
    assert cell.fixed_sizes
    assert layer.fixed_sizes
