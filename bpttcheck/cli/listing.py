"""``bpttcheck list``: the built-in cells, the checks and the activations, one line each."""

from __future__ import annotations

import inspect
import json
from typing import Any

import click


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
def listing(as_json: bool) -> None:
    """List the built-in cells, the checks and the activations."""
    from bpttcheck.activations import ACTIVATIONS
    from bpttcheck.cells import BUILTINS
    from bpttcheck.verify.checks import CHECKS

    rooms = {
        "cells": {name: _first_line(type(make())) for name, make in BUILTINS.items()},
        "checks": {name: _first_line(check) for name, check in CHECKS.items()},
        "activations": {name: _about(activation) for name, activation in ACTIVATIONS.items()},
    }
    if as_json:
        click.echo(json.dumps(rooms, indent=2))
        return
    titles = {
        "cells": "cells (bpttcheck verify NAME)",
        "checks": "checks (bpttcheck explain NAME)",
        "activations": "activations (bpttcheck verify elman[NAME])",
    }
    for room, entries in rooms.items():
        click.echo(titles[room])
        width = max(map(len, entries))
        for name, line in entries.items():
            click.echo(f"  {name:<{width}}  {line}".rstrip())
        click.echo()


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0].replace("``", "")


def _about(activation: Any) -> str:
    kinks = ", ".join(f"{kink:g}" for kink in activation.kinks)
    return f"steepest slope {activation.lipschitz:.4g}" + (f", kinks at {kinks}" if kinks else "")
