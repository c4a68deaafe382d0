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
        raise click.UsageError(
            f"nothing is called {asked!r}{near(word, pages)} (known: {', '.join(pages)})"
        )
    click.echo(pages[word].replace("``", "`"))


def _pages() -> dict[str, str]:
    """Every name that can be explained and its page; a check outweighs a diagnosis, that a word."""
    from bpttcheck import diagnose
    from bpttcheck.cli.glossary import words
    from bpttcheck.verify.checks import CHECKS

    pages = {name: check.text for name, check in CHECKS.items()}
    return {**words(), **diagnose.PAGES, **pages}
