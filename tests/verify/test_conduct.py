"""Gradient first, conduct second: what decides a verdict, and what is told as a remark."""

import numpy as np
import pytest

import bpttcheck
from bpttcheck import Verdict
from bpttcheck.cells import Elman
from bpttcheck.errors import ContractError
from bpttcheck.oracles.autodiff import noise
from bpttcheck.verify.check import release

FEW = {"examples": 6, "raises": False}


class DoubleInside(Elman):
    """Computes in float64 whatever it is given: right, but its dtype does not stay."""

    def step(self, params, state, x):
        wide = {k: v.astype(np.float64) for k, v in params.items()}
        return super().step(wide, state.astype(np.float64), x.astype(np.float64))

    def step_vjp(self, params, cache, d_state, d_y):
        wide = {k: v.astype(np.float64) for k, v in params.items()}
        return super().step_vjp(wide, cache, d_state.astype(np.float64), d_y.astype(np.float64))


class NoZeroLength:
    """Stacks its outputs, which needs one."""

    supports_mask = False
    cell = reference = Elman()
    init, initial_state = cell.init, cell.initial_state

    def forward(self, params, xs, state0):
        ys, caches = [], []
        for x in xs:
            state0, y, cache = self.cell.step(params, state0, x)
            ys.append(y)
            caches.append(cache)
        return np.stack(ys), state0, caches

    def vjp(self, params, tape, d_ys, d_state_T):
        total, d_xs = {k: np.zeros_like(v) for k, v in params.items()}, []
        for cache, d_y in zip(tape[::-1], d_ys[::-1], strict=True):
            d_params, d_state_T, d_x = self.cell.step_vjp(params, cache, d_state_T, d_y)
            total = {k: total[k] + d_params[k] for k in total}
            d_xs.append(d_x)
        return total, np.stack(d_xs[::-1]), d_state_T


class Opaque(NoZeroLength):
    """Without a reference, and not to be traced by JAX."""

    reference = None

    def forward(self, params, xs, state0):
        assert float(np.sum(xs)) < np.inf
        return super().forward(params, xs, state0)


@pytest.mark.parametrize(("subject", "words"), [
    (DoubleInside(), "float64"), (NoZeroLength(), "need at least one array"),
])  # fmt: skip
def test_conduct_is_a_remark_and_strict_makes_it_a_failure(subject, words):
    report = bpttcheck.check(subject, **FEW)
    assert report.passed
    assert any(words in remark.message for remark in report.remarks)
    assert "remark (" in str(report)
    assert bpttcheck.check(subject, strict=True, **FEW).verdict is Verdict.FAILED


def test_a_check_that_is_asked_for_by_name_is_strict_unless_told_otherwise():
    asked = dict(checks=["contract"], **FEW)
    assert bpttcheck.check(DoubleInside(), **asked).verdict is Verdict.FAILED
    assert bpttcheck.check(DoubleInside(), strict=False, **asked).passed


def test_a_right_cell_has_no_remark():
    assert not bpttcheck.check(Elman(), **FEW).remarks


class OtherForward(NoZeroLength):
    """Not what its reference computes, though its gradients are those of its own forward pass."""

    def forward(self, params, xs, state0):
        ys, state, tape = super().forward(params, xs, state0)
        return 2 * ys, state, tape

    def vjp(self, params, tape, d_ys, d_state_T):
        return super().vjp(params, tape, 2 * d_ys, d_state_T)


def test_a_layer_that_is_not_its_reference_fails_by_its_forward_pass():
    report = bpttcheck.check(OtherForward(), checks=["sequence_vjp"], strict=False, **FEW)
    assert report.verdict is Verdict.FAILED
    finding = report.findings[0]
    assert (finding.method, finding.block) == ("forward", "ys")
    assert "the forward passes differ" in finding.message


class AllWrong(Elman):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_previous, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {k: v * 1.5 for k, v in d_params.items()}, d_previous * 1.1, d_x * 0.9


def test_every_wrong_block_stands_in_the_report_the_worst_first():
    report = bpttcheck.check(AllWrong(), checks=["sequence_vjp"], **FEW)
    blocks = {finding.block for finding in report.findings}
    assert blocks >= {f"d_params[{key!r}]" for key in Elman().init(np.random.default_rng(0), 2, 3)}
    assert "d_xs" in blocks
    told = [f.ratio for f in report.findings if not f.counted]
    assert told == sorted(told, key=lambda ratio: -min(ratio, 1e9))


def test_an_oracle_that_is_required_and_silent_is_inconclusive():
    alone = Opaque()
    report = bpttcheck.check(alone, require=["jax"], checks=["sequence_vjp"], strict=False, **FEW)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "jax required" in report.checks[0].reason
    assert bpttcheck.check(Elman(), require="jax", checks=["step_vjp"], **FEW).passed
    with pytest.raises(ContractError, match="require"):
        bpttcheck.check(Elman(), require=["oracle"])


@pytest.mark.usefixtures("programs_apart")
def test_an_error_of_ours_is_internal_and_inconclusive(monkeypatch):
    release()

    def broken(*args, **options):
        raise KeyError("jaxpr")

    monkeypatch.setattr(noise, "_round", broken)
    report = bpttcheck.check(Elman(), checks=["step_vjp"], **FEW)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert any("internal error" in check.reason for check in report.checks)
    release()


def test_an_error_of_ours_in_a_law_is_internal(monkeypatch):
    from bpttcheck.verify import law

    def broken(*args):
        raise IndexError("ours")

    monkeypatch.setattr(law, "judge", broken)
    report = bpttcheck.check(Elman(), checks=["linearity"], **FEW)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.checks[0].reason.startswith("internal error while running the check linearity")


def of_a_function(forward):
    return bpttcheck.check_vjp(forward, lambda d, x: d * x, "x: N D -> y: N D", grads="dx", **FEW)


def test_an_adapter_that_breaks_is_internal_and_what_it_calls_is_not(monkeypatch):
    def theirs(x):
        raise KeyError("theirs")

    assert of_a_function(theirs).verdict is Verdict.FAILED

    from bpttcheck.adapt import function

    monkeypatch.delattr(function, "_unshared")
    report = of_a_function(lambda x: (0.5 * x * x, x))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "internal error while adapting function: NameError" in report.checks[0].reason


def test_a_method_that_an_object_lacks_is_no_error_of_ours():
    class Doubles:
        def forward(self, x):
            return 2 * x

    report = bpttcheck.check_object(lambda _: Doubles(), {"W": "D"}, "N D", y="N D", **FEW)
    assert report.verdict is Verdict.FAILED
    assert "internal error" not in str(report)
    assert "no attribute 'backward'" in str(report)


def test_a_gradient_that_is_missing_in_the_first_call_breaks_no_law_of_ours():
    def back(d, cache):  # the first case has two rows
        x, W = cache
        return (d @ W.T,) if len(d) == 2 else (d @ W.T, x.T @ d)

    report = bpttcheck.check_vjp(
        lambda x, W: (x @ W, (x, W)), back, "x: N D, W: D H -> y: N H", grads="dx, dW", **FEW
    )
    assert report.verdict is Verdict.FAILED
    assert "internal error" not in str(report)


def test_an_error_of_the_callers_progress_is_the_callers():
    def progress(done, total, what):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        bpttcheck.check(Elman(), progress=progress, **FEW)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["elman", "lstm", "gru_reset_after"])
def test_every_case_of_every_built_in_is_judged_by_jax(name):
    report = bpttcheck.check(bpttcheck.cells.builtin(name), checks=["step_vjp"], examples=30)
    oracles, wide = report.checks[0].oracles, report.checks[0].cases - 30
    assert oracles["jax"] == 30
    assert wide >= 0


class Leaky(Elman):
    leak = 0.5

    def __init__(self, leak=0.5):
        super().__init__()
        object.__setattr__(self, "leak", leak)

    def step(self, params, state, x):
        h, _, cache = super().step(params, state, x)
        new = self.leak * state + (1 - self.leak) * h
        return new, new, cache

    def step_vjp(self, params, cache, d_state, d_y):
        d = d_state + d_y
        d_params, d_previous, d_x = super().step_vjp(params, cache, (1 - self.leak) * d, 0 * d)
        return d_params, d_previous + self.leak * d, d_x


def test_an_attribute_that_changes_between_two_calls_meets_no_old_program():
    cell = Leaky()
    for leak in (0.5, 0.9):
        object.__setattr__(cell, "leak", leak)
        report = bpttcheck.check(cell, checks=["step_vjp"], **FEW)
        assert report.passed
        assert report.checks[0].oracles["jax"] == FEW["examples"]


def test_names_and_notes_belong_to_their_own_report():
    import warnings

    class Warns(Elman):
        loud = True

        def step(self, params, state, x):
            if self.loud:
                warnings.warn("only in the first call", stacklevel=1)
            return super().step(params, state, x)

    cell = Warns()
    first = bpttcheck.check(bpttcheck.Subject(cell, name="first"), checks=["linearity"], **FEW)
    Warns.loud = False
    second = bpttcheck.check(bpttcheck.Subject(cell, name="second"), checks=["linearity"], **FEW)
    assert (first.subject, second.subject) == ("first", "second")
    assert first.notes
    assert not second.notes


def test_an_inconclusive_check_with_an_expected_failure_stays_inconclusive():
    alone = Opaque()
    report = bpttcheck.check(
        alone, require=["jax"], checks=["sequence_vjp"], strict=False,
        expected_failures={"sequence_vjp": "no reference yet"}, **FEW,
    )  # fmt: skip
    assert report.verdict is Verdict.INCONCLUSIVE


@pytest.mark.nightly
def test_counted_is_what_was_judged():
    class Finite(Elman):
        """Its forward pass is not finite where weights are large."""

        def step(self, params, state, x):
            h, y, cache = super().step(params, state, x)
            bad = np.where(np.abs(params["W"]).max() > 12, np.nan, 1.0).astype(h.dtype)
            return h * bad, y * bad, cache

    options = {"checks": ["step_vjp"], "dtypes": ["float64"], "examples": 60}
    report = bpttcheck.check(Finite(), raises=False, **options)
    assert report.passed
    assert "saturated" not in report.regimes
    assert any("saturat" in sentence for sentence in report.hidden)
    assert report.judged[0] < report.judged[1]
