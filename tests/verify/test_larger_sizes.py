"""Sizes of real kernels: what begins at B = 9, H = 33 or T = 129 is found, right code passes."""

import numpy as np
import pytest
from hypothesis import strategies as st

import bpttcheck
from bpttcheck import Verdict
from bpttcheck.cells import Elman
from bpttcheck.problems.large import ALL, EDGES, LONGEST, Budget, chunks, plan
from bpttcheck.results.records import Case
from bpttcheck.subject.subject import Subject

pytestmark = pytest.mark.usefixtures("as_found")


class Layer:
    """A fused Elman layer, right."""

    supports_mask = False
    reference = Elman()
    init, initial_state = reference.init, reference.initial_state

    def __init__(self, block=0):
        from bpttcheck.bptt.layer import CellLayer

        self._layer = CellLayer(Elman())
        self.block = block

    def forward(self, params, xs, state0):
        return self._layer.forward(params, xs, state0)

    def vjp(self, params, tape, d_ys, d_state_T):
        return self._layer.vjp(params, tape, d_ys, d_state_T)


class Wrong(Layer):
    """Where ``condition(T, B, n_in, n_hidden)`` holds, d_xs is doubled."""

    def __init__(self, condition):
        super().__init__()
        self.condition = condition

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_state0 = super().vjp(params, tape, d_ys, d_state_T)
        sizes = (*d_xs.shape, d_state0.shape[1])
        return d_params, d_xs * (2 if self.condition(*sizes) else 1), d_state0


SIZES = {
    "T = 16": (lambda T, B, n, H: T == 16, "time_splitting"),
    "T a multiple of 32": (lambda T, B, n, H: T and T % 32 == 0, "time_splitting"),
    "T > 300": (lambda T, B, n, H: T > 300, "time_splitting"),
    "T > 1000": (lambda T, B, n, H: T > 1000, "time_splitting"),
    "T B > 1024": (lambda T, B, n, H: T * B > 1024 and B > 1, "time_splitting"),
    "T B H > 65535": (lambda T, B, n, H: T * B * H > 65535, "batch_additivity"),
    "B H > 2048": (lambda T, B, n, H: B * H > 2048, "batch_additivity"),
    "B >= 5": (lambda T, B, n, H: B >= 5, "batch_additivity"),
    "B = 9": (lambda T, B, n, H: B == 9, "batch_additivity"),
    "B > 256": (lambda T, B, n, H: B > 256, "batch_additivity"),
    "H >= 32": (lambda T, B, n, H: H >= 32, "sequence_vjp"),
    "H = 129": (lambda T, B, n, H: H == 129, "sequence_vjp"),
    "n_in > 8": (lambda T, B, n, H: n > 8, "sequence_vjp"),
    "T = 1024": (lambda T, B, n, H: T == 1024, "time_splitting"),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", SIZES)
def test_a_bug_that_begins_at_a_size_is_found(name):
    condition, check = SIZES[name]
    report = bpttcheck.check(Wrong(condition), checks=[check], examples=ALL, raises=False,
                             dtypes=["float64"])  # fmt: skip
    assert report.verdict is Verdict.FAILED
    case = report.findings[0].case
    assert condition(case.T, case.B, case.n_in, case.n_hidden)


def test_the_same_layer_without_a_bug_passes():
    checks = ["sequence_vjp", "batch_additivity", "time_splitting"]
    report = bpttcheck.check(Layer(), checks=checks, examples=ALL)
    assert report.passed
    assert len(report.larger) == 3


class SharesResiduals(Elman):
    """A wide step keeps its state in one buffer, which the next step overwrites."""

    def step(self, params, state, x):
        if not self.shares or state.shape[1] <= 8:
            return super().step(params, state, x)
        kept = self.buffers.setdefault((state.shape, state.dtype), np.empty_like(state))
        kept[:] = state
        return super().step(params, kept, x)


@pytest.mark.parametrize("shares", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_what_the_steps_of_a_wide_cell_share_shows_in_several_steps(shares):
    cell = SharesResiduals()
    vars(cell).update(shares=shares, buffers={})
    report = bpttcheck.check(cell, checks=["step_vjp", "time_splitting"], examples=ALL,
                             dtypes=["float64"], raises=False)  # fmt: skip
    assert [f.check for f in report.findings[:1]] == ["time_splitting"] * shares
    assert shares or any("over several steps by time_splitting" in text for text in report.larger)


class Blocked(Layer):
    """Blocks of 48 steps: at a multiple of 48 the last block is lost."""

    BLOCK = 48

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_state0 = super().vjp(params, tape, d_ys, d_state_T)
        if len(d_xs) and len(d_xs) % self.BLOCK == 0:
            d_xs = 0 * d_xs
        return d_params, d_xs, d_state0


def test_a_constant_of_the_source_becomes_a_size():
    assert 48 not in EDGES
    subject = Subject(Blocked())
    lengths = {case.T for case in plan(subject, 0, ("float64",), None, ()).lengths}
    assert {47, 48, 49, 96} <= lengths
    report = bpttcheck.check(Blocked(), checks=["time_splitting"], examples=5, raises=False)
    assert report.verdict is Verdict.FAILED


def test_every_edge_is_a_length_a_batch_and_both_widths():
    made = plan(Subject(Layer()), 3, ("float64", "float32"), None, ())
    assert set(EDGES) <= {case.T for case in made.lengths}
    assert LONGEST in {case.T for case in made.lengths}
    assert set(EDGES) <= {case.B for case in made.batches}
    assert set(EDGES) == {case.n_in for case in made.widths}
    assert set(EDGES) == {case.n_hidden for case in made.widths}


@pytest.mark.nightly
def test_every_declared_size_is_tried_by_something():
    pairs = [(1, 1), (2, 2), (2, 3), (3, 2), (3, 3), (4, 4), (3, 5), (5, 3), (8, 32), (8, 40)]
    for sizes in (pairs, st.sampled_from(pairs)):
        wrong = Wrong(lambda T, B, n, H: H == 40)
        report = bpttcheck.check(wrong, sizes=sizes, checks=["sequence_vjp"], examples=20,
                                 raises=False)  # fmt: skip
        assert report.verdict is Verdict.FAILED


@pytest.mark.nightly
def test_lengths_and_batches_that_are_given_are_the_only_ones():
    seen = set()

    class Watched(Layer):
        def forward(self, params, xs, state0):
            seen.add(xs.shape[:2])
            return super().forward(params, xs, state0)

    report = bpttcheck.check(Watched(), lengths=(16, 48), batches=(2, 6), examples=10,
                             checks=["sequence_vjp", "batch_additivity", "linearity"])  # fmt: skip
    assert report.passed
    assert {T for T, _ in seen} <= {16, 48}
    assert {T for T, _ in seen} >= {16, 48}
    assert 6 in {B for _, B in seen}


def test_time_that_runs_out_is_told():
    now = iter(range(1000))
    cases = [Case(0, 10_000 + i, 10 + i, 1, 1, 1, "float64", "none", "ordinary") for i in range(9)]
    left = []
    done = list(Budget(seconds=4, clock=lambda: next(now)).spend(cases, left))
    assert done
    assert left
    assert sorted([*done, *left], key=lambda c: c.T) == cases


def test_a_batch_is_cut_into_parts_of_few_rows():
    assert [s.stop - s.start for s in chunks(9)] == [4, 4, 1]
    assert np.concatenate([np.arange(9)[s] for s in chunks(9)]).tolist() == list(range(9))
