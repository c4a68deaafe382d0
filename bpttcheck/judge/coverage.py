"""Which bugs a set of cases could not have shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck.judge.run import Run
from bpttcheck.problems.large import FIRST
from bpttcheck.problems.problem import GIVEN, NEAR_GIVEN
from bpttcheck.results.records import Case
from bpttcheck.signature import Signature
from bpttcheck.subject.filled import unfilled

_SHORT = 12

_BLIND_SPOTS: tuple[tuple[Callable[[Sequence[Case]], bool], str], ...] = (
    (lambda cases: all(c.B == 1 for c in cases), "B = 1 only: batch-reduction bugs cannot show"),
    (
        lambda cases: all(c.T == 1 for c in cases),
        "T = 1 only: bugs of the loop over time cannot show",
    ),
    (
        lambda cases: 1 < max(c.T for c in cases) <= _SHORT,
        "no long sequence: a truncation after more than {T} steps cannot show",
    ),
    (
        lambda cases: all(c.n_hidden == 1 for c in cases),
        "n_hidden = 1 only: transposed matrices cannot show",
    ),
    (
        lambda cases: not any(1 < c.n_in == c.n_hidden for c in cases),
        "n_in and n_hidden never coincide: what is transposed only where a matrix is square cannot "
        "show",
    ),
    (
        lambda cases: all(c.n_in == c.n_hidden for c in cases),
        "n_in = n_hidden only: sizes mixed up cannot show",
    ),
    (
        lambda cases: not any(c.regime == "large_cotangents" for c in cases),
        "no large cotangents: a clip that was left on cannot show",
    ),
    (
        lambda cases: not any(c.regime == "saturated" for c in cases),
        "no saturated units: bugs of saturation cannot show",
    ),
    (
        lambda cases: not any(c.regime in ("at_kinks", "near_kinks") for c in cases),
        "no value at a kink: a wrong branch there cannot show",
    ),
    (
        lambda cases: 1 < max(c.B for c in cases) < 8,
        "B <= {B} only: what begins at larger batches cannot show",
    ),
    (
        lambda cases: 1 < max(c.n_hidden for c in cases) < 32,
        "n_hidden <= {H} only: what begins at wider states (tiles of 32 or 64) cannot show",
    ),
    (
        lambda cases: _SHORT < max(c.T for c in cases) < 1000,
        "T <= {T} only: what begins at longer sequences cannot show",
    ),
    (
        lambda cases: not any(c.regime == "large_inputs" for c in cases),
        "no inputs beyond 5: thresholds on inputs cannot show",
    ),
    (
        lambda cases: not any(c.regime == "one_sign" for c in cases),
        "no cotangents of one sign: a sign test on cotangents cannot show",
    ),
    (
        lambda cases: not any(c.regime == "silent_outputs" for c in cases),
        "no output without a cotangent: a skipped step or row cannot show",
    ),
    (
        lambda cases: not any(c.regime in ("sparse_inputs", "tokens") for c in cases),
        "no zero rows and no one-hot inputs: what treats them as padding cannot show",
    ),
    (
        lambda cases: all(c.mask == "none" for c in cases),
        "no masks: a mask that is ignored cannot show",
    ),
    (
        lambda cases: all(c.dtype == "float64" for c in cases),
        "float64 only: what overflows in float32 cannot show",
    ),
    (
        lambda cases: all(c.dtype == "float32" for c in cases),
        "float32 only: relative errors below 1e-5 cannot show",
    ),
)


def hidden(cases: Sequence[Case], signature: Signature | None = None) -> tuple[str, ...]:
    """One sentence for each kind of bug that none of the cases could have shown.

    Args:
        cases: the judged cases of a run.
        signature: that of a function, which may lack an axis and has no masks.
    """
    if not cases:
        return ()
    if signature is not None:
        return _hidden_of_function(cases, signature)
    sizes = {
        "T": max(c.T for c in cases),
        "B": max(c.B for c in cases),
        "H": max(c.n_hidden for c in cases),
    }
    return tuple(text.format(**sizes) for blind, text in _BLIND_SPOTS if blind(cases))


_AXES = ("T", "B", "n_in", "n_hidden", "mask")


def _hidden_of_function(cases: Sequence[Case], signature: Signature) -> tuple[str, ...]:
    """Letters that had one size alone or small ones only, and what no value could show."""
    if all(case.regime == GIVEN for case in cases):
        return ("judged at the given arguments alone: what other sizes or values do cannot show",)
    if all(case.regime in (GIVEN, NEAR_GIVEN) for case in cases):
        return (
            "judged within 5 % of the given arguments: what other sizes or values do cannot show",
        )
    told: list[str] = []
    sizes = [dict(case.letters) for case in cases if case.letters]
    for letter in signature.letters if sizes else ():
        seen = {one[letter] for one in sizes}
        restricted = signature.allowed.get(letter)
        if len(seen) == 1 and restricted is None:
            told.append(f"{letter} = {min(seen)} only: what depends on {letter} cannot show")
        elif max(seen) < _SHORT and restricted is None:
            told.append(f"{letter} <= {max(seen)} only: what begins at larger sizes cannot show")
    values = [(blind, text) for blind, text in _BLIND_SPOTS
              if not any(re.search(rf"\b{axis}", text) for axis in _AXES)]  # fmt: skip
    return (*told, *(text for blind, text in values if blind(cases)))


@dataclass(frozen=True)
class Coverage:
    """What a run reached, and what it could not show.

    Args:
        larger: the sizes judged beyond those of the schedule, and by which check.
        lines: how many lines of the backward pass ran, and how many there are; None: not watched.
        unreached: the lines that no judged case ran, and what guards them.
        hidden: bugs that its cases could not have shown.
    """

    larger: tuple[str, ...]
    lines: tuple[int, int] | None
    unreached: tuple[str, ...]
    hidden: tuple[str, ...]


def covered(run: Run, cases: Sequence[Case]) -> Coverage:
    """What the judged cases of a run reached.

    Args:
        run: the run.
        cases: the judged cases of its gradient checks.
    """
    lines = run.code.lines
    unreached = run.code.unreached()
    share = lines.share() if lines.available else None
    return Coverage(_larger(run.judged), share, unreached, _hidden_of(run, cases, unreached))


def _hidden_of(run: Run, cases: Sequence[Case], unreached: Sequence[str]) -> tuple[str, ...]:
    """What the cases could not show: also sizes left out, lines, threads."""
    beyond = [case for name in run.judged for case in run.judged[name] if case.index >= FIRST]
    found = list(hidden([*cases, *beyond], run.subject.traits.signature))
    found += [f"lines that no judged case ran: {line}" for line in unreached]
    if not run.code.lines.available:
        found.append(f"lines of the backward pass were not watched: {run.code.lines.reason}")
    if run.untried:
        found.append(f"larger sizes left out, for they take too long: {_sizes(run.untried)}")
    of_functions = run.subject.traits.signature is not None
    if not of_functions and _keeps_buffers(unfilled(run.subject.target)):
        found.append(
            "it keeps arrays on the instance and ran in one thread: what two threads do to them "
            "cannot show"
        )
    return tuple(found)


def _larger(judged: Mapping[str, Sequence[Case]]) -> tuple[str, ...]:
    """The sizes judged beyond those of the schedule, and by which check.

    Args:
        judged: check's name -> its judged cases.
    """
    told: list[str] = []
    for name, axis in (("time_splitting", "T"), ("batch_additivity", "B")):
        sizes = sorted({getattr(c, axis) for c in judged.get(name, ()) if c.index >= FIRST})
        sizes = [size for size in sizes if size > 4]  # the others are wide
        if sizes:
            told.append(f"{axis} {sizes[0]}..{sizes[-1]} ({len(sizes)} sizes) by {name}")
    wide = {
        (c.n_in, c.n_hidden)
        for name in ("step_vjp", "sequence_vjp")
        for c in judged.get(name, ())
        if c.index >= FIRST
    }
    if wide:
        most = (max(n for n, _ in wide), max(n for _, n in wide))
        told.append(f"n_in x n_hidden up to {most[0]}x{most[1]} ({len(wide)} sizes) by differences")
    chained = {
        (c.n_in, c.n_hidden)
        for c in judged.get("time_splitting", ())
        if c.index >= FIRST and (c.n_in, c.n_hidden) in wide
    }
    if chained:
        told.append(f"{len(chained)} of these sizes over several steps by time_splitting")
    return tuple(told)


def _sizes(cases: Sequence[Case]) -> str:
    texts = dict.fromkeys(f"T={c.T} B={c.B} {c.n_in}x{c.n_hidden}" for c in cases)
    some = list(texts)[:6]
    return ", ".join(some) + (f" and {len(texts) - 6} more" if len(texts) > 6 else "")


def _keeps_buffers(target: Any) -> bool:
    held = getattr(target, "__dict__", {})
    kept = [v for v in held.values() if isinstance(v, (np.ndarray, list, dict))]
    return any(v.size > 1 if isinstance(v, np.ndarray) else bool(v) for v in kept)
