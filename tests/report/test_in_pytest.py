"""Benchmarks in pytest: a test for each form, found right before it is timed, in groups."""

import json

import pytest
from click.testing import CliRunner

import bpttcheck
from bpttcheck.bench.report.pytest_json import is_pytests, table
from bpttcheck.cli import main
from bpttcheck.errors import ContractError

TEST = """
import bpttcheck
from bpttcheck.cells import Elman

class Mine(Elman):
    pass

class Wrong(Elman):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h, 1.001 * d_x

@bpttcheck.parametrize_with_benchmarks([Mine(), Wrong()], sizes=[(5, 2, 3, 4)], forms=FORMS)
def test_speed(benchmark, form):
    form(benchmark)
"""


def test_forms_are_grouped_wrong_ones_fail_and_report_reads_the_file(pytester, monkeypatch):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # beside others it times nothing
    forms = '("numpy", "fused", "jax")'
    pytester.makepyfile(TEST.replace("FORMS", forms))
    result = pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "--benchmark-json=b.json", "--benchmark-max-time=0.01",
        "--benchmark-min-rounds=2", "-rs",
    )  # fmt: skip
    result.assert_outcomes(passed=3, failed=1, skipped=2)
    result.stdout.fnmatch_lines(
        ["*GradientMismatch: d_xs is off by 0.001 of its largest entry*so nothing was timed*"]
    )
    result.stdout.fnmatch_lines(["SKIPPED*hand-written in NumPy, fused: *"])
    path = pytester.path / "b.json"
    assert is_pytests(path)
    (one, *_), page = table(path)
    assert one.startswith("Mine() T=5 B=2 n_in=3 n_hidden=4 float64: numpy ")
    assert "| jax |" in page
    done = CliRunner().invoke(main, ["report", str(path)])
    assert done.exit_code == 0
    assert (pytester.path / "summary.md").read_text() == page
    assert CliRunner().invoke(main, ["report", str(path), "--compare", str(path)]).exit_code == 2


def test_a_file_without_our_benchmarks_says_so(tmp_path):
    path = tmp_path / "b.json"
    path.write_text(json.dumps({"benchmarks": [], "machine_info": {}}))
    assert table(path)[0] == ["no benchmark in it was made by parametrize_with_benchmarks"]
    path.write_text("[]")
    assert not is_pytests(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"forms": ["numpi"]}, "forms="),
        ({"dtypes": "float64"}, "dtypes="),
        ({"sizes": [(1, 2, 3)]}, "expected .T, B, n_in, n_hidden."),
    ],
)
def test_bad_arguments_are_named(options, words):
    with pytest.raises(ContractError, match=words):
        bpttcheck.parametrize_with_benchmarks([bpttcheck.cells.Elman()], **options)
    with pytest.raises(ContractError, match="takes no form"):
        bpttcheck.parametrize_with_benchmarks([bpttcheck.cells.Elman()])(lambda benchmark: None)
