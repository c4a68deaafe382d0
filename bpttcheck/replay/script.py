"""A failure as one Python file that needs only NumPy and the user's cell."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpttcheck import trees
from bpttcheck.contract import is_float
from bpttcheck.problems.problem import Problem
from bpttcheck.replay import templates as parts
from bpttcheck.replay.literal import literal
from bpttcheck.replay.record import Stored
from bpttcheck.replay.twice import TWICE
from bpttcheck.results.records import Finding, Measured
from bpttcheck.verify.checks import CHECKS

MOST_NUMBERS = 100_000
"""More numbers than this make no file to read: then there is none."""


@dataclass(frozen=True)
class _Number:
    """Where the number at fault stands.

    Args:
        block: the script's name for the block: ``"d_params['W']"``, ``"d_state0[1]"``, ...
        moved: the script's name for what the block is the gradient of.
        entry: its index; None: the script looks for the worst.
    """

    block: str
    moved: str
    entry: tuple[int, ...] | None


def script(stored: Stored, problem: Problem, directory: Path) -> str | None:
    """The text of the script, or None where there is nothing that such a file could show.

    Args:
        stored: the failure.
        problem: its problem, with the cell's own containers in its states.
        directory: where the script will lie.
    """
    finding = stored.finding
    compared = CHECKS[finding.check].replayed_twice
    if compared == "layouts":
        return None  # one array stored is one layout: the script could only show that it is right
    if compared == "calls":
        ending = TWICE.substitute(title=repr(_title(stored)))
    else:
        found = _place(finding, problem)
        if found is None:
            return None
        problem, number = found
        ending = _comparison(stored, number, problem)
    if _count(problem) > MOST_NUMBERS:
        return None
    head = parts.HEAD.substitute(
        title=_title(stored), message=_line(finding.message), version=stored.version,
        id=stored.id, cell=_cell(stored, directory), data=_data(problem),
    )  # fmt: skip
    return head + _walk(finding, problem) + ending


def _place(finding: Finding, problem: Problem) -> tuple[Problem, _Number] | None:
    """The run in which the finding's number is met, and where; a law may have changed the run."""
    block, entry = finding.block, finding.entry
    law = CHECKS[finding.check].law
    if law is not None:
        problem, block, entry = law.place(problem, block, entry)
    number = _number(problem, block, entry)
    return None if number is None else (problem, number)


def _number(problem: Problem, block: str, entry: tuple[int, ...] | None) -> _Number | None:
    for key in problem.params:
        if block == f"d_params[{key!r}]":
            return _Number(block, f"moved_params[{key!r}]", entry)
    for i, path in enumerate(trees.structure(problem.state0).paths):
        if block in (f"d_state0{path}", f"d_previous_state{path}"):
            return _Number(f"d_state0[{i}]", f"moved_state0[{i}]", entry)
    if block == "d_xs":
        return _Number("d_xs", "moved_xs", entry)
    if block == "d_x":
        return _Number("d_xs", "moved_xs", None if entry is None else (0, *entry))
    return None  # an output: there is no gradient to show


def _comparison(stored: Stored, number: _Number, problem: Problem) -> str:
    """The ending that sets the number beside what it should be."""
    finding, named = stored.finding, number.entry is not None
    initial = finding.check == "initial_state"
    text = parts.INITIAL_TERMS if initial else parts.RUN + _terms(problem)
    text += parts.DIFFERENCES.substitute(moved=number.moved)
    if not named:
        text += parts.SEARCH.substitute(block=number.block)
    text += parts.VALUE.substitute(
        entry=repr(number.entry) if named else "ENTRY",
        block=number.block,
        title=repr(_title(stored)),
    )
    jax, other = _finite(finding.jax), _finite(finding.comparison)
    if jax is not None and named:
        allowed = repr((finding.limit or 1.0) * jax.error)
        text += parts.JAX.substitute(value=repr(jax.value), allowed=allowed)
        return text + parts.SERIES + parts.BY_JAX
    if other is not None and named:
        text += parts.OTHER_SIDE.substitute(value=repr(other.value))
    return text + parts.SERIES + parts.BY_DIFFERENCES


def _finite(side: Measured | None) -> Measured | None:
    """A value that can be written as a literal, or None."""
    fine = side is not None and math.isfinite(side.value) and math.isfinite(side.error)
    return side if fine else None


def _terms(problem: Problem) -> str:
    masked = "(d_ys * mask[:, :, None])"
    return parts.TERMS.replace("$d_ys", "d_ys" if problem.mask is None else masked)


def _walk(finding: Finding, problem: Problem) -> str:
    """The loops forward and back."""
    if finding.method in ("forward", "vjp"):
        return parts.LAYER.substitute(mask="" if problem.mask is None else ", mask")
    carried = "leaves(d_new, LIKE)" if problem.mask is None else "d_new"
    if not all(is_float(leaf) for leaf in trees.leaves(problem.state0)):
        # Carried integers have no gradient, whatever step_vjp returns for them.
        zero = "np.zeros(a.shape, xs.dtype)"
        pairs = f"zip(state0, {carried}, strict=True)"
        carried = f'[d if a.dtype.kind == "f" else {zero} for a, d in {pairs}]'
    return (parts.CELL if problem.mask is None else parts.MASKED_CELL).substitute(carried=carried)


def _data(problem: Problem) -> str:
    """The problem's arrays as literals."""
    d_state = trees.map_leaves(lambda _, leaf: leaf, problem.state0, problem.d_state)
    params = [f"    {key!r}: {literal(value, 4)},\n" for key, value in problem.params.items()]
    lines = [
        "params = {\n" + "".join(params) + "}",
        f"xs = {literal(problem.xs)}  # (T, B, n_in)",
        f"state0 = {_list(trees.leaves(problem.state0))}  # the arrays of the initial state",
        f"d_ys = {literal(problem.d_ys)}  # dL/dys",
        f"d_state = {_list(trees.leaves(d_state))}  # dL/d of the final state",
    ]
    if problem.mask is not None:
        lines.append(f"mask = {literal(problem.mask)}  # true where the step is real")
    return "\n".join(lines)


def _list(arrays: list[Any]) -> str:
    return "[\n" + "".join(f"    {literal(array, 4)},\n" for array in arrays) + "]"


def _count(problem: Problem) -> int:
    leaves = [*problem.params.values(), problem.xs, problem.d_ys, *trees.leaves(problem.state0)]
    return sum(leaf.size for leaf in leaves)


def _cell(stored: Stored, directory: Path) -> str:
    """The lines that make the cell from the target that was typed, or leave it to the reader."""
    target = stored.target or ""
    place, colon, path = target.rpartition(":")
    if target and not colon:
        return f"from bpttcheck.cells import builtin\n\ncell = builtin({target!r})"
    folder, module = Path(), place
    if place.endswith(".py"):
        folder, module = Path(place).parent, Path(place).stem
    names = [*path.split("."), *module.split(".")]
    if not target or not all(name.isidentifier() for name in names):
        return _FILL_IN.replace("NAME", ascii(stored.subject))
    first = path.partition(".")[0]
    lines = [
        f"sys.path.insert(0, {_folder(folder, directory)})",
        f"from {module} import {first}",
        "",
        f"cell = {path}",
        'if isinstance(cell, type) or (callable(cell) and not hasattr(cell, "init")):',
        "    cell = cell()  # a class, or a function that makes the cell",
        'if not hasattr(cell, "init"):',
        "    cell = cell.target  # a bpttcheck.Subject",
    ]
    return "\n".join(lines)


_FILL_IN = """\
cell = None  # FILL IN: make the cell that was checked as NAME
if cell is None:
    print("fill in the line that makes the cell, at the top of", __file__, file=sys.stderr)
    sys.exit(2)"""


def _folder(folder: Path, directory: Path) -> str:
    """The user's folder as seen from the script, so that the project may be moved."""
    try:
        way = Path(os.path.relpath(folder.resolve(), directory.resolve())).as_posix()
    except ValueError:  # another drive
        return repr(str(folder.resolve()))
    return f"str(Path(__file__).resolve().parent / {way!r})"


def _title(stored: Stored) -> str:
    finding = stored.finding
    parts_of_it = (finding.block, f"of {_line(stored.subject)}", f"({finding.check})")
    return _line(" ".join(part for part in parts_of_it if part))


def _line(text: str) -> str:
    """One line of a comment: whatever could end it is a blank."""
    return " ".join(text.split())
