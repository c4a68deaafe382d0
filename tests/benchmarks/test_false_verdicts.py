"""Verdicts over right subjects: every group is found, every verdict is counted, none is lost."""

import numpy as np
import pytest

from benchmarks.false_alarms import verdicts
from benchmarks.right_cells.judged import Verdict, all_judged, judged
from benchmarks.right_cells.tapes import Leaky
from bpttcheck.contract import is_cell, is_layer


class Halved(Leaky):
    """A wrong one: the bias has half its gradient."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_state, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {**d_params, "b": 0.5 * d_params["b"]}, d_state, d_x


class Unruly(Leaky):
    """One whose ``init`` raises."""

    def init(self, rng, n_in, n_hidden):
        raise OSError("no such file")


SUBJECTS = {"right": Leaky, "wrong": Halved, "unruly": Unruly}
QUICK = {"examples": 2, "dtypes": ["float64"], "checks": ["contract", "step_vjp"]}


def find(name):
    return SUBJECTS[name]()


def test_every_group_has_its_subjects_and_each_is_found():
    names = verdicts.names()
    groups = [name.partition(":")[0] for name in names]
    assert {group: groups.count(group) for group in verdicts.GROUPS}["right_cells"] >= 40
    assert groups.count("builtins") >= 19
    assert groups.count("gallery") >= 9
    assert len(set(names)) == len(names)
    for name in names:
        subject = verdicts.find(name)
        assert is_cell(subject) or is_layer(subject), name


@pytest.mark.nightly
def test_a_right_subject_passes_and_a_wrong_one_fails_with_its_block():
    right, wrong = (judged(name, 0, find, **QUICK) for name in ("right", "wrong"))
    assert (right.verdict, right.findings) == ("passed", ())
    assert right.ratio is not None
    assert 0 <= right.ratio < 32
    assert wrong.verdict == "failed"
    assert wrong.findings[0].startswith("step_vjp, d_params['b']: ")
    assert wrong.seconds > 0


def test_what_the_subject_raises_is_no_verdict_that_is_lost():
    found = judged("unruly", 3, find, **QUICK)
    assert found.verdict in ("failed", "raised")
    assert found.seed == 3
    assert "no such file" in " ".join(found.findings)


def test_an_exception_of_the_checker_is_counted(monkeypatch):
    import bpttcheck

    def broken(*_, **__):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(bpttcheck, "check", broken)
    assert judged("right", 0, find).findings == ("ZeroDivisionError: a defect",)


SAID = [
    Verdict("builtins:lstm", 0, "passed", 3.0, seconds=2.0),
    Verdict("builtins:lstm", 1, "passed", 4.5, remarks=("zero_length, ys: raises",), seconds=3.0),
    Verdict("gallery:mgu:MGU", 0, "failed", 99.0, ("linearity, d_x: off by 1 %",), seconds=4.0),
    Verdict("gallery:mgu:MGU", 1, "inconclusive", None, reasons=("step_vjp: blind",), seconds=1.0),
]


def test_the_page_counts_each_verdict_once():
    text = verdicts.page(SAID)
    assert "**1 false alarms in 4 verdicts**" in text
    rows = {
        line.split(" | ")[0]: line.split(" | ")[1:] for line in text.splitlines() if "|" in line
    }
    assert rows["| builtins"][:6] == ["2", "2", "1", "0", "0", "0"]
    assert rows["| builtins"][6] == "4.5"
    assert rows["| gallery"][:6] == ["2", "0", "0", "1", "1", "0"]
    assert rows["| all"][:6] == ["4", "2", "1", "1", "1", "0"]
    assert "- gallery:mgu:MGU, seed 0, failed: linearity, d_x: off by 1 %" in text
    assert "- gallery:mgu:MGU, seed 1, inconclusive: step_vjp: blind" in text


def test_a_page_without_alarms_says_so():
    assert "## What did not pass\n\nNone.\n" in verdicts.page(SAID[:2])


@pytest.mark.nightly
def test_a_process_of_its_own_for_each_says_the_same():
    (found,) = all_judged(["builtins:elman"], [0], verdicts.find, **QUICK)
    here = judged("builtins:elman", 0, verdicts.find, **QUICK)
    assert found.verdict == here.verdict == "passed"
    assert found.ratio == here.ratio
    assert np.isfinite(found.seconds)
