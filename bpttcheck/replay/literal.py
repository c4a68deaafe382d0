"""Numbers as Python source that gives back the very same bits."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.replay.flat import Flat, Shape, items
from bpttcheck.results.records import Case

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


def example(case: Case, flat: Flat) -> str:
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
        return _number(array[()])
    whole = _in_one_line(array)
    if len(whole) + indent + beside <= _WIDTH:
        return whole
    pad = " " * (indent + len(_STEP))
    if array.ndim == 1:
        body = textwrap.fill(whole[1:-1], _WIDTH, initial_indent=pad, subsequent_indent=pad)
    else:
        body = "\n".join(f"{pad}{_nested(row, indent + len(_STEP))}," for row in array)
    return f"[\n{body}\n{' ' * indent}]"


def _in_one_line(array: Array) -> str:
    if array.ndim == 0:
        return _number(array[()])
    return "[" + ", ".join(_in_one_line(row) for row in array) + "]"


def _number(value: Any) -> str:
    if value.dtype.kind != "f":
        return repr(value.item())
    if not np.isfinite(value):
        return "np.nan" if np.isnan(value) else "np.inf" if value > 0 else "-np.inf"
    short = str(value)  # the fewest digits of the array's own dtype
    same = value.dtype.type(float(short)) == value
    return repr(float(short)) if same else repr(float(value))
