"""Measuring: every form is right before it is timed, and what is wrong is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import bpttcheck
from bpttcheck.bench import correct, in_jax, machine, measure, sizes
from bpttcheck.bench.by_hand import as_it_is, fused_layer
from bpttcheck.bench.forms import BASELINES, FORMS
from bpttcheck.bench.in_jax import weights_deferred
from bpttcheck.bench.measure import Plan
from bpttcheck.bench.report.records import Size, SubjectBenchmark
from bpttcheck.bptt.fused import FusedLSTM
from bpttcheck.cells import LSTM, Elman, GRUResetAfter, GRUResetBefore, builtin
from bpttcheck.errors import ContractError, Declined, GradientMismatch
from bpttcheck.jax_mode import enable_x64
from bpttcheck.problems.cases import build
from bpttcheck.results.records import Case
from bpttcheck.subject.subject import Subject

SIZE = Size(3, 2, 4, 5)
PLAN = Plan([SIZE], count=3)
_SLOW = {key for key, form in FORMS.items() if form.smallest_only}


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``only("numpy", "jax")``: the forms that there are."""

    def choose(*names: str) -> None:
        monkeypatch.setattr(measure, "FORMS", {name: FORMS[name] for name in names})

    return choose


@pytest.fixture(autouse=True)
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is measured here is looked at, not compared.
    monkeypatch.setattr(measure, "SHORTEST", 1e-4)
    monkeypatch.setattr(measure, "MORE", 1)


def forms(found: SubjectBenchmark) -> set[str]:
    return {timing.form for timing in found.points[0].timings}


@pytest.mark.nightly
def test_every_form_of_a_built_in_is_timed_and_right(only: Any) -> None:
    pytest.importorskip("torch", reason="torch is an optional peer")
    few, most = ("numpy", "jax", "torch"), tuple(name for name in FORMS if name not in _SLOW)
    for name, wanted in {"elman": few, "lstm": most, "gru_reset_after": few}.items():
        only(*wanted)
        found = measure.measure(name, builtin(name), PLAN)
        (point,) = found.points
        assert forms(found) == set(wanted), point.absent
        assert point.baseline in ("jax", "jax_hoisted")
        assert point.absent == {}
        for one in point.timings:
            assert one.error <= 1e-13
            assert len(one.samples) == 3
            assert (one.ratio is None) == (one.form == point.baseline)
            assert (one.first_call is not None) == (
                one.form in ("jax", "jax_hoisted", "jax_deferred", "on_jax")
            )
            assert (one.floor is not None) == (one.form == "fused")
            assert (one.calls_at_size is not None) == (one.form == "fused")
        gates = {"elman": 1, "lstm": 4, "gru_reset_after": 3}[name]
        assert point.flops == 6 * 3 * 2 * gates * 5 * (4 + 5)
        assert len(point.again) == 3
        assert found.same is not None
        assert found.headlines[0].startswith(f"{found.name}: hand-written NumPy is ")


@pytest.mark.nightly
def test_the_slow_forms_are_measured_at_the_smallest_size_only(only: Any) -> None:
    only("numpy", "jax", "jax_eager", "differences")
    found = measure.measure("elman", Elman(), Plan([Size(5, 2, 2, 3), Size(2, 1, 2, 3)], count=3))
    larger, smaller = found.points
    assert {t.form for t in larger.timings} == {"numpy", "jax"}
    assert larger.absent["differences"] == "measured at the smallest size only"
    assert {t.form for t in smaller.timings} == {"numpy", "jax", "jax_eager", "differences"}
    (curve,) = found.v_curves
    assert curve.size == Size(2, 1, 2, 3)
    best = int(np.argmin(curve.errors))
    assert curve.errors[best] < 1e-8
    assert curve.errors[0] > 100 * curve.errors[best]
    assert curve.errors[-1] > 100 * curve.errors[best]


@pytest.mark.nightly
def test_float32_is_judged_by_float64_and_measured_in_float32(only: Any) -> None:
    only("numpy", "fused", "jax", "jax_hoisted", "on_jax")
    found = measure.measure("elman", Elman("relu"), Plan([SIZE], ("float32",), 3))
    for one in found.points[0].timings:
        assert 1e-9 < one.error < 1e-5, one.form


class Scaled(LSTM):
    """One block of the gradient is off by a factor."""

    block = "W_hh"

    def step_vjp(self, params: Any, cache: Any, d_state: Any, d_y: Any) -> Any:
        d_params, (d_h, d_c), d_x = super().step_vjp(params, cache, d_state, d_y)
        wrong = 1 + 1e-9
        if self.block in d_params:
            d_params[self.block] = d_params[self.block] * wrong
        scale = {name: wrong if name == self.block else 1.0 for name in ("d_h", "d_c", "d_x")}
        return d_params, (d_h * scale["d_h"], d_c * scale["d_c"]), d_x * scale["d_x"]


def test_a_wrong_gradient_refuses_to_be_timed(only: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    only("numpy", "jax")
    monkeypatch.setattr(measure, "rounds", lambda *_: pytest.fail("timed"))
    with pytest.raises(GradientMismatch, match=r"W_hh.* is off by .* nothing was timed"):
        measure.measure("wrong", Scaled(), PLAN)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("block", ["W_ih", "W_hh", "b", "d_h", "d_c", "d_x"])
def test_no_block_may_be_wrong(block: str, dtype: str) -> None:
    subject, wrong = Subject(LSTM()), type("Wrong", (Scaled,), {"block": block})()
    case = Case(0, 0, 3, 2, 4, 5, dtype, "none", "ordinary")
    problem = build(subject, case)
    own = as_it_is(subject, problem)
    assert own.at is not None
    right = correct.right(own.at, problem)
    block, error, limit = right.worst(own.blocks(own.run()))
    assert error <= limit / 10, block
    worse = as_it_is(Subject(wrong), problem)
    _, error, limit = right.worst(worse.blocks(worse.run()))
    assert (error > limit) == (dtype == "float64")  # 1e-9 is below what float32 can hold


@pytest.mark.parametrize("cell", [Elman(), LSTM(), GRUResetAfter()], ids=repr)
@pytest.mark.parametrize("form", ["torch", "differences"])
def test_a_form_of_another_library_has_the_gradients_of_the_cell(form: str, cell: Any) -> None:
    if form == "torch":
        pytest.importorskip("torch", reason="torch is an optional peer")
    problem = build(Subject(cell), Case(0, 0, 3, 2, 4, 5, "float64", "none", "ordinary"))
    own = as_it_is(Subject(cell), problem)
    assert own.at is not None
    ready = FORMS[form].build(Subject(cell), problem)
    _, error, limit = correct.right(own.at, problem).worst(ready.blocks(ready.run()))
    assert error <= (FORMS[form].limit or {"float64": limit})["float64"]


@pytest.mark.nightly
def test_a_foreign_form_that_is_wrong_is_left_out_with_the_reason(
    only: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    only("numpy", "jax", "torch")

    def halved(subject: Any, problem: Any) -> Any:
        ready = FORMS["numpy"].build(subject, problem)
        return replace(ready, blocks=lambda r: {k: g / 2 for k, g in ready.blocks(r).items()})

    monkeypatch.setitem(measure.FORMS, "torch", replace(FORMS["torch"], build=halved))
    found = measure.measure("elman", Elman(), PLAN)
    assert forms(found) == {"numpy", "jax"}
    assert found.points[0].absent["torch"].startswith("not timed: ")


@pytest.mark.parametrize("cell", [GRUResetAfter(), GRUResetBefore()])
def test_the_deferred_weight_gradients_are_those_of_the_cell(cell: Any) -> None:
    subject = Subject(cell)
    problem = build(subject, Case(0, 0, 3, 2, 4, 5, "float64", "none", "ordinary"))
    own = as_it_is(subject, problem)
    with enable_x64():
        ready = weights_deferred(subject, problem)
        found = ready.blocks(ready.run())
    for block, right in own.blocks(own.run()).items():
        np.testing.assert_allclose(found[block], right, rtol=1e-12, atol=1e-14, err_msg=block)


def test_a_wrong_deferred_form_is_left_out_with_the_reason(
    only: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    only("numpy", "jax", "jax_deferred")
    # The products of the first step are left out.
    summed = in_jax.over_rows
    monkeypatch.setattr(in_jax, "over_rows", lambda d, lefts: summed(d[1:], lefts[1:]))
    found = measure.measure("elman", Elman(), PLAN)
    assert forms(found) == {"numpy", "jax"}
    assert found.points[0].absent["jax_deferred"].startswith("not timed: d_params['W'] is off")


def test_the_deferred_form_is_no_baseline_and_exists_for_the_very_cells_only() -> None:
    assert "jax_deferred" in FORMS
    assert "jax_deferred" not in BASELINES
    assert in_jax.sequence_of(Scaled()) is None


class Untraceable(Elman):
    """JAX cannot trace a branch on values."""

    factor = 1.0

    def step(self, params: Any, state: Any, x: Any) -> Any:
        if float(x.sum()) > 1e9:
            raise OverflowError
        return super().step(params, state, x)

    def step_vjp(self, params: Any, cache: Any, d_state: Any, d_y: Any) -> Any:
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h * self.factor, d_x


def test_what_jax_declines_is_confirmed_by_differences_and_has_no_ratio(only: Any) -> None:
    only("numpy", "jax", "jax_hoisted")
    found = measure.measure("mine", Untraceable(), PLAN)
    assert forms(found) == {"numpy"}
    assert found.points[0].baseline == ""
    assert 0 < found.points[0].timings[0].error < 1e-8
    assert found.summaries == []
    assert "not compared with JAX autodiff: " in found.headlines[0]


def test_what_jax_declines_is_refused_if_differences_contradict(only: Any) -> None:
    only("numpy", "jax")
    wrong = type("Wrong", (Untraceable,), {"factor": 1.001})()
    with pytest.raises(GradientMismatch, match="differences are sure to"):
        measure.measure("mine", wrong, PLAN)


class Leaking(Elman):
    """``tanh`` plus a share of the old state: an attribute that is a constant to JAX."""

    leak = 0.5

    def step(self, params: Any, state: Any, x: Any) -> Any:
        new, _, cache = super().step(params, state, x)
        new = new + self.leak * state
        return new, new, cache

    def step_vjp(self, params: Any, cache: Any, d_state: Any, d_y: Any) -> Any:
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h + self.leak * (d_state + d_y), d_x


@pytest.mark.nightly
def test_a_cell_changed_between_two_measurements_is_traced_anew(only: Any) -> None:
    only("numpy", "jax", "on_jax")
    cell = Leaking()
    for leak in (0.5, 0.25):
        cell.leak = leak
        found = measure.measure("leaking", cell, PLAN)
        assert found.points[0].absent == {}
        assert forms(found) == {"numpy", "jax", "on_jax"}


class Counting(Elman):
    """A dict for a state, with a step counter in it."""

    def initial_state(self, params: Any, batch_size: int) -> Any:
        return {"n": np.zeros(batch_size, int), "h": super().initial_state(params, batch_size)}

    def step(self, params: Any, state: Any, x: Any) -> Any:
        new, y, cache = super().step(params, state["h"], x)
        return {"n": state["n"] + 1, "h": new}, y, cache

    def step_vjp(self, params: Any, cache: Any, d_state: Any, d_y: Any) -> Any:
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state["h"], d_y)
        return d_params, {"n": np.zeros(len(d_y)), "h": d_h}, d_x


@pytest.mark.nightly
def test_a_state_with_a_counter_and_a_layer_can_be_measured(only: Any) -> None:
    only("numpy", "jax", "differences")
    assert forms(measure.measure("mine", Counting(), PLAN)) == {"numpy", "jax", "differences"}
    only("numpy", "jax")
    found = measure.measure("mine", bpttcheck.Subject(FusedLSTM(), name="own name"), PLAN)
    assert forms(found) == {"numpy", "jax"}
    assert found.name == "own name"


def test_a_broken_contract_is_told_before_anything_runs(only: Any) -> None:
    only("numpy", "jax")
    narrow = type("Narrow", (Elman,), {
        "step_vjp": lambda self, p, c, s, y: (*Elman.step_vjp(self, p, c, s, y)[:2], np.zeros(1)),
    })()  # fmt: skip
    with pytest.raises(ContractError, match="d_x"):
        measure.measure("mine", narrow, PLAN)


def raising(error: Exception) -> Any:
    def build(*_: object) -> Any:
        raise error

    return SimpleNamespace(smallest_only=False, build=build)


def test_a_form_that_cannot_be_had_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject = Subject(Elman())
    problem = build(subject, Case(0, 0, 3, 2, 4, 5, "float64", "none", "ordinary"))
    odd = {
        "slow": SimpleNamespace(smallest_only=True),
        "declines": raising(Declined("nothing for it here")),
        "breaks": raising(RuntimeError("no memory\nat all")),
        "is silent": raising(RuntimeError()),
    }
    monkeypatch.setattr(measure, "FORMS", {"numpy": FORMS["numpy"], **odd})
    ready, absent, first = measure._ready(subject, problem, False)
    assert ready.keys() == first.keys() == {"numpy"}
    assert absent == {
        "slow": "measured at the smallest size only",
        "declines": "nothing for it here",
        "breaks": "RuntimeError: no memory",
        "is silent": "RuntimeError: no message",
    }
    monkeypatch.setattr(measure, "FORMS", {"numpy": odd["breaks"]})
    with pytest.raises(ContractError, match=r"Elman\(\) at T=3 B=2 N=4 H=5: no memory"):
        measure._ready(subject, problem, False)
    assert measure._floor(SimpleNamespace(floor=odd["declines"].build)) == (None, None)


@pytest.mark.parametrize("form", ["on_jax", "jax_hoisted"])
def test_a_form_on_jax_has_the_gradients_of_the_cell(form: str) -> None:
    subject = Subject(LSTM())
    problem = build(subject, Case(0, 0, 3, 2, 4, 5, "float64", "none", "ordinary"))
    with enable_x64():
        by_hand, on_jax = (FORMS[name].build(subject, problem) for name in ("numpy", form))
        found, wanted = on_jax.blocks(on_jax.run()), by_hand.blocks(by_hand.run())
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-13)


def test_what_is_no_gradient_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(Elman())
    problem = build(subject, Case(0, 0, 3, 2, 4, 5, "float64", "none", "ordinary"))
    right = correct.Right({"d_xs": np.ones((3, 2, 4))}, {"d_xs": 1.0})
    with pytest.raises(ContractError, match=r"d_xs.shape=\(3, 2\), but should be \(3, 2, 4\)"):
        right.worst({"d_xs": np.ones((3, 2))})
    with pytest.raises(ContractError, match=r"d_xs is not finite .* nothing was timed"):
        correct.right(lambda _: {"d_xs": np.array([np.inf])}, problem)
    monkeypatch.setattr(correct, "LONGEST", 0.0)
    with pytest.raises(Declined, match="finite differences would take 0 s"):
        correct.every_entry(subject, problem)


def test_a_fused_layer_is_found_for_the_very_cell_only() -> None:
    for cell in (Elman(), Elman("relu"), LSTM(), GRUResetAfter(), GRUResetBefore()):
        layer = fused_layer(cell)
        assert layer is not None
        assert layer.reference == cell
    for other in (Scaled(), Untraceable(), builtin("jordan")):
        assert fused_layer(other) is None


@pytest.mark.nightly
def test_exponents_need_three_lengths(only: Any) -> None:
    only("numpy", "jax")
    plan = Plan([Size(T, 1, 2, 3) for T in (2, 4, 8)], count=3)
    found = measure.measure("elman", Elman(), plan)
    assert {fit.form for fit in found.exponents} == {"numpy", "jax"}
    assert all(fit.size.T == 8 for fit in found.exponents)


@pytest.mark.parametrize(
    "text", ["", "1", "1,2,3", "1,2,3,4,5", "1,2,3,0", "1,2,3,-4", "1,2,3,x", "1.5,2,3,4"]
)
def test_a_size_is_four_positive_numbers(text: str) -> None:
    with pytest.raises(ContractError, match="expected four positive numbers"):
        sizes.parse(text)


def test_sizes_fit_what_a_subject_takes_unless_they_were_asked_for() -> None:
    from hypothesis import strategies as st

    picky = Subject(Elman(), sizes=st.sampled_from([(2, 4), (3, 8)]))
    made = sizes.fitting(picky, sizes.default(), given=False)
    assert {(size.n_in, size.n_hidden) for size in made} == {(2, 4), (3, 8)}
    assert sizes.fitting(picky, [SIZE], given=True) == (SIZE,)
    assert sizes.fitting(Subject(Elman()), sizes.default(), given=False) == sizes.default()


def test_the_plan_has_lengths_to_fit_and_widths_by_batches() -> None:
    plan = sizes.default()
    assert len({s.T for s in plan if (s.B, s.n_hidden) == (8, 32)}) >= 3
    assert len({(s.B, s.n_hidden) for s in plan if s.T == 50}) == 9
    assert len(sizes.default(quick=True)) < len(plan)


def test_the_environment_is_ready_for_json_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    found = machine.environment([50.0, 1.0, 1.0])
    json.dumps(found, allow_nan=False)
    assert found["variables"]["OPENBLAS_CORETYPE"] == "Haswell"
    assert len(found["warnings"]) == 2
    monkeypatch.delenv("OPENBLAS_CORETYPE")
    found = machine.environment([0.0, 0.0, 0.0], {"float64": 50.0})
    assert found["warnings"] == []
    assert found["peak_gflops"] == {"float64": 50.0}
