"""False alarms: correct cells over random problems, every built-in x dtype x regime.

    python -m benchmarks.false_alarms [--cases 200] [--write] [NAME...]
    python -m benchmarks.false_alarms --verdicts [--seeds 0 1 2 3 4] [--group builtins] [--write]

Counts verdicts *wrong* (a false alarm) and *contradiction* (JAX against the differences) beside the
cases that were blind or not judged. With ``--write`` the result replaces
``docs/evidence/false-alarms.md``.

With ``--verdicts`` it counts verdicts of the whole of `check` instead, laws, purity and all, over
the built-ins, the gallery and ``benchmarks/right_cells``; ``--write`` replaces
``docs/evidence/false-verdicts.md``.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict

from benchmarks.common import DOCS, DTYPES, environment, problems, runs, table, upper_bound
from benchmarks.false_alarms import verdicts
from bpttcheck.activations import ACTIVATIONS
from bpttcheck.calibration import LIMIT
from bpttcheck.judge.directions import Vote
from bpttcheck.judge.gradient import examine
from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.problems.problem import REGIMES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200, help="per built-in, dtype and regime")
    parser.add_argument("--write", action="store_true", help="write docs/evidence/false-alarms.md")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verdicts", action="store_true", help="count verdicts of check")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--group", action="append", choices=verdicts.GROUPS, help="repeatable")
    parser.add_argument("--jobs", type=int, default=1, help="subjects at a time, for --verdicts")
    parser.add_argument("names", nargs="*", help="built-ins; none: all")
    options = parser.parse_args()
    if options.verdicts:
        wanted = options.names or verdicts.names(options.group or verdicts.GROUPS)
        text = verdicts.page(verdicts.count(wanted, options.seeds, options.jobs))
        print(text)
        if options.write:
            (DOCS / "false-verdicts.md").write_text(text)
        return
    started = time.perf_counter()
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    ratios: list[float] = []
    cells: Counter[str] = Counter()
    for name, run in runs(options.names, options.seed):
        family = name.partition("[")[0]
        share = len(ACTIVATIONS) if family == "elman" else 1  # its activations share its cases
        cases = -(-options.cases // share)
        for regime in REGIMES:
            for dtype in DTYPES:
                count_cases(run, regime, dtype, cases, counts[regime, dtype], ratios)
        cells[family] += cases * len(REGIMES) * len(DTYPES)
        done = sum(c["cases"] for c in counts.values())
        alarms = sum(c["wrong"] for c in counts.values())
        seconds = time.perf_counter() - started
        print(f"{name}: {done} cases, {alarms} alarms, {seconds:.0f} s", flush=True)
    text = page(counts, sorted(ratios), cells, time.perf_counter() - started)
    print(text)
    if options.write:
        (DOCS / "false-alarms.md").write_text(text)


def count_cases(
    run: Run, regime: str, dtype: str, cases: int, counts: Counter[str], ratios: list[float]
) -> None:
    for problem, template in problems(run, regime, dtype, cases):
        outcome = examine(run, SEQUENCE, problem, template)
        counts["cases"] += 1
        counts["not judged"] += bool(outcome.skipped or not outcome.judged)
        counts["wrong"] += bool(outcome.wrong)
        counts["contradiction"] += Vote.CONTRADICTION in outcome.votes.values()
        counts["differences spoke"] += "differences" in outcome.spoke
        counts["blocks"] += len(outcome.judged)
        counts["blind blocks"] += sum(j.blind for j in outcome.judged)
        clear = [j.ratio for j in outcome.judged if j.usable and not j.blind]
        ratios.append(max(clear, default=0.0))
        if outcome.wrong or Vote.CONTRADICTION in outcome.votes.values():
            print("  ALARM", run.subject.name, problem.case, outcome.votes, outcome.wrong)


def page(
    counts: dict[tuple[str, str], Counter[str]],
    ratios: list[float],
    cells: Counter[str],
    seconds: float,
) -> str:
    total = Counter[str]()
    for c in counts.values():
        total.update(c)
    keys = ["cases", "wrong", "contradiction", "not judged", "differences spoke"]
    rows = [
        [regime, dtype, *(c[k] for k in keys), f"{c['blind blocks'] / max(c['blocks'], 1):.1%}"]
        for (regime, dtype), c in counts.items()
    ]
    n, wrong = total["cases"], total["wrong"]
    quantile = {q: ratios[min(int(q * n), n - 1)] for q in (0.5, 0.99, 0.999)}
    return f"""# False alarms

A correct cell must never be called wrong. This page is written by
`python -m benchmarks.false_alarms --write`; it runs {len(cells)} built-in cells (the activations of
Elman share its part) over {n} random correct problems, at least {min(cells.values()) // 22} for
each cell, dtype and regime, with random lengths, batches, masks, states and cotangents.

**{wrong} false alarms in {n} problems**: with 95 % confidence the rate is below
{upper_bound(wrong, n):.1e}. {total["contradiction"]} problems ended in a contradiction between JAX
and the finite differences. The largest ratio of error to bar was {ratios[-1]:.1f} of {LIMIT:.0f}
allowed (median {quantile[0.5]:.2f}, 99 % below {quantile[0.99]:.2f}, 99.9 % below
{quantile[0.999]:.2f}).

{table(["regime", "dtype", *keys, "blind blocks"], rows)}

*Not judged*: the forward pass overflowed, or JAX was silent. *Blind*: the block's own rounding
noise exceeds 1 % of it; such a block is evidence for nothing and is counted apart.

Measured with {environment()}, in {seconds:.0f} s.
"""


if __name__ == "__main__":
    main()
