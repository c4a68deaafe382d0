"""A stored failure, run again: its check on its own problem, or its check with its seed."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.errors import ContractError
from bpttcheck.judge.run import Run
from bpttcheck.problems.problem import Problem
from bpttcheck.replay.record import SerializedProblem, Stored, shape
from bpttcheck.results.records import CheckResult, Finding, Verdict
from bpttcheck.results.report import Report
from bpttcheck.subject.subject import Subject
from bpttcheck.subject.user_code import call
from bpttcheck.verify.check import check
from bpttcheck.verify.checks import CHECKS
from bpttcheck.verify.checks.base import NotApplicable


def rerun(stored: Stored, subject: Any) -> Report:
    """Run the check that failed again: on the stored problem, or with its seed if there is none.

    Args:
        stored: the failure.
        subject: the cell, layer or :class:`bpttcheck.Subject` that it was found on.

    Returns:
        A report: FAILED if the check still fails, PASSED if it passes now, INCONCLUSIVE if the
        problem is no evidence either way.

    Raises:
        ContractError: the subject's parameters or states are not those of the stored problem.
    """
    known = replace(Subject.of(subject), expected_failures=None)
    flat, case = stored.flat, stored.finding.case
    if flat is None or case is None:
        return _same_seed(stored, known)
    started = time.perf_counter()
    problem = flat.restore(case, _structure(known, stored, flat))
    run = Run(known, stored.seed, [case.dtype])
    result, findings = _on_problem(run, stored.finding, problem, started)
    note = f"replayed {stored.id}: one problem, the stored one"
    notes = [note, *run.notes.texts, *([run.jax.declined] if run.jax.declined else [])]
    return Report(
        subject=known.name,
        checks=(result,),
        findings=findings,
        seed=stored.seed,
        examples=1,
        dtypes=(case.dtype,),
        notes=(*notes, *_other_name(stored, known)),
        seconds=time.perf_counter() - started,
    )


def _structure(subject: Subject, stored: Stored, flat: SerializedProblem) -> trees.Structure:
    """The structure of the subject's state, which must be that of the stored one."""
    case, layer = stored.finding.case, subject.layer
    assert case is not None
    rng = np.random.default_rng(stored.seed)
    drawn = call("init", layer.init, rng, case.n_in, case.n_hidden)
    params = dict(zip(flat.params, flat.leaves("param"), strict=True))
    mine = {key: np.shape(value) for key, value in drawn.items()}
    theirs = {key: value.shape for key, value in params.items()}
    if mine != theirs:
        raise ContractError(
            f"{stored.id} was stored for parameters of the shapes {theirs}, but those of "
            f"{subject.name} are {mine}: is it another cell, or was it changed since? Then verify "
            "it again"
        )
    state = call("initial_state", layer.initial_state, params, case.B)
    structure = trees.structure(state)
    shapes = [np.shape(leaf) for leaf in trees.leaves(state)]
    if shape(structure) != flat.state or shapes != [a.shape for a in flat.leaves("state0")]:
        raise ContractError(
            f"{stored.id} was stored for another state than that of {subject.name}, which is "
            f"{structure.describe()} of the shapes {shapes}: verify the cell again"
        )
    return structure


def _on_problem(
    run: Run, finding: Finding, problem: Problem, started: float
) -> tuple[CheckResult, tuple[Finding, ...]]:
    on_problem = CHECKS[finding.check].on_problem
    assert on_problem is not None  # what has no problem of its own is run again as it was
    try:
        tally = on_problem(run, problem)
    except NotApplicable as reason:
        return CheckResult(finding.check, None, skipped=str(reason)), ()
    result = tally.result(time.perf_counter() - started)
    judged = any(b.block == finding.block and b.judged for b in result.blocks)
    if result.verdict is Verdict.INCONCLUSIVE and judged and not tally.contradictions:
        # Other blocks may be blind in this problem: the one that failed was seen, and is right.
        result = replace(result, verdict=Verdict.PASSED, reason="")
    return result, tuple(_diagnosed(found, finding) for found in tally.findings)


def _diagnosed(found: Finding, stored: Finding) -> Finding:
    """A diagnosis rests on many cases; that of the stored run holds if the number is the same."""
    same = (found.block, found.hand) == (stored.block, stored.hand)
    return replace(found, diagnoses=stored.diagnoses) if same else found


def _same_seed(stored: Stored, subject: Subject) -> Report:
    """The whole check again: its cases are a function of the seed."""
    report = check(
        subject,
        checks=[stored.finding.check],
        examples=stored.examples,
        seed=stored.seed,
        dtypes=stored.dtypes,
        raises=False,
    )
    note = (
        f"replayed {stored.id}: no problem is stored, so the check ran again with seed "
        f"{stored.seed} and {stored.examples} examples"
    )
    return replace(report, notes=(note, *report.notes, *_other_name(stored, subject)))


def _other_name(stored: Stored, subject: Subject) -> tuple[str, ...]:
    if stored.subject == subject.name:
        return ()
    return (f"it was stored for {stored.subject}, and is replayed on {subject.name}",)
