from __future__ import annotations

import dataclasses
import math
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from bpttcheck import activations
from bpttcheck.activations import ACTIVATIONS, Activation
from bpttcheck.errors import ContractError
from bpttcheck.jax_mode import enable_x64

mpmath = pytest.importorskip("mpmath", reason="the exact values come from mpmath")
mp = mpmath.mp

NAMES = list(ACTIVATIONS)
DTYPES = [np.float32, np.float64]


def sigma(z):
    return 1 / (1 + mp.exp(-z))


# Written from the definitions, not from the code under test.
EXACT = {
    "identity": lambda z: z,
    "tanh": lambda z: mp.expm1(2 * z) / (mp.expm1(2 * z) + 2),
    "sigmoid": sigma,
    "relu": lambda z: max(z, mp.mpf(0)),
    "leaky_relu": lambda z: z if z > 0 else z * mp.mpf(0.01),
    "elu": lambda z: z if z > 0 else mp.expm1(z),
    "softplus": lambda z: mp.log1p(mp.exp(z)),
    "silu": lambda z: z * sigma(z),
    "gelu": lambda z: z * mp.erfc(-z / mp.sqrt(2)) / 2,
    "softsign": lambda z: z / (1 + abs(z)),
    "hard_tanh": lambda z: min(max(z, mp.mpf(-1)), mp.mpf(1)),
    "hard_sigmoid": lambda z: min(max(z / 6 + mp.mpf(1) / 2, mp.mpf(0)), mp.mpf(1)),
    "sine": mp.sin,
}


def points(dtype) -> np.ndarray:
    magnitudes = np.concatenate(
        [[0.0], np.geomspace(1e-30, 1e-3, 8), np.linspace(0.05, 12, 60), np.geomspace(13, 1000, 30)]
    )
    near_kinks = [np.nextafter(dtype(k), dtype(d)) for k in (-3, -1, 1, 3) for d in (-9, 9)]
    return np.concatenate([magnitudes, -magnitudes, near_kinks]).astype(dtype)


def slope(name: str, z, side: int = 0):
    """The derivative of the exact function; at a kink from the given side (-1 or 1)."""
    with mp.workdps(120):
        h = mp.mpf(10) ** -50
        ahead, behind = (h, 0) if side > 0 else (0, h) if side < 0 else (h, h)
        f = EXACT[name]
        return +((f(z + ahead) - f(z - behind)) / (ahead + behind))


def value_error(activation: Activation, name: str, z: np.ndarray) -> float:
    """The worst error of the value in units of rounding.

    A unit is one rounding of the result, half a rounding of the argument, and the underflow: in
    ``z σ(z)`` the factor ``σ(z)`` underflows before the product does.
    """
    worst = 0.0
    info = np.finfo(z.dtype)
    eps, tiny = float(info.eps), float(info.tiny)
    with mp.workdps(50):
        for point, got in zip(z.tolist(), activation.value(z).tolist(), strict=True):
            exact = EXACT[name](mp.mpf(point))
            unit = eps * (abs(exact) + abs(point * slope(name, mp.mpf(point))) / 2)
            unit += mp.mpf(tiny) * (1 + abs(point))
            worst = max(worst, float(abs(got - exact) / unit))
    return worst


def derivative_error(activation: Activation, name: str, z: np.ndarray) -> float:
    """The worst error of the derivative, relative above 1 and absolute below."""
    worst = 0.0
    for point, got in zip(z.tolist(), activation.derivative(z).tolist(), strict=True):
        exact = slope(name, mp.mpf(point))
        worst = max(worst, float(abs(got - exact) / (1 + abs(exact))))
    return worst


def away_from_kinks(activation: Activation, z: np.ndarray, roundings: int = 0) -> np.ndarray:
    keep = np.ones(z.shape, bool)
    for kink in activation.kinks:
        keep &= np.abs(z - kink) > roundings * np.finfo(z.dtype).eps * abs(kink)
    return z[keep]


def test_the_table_has_the_promised_names_and_each_entry_knows_its_own():
    assert set(EXACT) == set(ACTIVATIONS)
    assert all(name == activation.name for name, activation in ACTIVATIONS.items())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_values_are_within_a_few_roundings_of_the_exact_ones(name, dtype):
    assert value_error(ACTIVATIONS[name], name, points(dtype)) < 4


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_exact_to_1e_13(name):
    z = away_from_kinks(ACTIVATIONS[name], points(np.float64))
    assert derivative_error(ACTIVATIONS[name], name, z) < 1e-13


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=20)
@given(z=st.floats(-1000, 1000).filter(lambda z: z == 0 or abs(z) > 1e-40))
def test_value_and_derivative_are_right_at_any_point(name, z):
    activation = ACTIVATIONS[name]
    z = np.array([z])
    assert value_error(activation, name, z) < 4
    assert derivative_error(activation, name, away_from_kinks(activation, z)) < 1e-13


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "silu", "elu", "softplus", "softsign"])
def test_small_derivatives_keep_their_digits_in_the_tails(name):
    z = np.array([-30.0, -17.0, 17.0, 30.0])
    for point, got in zip(z, ACTIVATIONS[name].derivative(z), strict=True):
        assert got == pytest.approx(float(slope(name, mp.mpf(point))), rel=1e-14, abs=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_every_point_gives_a_finite_number_of_the_same_dtype_and_shape_without_a_warning(
    name, dtype
):
    z = np.concatenate([points(dtype), np.array([-1000, 1000], dtype)]).reshape(2, -1)
    kept = z.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for function in (ACTIVATIONS[name].value, ACTIVATIONS[name].derivative):
            out = function(z)
            assert (out.dtype, out.shape) == (z.dtype, z.shape)
            assert np.isfinite(out).all()
            assert not np.shares_memory(out, z)
    np.testing.assert_array_equal(z, kept)


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_is_let_through_by_the_value(name):
    with np.errstate(invalid="ignore"):  # np.logaddexp warns of a NaN argument
        assert np.isnan(ACTIVATIONS[name].value(np.array([np.nan]))).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_array_without_entries_is_no_special_case(name):
    empty = np.zeros((0, 3), np.float32)
    assert ACTIVATIONS[name].value(empty).shape == (0, 3)
    assert ACTIVATIONS[name].derivative(empty).dtype == np.float32


@pytest.mark.parametrize("name", NAMES)
def test_the_kinks_are_exactly_the_points_where_left_and_right_slope_differ(name):
    candidates = [0.0, *(s * k for k in (0.5, 1.0, 2.0, 2.5, 3.0, 6.0, 10.0) for s in (-1, 1))]
    differ = {
        k
        for k in candidates
        if abs(slope(name, mp.mpf(k), 1) - slope(name, mp.mpf(k), -1)) > mp.mpf("1e-20")
    }
    assert differ == set(ACTIVATIONS[name].kinks)
    assert list(ACTIVATIONS[name].kinks) == sorted(ACTIVATIONS[name].kinks)


@pytest.mark.parametrize("name", NAMES)
def test_the_derivative_jumps_nowhere_but_at_the_kinks(name):
    grid = np.linspace(-8, 8, 160_001)
    grid = np.sort(np.concatenate([grid, grid[:-1] + np.diff(grid) / 2]))
    jumps = np.flatnonzero(np.abs(np.diff(ACTIVATIONS[name].derivative(grid))) > 1e-3)
    found = {round(float((grid[j] + grid[j + 1]) / 2), 3) + 0.0 for j in jumps}
    assert found == set(ACTIVATIONS[name].kinks)


@pytest.mark.parametrize("name", [n for n in NAMES if ACTIVATIONS[n].kinks])
def test_at_a_kink_the_derivative_is_that_of_the_flatter_side(name):
    for kink in ACTIVATIONS[name].kinks:
        sides = (slope(name, mp.mpf(kink), -1), slope(name, mp.mpf(kink), 1))
        got = ACTIVATIONS[name].derivative(np.array([kink]))[0]
        assert got == pytest.approx(float(min(sides)), abs=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_the_lipschitz_bound_is_the_supremum_of_the_slope(name):
    z = np.concatenate([np.linspace(-10, 10, 200_001), [-1000.0, 1000.0]])
    largest = np.abs(ACTIVATIONS[name].derivative(z)).max()
    bound = ACTIVATIONS[name].lipschitz
    assert largest <= bound * (1 + 1e-15)
    assert largest >= bound * (1 - 1e-9)


def test_the_bounds_of_silu_and_gelu_are_the_slopes_where_the_second_derivative_vanishes():
    with mp.workdps(40):
        root = mp.findroot(lambda z: z * mp.tanh(z / 2) - 2, mp.mpf("2.4"))
        silu = sigma(root) * (1 + root * sigma(-root))
        gelu = mp.ncdf(mp.sqrt(2)) + mp.sqrt(2) * mp.npdf(mp.sqrt(2))
    assert ACTIVATIONS["silu"].lipschitz == pytest.approx(float(silu), rel=1e-15)
    assert ACTIVATIONS["gelu"].lipschitz == pytest.approx(float(gelu), rel=1e-15)
    assert (round(float(silu), 5), round(float(gelu), 5)) == (1.09984, 1.1289)


def traced(monkeypatch, jax):
    """The module as a tracer sees it: the same code over the functions of JAX."""
    monkeypatch.setattr(activations, "np", jax.numpy)
    monkeypatch.setattr(activations, "special", jax.scipy.special)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", NAMES)
def test_jax_differentiates_the_same_code_to_the_same_derivative(name, monkeypatch):
    jax = pytest.importorskip("jax", reason="the code is traced by JAX")
    activation = ACTIVATIONS[name]
    # One rounding below its kink, z/6 + 1/2 already rounds to 1: a tie for JAX.
    z = away_from_kinks(activation, points(np.float64), roundings=4)
    value, derivative = activation.value(z), activation.derivative(z)
    traced(monkeypatch, jax)
    with enable_x64(True):
        argument = jax.numpy.asarray(z)
        by_jax = np.asarray(activation.value(argument))
        reverse = np.asarray(jax.vmap(jax.grad(activation.value))(argument))
        forward = np.asarray(jax.vmap(jax.jacfwd(activation.value))(argument))
        hand_by_jax = np.asarray(activation.derivative(argument))
    np.testing.assert_allclose(by_jax, value, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(reverse, derivative, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(forward, derivative, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(hand_by_jax, derivative, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_jax_in_float32_gives_finite_slopes_in_the_tails(name, monkeypatch):
    jax = pytest.importorskip("jax", reason="the code is traced by JAX")
    traced(monkeypatch, jax)
    z = jax.numpy.asarray([-1000.0, -100.0, 0.0, 100.0, 1000.0], jax.numpy.float32)
    out = jax.vmap(jax.grad(ACTIVATIONS[name].value))(z)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("identity", "sine")])
def test_the_derivatives_are_those_of_torch_even_at_the_kinks(name):
    torch = pytest.importorskip("torch", reason="torch is the peer that is compared with")
    nn = torch.nn.functional
    theirs = {"hard_tanh": nn.hardtanh, "hard_sigmoid": nn.hardsigmoid}
    function = theirs.get(name) or getattr(nn, name, None) or getattr(torch, name)
    z = np.concatenate([np.linspace(-8, 8, 161), [-3.0, -1.0, 0.0, 1.0, 3.0]])
    argument = torch.tensor(z, requires_grad=True)
    function(argument).sum().backward()
    np.testing.assert_allclose(
        ACTIVATIONS[name].value(z), function(argument).detach().numpy(), rtol=1e-12, atol=1e-14
    )
    # The backward pass of torch's hardsigmoid holds 1/6 in float32, whatever the dtype.
    rtol = 1e-7 if name == "hard_sigmoid" else 1e-12
    np.testing.assert_allclose(
        ACTIVATIONS[name].derivative(z), argument.grad.numpy(), rtol=rtol, atol=1e-14
    )


def test_an_unknown_name_is_answered_with_the_names():
    with pytest.raises(ContractError, match=r"'tanH' .*type=str.* expected one of identity, tanh"):
        activations.get("tanH")
    with pytest.raises(ContractError, match="type=list"):
        activations.get(["tanh"])  # type: ignore[arg-type]


def test_an_activation_of_ones_own_is_taken_as_it_is():
    square = Activation("square", np.square, lambda z: 2 * z, lipschitz=math.inf)
    assert activations.get(square) is square
    assert activations.get("tanh") is ACTIVATIONS["tanh"]


def test_an_activation_is_frozen_prints_on_one_line_and_can_be_sent_to_another_process():
    relu = ACTIVATIONS["relu"]
    assert repr(relu) == "Activation(name='relu', kinks=(0.0,), lipschitz=1.0)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        relu.name = "other"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(relu)) == relu


PLANTED_VALUES = {
    "gelu": lambda z: 0.5 * z * (1 + special.erf(z / math.sqrt(2))),
    "elu": lambda z: np.where(z > 0, z, np.exp(np.minimum(z, 0)) - 1),
    "softplus": lambda z: np.log(1 + np.exp(np.minimum(z, 700))),
    "sigmoid": lambda z: (1 + np.tanh(z / 2)) / 2,
}


@pytest.mark.parametrize("name", list(PLANTED_VALUES))
def test_a_formula_that_loses_digits_does_not_pass_the_test_of_values(name):
    planted = dataclasses.replace(ACTIVATIONS[name], value=PLANTED_VALUES[name])
    assert value_error(planted, name, points(np.float64)) > 100


@pytest.mark.parametrize("name", NAMES)
def test_the_derivative_of_a_neighbour_does_not_pass_the_test_of_derivatives(name):
    following = NAMES[(NAMES.index(name) + 1) % len(NAMES)]
    planted = dataclasses.replace(ACTIVATIONS[name], derivative=ACTIVATIONS[following].derivative)
    z = away_from_kinks(planted, points(np.float64))
    assert derivative_error(planted, name, z) > 1e-3
