"""One cell on the bench: its mutants, its inputs, and every checker in front of them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.power import ours
from benchmarks.power.flat import Calls, Flat
from benchmarks.power.peers import Answer, Peer, Settings, ask
from benchmarks.power.records import OURS
from bpttcheck import mutants
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.cells import builtin
from bpttcheck.contract import is_cell
from bpttcheck.judge.run import Run
from bpttcheck.mutants.base import Mutant
from bpttcheck.problems.problem import Problem, Template
from bpttcheck.results.records import Case
from bpttcheck.selftest import invisible
from bpttcheck.subject.subject import Subject

FAMILIES = (*mutants.FAMILIES, mutants.SOURCE)
CELLS = ("elman[tanh]", "elman[relu]", "lstm", "gru_reset_after", "leaky")
DTYPES = ("float64", "float32")
SIZES = {"T": 6, "B": 2, "n_in": 3, "n_hidden": 4}
LONG = 35
SMALLEST_IN_A_FAMILY = 1e-3
"""Planted factors nearer to one than this are left to the ladder."""


def make(name: str) -> Any:
    """The cell of this name: a built-in, or the custom one of ``examples/``."""
    if name == "leaky":
        from examples.leaky import Leaky

        return Leaky()
    return builtin(name)


@dataclass(frozen=True)
class Bench:
    """A right cell and all that is needed to judge its mutants.

    Args:
        name: the cell's name.
        seed: seed of the inputs; what is tuned and what is measured have different ones.
    """

    name: str
    seed: int

    @cached_property
    def cell(self) -> Any:
        """The right cell."""
        return make(self.name)

    @cached_property
    def run(self) -> Run:
        """The run of the right cell, whose programs serve all mutants."""
        run = Run(Subject(self.cell), self.seed, DTYPES)
        run.fork(run.subject)  # from here on it remembers what JAX says
        return run

    def problem(self, regime: str, dtype: str, index: int) -> Problem:
        """The problem of fixed size: the same arrays for every checker."""
        return self.run.cases.problem(self.case(regime, dtype, index))

    def case(self, regime: str, dtype: str, index: int) -> Case:
        """Its structure: every sequence is short, except in the long regime."""
        sizes = {**SIZES, "T": LONG} if regime == "long" else SIZES
        return Case(self.seed, index, dtype=dtype, mask="none", regime=regime, **sizes)

    def template(self, problem: Problem) -> Template:
        """The compiled shape for such a problem: its own, without padding."""
        c = problem.case
        return Template(c.n_in, c.n_hidden, c.T, c.B, exact=True)

    @cached_property
    def families(self) -> dict[str, list[Mutant]]:
        """The catalogue by family."""
        found: dict[str, list[Mutant]] = {}
        for bug in mutants.catalogue(self.cell, families=FAMILIES):
            if bug.family != "scale" or bug.error >= SMALLEST_IN_A_FAMILY:
                found.setdefault(bug.family, []).append(bug)
        return found

    def sample(self, each: int, case: Case | None = None, stream: int = 0) -> Iterator[Mutant]:
        """``each`` mutants of every family, by chance; only such as the case can show, if given."""
        for family, bugs in self.families.items():
            shown = [b for b in bugs if case is None or not invisible(b, [case], {})]
            rng = np.random.default_rng([self.seed, stream, zlib.crc32(self._key(family))])
            for at in sorted(rng.permutation(len(shown))[:each]):
                yield shown[at]

    def ask(
        self, peer: Peer | None, target: Any, problem: Problem, *, scalar: bool = False,
        settings: Settings | None = None, calls: Calls | None = None,
    ) -> Answer:  # fmt: skip
        """What a peer (None: this package) says of a cell or layer at one problem."""
        if peer is None:
            # Impure code may have written to the arrays of the problem.
            problem = self.run.cases.problem(problem.case)
            return ours.look(self.run, target, problem, self.template(problem))
        layer = CellLayer(target) if is_cell(target) else target
        flat = Flat(layer, problem, scalar, calls or Calls(), seed=problem.case.index)
        return ask(peer, flat, settings)

    def _key(self, family: str) -> bytes:
        return f"{self.name} {family}".encode()


def name_of(peer: Peer | None) -> str:
    """The name of a peer; None is this package."""
    return OURS if peer is None else peer.name


def checkers(peers: Sequence[Peer]) -> list[Peer | None]:
    """This package, and the peers."""
    return [None, *peers]
