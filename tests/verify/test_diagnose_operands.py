"""A quantity in the place of another of its shape is named, with its line, whatever the cell."""

import numpy as np
import pytest
from planted_bugs import Tanh, method

import bpttcheck
from bpttcheck import cells
from bpttcheck.judge.run import Run
from bpttcheck.mutants.source import source_mutants
from bpttcheck.subject.subject import Subject

CELL, HIDDEN, SUM = "c_new = f * c + i * g", "h_new = o * tanh_c", 'a = x @ params["W_ih"].T'
MIXED, RESET = "h_new = (1.0 - z) * n + z * h", "n = np.tanh(a_n + r * q)"
LSTM, GRU = cells.LSTM, cells.GRUResetAfter

# The cell, the change in its source, what is said, the line of the forward pass. No other
# diagnosis names these bugs.
BUGS = [
    (LSTM, "f -> i in `d_c =", "d_c is made with i where f belongs", CELL),
    (LSTM, "d_c_new -> d_h_new in `d_c =", "d_c is made with d_h_new where d_c_new belongs", CELL),
    (LSTM, "tanh_c -> g in `d_o =", "d_o is made with g where tanh_c belongs", HIDDEN),
    (LSTM, "h -> tanh_c in `'W_hh':", "d_W_hh is made with tanh_c where h belongs", SUM),
    (LSTM, "d_c_next -> d_h_next in `d_c_new =", "d_state[0] is used where d_state[1]", CELL),
    (GRU, "r -> z in `d_q =", "d_q is made with z where r belongs", RESET),
    (GRU, "h -> n in `'W_hh':", "d_W_hh is made with n where h belongs", "s = h @"),
    (GRU, "z -> r in `d_h =", "d_h is made with r where z belongs", MIXED),
]  # fmt: skip


class Times(Tanh):
    """h' = h tanh(U x + W h + b), y = h', right but for what its two methods may change."""

    def step(self, params, state, x):
        z = x @ params["U"].T + state @ params["W"].T + params["b"]
        t = np.tanh(z)
        h = t * state
        return h, h, (x, state, z, t)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, z, t = cache
        d_new = d_state + d_y
        d_z = d_new * self.factor(h, z, t) * (1 - t**2)
        d_params = {"U": d_z.T @ x, "W": d_z.T @ self.operand(h, z, t), "b": d_z.sum(axis=0)}
        return d_params, d_z @ params["W"] + d_new * t, d_z @ params["U"]

    def factor(self, h, z, t):
        return h

    def operand(self, h, z, t):
        return h


@pytest.fixture(scope="module")
def bases():
    return {}


@pytest.fixture
def report_of(bases):
    """``report_of(right cell, wrong cell)``: what the check of one step says of the wrong one."""

    class Forks:
        def run(self, subject, options):
            if self.right not in bases:
                bases[self.right] = Run(Subject(self.right()), options.seed, options.dtypes)
            return bases[self.right].fork(subject)

    forks = Forks()
    options = {"examples": 4, "dtypes": ["float64"], "raises": False, "session": forks}

    def report_of(right, wrong):
        forks.right = right
        return bpttcheck.check(wrong, checks=["step_vjp"], **options)

    return report_of


@pytest.fixture(scope="module")
def mutants():
    return {right: source_mutants(right()) for right in (LSTM, GRU)}


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("right", "change", "says", "line"),
    [
        pytest.param(*bug, marks=[] if i in (0, 4, 6) else [pytest.mark.nightly])
        for i, bug in enumerate(BUGS)
    ],
)
def test_the_wrong_quantity_is_named_with_its_line(right, change, says, line, mutants, report_of):
    (mutant,) = [mutant for mutant in mutants[right] if change in mutant.name]
    findings = report_of(right, mutant.plant(right())).findings
    assert findings
    for finding in findings:
        first = finding.diagnoses[0]
        assert first.code == "wrong-operand"
        assert first.sentence.startswith(says)
        assert first.evidence["where"].split(": ", 1)[1].startswith(line)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("bug", "says", "line"),
    [
        ({"operand": lambda self, h, z, t: z}, "d_W is made with z where state belongs", "z ="),
        ({"operand": lambda self, h, z, t: t}, "d_W is made with t where state belongs", "z ="),
        ({"factor": lambda self, h, z, t: z}, "d_t is made with z where state belongs", "h ="),
    ],
)
def test_a_users_own_names_are_spoken(bug, says, line, report_of):
    report = report_of(Times, method(Times, **bug))
    assert report.findings
    for finding in report.findings:
        (first, *_) = finding.diagnoses
        assert first.sentence.startswith(says)
        assert first.evidence["where"].split(": ", 1)[1].startswith(line)


@pytest.mark.nightly
def test_a_quantity_that_the_step_does_not_know_gets_no_such_diagnosis(report_of):
    strange = method(Times, operand=lambda self, h, z, t: np.cos(3 * z - h))
    (finding,) = report_of(Times, strange).findings
    assert finding.diagnoses == ()


def test_a_right_cell_is_right(report_of):
    assert report_of(Times, Times()).findings == ()
