"""The door: outcomes, options, layers, references, expected failures, shrinking, no tracebacks."""

import json
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import bpttcheck
from bpttcheck import ContractError, GradientMismatch, Verdict
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.cells import LSTM, Elman
from bpttcheck.verify.session import Session

pytestmark = pytest.mark.usefixtures("shared_runs")

ONE = {"dtypes": ["float64"], "examples": 8}


class NegativeInput(Elman):
    """d_x has the wrong sign."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h, -d_x


class LosesOldCarry(CellLayer):
    """A layer that cuts the gradient after two steps from the end."""

    def vjp(self, params, tape, d_ys, d_state_T=None):
        d_ys = d_ys.copy()
        d_ys[:-2] = 0
        return super().vjp(params, tape, d_ys, d_state_T)


def test_a_wrong_gradient_raises_with_the_report():
    with pytest.raises(GradientMismatch, match="d_x") as caught:
        bpttcheck.check(NegativeInput(), checks=["step_vjp"], **ONE)
    assert isinstance(caught.value, AssertionError)
    assert caught.value.report.verdict is Verdict.FAILED


@pytest.fixture(scope="module")
def failed(forks):
    """The report of a wrong cell, of which several tests ask something."""
    return bpttcheck.check(NegativeInput(), raises=False, session=forks, **ONE)


def test_without_raises_the_report_says_it(failed):
    assert not failed.passed
    assert {f.block for f in failed.findings} == {"d_x", "d_xs"}


def test_a_failure_is_shrunk_to_the_smallest_case(failed):
    for finding in failed.findings:
        case = finding.case
        assert (case.T, case.B, case.n_in, case.n_hidden) == (1, 1, 1, 1)
        assert case.regime == "ordinary"


def test_an_error_is_not_shrunk_until_it_fades():
    class GrowsWithT(CellLayer):
        def vjp(self, params, tape, d_ys, d_state_T=None):
            d_params, d_xs, d_state0 = super().vjp(params, tape, d_ys, d_state_T)
            return d_params, d_xs * (2 if len(d_xs) > 3 else 1 + 1e-11), d_state0

    report = bpttcheck.check(
        GrowsWithT(Elman()), reference=Elman(), raises=False, checks=["sequence_vjp"], **ONE
    )
    assert report.findings[0].ratio > 1e9
    assert report.findings[0].case.T == 4


def test_a_bug_that_needs_two_steps_is_shrunk_to_two_steps():
    class SecondStepOnly(CellLayer):
        def vjp(self, params, tape, d_ys, d_state_T=None):
            d_params, d_xs, d_state0 = super().vjp(params, tape, d_ys, d_state_T)
            return d_params, d_xs * (1 + (len(d_xs) > 1)), d_state0

    report = bpttcheck.check(
        SecondStepOnly(Elman()), reference=Elman(), raises=False, checks=["sequence_vjp"], **ONE
    )
    (finding,) = report.findings
    assert (finding.block, finding.case.T, finding.case.B) == ("d_xs", 2, 1)
    assert (finding.case.n_in, finding.case.n_hidden) == (1, 1)


def test_a_finding_shows_three_values_with_their_bars(failed):
    (finding,) = (finding for finding in failed.findings if finding.check == "step_vjp")
    assert finding.hand == pytest.approx(-finding.jax.value)
    assert abs(finding.finite_difference.value - finding.jax.value) < 1e-9
    assert 0 < finding.jax.error < 1e-14
    assert 0 < finding.finite_difference.error < 1e-9


def test_a_report_is_json_ready_and_readable(failed):
    data = json.loads(json.dumps(failed.to_dict(), allow_nan=False))
    assert data["schema_version"] == 1
    assert data["verdict"] == "failed"
    assert "d_x" in str(failed)
    assert "&lt;pre&gt;" in failed._repr_html_()


def test_equal_seeds_give_equal_reports():
    def numbers(seed):
        options = {"dtypes": ["float64"], "examples": 6, "session": Session()}  # nothing is shared
        checks = ["step_vjp", "sequence_vjp", "linearity"]
        report = bpttcheck.check(Elman(), seed=seed, checks=checks, **options)
        return [(c.name, c.worst_ratio, c.cases) for c in report.checks]

    assert numbers(5) == numbers(5)
    assert numbers(5) != numbers(6)


def test_checks_can_be_chosen_and_run_in_their_own_order():
    report = bpttcheck.check(Elman(), checks=["linearity", "purity"], **ONE)
    assert [c.name for c in report.checks] == ["purity", "linearity"]


@pytest.mark.nightly
def test_a_layer_is_checked_against_the_cell_it_fuses():
    report = bpttcheck.check(CellLayer(LSTM()), reference=LSTM(), **ONE)
    assert report.passed
    skipped = {c.name: c.skipped for c in report.checks if c.verdict is None}
    assert skipped["step_vjp"] == "a layer has no single step"


@pytest.mark.nightly
def test_a_truncated_layer_fails_gradient_and_law():
    report = bpttcheck.check(LosesOldCarry(Elman()), reference=Elman(), raises=False, **ONE)
    failed = {c.name for c in report.checks if c.verdict is Verdict.FAILED}
    assert {"sequence_vjp", "time_splitting"} <= failed


class Opaque(CellLayer):
    """A layer that JAX cannot trace."""

    def forward(self, params, xs, state0=None, mask=None):
        assert float(np.sum(xs)) < np.inf
        return super().forward(params, xs, state0, mask)


@pytest.mark.nightly
def test_a_layer_that_cannot_be_traced_is_judged_by_differences_alone():
    right = bpttcheck.check(Opaque(Elman()), checks=["sequence_vjp"], **ONE)
    assert right.passed
    assert set(right.checks[0].oracles) == {"differences"}
    assert any("float(np.sum(xs))" in note for note in right.checks[0].notes)
    wrong = Opaque(NegativeInput())
    found = bpttcheck.check(wrong, checks=["sequence_vjp"], raises=False, **ONE).findings
    assert {f.block for f in found} == {"d_xs"}


def test_a_jax_function_serves_as_reference():
    def reference(params, state, x):
        h = jnp.tanh(x @ params["U"].T + state @ params["W"].T + params["b"])
        return h, h

    (row,) = bpttcheck.check(Elman(), reference=reference, checks=["step_vjp"], **ONE).checks
    assert row.oracles["jax"] == 8


def test_a_reference_of_another_function_is_a_failure_of_the_forward_pass_alone():
    checks = ["step_vjp", "sequence_vjp"]
    report = bpttcheck.check(
        Elman("tanh"), reference=Elman("sigmoid"), checks=checks, **ONE, raises=False
    )
    step = report.checks[0]
    assert step.verdict is Verdict.FAILED
    assert "jax" not in step.oracles
    assert {f.method for f in report.findings if f.check == "step_vjp"} == {"step"}
    assert all("the forward passes differ" in f.message for f in report.findings)


def test_untraceable_code_is_judged_by_differences_and_the_line_is_named():
    class Branches(Elman):
        def step(self, params, state, x):
            if float(x.sum()) > 1e300:
                x = x / 2
            return super().step(params, state, x)

    report = bpttcheck.check(Branches(), checks=["step_vjp"], **ONE)
    assert report.passed
    (note,) = report.checks[0].notes
    assert "float(x.sum())" in note


def test_sizes_are_taken_from_the_strategy():
    pairs = st.tuples(st.just(3), st.sampled_from([2, 4]))
    report = bpttcheck.check(Elman(), sizes=pairs, checks=["linearity"], **ONE)
    assert set(report.sizes) <= {(3, 2), (3, 4)}


def test_an_expected_failure_that_fails_is_no_failure():
    report = bpttcheck.check(
        NegativeInput(),
        expected_failures={"step_vjp": "known", "sequence_vjp": "known"},
        checks=["step_vjp", "sequence_vjp"],
        **ONE,
    )
    assert report.passed
    assert [c.expected_failure for c in report.checks if c.expected_failure] == ["known"] * 2


def test_an_expected_failure_that_passes_is_a_failure():
    with pytest.raises(GradientMismatch, match="remove it from expected_failures"):
        bpttcheck.check(
            Elman(), expected_failures={"linearity": "known"}, checks=["linearity"], **ONE
        )


@pytest.mark.nightly
def test_parameters_that_only_the_initial_state_reads_are_named_as_unchecked():
    class Trainable(Elman):
        def init(self, rng, n_in, n_hidden):
            return {**super().init(rng, n_in, n_hidden), "h0": rng.standard_normal(n_hidden)}

        def initial_state(self, params, batch_size):
            return np.repeat(params["h0"][None], batch_size, axis=0)

        def step_vjp(self, params, cache, d_state, d_y):
            d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
            return {**d_params, "h0": np.zeros_like(params["h0"])}, d_h, d_x

    report = bpttcheck.check(Trainable(), **ONE)
    assert any("params['h0']" in item for item in report.unchecked)

    class WithRule(Trainable):
        factor = 1.0

        def initial_state_vjp(self, params, d_state0):
            zeros = {key: np.zeros_like(value) for key, value in params.items()}
            return {**zeros, "h0": self.factor * d_state0.sum(0)}

    class WrongRule(WithRule):
        factor = 2.0

    assert bpttcheck.check(WithRule(), **ONE).unchecked == ()
    wrong = bpttcheck.check(WrongRule(), raises=False, **ONE)
    assert ("initial_state", "d_params['h0']") in {(f.check, f.block) for f in wrong.findings}


def test_a_broken_contract_stops_everything_else():
    class NoKey(Elman):
        def step_vjp(self, params, cache, d_state, d_y):
            d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
            return {k: v for k, v in d_params.items() if k != "b"}, d_h, d_x

    with pytest.raises(ContractError, match="'b'") as caught:
        bpttcheck.check(NoKey(), **ONE)
    assert caught.value.method == "step_vjp"
    report = bpttcheck.check(NoKey(), raises=False, **ONE)
    assert report.verdict is Verdict.FAILED
    assert {c.skipped for c in report.checks[1:]} == {"the contract is broken"}


def test_a_shape_that_is_wrong_at_one_size_only_is_caught():
    class OneRow(Elman):
        def step_vjp(self, params, cache, d_state, d_y):
            d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
            return d_params, d_h, d_x if len(d_x) != 4 else d_x[:1]

    report = bpttcheck.check(OneRow(), raises=False, examples=30, dtypes=["float64"])
    assert report.verdict is Verdict.FAILED
    assert any("d_x" in f.message for f in report.findings)


def test_an_exception_in_the_middle_of_a_run_names_method_and_line():
    class Late(Elman):
        def step(self, params, state, x):
            if np.abs(params["W"]).max() > 5:
                raise RuntimeError("too large")
            return super().step(params, state, x)

    options = {"checks": ["step_vjp"], "strict": False, "dtypes": ["float64"], "examples": 30}
    report = bpttcheck.check(Late(), raises=False, **options)
    assert report.passed  # where weights are ordinary it does not raise: a matter of its domain
    messages = [f.message for f in report.remarks]
    assert any("RuntimeError" in m and "too large" in m for m in messages)


def test_a_forward_pass_that_overflows_is_said_and_not_passed():
    class Explodes(Elman):
        def step(self, params, state, x):
            h, y, cache = super().step(params, state, x)
            return h, y * np.exp(800.0 * np.ones((), y.dtype)), cache

    with pytest.raises(ContractError, match="y"):
        bpttcheck.check(Explodes(), **ONE)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"examples": 0}, "examples"),
        ({"examples": True}, "examples"),
        ({"dtypes": ["float16"]}, "float16"),
        ({"dtypes": []}, "dtypes"),
        ({"seed": -1}, "seed"),
        ({"checks": ["step"]}, "step"),
        ({"checks": []}, "checks"),
        ({"sizes": [(1, 2, 3)]}, "sizes"),
        ({"sizes": st.integers()}, "sizes"),
        ({"reference": 3}, "reference"),
        ({"expected_failures": {"step": "x"}}, "step"),
        ({"expected_failures": ["step_vjp"]}, "expected_failures"),
    ],
)
@pytest.mark.parametrize("raises", [True, False])
def test_wrong_arguments_are_contract_errors_whatever_raises_says(wrong, text, raises):
    with pytest.raises(ContractError, match=text):
        bpttcheck.check(Elman(), raises=raises, **wrong)


@pytest.mark.parametrize("nothing", [None, [], "elman", 3, Elman, print])
@pytest.mark.parametrize("raises", [True, False])
def test_a_subject_that_is_no_cell_is_a_contract_error(nothing, raises):
    with pytest.raises(ContractError):
        bpttcheck.check(nothing, raises=raises)


def test_progress_counts_up_to_the_total():
    seen = []
    bpttcheck.check(Elman(), progress=lambda *a: seen.append(a), **ONE)
    done = [d for d, _, _ in seen]
    assert done == sorted(done)
    assert {total for _, total, _ in seen} == {seen[-1][1]}
    assert seen[-1][0] <= seen[-1][1]


def test_an_executor_changes_nothing_but_where_the_work_is_done():
    def numbers(executor):
        report = bpttcheck.check(Elman(), executor=executor, **ONE)
        return [(c.name, c.verdict, c.worst_ratio, c.cases) for c in report.checks]

    with ThreadPoolExecutor(2) as pool:
        assert numbers(pool) == numbers(None)


def test_the_callers_numpy_error_state_is_left_alone():
    before = np.geterr()
    bpttcheck.check(Elman(), checks=["step_vjp"], **ONE)
    assert np.geterr() == before


def test_a_gradient_beyond_the_range_of_the_dtype_is_nobodys_mistake():
    class Grows(Elman):
        """Each step multiplies the adjoint by 1e20."""

        def step(self, params, state, x):
            h = state * x.dtype.type(1e20) + x @ params["U"].T
            return h, np.tanh(x @ params["W"][:1, :1] * 0 + h * 0), (x, state)

        def step_vjp(self, params, cache, d_state, d_y):
            x, _ = cache
            zeros = {key: np.zeros_like(value) for key, value in params.items()}
            return (
                {**zeros, "U": d_state.T @ x},
                d_state * x.dtype.type(1e20),
                d_state @ params["U"],
            )

    report = bpttcheck.check(
        Grows(), sizes=st.just((1, 2)), checks=["sequence_vjp"], raises=False, examples=20
    )
    (result,) = report.checks
    assert result.verdict is not Verdict.FAILED


class CompensatedSum(Elman):
    """Its state is a sum and what rounding took of it: rounding and nothing else."""

    def initial_state(self, params, batch_size):
        zeros = super().initial_state(params, batch_size)
        return zeros, zeros.copy()

    def step(self, params, state, x):
        total, lost = state
        z = x @ params["U"].T + params["b"]
        term = np.sin(z) - lost
        new = total + term
        return (new, (new - total) - term), new, (x, z)

    def step_vjp(self, params, cache, d_state, d_y):
        x, z = cache
        d = d_state[0] + d_y
        d_z = d * np.cos(z)
        d_params = {"U": d_z.T @ x, "b": d_z.sum(0), "W": np.zeros_like(params["W"])}
        return d_params, (d, -d), d_z @ params["U"]


@pytest.mark.parametrize("seed", [3])
def test_results_that_are_equal_bit_by_bit_are_judged_though_they_are_noise(seed):
    report = bpttcheck.check(
        CompensatedSum(), checks=["masking"], examples=60, seed=seed, raises=False
    )
    assert report.verdict is Verdict.PASSED, str(report)
