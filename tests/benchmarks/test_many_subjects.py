"""A process that checks many subjects keeps the programs of the last one only."""

import gc
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import bpttcheck
from benchmarks.many_subjects import __main__ as many
from benchmarks.many_subjects.subjects import KINDS, make
from bpttcheck.judge.run import Run
from bpttcheck.oracles.autodiff.programs import CACHE
from bpttcheck.verify.check import release
from bpttcheck.verify.session import Session

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/maps").exists(), reason="memory maps are counted in /proc, not found here"
)
TINY = {"examples": 5, "checks": ["step_vjp"], "dtypes": ["float64"]}


def living_runs():
    """Runs in memory, once the threads that compile have let go of theirs."""
    for _ in range(100):
        if not any(t.name.startswith("bpttcheck-compile") for t in threading.enumerate()):
            break
        time.sleep(0.05)
    return sum(type(one) is Run for one in gc.get_objects())


@pytest.fixture
def without_collector():
    """The runs that other tests hold, with the collector switched off until the test ends."""
    release()
    gc.collect()
    gc.disable()
    yield living_runs()
    gc.enable()
    release()


def growth(counts):
    """The last half's most maps above those of the first half, which warms up."""
    half = len(counts) // 2
    return max(counts[half:]) - max(counts[:half])


# A program holds some forty maps, and forty subjects compile some sixty programs.
ALLOWED = 100


@pytest.mark.nightly
@needs_proc
def test_memory_maps_do_not_grow_with_the_number_of_subjects(monkeypatch):
    monkeypatch.setattr(CACHE, "most", 4)  # full after a few subjects
    kept, verdicts, counts = [], Counter(), []
    for _ in many.checked(12, verdicts, kept, **(TINY | {"examples": 1})):
        counts.append(many.maps())
    assert verdicts == {"passed": 11, "failed": 1}
    assert growth(counts) <= ALLOWED


@pytest.mark.nightly
@needs_proc
def test_runs_that_somebody_keeps_are_seen_in_the_maps(monkeypatch):
    monkeypatch.setattr(CACHE, "most", 0)  # equal programs are not shared
    kept, counts, session = [], [], Session()
    for _ in many.checked(8, Counter(), [], **(TINY | {"examples": 1, "session": session})):
        kept.append(session._run)
        counts.append(many.maps())
    assert growth(counts) > ALLOWED


@needs_proc
def test_a_sample_sees_programs_that_are_kept_alive():
    before = many.sample(0, 0.0)
    _, reference = make(KINDS.index("jax reference"))
    cell, _ = make(KINDS.index("jax reference"))
    bpttcheck.check(cell, reference=reference, **TINY)
    held = many.sample(1, 1.0)
    release()
    after = many.sample(1, 2.0)
    assert held.programs > after.programs
    assert held.maps > after.maps
    assert after.programs <= before.programs


def test_a_subject_needs_no_garbage_collector_to_be_released(without_collector):
    for kind in ("plain", "untraceable", "jax reference"):
        cell, reference = make(KINDS.index(kind))
        bpttcheck.check(cell, reference=reference, **TINY)
        assert living_runs() == without_collector
    release()
    assert living_runs() == without_collector


def test_a_refusal_that_user_code_makes_an_error_of_its_own_needs_none_either(without_collector):
    class Wraps(type(make(KINDS.index("plain"))[0])):
        def step(self, params, state, x):
            try:
                assert x.sum() < np.inf
            except Exception as error:
                raise RuntimeError("not a number") from error
            return super().step(params, state, x)

    report = bpttcheck.check(Wraps(), **TINY)
    assert "an assertion on a traced value" in report.checks[0].notes[0]
    release()
    assert living_runs() == without_collector


@pytest.mark.nightly
def test_an_exception_that_is_kept_keeps_no_run(without_collector):
    cell, _ = make(KINDS.index("wrong"))
    with pytest.raises(bpttcheck.GradientMismatch) as kept:
        bpttcheck.check(cell, **TINY)
    release()
    assert living_runs() == without_collector
    assert kept.value.report.findings


@pytest.mark.sampled(5)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_subject_is_what_it_says(kind):
    index = KINDS.index(kind)
    cell, reference = make(index)
    assert (reference is not None) == kind.endswith("reference")
    report = bpttcheck.check(cell, reference=reference, raises=False, **TINY)
    assert report.passed == (kind != "wrong")
    declined = [note for result in report.checks for note in result.notes if "declined" in note]
    assert bool(declined) == (kind == "untraceable")


def test_no_two_subjects_share_a_class():
    assert type(make(0)[0]) is not type(make(0)[0])


def test_a_slope_is_that_of_the_last_half_only():
    samples = [many.Sample(n, n, 0.0, 100 if n < 50 else 50 + n, 1, 1) for n in range(0, 100, 10)]
    rate, error = many.slope(samples, "maps")
    assert rate == pytest.approx(1.0)
    assert error == pytest.approx(0.0, abs=1e-9)


@needs_proc
def test_the_page_says_what_was_measured():
    samples = [many.Sample(10 * n, n, 250.0, 900, 2, 5 * n) for n in range(1, 7)]
    text = many.page(samples, Counter(passed=54, failed=6), 5)
    assert "60 different subjects" in text
    assert "**30 programs**" in text
    assert "6 failed, 54 passed" in text
