"""A stored failure as a script that needs NumPy alone."""

from __future__ import annotations

import math
import os
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck import trees
from bpttcheck.blocks import D_X, D_XS, Block, d_param, d_state0, of_state
from bpttcheck.contract import is_float
from bpttcheck.problems.problem import Problem
from bpttcheck.replay.problem import SerializedProblem, Shape, items
from bpttcheck.replay.record import Stored
from bpttcheck.results.records import Case, Finding, Measured
from bpttcheck.verify.checks import CHECKS

HEAD = Template('''\
# $title
# $message
#
# A failure stored by bpttcheck $version as
# $id.
# This file needs NumPy and the cell alone. It is rewritten when the failure is met again: copy
# it before you change it.

import sys
from pathlib import Path

import numpy as np

$cell

$data


def leaves(tree, like):
    """The arrays of a state, in the order of the cell's own initial state."""
    if hasattr(like, "keys"):
        return [leaf for key in like for leaf in leaves(tree[key], like[key])]
    if isinstance(like, tuple):
        return [leaf for a, b in zip(tree, like, strict=True) for leaf in leaves(a, b)]
    return [np.asarray(tree)]


def build(arrays, like):
    """The arrays in the containers of the cell's own initial state."""
    arrays = iter(arrays)

    def make(like):
        if hasattr(like, "keys"):
            return {key: make(like[key]) for key in like}
        if isinstance(like, tuple):
            items = [make(item) for item in like]
            return type(like)(*items) if hasattr(like, "_fields") else tuple(items)
        return next(arrays)

    return make(like)


LIKE = cell.initial_state(params, xs.shape[1])

''')

CELL = Template('''
def forward(params, xs, state):
    """All steps: the outputs, the arrays of the final state, what each step keeps."""
    ys, caches = [], []
    for x in xs:
        new, y, cache = cell.step(params, build(state, LIKE), x)
        state = leaves(new, LIKE)
        ys.append(y)
        caches.append(cache)
    return ys, state, caches


def backward(params, caches, d_ys, d_state):
    """All steps back: d_params, the arrays of d_state0, d_xs."""
    d_params = {key: np.zeros_like(value) for key, value in params.items()}
    d_xs = np.zeros_like(xs)
    for t in reversed(range(len(xs))):
        share, d_new, d_xs[t] = cell.step_vjp(params, caches[t], build(d_state, LIKE), d_ys[t])
        d_state = $carried
        for key in params:
            d_params[key] += share[key]
    return d_params, d_state, d_xs
''')

MASKED_CELL = Template('''
def put(old, rows, new):
    """A copy of an array with new rows."""
    out = old.astype(np.result_type(old, new))
    out[rows] = new
    return out


def forward(params, xs, state):
    """All steps, each for its real rows only: outputs, the final state, what each step keeps."""
    ys, caches = [], []
    for x, real in zip(xs, mask, strict=True):
        rows = np.flatnonzero(real)
        y, cache = np.zeros(d_ys.shape[1:], x.dtype), None
        if len(rows):
            some = build([leaf[rows] for leaf in state], LIKE)
            new, y_rows, cache = cell.step(params, some, x[rows])
            state = [put(a, rows, b) for a, b in zip(state, leaves(new, LIKE), strict=True)]
            y = put(y, rows, y_rows)
        ys.append(y)
        caches.append(cache)
    return ys, state, caches


def backward(params, caches, d_ys, d_state):
    """All steps back: d_params, the arrays of d_state0, d_xs."""
    d_params = {key: np.zeros_like(value) for key, value in params.items()}
    d_xs = np.zeros_like(xs)
    for t in reversed(range(len(xs))):
        rows = np.flatnonzero(mask[t])
        if not len(rows):
            continue
        some = build([leaf[rows] for leaf in d_state], LIKE)
        share, d_rows, d_xs[t, rows] = cell.step_vjp(params, caches[t], some, d_ys[t, rows])
        d_new = [put(a, rows, b) for a, b in zip(d_state, leaves(d_rows, LIKE), strict=True)]
        d_state = $carried
        for key in params:
            d_params[key] += share[key]
    return d_params, d_state, d_xs
''')

LAYER = Template('''
def forward(params, xs, state):
    """All steps: the outputs, the arrays of the final state, the tape."""
    ys, state, tape = cell.forward(params, xs, build(state, LIKE)$mask)
    return list(ys), leaves(state, LIKE), tape


def backward(params, tape, d_ys, d_state):
    """All steps back: d_params, the arrays of d_state0, d_xs."""
    d_params, d_xs, d_state0 = cell.vjp(params, tape, d_ys, build(d_state, LIKE))
    return d_params, leaves(d_state0, LIKE), d_xs
''')

RUN = """

ys, state_T, kept = forward(params, xs, state0)
d_params, d_state0, d_xs = backward(params, kept, d_ys, d_state)
"""

TERMS = '''

def terms(params, xs, state0):
    """What the loss weighs: the outputs and the floating arrays of the final state."""
    ys, state_T, _ = forward(params, xs, state0)
    return [*ys, *(b for a, b in zip(state0, state_T, strict=True) if a.dtype.kind == "f")]


weights = [*$d_ys, *(w for a, w in zip(state0, d_state, strict=True) if a.dtype.kind == "f")]
'''

INITIAL_TERMS = '''

def terms(params, xs, state0):
    """What the loss weighs: the floating arrays of the initial state."""
    first = leaves(cell.initial_state(params, xs.shape[1]), LIKE)
    return [leaf for leaf in first if leaf.dtype.kind == "f"]


weights = [w for a, w in zip(state0, d_state, strict=True) if a.dtype.kind == "f"]
d_params = cell.initial_state_vjp(params, build(d_state, LIKE))
'''

DIFFERENCES = Template('''

def double(values):
    """A copy in float64."""
    if isinstance(values, dict):
        return {key: double(value) for key, value in values.items()}
    if isinstance(values, list):
        return [double(value) for value in values]
    return values.astype(float) if values.dtype.kind == "f" else values.copy()


def difference(entry, h):
    """(L(+h) - L(-h)) / 2h, where L is the sum of all weights times terms."""
    sides = []
    for sign in (1, -1):
        moved_params, moved_xs, moved_state0 = double([params, xs, state0])
        $moved[entry] += sign * h
        sides.append(terms(moved_params, moved_xs, moved_state0))
    pairs = zip(*sides, weights, strict=True)
    return sum(float(((a - b) * w).sum()) for a, b, w in pairs) / (2 * h)

''')

SEARCH = Template("""
block = np.asarray($block, float)
ENTRY = max(np.ndindex(block.shape), key=lambda entry: abs(block[entry] - difference(entry, 1e-5)))
""")

VALUE = Template("""
ENTRY = $entry
hand = float(np.asarray($block)[ENTRY])
print($title)
print(f"entry {ENTRY}")
print(f"hand         {hand: .17g}")
""")

JAX = Template("""\
JAX, ALLOWED = $value, $allowed  # as stored
print(f"JAX          {JAX: .17g}   as stored, give or take {ALLOWED:.1e}")
""")

OTHER_SIDE = Template("""\
print(f"other side   {$value: .17g}   of the law, as stored")
""")

SERIES = '''\
series = {h: difference(ENTRY, h) for h in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)}
for h, value in series.items():
    print(f"differences  {value: .17g}   h={h:.0e}, hand is {abs(hand - value):.1e} away")


def near(number):
    """No further from the differences than they are from each other, and than 1e-4 of them."""
    low, value, high = sorted(series[h] for h in (1e-4, 1e-5, 1e-6))
    return abs(number - value) <= high - low + 1e-4 * abs(value)


'''

BY_JAX = """\
right = abs(hand - JAX) <= ALLOWED
if not near(JAX):
    print("the differences decide: the forward pass has changed since, or is not smooth here")
    right = near(hand)
print("right now" if right else "still wrong")
sys.exit(0 if right else 1)
"""

BY_DIFFERENCES = """\
right = near(hand)
print("right now, as far as differences can see" if right else "still wrong")
sys.exit(0 if right else 1)
"""


TWICE = Template('''

def flat(values):
    """Every array in nested dicts and lists, by a name."""
    if isinstance(values, dict):
        return {f"{k} {name}": a for k, v in values.items() for name, a in flat(v).items()}
    if isinstance(values, (list, tuple)):
        return {f"{i} {name}": a for i, v in enumerate(values) for name, a in flat(v).items()}
    return {"": np.asarray(values).copy()}


def copy(values):
    """The same with arrays of its own."""
    if isinstance(values, dict):
        return {key: copy(value) for key, value in values.items()}
    return [copy(v) for v in values] if isinstance(values, list) else values.copy()


def changed(what, before, after):
    """Print the names of the arrays that are not bit by bit the same."""
    one, two = flat(before), flat(after)
    names = [n for n in one if n not in two or one[n].tobytes() != two[n].tobytes()]
    for name in names:
        print(f"{what}: {name}")
    return bool(names)


def once():
    """Forward, backward, and backward again over what the same forward pass kept."""
    given = {"params": params, "xs": xs, "state0": state0, "d_ys": d_ys, "d_state": d_state}
    mine = copy(given)
    ys, state_T, kept = forward(mine["params"], mine["xs"], mine["state0"])
    results = {"ys": copy(ys), "state_T": copy(state_T)}
    spoilt = False
    for name in ("first", "second"):
        back = backward(mine["params"], kept, mine["d_ys"], mine["d_state"])
        results[name] = dict(zip(("d_params", "d_state0", "d_xs"), map(copy, back), strict=True))
        spoilt |= changed("overwritten", given, mine)
    return results, spoilt


print($title)
one, spoilt = once()
two, _ = once()
wrong = changed("another result in a second run", one, two) | spoilt
wrong |= changed("another gradient from the same tape", one["first"], one["second"])
if not wrong:
    print("two runs agree bit by bit: what else was found, a replay tells")
print("still wrong" if wrong else "right now, as far as this file can see")
sys.exit(1 if wrong else 0)
''')


Array = NDArray[Any]

_WIDTH = 96
_STEP = "    "
_CALL = 30  # columns for `name=np.array(` and `, np.float32),`


def literal(array: Array, indent: int = 0) -> str:
    """``np.array([[0.5, -1.25]])``; lines after the first are indented by so many columns."""
    name = array.dtype.name
    if array.size == 0:
        return f"np.zeros({array.shape}, np.{name})"
    kind = "" if name in ("float64", "bool") else f", np.{'bool' if name == 'bool' else name}"
    return f"np.array({_nested(array, indent, _CALL)}{kind})"


def example(case: Case, flat: SerializedProblem) -> str:
    """The ``@example(problem=...)`` of a problem, for a test with Hypothesis.

    Args:
        case: the problem's case.
        flat: its arrays.

    Returns:
        The decorator, below comments with the imports that it needs.
    """
    inner = 2 * len(_STEP)
    params = zip(flat.params, flat.leaves("param"), strict=True)
    mask = flat.arrays.get("mask")
    rows = [
        _case(case, inner),
        "params=" + _dict([(key, literal(a, inner + 4)) for key, a in params], inner),
        f"xs={literal(flat.arrays['xs'], inner)}",
        f"state0={_tree(flat.state, flat.leaves('state0'), inner)}",
        f"mask={None if mask is None else literal(mask, inner)}",
        f"d_ys={literal(flat.arrays['d_ys'], inner)}",
        f"d_state={_tree(flat.state, flat.leaves('d_state'), inner)}",
    ]
    lines = ["# import numpy as np", "# from hypothesis import example"]
    lines += ["# from bpttcheck import strategies as bst"]
    lines += [f"# {name} is the NamedTuple of your cell's state" for name in _types(flat.state)]
    lines += ["@example(", f"{_STEP}problem=bst.Problem("]
    lines += [f"{_STEP * 2}{row}," for row in rows]
    return "\n".join([*lines, f"{_STEP})", ")"])


def _case(case: Case, indent: int) -> str:
    pad = " " * (indent + len(_STEP))
    fields = ", ".join(f"{key}={value!r}" for key, value in asdict(case).items())
    body = textwrap.fill(fields, _WIDTH, initial_indent=pad, subsequent_indent=pad)
    return f"case=bst.Case(\n{body},\n{' ' * indent})"


def _dict(pairs: list[tuple[Any, str]], indent: int) -> str:
    if not pairs:
        return "{}"
    pad = " " * (indent + len(_STEP))
    rows = [f"{pad}{key!r}: {text},\n" for key, text in pairs]
    return "{\n" + "".join(rows) + " " * indent + "}"


def _tree(state: Shape, leaves: list[Array], indent: int) -> str:
    supply = iter(leaves)

    def one(state: Shape, indent: int) -> str:
        if state is None:
            return literal(next(supply), indent)
        inner = indent + len(_STEP)
        pairs = [(key, one(child, inner)) for key, child in items(state)]
        if "dict" in state:
            return _dict(pairs, indent)
        named = "fields" in state
        rows = [f"{' ' * inner}{f'{key}=' if named else ''}{text},\n" for key, text in pairs]
        name = state["namedtuple"] if named else ""
        return f"{name}(\n{''.join(rows)}{' ' * indent})" if rows else f"{name}()"

    return one(state, indent)


def _types(state: Shape) -> list[str]:
    """The names of the NamedTuples in a state, each once."""
    if state is None:
        return []
    own = [state["namedtuple"]] if "namedtuple" in state else []
    inner = [name for _, child in items(state) for name in _types(child)]
    return list(dict.fromkeys([*own, *inner]))


def _nested(array: Array, indent: int, beside: int = 1) -> str:
    """The numbers in brackets, in one line if ``beside`` more columns are left for the rest."""
    if array.ndim == 0:
        return _number_text(array[()])
    whole = _in_oneone_line(array)
    if len(whole) + indent + beside <= _WIDTH:
        return whole
    pad = " " * (indent + len(_STEP))
    if array.ndim == 1:
        body = textwrap.fill(whole[1:-1], _WIDTH, initial_indent=pad, subsequent_indent=pad)
    else:
        body = "\n".join(f"{pad}{_nested(row, indent + len(_STEP))}," for row in array)
    return f"[\n{body}\n{' ' * indent}]"


def _in_oneone_line(array: Array) -> str:
    if array.ndim == 0:
        return _number_text(array[()])
    return "[" + ", ".join(_in_oneone_line(row) for row in array) + "]"


def _number_text(value: Any) -> str:
    if value.dtype.kind != "f":
        return repr(value.item())
    if not np.isfinite(value):
        return "np.nan" if np.isnan(value) else "np.inf" if value > 0 else "-np.inf"
    short = str(value)  # the fewest digits of the array's own dtype
    same = value.dtype.type(float(short)) == value
    return repr(float(short)) if same else repr(float(value))


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
        ending = TWICE.substitute(title=repr(title_of(stored)))
    else:
        found = _place(finding, problem)
        if found is None:
            return None
        problem, number = found
        ending = _comparison(stored, number, problem)
    if _count(problem) > MOST_NUMBERS:
        return None
    head = HEAD.substitute(
        title=title_of(stored), message=one_line(finding.message), version=stored.version,
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
        if block == d_param(key):
            return _Number(block, f"moved_params[{key!r}]", entry)
    for i, leaf in enumerate(of_state(d_state0(), problem.state0)):
        if Block(block).in_sequence == leaf:
            return _Number(d_state0(f"[{i}]"), f"moved_state0[{i}]", entry)
    if Block(block).in_sequence == D_XS:
        first = (0,) if block == D_X else ()
        return _Number(D_XS, "moved_xs", None if entry is None else (*first, *entry))
    return None  # an output: there is no gradient to show


def _comparison(stored: Stored, number: _Number, problem: Problem) -> str:
    """The ending that sets the number beside what it should be."""
    finding, named = stored.finding, number.entry is not None
    initial = finding.check == "initial_state"
    text = INITIAL_TERMS if initial else RUN + _terms(problem)
    text += DIFFERENCES.substitute(moved=number.moved)
    if not named:
        text += SEARCH.substitute(block=number.block)
    text += VALUE.substitute(
        entry=repr(number.entry) if named else "ENTRY",
        block=number.block,
        title=repr(title_of(stored)),
    )
    return text + ending(finding, named=named)


def ending(finding: Finding, *, named: bool) -> str:
    """What sets the number at fault beside JAX's, as stored, and beside differences.

    Args:
        finding: the failure.
        named: whether the number is that of the finding.
    """
    jax, other = _finite(finding.jax), _finite(finding.comparison)
    text = ""
    if jax is not None and named:
        allowed = repr((finding.limit or 1.0) * jax.error)
        text += JAX.substitute(value=repr(jax.value), allowed=allowed)
        return text + SERIES + BY_JAX
    if other is not None and named:
        text += OTHER_SIDE.substitute(value=repr(other.value))
    return text + SERIES + BY_DIFFERENCES


def _finite(side: Measured | None) -> Measured | None:
    """A value that can be written as a literal, or None."""
    fine = side is not None and math.isfinite(side.value) and math.isfinite(side.error)
    return side if fine else None


def _terms(problem: Problem) -> str:
    masked = "(d_ys * mask[:, :, None])"
    return TERMS.replace("$d_ys", "d_ys" if problem.mask is None else masked)


def _walk(finding: Finding, problem: Problem) -> str:
    """The loops forward and back."""
    if finding.method in ("forward", "vjp"):
        return LAYER.substitute(mask="" if problem.mask is None else ", mask")
    carried = "leaves(d_new, LIKE)" if problem.mask is None else "d_new"
    if not all(is_float(leaf) for leaf in trees.leaves(problem.state0)):
        # Carried integers have no gradient, whatever step_vjp returns for them.
        zero = "np.zeros(a.shape, xs.dtype)"
        pairs = f"zip(state0, {carried}, strict=True)"
        carried = f'[d if a.dtype.kind == "f" else {zero} for a, d in {pairs}]'
    return (CELL if problem.mask is None else MASKED_CELL).substitute(carried=carried)


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
        f"sys.path.insert(0, {folder_from(folder, directory)})",
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


def folder_from(folder: Path, directory: Path) -> str:
    """The user's folder as seen from the script, so that the project may be moved."""
    try:
        way = Path(os.path.relpath(folder.resolve(), directory.resolve())).as_posix()
    except ValueError:  # another drive
        return repr(str(folder.resolve()))
    return f"str(Path(__file__).resolve().parent / {way!r})"


def title_of(stored: Stored) -> str:
    """What failed, in one line."""
    finding = stored.finding
    parts_of_it = (finding.block, f"of {one_line(stored.subject)}", f"({finding.check})")
    return one_line(" ".join(part for part in parts_of_it if part))


def one_line(text: str) -> str:
    """One line of a comment: whatever could end it is a blank."""
    return " ".join(text.split())
