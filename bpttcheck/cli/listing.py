"""``bpttcheck list`` and ``bpttcheck explain``: the names that exist and their meaning."""

from __future__ import annotations

import dataclasses
import inspect
import json
import textwrap
from typing import Any

import click

from bpttcheck.cli.terminal import columns
from bpttcheck.config import near

# What a report prints: each word and what it means.
_WORDS = {
    "largest": (
        "largest error 1.3 error bars: in units of the width that rounding explains. Beyond "
        "32 bars rounding cannot have produced it, and the gradient is wrong."
    ),
    "limit": (
        "32: how many error bars a gradient may be off. It was measured once on right code "
        "(docs/evidence/calibration.md); no check, cell or test has one of its own."
    ),
    "visible": (
        "visible from 4e-14: the relative error that half of the cases would have caught, in the "
        "block that shows least. Measured in this run, for this code."
    ),
    "hides": (
        "rounding hides a block in a case whose error bar is as large as the gradient itself: the "
        "case is blind there, and counts as not judged."
    ),
    "blind": (
        "A case whose error bar is as large as the gradient itself proves nothing about that "
        "block: it is blind there, and counts as not judged."
    ),
    "cases": (
        "A case is one problem: sizes, parameters, inputs, state and cotangents drawn from "
        "the seed."
    ),
    "covered": (
        "What the judged cases had: T, B and widths, dtypes, regimes, masks, lines of the "
        "backward pass. A case that was skipped, rejected or blind counts nowhere."
    ),
    "could-not-show": (
        "Bugs that no case of this run could have shown, with the condition that is missing."
    ),
    "remark": (
        "Behaviour that does not make the gradient wrong: a dtype that changes, T = 0 "
        "rejected, a gradient that is None. --strict makes remarks failures."
    ),
    "block": (
        "One gradient: d_xs, d_state0, d_params['W'], or in one step d_x, d_previous_state. "
        "What is wrong is named by its block."
    ),
    "bar": (
        "0.5 ± 1e-16: the error bar of an oracle. JAX's is what rounding does to the program, "
        "measured by noise in each of its operations; that of the differences is their own "
        "estimate."
    ),
    "hand": "What the code that is checked returned.",
    "jax": (
        "The gradient by JAX autodiff of the code's own forward pass; with each number its "
        "error bar."
    ),
    "differences": (
        "The gradient by finite differences of the forward pass, several steps, with an error bar."
    ),
    "law": (
        "A relation between runs of the backward pass that holds for any right one: linear in "
        "the cotangents, a batch is the sum of its rows, two halves give the whole."
    ),
    "contradict": ("JAX and the differences disagree beyond their bars: the case decides nothing."),
    "declined": (
        "JAX could not trace the code, for the reason given; the differences decided alone."
    ),
    "inconclusive": "Too little could be judged, or something in bpttcheck broke; exit code 3.",
    "shrunk": "The case was made as small as it still fails: fewer steps, rows and units.",
    "kinks": (
        "Points at which a derivative jumps, such as relu at 0. There every slope between the "
        "two sides is accepted, and the differences abstain."
    ),
    "lengths": "A mask: rows of different lengths, padded on the right.",
    "holes": "A mask: steps that are left out in the middle.",
    "empty_rows": "A mask: rows without any real step.",
    "none": "A mask: every step is real.",
    "seed": "Case i is a function of (seed, i) alone: the same seed gives the same cases.",
    "internal-error": (
        "An error of bpttcheck itself, not of the code that it checks: please report it."
    ),
}


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
def listing(as_json: bool) -> None:
    """List the built-in cells, the checks and the activations."""
    from bpttcheck.activations import ACTIVATIONS
    from bpttcheck.cells import BUILTINS
    from bpttcheck.verify.checks import CHECKS

    groups = {
        "cells": {name: _cell(make()) for name, make in BUILTINS.items()},
        "checks": {name: _opening(check.text) for name, check in CHECKS.items()},
        "activations": {name: _about(activation) for name, activation in ACTIVATIONS.items()},
    }
    if as_json:
        click.echo(json.dumps(groups, indent=2))
        return
    titles = {
        "cells": "cells (bpttcheck verify NAME)",
        "checks": "checks (bpttcheck explain NAME)",
        "activations": "activations (bpttcheck verify elman[NAME])",
    }
    for kind, entries in groups.items():
        click.echo(titles[kind])
        width = max(map(len, entries))
        for name, line in entries.items():
            start = f"  {name:<{width}}  "
            for part in textwrap.wrap(line, columns() - len(start)):
                click.echo(start + part)
                start = " " * len(start)
        click.echo()


def _cell(cell: Any) -> str:
    """The first line of the class's docstring, and this cell's options that are not defaults."""
    options = dataclasses.fields(cell) if dataclasses.is_dataclass(cell) else ()
    values = {option.name: getattr(cell, option.name) for option in options}
    unusual = [f"{o.name}={values[o.name]!r}" for o in options if values[o.name] != o.default]
    return _first_line(type(cell)) + (f" ({', '.join(unusual)})" if unusual else "")


def _first_line(thing: Any) -> str:
    return _opening(inspect.getdoc(thing) or "")


def _opening(text: str) -> str:
    return text.partition("\n")[0].replace("``", "")


def _about(activation: Any) -> str:
    kinks = ", ".join(f"{kink:g}" for kink in activation.kinks)
    return f"steepest slope {activation.lipschitz:.4g}" + (f", kinks at {kinks}" if kinks else "")


@click.command()
@click.argument("name", nargs=-1, required=True)
def explain(name: tuple[str, ...]) -> None:
    """Print what NAME means: a check, a diagnosis, a regime, or a word of a report."""
    asked, pages = " ".join(name), _pages()
    word = asked if asked in pages else asked.lower().replace(" ", "-")
    if word not in pages:
        hint = near(word, pages) or f" (known: {', '.join(pages)})"
        raise click.UsageError(f"nothing is called {asked!r}{hint}")
    click.echo(pages[word].replace("``", "`"))


def _pages() -> dict[str, str]:
    """Every name that can be explained and its page; a check outweighs a diagnosis, that a word."""
    from bpttcheck import diagnose
    from bpttcheck.verify.checks import CHECKS

    pages = {name: check.text for name, check in CHECKS.items()}
    return {**_words(), **diagnose.PAGES, **pages}


def _words() -> dict[str, str]:
    """Every word and its meaning; regimes have theirs where they are drawn."""
    from bpttcheck.problems.problem import REGIMES, REGIMES_OF_FUNCTIONS

    every = REGIMES | REGIMES_OF_FUNCTIONS
    regimes = {name: f"A regime of cases: {text}." for name, text in every.items()}
    return {word: textwrap.fill(text, 96) for word, text in {**_WORDS, **regimes}.items()}
