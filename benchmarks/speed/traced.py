"""The traced rules of ``on_jax.layer`` over jitted JAX autodiff, for cells without a native form.

    python -m benchmarks.speed.traced [--write] [--rounds 5] [--keep FILE] [--cells NAME...]
        [--sizes T,B,N,H...] [--dtypes float32...] [--lengths T...] [--cores 1]

Nine cells of ``examples/gallery`` and ten of ``benchmarks.right_cells``. Each is traced, its forms
are verified, and the fastest at each point is timed beside autodiff of the same traced step in
rounds. Nothing else should run on the machine. With ``--keep`` a run that was interrupted goes on
where it stopped. ``--write`` replaces ``docs/evidence/traced-rules.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
GALLERY = {
    "Clockwork": "clockwork", "IndRNN": "indrnn", "LRU": "lru", "ComplexLRU": "lru_complex",
    "Mamba": "mamba", "MGU": "mgu", "MinGRU": "mingru", "SLSTM": "slstm", "Spiking": "spiking",
}  # fmt: skip
FRESH = (
    "CorrectedWrite", "DecayedOuter", "RunningPool", "ExponentialGates", "LearnsWithin",
    "CentredLeak", "Springs", "InPlace", "TwoSigmoids", "ByEinsum",
)  # fmt: skip
# Those of the page about speed that all cells of one core take in a quarter of an hour.
SIZES = ("50,1,32,32", "1000,1,32,32", "100,1,256,256", "100,32,64,64")
LENGTHS = (100, 300, 1000)
GROWTH = (8, 32)  # B, H
# A state of n_hidden x n_hidden numbers for each row: what all steps keep would fill the memory.
MOST_NUMBERS = 3e8


@dataclasses.dataclass(frozen=True)
class TracedPoint:
    """One cell at one point.

    Args:
        size: ``T,B,N,H``.
        dtype: the dtype.
        form: the form that was the fastest.
        traced: seconds of the rule in each round.
        jax: of autodiff.
        again: of autodiff, timed as if it were another.
    """

    size: str
    dtype: str
    form: str
    traced: list[float]
    jax: list[float]
    again: list[float]


@dataclasses.dataclass(frozen=True)
class TracedCell:
    """One cell.

    Args:
        name: its class.
        reason: why there is no traced rule, or ``""``.
        points: the points.
        skipped: points that were left out, with the reason.
        lengths: the T of its growth.
        seconds: medians there.
        form: the form there.
        took: seconds for all of it.
    """

    name: str
    reason: str = ""
    points: Sequence[TracedPoint] = ()
    skipped: Sequence[str] = ()
    lengths: Sequence[int] = ()
    seconds: Sequence[float] = ()
    form: str = ""
    took: float = 0.0


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="write docs/evidence/traced-rules.md")
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds, at the least")
    parser.add_argument("--cells", nargs="+", default=[*GALLERY, *FRESH], metavar="NAME")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), metavar="T,B,N,H")
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--lengths", nargs="*", type=int, default=list(LENGTHS), metavar="T")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="the results; cells in it are not measured again")
    options = parser.parse_args(arguments)
    # NumPy and JAX count the cores when they are imported: nothing above may import them.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(options.cores)
    from benchmarks.common import DOCS
    from benchmarks.speed.traced_page import page
    from bpttcheck.bench.machine import environment, load_average

    keep: Path | None = options.keep
    if keep is not None and keep.exists():
        document = json.loads(keep.read_text())
    else:
        document = {"environment": environment(load_average()), "date": time.strftime("%Y-%m-%d"),
                    "rounds": options.rounds, "growth": GROWTH, "cells": {}}  # fmt: skip
    for name in options.cells:
        if name in document["cells"]:
            continue
        one = measured(name, options.sizes, options.dtypes, options.lengths, options.rounds)
        print(f"{name}: {one.took:.0f} s {one.reason}", flush=True)
        document["cells"][name] = dataclasses.asdict(one)
        if keep is not None:
            keep.write_text(json.dumps(document, indent=1) + "\n")
    text = page(document)
    print(text)
    if options.write:
        (DOCS / "traced-rules.md").write_text(text)


def cell_of(name: str) -> Any:
    """A cell by the name of its class."""
    if name not in GALLERY:
        from benchmarks import right_cells

        return next(cell for cell in right_cells.CELLS if cell.__name__ == name)()
    from bpttcheck.cli.targets import load

    return load(f"{ROOT / 'examples/gallery' / GALLERY[name]}.py:{name}").subject


def measured(
    name: str, sizes: Sequence[str], dtypes: Sequence[str], lengths: Sequence[int], count: int
) -> TracedCell:
    """Everything of one cell."""
    import jax
    import numpy as np

    from bpttcheck.jax_mode import enable_x64
    from bpttcheck.on_jax.function import with_rule
    from bpttcheck.on_jax.traced import forms_of
    from bpttcheck.subject.subject import Subject

    started = time.perf_counter()
    subject = Subject(cell_of(name))
    points: list[TracedPoint] = []
    skipped: list[str] = []
    seconds: list[float] = []
    chosen = ""
    with enable_x64(), jax.default_device(jax.devices("cpu")[0]), np.errstate(all="ignore"):
        forms, reason = forms_of(subject.target, with_rule)
        if forms is None:
            return TracedCell(name, reason, took=time.perf_counter() - started)
        for dtype in dtypes:
            for size in sizes:
                found = _point(subject, forms, size, dtype, count)
                skipped += [f"{size} {dtype}: {found}"] if isinstance(found, str) else []
                points += [] if isinstance(found, str) else [found]
        if lengths:
            chosen, seconds = _growth(subject, forms, dtypes[0], lengths, count)
    jax.clear_caches()
    return TracedCell(name, "", points, skipped, lengths, seconds, chosen,
                      time.perf_counter() - started)  # fmt: skip


def _problem(subject: Any, T: int, B: int, N: int, H: int, dtype: str) -> Any:
    from bpttcheck.problems.cases import build
    from bpttcheck.results.records import Case

    return build(subject, Case(0, 0, T, B, N, H, dtype, "none", "ordinary"))


def _prepared(problem: Any, function: Callable[..., Any]) -> Any:
    import jax

    from bpttcheck.bench import in_jax

    return in_jax.prepared(lambda p, xs, s: function(p, xs, s, None), problem, jax.jit)


def _point(subject: Any, forms: Any, size: str, dtype: str, count: int) -> TracedPoint | str:
    """The point, or why it was left out."""
    from bpttcheck import trees
    from bpttcheck.bench import correct, in_jax
    from bpttcheck.bench.measure import rounds

    T, B, N, H = map(int, size.split(","))
    problem = _problem(subject, T, B, N, H, dtype)
    kept = T * sum(leaf.size for leaf in trees.leaves(problem.state0))
    if kept > MOST_NUMBERS:
        return f"the states alone are {kept:.0e} numbers"
    autodiff = in_jax.plain(subject, problem)
    traced = _prepared(problem, lambda *given: forms.function(*given)(*given))
    blocks = traced.blocks(traced.run())
    form = list(forms.chosen.values())[-1]
    assert autodiff.at is not None
    block, error, limit = correct.right(autodiff.at, problem).worst(blocks)
    if error > limit:
        return f"{block} is off by {error:.2g} of its largest entry, allowed is {limit:.1g}"
    taken = rounds(
        {"traced": traced.run, "jax": autodiff.run, "again": autodiff.run}, count
    )  # fmt: skip
    return TracedPoint(size, dtype, form, *(taken[k].seconds for k in ("traced", "jax", "again")))


def _growth(
    subject: Any, forms: Any, dtype: str, lengths: Sequence[int], count: int
) -> tuple[str, list[float]]:
    """One form, that of the middle length, at all lengths: ``(form, seconds)``."""
    from benchmarks.speed.growth import repeated
    from bpttcheck.bench.measure import rounds
    from bpttcheck.bench.statistics import median

    B, H = GROWTH
    problems = {T: _problem(subject, T, B, H, H, dtype) for T in lengths}
    middle = problems[sorted(lengths)[len(lengths) // 2]]
    forms.function(middle.params, middle.xs, middle.state0, None)
    form = list(forms.chosen.values())[-1]
    runs = {T: _prepared(one, forms.functions[form]).run for T, one in problems.items()}
    calls = {T: max(lengths) // T for T in lengths}
    found = rounds({str(T): repeated(run, calls[T]) for T, run in runs.items()}, count)
    return form, [median(found[str(T)].seconds) / calls[T] for T in lengths]


if __name__ == "__main__":
    main()
