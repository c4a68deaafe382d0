"""The page about power: what was caught, at what price, and where a peer wins."""

from __future__ import annotations

from textwrap import fill
from typing import Any

from benchmarks.power import arms, tables
from benchmarks.power.arms import BEST, IDENTICAL
from benchmarks.power.bench import SMALLEST_IN_A_FAMILY
from benchmarks.power.ladder_of_checks import of_checks
from benchmarks.power.records import false_alarms, told_apart
from benchmarks.power.results import Results
from benchmarks.power.sentences import (
    asked,
    catalogue,
    cells,
    granted,
    ladder_sentence,
    missed,
    too_long,
)  # fmt: skip
from benchmarks.power.speech import speech
from benchmarks.power.winners import winners

WIDTH = 100
_PLAIN: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def page(r: Results) -> str:
    """The whole page in Markdown."""
    return _filled(_text(r))


def _text(r: Results) -> str:
    a = r.amounts
    return f"""# Power: planted bugs through bpttcheck and through its peers

Every checker sees the same planted bugs in the same cells, at the same arrays: {cells(r)}. This
page and its plots are written by `python -m benchmarks.power --write`; the peers come with
`pip install ".[peers]"`. The bugs are drawn by chance from `bpttcheck.mutants` ({catalogue(r)}),
family by family; factors nearer to one than {SMALLEST_IN_A_FAMILY:g} are left to the ladder. This
run took {r.seconds / 60:.0f} minutes on a machine with other work to do. Seeds are fixed; settings
are tuned on other inputs than those that are measured.

How to read the tables:

- `9/10 [60, 98]` is 9 of 10 and the 95 % Wilson interval in percent.
- A bug is **told apart** if the checker flags it and accepts the right code at the same inputs. A
  checker that flags everything tells nothing apart.
- An exception of any kind counts as a flag, for everybody.
- Only bugs that can show at the inputs at hand, by their own declaration, are planted; in the arm
  of equal evaluations every bug may be.
- One look is one gradient at the arrays given, for everybody. Bugs of the families `values`,
  `magnitudes`, `layouts`, `impure`, `aliasing` and `uninitialised` show at other values, in other
  layouts or in further calls: a look sees them by accident, if at all, and a peer that evaluates
  the code more often in one look sees more of them. The checks `purity` and `arguments`, and cases
  at other values, ask for those calls; they take part in the arm of equal evaluations.

{tables.who(r)}

## In short

{tables.in_short(r)}

{ladder_sentence(r)}

## Where a peer wins

{winners(r)}

## Arm 1: identical inputs, defaults

One look at one ordinary problem ({arms.fixed_size()}). Peers draw cotangents of their own.
bpttcheck is one case of `sequence_vjp`, without its other checks. Up to {a.mutants} bugs of each
family, cell and dtype; {a.inputs} problems with right code for each cell and dtype.

Right code flagged (false alarms), bugs flagged, bugs told apart:

{tables.overall(r, IDENTICAL)}

Told apart, by family. `(12 flagged)` follows where more were flagged than told apart.

{tables.by_family(r, IDENTICAL)}

![Told apart by family](power/families.svg)

## Arm 2: every peer at its best settings

Step and tolerance are tuned for each peer and dtype: for every step the smallest tolerance
(absolute and relative alike) at which {a.tuning} problems with right code, on seeds of their own,
are accepted; of these pairs the one that catches the smallest error. Then the same problems and
bugs as above. bpttcheck has nothing to set: its numbers are those of arm 1.

{tables.tuned(r)}

{tables.overall(r, BEST)}

{tables.by_family(r, BEST)}

## Arm 3: an equal number of forward evaluations

One whole check of {a.examples} cases in float64 (all named checks) takes {granted(r)} forward
evaluations: passes of the code under test, and of JAX's copies of it, noisy ones included. Every
peer gets as many, at its defaults, and stops at its first flag. *Fixed inputs*: ordinary problems
of one size, drawn again for each look. *Our strategies*: the very cases of the check, with their
sizes, lengths, masks, regimes and cotangents. What a peer flags more in the second than in the
first is what the generator gains. What lies between a peer's told apart in the second and
bpttcheck's is what the oracles and the laws gain: the inputs are the same. The bugs are drawn from
the whole catalogue, whether or not the inputs can show them: {a.budgets} for each cell, every
second family, so that two cells together have them all.

{tables.equal(r)}

![Equal evaluations](power/equal.svg)

{tables.equal_families(r)}

## Regimes

One look at one problem of each regime, with the problem's own cotangents for everybody (the peers
see the loss `<ys, d_ys> + <state_T, d_state>`), at the defaults. {too_long(r)}

False alarms: right code flagged.

{tables.by_regime(r, false_alarms)}

![False alarms by regime](power/regimes.svg)

Bugs told apart:

{tables.by_regime(r, told_apart)}

## The smallest error caught

One block of a right gradient times `1 + d`, ordinary problems, one look, {a.climbs} problems of
each cell and dtype; the blocks take turns, and d is found by bisection among three values a decade
from 1e-15 to 0.5. Smallest d that is caught in at least 90 % of the problems. A false alarm counts
as not caught: a checker that flags right code in more than 10 % of the problems has no such d.

{tables.ladder(r)}

![The smallest error caught](power/ladder.svg)

{of_checks(r.checks, a.checks)}

{asked(r)}

## What it costs, and what it says

{speech(r)}

## What bpttcheck missed

{missed(r)}

## What this comparison does not show

- All peers check any differentiable function; bpttcheck checks recurrent layers alone.
- The peers see the NumPy code through a wrapper of their own kind: `torch.autograd.Function`,
  `jax.custom_vjp` around `pure_callback`, an autograd `primitive`, a pytensor `Op`. JAX and
  pytensor keep no record between the passes, so theirs is made again: bugs of the record cannot
  show there.
- autograd has no argument for step and tolerance: its module's constants are set.
- Bugs that do not show at fixed inputs are no fault of a peer's oracle, and a user may vary inputs
  by hand. That is why there is a third arm.
- The bugs are this project's own catalogue. Others would choose others.

Measured with {r.environment}{"".join(f", {v}" for v in dict.fromkeys(r.peers.values()))}.
"""


def _filled(text: str) -> str:
    """The text with its paragraphs and items filled; tables, titles and pictures as they are."""
    parts: list[str] = []
    for block in text.split("\n\n"):
        if block.startswith("- "):
            items = block.removeprefix("- ").split("\n- ")
            lines = [fill(f"- {item}", WIDTH, subsequent_indent="  ", **_PLAIN) for item in items]
            parts.append("\n".join(lines))
        elif block.lstrip().startswith(("|", "#", "!")):
            parts.append(block)
        else:
            parts.append(fill(block, WIDTH, **_PLAIN))
    return "\n\n".join(parts) + "\n"
