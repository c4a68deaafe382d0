from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bpttcheck import backpropagate, trees, unroll
from bpttcheck.activations import ACTIVATIONS
from bpttcheck.bptt.flow import ELMAN_BOUND, STEPS_BOUND, Flow, flow, power
from bpttcheck.bptt.jacobian import jacobians
from bpttcheck.cells import BUILTINS, LSTM, Elman, builtin
from bpttcheck.errors import ContractError

EPS = np.finfo(np.float64).eps
SIZES = {
    "T": st.integers(0, 12),
    "B": st.integers(1, 3),
    "H": st.integers(1, 5),
    "seed": st.integers(0, 2**32 - 1),
    "scale": st.floats(0.1, 10.0),
    "masked": st.booleans(),
}


def draw(cell, T, B, H, seed=0, scale=1.0, masked=False):
    """Parameters, inputs, an initial state and a mask."""
    rng = np.random.default_rng(seed)
    params = {k: scale * v for k, v in cell.init(rng, 3, H).items()}
    state0 = trees.map_leaves(
        lambda leaf: rng.standard_normal(leaf.shape), cell.initial_state(params, B)
    )
    mask = rng.random((T, B)) < 0.6 if masked else None
    return params, rng.standard_normal((T, B, 3)), state0, mask


def rounding(T, S):
    """How far ``T`` products of matrices and an SVD may stray, relative to the bound: a product
    of matrices errs by at most ``S EPS ||A||_F ||B||_F``, and ``||A||_F <= sqrt(S) ||A||``.
    """
    return 4 * (T + 2) * S**2 * EPS


def flat(state):
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in trees.leaves(state)], axis=1)


def by_differences(cell, params, x, state, h=1e-6):
    """The Jacobian of one step for one row, ``(S, S)``, by central differences."""
    leaves, structure = trees.flatten(state)
    shapes = [leaf.shape for leaf in leaves]
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def step(row):
        parts = np.split(row, ends)
        at = structure.unflatten([p.reshape(s) for p, s in zip(parts, shapes, strict=True)])
        return flat(cell.step(params, at, x)[0])[0]

    row = flat(state)[0]
    shifts = h * np.eye(len(row))
    return np.stack([(step(row + s) - step(row - s)) / (2 * h) for s in shifts], axis=1)


def require_jacobians_of(cell, params, xs, state0):
    _, _, tape = unroll(cell, params, xs, state0)
    J = jacobians(cell, params, xs, state0)
    for t, state in enumerate(tape.states[:-1]):
        for b in range(xs.shape[1]):
            row = trees.map_leaves(lambda leaf, b=b: leaf[b : b + 1], state)
            expected = by_differences(cell, params, xs[t, b : b + 1], row)
            np.testing.assert_allclose(J[t, b], expected, atol=1e-8)


@pytest.mark.parametrize("name", list(BUILTINS))
def test_the_jacobians_are_those_of_the_step(name):
    params, xs, state0, _ = draw(builtin(name), 3, 2, 4)
    require_jacobians_of(builtin(name), params, xs, state0)


def test_factors_in_the_wrong_order_are_found():
    """Formula B5 as published: ``W diag(f')`` in place of ``diag(f') W``."""

    class Reversed(Elman):
        def step_vjp(self, params, cache, d_state, d_y):
            d_params, _, d_x = super().step_vjp(params, cache, d_state, d_y)
            slope = ACTIVATIONS["tanh"].derivative(cache.z)
            return d_params, ((d_state + d_y) @ params["W"]) * slope, d_x

    params, xs, state0, _ = draw(Elman(), 3, 2, 4)
    require_jacobians_of(Elman(), params, xs, state0)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        require_jacobians_of(Reversed(), params, xs, state0)


@pytest.mark.parametrize("name", ["elman", "lstm"])
def test_a_masked_step_has_the_identity_for_its_jacobian(name):
    params, xs, state0, mask = draw(builtin(name), 6, 3, 2, masked=True)
    J = jacobians(builtin(name), params, xs, state0, mask)
    eye = np.eye(J.shape[-1])
    assert [[(one == eye).all() for one in row] for row in J] == (~mask).tolist()


def test_the_largest_slopes_are_a_quarter_for_the_sigmoid_and_one_for_tanh_and_relu():
    z = np.linspace(-8, 8, 4001)
    largest = {"sigmoid": 0.25, "tanh": 1.0, "relu": 1.0}
    for name, expected in largest.items():
        assert ACTIVATIONS[name].derivative(z).max() == expected
        assert ACTIVATIONS[name].lipschitz == expected


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "identity", "gelu", "softsign"])
@examples(max_examples=25)
@given(**SIZES)
def test_the_bound_of_the_slope_and_the_matrix_always_holds(
    activation, T, B, H, seed, scale, masked
):
    cell = Elman(activation)
    params, xs, state0, mask = draw(cell, T, B, H, seed, scale, masked)
    found = flow(cell, params, xs, state0, mask)
    assert found.bound_name == ELMAN_BOUND
    beta = np.linalg.norm(params["W"], 2) * ACTIVATIONS[activation].lipschitz
    real = np.ones((T, B), int) if mask is None else mask.astype(int)
    distance = np.concatenate([np.zeros((1, B)), np.cumsum(real[::-1], axis=0)])
    np.testing.assert_allclose(found.bounds, beta**distance, rtol=1e-11)
    assert (found.norms <= beta**distance * (1 + rounding(T, H)) + 1e-300).all()


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
@examples(max_examples=15)
@given(H=st.integers(1, 6), seed=st.integers(0, 2**32 - 1), beta=st.floats(0.05, 0.95))
def test_with_a_bound_below_one_the_gradient_vanishes_at_least_that_fast(activation, H, seed, beta):
    cell, T = Elman(activation), 60
    params, xs, state0, _ = draw(cell, T, 2, H, seed)
    lipschitz = ACTIVATIONS[activation].lipschitz
    params["W"] *= beta / (lipschitz * np.linalg.norm(params["W"], 2))
    found = flow(cell, params, xs, state0)
    distance = np.arange(T + 1)[:, None]
    assert (found.norms <= beta**distance * (1 + rounding(T, H))).all()
    assert found.verdict == "vanishes"
    # The cotangent of norm 1 that flows back is bounded by the norm of the product.
    assert (found.gradients <= found.norms * (1 + rounding(T, H)) + 1e-300).all()


@examples(max_examples=15)
@given(H=st.integers(1, 6), seed=st.integers(0, 2**32 - 1), least=st.floats(1.1, 50.0))
def test_a_large_recurrent_matrix_explodes_without_a_squashing_activation(H, seed, least):
    T = 40
    for activation in ("identity", "relu"):
        cell = Elman(activation)
        params, xs, state0, _ = draw(cell, T, 2, H, seed)
        params["W"] *= least / np.linalg.svd(params["W"], compute_uv=False)[-1]
        # Every unit of the ReLU is active for good: a large bias, and small steps of the state.
        params["U"] *= 0
        if activation == "relu":
            params["W"], params["b"] = least * np.eye(H), np.ones(H)
        found = flow(cell, params, xs, np.abs(state0))
        distance = np.arange(T + 1)[:, None]
        assert (found.log2_norms >= distance * np.log2(least) - 1e-9).all()
        assert found.verdict == "explodes"


@pytest.mark.parametrize("name", [name for name in BUILTINS if name != "elman"])
@examples(max_examples=10)
@given(**SIZES)
def test_the_product_of_the_one_step_norms_bounds_every_other_cell(
    name, T, B, H, seed, scale, masked
):
    cell = builtin(name)
    params, xs, state0, mask = draw(cell, T, B, H, seed, scale, masked)
    found = flow(cell, params, xs, state0, mask)
    assert found.bound_name == STEPS_BOUND
    S = found.singular_values.shape[2]
    # Kept as logarithms: the last digit of an exponent of -70 is 50 units of the number itself.
    exponents = np.abs(
        found.log2_bounds,
        where=np.isfinite(found.log2_bounds),
        out=np.zeros_like(found.log2_bounds),
    )
    margin = rounding(T, S) + 2 * EPS * exponents
    assert (found.norms <= found.bounds * (1 + margin) + 1e-300).all()


def test_a_class_derived_from_elman_gets_no_bound_that_its_step_may_break():
    class Louder(Elman):
        def step(self, params, state, x):
            new, y, cache = super().step(params, state, x)
            return 3 * new, y, cache

        def step_vjp(self, params, cache, d_state, d_y):
            return super().step_vjp(params, cache, 3 * d_state, d_y)

    cell = Louder("identity")
    params, xs, _, _ = draw(cell, 5, 2, 3)
    params["W"] = np.eye(3)
    found = flow(cell, params, xs)
    assert found.bound_name == STEPS_BOUND
    assert found.norms[-1, 0] > np.linalg.norm(params["W"], 2) ** 5
    assert (found.norms <= found.bounds * (1 + rounding(5, 3))).all()


@pytest.mark.parametrize("name", list(BUILTINS))
@pytest.mark.parametrize("masked", [False, True])
def test_the_norms_are_those_of_the_products_written_out(name, masked):
    cell, T = builtin(name), 6
    params, xs, state0, mask = draw(cell, T, 2, 3, scale=3.0, masked=masked)
    found, J = flow(cell, params, xs, state0, mask), jacobians(cell, params, xs, state0, mask)
    for b in range(2):
        for k in range(T + 1):
            product = np.eye(J.shape[-1])
            for i in range(k + 1, T + 1):
                product = J[i - 1, b] @ product
            np.testing.assert_allclose(
                found.singular_values[T - k, b],
                np.linalg.svd(product, compute_uv=False),
                atol=1e-13 * max(1.0, np.linalg.norm(product)),
            )


@pytest.mark.parametrize("name", list(BUILTINS))
@pytest.mark.parametrize("masked", [False, True])
def test_the_gradients_are_those_that_backpropagation_gives(name, masked):
    cell, T, B = builtin(name), 6, 2
    params, xs, state0, mask = draw(cell, T, B, 3, masked=masked)
    _, state_T, tape = unroll(cell, params, xs, state0, mask)
    S = flat(state_T).shape[1]
    d_state_T = trees.map_leaves(lambda leaf: np.full(leaf.shape, S**-0.5), state_T)
    d_states = backpropagate(cell, params, tape, None, d_state_T).d_states
    expected = [np.linalg.norm(flat(d_state), axis=1) for d_state in reversed(d_states)]
    got = flow(cell, params, xs, state0, mask).gradients
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize(("size", "word"), [(1e30, "grows"), (1e-30, "falls")])
def test_a_norm_beyond_the_range_of_the_format_still_has_its_logarithm(size, word):
    cell, T = Elman("identity"), 40
    params, xs, _, _ = draw(cell, T, 2, 3)
    params["W"] = size * np.eye(3)
    found = flow(cell, params, xs)
    assert found.norms[-1, 0] in (0.0, np.inf)
    assert found.bounds[-1, 0] in (0.0, np.inf)
    np.testing.assert_allclose(found.log2_norms[:, 0], np.arange(T + 1) * np.log2(size))
    assert f"{word} 1e+30-fold in each step" in found.conclusion
    assert f"1.00e{'+' if size > 1 else '-'}1200" in found.conclusion


def test_a_recurrence_that_does_not_exist_gives_the_norm_zero():
    cell = builtin("jordan_teacher_forced")
    params, xs, _, _ = draw(cell, 5, 2, 3)
    found = flow(cell, params, xs)
    assert found.norms.tolist() == [[1, 1], *[[0, 0]] * 5]
    assert found.conclusion == "vanishes: the norm is 0 from 1 step back on"


def test_a_jacobian_that_is_not_finite_gives_no_answer():
    cell = Elman("sine")
    params, xs, _, _ = draw(cell, 5, 2, 3)
    xs[2, 0] = np.inf
    found = flow(cell, params, xs)
    assert np.isnan(found.norms[3:, 0]).all()
    assert np.isfinite(found.norms[:, 1]).all()
    assert found.verdict == "no answer"
    assert found.conclusion == "no answer: the Jacobian of the step 1 back is not finite"


@pytest.mark.parametrize("name", ["elman", "lstm"])
def test_parameters_that_are_not_finite_give_no_answer(name):
    cell = builtin(name)
    params, xs, _, _ = draw(cell, 5, 2, 3, scale=np.nan)
    found = flow(cell, params, xs)
    assert found.verdict == "no answer"
    assert np.isnan(found.log2_bounds[1:]).all()


def test_an_orthogonal_recurrence_neither_vanishes_nor_explodes():
    cell = Elman("identity")
    params, xs, _, _ = draw(cell, 100, 1, 4)
    params["W"], _ = np.linalg.qr(params["W"])
    found = flow(cell, params, xs)
    np.testing.assert_allclose(found.singular_values, 1.0, rtol=1e-12)
    assert found.conclusion == "neither vanishes nor explodes: the norm after 100 steps is 1"


def test_a_halving_is_told_as_the_number_of_steps_that_it_takes():
    cell = Elman("identity")
    params, xs, _, _ = draw(cell, 30, 1, 2)
    params["W"] = 2.0 ** (-1 / 3) * np.eye(2)
    assert flow(cell, params, xs).conclusion == (
        "vanishes: the norm halves every 3 steps on average; the norm after 30 steps is 0.000977"
    )


def test_the_share_of_saturated_units_counts_those_that_nothing_moves():
    cell, T = Elman("tanh"), 4
    params, xs, _, mask = draw(cell, T, 2, 4)
    params["b"] = np.array([0.0, 0.0, 0.0, 40.0])
    found = flow(cell, params, xs)
    np.testing.assert_array_equal(found.saturated, 0.25)
    mask = np.array([[True, False]] * T)
    masked = flow(cell, params, xs, None, mask).saturated
    np.testing.assert_array_equal(masked, [[0.25, np.nan]] * T)


def test_a_gated_cell_with_an_open_forget_gate_keeps_its_gradient():
    params, xs, _, _ = draw(LSTM(), 50, 2, 4)
    H = 4
    opened = {**params, "b": params["b"] + 20.0 * (np.arange(4 * H) // H == 1)}
    assert flow(LSTM(), params, xs).verdict == "vanishes"
    assert flow(LSTM(), opened, xs).norms[-1].min() > 0.5


def test_a_sequence_of_no_steps_is_the_identity():
    params, xs, _, _ = draw(LSTM(), 0, 2, 3)
    found = flow(LSTM(), params, xs)
    np.testing.assert_array_equal(found.norms, [[1.0, 1.0]])
    assert found.saturated.shape == (0, 2)
    assert found.verdict == "neither"


def test_a_flow_is_a_frozen_record():
    assert Flow.__dataclass_params__.frozen


@pytest.mark.parametrize(
    ("log2", "text"),
    [(0.0, "1"), (-np.inf, "0"), (np.nan, "nan"), (4000.0, "1.32e+1204"), (-4000.0, "7.59e-1205")],
)
def test_powers_of_two_beyond_the_format_are_told_in_decimals(log2, text):
    assert power(log2) == text


def test_inputs_that_are_no_sequence_are_refused():
    params, xs, _, _ = draw(Elman(), 3, 2, 3)
    with pytest.raises(ContractError, match="expected a floating array"):
        flow(Elman(), params, xs[0])
