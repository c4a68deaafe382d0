"""The evidence behind each constant in ``bpttcheck/calibration.py``.

    python -m benchmarks.calibration [--cases 20] [--write]

Correct cells, built in or as users write them, over every regime and dtype, with the constants
varied one at a time: what is called wrong is a false alarm. With ``--write`` the result replaces
``docs/evidence/calibration.md``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.calibration.cells import names as every_name
from benchmarks.calibration.collect import COUNTS, collect, copies
from benchmarks.calibration.experiments import (
    INGREDIENTS,
    LAW_COUNTS,
    MARGINS,
    Measured,
    laws,
    milliseconds,
    shares,
    with_ingredients,
    with_margin,
)
from benchmarks.calibration.page import page
from benchmarks.common import DOCS
from bpttcheck.problems.problem import REGIMES

KINKED = (
    "elman[relu]", "elman[hard_tanh]", "elman[hard_sigmoid]", "elman[leaky_relu]",
    "maximum, slope z > 0", "maximum, slope z >= 0", "clip", "absolute",
)  # fmt: skip
KINK_REGIMES = ("at_kinks", "near_kinks", "zeros")
FEW = (
    "elman[tanh]", "elman[sigmoid]", "elman[relu]", "lstm", "gru_reset_after", "jordan",
    "textbook tanh", "textbook sigmoid", "textbook isru", "maximum, slope z >= 0", "softmax",
    "textbook lstm",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is measured, and how much of it."""

    names: Sequence[str]
    regimes: Sequence[str] = tuple(REGIMES)
    cases: int = 20
    kinked: Sequence[str] = KINKED
    kink_cases: int = 20
    few: Sequence[str] = FEW
    few_cases: int = 10
    law_examples: int = 60
    check_examples: int = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20, help="per cell, dtype and regime")
    parser.add_argument("--kink-cases", type=int, default=20, help="the same, at kinks")
    parser.add_argument("--few-cases", type=int, default=10, help="the same, for the ingredients")
    parser.add_argument("--law-examples", type=int, default=60, help="`examples` of the laws")
    parser.add_argument("--check-examples", type=int, default=100, help="`examples` of all checks")
    parser.add_argument("--write", action="store_true", help="write docs/evidence/calibration.md")
    parser.add_argument("names", nargs="*", help="cells; none: all")
    options = parser.parse_args()
    names = options.names or every_name()
    plan = Plan(
        names,
        cases=options.cases,
        kinked=[n for n in KINKED if n in names],
        kink_cases=options.kink_cases,
        few=[n for n in FEW if n in names],
        few_cases=options.few_cases,
        law_examples=options.law_examples,
        check_examples=options.check_examples,
    )
    text = page(measured(plan))
    print(text)
    if options.write:
        (DOCS / "calibration.md").write_text(text)


def measured(plan: Plan) -> Measured:
    """Everything on the page."""
    started = time.perf_counter()

    def begin(what: str) -> None:
        print(f"{what} ({time.perf_counter() - started:.0f} s)", flush=True)

    begin("correct cells")
    with copies(max(COUNTS)):
        records = collect(plan.names, plan.regimes, plan.cases)
    begin("time of copies")
    times = {count: milliseconds(count) for count in COUNTS}
    margins = {}
    for margin in MARGINS:
        begin(f"kink margin {margin:g}")
        margins[margin] = with_margin(margin, plan.kinked, KINK_REGIMES, plan.kink_cases)
    ingredients = {}
    for name in INGREDIENTS:
        begin(f"noise: {name}")
        ingredients[name] = with_ingredients(name, plan.few, plan.regimes, plan.few_cases)
    by_count = {}
    for count in LAW_COUNTS:
        begin(f"laws with {count} runs")
        by_count[count] = laws(count, plan.names, plan.law_examples)
    begin("shares of judged cases")
    found = shares(plan.names, plan.check_examples)
    seconds = time.perf_counter() - started
    return Measured(records, times, margins, ingredients, by_count, found, seconds)


if __name__ == "__main__":
    main()
