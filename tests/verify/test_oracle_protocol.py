"""An oracle is added by one line: it is asked, heard and counted like the others."""

import numpy as np
import pytest

import bpttcheck
from bpttcheck import Verdict
from bpttcheck.cells import Elman
from bpttcheck.errors import Declined
from bpttcheck.judge.directions import Vote
from bpttcheck.judge.gradient import examine
from bpttcheck.judge.oracle import Differences, Reference
from bpttcheck.judge.reference import JaxReference
from bpttcheck.judge.run import ORACLES, STEP, Run
from bpttcheck.oracles.autodiff.autodiff import Spread
from bpttcheck.oracles.estimate import Estimate
from bpttcheck.subject import options
from bpttcheck.subject.subject import Subject

pytestmark = pytest.mark.usefixtures("as_found")


class TwiceTheBias(Elman):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_state, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {**d_params, "b": 2 * d_params["b"]}, d_state, d_x


class Exact(JaxReference):
    """A third oracle, with gradients and slopes of its own."""

    name, title = "exact", "Exact arithmetic"


class Sloped(Differences):
    """A third oracle, with slopes that are exactly those of ``by`` times the right ones."""

    name, title, by = "sloped", "the slopes", 1.0

    def directional(self, problem, along, template=None, enough=0.0):
        found = super().directional(problem, along)
        value = self.by * float(found.value)
        return Estimate(np.float64(value), np.float64(1e-13 * abs(value) + 1e-300))


class Contradicting(Sloped):
    by = 1.5


ORIGINAL = JaxReference.gradient


def verdict_of(cell):
    report = bpttcheck.check(
        cell,
        checks=["step_vjp"],
        examples=6,
        dtypes=["float64"],
        raises=False,
    )
    return report.verdict, report.checks[0], report.findings


def declines(*args, **more):
    raise Declined("left out")


def test_the_names_that_can_be_required_are_those_of_the_index():
    assert tuple(ORACLES) == options.ORACLES
    assert all(make.name == name for name, make in ORACLES.items())


def test_another_oracle_judges_where_jax_declines(monkeypatch):
    monkeypatch.setattr(JaxReference, "gradient", declines)
    monkeypatch.setattr(Exact, "gradient", ORIGINAL)
    monkeypatch.setitem(ORACLES, "exact", Exact)
    verdict, row, _ = verdict_of(Elman())
    assert (verdict, row.oracles["exact"]) == (Verdict.PASSED, 6)
    assert "jax" not in row.oracles
    verdict, row, (finding, *_) = verdict_of(TwiceTheBias())
    assert verdict is Verdict.FAILED
    assert finding.block == "d_params['b']"
    assert finding.jax is None
    assert finding.comparison is not None


def examined():
    """The first case of one step."""
    run = Run(Subject(Elman()), 0, ("float64",))
    case, template, _ = run.cases.scheduled(0, True)
    return examine(run, STEP, run.cases.problem(case), template)


def test_the_witness_with_the_narrowest_bar_is_heard(monkeypatch):
    monkeypatch.setitem(ORACLES, "sloped", Sloped)
    outcome = examined()
    assert (outcome.by, outcome.spoke, dict(outcome.votes)) == ("jax", {"jax", "sloped"}, {})
    monkeypatch.setitem(ORACLES, "sloped", Contradicting)
    outcome = examined()
    assert set(outcome.votes.values()) == {Vote.CONTRADICTION}
    assert {witness.by for witness in outcome.witnesses.values()} == {"sloped"}


def test_a_wrong_gradient_of_another_oracle_convicts_no_code_that_differences_side_with(
    monkeypatch,
):
    def off(self, *args):
        found = ORIGINAL(self, *args)
        twice = {b: Spread(2 * s.value, 2 * s.copies) for b, s in found.gradients.items()}
        return Reference(found.forward, twice)

    monkeypatch.setattr(JaxReference, "gradient", declines)
    monkeypatch.setattr(Exact, "gradient", off)
    monkeypatch.setattr(Exact, "directional", declines)
    monkeypatch.setitem(ORACLES, "exact", Exact)
    outcome = examined()
    assert (outcome.by, outcome.spoke) == ("exact", {"exact", "differences"})
    assert set(outcome.votes.values()) == {Vote.ABSTAIN}
    assert "Exact arithmetic's derivative of" in outcome.doubtful
