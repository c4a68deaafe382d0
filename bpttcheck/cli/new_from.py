"""The test of functions that exist, as ``bpttcheck new --from`` writes it."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from bpttcheck.cli.guess import Guess, guess
from bpttcheck.cli.targets import load_functions
from bpttcheck.errors import ContractError

_WIDTH = 96

_TEST = Template('''\
"""Checks the gradients of $name: one test for each check."""

from $module import $imported

from bpttcheck import adapt, parametrize_with_checks

# Proposed by `bpttcheck new`, to be read once. A letter is a size:
$remarks
SIGNATURE = $signature


SUBJECT = $call


@parametrize_with_checks([SUBJECT])
def test_gradients(subject, check):
    check(subject)
''')


def test_of(target: str, at: str | None) -> tuple[Path, str, list[str]]:
    """The test of one or two functions.

    Args:
        target: ``"file.py:loss"`` or ``"file.py:forward+backward"``.
        at: the name of an ``.npz`` file of arguments by name, or None.

    Returns:
        Where it belongs, its text, and what was guessed in it.

    Raises:
        ContractError: the functions cannot be loaded, or nothing can be proposed for them.
    """
    module, names, functions = load_functions(target)
    place = target.rpartition(":")[0]
    found = guess(functions[0], _arguments(module, at), is_pair=len(functions) == 2)
    name = names[0].rpartition(".")[2]
    folder = Path(place).parent if place.endswith(".py") else Path()
    text = _TEST.substitute(
        name=name,
        module=Path(place).stem if place.endswith(".py") else place,
        imported=", ".join(sorted({one.partition(".")[0] for one in names})),
        remarks="\n".join(map(_comment, found.remarks)),
        signature=_literal(found.signature),
        call=_call(names, found),
    )
    return folder / f"test_{name}.py", text, found.remarks


def _arguments(module: Any, at: str | None) -> Any:
    """Arguments that were seen: in a file, or in the module itself; None: none."""
    if at is not None:
        try:
            with np.load(at, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        except (OSError, ValueError) as error:
            raise ContractError(f"{at} is no .npz file of arrays: {error}", item="at") from None
    example = getattr(module, "example", None)
    if callable(example):
        return example()
    found = getattr(module, "args", None)
    return found if isinstance(found, (tuple, dict)) else None


def _call(names: list[str], found: Guess) -> str:
    if len(names) == 2:
        return f"adapt.from_vjp({names[0]}, {names[1]}, SIGNATURE)"
    returns = f", returns={found.returns!r}" if found.returns else ""
    call = f"adapt.from_grad({names[0]}, SIGNATURE{returns})".replace("'", '"')
    inner = call.removeprefix("adapt.from_grad(").removesuffix(")")
    return call if len(call) < _WIDTH - 10 else f"adapt.from_grad(\n    {inner},\n)"


def _comment(remark: str) -> str:
    return textwrap.fill(remark, _WIDTH, initial_indent="# - ", subsequent_indent="#   ")


def _literal(text: str) -> str:
    """A text as a string literal, or as several in lines that are broken between words."""
    kept = re.sub("(?<![,>]) ", "\0", text)  # an item stays in one line
    rows = textwrap.wrap(kept, _WIDTH - 8, break_long_words=False, break_on_hyphens=False)
    rows = [row.replace("\0", " ") for row in rows]
    rows = [f"{row} " for row in rows[:-1]] + rows[-1:]
    quoted = ['"' + row.replace("\\", "\\\\").replace('"', '\\"') + '"' for row in rows]
    return quoted[0] if len(quoted) == 1 else "(\n" + "".join(f"    {r}\n" for r in quoted) + ")"
