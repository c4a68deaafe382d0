"""Every changed source of a backward pass, by each of the operators, none twice."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bpttcheck.mutants.source import algebra, operators
from bpttcheck.mutants.source.expressions import text
from bpttcheck.mutants.source.operators import Site, SourceChange
from bpttcheck.mutants.source.scene import LocalsSnapshot
from bpttcheck.mutants.source.sites import context, replaced, sites

_LONGEST = 100


@dataclass(frozen=True)
class Edit:
    """A changed source.

    Args:
        tree: the whole function.
        line: where it was changed, in the file.
        title: what was changed and in what, without the line; not unique.
        sentence: the wrong line and the right one.
        diagnosis: the code that the change implies, or ``""``.
        least_B: the smallest batch that shows it.
        reached: False if the right function did not reach the place.
    """

    tree: ast.FunctionDef
    line: int
    title: str
    sentence: str
    diagnosis: str
    least_B: int
    reached: bool


def edits(tree: ast.FunctionDef, scenes: Mapping[int, LocalsSnapshot]) -> Iterator[Edit]:
    """Every edit of ``tree``, in the order of the source; no two of them read alike.

    Args:
        tree: the function.
        scenes: the locals at each statement that was reached, by the statement's ``id``.
    """
    seen: set[tuple[int, str]] = set()
    for site in sites(tree, scenes):
        for operator in OPERATORS:
            for change in operator.changes(site):
                edit, where = _edit(site, change)
                if edit is not None and where not in seen:
                    seen.add(where)
                    yield edit


def numbered(found: list[Edit]) -> list[str]:
    """The unique name of each edit, such as ``"line 7: i -> f in `d_g = d_c * i`"``."""
    total = Counter((edit.line, edit.title) for edit in found)
    count: Counter[tuple[int, str]] = Counter()
    names: list[str] = []
    for edit in found:
        key = (edit.line, edit.title)
        count[key] += 1
        which = f" ({count[key]})" if total[key] > 1 else ""
        names.append(f"line {edit.line}{which}: {edit.title}")
    return names


def _edit(site: Site, change: SourceChange) -> tuple[Edit | None, tuple[int, str]]:
    """The edit, None if its text is unchanged; and a key that must be unique."""
    path, node = site.path, site.node
    new = ast.Pass() if change.new is None else change.new
    ast.fix_missing_locations(ast.copy_location(new, node))
    shown, prefix = context(path)
    wrong = replaced(path[shown:], new)
    before, after = prefix + text(path[shown]), prefix + text(wrong)
    where = (id(path[shown]), after)
    if before == after:
        return None, where
    tree = replaced(path[: shown + 1], wrong)
    assert isinstance(tree, ast.FunctionDef)
    sentence = f"`{after}`, where `{before}` is right"
    if change.new is None:
        sentence = f"`{before}` is missing"
    line = int(getattr(node, "lineno", 0))
    edit = Edit(
        tree, line, f"{_short(change.label)} in `{_short(before)}`", sentence,
        change.diagnosis, change.least_B, bool(site.scene.values),
    )  # fmt: skip
    return edit, where


def _short(words: str) -> str:
    return words if len(words) <= _LONGEST else words[: _LONGEST - 3] + "..."


# Of two operators with the same result the first counts: it knows the diagnosis.
OPERATORS = (
    algebra.other_derivative,
    algebra.drop_power,
    algebra.drop_factor,
    algebra.drop_activation,
    algebra.change_constant,
    algebra.drop_term,
    algebra.flip_sign,
    algebra.negate_value,
    algebra.drop_minus,
    algebra.change_update,
    algebra.drop_reassignment,
    algebra.drop_transpose,
    algebra.move_transpose,
    algebra.add_transpose,
    algebra.swap_operands,
    algebra.reduce_otherwise,
    operators.swap_values,
    operators.swap_blocks,
    operators.swap_targets,
    operators.swap_returned,
    operators.other_name,
    operators.earlier_name,
)
