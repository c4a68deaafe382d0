"""The pytest door: which tests there are, how they end, and what is left behind."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

import bpttcheck
from bpttcheck import cells
from bpttcheck.errors import ContractError
from bpttcheck.subject.subject import Subject
from bpttcheck.verify.checks import names_for

CELL = Subject(cells.Elman())
OF_A_CELL = names_for(CELL.target)
CHECK_COUNT = len(OF_A_CELL)


def write(project: pytest.Pytester, subjects: str, options: str = "", **files: str) -> None:
    project.makepyfile(
        test_it=f"""
        import bpttcheck
        from fake_core import CALLS, RELEASED, Faked

        @bpttcheck.parametrize_with_checks([{subjects}]{options})
        def test_gradients(subject, check):
            check(subject)
        """,
        **files,
    )


def test_each_subject_and_check_is_one_test(project: pytest.Pytester) -> None:
    write(project, "Faked('A'), Faked('B'), Faked('A')")
    result = project.runpytest("-v")
    result.assert_outcomes(passed=3 * CHECK_COUNT)
    lines = [line.partition(" ")[0] for line in result.outlines if "::" in line]
    names = [f"{subject}-{check}" for subject in ("A", "B", "A#2") for check in OF_A_CELL]
    assert lines == [f"test_it.py::test_gradients[{name}]" for name in names]


def test_a_wrong_gradient_fails_with_the_report_and_no_traceback(
    project: pytest.Pytester,
) -> None:
    write(project, "Faked('A', {'step_vjp': 'failed'})")
    result = project.runpytest()
    result.assert_outcomes(passed=CHECK_COUNT - 1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*test_gradients[[]A-step_vjp[]]*",
            "FAILED  A: d_params['W'] (step_vjp)",
            "   -> sign: the gradient of W has the wrong sign",
            "1 check, 1 run, 0 skipped, 1 failed",
            "*= bpttcheck =*",
            f"1 subject, {CHECK_COUNT} checks, {CHECK_COUNT * 100:,} cases, 1 failed, "
            "0 inconclusive, seed 0",
            "FAILED *[[]A-step_vjp[]] - d_params*",
        ]
    )
    text = result.stdout.str()
    assert "def " not in text
    assert "pytest_plugin.py" not in text


def test_a_broken_contract_is_told_in_full_once(project: pytest.Pytester) -> None:
    write(project, "Faked('A', {'contract': 'failed'})", ", checks=['contract', 'purity']")
    result = project.runpytest()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "FAILED  A: d_previous_state (contract)",
            "the contract is broken: d_previous_state has shape (4, 2)*transposed?",
            "FAILED *[[]A-contract[]] - d_previous_state *",
        ]
    )


def test_skips_expected_failures_and_undecided_checks_end_as_such(
    project: pytest.Pytester,
) -> None:
    write(
        project,
        "Faked('A', {'masking': 'skipped', 'purity': 'failed', 'causality': 'inconclusive'})",
        ", expected_failures={'purity': 'known since long'}",
    )
    result = project.runpytest("-rsx")
    result.assert_outcomes(passed=CHECK_COUNT - 3, skipped=1, xfailed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "INCONCLUSIVE  A: causality",
            "*why: everything was blind",
            "*0 failed, 1 inconclusive, 1 skipped, 1 expected failure, seed 0",
            "SKIPPED*test_it.py:*a fake has no masks",
            "XFAIL*A-purity*known since long",
        ]
    )


def test_an_expected_failure_that_passes_is_a_failure(project: pytest.Pytester) -> None:
    write(project, "bpttcheck.Subject(Faked('A'), expected_failures={'purity': 'it was so'})")
    result = project.runpytest()
    result.assert_outcomes(passed=CHECK_COUNT - 1, failed=1)
    result.stdout.fnmatch_lines(["*expected to fail (it was so)*"])


def test_undecided_checks_are_skipped_where_that_is_asked_for(project: pytest.Pytester) -> None:
    write(project, "Faked('A', {'purity': 'inconclusive'})")
    project.makepyprojecttoml('[tool.bpttcheck]\ninconclusive = "skip"')
    result = project.runpytest("-rs")
    result.assert_outcomes(passed=CHECK_COUNT - 1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*inconclusive: everything was blind"])


def test_what_an_internal_error_stopped_fails_in_any_case(project: pytest.Pytester) -> None:
    write(project, "Faked('A', {'purity': 'internal', 'masking': 'inconclusive'})",
          ", inconclusive='skip'")  # fmt: skip
    result = project.runpytest("-rs")
    result.assert_outcomes(passed=CHECK_COUNT - 2, skipped=1, failed=1)
    result.stdout.fnmatch_lines(["INCONCLUSIVE  A: purity", "*why: internal error while*"])


def test_what_is_asked_of_a_verdict_reaches_the_core(project: pytest.Pytester) -> None:
    project.makepyprojecttoml(
        "[tool.bpttcheck]\nlengths = [1, 16]\nisolate = true\ntimeout = 5\nstrict = true"
    )
    write(project, "Faked('A')", ", checks=['purity'], batches=(3,), strict=False")
    project.makepyfile(
        test_what_was_asked="""
        from fake_core import CALLS

        def test_call(request):
            strict = {"strict": True} if request.config.getoption("--bpttcheck-strict") else {}
            given = request.config.getoption("--bpttcheck-require")
            require = {"require": tuple(given)} if given else {}
            assert CALLS[-1] == {
                "checks": ("purity",), "examples": 100, "seed": 0,
                "dtypes": ("float64", "float32"), "lengths": (1, 16), "batches": (3,),
                **strict, **require,
            }
        """
    )
    for options in ((), ("--bpttcheck-strict", "--bpttcheck-require=jax")):
        project.runpytest(*options).assert_outcomes(passed=2)


@pytest.mark.parametrize("text", ["[tool]\nbpttcheck = 3\n", "[[tool.bpttcheck]]\nseed = 1\n"])
def test_a_table_that_is_none_is_a_usage_error(project: pytest.Pytester, text: str) -> None:
    (project.path / "pyproject.toml").write_text(text)
    result = project.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *pyproject.toml: bpttcheck = * should be a table*"])
    assert "INTERNALERROR" not in result.stderr.str() + result.stdout.str()


def test_settings_come_from_the_command_line_then_the_decorator_then_the_file(
    project: pytest.Pytester,
) -> None:
    project.makepyprojecttoml(
        '[tool.bpttcheck]\nexamples = 5\nseed = 3\ndtypes = ["float32"]\nchecks = ["purity"]'
    )
    write(project, "Faked('A')", ", examples=6")
    project.makepyfile(
        test_what_was_asked="""
        from fake_core import CALLS

        def test_call(request):
            wanted = request.config.getoption("--bpttcheck-examples") or 6
            assert CALLS[-1] == {
                "checks": ("purity",), "examples": wanted, "seed": 3, "dtypes": ("float32",)
            }
        """
    )
    for options in ((), ("--bpttcheck-examples=9",)):
        project.runpytest(*options).assert_outcomes(passed=2)


def test_a_random_seed_is_named(project: pytest.Pytester) -> None:
    write(project, "Faked('A', {'purity': 'failed'})")
    result = project.runpytest("--bpttcheck-seed=random")
    header = next(line for line in result.outlines if line.startswith("bpttcheck: again with"))
    seed = header.partition("=")[2].partition(" ")[0]
    result.stdout.fnmatch_lines(
        [f"seed {seed} (to repeat: *--bpttcheck-seed), *", f"*, seed {seed}"]
    )


@pytest.mark.parametrize(
    ("table", "arguments", "words"),
    [
        ("exmples = 5", (), "unknown key 'exmples'*did you mean 'examples'?*"),
        ("", ("--bpttcheck-seed=x",), "seed='x', expected a natural number*"),
        (
            "",
            ("--bpttcheck-require=torhc",),
            "*expected some of 'jax', 'torch'*did you mean 'torch'?",
        ),
        ("", ("--bpttcheck-examples=0",), "*--bpttcheck-examples=0, expected at least 1"),
    ],
)
def test_wrong_settings_are_usage_errors(
    project: pytest.Pytester, table: str, arguments: tuple[str, ...], words: str
) -> None:
    project.makepyprojecttoml(f"[tool.bpttcheck]\n{table}")
    result = project.runpytest(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: *{words}"])


@pytest.mark.parametrize(
    ("subjects", "options", "words"),
    [
        ("Faked()", ", checks=['puriti']", "*unknown check 'puriti'; did you mean 'purity'*"),
        ("Faked()", ", expected_failures={'x': 'y'}", "*unknown check 'x'*"),
        ("Faked()", ", inconclusive='pass'", "*inconclusive='pass', expected 'fail' or 'skip'"),
        ("Faked()", ", seed=-1", "*seed=-1, expected a natural number*"),
        ("object()", "", "*object*"),
    ],
)
def test_wrong_options_are_collection_errors_of_a_few_lines(
    project: pytest.Pytester, subjects: str, options: str, words: str
) -> None:
    write(project, subjects, options)
    result = project.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([words])
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize(
    ("subjects", "options", "words"),
    [
        ([], {}, "subjects is empty"),
        (7, {}, r"subjects=7 \(type=int\).*\[subject\]"),
        ("lstm", {}, "expected a list of subjects"),
        ([1], {"exmples": 3}, "unknown option 'exmples'; did you mean 'examples'"),
    ],
)
def test_the_decorator_refuses_what_it_cannot_mean(
    subjects: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ContractError, match=words):
        bpttcheck.parametrize_with_checks(subjects, **options)


def test_methods_and_several_decorators_work(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import bpttcheck, pytest
        from fake_core import Faked

        @bpttcheck.parametrize_with_checks([Faked('A')], checks=['purity'])
        class TestIt:
            def test_one(self, subject, check):
                check(subject)

            @pytest.mark.parametrize("n", [1, 2])
            def test_two(self, n, subject, check):
                check(subject)

        @bpttcheck.parametrize_with_checks([Faked('B')], checks=['purity'])
        @bpttcheck.parametrize_with_checks([Faked('C')], checks=['masking'])
        def test_three(subject, check):
            check(subject)
        """
    )
    result = project.runpytest("-m", "bpttcheck", "--strict-markers")
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["3 subjects, 5 checks, *"])


def test_the_exception_can_be_caught(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import bpttcheck, pytest
        from fake_core import Faked

        @bpttcheck.parametrize_with_checks([Faked('A', {'purity': 'failed'})], checks=['purity'])
        def test_it(subject, check):
            with pytest.raises(bpttcheck.GradientMismatch) as caught:
                check(subject)
            assert caught.value.report.subject == "A"
            assert repr(check) == "<check purity>"
        """
    )
    project.runpytest().assert_outcomes(passed=1)


def test_a_direct_call_shows_the_users_line_and_none_of_ours(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import bpttcheck

        class NoCell:
            pass

        def test_it():
            from bpttcheck.verify.check import check
            check(NoCell())
        """
    )
    result = project.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([">*check(NoCell())", "E *ContractError: *"])
    assert "bpttcheck/verify/" not in result.stdout.str()


def test_all_reports_are_written_as_json(project: pytest.Pytester) -> None:
    write(project, "Faked('A', {'purity': 'failed'})")
    result = project.runpytest("--bpttcheck-report=deep/r.json", "--bpttcheck-seed=5")
    result.stdout.fnmatch_lines(["reports written to deep/r.json"])
    document = json.loads((project.path / "deep" / "r.json").read_text())
    assert document["schema_version"] == 1
    assert document["seed"] == 5
    assert len(document["reports"]) == CHECK_COUNT
    verdicts = {r["checks"][0]["name"]: r["verdict"] for r in document["reports"]}
    assert verdicts.pop("purity") == "failed"
    assert set(verdicts.values()) == {"passed"}
    assert document["reports"][1]["nodeid"] == "test_it.py::test_gradients[A-purity]"


def test_a_report_that_cannot_be_written_is_said(project: pytest.Pytester) -> None:
    write(project, "Faked('A')")
    (project.path / "taken").write_text("")
    result = project.runpytest("--bpttcheck-report=taken/r.json")
    result.stdout.fnmatch_lines(["reports could not be written to taken/r.json: *"])


def test_junit_gets_the_verdict_the_cases_and_the_seed(project: pytest.Pytester) -> None:
    write(project, "Faked('A', {'purity': 'failed'})", ", checks=['contract', 'purity']")
    project.runpytest("--junitxml=out.xml")
    cases = ElementTree.parse(project.path / "out.xml").getroot().findall(".//testcase")
    found = [
        {p.get("name"): p.get("value") for p in case.findall("properties/property")}
        for case in cases
    ]
    assert found[1] == {
        "bpttcheck_subject": "A",
        "bpttcheck_check": "purity",
        "bpttcheck_verdict": "failed",
        "bpttcheck_cases": "100",
        "bpttcheck_worst_ratio": "1000000000.0",
        "bpttcheck_seed": "0",
    }
    assert found[0]["bpttcheck_verdict"] == "passed"
    failure = cases[1].find("failure")
    assert failure is not None
    assert "d_params['W']" in (failure.text or "")


def test_github_is_told_the_line_of_the_method(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(project.path))
    write(project, "Faked('A', {'purity': 'failed'})")
    result = project.runpytest()
    source = (project.path / "fake_core.py").read_text().splitlines()
    line = next(n for n, text in enumerate(source, 1) if "def step_vjp" in text)
    result.stdout.fnmatch_lines(
        [
            f"::error file=fake_core.py,line={line},title=A%3A d_params[[]'W'[]] (purity)::*"
            "100%25%0Asign: *"
        ]
    )


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_results_of_xdist_workers_reach_the_controller(
    project: pytest.Pytester, workers: int
) -> None:
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    write(project, "Faked('A', {'purity': 'failed'}), Faked('B')")
    result = project.runpytest_subprocess(
        f"-n{workers}", "--strict-markers", "--dist=loadgroup", "--bpttcheck-report=r.json",
        "--bpttcheck-seed=random", "--junitxml=out.xml",
    )  # fmt: skip
    result.assert_outcomes(passed=2 * CHECK_COUNT - 1, failed=1)
    document = json.loads((project.path / "r.json").read_text())
    drawn = document["seed"]
    assert len(document["reports"]) == 2 * CHECK_COUNT
    assert {report["seed"] for report in document["reports"]} == {drawn}
    total = 2 * CHECK_COUNT
    result.stdout.fnmatch_lines(
        [
            f"2 subjects, {total} checks, {total * 100:,} cases, 1 failed, "
            f"0 inconclusive, seed {drawn}"
        ]
    )
    assert "bpttcheck_verdict" in (project.path / "out.xml").read_text()
    (stored,) = [line.split()[1] for line in result.outlines if line.startswith("stored: ")]
    assert (project.path / f"{stored}.json").exists()


def test_programs_are_released_when_the_session_ends(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[bool] = []
    monkeypatch.setattr("bpttcheck.verify.check.release", lambda: released.append(True))
    write(project, "Faked('A')")
    project.runpytest()
    assert released == [True]


def test_a_project_without_checks_hears_nothing(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(): pass")
    result = project.runpytest()
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*= bpttcheck =*")
    result.stdout.no_fnmatch_line("bpttcheck*")


def test_expected_failures_may_differ_by_subject(project: pytest.Pytester) -> None:
    write(
        project,
        "Faked('A', {'purity': 'failed'}), Faked('B')",
        ", expected_failures=lambda one: {'purity': 'known'} if one.name == 'A' else None",
    )
    project.runpytest().assert_outcomes(passed=2 * CHECK_COUNT - 1, xfailed=1)


def test_subjects_of_one_name_are_told_apart_and_a_skipped_check_is_skipped(
    project: pytest.Pytester,
) -> None:
    write(project, "Faked('A'), Faked('A', {'masking': 'skipped'})")
    result = project.runpytest(
        "--bpttcheck-report=r.json", "--junitxml=j.xml", "--bpttcheck-html=deep/p.html"
    )
    assert "A#2, masking" in (project.path / "deep/p.html").read_text()
    result.stdout.fnmatch_lines(["2 subjects, *"])
    reports = json.loads((project.path / "r.json").read_text())["reports"]
    found = {(one["subject"], one["verdict"]) for one in reports}
    assert found == {("A", "passed"), ("A#2", "passed"), ("A#2", "skipped")}
    assert 'name="bpttcheck_subject" value="A#2"' in (project.path / "j.xml").read_text()


def test_there_is_a_test_for_each_family_of_planted_bugs(project: pytest.Pytester) -> None:
    write(project, "Faked('A')", ", selftest=True")
    result = project.runpytest("--collect-only", "-q")
    result.stdout.fnmatch_lines(["*A-selftest-sign*", "*A-selftest-source*"])
