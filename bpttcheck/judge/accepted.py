"""Errors that the author of the code has declared, with a reason and a limit."""

from __future__ import annotations

from dataclasses import replace

from bpttcheck.calibration import LIMIT
from bpttcheck.judge.outcome import CaseOutcome
from bpttcheck.judge.run import Run
from bpttcheck.judge.tally import Tally
from bpttcheck.results.records import Finding


def accepted(run: Run, outcome: CaseOutcome, tally: Tally | None = None) -> CaseOutcome:
    """The outcome without the errors that are declared and within their limits.

    Args:
        run: the subject.
        outcome: what one case says.
        tally: where each such error is noted; None: nowhere.
    """
    if not run.accepted:
        return outcome
    votes, judged = dict(outcome.votes), list(outcome.judged)
    for i, j in enumerate(judged):
        limit, reason = _of(run, j.block)
        if j.block in votes and limit and j.relative <= limit:
            del votes[j.block]
            judged[i] = replace(j, ratio=min(j.ratio, LIMIT))
            if tally is not None:
                tally.remarks[f"{j.block} is off by less than {limit:g}, accepted: {reason}"] += 1
    return replace(outcome, votes=votes, judged=judged)


def needless(run: Run, tally: Tally) -> list[Finding]:
    """A finding for every declared error that no case had."""
    found: list[Finding] = []
    for name, (limit, reason) in run.accepted.items():
        known = any(name in (block, run.names.get(block)) for block in tally.block_names())
        used = any(_of(run, block)[0] and f"{block} is off by less" in text
                   for block in tally.block_names() for text in tally.remarks)  # fmt: skip
        if not used or not known:
            what = "no case needed it" if known else "there is no gradient of that name"
            found.append(
                Finding(tally.name, run.code.methods_of(tally.name)[1], name,
                        f"accept names {name} ({limit:g}, {reason}), but {what}: remove it")
            )  # fmt: skip
    return found


def _of(run: Run, block: str) -> tuple[float, str]:
    for name in (block, run.names.get(block)):
        if name in run.accepted:
            return run.accepted[name]
    return 0.0, ""
