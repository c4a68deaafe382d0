"""Any executor: the same report, whoever does the work."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import pytest
from executor_cells import Dies, NegativeInput, Raises, Remembers, Warns
from hypothesis import strategies as st

import bpttcheck
from bpttcheck import BpttcheckError, ContractError
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.cells import LSTM, Elman
from bpttcheck.judge.run import Run
from bpttcheck.subject.subject import Subject
from bpttcheck.verify import parallel as spread
from bpttcheck.verify.parallel import ProcessContext

CHECKS = ["contract", "purity", "step_vjp", "sequence_vjp", "linearity", "masking"]
SPAWN = multiprocessing.get_context("spawn")


class Counts(Executor):
    """Does everything at once in this process, and counts what it is given."""

    def __init__(self):
        self.jobs = []

    def submit(self, function, /, *args, **kwargs):
        self.jobs.append(function.__name__)
        future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture(scope="module")
def pools():
    with (
        ThreadPoolExecutor(3) as threads,
        ProcessPoolExecutor(2, SPAWN) as two,
        ProcessPoolExecutor(3, SPAWN) as three,  # starts no process before its first job
    ):
        yield {"threads": threads, "2 processes": two, "3 processes": three}


@pytest.fixture(scope="module")
def alone():
    """The report of a right cell without an executor."""
    return report(Elman(), None)


def timeless(value):
    """A report without the one thing that may differ."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key != "seconds"}
    return [timeless(item) for item in value] if isinstance(value, list | tuple) else value


def report(subject, executor, **options):
    usual = {"examples": 6, "raises": False, "checks": CHECKS, "dtypes": ["float64"]}
    options = usual | options
    return timeless(bpttcheck.check(subject, executor=executor, **options).to_dict())


@pytest.mark.parametrize(("cell", "names"), [
    pytest.param(Warns, ["threads", "2 processes"], marks=pytest.mark.nightly),
    (NegativeInput, ["threads", "2 processes"]),
    pytest.param(Raises, ["threads", "2 processes"], marks=pytest.mark.nightly),
    pytest.param(NegativeInput, ["3 processes"], marks=pytest.mark.nightly),
])  # fmt: skip
def test_every_executor_gives_the_report_that_none_gives(cell, names, pools):
    without = report(cell(), None)
    assert without["verdict"] == ("passed" if cell is Warns else "failed")
    assert without["notes"] if cell is Warns else without["findings"]
    for name in names:
        assert report(cell(), pools[name]) == without, name


@pytest.mark.nightly
def test_the_size_of_the_jobs_changes_nothing(monkeypatch):
    monkeypatch.setattr(spread, "_CASES", 1)
    pool, options = Counts(), {"examples": 11, "checks": None}
    assert report(LSTM(), pool, **options) == report(LSTM(), None, **options)
    assert pool.jobs.count("judge") == 22


def test_sizes_reach_the_workers_although_a_strategy_does_not_pickle(pools):
    pairs = st.tuples(st.just(3), st.sampled_from([2, 4]))
    options = {"sizes": pairs, "checks": ["step_vjp", "linearity"]}
    without = report(Elman(), None, **options)
    assert report(Elman(), pools["2 processes"], **options) == without
    assert {tuple(size) for size in without["sizes"]} <= {(3, 2), (3, 4)}


@pytest.mark.nightly
def test_a_layer_and_its_reference_reach_the_workers(pools):
    options = {"reference": LSTM(), "dtypes": ["float32"]}
    without = report(CellLayer(LSTM()), None, **options)
    assert report(CellLayer(LSTM()), pools["2 processes"], **options) == without
    assert [c["name"] for c in without["checks"] if c["skipped"]] == ["step_vjp"]


def test_cases_of_a_right_cell_are_judged_by_the_workers_alone(alone, monkeypatch):
    def never(context):
        raise AssertionError("the caller judged for himself")

    pool = Counts()
    known = {n: replace(spread.CHECKS[n], run=never) for n in ("step_vjp", "sequence_vjp")}
    monkeypatch.setattr(spread, "CHECKS", {**spread.CHECKS, **known})
    assert report(Elman(), pool) == alone
    assert set(pool.jobs) == {"judge", "run_check"}


def test_a_case_that_is_lost_on_the_way_would_be_seen(alone, monkeypatch):
    honest = spread.count

    def drops(run, tally, outcome):
        if outcome.problem.case.index != 3:
            honest(run, tally, outcome)

    monkeypatch.setattr(spread, "count", drops)
    assert report(Elman(), Counts()) != alone


def test_an_impure_cell_is_not_spread():
    pool = Counts()
    without = report(Remembers(), None)
    assert report(Remembers(), pool) == without
    assert without["verdict"] == "failed"
    assert pool.jobs == []


def test_progress_counts_up_with_an_executor_too():
    seen = []
    report(Elman(), Counts(), progress=lambda *results: seen.append(results))
    done = [d for d, _, _ in seen]
    assert done == sorted(done)
    assert seen[-1][0] <= seen[-1][1]
    assert {what for _, _, what in seen} == set(CHECKS)


def test_a_subject_that_does_not_pickle_is_refused_by_the_name_of_its_attribute():
    cell, pool = Elman(), Counts()
    object.__setattr__(cell, "kernel", threading.Lock())
    with pytest.raises(ContractError, match=r"target\.kernel \(type=lock\) does not pickle"):
        report(cell, pool)
    with pytest.raises(ContractError, match=r"reference \(type=function\) does not pickle"):
        report(Elman(), pool, reference=lambda p, s, x: (s, s))
    assert pool.jobs == []
    with ThreadPoolExecutor(1) as threads:
        assert report(cell, threads, checks=["linearity"])["verdict"] == "passed"


def test_a_worker_that_dies_is_an_error_of_ours():
    with (
        ProcessPoolExecutor(1, SPAWN) as pool,
        pytest.raises(BpttcheckError, match=r"gave no answer.*BrokenProcessPool") as caught,
    ):
        report(Dies(), pool)
    assert not isinstance(caught.value, ContractError)
    with pytest.raises(BpttcheckError, match="gave no answer"):
        report(Elman(), pool)


def test_a_forked_worker_says_how_to_make_the_pool(monkeypatch):
    monkeypatch.setattr(spread, "_LOADED_IN", -1)
    with pytest.raises(BpttcheckError, match=r'get_context."spawn"'):
        report(Elman(), Counts())


@pytest.fixture(scope="module")
def dask():
    """A client of a real cluster of two processes."""
    distributed = pytest.importorskip("distributed", reason="dask is not installed: extra `dask`")
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        yield client


@pytest.mark.nightly
@pytest.mark.parametrize("cell", [Warns, NegativeInput])
def test_a_dask_cluster_gives_the_report_that_none_gives(dask, cell):
    assert report(cell(), dask.get_executor()) == report(cell(), None)


def test_a_dask_worker_that_is_killed_in_mid_run_changes_nothing(dask, alone):
    workers = dask.run(os.getpid)
    killed = []

    def kill_one(done, total, name):
        if done and not killed:
            killed.append(min(workers.values()))
            os.kill(killed[0], signal.SIGKILL)

    assert report(Elman(), dask.get_executor(), progress=kill_one) == alone
    assert killed


XDIST = """
import bpttcheck
from bpttcheck.cells import Elman


class NegativeInput(Elman):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h, -d_x


@bpttcheck.parametrize_with_checks(
    [Elman(), NegativeInput()], examples=5, checks=["purity", "step_vjp", "linearity"]
)
def test_gradients(subject, check):
    check(subject)
"""


@pytest.mark.nightly
def test_pytest_gives_the_same_verdicts_in_one_process_and_in_two(pytester):
    pytester.makepyfile(test_cells=XDIST)

    def verdicts(*options):
        done = pytester.runpytest_subprocess("-rA", "-p", "no:cacheprovider", *options)
        done.assert_outcomes(passed=5, failed=1)
        lines = [line.split(" - ")[0] for line in done.outlines]
        return sorted(line for line in lines if line.startswith(("PASSED test", "FAILED test")))

    alone = verdicts("-n0")
    assert verdicts("-n2") == alone
    assert len(alone) == 6


def test_a_process_makes_the_cases_of_its_caller():
    """Restrictions and compiled shapes of what is drawn, declared, traced whole, or a function."""
    function = bpttcheck.adapt.from_grad(lambda x: ((x**2).sum(), 2 * x), "x: N D")
    subjects = [Subject(Elman(), lengths=(3, 5), batches=(2,)), Subject(function)]
    for subject in subjects:
        run = Run(subject, 0, ("float64",))
        place = ProcessContext(
            "token", run.subject.target, run.subject.reference, "it", run.cases.sizes,
            run.subject.lengths, run.subject.batches, run.subject.masks, 0, run.dtypes,
        )  # fmt: skip
        made = place.make()
        assert made.cases.templates == run.cases.templates
        for index in range(12):
            assert made.cases.scheduled(index, False) == run.cases.scheduled(index, False)
