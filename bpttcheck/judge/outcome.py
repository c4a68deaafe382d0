"""What is said of one case, without the errors that the author has declared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bpttcheck.calibration import LIMIT
from bpttcheck.judge.directions import Vote, Witness
from bpttcheck.judge.run import Hand, Run
from bpttcheck.judge.tally import Tally
from bpttcheck.judge.verdict import Judged
from bpttcheck.problems.problem import Problem
from bpttcheck.results.records import Finding


@dataclass(frozen=True)
class CaseOutcome:
    """What one case says.

    Args:
        problem: the case with its values.
        hand: the hand-derived side; None if the case was not judged.
        by: the oracle beside whose gradient the blocks were judged; ``""``: along directions alone.
        judged: blocks beside that gradient, or beside slopes along directions.
        votes: the blocks that differ, and who is believed.
        witnesses: what was measured along a direction, by block.
        spoke: the oracles that spoke.
        skipped: why the case was not judged at all, or ``""``.
        declined: by oracle, why its gradient was not there or not believed.
        forward: outputs of the forward pass that are not those of a reference that was given.
        doubtful: why the reference was not believed in this case, or ``""``.
    """

    problem: Problem
    hand: Hand | None = None
    by: str = ""
    judged: Sequence[Judged] = ()
    votes: Mapping[str, Vote] = field(default_factory=dict)
    witnesses: Mapping[str, Witness] = field(default_factory=dict)
    spoke: frozenset[str] = frozenset()
    skipped: str = ""
    declined: Mapping[str, str] = field(default_factory=dict)
    forward: Sequence[Judged] = ()
    doubtful: str = ""

    @property
    def wrong(self) -> list[Judged]:
        """The blocks that are wrong, worst first."""
        found = [j for j in self.judged if self.votes.get(j.block) is Vote.WRONG]
        return sorted(found, key=lambda j: -j.ratio)


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
