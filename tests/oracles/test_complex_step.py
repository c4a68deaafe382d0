from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from bpttcheck.errors import ContractError, Declined
from bpttcheck.oracles.complex_step import complex_step
from bpttcheck.oracles.differences.finite_difference import finite_difference
from bpttcheck.oracles.estimate import Estimate


def slope_of(function: Any, x: Any, d: Any = None, w: Any = None, **options: Any) -> Estimate:
    """The derivative of a function of one array; direction and weights are ones by default."""
    x = np.asarray(x, float)
    d = np.ones(x.shape) if d is None else np.asarray(d, float)
    with np.errstate(all="ignore"):
        w = np.ones(np.shape(function(x.copy()))) if w is None else np.asarray(w, float)
    return complex_step(lambda leaves: [function(leaves[0])], [x], [d], [w], **options)


UNARY = {
    "exp": (np.exp, mpmath.exp, 300),
    "exp2": (np.exp2, lambda x: mpmath.mpf(2) ** x, 300),
    "expm1": (np.expm1, mpmath.expm1, 300),
    "log": (np.log, mpmath.log, 1e9),
    "log2": (np.log2, lambda x: mpmath.log(x, 2), 1e9),
    "log10": (np.log10, mpmath.log10, 1e9),
    "log1p": (np.log1p, mpmath.log1p, 1e9),
    "sqrt": (np.sqrt, mpmath.sqrt, 1e9),
    "square": (np.square, lambda x: x * x, 1e9),
    "reciprocal": (np.reciprocal, lambda x: 1 / x, 1e9),
    "sin": (np.sin, mpmath.sin, 1e3),
    "cos": (np.cos, mpmath.cos, 1e3),
    "tan": (np.tan, mpmath.tan, 1.5),
    "sinh": (np.sinh, mpmath.sinh, 300),
    "cosh": (np.cosh, mpmath.cosh, 300),
    "tanh": (np.tanh, mpmath.tanh, 300),
    "arcsin": (np.arcsin, mpmath.asin, 0.99),
    "arccos": (np.arccos, mpmath.acos, 0.99),
    "arctan": (np.arctan, mpmath.atan, 1e9),
    "arcsinh": (np.arcsinh, mpmath.asinh, 1e9),
    "arctanh": (np.arctanh, mpmath.atanh, 0.99),
    "expit": (scipy.special.expit, lambda x: 1 / (1 + mpmath.exp(-x)), 1000),
    "erf": (scipy.special.erf, mpmath.erf, 25),
    "cube": (lambda x: x**3, lambda x: x**3, 1e9),
    "root": (lambda x: x**0.3, lambda x: x ** mpmath.mpf(0.3), 1e9),
    "inverse_square": (lambda x: x**-2, lambda x: x**-2, 1e9),
    "naive_sigmoid": (lambda x: 1 / (1 + np.exp(-x)), lambda x: 1 / (1 + mpmath.exp(-x)), 300),
    "softplus": (lambda x: np.log1p(np.exp(x)), lambda x: mpmath.log1p(mpmath.exp(x)), 300),
    "silu": (lambda x: x / (1 + np.exp(-x)), lambda x: x / (1 + mpmath.exp(-x)), 300),
}
POSITIVE = {"log", "log2", "log10", "log1p", "sqrt", "root", "reciprocal", "inverse_square"}


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(UNARY)), st.floats(-1, 1), st.integers(0, 60))
def test_analytic_functions_of_one_number_are_right_to_the_last_digits(
    name: str, unit: float, small: int
) -> None:
    numeric, exact, reach = UNARY[name]
    x = unit * reach * 2.0**-small
    if name in POSITIVE:
        x = abs(x) + 2.0**-40
    with mpmath.workdps(400):
        truth = float(mpmath.diff(exact, mpmath.mpf(x)))
    found = slope_of(numeric, [x])
    if not np.isfinite(numeric(x)) or abs(truth) > 1e200:
        return
    assert abs(found.value - truth) <= 3 * found.error
    assert found.error <= 1e-13 * abs(truth) * (1 + abs(x)) + 1e-100


def test_expit_is_safe_far_out() -> None:
    found = slope_of(scipy.special.expit, [1000.0, -1000.0, 0.0])
    assert found.value == 0.25


def seventeen(z: Any) -> Any:
    """In-place changes, views, out=, scalars that must not change in place."""
    half = z[:, :2]
    half *= 0.5
    half += z[:, 2:4]
    z[0] = z[1] * 2.0
    z[2, 1] = 4.0
    np.multiply(z, 2.0, out=z)
    total = z.sum()
    before = total
    total += 1.0
    total *= 3.0
    total -= z[0, 0]
    total /= 7.0
    buffer = np.zeros_like(z)
    buffer[:2] = z[1:3]
    for k, row in enumerate(z):
        buffer[k] += row[::-1]
    return buffer * (total - before)


IDIOMS = {
    "in place": seventeen,
    "concatenate, split, stack": lambda z: np.stack(np.split(np.concatenate([z, 2 * z], 1), 2, 1)),
    "shapes": lambda z: np.expand_dims(np.squeeze(z[None]), 0).reshape(-1, 2).T.swapaxes(0, 1),
    "methods": lambda z: z.T.reshape(2, -1).sum(0) + z.ravel()[:6].mean() + z.dot(z.T).trace(),
    "copies": lambda z: z.copy().flatten() * np.copy(z).ravel().astype(float),
    "rolls": lambda z: np.roll(z, 1, axis=0) * np.flip(z, 1) + np.tile(z[:1], (3, 1)),
    "pads": lambda z: np.pad(z, 1) @ np.pad(z.T, 1, mode="edge"),
    "takes": lambda z: np.take(z, [0, 2], axis=0) * np.repeat(z[:1], 2, axis=0),
    "where": lambda z: np.where(np.arange(4) > 1, z, 0.5),
    "products": lambda z: np.prod(z, 0) + np.cumsum(z, 0)[-1] + np.cumprod(z, 0)[-1],
    "einsum": lambda z: np.einsum("ij,kj->ik", z, z) + np.tensordot(z, z, ([1], [1])),
    "outers": lambda z: np.outer(z[0], z[1]) + np.multiply.outer(z[1], z[2]),
    "reductions": lambda z: (
        np.add.reduce(z, axis=0) + np.multiply.reduce(z) + np.diff(z, axis=0)[0]
    ),
    "matmul": lambda z: (z @ z.T) @ np.ones(3) - np.matmul(z, np.eye(4))[:, 0],
    "linalg": lambda z: np.linalg.solve(z[:, :3] + 5 * np.eye(3), z),
    "inverse": lambda z: np.linalg.inv(z[:, :3] + 5 * np.eye(3)) * np.linalg.det(z[:, :3]),
    "matrix_power": lambda z: np.linalg.matrix_power(z[:, :3], 3),
    "normalise": lambda z: (
        (z - np.mean(z, 1, keepdims=True))
        / np.sqrt(np.mean((z - np.mean(z, 1, keepdims=True)) ** 2, 1, keepdims=True) + 1e-5)
    ),
    "softmax": lambda z: np.exp(z) / np.sum(np.exp(z), axis=1, keepdims=True),
    "numpy scalar first": lambda z: np.float64(2.0) * z / np.sqrt(2.0) + np.float64(1) - z,
    "constant": lambda z: np.ones(3) * 2.0,
    "fill": lambda z: z * np.full_like(z, 3.0, dtype=float) + np.zeros_like(z, dtype=bool),
    "precision": lambda z: z * z.dtype.type(0.5) + np.finfo(z.dtype).eps + z.ndim + z.size + len(z),
    "broadcasts": lambda z: np.broadcast_to(z[:, :1], (3, 4)) * np.atleast_2d(z[0]),
    "iteration": lambda z: sum(row * k for k, row in enumerate(z)),
}


@pytest.mark.parametrize("name", IDIOMS)
def test_numpy_idioms_agree_with_differences_beyond_their_bars(name: str) -> None:
    rng = np.random.default_rng(7)
    z, d = rng.standard_normal((2, 3, 4))
    shape = np.shape(IDIOMS[name](z.copy()))
    w = rng.standard_normal(shape)
    point = z.copy()
    exact = slope_of(IDIOMS[name], point, d, w)
    rough = finite_difference(lambda leaves: [IDIOMS[name](leaves[0])], [z], [d], [w])
    assert rough.distance(exact.value) <= 3
    assert exact.error <= 1e-12 * (1 + abs(exact.value))
    np.testing.assert_array_equal(point, z)


def filled(z: Any) -> Any:
    out = np.zeros(z.shape)
    out[0] = z[0]
    return out


def branching(z: Any) -> Any:
    if z.sum() > 0:
        return z
    return -z


def truthful(z: Any) -> Any:
    return z if z.sum() else -z


def added_into(z: Any) -> Any:
    out = np.ones(z.shape)
    out += z
    return out


REFUSED = {
    "abs": abs,
    "sign": np.sign,
    "maximum": lambda z: np.maximum(z, 0),
    "relu by comparison": lambda z: z * (z > 0),
    "clip": lambda z: np.clip(z, -1, 1),
    "conj": np.conj,
    "real": np.real,
    "attribute real": lambda z: z.real,
    "attribute imag": lambda z: z.imag + z,
    "angle": np.angle,
    "norm": np.linalg.norm,
    "vdot": lambda z: np.vdot(z, z),
    "vecdot": lambda z: np.vecdot(z, z),
    "logaddexp": lambda z: np.logaddexp(z, 0),
    "arctan2": lambda z: np.arctan2(z, 1.0),
    "hypot": lambda z: np.hypot(z, 1.0),
    "sort": np.sort,
    "method sort": lambda z: z.sort() or z,
    "argmax": lambda z: z * np.argmax(z),
    "max": lambda z: z - z.max(),
    "median": np.median,
    "var": lambda z: z.var(),
    "std": np.std,
    "floor": np.floor,
    "mod": lambda z: z % 1.0,
    "isfinite": lambda z: z * np.isfinite(z),
    "fft": lambda z: np.fft.irfft(np.fft.rfft(z)),
    "if": branching,
    "truth": truthful,
    "float": lambda z: z * float(z[0]),
    "int": lambda z: z * int(z[0]),
    "item": lambda z: z * z[0].item(),
    "math": lambda z: z * math.exp(z[0]),
    "index": lambda z: z[z[0].astype(int)],
    "asarray": lambda z: np.abs(np.asarray(z)),
    "array of parts": lambda z: np.array([z[0], z[1]]),
    "assignment into a real buffer": filled,
    "in-place sum into a real buffer": added_into,
    "out= a real buffer": lambda z: np.add(z, 1.0, out=np.empty(z.shape)),
    "where=": lambda z: np.log(z, out=1 * z, where=np.array([True, False])),
    "float32": lambda z: z.astype(np.float32),
    "dtype=": lambda z: np.add(z, 1.0, dtype=np.float32),
    "variable exponent": lambda z: 2.0**z,
    "where on truth": lambda z: np.where(z, 1.0, 2.0),
    "pad with the mean": lambda z: np.pad(z, 1, mode="maximum"),
    "complex constants": lambda z: (z * (1 + 1j)).imag if isinstance(z, np.ndarray) else z * 1j,
    "complex output": lambda z: np.ones(2) if isinstance(z, np.ndarray) else np.ones(2) * 1j,
    "reduce": lambda z: np.subtract.reduce(z),
    "at": lambda z: np.add.at(z, [0], z[:1]) or z,
    "other values": lambda z: z if isinstance(z, np.ndarray) else 2 * z,
    "another error": lambda z: z if isinstance(z, np.ndarray) else {}["missing"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_analytic_is_declined_by_line(name: str) -> None:
    with pytest.raises(Declined) as refusal:
        slope_of(REFUSED[name], [1.0, 2.0])
    if name not in {"other values", "complex output"}:
        assert "test_complex_step.py:" in refusal.value.where


def test_a_refusal_names_what_where_and_a_remedy() -> None:
    with pytest.raises(Declined, match=r"norm is not complex-analytic") as refusal:
        slope_of(lambda z: np.linalg.norm(z), [1.0, 2.0])
    assert "np.linalg.norm(z)" in refusal.value.where
    assert refusal.value.remedy == "np.sqrt(np.sum(x * x))"
    with pytest.raises(Declined) as refusal:
        slope_of(filled, [1.0, 2.0])
    assert "out[0] = z[0]" in refusal.value.where
    assert "np.stack" in refusal.value.remedy


def test_numpy_alone_would_take_what_is_declined_and_be_wrong() -> None:
    h = 2.0**-332
    z = np.array([-3.0, 2.0]) + 1j * h
    assert np.abs(z)[0].imag == 0  # the derivative of abs is -1
    assert np.maximum(z, 0)[0].imag == 0
    assert np.linalg.norm(z).imag == 0
    assert np.sign(z)[1].imag != 0 or np.sign(z)[1].real == 1


def test_leaves_that_are_not_perturbed_stay_plain_and_may_decide() -> None:
    def function(leaves: list[Any]) -> list[Any]:
        z, mask = leaves
        assert type(mask) is np.ndarray
        return [np.where(mask == 1, np.tanh(z), 0.0) * np.abs(mask)]

    z, mask = np.array([0.3, 0.4]), np.array([1.0, 0.0])
    found = complex_step(function, [z, mask], [np.ones(2), np.zeros(2)], [np.ones(2)])
    assert found.distance(1 / np.cosh(0.3) ** 2) <= 3
    assert found.error < 1e-14


def test_a_tangent_lost_to_underflow_widens_the_bar() -> None:
    def log_of_tiny(z: Any) -> Any:
        return np.log(np.exp(z))

    for x in (-300.0, -600.0, -700.0):
        assert slope_of(log_of_tiny, [x], h=2.0**-664).distance(1.0) <= 3
        assert slope_of(log_of_tiny, [x]).distance(1.0) <= 3
    assert slope_of(log_of_tiny, [-300.0]).error < 1e-13


def test_outside_the_real_domain_it_abstains() -> None:
    for function in (np.log, np.sqrt, np.arccosh, lambda z: z**0.5):
        found = slope_of(lambda z, f=function: f(z) * 0.0, [-2.0])
        assert found.abstains
        assert "not finite" in found.note


def test_an_infinite_derivative_behind_a_finite_value_abstains() -> None:
    found = slope_of(np.sqrt, [0.0])
    assert found.abstains
    assert "derivatives" in found.note


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(-400, 400), st.integers(-400, 400))
def test_powers_of_two_in_weights_and_direction_change_nothing_else(
    seed: int, of_weight: int, of_direction: int
) -> None:
    x, d, w = np.random.default_rng(seed).standard_normal((3, 4))
    base = slope_of(np.tanh, x, d, w)
    found = slope_of(np.tanh, x, np.ldexp(d, of_direction), np.ldexp(w, of_weight))
    assert found.value == np.ldexp(base.value, of_weight + of_direction)
    assert found.error == pytest.approx(np.ldexp(base.error, of_weight + of_direction))


def test_the_bar_follows_the_cancellation_inside() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal(50)
    smooth = slope_of(lambda z: np.sum(np.sin(z)), x)
    cancelled = slope_of(lambda z: np.sum(np.sin(z + 1e6) - np.cos(z)), x)
    assert cancelled.error > 1e3 * smooth.error
    assert cancelled.distance(np.sum(np.cos(x + 1e6) + np.sin(x))) <= 10


def test_zero_direction_or_weights_give_zero() -> None:
    assert slope_of(np.tanh, [1.0], [0.0]).value == 0
    assert slope_of(np.tanh, [1.0], None, [0.0]).value == 0


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ContractError, match="direction has shapes"):
        slope_of(np.tanh, [1.0], [1.0, 2.0])
    with pytest.raises(ContractError, match="weights has shapes"):
        slope_of(np.tanh, [1.0], None, [1.0, 2.0])


def test_an_error_of_the_code_itself_comes_through() -> None:
    def broken(leaves: list[Any]) -> list[Any]:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        complex_step(broken, [np.ones(1)], [np.ones(1)], [np.ones(1)])
