"""What the checkers say of a bug: how much, and whether it names the block and the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.power import ours
from benchmarks.power.arms import Amounts
from benchmarks.power.bench import Bench
from benchmarks.power.flat import Flat
from benchmarks.power.peers import Peer
from benchmarks.power.records import OURS, Said
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.contract import is_cell
from bpttcheck.judge.run import Run
from bpttcheck.mutants.base import Mutant
from bpttcheck.results.report import Report
from bpttcheck.selftest import invisible
from bpttcheck.subject.subject import Subject

MISSING = "d_state0 missing"
"""The gradient of the initial state is zero: in every catalogue."""

_TERMS = ("t = 0 missing in d_x", "t = T-1 missing in d_x", "t = 0 missing in d_params",
          "t = T-1 missing in d_params")  # fmt: skip


def words(bench: Bench, peers: Sequence[Peer], amounts: Amounts) -> Iterator[Said]:
    """The same mutants to all: the missing ``d_state0``, two of one step, and others by chance."""
    base = Run(Subject(bench.cell), bench.seed, ("float64",))
    base.fork(base.subject)
    for number, bug in enumerate(chosen(bench, amounts.words)):
        yield _of_ours(base, bench, bug, amounts.examples)
        problem = bench.problem("ordinary", "float64", number)
        for peer in peers:
            target = bug.plant(bench.cell)
            answer = bench.ask(peer, target, problem)
            layer = CellLayer(target) if is_cell(target) else target
            named = peer.named(answer.message, Flat(layer, problem))
            yield Said(
                peer.name, bench.name, bug.family, bug.name, answer.flagged, len(answer.message),
                named.block, _right(bug, named.block), _right_step(bug, named.step, problem.case.T),
                answer.forward, answer.seconds,
            )  # fmt: skip


def chosen(bench: Bench, count: int) -> list[Mutant]:
    """Mutants that fixed ordinary inputs can show and whose wrong blocks are declared."""
    case = bench.case("ordinary", "float64", 0)
    everything = [bug for bugs in bench.families.values() for bug in bugs]
    by_name = {bug.name: bug for bug in everything}
    turn = sum(map(ord, bench.name)) % 2
    picked = [by_name[name] for name in (MISSING, *_TERMS[turn::2]) if name in by_name]
    others = [
        bug for bug in bench.sample(1, case, stream=3)
        if bug.blocks and bug.family != "initial_state" and not invisible(bug, [case], {})
    ]  # fmt: skip
    return [*picked, *(bug for bug in others if bug not in picked)][:count]


def _of_ours(base: Run, bench: Bench, bug: Mutant, examples: int) -> Said:
    report: Report = ours.report(base, bug.plant(bench.cell), examples)
    first = report.findings[0] if report.findings else None
    block = first.block if first else ""
    steps = {d.evidence.get("time_step") for d in first.diagnoses} if first else set()
    step = None
    if bug.time_step is not None:
        step = bug.time_step in steps
    text = str(report) if report.findings else ""
    return Said(
        OURS, bench.name, bug.family, bug.name, bool(report.findings), len(text), block,
        _right(bug, block), step, 0, report.seconds,
    )  # fmt: skip


def _right(bug: Mutant, block: str) -> bool | None:
    """Blocks of a sequence and of a step have different names."""
    if not bug.blocks:
        return None
    step_name = "d_x" if block == "d_xs" else block.replace("d_state0", "d_previous_state", 1)
    return step_name in bug.blocks


def _right_step(bug: Mutant, step: int | None, T: int) -> bool | None:
    if bug.time_step is None:
        return None
    return step is not None and step % T == bug.time_step % T
