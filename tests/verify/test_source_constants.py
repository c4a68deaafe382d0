"""Sizes and thresholds that stand in the hand-written code, and numbers that are neither."""

import math
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest

from bpttcheck.subject.source import float_constants, integer_constants

BLOCK = 48
TILES = (96, 160)
LIMITS = SimpleNamespace(rows=192)
FAR = 1e30
EPS32 = np.float32(0.25)


class Base:
    at = 512
    slots = 24
    low = 3.3
    negative = -2.5
    flag = True

    def __init__(self):
        self.after = 50
        self.count = 0

    def step(self, params, state, x):
        return state, x, None

    def initial_state(self, params, batch_size):
        return 0

    def init(self, rng, n_in, n_hidden):
        return {}

    def step_vjp(self, params, cache, d_state, d_y):
        return self.body(d_y, len(d_y), d_y.shape[1], 0)


@pytest.fixture
def make(tmp_path):
    """``make("if T > 64: x = 0")``: a cell with these lines in its backward pass."""
    made = []

    def make(lines):
        name = tmp_path / f"cell_{len(made)}.py"
        body = textwrap.indent(textwrap.dedent(lines).strip() or "pass", " " * 8)
        name.write_text(
            f"class Made(Base):\n    def body(self, x, T, H, t, width=80):\n{body}\n"
            "        return x\n"
        )
        namespace = dict(globals())
        exec(compile(name.read_text(), str(name), "exec"), namespace)
        made.append(namespace["Made"])
        return made[-1]()

    return make


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("if T > 64: x = 0", (64,)),
        ("if 16 <= T <= 32: x = 0", (16, 32)),
        ("if 64 < len(x): x = 0", (64,)),
        ("x = 0 if x.shape[0] >= 300 else x", (300,)),
        ("if T % 16 == 5: x = 0", (5, 16)),
        ("if T // 7: x = 0", (7,)),
        ("if T * H > 1024: x = 0", (1024,)),
        ("if H > 2 * BLOCK: x = 0", (48, 96)),
        ("if T > 1 << 9: x = 0", (512,)),
        ("if T > 2 ** 8 + 1: x = 0", (257,)),
        ("if T > self.at: x = 0", (512,)),
        ("if self.count > self.after: x = 0\nself.count += 1", (50,)),
        ("k = self.at\nif T > k: x = 0", (512,)),
        ("n, k = T, self.at\nif n > k: x = 0", (512,)),
        ("k = 40\nfor i in range(0, T, k): x = 0", (40,)),
        ("if T in (24, 36): x = 0", (24, 36)),
        ("if T in TILES: x = 0", (96, 160)),
        ("if T > LIMITS.rows: x = 0", (192,)),
        ("if T > width: x = 0", (80,)),
        ("match T:\n    case 33: x = 0\n    case 44 | 55: x = 1", (33, 44, 55)),
        ("while T > 129: T = T - 1", (129,)),
        ("x[:, 64:] = 0", (64,)),
        ("x = x[:300]", (300,)),
        ("x[:, H + 3:] = 0", (3,)),
        ("x = x[-17:]", (17,)),
        ("x = x[::21]", (21,)),
        ("for i in range(0, T, BLOCK): x = 0", (48,)),
        ("k = min(T, 128)", (128,)),
        ("x = np.zeros((300, H))", (300,)),
        ("x = [x for i in range(0, T, 19)]", (19,)),
        ("f = lambda a: a[:27]", (27,)),
        ("def inner(a):\n    return a if len(a) > 29 else 0", (29,)),
        ("k = self.t % self.slots", (24,)),
        ("x = elsewhere(x, chunk_size=72)", (72,)),
        ("if T > np.int64(65): x = 0", (65,)),
        ("x = x.argmax(0).astype(np.uint8)", (256,)),
        ("x = np.zeros(T, dtype='int8')", (128,)),
    ],
)
def test_an_integer_that_may_be_a_size_is_found(make, lines, expected):
    assert integer_constants(make(lines)) == expected


@pytest.mark.parametrize(
    "lines",
    [
        "x = x.sum(axis=2)",
        "x = x.reshape(-1, 4)",
        "x = x ** 2",
        "x = 0.5 * x",
        "x = 3 * x",
        "x = x / 7 + 2 * T",
        "x = x[2] + x[3, 5]",
        "a, b, c, d = np.split(x, 4, axis=-1)",
        "x = x[:, 2 * H:3 * H]",
        "if x.ndim == 3: x = 0",
        "if len(x.shape) == 3: x = 0",
        "if T > 1 or T == 0: x = 0",
        "x = x.transpose(0, 2, 1)",
        "x = np.swapaxes(x, 1, 2)",
        "rng = np.random.default_rng(1234)",
        "text = 'at %d' % 12",
        "if T > 5000: x = 0",
        "'''if T > 64'''",
        "if self.flag: x = 0",
        "if np.abs(x).max() > 10: x = 0",
        "x = x + math.pi",
        "raise ValueError(f'{T} 64')",
        "if self.count > 1: x = 0\nself.count += 7",
        "x = x.astype(np.int32)",
        "x = x.astype('float16')",
        "text = 'int'",
    ],
)
def test_a_number_that_is_no_size_is_left_alone(make, lines):
    assert integer_constants(make(lines)) == ()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("if np.abs(x).max() > 10: x = 0", (10.0,)),
        ("x = np.where(np.abs(x) > 3.3, 0, x)", (3.3,)),
        ("x = np.where(x > self.low, 0, x)", (3.3,)),
        ("x = np.where(x < self.negative, 0, x)", (2.5,)),
        ("x = np.clip(x, -10, 12)", (10.0, 12.0)),
        ("x = x.clip(-1e9, 1e9)", (1e9,)),
        ("x = np.clip(x, a_min=None, a_max=7.5)", (7.5,)),
        ("x = np.maximum(x, 1e-30)", (1e-30,)),
        ("x = np.minimum(x, FAR)", (1e30,)),
        ("x[np.abs(x) < 1e-30] = 0", (1e-30,)),
        ("both = (x > 0.999) & (x < 709)", (0.999, 709.0)),
        ("if (x < 0.1).any(): x = 0", (0.1,)),
        ("n = x\nif (n < 0.1).any(): x = 0", (0.1,)),
        ("x = np.where(x < 1e-9 * x.max(), 0, x)", (1e-9,)),
        ("x = np.where(x > EPS32, 0, x)", (0.25,)),
        ("x = np.where(x > np.float32(1e3), 0, x)", (1000.0,)),
        ("late = (x > 1000).any()", (1000.0,)),
        ("x = 0 if abs(x[0]) > 2.0 ** 5 else x", (32.0,)),
    ],
)
def test_a_threshold_is_found_without_its_sign(make, lines, expected):
    assert float_constants(make(lines)) == expected


@pytest.mark.parametrize(
    "lines",
    [
        "x = 0.5 * x",
        "x = x + 1e-5",
        "x = 1.0 - x ** 2.0",
        "x = np.where(x > 0, x, 0.0)",
        "if T > 64: x = 0",
        "if T % 16 == 5: x = 0",
        "for k in range(T):\n    if k > 8: x = 0",
        "k = min(T, 128)",
        "if x.shape[0] > 12: x = 0",
        "x = np.where(x > np.inf, 0, x)",
        "if t == 1: x = 0",
        "n, m = x.shape\nif m > 20: x = 0",
    ],
)
def test_a_number_that_is_no_threshold_is_left_alone(make, lines):
    assert float_constants(make(lines)) == ()


def test_at_most_twelve_are_given_and_comparisons_go_first(make):
    lines = "\n".join(
        [f"x = x[:{k}]" for k in range(100, 120)] + [f"if T > {k}: x = 0" for k in range(40, 46)]
    )
    found = integer_constants(make(lines))
    assert len(found) == 12
    assert set(range(40, 46)) <= set(found)
    assert found == tuple(sorted(found))


def test_the_backward_pass_goes_before_the_forward_pass(make):
    cell = make("\n".join(f"if T > {k}: x = 0" for k in range(40, 52)))

    class Both(type(cell)):
        def step(self, params, state, x):
            return (state, x, None) if len(x) > 7 else (x, state, None)

    assert integer_constants(Both()) == tuple(range(40, 52))


class WithFunctions(Base):
    """What the tests above write to files is found in a class of a module as well."""

    def step_vjp(self, params, cache, d_state, d_y):
        return helper(d_y, chunk=BLOCK), d_state, d_y


def helper(d, chunk=32):
    if len(d) > chunk:
        d = np.clip(d, -math.e, math.e)
    return d


def test_defaults_globals_and_constants_of_modules_are_followed():
    assert integer_constants(WithFunctions()) == (32, 48)
    assert float_constants(WithFunctions()) == (math.e,)
