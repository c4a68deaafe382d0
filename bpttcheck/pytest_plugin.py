"""The pytest plugin: one test for each pair of subject and check.

pytest imports this module in every project that has bpttcheck installed, so it imports nothing
expensive; NumPy, JAX and Hypothesis are imported when a decorated test is collected or run.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from bpttcheck.config import (
    RANDOM,
    Settings,
    check_names,
    draw_seed,
    failures,
    near,
    parse_require,
    parse_seed,
    read,
)
from bpttcheck.errors import BpttcheckError, ContractError, GradientMismatch

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])
_OPTIONS = (
    "reference", "sizes", "dtypes", "examples", "seed", "checks", "executor", "strict", "require",
    "lengths", "batches",
)  # fmt: skip
_ELSEWHERE = ("store", "isolate", "jobs", "timeout")  # settings that are not options of the core
_INTERNAL = "internal error"
_RUN = "bpttcheck-run"  # the plugin name of the part that collects results
_SEED = "bpttcheck_seed"  # the key of the data sent to a worker of xdist
_RECORDS = (
    "bpttcheck_records"  # the attribute of pytest's report that carries results from a worker
)
_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class _Request:
    """The arguments of one use of :func:`parametrize_with_checks`."""

    subjects: tuple[Any, ...]
    expected_failures: Mapping[str, str] | Callable[[Any], Mapping[str, str] | None]
    options: Mapping[str, Any]

    def failures_of(self, subject: Any) -> dict[str, str]:
        """Why checks of this subject are expected to fail, by check."""
        given = self.expected_failures
        return dict((given(subject) or {}) if callable(given) else given)


class NamedCheck:
    """One named check, to be called with a subject.

    Args:
        name: the check's name.
        options: passed on to :func:`bpttcheck.check`.
        inconclusive: ``"fail"`` or ``"skip"``; an internal error fails in any case.
        session: makes or finds the :class:`bpttcheck.verify.session.Session` of the tests.
        label: tells subjects of one name apart; ``""``: the subject's own name.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        inconclusive: str = "fail",
        session: Callable[[], Any] = lambda: None,
        label: str = "",
    ) -> None:
        self.name = name
        self.label = label
        self.session = session
        self.options = options
        self.inconclusive = inconclusive
        self.results: list[tuple[Any, Any]] = []  # (subject, report), taken away by the plugin

    def __call__(self, subject: Any) -> None:
        """Run the check; pass, skip, xfail or fail the test according to the report.

        Raises:
            ContractError: the subject breaks its contract.
            GradientMismatch: the check failed.
        """
        __tracebackhide__ = True
        import bpttcheck

        report = bpttcheck.check(
            subject, checks=[self.name], raises=False, session=self.session(), **self.options
        )
        self.results.append((subject, report))
        _conclude(self, report)

    def __repr__(self) -> str:
        return f"<check {self.name}>"


class PlantedBugs:
    """The self-test of one subject: the known bugs that are planted in it must be caught.

    Args:
        options: as for :func:`bpttcheck.check`; those that a self-test takes are used.
        family: plant bugs of this family; ``""``: of all.
        each: at most so many of a family; None: all.
    """

    def __init__(
        self, options: Mapping[str, Any], family: str = "", each: int | None = None
    ) -> None:
        taken = ("reference", "sizes", "dtypes", "examples", "seed")
        self.options = {key: options[key] for key in taken if key in options}
        self.options |= {"families": (family,)} if family else {}
        self.options |= {"each": each} if each else {}

    def __call__(self, subject: Any) -> None:
        """Plant the catalogue; fail the test if a bug was missed."""
        __tracebackhide__ = True
        from bpttcheck.cli.selftest import text
        from bpttcheck.selftest import selftest

        found = selftest(subject, **self.options)
        if not found.passed:
            pytest.fail("\n".join(text(found)), pytrace=False)

    def __repr__(self) -> str:
        return "<check selftest>"


def parametrize_with_checks(
    subjects: Iterable[Any],
    *,
    expected_failures: Mapping[str, str] | Callable[[Any], Mapping[str, str] | None] | None = None,
    **options: Any,
) -> Callable[[_Decorated], _Decorated]:
    """Turn a test function of ``(subject, check)`` into one test for each subject and check.

    ::

        @bpttcheck.parametrize_with_checks([MyCell(), bpttcheck.cells.LSTM()])
        def test_gradients(subject, check):
            check(subject)

    Args:
        subjects: cells, layers or :class:`bpttcheck.Subject`.
        expected_failures: check name -> why it is known to fail; one that passes is an error. Or a
            function from a subject to such a dict, where they differ by subject.
        **options: as for :func:`bpttcheck.check`, and ``inconclusive="skip"`` to skip rather than
            fail a check that could not decide (one that an internal error stopped fails in any
            case). The command line outweighs them. ``selftest=True`` adds tests that plant known
            bugs in each subject, one test and one bug for each family (about a second each);
            ``selftest="all"`` plants the whole catalogue (minutes).

    Returns:
        The decorator.

    Raises:
        ContractError: there are no subjects, or an option is unknown.
    """
    given: Any = subjects
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ContractError(
            f"subjects={given!r} (type={type(given).__name__}), expected a list of subjects: "
            "write parametrize_with_checks([subject])",
            item="subjects",
        )
    found = tuple(given)
    if not found:
        raise ContractError("subjects is empty, expected at least one", item="subjects")
    known = (*_OPTIONS, "inconclusive", "selftest")
    for option in options:
        if option not in known:
            raise ContractError(
                f"unknown option {option!r}{near(option, known)} (known: {', '.join(known)})",
                item=option,
            )
    wanted = options.get("selftest", False)
    if wanted not in (False, True, "all"):
        raise ContractError(f"selftest={wanted!r}, expected True or 'all'", item="selftest")
    return pytest.mark.bpttcheck(_Request(found, expected_failures or {}, options))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the command line."""
    group = parser.getgroup("bpttcheck", "checks of hand-derived backward passes")
    group.addoption("--bpttcheck-examples", type=int, metavar="N", help="cases in each check")
    group.addoption(
        "--bpttcheck-seed", metavar="SEED", help="seed of the cases: a number or 'random'"
    )
    group.addoption(
        "--bpttcheck-report", metavar="PATH", help="write the reports of all checks as JSON"
    )
    group.addoption(
        "--bpttcheck-html", metavar="PATH", help="write the reports of all checks as one HTML page"
    )
    group.addoption(
        "--bpttcheck-strict", action="store_true", help="remarks on conduct are failures"
    )
    group.addoption(
        "--bpttcheck-require", action="append", metavar="ORACLE",
        help="without this oracle (jax, torch, differences) nothing is decided; repeatable",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings; register the marker and the part that collects results."""
    config.addinivalue_line(
        "markers", "bpttcheck: a check of a hand-derived backward pass (parametrize_with_checks)"
    )
    try:
        config.pluginmanager.register(_Run(config), _RUN)
    except ContractError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a decorated test function one parameter set for each subject and check."""
    requests = [
        mark.args[0]
        for mark in metafunc.definition.iter_markers("bpttcheck")
        if mark.args and isinstance(mark.args[0], _Request)
    ]
    if not requests:
        return
    run: Any = metafunc.config.pluginmanager.get_plugin(_RUN)
    try:
        sets = [one for request in requests for one in run.parameters(request)]
    except BpttcheckError as error:
        raise pytest.Collector.CollectError(f"{metafunc.function.__name__}: {error}") from None
    metafunc.parametrize(("subject", "check"), sets)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the results to pytest's report; show the report's text instead of a traceback."""
    run: Any = item.config.pluginmanager.get_plugin(_RUN)
    page = item.config.getoption("--bpttcheck-html") is not None
    results = _take_results(item, run.failures, page) if call.when == "call" else []
    for record in results:
        item.user_properties += [(f"bpttcheck_{k}", v) for k, v in record["summary"].items()]
    ours = call.excinfo is not None and isinstance(call.excinfo.value, BpttcheckError)
    if ours:
        _drop_own_frames(call.excinfo)
    report = yield
    if results:
        setattr(report, _RECORDS, results)
        if ours and call.excinfo is not None and report.failed:
            shown: Any = call.excinfo.getrepr(style="value", chain=False)
            # pytest cuts this line at the terminal's width: what is wrong comes first.
            shown.reprcrash.message = _short(call.excinfo.value)
            report.longrepr = shown
    return report


class _Run:
    """One pytest session: its settings, its results and its summary."""

    def __init__(self, config: pytest.Config) -> None:
        root = config.rootpath / "pyproject.toml"
        self.config = config
        self.settings = read(root if root.is_file() else None)
        self.failures = failures(self.settings, config.rootpath)
        self.given = _given(config)
        asked = self.given.get("seed", self.settings.seed)
        told = getattr(config, "workerinput", {})  # xdist's controller draws for all its workers
        self.random = asked == RANDOM
        self.seed: int = told[_SEED] if _SEED in told else draw_seed(asked)
        self.records: dict[str, list[dict[str, Any]]] = {}
        self.trouble = self.page_trouble = ""
        self._session: Any = None

    def session(self) -> Any:
        """The session that the checks of one subject share; each check is a test of its own."""
        from bpttcheck.verify.session import Session

        if self._session is None:
            self._session = Session()
        return self._session

    def parameters(self, request: _Request) -> list[Any]:
        """One parameter set for each subject and check, those of a subject together."""
        from bpttcheck.verify.checks import NAMES, names_for

        options = _merged(self.settings, request.options, self.given)
        if "seed" in self.given or "seed" not in request.options:
            options["seed"] = self.seed
        options["seed"] = draw_seed(parse_seed(options["seed"]))
        names = check_names(options.pop("checks"), NAMES)
        inconclusive = options.pop("inconclusive")
        options = {k: v for k, v in options.items() if k not in _ELSEWHERE and not _unset(k, v)}
        planted = options.pop("selftest", False)
        sets: list[Any] = []
        for subject, label in zip(request.subjects, _labels(request.subjects), strict=True):
            # xdist gives the tests of a group to one worker under --dist=loadgroup.
            together = self.config.pluginmanager.hasplugin("xdist")
            marks = [pytest.mark.xdist_group(f"bpttcheck {label}")] if together else []
            target = getattr(subject, "target", subject)
            known = names_for(target)
            expected = request.failures_of(subject)
            check_names(tuple(expected), NAMES)
            own = {**options, "expected_failures": expected} if expected else options
            for name in [name for name in names if name in known]:
                check = NamedCheck(name, own, inconclusive, self.session, label)
                sets.append(pytest.param(subject, check, id=f"{label}-{name}", marks=marks))
            for family in _families(target) if planted else ():
                bugs = PlantedBugs(options, family, None if planted == "all" else 1)
                name = f"{label}-selftest-{family}"
                sets.append(pytest.param(subject, bugs, id=name, marks=marks))
        return sets

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker of xdist the seed."""
        node.workerinput[_SEED] = self.seed

    def pytest_report_header(self) -> str | None:
        """Name a seed that was drawn, so that the run can be repeated."""
        line = f"bpttcheck: again with --bpttcheck-seed={self.seed} (drawn at random)"
        return line if self.random else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect results from all processes; a rerun replaces its predecessor."""
        records = getattr(report, _RECORDS, None)
        if records:
            self.records[report.nodeid] = records

    def pytest_sessionfinish(self) -> None:
        """Drop compiled programs, and write the file of reports if requested."""
        check = sys.modules.get("bpttcheck.verify.check")
        if check is not None:
            check.release()
        self._session = None
        path = self.config.getoption("--bpttcheck-report")
        if path and not hasattr(self.config, "workerinput"):
            self.trouble = _write(Path(path), self.seed, self._all())
        path = self.config.getoption("--bpttcheck-html")
        if path and not hasattr(self.config, "workerinput"):
            self.page_trouble = _write_page(Path(path), self._all())

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Report how much was checked."""
        records = self._all()
        path = self.config.getoption("--bpttcheck-report")
        if not records and not path:
            return
        terminalreporter.section("bpttcheck")
        if records:
            terminalreporter.write_line(_counts(records))
        if path:
            terminalreporter.write_line(self.trouble or f"reports written to {path}")
        page = self.config.getoption("--bpttcheck-html")
        if page:
            terminalreporter.write_line(self.page_trouble or f"page written to {page}")
        for line in dict.fromkeys(line for record in records for line in record["stored"]):
            terminalreporter.write_line(line)
        for line in [line for record in records for line in record["annotations"]]:
            terminalreporter.write_line(line)

    def _all(self) -> list[dict[str, Any]]:
        return [
            {"nodeid": nodeid, **record} for nodeid, some in self.records.items() for record in some
        ]


def _families(target: Any) -> tuple[str, ...]:
    """The families of bugs that can be planted in a subject."""
    from bpttcheck import mutants
    from bpttcheck.traits import trait

    of_function = trait(target, "signature") is not None
    return (mutants.SOURCE,) if of_function else (*mutants.FAMILIES, mutants.SOURCE)


def _conclude(check: NamedCheck, report: Any) -> None:
    """End the test according to its report."""
    __tracebackhide__ = True
    from bpttcheck.cli.terminal import columns
    from bpttcheck.results.records import Verdict
    from bpttcheck.results.text import outcome, render

    text = render(report, columns())
    if report.verdict is Verdict.FAILED:
        broken = [finding for finding in report.findings if finding.check == "contract"]
        if broken and check.name != "contract":  # the test of `contract` reports it
            raise ContractError(f"the contract is broken: {broken[0].message}")
        raise (ContractError(text) if broken else GradientMismatch(text, report))
    result = next(result for result in report.checks if result.name == check.name)
    ending = outcome(result)
    if ending == "skipped":
        pytest.skip(result.skipped)
    if ending == "expected failure":
        pytest.xfail(result.expected_failure)
    if ending != "passed" and check.inconclusive == "skip" and _INTERNAL not in result.reason:
        pytest.skip(f"inconclusive: {result.reason}")
    if ending != "passed":
        pytest.fail(text, pytrace=False)


def _given(config: pytest.Config) -> dict[str, Any]:
    """The options of the command line that were given."""
    given: dict[str, Any] = {}
    examples = config.getoption("--bpttcheck-examples")
    if examples is not None:
        if examples < 1:
            raise ContractError(f"--bpttcheck-examples={examples}, expected at least 1")
        given["examples"] = examples
    seed = config.getoption("--bpttcheck-seed")
    if seed is not None:
        given["seed"] = parse_seed(seed)
    if config.getoption("--bpttcheck-strict"):
        given["strict"] = True
    require = config.getoption("--bpttcheck-require")
    if require:
        given["require"] = parse_require(require)
    return given


def _unset(key: str, value: Any) -> bool:
    """True for an option with the core's default."""
    empty = value is None or value is False or (isinstance(value, tuple) and not value)
    return empty and key not in ("examples", "seed", "dtypes")


def _merged(settings: Settings, *layers: Mapping[str, Any]) -> dict[str, Any]:
    options = {key: getattr(settings, key) for key in Settings.__dataclass_fields__}
    for layer in layers:
        options.update(layer)
    if options["inconclusive"] not in ("fail", "skip"):
        raise ContractError(f"inconclusive={options['inconclusive']!r}, expected 'fail' or 'skip'")
    return options


def _labels(subjects: Sequence[Any]) -> list[str]:
    """A unique name for each subject that is valid in a test id."""
    from bpttcheck.subject.subject import Subject

    labels: list[str] = []
    for subject in subjects:
        name = re.sub(r"['\"\s]", "", Subject.of(subject).name)
        twins = sum(label == name or label.startswith(f"{name}#") for label in labels)
        labels.append(f"{name}#{twins + 1}" if twins else name)
    return labels


def _short(error: BaseException) -> str:
    """One line: the block that is wrong, and how."""
    worst = re.search(r"^1\. .*\n +(.*)", str(error), re.MULTILINE)
    return worst[1] if worst else str(error).partition("\n")[0]


def _take_results(item: pytest.Item, folder: Path | None, page: bool) -> list[dict[str, Any]]:
    """The results of this test's checks, as plain values that can be sent between processes."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    check = parameters.get("check")
    if not isinstance(check, NamedCheck):
        return []
    taken, check.results = check.results, []
    return [_record(check, subject, report, folder, page) for subject, report in taken]


def _record(
    check: NamedCheck, subject: Any, report: Any, folder: Path | None, page: bool
) -> dict[str, Any]:
    from bpttcheck.results.text import outcome

    name = check.name
    result = next(result for result in report.checks if result.name == name)
    summary = {
        "subject": check.label or report.subject,
        "check": name,
        "verdict": outcome(result).lower(),
        "cases": result.cases,
        "worst_ratio": result.worst_ratio,
        "seed": report.seed,
    }
    annotations: list[str] = []
    if os.environ.get("GITHUB_ACTIONS"):
        from bpttcheck.cli.github import annotate

        annotations = annotate(subject, report)
    lines: list[str] = []
    if report.findings and folder is not None:
        from bpttcheck.cli.stored import keep

        lines = keep(report, folder, None, subject=subject)[1]
    return {
        "stored": lines,
        "summary": {key: value for key, value in summary.items() if value is not None},
        "annotations": annotations,
        "page": _section(report) if page else "",
        "report": {
            **report.to_dict(),
            "subject": summary["subject"],
            "verdict": summary["verdict"],
        },
    }


def _section(report: Any) -> str:
    from bpttcheck.results.page import section

    return section(report)


def _drop_own_frames(excinfo: Any) -> None:
    """Cut bpttcheck's frames off a traceback, so that its last line is the user's."""
    link = excinfo.tb
    while link.tb_next is not None:
        if _PACKAGE in Path(link.tb_next.tb_frame.f_code.co_filename).parents:
            link.tb_next = link.tb_next.tb_next
        else:
            link = link.tb_next
    excinfo.traceback = type(excinfo.traceback)(excinfo.tb)  # pytest keeps a list of its own


def _counts(records: Sequence[Mapping[str, Any]]) -> str:
    from bpttcheck.results.words import plural

    summaries = [record["summary"] for record in records]
    verdicts = [summary["verdict"] for summary in summaries]
    seeds = sorted({summary["seed"] for summary in summaries})
    parts = [
        plural(len({summary["subject"] for summary in summaries}), "subject"),
        plural(len(summaries), "check"),
        plural(sum(summary["cases"] for summary in summaries), "case"),
        f"{verdicts.count('failed')} failed",
        f"{verdicts.count('inconclusive')} inconclusive",
    ]
    for word in ("skipped", "expected failure"):
        if word in verdicts:
            parts.append(f"{verdicts.count(word)} {word}")
    return ", ".join([*parts, f"seed {', '.join(map(str, seeds))}"])


def _write(path: Path, seed: int, records: Sequence[Mapping[str, Any]]) -> str:
    """Write all reports as one JSON document; returns the error, or ``""``."""
    from bpttcheck.results.report import SCHEMA_VERSION

    reports = [{"nodeid": record["nodeid"], **record["report"]} for record in records]
    document = {"schema_version": SCHEMA_VERSION, "seed": seed, "reports": reports}
    return _written(path, json.dumps(document, indent=2) + "\n", "reports")


def _write_page(path: Path, records: Sequence[Mapping[str, Any]]) -> str:
    """Write all reports as one HTML page; returns the error, or ``""``."""
    from bpttcheck.results.page import page

    summaries = [record["summary"] for record in records]
    names = [(f"{one['subject']}, {one['check']}", one["verdict"]) for one in summaries]
    sections = [(*name, record["page"]) for name, record in zip(names, records, strict=True)]
    return _written(path, page(sections), "page")


def _written(path: Path, text: str, what: str) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        return f"{what} could not be written to {path}: {error}"
    return ""
