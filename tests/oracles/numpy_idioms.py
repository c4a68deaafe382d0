"""NumPy idioms, each a small step function: what can be traced, and what to write instead.

Every row is a function ``f(params, h, x)`` with ``h (B, H)``, ``x (B, N)`` and the parameters
``U (H, N)``, ``W (H, H)``, ``b (H,)``, ``s ()``. The rows are data: a test runs each natively and
traced, and a page of the documentation is written from them.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from math import exp as math_exp

import numpy as np
import scipy.special as sp
from numpy import asarray as to_array
from numpy import zeros
from numpy.linalg import norm
from scipy.special import expit, softmax

B, N, H = 3, 2, 4
TABLE = np.linspace(-1.0, 1.0, B * H).reshape(B, H)


@dataclass(frozen=True)
class Idiom:
    """One row: a step function, the section it belongs to, and what to write if it is declined."""

    function: Callable
    section: str
    remedy: str | None

    @property
    def name(self) -> str:
        return self.function.__name__


IDIOMS: list[Idiom] = []
SECTIONS: list[str] = []


def section(title):
    SECTIONS.append(title)


def traces(function):
    IDIOMS.append(Idiom(function, SECTIONS[-1], None))
    return function


def declined(remedy):
    def mark(function):
        IDIOMS.append(Idiom(function, SECTIONS[-1], remedy))
        return function

    return mark


def pre(params, h, x):
    return x @ params["U"].T + h @ params["W"].T + params["b"]


section("Arithmetic and element-wise functions")


@traces
def tanh_of_sum(params, h, x):
    return np.tanh(x @ params["U"].T + h @ params["W"].T + params["b"])


@traces
def naive_sigmoid(params, h, x):
    return 1 / (1 + np.exp(-pre(params, h, x)))


@traces
def sigmoid_by_tanh(params, h, x):
    return 0.5 * (1 + np.tanh(0.5 * pre(params, h, x)))


@traces
def scipy_expit(params, h, x):
    return sp.expit(pre(params, h, x)) + expit(h)


@traces
def scipy_erf(params, h, x):
    z = pre(params, h, x)
    return 0.5 * z * (1 + sp.erf(z / np.sqrt(2))) + sp.erfc(h)


@traces
def scipy_log_functions(params, h, x):
    z = pre(params, h, x)
    return sp.log_expit(z) + sp.log_ndtr(h) + sp.xlogy(np.abs(h), 1 + z**2)


@traces
def scipy_gamma_functions(params, h, x):
    a = 1 + np.abs(h)
    return sp.gammaln(a) + sp.digamma(a) + sp.psi(a + 1)


@traces
def softplus_by_logaddexp(params, h, x):
    return np.logaddexp(0, pre(params, h, x))


@traces
def relu_by_maximum(params, h, x):
    return np.maximum(0, pre(params, h, x))


@traces
def relu_by_product(params, h, x):
    z = pre(params, h, x)
    return z * (z > 0)


@traces
def leaky_by_where(params, h, x):
    z = pre(params, h, x)
    return np.where(z > 0, z, 0.1 * z)


@traces
def clip_function(params, h, x):
    return np.clip(pre(params, h, x), -1, 1) + np.clip(h, None, 0.5)


@traces
def clip_method(params, h, x):
    return pre(params, h, x).clip(-1, 1) + h.clip(min=0)


@traces
def softsign(params, h, x):
    z = pre(params, h, x)
    return z / (1 + np.abs(z)) + abs(h) * np.sign(z)


@traces
def heaviside_and_hypot(params, h, x):
    z = pre(params, h, x)
    return z * np.heaviside(z, 0.5) + np.hypot(z, h)


@traces
def powers(params, h, x):
    return h**2 + np.power(h, 3) + np.square(h) + np.abs(h) ** 1.5 + 2.0**h


@traces
def division_and_remainder(params, h, x):
    q, r = divmod(h, 0.7)
    return q + r * np.mod(h, 3.0) + h // 2 + np.fmod(h, 1.5)


@traces
def parts_of_numbers(params, h, x):
    fraction, whole = np.modf(3 * h)
    return fraction * h + whole + np.floor(h) + np.round(h, 1) + np.trunc(h)


@traces
def nan_guards(params, h, x):
    z = np.log(pre(params, h, x) ** 2)
    return np.nan_to_num(np.where(np.isfinite(z), z, 0.0))


@traces
def comparison_chain_by_logic(params, h, x):
    z = pre(params, h, x)
    return z * np.logical_and(z > -1, z < 1) + z * ((z > 1) | (z < -1)) + z * ~(z > 0)


@traces
def interpolation_table(params, h, x):
    return np.interp(pre(params, h, x), [-1, 0, 1], [0, 0.5, 1])


@traces
def select_branches(params, h, x):
    z = pre(params, h, x)
    return np.select([z < -1, z < 1], [np.exp(z), 1 + z], default=2.0)


@traces
def piecewise_functions(params, h, x):
    z = pre(params, h, x)
    return np.piecewise(z, [z < 0, z >= 0], [lambda v: np.exp(v), lambda v: 1 + v])


@traces
def piecewise_with_default(params, h, x):
    z = pre(params, h, x)
    return np.piecewise(z, [z < -1, z > 1], [-1.0, 1.0, lambda v: v])


@traces
def choose_by_integer(params, h, x):
    z = pre(params, h, x)
    return np.choose((z > 0).astype(int), [0.1 * z, z])


@traces
def errstate_block(params, h, x):
    with np.errstate(over="raise", invalid="ignore"):
        return np.exp(-np.abs(pre(params, h, x)))


@traces
def from_imports(params, h, x):
    out = zeros((B, H))
    out[:] = to_array(pre(params, h, x))
    return out / norm(out) + softmax(h, axis=-1)


@traces
def local_imports(params, h, x):
    import numpy
    from scipy.special import log_softmax

    out = numpy.empty((B, H))
    out[:, :2] = x
    out[:, 2:] = h[:, :2]
    return log_softmax(out, axis=1)


@declined("np.exp")
def math_function(params, h, x):
    return pre(params, h, x) * math.exp(params["s"])


@declined("np.exp")
def math_function_by_name(params, h, x):
    return pre(params, h, x) * math_exp(h[0, 0])


@declined("a formula in np.exp, np.where and the like, or a reference in JAX")
def special_function_unknown_to_jax(params, h, x):
    return sp.struve(1, h)


@declined("array expressions, np.where for branches")
def vectorized_python(params, h, x):
    return np.vectorize(lambda v: v if v > 0 else 0.0)(pre(params, h, x))


@declined("a formula in np.exp, np.where and the like, or a reference in JAX")
def python_ufunc(params, h, x):
    return np.frompyfunc(lambda v: v + 1, 1, 1)(h)


section("Numbers, dtypes and constants")


@traces
def numpy_scalars_on_either_side(params, h, x):
    z = pre(params, h, x)
    return np.float64(0.5) * z + z * np.float64(0.25) - np.float32(0.1) * z


@traces
def scalar_of_input_dtype(params, h, x):
    return pre(params, h, x) * x.dtype.type(0.1)


@traces
def astype_to_input_dtype(params, h, x):
    return pre(params, h, x).astype(x.dtype) + (h > 0).astype(h.dtype)


@traces
def single_precision_inside(params, h, x):
    return pre(params, h, x).astype(np.float32).astype(np.float64) * 0.0 + h


@traces
def dtype_tests(params, h, x):
    assert x.dtype == np.float64
    assert np.issubdtype(h.dtype, np.floating)
    return h + np.finfo(x.dtype).eps + np.result_type(h, 1.0).itemsize


@traces
def shape_tests(params, h, x):
    if x.shape[1] != N or x.ndim != 2 or len(h) != B or np.size(h) != B * H:
        raise ValueError("x must have N columns")
    return h.reshape(np.shape(h))


@traces
def isinstance_test(params, h, x):
    if not isinstance(x, np.ndarray):
        raise TypeError("x must be an array")
    return pre(params, h, x)


@traces
def constants_stay_numbers(params, h, x):
    scale = 1 / np.sqrt(h.shape[1])
    half = int(np.ceil(h.shape[1] / 2))
    steps = np.arange(half)
    if scale > 0.1 and np.any(steps == 1):
        h = h * scale
    return sum(h * float(k) for k in steps)


@traces
def parameter_number(params, h, x):
    return pre(params, h, x) * params["s"] + params["s"] ** 2


@traces
def sum_of_numbers(params, h, x):
    total = 0.0
    for row in h:
        total += row.sum()
    return h * total


@traces
def integer_mixes(params, h, x):
    counts = np.arange(H)
    return h * counts / (counts + 1) + counts // 2 + (h > 0) * 2


@traces
def boolean_sums(params, h, x):
    return h * (h > 0).sum(axis=1, keepdims=True) + np.mean(h > 0) + np.count_nonzero(h > 0)


@traces
def constant_random_numbers(params, h, x):
    return pre(params, h, x) * np.random.default_rng(0).random((B, H))


@traces
def formatted_for_a_message(params, h, x):
    z = pre(params, h, x)
    _ = f"{z} {z!r} {z[0, 0]:.3f}", str(z), np.array2string(z)
    return z


@declined("the array itself, or np.float64 arithmetic")
def float_of_value(params, h, x):
    return pre(params, h, x) * float(params["s"])


@declined("z.astype(int)")
def int_of_value(params, h, x):
    return pre(params, h, x) * int(h[0, 0])


@declined("the array itself")
def item_of_value(params, h, x):
    return pre(params, h, x) * params["s"].item()


@declined("the array itself")
def list_of_values(params, h, x):
    return np.array(h.tolist())


@declined("np.round")
def round_of_value(params, h, x):
    return h * round(h[0, 0])


@declined("z.astype(dtype)")
def scalar_type_as_cast(params, h, x):
    return np.float64(h)


@declined("an array index: np.take(table, k, axis=0)")
def python_index(params, h, x):
    return h * [0.5, 1.0, 2.0, 3.0][h.argmax()]


@declined("NumPy functions of the array")
def bytes_of_value(params, h, x):
    return pre(params, h, x) * len(h.tobytes())


@declined("NumPy functions of the array")
def memory_of_value(params, h, x):
    return h * len(h.data)


@declined("NumPy functions of the array")
def pointer_of_value(params, h, x):
    return h * h.ctypes.data


@declined("z.astype(dtype)")
def bits_of_value(params, h, x):
    return h.view(np.int64) * 1.0


@declined("save outside the step")
def saved_to_disk(params, h, x):
    np.save("h.npy", h)
    return h


@declined("keep values out of sets and dict keys")
def hashed(params, h, x):
    return h * len({h[0, 0], h[0, 1]})


section("Control flow")


@declined("np.where(condition, a, b)")
def if_on_value(params, h, x):
    z = pre(params, h, x)
    if np.any(z > 1e9):
        z = z / 2
    return z


@declined("np.where(condition, a, b)")
def conditional_expression(params, h, x):
    return h if h[0, 0] > 0 else -h


@declined("assertions on shapes only")
def assertion_on_value(params, h, x):
    assert np.isfinite(h).all()
    return h


@declined("a fixed number of rounds, with np.where")
def while_on_value(params, h, x):
    while np.abs(h).max() > 1:
        h = h / 2
    return h


@declined("np.logical_and(a, b), or a & b")
def and_of_values(params, h, x):
    low = h[0, 0] > 0 and h[0, 1] > 0
    return h * low


@declined("np.logical_or(a, b), or a | b")
def or_of_values(params, h, x):
    return h * (h[0, 0] > 0 or h[0, 1] > 0)


@declined("np.logical_not(a), or ~a")
def not_of_value(params, h, x):
    return h * (not h[0, 0])


@declined("np.maximum(a, b), or np.max(z)")
def python_max(params, h, x):
    return h * max(params["s"], 0.0)


@declined("np.minimum(a, b), or np.min(z)")
def python_min(params, h, x):
    return h * min(h[0, 0], 1.0)


@declined("np.sort")
def python_sorted(params, h, x):
    return np.array(sorted(h[0])) + h


@declined("a fixed range, with np.where inside")
def range_over_value(params, h, x):
    total = np.zeros(H)
    for k in range(h.argmax()):
        total += k
    return h + total


@declined("np.take, or a mask of 0 and 1")
def slice_up_to_value(params, h, x):
    return h[:, : h.argmax()]


@declined("np.where(condition, a, b)")
def swallowed_refusal(params, h, x):
    try:
        sign = 1.0 if h[0, 0] > 0 else -1.0
    except Exception:
        sign = 0.0
    return h * sign


@traces
def loops_over_shapes(params, h, x):
    z = pre(params, h, x)
    out = np.zeros((B, H))
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            out[i, j] = np.tanh(z[i, j])
    return out


@traces
def loop_over_rows(params, h, x):
    return np.stack([np.tanh(row) for row in pre(params, h, x)])


@traces
def python_sum_and_reduce(params, h, x):
    return sum([h, h**2]) + reduce(np.add, [h, h])


section("Making arrays and filling them")


@traces
def empty_filled(params, h, x):
    out = np.empty((B, H))
    out[:] = np.tanh(pre(params, h, x))
    return out


@traces
def zeros_filled_by_slices(params, h, x):
    out = np.zeros((B, H), dtype=x.dtype)
    out[:, :N] = x
    out[:, N:] = h[:, N:] ** 2
    return out


@traces
def zeros_like_filled(params, h, x):
    z = pre(params, h, x)
    out = np.zeros_like(z)
    out[:, :2] = z[:, :2]
    return out


@traces
def empty_like_filled_by_column(params, h, x):
    out = np.empty_like(h)
    for j in range(H):
        out[:, j] = h[:, j] * j
    return out


@traces
def full_and_ones(params, h, x):
    return np.full_like(h, 0.5) * h + np.ones_like(h) + np.full((B, H), 2.0) * h


@traces
def full_of_value(params, h, x):
    return np.full((B, H), h[0, 0]) * h + np.full_like(h, params["s"])


@traces
def array_of_arrays(params, h, x):
    return np.array([h, h**2]).sum(axis=0)


@traces
def array_of_numbers(params, h, x):
    return np.array([[h[0, 0], h[0, 1]], [h[1, 0], 1.0]]) @ np.ones((2, H))


@traces
def asarray_of_input(params, h, x):
    return pre(params, np.asarray(h), np.asarray(x, dtype=np.float64))


@traces
def contiguous_copies(params, h, x):
    return np.ascontiguousarray(h.T).T + np.asfortranarray(h) + np.array(h, copy=True, ndmin=2)


@traces
def array_with_another_dtype(params, h, x):
    return np.array(h > 0, dtype=float) + np.asarray([1, 2, 3, 4], dtype=h.dtype) * h


@traces
def eye_and_triangles(params, h, x):
    return h @ (np.eye(H) + np.triu(params["W"], 1) + np.tril(params["W"], -1))


@traces
def linspace_and_grids(params, h, x):
    a, b = np.meshgrid(np.linspace(0, 1, H), np.arange(B))
    return h * a + b * np.mgrid[0:B, 0:H][1]


@traces
def range_of_values(params, h, x):
    return np.linspace(h[0], h[1], B)


@traces
def one_hot_rows(params, h, x):
    return np.eye(H)[np.argmax(h, axis=1)] * h


@traces
def out_into_buffer(params, h, x):
    out = np.zeros((B, H))
    np.tanh(pre(params, h, x), out=out)
    return out


@traces
def out_in_place(params, h, x):
    z = pre(params, h, x)
    np.tanh(z, out=z)
    np.multiply(z, 2, z)
    return z


@traces
def out_of_functions(params, h, x):
    out = np.empty((B, H))
    np.matmul(h, params["W"].T, out=out)
    np.dot(h, params["W"], out=out)
    total = np.empty(H)
    np.sum(h, axis=0, out=total)
    return np.clip(out, -1, 1, out=out) + total


@traces
def constant_plus_traced(params, h, x):
    z = np.zeros((B, H))
    z += h @ params["W"].T
    z -= params["b"]
    return z


@traces
def copyto_with_mask(params, h, x):
    out = np.zeros((B, H))
    np.copyto(out, pre(params, h, x))
    np.copyto(out, 0.0, where=h > 0)
    return out


@traces
def where_and_out(params, h, x):
    z = pre(params, h, x)
    return np.divide(1.0, z, out=np.zeros_like(z), where=z > 0.1)


@traces
def put_functions(params, h, x):
    z = pre(params, h, x)
    np.put(z, [0, 5], [0.0, 1.0])
    np.put_along_axis(z, np.argmax(h, axis=1)[:, None], 3.0, axis=1)
    np.putmask(z, h > 0.5, h**2)
    np.place(z, h < -1, 0.25)
    return z


@traces
def diagonal_filled(params, h, x):
    w = params["W"].copy()
    np.fill_diagonal(w, 0)
    return h @ w.T


@traces
def add_at(params, h, x):
    out = pre(params, h, x)
    np.add.at(out, (slice(None), [0, 0, 2]), x[:, :1])
    np.subtract.at(out, 0, 1.0)
    np.multiply.at(out, ([0, 1], [1, 2]), 2.0)
    return out


@traces
def flat_assignment(params, h, x):
    z = pre(params, h, x)
    z.flat[::2] = 0.0
    z.flat[1] = z.flat[3] * 2
    return z


@traces
def fill_and_sort_in_place(params, h, x):
    z = pre(params, h, x)
    z[0].fill(1.5)
    z.sort(axis=1)
    return z


@traces
def nan_to_num_in_place(params, h, x):
    z = pre(params, h, x)
    z[0, 0] = np.nan
    np.nan_to_num(z, copy=False, nan=0.5)
    return z


@traces
def shape_assigned(params, h, x):
    z = pre(params, h, x)
    z.shape = (B * 2, H // 2)
    return z


@declined("make the array inside the step, with np.empty, np.zeros or np.array")
def write_into_outside_array(params, h, x):
    TABLE[:] = h
    return TABLE


@declined("make the array inside the step, with np.empty, np.zeros or np.array")
def out_into_outside_array(params, h, x):
    return np.tanh(h, out=TABLE)


@declined("make the array inside the step, with np.empty, np.zeros or np.array")
def write_into_wrapped_outside_array(params, h, x):
    table = np.asarray(TABLE)
    table += h
    return table


section("Joining, splitting, reordering")


@traces
def concatenate_and_stack(params, h, x):
    z = np.concatenate([x, h], axis=1) @ np.ones((N + H, H))
    return np.stack([z, h], axis=0).sum(0) + np.vstack((h[:1], h[1:])) + np.hstack([h, x])[:, :H]


@traces
def column_and_index_tricks(params, h, x):
    a = np.c_[x, h] @ np.ones((N + H, H))
    b = np.r_[x.T, h.T].T @ np.ones((N + H, H))
    return a + b + np.column_stack([h[:, 0], h[:, 1:]]) + np.block([[h, x]])[:, :H]


@traces
def concatenate_with_constants(params, h, x):
    ones = np.ones((x.shape[0], 1))
    return np.concatenate([h, ones], axis=1)[:, 1:] + np.append(h, ones, axis=1)[:, :H]


@traces
def split_into_gates(params, h, x):
    i, f = np.split(pre(params, h, x), 2, axis=1)
    a, b = np.hsplit(h, 2)
    c, d = np.array_split(h, [1], axis=-1)
    return np.concatenate([i * a, f * b], axis=1) + np.concatenate([d, c], axis=1)


@traces
def unpacked_transpose(params, h, x):
    a, b, c, d = pre(params, h, x).T
    return np.array([d, c, b, a]).T


@traces
def tile_and_repeat(params, h, x):
    return np.tile(params["b"], (B, 1)) + np.repeat(h[:1], B, axis=0) + np.repeat(x, 2, axis=1)


@traces
def roll_and_flip(params, h, x):
    return np.roll(h, 1, axis=1) + h[:, ::-1] + np.flip(h, axis=0) + np.fliplr(h) + np.rot90(h, 2)


@traces
def padding(params, h, x):
    return np.pad(x, ((0, 0), (1, 1))) + np.pad(h[:, :2], [(0, 0), (2, 0)], mode="edge")


@traces
def moved_axes(params, h, x):
    cube = np.einsum("bi,bj->bij", h, h)
    return np.moveaxis(cube, 1, 2).swapaxes(0, 1).transpose(1, 0, 2).sum(axis=-1)


@traces
def added_axes(params, h, x):
    z = h[:, None, :] * h[..., np.newaxis]
    return np.squeeze(np.expand_dims(z.sum(1), 0)) + np.atleast_2d(params["b"])


@traces
def broadcasts(params, h, x):
    a, b = np.broadcast_arrays(params["b"], h)
    return a * b + np.broadcast_to(params["b"], h.shape)


@traces
def take_rows_and_columns(params, h, x):
    return np.take(h, [1, 0, 2, 3], axis=1) + h.take([0, 0, 1], axis=0) + h[[2, 1, 0]]


@traces
def take_along(params, h, x):
    order = np.argsort(h, axis=1)
    return np.take_along_axis(h, order, axis=1) + h[np.arange(B)[:, None], order]


@traces
def a_range_beside_an_array_of_places(params, h, x):
    y = np.array([0, 3, 1])
    h = h.copy()
    h[range(B), y] -= params["s"]
    return h + h[range(B), y][:, None] + h[range(B)]


@traces
def a_range_beside_places_that_depend_on_values(params, h, x):
    return h * h[range(len(h)), np.argmax(h, axis=1)][:, None]


@traces
def sliding_windows(params, h, x):
    windows = np.lib.stride_tricks.sliding_window_view(h, 2, axis=1)
    return np.pad(windows.mean(axis=-1), ((0, 0), (0, 1)))


@traces
def insert_and_delete(params, h, x):
    return np.delete(np.insert(h, 1, 0.5, axis=1), 0, axis=1)


section("Reductions and sorting")


@traces
def mean_and_variance(params, h, x):
    z = pre(params, h, x)
    return (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-5)


@traces
def standard_deviation(params, h, x):
    return h / np.std(h, axis=0, ddof=1) + np.average(h, axis=1, weights=np.ones(H))[:, None]


@traces
def stable_softmax(params, h, x):
    z = pre(params, h, x)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@traces
def scipy_softmax(params, h, x):
    z = pre(params, h, x)
    return sp.softmax(z, axis=1) + sp.log_softmax(z, axis=1) + sp.logsumexp(z, 1, keepdims=True)


@traces
def ufunc_reductions(params, h, x):
    a = np.add.reduce(h, axis=1, keepdims=True) * np.maximum.reduce(h, axis=0)
    return a + np.multiply.reduce(h) + np.logaddexp.reduce(h, axis=1, keepdims=True)


@traces
def ufunc_accumulate_and_outer(params, h, x):
    a = np.add.accumulate(h, axis=1) + np.maximum.accumulate(h, axis=0)
    return a + np.multiply.outer(x[:, 0], params["b"]) + np.subtract.outer(x[:, 1], np.arange(H))


@traces
def cumulative(params, h, x):
    return np.cumsum(h, axis=1) + np.cumprod(h, axis=0) + h.cumsum(1)


@traces
def products_and_differences(params, h, x):
    return np.prod(h, axis=1, keepdims=True) * h + np.diff(h, axis=1, prepend=0.0)


@traces
def extrema(params, h, x):
    spread = np.ptp(h, axis=1, keepdims=True)
    return h - h.min() + np.amax(h, axis=0) + spread + np.max(h, initial=9)


@traces
def sorting(params, h, x):
    return np.sort(h, axis=1) + np.sort(h, axis=0, kind="stable")[::-1] + np.median(h, axis=0)


@traces
def masked_reductions(params, h, x):
    return h * np.sum(h, axis=1, keepdims=True, where=h > 0, dtype=np.float64)


@traces
def argmax_as_mask(params, h, x):
    return h * (np.arange(H) == np.argmax(h, axis=1)[:, None])


@traces
def apply_along_rows(params, h, x):
    return np.apply_along_axis(lambda v: v / np.sum(v**2), 1, h)


@declined("np.sort, np.argsort")
def partition(params, h, x):
    return np.partition(h, 2, axis=1)


@declined("array code of a fixed size")
def unique_values(params, h, x):
    return np.unique(h)[:H] + h


@declined("np.where(mask, a, b)")
def nonzero_places(params, h, x):
    rows, _ = np.nonzero(h > 0)
    return h * len(rows)


@declined("np.where(mask, a, b)")
def flat_nonzero_places(params, h, x):
    return h * len(np.flatnonzero(h))


@declined("np.where(mask, a, b)")
def argwhere_places(params, h, x):
    return h * len(np.argwhere(h > 0))


@declined("np.where(condition, a, b)")
def where_with_one_argument(params, h, x):
    return h * len(np.where(h > 0)[0])


section("Linear algebra and transforms")


@traces
def dot_products(params, h, x):
    return np.dot(x, params["U"].T) + h.dot(params["W"]) + np.inner(h, params["W"]) + np.vdot(h, h)


@traces
def einsum_forms(params, h, x):
    z = np.einsum("bi,hi->bh", x, params["U"]) + np.einsum("bi,hi", h, params["W"], optimize=True)
    return z + np.einsum("ij->i", h)[:, None]


@traces
def tensordot_and_outer(params, h, x):
    return np.tensordot(h, params["W"], axes=([1], [1])) + np.outer(x[:, 0], params["b"])


@traces
def kron_and_trace(params, h, x):
    return np.kron(x, np.ones((1, 2))) * np.trace(params["W"]) + np.diag(params["b"])[:B]


@traces
def constant_matrix_on_the_left(params, h, x):
    return np.ones((B, B)) @ h + TABLE * h


@traces
def norms(params, h, x):
    return h / np.linalg.norm(h, axis=1, keepdims=True) + np.linalg.norm(params["W"]) * h


@traces
def solve_and_inverse(params, h, x):
    a = params["W"] + 5 * np.eye(H)
    return np.linalg.solve(a, h.T).T + h @ np.linalg.inv(a) * np.linalg.det(a)


@traces
def decompositions(params, h, x):
    a = params["W"] @ params["W"].T + np.eye(H)
    q, r = np.linalg.qr(a)
    return h @ np.linalg.cholesky(a) + h @ q @ r + np.linalg.eigvalsh(a)


@traces
def matrix_powers(params, h, x):
    w = params["W"]
    return np.linalg.multi_dot([h, w.T, w]) + h @ np.linalg.matrix_power(w, 3)


@traces
def fourier(params, h, x):
    return np.fft.irfft(np.fft.rfft(h, axis=1) * np.arange(3), n=H, axis=1)


@traces
def complex_parts(params, h, x):
    z = np.fft.fft(h, axis=1)
    return z.real + z.imag + np.abs(z)


@traces
def convolution(params, h, x):
    return np.stack([np.convolve(row, [0.5, 0.25], mode="same") for row in h])


section("Masks")


@traces
def mask_set_to_number(params, h, x):
    z = pre(params, h, x)
    z[z < 0] = 0
    return z


@traces
def mask_scaled_in_place(params, h, x):
    z = pre(params, h, x)
    z[z < 0] *= 0.1
    z[z > 1] = 1.0
    return z


@traces
def mask_computed_and_put_back(params, h, x):
    z = pre(params, h, x)
    m = z < 0
    z[m] = 0.1 * z[m]
    return z


@traces
def mask_with_entrywise_functions(params, h, x):
    z = pre(params, h, x)
    m = np.abs(z) > 0.3
    z[m] = np.clip(z[m] * params["s"] + h[m], -1, 1) - np.where(h[m] > 0, h[m] ** 2, 0.0)
    chosen = h[m].astype(np.float64).copy()
    chosen *= 0.5
    z[m] += chosen
    return z


@traces
def two_sided_sigmoid(params, h, x):
    z = pre(params, h, x) * 50
    out = np.empty_like(z)
    positive = z >= 0
    out[positive] = 1 / (1 + np.exp(-z[positive]))
    e = np.exp(z[~positive])
    out[~positive] = e / (1 + e)
    return out


@traces
def row_mask(params, h, x):
    z = pre(params, h, x)
    z[x[:, 0] > 0] = params["b"]
    z[x[:, 1] > 0, :] *= 2.0
    return z


@traces
def constant_mask(params, h, x):
    keep = np.arange(H) % 2 == 0
    out = np.zeros((B, H))
    out[:, keep] = h[:, keep] ** 2
    out[:, ~keep] += x
    return out


@traces
def mask_by_ufunc_where(params, h, x):
    z = pre(params, h, x)
    return np.exp(z, where=z < 0, out=np.ones_like(z))


@declined("np.where(mask, a, b)")
def mask_read(params, h, x):
    return h[h > 0]


@declined("np.where(mask, a, b)")
def mask_read_and_reduced(params, h, x):
    return h * h[h > 0].sum()


@declined("a range of a fixed size")
def mask_set_to_array(params, h, x):
    h = h.copy()
    h[h > 0] = np.arange(np.sum(h > 0))
    return h


@declined("np.where(mask, a, b)")
def mask_and_whole_array(params, h, x):
    return h[h > 0] + h


@declined("np.where(mask, a, b)")
def mask_under_another_mask(params, h, x):
    out = np.zeros_like(h)
    out[h > 0] = h[h >= 0]
    return out


@declined("np.where(mask, a, b)")
def mask_and_column(params, h, x):
    return h * h[h[:, 0] > 0, 1].shape[0]


section("Views and aliases")


@traces
def slice_changed_in_place(params, h, x):
    z = pre(params, h, x)
    v = z[:, :2]
    v *= 0.5
    return z


@traces
def view_taken_before_the_write(params, h, x):
    z = pre(params, h, x)
    v = z[:, 1:3]
    z += 1.0
    return v


@traces
def slice_augmented(params, h, x):
    z = pre(params, h, x)
    z[:, :2] *= 0.5
    z[1] += x[0, 0]
    return z


@traces
def second_name(params, h, x):
    z = pre(params, h, x)
    w = z
    w *= 0.5
    return z


@traces
def transposed_write(params, h, x):
    z = pre(params, h, x)
    t = z.T
    t[0] = 2.0
    t *= 2
    return z


@traces
def reshaped_write(params, h, x):
    z = pre(params, h, x)
    r = z.reshape(-1)
    r[::3] = 0.0
    z.reshape(B, 2, 2).transpose(0, 2, 1)[:, 0] += 1.0
    return z


@traces
def ravel_write(params, h, x):
    z = pre(params, h, x)
    z.ravel()[:2] = 1.0
    np.ravel(z)[-1] = 0.0
    return z


@traces
def ravel_of_transposed_is_a_copy(params, h, x):
    z = pre(params, h, x)
    z.T.ravel()[:] = 1.0
    z[:, :2].reshape(-1)[:] = 2.0
    return z


@traces
def fortran_ordered_result_is_copied(params, h, x):
    z = pre(params, h, x)
    y = z.T + 1.0
    y.reshape(-1)[:] = 0.0
    y.ravel(order="F")[0] = 5.0
    return y.T


@traces
def rows_changed_in_a_loop(params, h, x):
    z = pre(params, h, x)
    for row in z:
        row *= row[0]
    return z


@traces
def split_pieces_changed(params, h, x):
    z = pre(params, h, x)
    a, b = np.split(z, 2, axis=1)
    a *= 2.0
    np.tanh(b, out=b)
    return z


@traces
def gates_by_slices_in_place(params, h, x):
    z = pre(params, h, x)
    gates, candidate = z[:, :3], z[:, 3:]
    np.negative(gates, out=gates)
    np.exp(gates, out=gates)
    gates += 1
    np.reciprocal(gates, out=gates)
    np.tanh(candidate, out=candidate)
    return z


@traces
def flatten_is_a_copy(params, h, x):
    z = pre(params, h, x)
    z.flatten()[:] = 1.0
    z.copy()[:] = 1.0
    np.array(z)[:] = 1.0
    copy.copy(z)[:] = 1.0
    copy.deepcopy({"z": z})["z"][:] = 1.0
    return z


@traces
def asarray_is_the_same_array(params, h, x):
    z = pre(params, h, x)
    w = np.asarray(z)
    w[0] = 0.0
    np.atleast_2d(z)[1] = 1.0
    np.ascontiguousarray(z)[2] += 1.0
    return z if w is z else -z


@traces
def list_index_is_a_copy(params, h, x):
    z = pre(params, h, x)
    v = z[[0, 2]]
    v *= 0.0
    z[:, [0, 1]] *= 3.0
    return z


@traces
def number_taken_out_does_not_change(params, h, x):
    z = pre(params, h, x)
    first = s = z[0, 0]
    s += 1.0
    z[0, 1] = s
    return z * first


@traces
def zero_dimensional_view(params, h, x):
    z = pre(params, h, x)
    v = z[0, 0, ...]
    v += 1.0
    z[1, 1, ...] = 4.0
    return z


@traces
def reversed_and_strided_writes(params, h, x):
    z = pre(params, h, x)
    z[:, ::-1][:, 0] = 7.0
    z[::2, ::3] *= -1.0
    np.flip(z, 0)[0] += 0.5
    return z


@traces
def overlapping_assignment(params, h, x):
    z = pre(params, h, x)
    z[:, 1:] = z[:, :-1]
    z[1:] += z[:-1]
    np.negative(z[:, ::-1], out=z)
    return z


@traces
def added_to_its_transpose(params, h, x):
    w = params["W"] * 1.0
    w += w.T
    return h @ w


@traces
def product_into_its_operand(params, h, x):
    z = pre(params, h, x)
    np.matmul(z, params["W"], out=z)
    z @= params["W"]
    return z


@traces
def rows_swapped_through_views(params, h, x):
    z = pre(params, h, x)
    z[0], z[1] = z[1], z[0]
    return z


@traces
def view_of_a_buffer_filled_later(params, h, x):
    out = np.zeros((B, H))
    column, alias = out[:, 0], out
    out[...] = h
    out[:, 1] = column
    alias[2] = 1.0
    return out


@traces
def chain_of_views(params, h, x):
    z = pre(params, h, x)
    v = z[1:][:, 1:].T[::-1][0][None]
    v *= 10.0
    return z


@traces
def squeezed_and_expanded_writes(params, h, x):
    z = pre(params, h, x)
    z[:1].squeeze()[1] = 3.0
    np.expand_dims(z, 1)[2, 0, 2] = 4.0
    z[:, None, :, None][0, 0, 0, 0] = 5.0
    np.moveaxis(z, 0, 1)[3] -= 1.0
    z.swapaxes(0, 1)[0] -= 1.0
    return z


@traces
def mask_written_through_a_view(params, h, x):
    z = pre(params, h, x)
    row = z[0]
    row[row < 0] = 0.0
    return z


@traces
def list_of_views(params, h, x):
    z = pre(params, h, x)
    pieces = [z[:, k] for k in range(H)]
    for k, piece in enumerate(pieces):
        piece += k
    return z


@traces
def buffer_reused_in_a_loop(params, h, x):
    buffer, total = np.empty((B, H)), np.zeros((B, H))
    for k in range(3):
        np.multiply(h, k, out=buffer)
        total += buffer
    return total + buffer


@traces
def input_changed_in_place(params, h, x):
    h += 1.0
    params["W"][0] = 0.0
    return pre(params, h, x)


@traces
def strided_windows_read(params, h, x):
    z = pre(params, h, x)
    step = z.strides
    windows = np.lib.stride_tricks.as_strided(z, (B, H - 1, 2), (*step, step[1]))
    z[0, 1] = 9.0
    return windows.sum(-1)


@traces
def writeable_flag(params, h, x):
    z = pre(params, h, x)
    z.flags.writeable = False
    return z * 2


@traces
def memory_questions(params, h, x):
    z = pre(params, h, x)
    return z * np.shares_memory(z, z.T) + np.shares_memory(z, z.copy())


@declined("")
def write_into_broadcast(params, h, x):
    v = np.broadcast_to(params["b"], (B, H))
    v += 1.0
    return v


@declined("write a new array")
def write_into_overlapping_windows(params, h, x):
    z = h * 1.0
    windows = np.lib.stride_tricks.as_strided(z, (B, H - 1, 2), (*z.strides, z.strides[1]))
    windows[:] = 0.0
    return z


@declined("")
def write_into_diagonal(params, h, x):
    w = params["W"] * 1.0
    np.diagonal(w)[:] = 0.0
    return h @ w


@declined("take the copy that you mean with .copy(), or write a new array")
def write_into_einsum_view(params, h, x):
    w = params["W"] * 1.0
    np.einsum("ii->i", w)[:] = 0.0
    return h @ w


@declined("take the copy that you mean with .copy(), or write a new array")
def einsum_view_read_after_a_write(params, h, x):
    w = params["W"] * 1.0
    d = np.einsum("ii->i", w)
    w += 1.0
    return h * d


@declined("take the copy that you mean with .copy(), or write a new array")
def write_depends_on_how_the_input_lies(params, h, x):
    z = np.tanh(h)
    z.reshape(-1)[0] = 1.0
    return z
