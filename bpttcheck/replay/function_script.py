"""A stored failure of a function as a script that needs NumPy and the author's functions alone.

What is handed to the backward pass, and which of its results is the gradient at fault, is found by
running both functions once and looking for the very objects in what they were given and returned.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template
from types import ModuleType
from typing import Any

import numpy as np

from bpttcheck.adapt.function import Function
from bpttcheck.adapt.returned import match
from bpttcheck.blocks import d_param
from bpttcheck.errors import ContractError
from bpttcheck.problems.problem import Problem
from bpttcheck.replay.record import Stored
from bpttcheck.replay.script import (
    MOST_NUMBERS,
    SEARCH,
    VALUE,
    ending,
    folder_from,
    literal,
    one_line,
    title_of,
)
from bpttcheck.subject.user_code import call
from bpttcheck.verify.checks import CHECKS

_HEAD = Template('''\
# $title
# $message
#
# A failure stored by bpttcheck $version as
# $id.
# This file needs NumPy and the functions alone. It is rewritten when the failure is met again: copy
# it before you change it.

import sys
from pathlib import Path

import numpy as np

$functions

inputs = $inputs
cotangents = $cotangents


def arguments(inputs):
    """What the forward pass is given."""
    return [$arguments]


def outputs(result):
    """What the loss weighs, out of what the forward pass returned."""
    return $outputs


given = arguments(inputs)
result = forward(*given)
gradients = $backward


def double(value):
    """A copy, floats in float64."""
    return np.array(value, float) if value.dtype.kind == "f" else np.array(value)


def difference(entry, h):
    """(L(+h) - L(-h)) / 2h, where L is the sum of all cotangents times outputs."""
    sides = []
    for sign in (1, -1):
        moved = {name: double(value) for name, value in inputs.items()}
        moved[$moved][entry] += sign * h
        sides.append(outputs(forward(*arguments(moved))))
    loss = 0.0
    for name, weight in cotangents.items():
        loss += float(np.sum((np.asarray(sides[0][name]) - sides[1][name]) * weight))
    return loss / (2 * h)

''')

_DEPTH = 4


@dataclass
class _Recorded:
    """A function that remembers what it was given and what it returned."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    result: Any = field(default=None)

    def wrapped(self) -> Callable[..., Any]:
        """The function itself, with the same parameters."""

        @functools.wraps(self.function)
        def run(*arguments: Any) -> Any:
            self.arguments, self.result = arguments, self.function(*arguments)
            return self.result

        return run


def function_script(
    stored: Stored, problem: Problem, function: Function, directory: Path
) -> str | None:
    """The text of the script, or None where there is nothing that such a file could show.

    That is so for functions that cannot be imported by name, for inputs that are globals, and for
    findings that are about no gradient.

    Args:
        stored: the failure.
        problem: its problem.
        function: what failed.
        directory: where the script will lie.
    """
    finding, check = stored.finding, CHECKS[stored.finding.check]
    size = sum(np.size(value) for value in problem.params.values())
    if check.replayed_twice or function.held or size > MOST_NUMBERS:
        return None
    imports = _imports(function, directory)
    if imports is None:
        return None
    try:
        found = _code(function, problem, finding.block)
    except ContractError:
        return None  # it no longer runs on these very numbers
    if found is None:
        return None
    text, gradient = found
    # A law compares two runs; the number of its finding is that of another one than this.
    entry = None if check.law is not None else finding.entry
    text = {
        **text, "functions": imports, "title": title_of(stored),
        "message": one_line(finding.message), "version": stored.version, "id": stored.id,
    }  # fmt: skip
    body = _HEAD.substitute(text)
    if entry is None:
        body += SEARCH.substitute(block=gradient)
    body += VALUE.substitute(
        entry="ENTRY" if entry is None else repr(entry),
        block=gradient,
        title=repr(title_of(stored)),
    )
    return body + ending(finding, named=entry is not None)


def _code(function: Function, problem: Problem, block: str) -> tuple[dict[str, str], str] | None:
    """The parts of the script that depend on how the functions are called, and the gradient."""
    forward = _Recorded(function.forward_function)
    backward = _Recorded(function.backward_function or function.forward_function)
    is_pair = function.backward_function is not None
    watched = replace(
        function,
        forward_function=forward.wrapped(),
        backward_function=backward.wrapped() if is_pair else None,
    )
    row = np.ascontiguousarray(problem.d_ys)
    _, _, tape = call(function.methods[0], watched.forward, problem.params, problem.xs, ())
    call(function.methods[1], watched.gradients, tape, row)
    weights = function.unpacked(row, tape)
    returned = backward.result if is_pair else tape.extras["gradients"]
    found, called = match(returned, function.inputs(tape.sizes), function.grads, "backward")
    leaf = next((n for n in found if block in (called[n], f"d_{n}", d_param(n))), None)
    if leaf is None:
        return None  # an output: there is no gradient to show
    handed = forward.arguments
    arguments = [_made_of(value, problem.params) for value in handed]
    outputs = {n: _path(value, forward.result, "result") for n, value in tape.outputs.items()}
    received = [_received(value, handed, forward.result, weights) for value in backward.arguments]
    whole = backward.result if is_pair else forward.result
    gradient = _path(found[leaf], whole, "gradients")
    if gradient is None or None in outputs.values() or (is_pair and None in received):
        return None
    if not is_pair:
        gradient = f"{gradient} * cotangents['loss']"
    text = {
        "inputs": _dict({name: literal(np.asarray(v), 4) for name, v in problem.params.items()}),
        "cotangents": _dict({name: literal(np.asarray(v), 4) for name, v in weights.items()}),
        "arguments": ", ".join(arguments),
        "outputs": "{" + ", ".join(f"{name!r}: {path}" for name, path in outputs.items()) + "}",
        "backward": f"backward({', '.join(map(str, received))})" if is_pair else "result",
        "moved": repr(leaf),
    }
    return text, gradient


def _path(value: Any, inside: Any, name: str, depth: int = _DEPTH) -> str | None:
    """Where this very object stands in nested tuples, lists and dicts, as Python."""
    if _same(value, inside):
        return name
    if depth and isinstance(inside, (tuple, list, Mapping)):
        pairs = inside.items() if isinstance(inside, Mapping) else enumerate(inside)
        for key, one in pairs:
            found = _path(value, one, f"{name}[{key!r}]", depth - 1)
            if found is not None:
                return found
    return None


def _same(value: Any, inside: Any) -> bool:
    """True for the very object, or a copy of a list or dict of the same: a cache is copied."""
    if value is inside or type(value) is not type(inside) or not isinstance(value, (list, dict)):
        return value is inside
    if isinstance(value, dict):
        return list(value) == list(inside) and all(_same(value[key], inside[key]) for key in value)
    return len(value) == len(inside) and all(map(_same, value, inside))


def _made_of(value: Any, leaves: Mapping[str, Any]) -> str:
    """An argument as Python, with its arrays taken from ``inputs``."""
    for name, leaf in leaves.items():
        if leaf is value:
            return f"inputs[{name!r}]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key!r}: {_made_of(one, leaves)}" for key, one in value.items())
        return "{" + inner + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_made_of(one, leaves) for one in value) + "]"
    if isinstance(value, tuple):
        return "(" + "".join(f"{_made_of(one, leaves)}, " for one in value) + ")"
    return repr(value)


def _received(
    value: Any, given: tuple[Any, ...], result: Any, weights: Mapping[str, Any]
) -> str | None:
    """An argument of the backward pass as Python."""
    for name, weight in weights.items():
        if value is weight or _same_memory(value, weight):
            return f"cotangents[{name!r}]"
    found = _path(value, result, "result") or _path(value, given, "given")
    if found is None and isinstance(value, tuple):
        inner = [_received(one, given, result, weights) for one in value]
        return None if None in inner else "(" + "".join(f"{one}, " for one in inner) + ")"
    return found


def _same_memory(one: Any, other: Any) -> bool:
    """Whether both are the same part of the row of cotangents."""
    return (
        isinstance(one, np.ndarray)
        and one.shape == other.shape
        and one.__array_interface__["data"] == other.__array_interface__["data"]
    )


def _dict(items: Mapping[str, str]) -> str:
    return "{\n" + "".join(f"    {name!r}: {text},\n" for name, text in items.items()) + "}"


def _imports(function: Function, directory: Path) -> str | None:
    """The lines that import both functions, or None if they have no place of their own."""
    pairs = [("forward", function.forward_function)]
    if function.backward_function is not None:
        pairs.append(("backward", function.backward_function))
    folders: list[str] = []
    modules: list[str] = []
    names: list[str] = []
    for alias, one in pairs:
        place = _place(one)
        if place is None:
            return None
        folder, module, name = place
        folders.append(f"sys.path.insert(0, {folder_from(folder, directory)})")
        modules.append(f"import {module}")
        names.append(f"{alias} = {module}.{name}")
    return "\n".join([*dict.fromkeys(folders), *dict.fromkeys(modules), "", *names])


def _place(function: Any) -> tuple[Path, str, str] | None:
    """The folder, the module in it, and the name in that, of a function."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    name = getattr(function, "__qualname__", "")
    file = getattr(module, "__file__", None)
    if not isinstance(module, ModuleType) or file is None or module.__name__ == "__main__":
        return None
    if module.__name__.partition(".")[0] == "bpttcheck":
        return None  # made by an adapter
    thing: Any = module
    for part in name.split("."):
        thing = getattr(thing, part, None)
    if thing is not function:
        return None
    path, parts = Path(file).resolve(), module.__name__.split(".")
    stem = path.parent if path.name == "__init__.py" else path.with_suffix("")
    if list(stem.parts[-len(parts):]) == parts:  # fmt: skip
        return stem.parents[len(parts) - 1], module.__name__, name
    return (path.parent, path.stem, name) if path.stem.isidentifier() else None
