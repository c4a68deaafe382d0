"""The test of functions that exist, as ``bpttcheck new --from`` writes it."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from bpttcheck.adapt.returned import stands_for
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


_DATA = frozenset("x xs xt x_t inputs input inp seq sequence data".split())
_STATES = frozenset(
    "h h0 h_0 c c0 c_0 s s0 state state0 prev_h prev_c h_prev c_prev hprev cprev hidden".split()
)
_ROLES = {3: ("N", "T", "D"), 2: ("N", "D"), 1: ("D",)}
_SPARE = "HEKMPQRUVWYZ"
_GATES = (4, 3, 2)
# Primes, and none the multiple of another: a product cannot be taken for a size.
_SIZES = {"N": 2, "T": 3, "D": 5, "H": 7}
_LAYOUTS = ("N T D", "T N D", "N D", "T D", "D")


@dataclass
class Guess:
    """A proposed signature.

    Args:
        signature: its text.
        remarks: what was guessed, one sentence each.
        returns: of a loss with gradients: what it returns, name by name, or ``""``.
    """

    signature: str
    remarks: list[str] = field(default_factory=list)
    returns: str = ""


def guess(forward: Callable[..., Any], arguments: Any, *, is_pair: bool) -> Guess:
    """A signature for a function.

    Args:
        forward: the forward function, or a loss that returns its gradients.
        arguments: a tuple of arguments, a dict of such by name, or None: none were seen.
        is_pair: whether there is a backward function, which needs the outputs named.

    Raises:
        ContractError: no usual layout makes it run, or it fails on the arguments that were seen.
    """
    names = _names(forward)
    if arguments is None:
        values, sizes, remarks = _tried(forward, names)
    else:
        values = _in_order(names, arguments)
        sizes, remarks = {}, ["equal sizes of the arguments that were seen got equal letters"]
    letters = _Letters(sizes)
    letters.learn(values)
    inputs = ", ".join(_item(name, value, letters) for name, value in values.items())
    remarks += letters.remarks()
    try:
        result = forward(*values.values())
    except Exception as error:
        raise ContractError(
            f"{forward.__name__} raised {type(error).__name__}: {error}, with the arguments that "
            "were given"
        ) from error
    told = _returned_names(forward)
    if not is_pair:
        return Guess(inputs, remarks, _returns(result, told, list(values)))
    outputs, more = _outputs(result, told, letters)
    return Guess(f"{inputs} -> {outputs}", remarks + more)


class _Letters:
    """Which letter stands for which size.

    Args:
        known: letters whose sizes are known already.
    """

    def __init__(self, known: Mapping[str, int]) -> None:
        self.of = {size: letter for letter, size in known.items()}
        self.first: dict[str, str] = {}
        self.doubtful: list[str] = []
        self.tokens = False

    def learn(self, values: Mapping[str, Any]) -> None:
        """Give every size of the arguments a letter.

        Inputs come first and states next, for their names say most; of the others the smallest
        size, of which larger ones may be multiples.
        """
        found: list[tuple[int, int, int, int, str, str]] = []
        for number, (name, value) in enumerate(values.items()):
            key = name.lower()
            for part in _arrays(value):
                roles = _ROLES.get(part.ndim, ()) if key in _DATA else ()
                if part.dtype.kind in "iu":
                    self.tokens = True
                    roles = ("N", "T")[-part.ndim :] if part.ndim else ()
                rank = 0 if roles else 1 if key in _STATES else 2
                for axis, size in enumerate(part.shape):
                    wanted = roles[axis] if axis < len(roles) else "H"
                    order = size if rank == 2 else number
                    found.append((rank, order, axis, size, wanted, name))
        for rank, _, axis, size, wanted, name in sorted(found):
            known = self._multiple(size)
            if rank == 0 and known not in ("", wanted):
                self.doubtful.append(
                    f"axis {axis} of {name} got the letter {known} for its size {size}, but may be "
                    f"{wanted}"
                )
            if size > 1 and not known:
                taken = set(self.of.values())
                spare = f"HV{_SPARE}" if self.tokens else _SPARE
                letter = next(x for x in (wanted, *spare) if x not in taken)
                self.of[size] = letter
                self.first[letter] = f"axis {axis} of {name}, here {size}"

    def _multiple(self, size: int) -> str:
        """``H`` or ``4H``, if that is what a size can be."""
        if size in self.of:
            return self.of[size]
        for factor in _GATES:
            if size % factor == 0 and self.of.get(size // factor) == "H":
                return f"{factor}H"
        return ""

    def below(self, value: Any) -> str:
        """What integers are smaller than: ``V``, if that is a size and large enough."""
        bound = int(value.max(initial=0)) + 1
        sizes = {letter: size for size, letter in self.of.items()}
        return "V" if sizes.get("V", 0) >= bound else str(bound)

    def axes(self, shape: Sequence[int]) -> str:
        """A shape by letters."""
        return " ".join(self._multiple(size) or str(size) for size in shape)

    def remarks(self) -> list[str]:
        """Where each letter comes from."""
        return [f"{letter} is {where}" for letter, where in self.first.items()] + self.doubtful


def _arrays(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        for one in value:
            yield from _arrays(one)
    elif isinstance(value, np.ndarray):
        yield value


def _item(name: str, value: Any, letters: _Letters) -> str:
    if isinstance(value, (bool, int, str)) or value is None:
        return f"{name} = {value!r}"
    return f"{name}: {_value(value, letters)}".rstrip()


def _value(value: Any, letters: _Letters) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(_item(str(k), v, letters) for k, v in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        opened, closed = "()" if isinstance(value, tuple) else "[]"
        return opened + ", ".join(_value(one, letters) for one in value) + closed
    array = np.asarray(value)
    axes = letters.axes(array.shape)
    if array.dtype.kind == "b":
        return f"{axes} bool"
    return f"{axes} < {letters.below(array)}" if array.dtype.kind in "iu" else axes


def _names(function: Callable[..., Any]) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind in kinds and p.default is p.empty]


def _in_order(names: Sequence[str], arguments: Any) -> dict[str, Any]:
    if isinstance(arguments, Mapping):
        ordered = [n for n in names if n in arguments]
        missing = [n for n in names if n not in arguments]
        if missing:
            raise ContractError(
                f"there is no argument {missing[0]!r}; given are {', '.join(map(str, arguments))}"
            )
        return {name: arguments[name] for name in ordered}
    values = list(arguments) if isinstance(arguments, (tuple, list)) else [arguments]
    if len(values) < len(names):
        raise ContractError(
            f"{len(values)} arguments were given, but the function takes {', '.join(names)}"
        )
    more = [f"arg{i}" for i in range(len(names), len(values))]
    return dict(zip([*names, *more], values, strict=True))


def _tried(
    forward: Callable[..., Any], names: Sequence[str]
) -> tuple[dict[str, Any], dict[str, int], list[str]]:
    """Arguments of a usual layout with which the function runs."""
    rng = np.random.default_rng(0)
    for layout, gates, turned in itertools.product(_LAYOUTS, (1, *_GATES), (False, True)):
        shapes = [_usual(name, layout, gates, turned) for name in names]
        values = [0.5 * rng.standard_normal(shape) for shape in shapes]
        try:
            with np.errstate(all="ignore"):
                forward(*values)
        except Exception:  # another layout, then
            continue
        remark = "no arguments were seen: these are the first usual axes with which it runs"
        return dict(zip(names, values, strict=True)), _SIZES, [remark]
    raise ContractError(
        f"{forward.__name__}({', '.join(names)}) runs with none of the usual axes: give arguments "
        "by name with --at FILE.npz, or as a tuple `args` or a function example() in its file"
    )


def _usual(name: str, layout: str, gates: int, turned: bool) -> tuple[int, ...]:
    """The shape that an argument of this name usually has."""
    data = layout.split()
    key = name.lower()
    if key in _DATA:
        return tuple(_SIZES[letter] for letter in data)
    H, D = _SIZES["H"], _SIZES["D"]
    if key in _STATES:
        return (_SIZES["N"], H) if "N" in data else (H,)
    if key.startswith("b") or key.endswith("bias"):
        return (gates * H,)
    recurrent = any(mark in key for mark in ("hh", "wh", "w_h", "uh", "rec")) or key == "u"
    shape = (H if recurrent else D, gates * H)
    return shape[::-1] if turned else shape


def _returned_names(function: Callable[..., Any]) -> list[str]:
    """What the last ``return`` calls the things it returns; ``""`` for what has no name."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return []
    found = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value]
    if not found:
        return []
    last = found[-1]
    parts = last.elts if isinstance(last, (ast.Tuple, ast.List)) else [last]
    return [part.id if isinstance(part, ast.Name) else "" for part in parts]


def _outputs(result: Any, told: list[str], letters: _Letters) -> tuple[str, list[str]]:
    parts = list(result) if isinstance(result, tuple) else [result]
    names = told if len(told) == len(parts) else [""] * len(parts)
    found: list[str] = []
    remarks: list[str] = []
    for i, (part, name) in enumerate(zip(parts, names, strict=True)):
        is_array = isinstance(part, (np.ndarray, float)) and np.asarray(part).dtype.kind == "f"
        called = name or (f"out{i}" if is_array else "cache")
        axes = letters.axes(np.shape(part)) if is_array else ""
        found.append(f"{called}: {axes}".rstrip() if is_array else called)
        if not is_array and called != "cache":
            remarks.append(f"{called} is handed to the backward pass as it is")
    return ", ".join(found), remarks


def _returns(result: Any, told: list[str], inputs: list[str]) -> str:
    """``"loss, dW, _"``, or ``""`` where it is found out or cannot be told."""
    if not isinstance(result, (tuple, list)) or len(told) != len(result):
        return ""
    loss = next((i for i, one in enumerate(result) if np.shape(one) in ((), (1,), (1, 1))), None)
    known = [
        name if name and name not in inputs and stands_for(name, inputs) else "_" for name in told
    ]
    if loss is None or set(known) == {"_"}:
        return ""
    known[loss] = "loss"
    return ", ".join(known)
