"""All records of one run, and how they are looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.ladder.climb import Climb
from benchmarks.power.arms import Amounts
from benchmarks.power.bench import CELLS, DTYPES, FAMILIES
from benchmarks.power.records import OURS, Reach, Said, Trial
from benchmarks.power.tuning import Tuned


@dataclass(frozen=True)
class Results:
    """What a run of the benchmark found.

    Args:
        trials: single questions of the three arms.
        reaches: the ladder.
        checks: the ladder of whole checks, of this package alone.
        said: messages.
        tuned: the best settings found.
        peers: the peers that were asked, with the versions of their packages.
        absent: the others, with the reason.
        amounts: how much was measured.
        seconds: wall-clock time.
        processor_seconds: processor time of all processes together.
        environment: versions that the numbers depend on.
        catalogue: mutants in the catalogue, by cell.
    """

    trials: Sequence[Trial]
    reaches: Sequence[Reach]
    checks: Sequence[Climb]
    said: Sequence[Said]
    tuned: Sequence[Tuned]
    peers: Mapping[str, str]
    absent: Mapping[str, str]
    amounts: Amounts
    seconds: float
    processor_seconds: float
    environment: str
    catalogue: Mapping[str, int]

    @property
    def methods(self) -> list[str]:
        """Every checker, this package first."""
        return [OURS, *self.peers]

    @property
    def families(self) -> list[str]:
        """The families met, in the order of the catalogue."""
        met = {t.family for t in self.trials}
        return [family for family in FAMILIES if family in met]

    @property
    def cells(self) -> list[str]:
        """The cells met."""
        met = {t.cell for t in self.trials}
        return [cell for cell in CELLS if cell in met]

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes."""
        return DTYPES

    def where(self, **wanted: Any) -> list[Trial]:
        """The trials whose fields have these values."""
        return [t for t in self.trials if all(getattr(t, k) == v for k, v in wanted.items())]

    def climbs(self, **wanted: Any) -> list[Reach]:
        """The same for the ladder."""
        return [r for r in self.reaches if all(getattr(r, k) == v for k, v in wanted.items())]
