"""Counts over the cases of one check, and the verdict that follows from them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bpttcheck.calibration import JUDGED_SHARE, LIMIT
from bpttcheck.errors import ContractError
from bpttcheck.judge.verdict import Judged
from bpttcheck.problems.large import FIRST
from bpttcheck.results.records import BlockSummary, Case, CheckResult, Finding, Verdict
from bpttcheck.subject.refusals import is_refusal


@dataclass(frozen=True)
class Seen:
    """One judged case: enough to tell under which conditions a bug shows.

    Args:
        case: its structure.
        wrong: the blocks found wrong.
        judged: the blocks that could be judged.
    """

    case: Case
    wrong: tuple[str, ...]
    judged: tuple[str, ...]


@dataclass
class Tally:
    """What the cases of one check add up to.

    Args:
        name: the check's name.
        accepted: blocks whose error was declared and within its limit -> number of cases.
        doubtful: cases in which the differences agreed with the code and not with JAX.
        worst: for each block that was wrong in some case, where it was worst, and by which oracle's
            gradient.
        judged: the cases of which a block could be judged.
        conduct: what is wrong with how the code behaves, where its gradient does not depend on it;
            told as remarks, and failures only where they were asked for.
        confirmed: blocks of which it is settled that they break a law, and not by rounding.
        null_counts: True if a gradient of exactly zero is evidence too. A law compares the code
            with itself, so it is; beside an oracle only an additive error could be seen.
    """

    name: str
    null_counts: bool = False
    cases: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    oracles: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    contradictions: list[str] = field(default_factory=list)
    failures: int = 0
    findings: list[Finding] = field(default_factory=list)
    conduct: list[Finding] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    judged: list[Case] = field(default_factory=list)
    doubtful: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    worst: dict[str, tuple[Judged, Case, str]] = field(default_factory=dict)
    confirmed: set[str] = field(default_factory=set)
    _seen: dict[tuple[str, str], list[Judged]] = field(default_factory=lambda: defaultdict(list))

    def add(self, judged: Sequence[Judged], case: Case) -> None:
        """Count the blocks of one case."""
        spot = case.index >= FIRST  # a spot check at a large size says nothing of the resolution
        for j in judged:
            # The arrays of a wrong block are kept for the worst case alone.
            seen = j if j.sides is None else replace(j, sides=None)
            self._seen[j.block, case.dtype].append(
                replace(seen, resolution=np.inf) if spot else seen
            )
        if any(j.usable and not j.blind for j in judged):
            self.judged.append(case)

    def outside(self, error: ContractError, case: Case) -> None:
        """Count a case whose values the subject refuses."""
        self.skipped["outside the domain"] += 1
        self._remark(error, f"raises for some values ({case.regime}): {error}")

    def refused(self, error: ContractError, case: Case, smallest: bool) -> bool:
        """Count a case that the subject refuses on purpose, or that is as small as can be.

        Args:
            error: what it raised.
            case: where.
            smallest: True if a loop of no step, or of one, was part of the problem.

        Returns:
            False if it is neither: then it is a failure.
        """
        cause = error.__cause__
        if cause is None or not (smallest or is_refusal(cause)):
            return False
        self.skipped["refused"] += 1
        self._remark(error, f"{error} (T={case.T}, B={case.B}, n_in={case.n_in}, "
                     f"n_hidden={case.n_hidden}, {case.dtype})")  # fmt: skip
        return True

    def _remark(self, error: ContractError, text: str) -> None:
        if not any(f.method == error.method and f.check == self.name for f in self.conduct):
            self.conduct.append(
                Finding(self.name, error.method, error.item or error.method, text,
                        exception=str(error.__cause__ or ""))
            )  # fmt: skip

    def blocks(self) -> tuple[BlockSummary, ...]:
        """One summary for each block and dtype."""
        return tuple(
            _summary(block, dtype, js, self.null_counts)
            for (block, dtype), js in self._seen.items()
        )

    def block_names(self) -> set[str]:
        """Every block that was compared in a case."""
        return {block for block, _ in self._seen}

    def null_blocks(self) -> list[str]:
        """Blocks whose gradient was exactly zero in every usable case."""
        by_block: dict[str, list[Judged]] = defaultdict(list)
        for (block, _), js in self._seen.items():
            by_block[block] += [j for j in js if j.usable]
        return [block for block, js in by_block.items() if js and all(j.null for j in js)]

    def result(self, seconds: float, *, notes: Sequence[str] = ()) -> CheckResult:
        """The check's outcome."""
        blocks = self.blocks()
        verdict, reason = self._verdict(blocks)
        ratios = [b.worst_ratio for b in blocks if not np.isnan(b.worst_ratio)]
        return CheckResult(
            self.name,
            verdict,
            cases=self.cases,
            skipped_cases=dict(self.skipped),
            worst_ratio=max(ratios, default=None),
            limit=LIMIT if ratios else None,
            oracles=dict(self.oracles),
            blocks=blocks,
            notes=(*notes, *(f"{text} ({_cases(n)})" for text, n in self.remarks.items())),
            reason=reason,
            seconds=seconds,
        )

    def _verdict(self, blocks: Sequence[BlockSummary]) -> tuple[Verdict, str]:
        if self.findings or self.failures:
            return Verdict.FAILED, ""
        if self.contradictions:
            return Verdict.INCONCLUSIVE, self.contradictions[0]
        if self.doubtful > max(1, JUDGED_SHARE * self.cases):
            return Verdict.INCONCLUSIVE, (
                f"in {self.doubtful} of {self.cases} cases the differences agree with the code and "
                "contradict JAX: pass `reference=`, or report it"
            )
        if self.cases == 0:
            return Verdict.INCONCLUSIVE, "no case could be run"
        null = set(self.null_blocks())
        for dtype in {b.dtype for b in blocks}:
            for b in blocks:
                if b.dtype != dtype or b.block in null:
                    continue
                total = len(self._seen[b.block, dtype])
                if b.judged < max(1, JUDGED_SHARE * total):
                    return Verdict.INCONCLUSIVE, (
                        f"{b.block} could be judged in {b.judged} of {total} {dtype} cases "
                        f"({b.blind} were blind)"
                    )
        if sum(self.skipped.values()) >= self.cases:
            reason = next(iter(self.skipped), "every case was skipped")
            return Verdict.INCONCLUSIVE, reason
        return Verdict.PASSED, ""


def _cases(number: int) -> str:
    return "1 case" if number == 1 else f"{number} cases"


def _summary(block: str, dtype: str, judged: Sequence[Judged], null_counts: bool) -> BlockSummary:
    clear = [j for j in judged if j.usable and not j.blind and (null_counts or not j.null)]
    resolutions = sorted(j.resolution for j in clear if np.isfinite(j.resolution))
    ratios = [j.ratio for j in judged if j.usable and not j.blind]
    return BlockSummary(
        block=block,
        dtype=dtype,
        judged=len(clear),
        blind=sum(j.blind for j in judged),
        resolution=resolutions[0] if resolutions else np.inf,
        median_resolution=resolutions[len(resolutions) // 2] if resolutions else np.inf,
        worst_ratio=max(ratios, default=np.nan),
    )
