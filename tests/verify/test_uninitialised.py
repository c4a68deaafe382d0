"""Memory that is read before it was written is found, with the line that asked for it."""

import linecache
from dataclasses import replace

import numpy as np
import pytest
from numpy import empty as unfilled
from subjects import Plain, PlainLayer

from bpttcheck.cells import LSTM
from bpttcheck.diagnose import CODES
from bpttcheck.diagnose.conduct import UNINITIALISED
from bpttcheck.judge.run import Run
from bpttcheck.subject.subject import Subject
from bpttcheck.verify.checks.base import Context
from bpttcheck.verify.checks.purity import on_problem, purity
from bpttcheck.verify.conduct.memory import unwritten
from bpttcheck.verify.conduct.passes import Arguments, Passes, small_case


class Backward(Plain):
    def step_vjp(self, params, cache, d_state, d_y):
        return self.change(*super().step_vjp(params, cache, d_state, d_y))


class PartialBlock(Backward):
    """A last block of three rows of four is left out in part."""

    def change(self, d_params, d_h, d_x):
        out = np.empty_like(d_x)  # BUG
        rows = len(d_x) - (len(d_x) % 4 == 3)
        out[:rows] = d_x[:rows]
        return d_params, d_h, out


class AddsToEmpty(Backward):
    def change(self, d_params, d_h, d_x):
        written = np.empty(d_x.shape, d_x.dtype)
        written[...] = d_x
        total = np.empty(d_params["b"].shape, d_params["b"].dtype)  # BUG
        total += d_params["b"]
        return {**d_params, "b": total}, d_h, written


class ByName(Backward):
    """Calls np.empty under a name of its own."""

    def change(self, d_params, d_h, d_x):
        out = unfilled(d_x.shape, d_x.dtype)  # BUG
        out[1:] = d_x[1:]
        return d_params, d_h, out


class EmptyIndices(Backward):
    """Indices that nobody set; the last two are never read."""

    def change(self, d_params, d_h, d_x):
        order = np.empty(len(d_x) + 2, np.int64)  # BUG
        order[: len(d_x) - 1] = np.arange(len(d_x) - 1)
        return d_params, d_h, d_x[order[: len(d_x)] % len(d_x)]


class EmptyFlags(Backward):
    def change(self, d_params, d_h, d_x):
        keep = np.empty(len(d_x), bool)  # BUG
        keep[:-1] = True
        return d_params, d_h, d_x * keep[:, None]


class FailsOnNaN(Backward):
    def change(self, d_params, d_h, d_x):
        last = d_x + 1.0  # what the memory holds by chance are finite numbers: it was this array's
        del last
        out = np.empty_like(d_x)  # BUG
        out[1:] = d_x[1:]
        assert np.isfinite(out).all()
        return d_params, d_h, out


class SkipsMasked(PlainLayer):
    """Rows of padding are never written."""

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_h = super().vjp(params, tape, d_ys, d_state_T)
        out = np.empty_like(d_xs)  # BUG
        out[tape[2]] = d_xs[tape[2]]
        return d_params, out, d_h


class SkipsZeros(Plain):
    """Where no cotangent came in there is nothing to do."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        out = np.empty_like(d_x)  # BUG
        if d_state.any() or d_y.any():
            out[...] = d_x
        return d_params, d_h, out


BUGS = [PartialBlock, AddsToEmpty, ByName, EmptyIndices, EmptyFlags, FailsOnNaN, SkipsMasked,
        SkipsZeros]  # fmt: skip


class WritesAll(Backward):
    def change(self, d_params, d_h, d_x):
        out = np.empty_like(d_x)
        np.add(d_x, 0, out=out)
        rest = np.empty((len(d_x), 3))  # more than is needed
        rest[:, :1] = d_h[:, :1]
        d_h = d_h.copy()
        d_h[:, :1] = rest[:, :1]
        return d_params, d_h, out


class Random(Backward):
    rng = np.random.default_rng(3)

    def change(self, d_params, d_h, d_x):
        out = np.empty_like(d_x)
        out[...] = d_x * self.rng.random(d_x.shape)
        return d_params, d_h, out


def found(cell, T=3, B=3, n_in=2, n_hidden=3, mask="holes", regime="ordinary", dtype="float64"):
    run = Run(Subject(cell), 0, (dtype,))
    case = replace(small_case(run, T, B, n_in, n_hidden, mask=mask), regime=regime)
    kind = run.subject.kind
    return unwritten(Passes(cell, kind), Arguments.of(kind, run.cases.problem(case)))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("make", BUGS)
def test_the_line_that_asked_for_the_memory_is_named(make, dtype):
    regime = "zeros" if make is SkipsZeros else "ordinary"
    one = found(make(), regime=regime, dtype=dtype)
    assert one is not None
    assert one.filename == __file__
    assert "# BUG" in linecache.getline(one.filename, one.line)
    assert one.function == ("np.empty_like" if "empty_like" in one.place else "np.empty")
    assert one.message.startswith(one.method)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("make", [Plain, PlainLayer, LSTM, WritesAll, Random])
def test_right_and_random_code_is_left_alone(make, dtype):
    assert found(make(), dtype=dtype) is None


@pytest.mark.parametrize("make", BUGS)
def test_numpy_is_as_it_was(make):
    empty, empty_like, name = np.empty, np.empty_like, unfilled
    found(make())
    assert (np.empty, np.empty_like, unfilled) == (empty, empty_like, name)


def test_numpy_is_as_it_was_after_an_error():
    class Fails(Plain):
        def step_vjp(self, params, cache, d_state, d_y):
            np.empty(3)
            raise KeyboardInterrupt

    before = np.empty
    with pytest.raises(KeyboardInterrupt):
        found(Fails())
    assert np.empty is before


@pytest.mark.sampled(12)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", BUGS)
def test_the_check_of_purity_says_uninitialised(make, seed):
    run = Run(Subject(make()), seed, ("float64", "float32"))
    told = purity(Context(run, examples=20))
    assert told.failures == 1
    (finding,) = told.findings
    assert [one.code for one in finding.diagnoses] == ["uninitialised"]
    evidence = finding.diagnoses[0].evidence
    assert "# BUG" in linecache.getline(evidence["file"], evidence["line"])
    again = on_problem(Run(Subject(make()), seed, ("float64",)), finding.problem)
    assert [one.code for f in again.findings for one in f.diagnoses] == ["uninitialised"]


def test_the_diagnosis_has_a_page():
    assert "uninitialised" in CODES
    assert "np.empty" in str(UNINITIALISED.page)
