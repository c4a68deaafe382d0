"""Layers that are no single loop, and backward passes that are deliberately no gradient."""

from dataclasses import dataclass

import numpy as np
import pytest

import bpttcheck
from bpttcheck.bptt.engine import Frozen, NativeEngine
from bpttcheck.bptt.truncation import Truncated
from bpttcheck.cells import LSTM, Elman
from bpttcheck.networks import Stack

pytestmark = pytest.mark.usefixtures("shared_runs")


@dataclass(frozen=True)
class BothWays:
    """Two cells, one from each end; ``bug`` plants what is easily got wrong."""

    cell: object
    bug = ""
    causal = False

    def init(self, rng, n_in, n_hidden):
        parts = {"f": self.cell.init(rng, n_in, n_hidden), "b": self.cell.init(rng, n_in, n_hidden)}
        return {f"{end}.{name}": v for end, part in parts.items() for name, v in part.items()}

    def own(self, params, end):
        return {name[2:]: value for name, value in params.items() if name[0] == end}

    def initial_state(self, params, batch_size):
        return tuple(self.cell.initial_state(self.own(params, end), batch_size) for end in "fb")

    def passes(self, engine, params, xs, state0, mask=None):
        there, last = engine.scan(self.cell, self.own(params, "f"), xs, state0[0], mask)
        back, first = engine.scan(
            self.cell, self.own(params, "b"), xs, state0[1], mask, reverse=True
        )
        return np.concatenate([there, back], axis=-1), (last, first)

    sequence = passes

    def forward(self, params, xs, state0, mask=None):
        engine = NativeEngine()
        ys, state = self.passes(engine, params, xs, state0, mask)
        return ys, state, engine.tapes

    def vjp(self, params, tape, d_ys, d_state_T):
        half = d_ys.shape[-1] // 2
        d_back = d_ys[..., half:] if self.bug == "not flipped" else d_ys[::-1, :, half:]
        cotangents = (d_ys[..., :half], d_back)
        f, b = (
            bpttcheck.backpropagate(self.cell, self.own(params, end), *args)
            for end, *args in zip("fb", tape, cotangents, d_state_T, strict=True)
        )
        d_back_xs = b.d_xs if self.bug == "inputs not flipped back" else b.d_xs[::-1]
        scale = 1 + 1e-11 if self.bug == "off by 1e-11" else 1.0
        d_params = {f"f.{k}": v for k, v in f.d_params.items()}
        d_params |= {f"b.{k}": v * v.dtype.type(scale) for k, v in b.d_params.items()}
        return d_params, f.d_xs + d_back_xs, (f.d_state0, b.d_state0)


def planted(bug, base=BothWays):
    return type("Wrong", (base,), {"bug": bug})(Elman())


def rows(report):
    return {check.name: check for check in report.checks}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("cell", [Elman(), LSTM(), Elman("relu")], ids=str)
def test_jax_judges_a_layer_that_runs_both_ways(cell):
    report = bpttcheck.check(BothWays(cell), examples=11)
    row = rows(report)["sequence_vjp"]
    assert report.passed
    assert row.oracles["jax"] >= 8
    assert min(block.resolution for block in row.blocks if block.resolution) < 1e-12


@pytest.mark.usefixtures("as_found")
@pytest.mark.sampled(1)
@pytest.mark.parametrize("bug", ["not flipped", "inputs not flipped back", "off by 1e-11"])
def test_a_mistake_of_one_direction_is_caught(bug):
    report = bpttcheck.check(
        planted(bug),
        examples=8,
        dtypes=["float64"],
        checks=["sequence_vjp"],
        raises=False,
    )
    assert rows(report)["sequence_vjp"].verdict is bpttcheck.Verdict.FAILED


def test_laws_of_time_say_why_they_are_skipped():
    laws = ["causality", "time_splitting"]
    report = bpttcheck.check(BothWays(Elman()), examples=1, checks=laws)
    assert {row.skipped for row in report.checks} == {"causal is False"}


@pytest.mark.nightly
def test_a_layer_with_a_sequence_is_a_reference_for_another():
    class Mine(BothWays):
        sequence = None

    wrong = planted("not flipped", Mine)
    assert bpttcheck.check(Mine(Elman()), reference=BothWays(Elman()), examples=6).passed
    report = bpttcheck.check(wrong, reference=BothWays(Elman()), examples=6, raises=False)
    assert rows(report)["sequence_vjp"].oracles["jax"] > 0
    assert not report.passed


def test_a_sequence_that_jax_cannot_trace_leaves_the_differences_to_decide():
    class Branching(BothWays):
        def sequence(self, engine, params, xs, state0, mask=None):
            if float(np.sum(xs)) > np.inf:
                raise ValueError
            return self.passes(engine, params, xs, state0, mask)

    (row,) = bpttcheck.check(Branching(Elman()), examples=6, checks=["sequence_vjp"]).checks
    assert "jax" not in row.oracles
    assert row.oracles["differences"] > 0


class Spiking:
    """A leaky neuron that fires at 1; its backward pass puts a soft slope for the step."""

    surrogate = "the slope of a spike is that of v / (1 + |v|)"

    def init(self, rng, n_in, n_hidden):
        return {
            "U": rng.standard_normal((n_hidden, n_in)),
            "W": rng.standard_normal((n_hidden,) * 2),
        }

    def initial_state(self, params, batch_size):
        zeros = np.zeros((batch_size, len(params["U"])), params["U"].dtype)
        return zeros, zeros.copy()

    def current(self, params, state, x):
        v, spike = state
        return 0.9 * v + x @ params["U"].T + spike @ params["W"].T - 1

    def step(self, params, state, x):
        v = self.current(params, state, x)
        spike = (v > 0).astype(v.dtype)
        return (v, spike), spike, (x, state[1], v)

    def surrogate_step(self, freeze, params, state, x):
        v = self.current(params, state, x)
        soft = v / (1 + np.abs(v))
        spike = soft + freeze((v > 0).astype(v.dtype) - soft)
        return (v, spike), spike

    def step_vjp(self, params, cache, d_state, d_y):
        x, spike, v = cache
        d_v = d_state[0] + (d_state[1] + d_y) / (1 + np.abs(v)) ** 2
        return (
            {"U": d_v.T @ x, "W": d_v.T @ spike},
            (0.9 * d_v, d_v @ params["W"]),
            d_v @ params["U"],
        )


class Undeclared(Spiking):
    surrogate_step = None
    surrogate = ""


class WrongSlope(Spiking):
    def step_vjp(self, params, cache, d_state, d_y):
        x, spike, v = cache
        return super().step_vjp(params, (x, spike, 2 * v), d_state, d_y)


def test_a_declared_surrogate_is_verified_and_named_in_the_report():
    report = bpttcheck.check(Spiking(), examples=16, checks=["step_vjp", "sequence_vjp"])
    for row in report.checks:
        assert row.oracles["jax"] > 10
        assert row.oracles["differences"] > 5
    assert "not the gradient: the slope of a spike" in report.notes[0]


@pytest.mark.usefixtures("as_found")
@pytest.mark.sampled(1)
@pytest.mark.parametrize("cell", [Undeclared(), WrongSlope()], ids=["undeclared", "wrong slope"])
def test_a_surrogate_that_is_not_the_declared_one_fails(cell):
    (row,) = bpttcheck.check(cell, examples=6, checks=["step_vjp"], raises=False).checks
    assert row.verdict is bpttcheck.Verdict.FAILED


class Silent(Spiking):
    surrogate = ""


class OnlyWords(Spiking):
    surrogate_step = None


class OtherValues(Spiking):
    def surrogate_step(self, freeze, params, state, x):
        new, y = super().surrogate_step(freeze, params, state, x)
        return new, 2 * y


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (Silent(), "expected one sentence"),
        (OnlyWords(), "there is no surrogate_step"),
        (OtherValues(), "y of surrogate_step is not that of step"),
    ],
    ids=["no sentence", "no step", "other values"],
)
def test_half_a_declaration_is_a_broken_contract(cell, said):
    with pytest.raises(bpttcheck.ContractError, match=said):
        bpttcheck.check(cell, examples=1)


def test_a_soft_slope_that_is_not_declared_is_hinted_at_and_not_guessed():
    report = bpttcheck.check(
        Undeclared(), examples=4, checks=["step_vjp"], dtypes=["float64"], raises=False
    )
    assert any("has a jump at test_sequence_reference.py" in note for note in report.notes)


@pytest.mark.nightly
def test_a_surrogate_inside_a_network_is_judged_as_such():
    network = Stack([Spiking(), Elman()])
    report = bpttcheck.check(network, examples=8, checks=["sequence_vjp"], dtypes=["float64"])
    (row,) = report.checks
    assert row.oracles["jax"] >= 6
    assert row.oracles["differences"] >= 5
    wrong = bpttcheck.check(
        Stack([WrongSlope(), Elman()]), examples=4, checks=["sequence_vjp"], raises=False
    )
    assert wrong.verdict is bpttcheck.Verdict.FAILED


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("k1", "k2"), [
    (1, 4), (4, 4), (2, 400), pytest.param(3, 5, marks=pytest.mark.nightly)
])  # fmt: skip
def test_truncation_is_the_gradient_of_its_surrogate(k1, k2):
    report = bpttcheck.check(Truncated(LSTM() if k1 == 3 else Elman(), k1, k2), examples=11)
    row = rows(report)["sequence_vjp"]
    assert report.passed
    assert row.oracles["jax"] >= 8
    assert row.oracles["differences"] >= 6


def test_a_report_says_how_far_truncation_is_from_the_full_gradient():
    near, far, none = (
        bpttcheck.check(Truncated(Elman(), 1, k2), checks=["contract"]).notes[1]
        for k2 in (6, 1, 12)
    )
    number = lambda note: float(note.split("d_params['W'] ")[1].split(",")[0])  # noqa: E731
    assert number(far) > number(near) > 0
    assert number(none) < 1e-14


@pytest.mark.nightly
def test_a_window_that_starts_one_step_late_is_caught():
    class Late(Truncated):
        def vjp(self, params, tape, d_ys, d_state_T):
            return Truncated(self.cell, self.k1, self.k2 + 1).vjp(params, tape, d_ys, d_state_T)

    report = bpttcheck.check(
        Late(Elman(), 2, 3), examples=8, dtypes=["float64"], checks=["sequence_vjp"], raises=False
    )
    assert rows(report)["sequence_vjp"].verdict is bpttcheck.Verdict.FAILED


def test_frozen_values_are_those_of_the_first_run():
    frozen = Frozen()
    first = [frozen(np.array([1.0])), frozen((np.array([2.0]), np.array([3])))]
    frozen.again()
    again = [frozen(np.array([9.0])), frozen((np.array([9.0]), np.array([9])))]
    assert again[0] == first[0]
    assert again[1][1] == 3


def test_states_of_the_engine_are_those_of_the_loop():
    rng = np.random.default_rng(0)
    params, xs = Elman().init(rng, 2, 3), rng.standard_normal((4, 2, 2))
    state0 = rng.standard_normal((2, 3))
    mask = np.array([[1, 1], [1, 0], [1, 1], [0, 0]], bool)
    engine = NativeEngine()
    states = engine.states(Elman(), params, xs, state0, mask)
    ys, last = engine.scan(Elman(), params, xs, state0, mask)
    assert np.array_equal(states[0], state0)
    assert np.array_equal(states[-1], last)
    assert np.array_equal(ys[mask], states[1:][mask])


@pytest.mark.parametrize(("k1", "k2", "said"), [(0, 3, "k1=0"), (4, 2, "expected k2 >= k1")])
def test_windows_that_mean_nothing_are_refused(k1, k2, said):
    with pytest.raises(bpttcheck.ContractError, match=said):
        Truncated(Elman(), k1, k2)


class Foreign:
    """A layer with nothing but the contract; what flows back from step ``cut`` is lost."""

    def __init__(self, cell, cut):
        self.cell, self.cut = cell, cut
        self.init, self.initial_state = cell.init, cell.initial_state

    def forward(self, params, xs, state0, mask=None):
        ys, state, tape = bpttcheck.unroll(self.cell, params, xs, state0, mask)
        return ys, state, (tape, len(xs))

    def vjp(self, params, record, d_ys, d_state_T):
        tape, T = record
        g = bpttcheck.backpropagate(self.cell, params, tape, d_ys, d_state_T)
        scale = 0.5 if T >= self.cut else 1
        return g.d_params, g.d_xs, g.d_state0 * g.d_state0.dtype.type(scale)


@pytest.mark.nightly
def test_a_foreign_layer_is_asked_for_its_adjoints_by_calls_on_suffixes():
    report = bpttcheck.check(
        Foreign(Elman(), 3), reference=Elman(), checks=["sequence_vjp"], examples=6, raises=False
    )
    (finding,) = report.findings
    assert finding.case.T - finding.time_step >= 3
