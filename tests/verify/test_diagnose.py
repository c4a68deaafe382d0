"""For every diagnosis of one step, bugs that it is the first to name; and what it must not say."""

import numpy as np
import pytest
from planted_bugs import GATES_AND_LOOPS, LOOP, STEPS, Tanh, W, b, halved_when_large, method, output

import bpttcheck
from bpttcheck.diagnose import CODES, paths
from bpttcheck.diagnose.base import Rule


@pytest.mark.sampled(6)
@pytest.mark.parametrize("row", STEPS, ids=str)
def test_the_first_diagnosis_names_the_bug(row, run):
    report = run(row.subject, row.check, **row.options)
    first = {finding.block: finding.diagnoses[:1] for finding in report.findings}
    assert {d.code for found in first.values() for d in found} == {row.code}
    (named,) = first[row.block or report.findings[0].block]
    assert row.says in named.sentence
    for key, value in row.evidence.items():
        assert named.evidence[key] == pytest.approx(value)


def test_every_diagnosis_has_a_bug():
    elsewhere = {"uninitialised"}  # test_uninitialised.py: it is no pattern of numbers
    assert {row.code for row in STEPS + GATES_AND_LOOPS} | elsewhere == set(CODES)


def test_a_right_cell_gets_no_diagnosis(run):
    assert run(Tanh(), "purity", "step_vjp", LOOP).findings == ()


def test_two_bugs_in_two_outputs_get_a_diagnosis_each(run):
    def two(self, d_z, x, h):
        return {"U": d_z.T @ x, "W": h.T @ d_z, "b": d_z.mean(axis=0)}

    report = run(method(Tanh, d_params=two), "step_vjp")
    found = {f.block: [d.code for d in f.diagnoses] for f in report.findings}
    assert found == {W: ["transposed"], b: ["batch-reduction"]}


def test_what_follows_from_an_explained_error_stands_after_it(run):
    """A mean over no rows is not zero, for it is a mean over the batch."""
    mean = method(Tanh, d_params=lambda self, d_z, x, h: _summed(d_z, x, h) | {"b": d_z.mean(0)})
    found = [finding.check for finding in run(mean, "step_vjp", "zero_length", examples=8).findings]
    assert found[0] == "step_vjp"
    assert set(found[1:]) == {"zero_length"}


def _summed(d_z, x, h):
    return {"U": d_z.T @ x, "W": d_z.T @ h, "b": d_z.sum(axis=0)}


def without_a_pattern(value, size=0.3):
    """Each entry is off by a share of its own."""
    share = np.cos(np.arange(value.size)).reshape(value.shape)
    return value * (1 + size * share).astype(value.dtype)


@pytest.mark.parametrize("block", ["U", "W", "b", "d_h", "d_x"])
def test_an_error_without_a_pattern_gets_no_diagnosis(block, run):
    (finding,) = run(output(Tanh, block, without_a_pattern), "step_vjp").findings
    assert finding.diagnoses == ()


@pytest.mark.parametrize("block", ["W", "d_x"])
def test_a_small_error_without_a_pattern_is_called_nothing_in_particular(block, run):
    wrong = output(Tanh, block, lambda v: without_a_pattern(v, 1e-7))
    (finding,) = run(wrong, "step_vjp", dtypes=["float64"]).findings
    assert [d.code for d in finding.diagnoses] == ["precision"]
    assert "no pattern" in finding.diagnoses[0].sentence


@pytest.mark.parametrize("size", [1e-12, 1e-4])
def test_what_float32_does_not_explain_is_not_called_a_matter_of_precision(size, run):
    wrong = output(Tanh, "W", lambda v: without_a_pattern(v, size))
    (finding,) = run(wrong, "step_vjp", dtypes=["float64"]).findings
    assert finding.diagnoses == ()


def test_a_small_error_at_one_place_is_told_by_its_place(run):
    def off(self, d_new, z, h):
        return d_new * (1 - h**2) * (1 + 1e-7 * np.cos(3 * z))

    report = run(method(Tanh, d_z=off), "step_vjp", dtypes=["float64"])
    for finding in report.findings:
        assert [d.code for d in finding.diagnoses] == ["wrong-cotangent"]
        assert "h = np.tanh(z)" in finding.diagnoses[0].sentence


def test_a_diagnosis_comes_with_its_fit(run):
    (finding,) = run(output(Tanh, "W", lambda v: 3 * v), "step_vjp").findings
    (diagnosis,) = finding.diagnoses
    assert diagnosis.evidence["residual"] < 1 < diagnosis.evidence["limit"]


@pytest.mark.nightly
def test_where_a_bug_shows_does_not_hide_what_it_is(run):
    halved = run(method(Tanh, d_new=halved_when_large), "step_vjp").findings[0]
    assert [d.code for d in halved.diagnoses] == ["nonlinear", "scale"]
    (by_size,) = (row for row in STEPS if row.code == "one-size")
    short = run(by_size.subject, "step_vjp").findings[0]
    assert [d.code for d in short.diagnoses] == ["one-size", "zeroed-entry"]


def test_a_bug_of_one_step_is_told_alike_of_the_whole_sequence(run):
    report = run(output(Tanh, "d_x", np.negative), "step_vjp", LOOP)
    found = {(f.check, f.block): [d.code for d in f.diagnoses] for f in report.findings}
    assert found == {("step_vjp", "d_x"): ["sign"], (LOOP, "d_xs"): ["sign"]}


class Untraceable(Tanh):
    def step(self, params, state, x):
        float(x[0, 0])
        return super().step(params, state, x)


def test_without_jax_the_right_gradient_is_that_of_the_differences():
    wrong = output(Untraceable, "W", np.negative)
    report = bpttcheck.check(wrong, checks=["step_vjp"], examples=3, raises=False)
    assert {f.block: [d.code for d in f.diagnoses] for f in report.findings} == {W: ["sign"]}


def test_without_jax_nothing_is_guessed():
    wrong = output(Untraceable, "W", without_a_pattern)
    report = bpttcheck.check(wrong, checks=["step_vjp"], examples=3, raises=False)
    assert {f.block: f.diagnoses for f in report.findings} == {W: ()}


def test_a_second_mistake_is_told_beside_the_one_that_explains_the_others(run):
    class Two(Tanh):
        def d_z(self, d_new, z, h_new):
            return d_new * (1 - z**2)

        def d_params(self, d_z, x, h):
            return {"U": d_z.T @ x, "W": h.T @ d_z, "b": d_z.mean(axis=0)}

    report = run(Two(), "step_vjp")
    found = {f.block: [d.code for d in f.diagnoses] for f in report.findings}
    assert found == {
        W: ["transposed"], b: ["batch-reduction"], "d_params['U']": ["wrong-derivative"],
        "d_x": ["wrong-derivative"], "d_previous_state": ["wrong-derivative"],
    }  # fmt: skip


@pytest.mark.nightly
def test_a_step_that_has_other_operations_where_a_size_is_one_is_explained():
    from bpttcheck import mutants

    cell = bpttcheck.cells.builtin("jordan_teacher_forced")
    bugs = mutants.catalogue(cell, families=["activation"], sizes=((2, 4), (3, 3)))
    (bug,) = [bug for bug in bugs if bug.name == "activation tanh differentiated as sigmoid"]
    report = bpttcheck.check(
        bug.plant(cell), examples=6, checks=["step_vjp"], dtypes=["float64"], raises=False
    )
    assert {f.diagnoses[0].code for f in report.findings} == {"wrong-derivative"}


def test_a_diagnosis_that_breaks_down_costs_a_note_and_not_the_verdict(monkeypatch, run):
    def broken(evidence):
        raise ZeroDivisionError

    monkeypatch.setattr("bpttcheck.diagnose.paths.SIGN", Rule(paths.SIGN.page, broken))
    report = run(output(Tanh, "W", lambda v: 3 * v), "step_vjp")
    assert [d.code for d in report.findings[0].diagnoses] == ["scale"]
    assert any("the diagnosis sign broke down: ZeroDivisionError" in note for note in report.notes)
