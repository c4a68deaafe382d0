"""Planted bugs: the whole catalogue in every built-in cell, with default settings.

    python -m benchmarks.mutants [--write] [NAME...]

Counts what ``bpttcheck selftest`` counts, cell by cell and family by family. With ``--write`` the
result replaces ``docs/evidence/mutants.md``.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from benchmarks.common import DOCS, environment, interval, table
from benchmarks.mutants.plant import plant
from bpttcheck.cells import BUILTINS
from bpttcheck.mutants import FAMILIES
from bpttcheck.selftest import CAUGHT, INVISIBLE, MISSED, Planted, SelfTest

NAMES = (*BUILTINS, "elman[relu]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/evidence/mutants.md")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", action="append", help="only this family; repeatable")
    parser.add_argument("--wrappers", action="store_true", help="leave source-level mutants out")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("names", nargs="*", help="built-ins; none: all and elman[relu]")
    options = parser.parse_args()
    started = time.perf_counter()
    found: dict[str, SelfTest] = {}
    names = options.names or NAMES
    families = FAMILIES if options.wrappers else options.family
    work = partial(plant, families=families, examples=options.examples, seed=options.seed)
    # Each in a process of its own: compiled programs take memory as long as their process lives.
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        for name, test in zip(names, pool.map(work, names), strict=True):
            found[name] = test
            print(f"{name}: {said(test.planted)}, {test.seconds:.0f} s", flush=True)
            for one in filter(unwell, test.planted):
                print(f"  {one.name}: {one.outcome}, {one.named}, said {one.said}", flush=True)
    text = page(found, time.perf_counter() - started)
    print(text)
    if options.write:
        (DOCS / "mutants.md").write_text(text)


def unwell(one: Planted) -> bool:
    """True if something about this bug is not as declared."""
    answers = (one.right_diagnosis, one.right_block, one.right_step)
    return one.outcome == MISSED or False in answers


def said(planted: tuple[Planted, ...]) -> str:
    caught = sum(one.outcome == CAUGHT for one in planted)
    missed = sum(one.outcome == MISSED for one in planted)
    return f"{len(planted)} planted, {caught} caught, {missed} missed"


def share(answers: list[bool | None]) -> str:
    known = [answer for answer in answers if answer is not None]
    return f"{sum(known)}/{len(known)}" if known else "-"


def row(planted: list[Planted]) -> list[object]:
    outcomes = [one.outcome for one in planted]
    return [
        len(planted),
        outcomes.count(CAUGHT),
        outcomes.count(MISSED),
        outcomes.count(INVISIBLE),
        share([one.right_diagnosis for one in planted]),
        share([one.right_block for one in planted]),
        share([one.right_step for one in planted]),
    ]


def page(found: dict[str, SelfTest], seconds: float) -> str:
    every = [one for test in found.values() for one in test.planted]
    visible = [one for one in every if one.outcome != INVISIBLE]
    caught = sum(one.outcome == CAUGHT for one in visible)
    low, _ = interval(caught, len(visible))
    diagnosed = [one.right_diagnosis for one in visible if one.right_diagnosis is not None]
    head = ["planted", "caught", "missed", "not visible", "diagnosis", "block", "step"]
    families = dict.fromkeys(one.family for one in every)
    by_family = [[name, *row([o for o in every if o.family == name])] for name in families]
    by_cell = [[name, *row(list(test.planted))] for name, test in found.items()]
    reasons = sorted({f"{o.name}: {o.reason}" for o in every if o.outcome == INVISIBLE})
    odd = [
        f"{name}: {one.name}: {_odd(one)}"
        for name, test in found.items()
        for one in test.planted
        if unwell(one)
    ]
    return f"""# Planted bugs

Mistakes of the catalogue (`bpttcheck.mutants`), planted in every built-in cell and checked with
default settings ({next(iter(found.values())).examples} examples, float64 and float32).
`python -m benchmarks.mutants --write` writes this page; `bpttcheck selftest TARGET` does it for
your cell. With `--wrappers` the family `source`, a cell's own `step_vjp` changed expression by
expression, is left out.

**{caught} of {len(visible)} visible bugs caught** (at least {low:.2%} with 95 % confidence), the
right diagnosis first in {share(list(diagnosed))}.

A bug is *not visible* if, by its own declaration, no case of the run can show it. *Diagnosis*:
the declared code comes first; *block*: a wrong block is named; *step*: the right time step is.
Bugs that declare none do not count there.

## By cell

{table(["cell", *head], by_cell)}

## By family

{table(["family", *head], by_family)}

## What was not as declared

{_bullets(odd)}

## Not visible

{_bullets(reasons)}

Measured with {environment()}, in {seconds:.0f} s.
"""


def _odd(one: Planted) -> str:
    if one.outcome == MISSED:
        return f"missed ({one.sentence})"
    if one.right_diagnosis is False:
        return f"diagnosed as {one.said[0] if one.said else 'nothing'}, declared {one.diagnosis}"
    return f"names {one.named}"


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) if lines else "None."


if __name__ == "__main__":
    main()
