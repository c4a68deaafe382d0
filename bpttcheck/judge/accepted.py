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
                tally.accepted[j.block] += 1
                tally.remarks[f"{j.block} is off by less than {limit:g}, accepted: {reason}"] += 1
    return replace(outcome, votes=votes, judged=judged)


def needless(run: Run, tally: Tally) -> list[Finding]:
    """A finding for every declared error that no case had."""
    found: list[Finding] = []
    for name, (limit, reason) in run.accepted.items():
        blocks = [b for b in tally.block_names() if name in (b, run.names.get(b))]
        # What exceeds its limit is told as the error that it is.
        if not any(tally.accepted[block] or block in tally.worst for block in blocks):
            what = "no case needed it" if blocks else "there is no gradient of that name"
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
