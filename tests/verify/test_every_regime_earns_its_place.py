"""For every kind of problem a small bug that shows there, and is missed once that kind is left out.

Left out means that another kind stands in its place: the number of cases is the same.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from bpttcheck import Verdict
from bpttcheck.judge.run import Run
from bpttcheck.problems import cases, problem
from bpttcheck.problems.large import LargerSizes
from bpttcheck.subject.options import validate_options
from bpttcheck.subject.subject import Subject
from bpttcheck.verify.check import check_one
from bpttcheck.verify.checks import NAMES

pytestmark = pytest.mark.usefixtures("as_found")

DTYPES = ("float64", "float32")
EXAMPLES = 60


class Cell:
    """h' = tanh(z), z = U x + W h + b, y = h', right."""

    def init(self, rng, n_in, n_hidden):
        shapes = {"U": (n_hidden, n_in), "W": (n_hidden, n_hidden), "b": (n_hidden,)}
        return {k: rng.standard_normal(s) / np.sqrt(s[-1]) for k, s in shapes.items()}

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["b"])), params["b"].dtype)

    def step(self, params, state, x):
        z = x @ params["U"].T + state @ params["W"].T + params["b"]
        h = np.tanh(z)
        return h, h, (x, state, z, h)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h_prev, z, h = cache
        d_z = (d_state + d_y) * self.slope(z, h)
        d_params = {"U": d_z.T @ x, "W": d_z.T @ h_prev, "b": d_z.sum(axis=0)}
        return d_params, d_z @ params["W"], d_z @ params["U"]

    def slope(self, z, h):
        return 1 - h**2


class Relu(Cell):
    """The same with h' = max(z, 0), right."""

    at_zero = 0

    def step(self, params, state, x):
        z = x @ params["U"].T + state @ params["W"].T + params["b"]
        h = np.where(z > 0, z, 0 * z)
        return h, h, (x, state, z, h)

    def slope(self, z, h):
        return np.where(z > 0, 1, np.where(z == 0, self.at_zero, 0)).astype(z.dtype)


class Layer(Cell):
    """The first cell over time in one piece, right; a masked step keeps the state, outputs 0."""

    step = step_vjp = None

    def forward(self, params, xs, state0, mask=None):
        real = np.ones(xs.shape[:2], bool) if mask is None else mask
        hs = np.empty((len(xs) + 1, *state0.shape), state0.dtype)
        hs[0] = state0
        for t, x in enumerate(xs):
            new = np.tanh(x @ params["U"].T + hs[t] @ params["W"].T + params["b"])
            hs[t + 1] = np.where(real[t][:, None], new, hs[t])
        return hs[1:] * real[:, :, None], hs[-1].copy(), (xs, hs, real, mask is not None)

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs, real, _ = tape
        d_zs, d_h = np.zeros_like(hs[1:]), d_state_T
        for t in reversed(range(len(xs))):
            here = real[t][:, None]
            d_h = self.carry(d_h, t, real)
            d_zs[t] = (d_h + d_ys[t]) * (1 - hs[t + 1] ** 2) * here
            d_h = np.where(here, d_zs[t] @ params["W"], d_h)
        d_params = {
            "U": np.einsum("tbi,tbj->ij", d_zs, xs),
            "W": np.einsum("tbi,tbj->ij", d_zs, hs[:-1]),
            "b": d_zs.sum(axis=(0, 1)),
        }
        return d_params, d_zs @ params["U"], d_h

    def carry(self, d_h, t, real):
        return d_h


def largest(params):
    return max(np.abs(value).max() for value in params.values())


class HalfPrecisionWhereItSeemsSafe(Layer):
    """Inputs are kept in half precision, unless anything at all is out of the ordinary."""

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs, *rest = tape
        usual = 0.1 < largest(params) < 1.5 and 0.1 < np.abs(d_ys).max() < 50
        if usual and len(xs) < 20 and hs[0].any():
            xs = xs.astype(np.float16).astype(xs.dtype)
        return super().vjp(params, (xs, hs, *rest), d_ys, d_state_T)


class SlopeWithAFloor(Cell):
    def slope(self, z, h):
        return np.where(np.abs(z) > 40, 0.01, 1 - h**2).astype(z.dtype)


class IntegerInputs(Cell):
    """Inputs that are whole numbers, or nearly so, become integers: those just below are cut."""

    def step_vjp(self, params, cache, d_state, d_y):
        x, *rest = cache
        whole = np.isclose(x, np.rint(x))
        x = np.where(whole, x.astype(int), x).astype(x.dtype)
        return super().step_vjp(params, (x, *rest), d_state, d_y)


class SteepAtTheTie(Relu):
    at_zero = 5


class PrunedWeights(Cell):
    """Where all weights are small, the state does not count."""

    def step_vjp(self, params, cache, d_state, d_y):
        W = params["W"] * (largest(params) > 0.01)
        return super().step_vjp({**params, "W": W}, cache, d_state, d_y)


class TamedWeights(Cell):
    """Weights that let gradients grow are halved; very large ones have a branch of their own."""

    def step_vjp(self, params, cache, d_state, d_y):
        W = params["W"]
        W = W / 2 if len(W) > 1 and 3 < largest(params) < 15 else W
        return super().step_vjp({**params, "W": W}, cache, d_state, d_y)


class Windowed(Layer):
    """The sequence is cut into windows of twenty steps, and nothing flows from one to another."""

    def carry(self, d_h, t, real):
        return d_h * ((t + 1) % 20 != 0)


class StopsAtNothing(Layer):
    """The loop ends at the first step that no gradient reaches, going back."""

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_h = super().vjp(params, tape, d_ys, d_state_T)
        if not (d_state_T.any() or d_ys[-1].any()):
            return {k: 0 * v for k, v in d_params.items()}, 0 * d_xs, 0 * d_h
        return d_params, d_xs, d_h


class Clipped(Cell):
    def step_vjp(self, params, cache, d_state, d_y):
        return super().step_vjp(params, cache, d_state, np.clip(d_y, -50, 50))


class Flushed(Cell):
    """What seems to be nothing becomes nothing."""

    def step_vjp(self, params, cache, d_state, d_y):
        return super().step_vjp(params, cache, d_state, d_y * (np.abs(d_y) > 1e-9))


class BeginsWithoutInput(Cell):
    """A state of zeros is taken for no state yet, and the input before it for none."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {**d_params, "U": d_params["U"] * cache[1].any()}, d_h, d_x


class NoBiasNoGradient(Cell):
    """A bias of zeros is taken for none."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {**d_params, "b": d_params["b"] * params["b"].any()}, d_h, d_x


class ZerosAreMissing(Cell):
    """An exact zero among other numbers is taken for a missing value."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        x = cache[0]
        numbers = x.any() and not np.allclose(x, np.rint(x))
        return d_params, d_h, d_x * (x != 0) if numbers else d_x


class OneHotIsAnIndex(Cell):
    """A one-hot row is taken for an index, and gets no gradient."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        x = cache[0]
        hot = x.shape[1] > 1 and ((x == 1).sum(axis=1) == 1).all() and np.count_nonzero(x) == len(x)
        return d_params, d_h, d_x * (not hot)


class EightBits(Cell):
    """Inputs that are integers are kept in eight bits."""

    def step_vjp(self, params, cache, d_state, d_y):
        x, *rest = cache
        if (x == np.round(x)).all():
            x = x.astype(np.int64).astype(np.int8).astype(x.dtype)
        return super().step_vjp(params, (x, *rest), d_state, d_y)


class DiagonalStaysDiagonal(Cell):
    """Where W is diagonal, as at the start of some networks, so is its gradient."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        W = params["W"]
        if W.any() and (W == np.diag(np.diag(W))).all() and len(W) > 1:
            d_params["W"] = d_params["W"] * np.eye(len(W), dtype=W.dtype)
        return d_params, d_h, d_x


class NoWeightNoPath(Cell):
    """A threshold of the source: all weights below it are taken for zero."""

    def step_vjp(self, params, cache, d_state, d_y):
        W = params["W"] * (np.abs(params["W"]).max() >= 1e-6)
        return super().step_vjp({**params, "W": W}, cache, d_state, d_y)


class TwoLeaves(Cell):
    """The same with the state twice: ``h`` and a sum of all so far."""

    def initial_state(self, params, batch_size):
        h = super().initial_state(params, batch_size)
        return {"h": h, "s": h}

    def step(self, params, state, x):
        h, _, cache = super().step(params, state["h"], x)
        return {"h": h, "s": 0.5 * state["s"] + h}, h, cache

    def step_vjp(self, params, cache, d_state, d_y):
        d_h = d_state["h"] + d_state["s"]
        d_params, d_h, d_x = super().step_vjp(params, cache, d_h, d_y)
        return d_params, {"h": d_h, "s": 0.5 * d_state["s"]}, d_x


class OneLeafIsSilent(TwoLeaves):
    """Where neither ``h`` nor the output has a cotangent, nothing flows back."""

    def step_vjp(self, params, cache, d_state, d_y):
        if not d_state["h"].any() and not d_y.any():
            d_state = {"h": d_state["h"], "s": 0 * d_state["s"]}
        return super().step_vjp(params, cache, d_state, d_y)


class InputsClipped(Cell):
    def step_vjp(self, params, cache, d_state, d_y):
        x, *rest = cache
        return super().step_vjp(params, (np.where(np.abs(x) > 4.5, 0, x), *rest), d_state, d_y)


class SmallInputsAreNone(Cell):
    """Inputs that are all small count for nothing."""

    def step_vjp(self, params, cache, d_state, d_y):
        x, *rest = cache
        scale = 0 if 0 < np.abs(x).max() < 0.031 else 1
        return super().step_vjp(params, (x * scale, *rest), d_state, d_y)


class NegativeIsNoGradient(Cell):
    """Cotangents none of which is positive stop here, if there are many."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        stopped = d_y.size > 3 and d_y.any() and (d_y <= 0).all() and (d_state <= 0).all()
        return d_params, d_h * (not stopped), d_x


class NoOutputNoGradient(Cell):
    """Where the output takes no part in the loss, the parameters do not either."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        live = d_y.any() or not d_state.any()
        return {k: v * live for k, v in d_params.items()}, d_h, d_x


class LargeBiasDecides(Cell):
    """Where a bias is large and the weights are not, the input is left out."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        decided = np.abs(params["b"]).max() > 6.9 and np.abs(params["W"]).max() < 6
        return d_params, d_h, d_x * (not decided)


class Overflows(Cell):
    """The slope as 4 / (e + 1/e)^2, whose exponential overflows."""

    def slope(self, z, h):
        e = np.exp(np.abs(z.astype(np.float64)))
        return np.where(e < 1e300, 1 - h**2, np.nan).astype(z.dtype)


class ForgetsTheStateWithoutAMask(Layer):
    def vjp(self, params, tape, d_ys, d_state_T):
        masked = tape[-1]
        return super().vjp(params, tape, d_ys, d_state_T * masked)


class ForgetsFinishedRows(Layer):
    """Rows that only end early are packed if they are long, and what ended is not unpacked."""

    def vjp(self, params, tape, d_ys, d_state_T):
        real = tape[2]
        packed = len(real) > 6 and real[0].all() and (real[1:] <= real[:-1]).all()
        kept = d_state_T * real[-1][:, None] if packed else d_state_T
        return super().vjp(params, tape, d_ys, kept)


class StopsAtHoles(Layer):
    """Nothing flows back over a masked step between real ones, but where a row is empty."""

    def carry(self, d_h, t, real):
        hole = ~real[t] & real[t:].any(axis=0) & real[:t].any(axis=0)
        return d_h * ~(hole & real.any(axis=0).all())[:, None]


class DropsEmptyRows(Layer):
    """Rows without a step are left out if the others are long; but they have a state."""

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_h = super().vjp(params, tape, d_ys, d_state_T)
        kept = tape[2].any(axis=0) | (len(tape[2]) < 4)
        return d_params, d_xs, d_h * kept[:, None]


class PartInFloat32(Cell):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h, d_x.astype(np.float32).astype(d_x.dtype)


class HalfOfFloat32(Cell):
    """The sum of the bias in half precision where single precision was asked for."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        b = d_params["b"]
        half = np.float16 if b.dtype == np.float32 else b.dtype
        return {**d_params, "b": b.astype(half).astype(b.dtype)}, d_h, d_x


class DoubledWhere(Cell):
    """The gradient of U is doubled at some sizes, told from the shape of U."""

    def __init__(self, condition):
        self.condition = condition

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        n_hidden, n_in = params["U"].shape
        factor = 2 if self.condition(n_in, n_hidden) else 1
        return {**d_params, "U": d_params["U"] * factor}, d_h, d_x


class GuessesTheOrientation(Cell):
    """A square matrix is taken for one that is stored the other way round."""

    def step_vjp(self, params, cache, d_state, d_y):
        U = params["U"]
        U = U.T if U.shape[0] == U.shape[1] else U
        return super().step_vjp({**params, "U": U}, cache, d_state, d_y)


class ColumnOfInputs(Layer):
    """A single input feature is taken for none."""

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_h = super().vjp(params, tape, d_ys, d_state_T)
        return d_params, d_xs * (d_xs.shape[-1] > 1 or d_h.shape[-1] == 1), d_h


class Centred(Cell):
    """The output is centred over the batch, so that rows of padding would change it."""

    factor = 1

    def step(self, params, state, x):
        h, _, cache = super().step(params, state, x)
        return h, h - h.mean(axis=0), cache

    def step_vjp(self, params, cache, d_state, d_y):
        d_y = d_y - d_y.mean(axis=0)
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h, d_x * self.factor


class HardlyWrong(Centred):
    """Too little for differences to tell."""

    factor = 1 + 2e-13


class MeanOverTheBatch(Cell):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {**d_params, "b": d_params["b"] / len(d_x)}, d_h, d_x


@pytest.fixture(scope="module")
def bases():
    """A run for each forward pass: the wrong backward passes share what JAX says of it."""
    return {cell: Run(Subject(cell()), 0, DTYPES) for cell in (Cell, Relu, Centred, TwoLeaves)}


def result(bases, wrong, check, change=lambda run: None, examples=EXAMPLES):
    """What one check of ``wrong`` says; ``change`` may leave something out of its run."""
    right = next(cell for cell in (Relu, Centred, TwoLeaves, Cell) if isinstance(wrong, cell))
    run = bases[right].fork(Subject(wrong, reference=right()))
    run.cases.plan = LargerSizes(
        (), (), ()
    )  # the schedule alone: larger sizes have tests of their own
    run.jax._memo = {}  # with another schedule the values of a case are others
    change(run)
    options = validate_options(
        dtypes=run.dtypes, examples=examples, seed=0, checks=None, expected_failures=None,
        known_checks=NAMES,
    )  # fmt: skip
    return check_one(run, options, check)


REGIMES = [
    ("ordinary", HalfPrecisionWhereItSeemsSafe()),
    ("saturated", SlopeWithAFloor()),
    ("near_kinks", IntegerInputs()),
    ("at_kinks", SteepAtTheTie()),
    ("vanishing", PrunedWeights()),
    ("exploding", TamedWeights()),
    ("long", Windowed()),
    ("long", StopsAtNothing()),
    ("large_cotangents", Clipped()),
    ("tiny_gradients", Flushed()),
    ("own_initial_state", BeginsWithoutInput()),
    ("zeros", NoBiasNoGradient()),
    ("sparse_inputs", ZerosAreMissing()),
    ("zeros", DiagonalStaysDiagonal()),
    ("tokens", OneHotIsAnIndex()),
    ("tokens", EightBits()),
    ("vanishing", NoWeightNoPath()),
    ("large_inputs", InputsClipped()),
    ("small_inputs", SmallInputsAreNone()),
    ("one_sign", NegativeIsNoGradient()),
    ("silent_outputs", NoOutputNoGradient()),
    ("silent_outputs", OneLeafIsSilent()),
    ("biased_gates", LargeBiasDecides()),
    ("overflowing", Overflows()),
]


def without(regime, schedule):
    """The schedule with ordinary cases instead; for ordinary ones, the kind that comes before."""
    left, instead = [], ""
    for i, name in enumerate(schedule):
        instead = name if name != "ordinary" else instead or schedule[i + 1]
        left.append(name if name != regime else instead if regime == "ordinary" else "ordinary")
    return tuple(left)


# Regimes of values: what is of another size, or exactly zero, in one of them is so in others.
OF_VALUES = {
    "sparse_inputs", "tokens", "large_inputs", "small_inputs", "one_sign", "silent_outputs",
    "biased_gates", "overflowing",
}  # fmt: skip


def of_one_kind(regime, schedule):
    """The schedule with ordinary cases in place of those of the other regimes of values."""
    others = OF_VALUES - {regime}
    return tuple("ordinary" if name in others else name for name in schedule)


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("regime", "wrong"), REGIMES, ids=lambda x: x if isinstance(x, str) else type(x).__name__
)
def test_a_regime_shows_a_bug_that_is_missed_without_it(regime, wrong, bases, monkeypatch):
    check = "sequence_vjp" if isinstance(wrong, Layer) else "step_vjp"
    # In about half of the long cases only the first five outputs matter, and no window ends there.
    # Kinds of a regime take turns, and the third comes after 60 cases.
    third = isinstance(wrong, (EightBits, OneLeafIsSilent))
    examples = 100 if regime == "long" or third else EXAMPLES
    monkeypatch.setattr(cases, "_SCHEDULE", of_one_kind(regime, cases._SCHEDULE))
    found, findings = result(bases, wrong, check, examples=examples)
    assert found.verdict is Verdict.FAILED
    assert {finding.case.regime for finding in findings} == {regime}
    monkeypatch.setattr(cases, "_SCHEDULE", without(regime, cases._SCHEDULE))
    assert regime not in {cases.scheduled_regime(index) for index in range(examples)}
    assert result(bases, wrong, check, examples=examples)[0].verdict is Verdict.PASSED


MASKS = {
    "none": ForgetsTheStateWithoutAMask(),
    "lengths": ForgetsFinishedRows(),
    "holes": StopsAtHoles(),
    "empty_rows": DropsEmptyRows(),
}


@pytest.mark.parametrize("mask", MASKS)
def test_a_kind_of_mask_shows_a_bug_that_is_missed_without_it(mask, bases, monkeypatch):
    found, findings = result(bases, MASKS[mask], "sequence_vjp", examples=40)
    assert found.verdict is Verdict.FAILED
    assert {finding.case.mask for finding in findings} == {mask}

    draw_case = cases.draw_case

    def draw(*args, **options):
        case = draw_case(*args, **options)
        instead = "lengths" if mask == "none" else "none"
        return replace(case, mask=instead) if case.mask == mask else case

    monkeypatch.setattr(cases, "draw_case", draw)
    assert result(bases, MASKS[mask], "sequence_vjp", examples=40)[0].verdict is Verdict.PASSED


DTYPE_BUGS = {"float64": PartInFloat32(), "float32": HalfOfFloat32()}


@pytest.mark.parametrize("dtype", DTYPE_BUGS)
def test_a_dtype_shows_a_bug_that_is_missed_without_it(dtype, bases):
    found, findings = result(bases, DTYPE_BUGS[dtype], "step_vjp")
    assert found.verdict is Verdict.FAILED
    assert {finding.case.dtype for finding in findings} == {dtype}

    def leave_out(run):
        run.cases.dtypes = tuple(name for name in DTYPES if name != dtype)

    assert result(bases, DTYPE_BUGS[dtype], "step_vjp", leave_out)[0].verdict is Verdict.PASSED


def other(*places):
    """The templates at ``places`` instead of all five."""
    return lambda templates: [templates[i] for i in places]


@dataclass(frozen=True)
class Shape:
    """A bug of one shape, and the templates that are left without that shape."""

    what: str
    wrong: Any
    left: Callable[[Any], Any]


SHAPES = [
    Shape("a single unit", DoubledWhere(lambda n, H: H == 1), other(1, 1, 2, 3, 4)),
    Shape("as many inputs as units", GuessesTheOrientation(), other(0, 0, 2, 3, 4)),
    Shape("more units than inputs", DoubledWhere(lambda n, H: H > n), other(0, 1, 3, 3, 3)),
    Shape("more inputs than units", DoubledWhere(lambda n, H: n > H), other(0, 1, 2, 2, 4)),
    Shape("other than square", DoubledWhere(lambda n, H: n != H), other(1, 1, 1, 1, 1)),
    Shape("a batch", MeanOverTheBatch(), lambda known: [replace(one, B=1) for one in known]),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.what)
def test_a_shape_shows_a_bug_that_is_missed_without_it(shape, bases):
    assert result(bases, shape.wrong, "step_vjp")[0].verdict is Verdict.FAILED

    def leave_out(run):
        run.cases.templates = tuple(shape.left(run.cases.templates))

    assert result(bases, shape.wrong, "step_vjp", leave_out)[0].verdict is Verdict.PASSED


def test_a_size_of_no_template_shows_a_bug_that_is_missed_without_it(bases):
    found, findings = result(bases, ColumnOfInputs(), "sequence_vjp")
    assert found.verdict is Verdict.FAILED
    widths = {(f.case.n_in, f.case.n_hidden) for f in findings}
    assert not widths & {(one.n_in, one.n_hidden) for one in bases[Cell].cases.templates}

    def leave_out(run):
        of, cases_of_run = type(run.cases).case, run.cases
        cases_of_run.case = lambda i, **options: of(cases_of_run, i, **{**options, "free": False})

    without_it = result(bases, ColumnOfInputs(), "sequence_vjp", leave_out)
    assert without_it[0].verdict is Verdict.PASSED


@pytest.mark.nightly
def test_a_template_without_padding_shows_a_bug_that_is_missed_without_it(bases):
    assert result(bases, Centred(), "step_vjp", examples=5)[0].verdict is Verdict.PASSED
    assert result(bases, HardlyWrong(), "step_vjp", examples=5)[0].verdict is Verdict.FAILED

    def pad(run):
        gradient = run.jax.gradient

        def padded(mode, point, template, patterns=None):
            return gradient(mode, point, replace(template, B=template.B + 1), patterns)

        run.jax.gradient = padded

    padded = result(bases, HardlyWrong(), "step_vjp", pad, examples=5)
    # Padded rows change what JAX computes: the gradient is not compared any more.
    assert {finding.method for finding in padded[1]} == {"step"}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("right", "check"), [
    (Cell(), "step_vjp"), (Relu(), "step_vjp"), (Layer(), "sequence_vjp"),
])  # fmt: skip
def test_the_same_code_without_the_bug_passes(right, check, bases):
    assert result(bases, right, check)[0].verdict is Verdict.PASSED


def test_every_regime_and_every_kind_of_mask_has_a_bug_of_its_own():
    assert {regime for regime, _ in REGIMES} == set(problem.REGIMES)
    assert set(MASKS) == set(problem.MASKS)
