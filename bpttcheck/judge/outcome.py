"""What is said of one case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bpttcheck.judge.directions import Vote, Witness
from bpttcheck.judge.run import Hand
from bpttcheck.judge.verdict import Judged
from bpttcheck.problems.problem import Problem


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
