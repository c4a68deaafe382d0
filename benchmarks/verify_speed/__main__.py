"""How long a verdict takes, beside the harness that one would write by hand, in one run.

    python -m benchmarks.verify_speed [--examples 100] [--naive 20] [--write]

Three arms, each in fresh processes, one after another: the two gradient checks of one LSTM, all its
checks, and Hypothesis over random shapes with ``jit`` of the scan and ``check_grads`` in each
example. *Cold* is from the start of the process to the verdict, *warm* a second subject in the same
process. With ``--write`` the result replaces ``docs/evidence/verify-speed.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.common import DOCS, environment, table

_ARMS = {
    "gradients": "bpttcheck, the two gradient checks",
    "all": "bpttcheck, every check",
    "naive": "Hypothesis, `jit` and `check_grads`",
}
_ASKED = {"cold": 25, "warm": 60}
_SECONDS = 6.0


@dataclass(frozen=True)
class Verdict:
    """One subject in one process.

    Args:
        seconds: to its verdict; of a cold one from the start of the process.
        imports: seconds of it until everything was imported; zero if warm.
        imports_cpu: processor time of that.
        cpu: seconds of processor time without the imports.
        cases: problems judged; a step and a sequence are two.
        sequences: whole sequences judged by the gradient checks.
        compiled: programs that XLA compiled.
        evaluations: runs of the forward pass that are not XLA's.
        load: the load average before.
    """

    seconds: float
    imports: float
    imports_cpu: float
    cpu: float
    cases: int
    sequences: int
    compiled: int
    evaluations: int
    load: float


Runs = Mapping[str, Mapping[str, Sequence[Verdict]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=100, help="cases of each gradient check")
    parser.add_argument("--naive", type=int, default=20, help="examples of the naive harness")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each arm")
    parser.add_argument("--write", action="store_true", help="write docs/evidence/verify-speed.md")
    options = parser.parse_args()
    runs: dict[str, dict[str, list[Verdict]]] = {a: {"cold": [], "warm": []} for a in _ARMS}
    for _ in range(options.repeats):  # in turn, so that the load is shared by all
        for arm in _ARMS:
            examples = options.naive if arm == "naive" else options.examples
            for kind, verdict in measured(arm, examples).items():
                runs[arm][kind].append(verdict)
                print(arm, kind, verdict, flush=True)
    text = page(runs)
    print(text)
    if options.write:
        (DOCS / "verify-speed.md").write_text(text)


def measured(arm: str, examples: int) -> dict[str, Verdict]:
    """One process: its cold and its warm verdict."""
    command = [sys.executable, "-m", "benchmarks.verify_speed.arms", arm, str(examples)]
    started = time.time()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    cold, warm = told["verdicts"]
    whole = told["cold_at"] - started
    return {
        "cold": _verdict(cold, whole, whole - cold["wall"], told["imports_cpu"], told["load"]),
        "warm": _verdict(warm, warm["wall"], 0.0, 0.0, told["load"]),
    }


def _verdict(
    told: Mapping[str, Any], seconds: float, imports: float, imports_cpu: float, load: float
) -> Verdict:
    rest = {key: told[key] for key in ("cpu", "cases", "sequences", "compiled", "evaluations")}
    return Verdict(seconds, imports, imports_cpu, load=load, **rest)


def _middle(verdicts: Sequence[Verdict], quantity: str) -> float:
    return median(getattr(v, quantity) for v in verdicts)


def _rate(verdicts: Sequence[Verdict], unit: str, clock: str = "seconds") -> float:
    return median(getattr(v, unit) / getattr(v, clock) for v in verdicts)


def page(runs: Runs) -> str:
    rows, ratios = [], []
    for arm, title in _ARMS.items():
        for kind, verdicts in runs[arm].items():
            times = sorted(v.seconds for v in verdicts)
            rows.append([
                title, kind, f"{median(times):.1f} ({times[0]:.1f} to {times[-1]:.1f})",
                f"{_middle(verdicts, 'imports'):.1f}", f"{_middle(verdicts, 'cpu'):.1f}",
                verdicts[0].cases, f"{_rate(verdicts, 'cases'):.3g}",
                f"{_middle(verdicts, 'compiled'):.0f}",
                f"{_rate(verdicts, 'evaluations', 'cases'):.1f}",
                ", ".join(f"{v.load:.1f}" for v in verdicts),
            ])  # fmt: skip
            if arm != "naive":
                beside = runs["naive"][kind]
                ratios.append([
                    title, kind,
                    *(f"{_rate(verdicts, *by) / _rate(beside, *by):.0f}" for by in
                      (("cases",), ("cases", "cpu"), ("sequences",))),
                    f"at least {_ASKED[kind]}",
                ])  # fmt: skip
    cold = median(v.seconds for v in runs["all"]["cold"])
    busy = median(v.cpu + v.imports_cpu for v in runs["all"]["cold"])
    naive = runs["naive"]["cold"][0].cases
    header = ["", "", "seconds to the verdict", "of it imports", "processor seconds after them",
              "cases", "cases a second", "compiled", "forward runs a case", "load"]  # fmt: skip
    wanted = ["", "", "cases a second", "cases a processor second", "sequences a second", "asked"]
    repeats = len(runs["all"]["cold"])
    return f"""# How fast a verdict comes

Naive testing over random shapes compiles a program in nearly every example; here a run compiles a
handful and fills them with many cases. This page is written by
`python -m benchmarks.verify_speed --write`: one LSTM, every arm in a fresh process, rounds:
{repeats}; medians, with the range in brackets. *Cold* runs from the start of the process, imports
included; *warm* is a second subject in the same process. The naive harness draws the same sizes,
but no long sequences, and compares the same hand-derived gradient with `jit(grad)` of a JAX scan,
then calls `check_grads`; it runs {naive} examples, with a rate that does not depend on their
number. A case is one problem judged in every block: of bpttcheck a step, a sequence or a law, of
the naive harness a sequence. A forward run of the naive harness is one of its Python function,
traced or plain.

{table(header, rows)}

Times faster than the naive harness, by three ways of counting:

{table(wanted, ratios)}

From the start of the process to the verdict of every check: {cold:.1f} s, in which it used
{busy:.1f} processor seconds on up to two processors; asked at most {_SECONDS:.0f} s. The load is
the machine's load average before each process; above {os.cpu_count()}, its number of processors,
seconds are longer than they need be, and the column of processor seconds is the one to compare.

Measured with {environment()}.
"""


if __name__ == "__main__":
    main()
