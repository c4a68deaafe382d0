"""What of the forward pass the backward pass has: from the cache, or computed again from it."""

from __future__ import annotations

import ast
import builtins
import copy
import inspect
import keyword
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import CodeType, ModuleType
from typing import Any

import numpy as np
import scipy.special

from bpttcheck.errors import Declined
from bpttcheck.oracles.step_source import terms
from bpttcheck.oracles.step_source.array_parts import ArrayScene
from bpttcheck.oracles.step_source.array_rules import piece
from bpttcheck.oracles.step_source.backward import Adjoint, BackwardPass, GivenCotangent
from bpttcheck.oracles.step_source.forward import Forward
from bpttcheck.oracles.step_source.recording import CONSTANT, INPUT, Value, place
from bpttcheck.oracles.step_source.source_lines import assignments, targets, text_at
from bpttcheck.oracles.step_source.terms import Term
from bpttcheck.oracles.step_source.traces import Sizes, Traced, Varying

_SHORT = 4
_COMPARED = {
    "np.greater": "above", "np.greater_equal": "above", "np.less": "below",
    "np.less_equal": "below", "np.equal": "is",
}  # fmt: skip


class StepNames:
    """Gives names to values and to their adjoints.

    Args:
        values: every value of the step.
        step: its code.
        taken: names that must not be given.
    """

    def __init__(self, values: Sequence[Value], step: CodeType, taken: set[str]) -> None:
        self._step = step
        self._values: dict[Value, str] = {}
        self._adjoints: dict[Value, str] = {}
        self._parts: dict[Value, list[str]] = {}
        self._taken = set(taken)
        self._own: dict[Value, str] = {}
        for value in values:
            self._own[value] = self._variable(value)
        for value in values:
            if value.part is not None and self.own(value):
                self._parts.setdefault(value.operands[0], []).append(self.own(value))
        own = set(self._own.values()) | set(step.co_varnames)
        self._reserved = own | {f"d_{name}" for name in own}

    def _variable(self, value: Value) -> str:
        mine = [name for code, name in value.names if code is self._step]
        if value.op == INPUT and len(mine) > 1:
            mine = [name for name in mine if name not in ("state", "s0")] or mine
        return mine[0] if mine else ""

    def own(self, value: Value) -> str:
        """The variable that holds a value in ``step`` itself, or ``""``."""
        return self._own.get(value, "")

    def holders(self, name: str) -> list[Value]:
        """The values that a variable of ``step`` holds in turn."""
        return [v for v in self._own if (self._step, name) in v.names]

    def claim(self, name: str) -> bool:
        """Take a name for something else, if it is free."""
        free = name not in self._taken and name not in self._own.values()
        self._taken.add(name)
        return free

    def value(self, value: Value) -> str:
        """The name of a value; made on first use."""
        if value not in self._values:
            self._values[value] = self._free("", value)
        return self._values[value]

    def adjoint(self, value: Value, alias: Value | None = None, before: str = "") -> str:
        """The name of its adjoint: ``d_`` and its own name, or that of another value."""
        if value not in self._adjoints:
            self._adjoints[value] = self._free(f"d_{before}", alias or value)
        return self._adjoints[value]

    def cotangent(self, value: Value) -> str:
        """A name for what is given for the state after the step, ``d_h_next``."""
        return self._free("d_", value, "_next")

    def _basis(self, value: Value) -> tuple[str, bool]:
        """A name, and whether it is the user's own."""
        own = self.own(value)
        if own:
            return own, True
        others = [name for _, name in value.names]
        if value.label.startswith("params"):
            return "".join(c for c in value.label[6:] if c.isalnum() or c == "_"), True
        if value.label:
            digits = "".join(c for c in value.label[5:] if c.isalnum() or c == "_")
            unnamed = f"s{digits}" if not digits or digits[0].isdigit() else digits
            return (others[0] if others else "x" if value.label == "x" else unnamed), True
        return self._made(value) or (others[0] if others else "t"), False

    def _made(self, value: Value) -> str:
        """A name from what a value is made of, or what is made of it."""
        parts = self._parts.get(value, [])
        if parts and sum(map(len, parts)) <= _SHORT:
            return "".join(parts)
        names = [self.own(o) or (self._basis(o)[0] if o.label else "") for o in value.operands]
        if value.op in _COMPARED and len(names) == 2 and all(names):
            return f"{names[0]}_{_COMPARED[value.op]}_{names[1]}"
        if value.op == "np.multiply" and len(names) == 2 and all(names):
            return "".join(names) if sum(map(len, names)) <= _SHORT else ""
        if len(names) == 1 and names[0] and value.op.isidentifier() is False:
            function = value.op.rpartition(".")[2]
            if function in ("exp", "log", "sqrt", "tanh", "expit", "sin", "cos", "log1p", "expm1"):
                return f"{function}_{names[0]}"
        return ""

    def _free(self, before: str, value: Value, after: str = "") -> str:
        basis, own = self._basis(value)
        wanted = f"{before}{basis}{after}"
        if keyword.iskeyword(wanted):
            wanted += "_"
        if wanted in ("d_y", "d_state"):
            wanted += "_total"  # all that flows back to it, not what is given alone
        if value.op == INPUT and wanted in self._taken:
            wanted += "_prev"  # a variable of step that holds something else later
        name, k = wanted, 1
        while name in self._taken or (not own and name in self._reserved):
            k += 1
            name = f"{wanted}_{k}"
        self._taken.add(name)
        return name


_MOST_NUMBERS = 8
_CHEAP = frozenset("T neg infix not real imag conj index".split())


class RuleScene:
    """The function in which the backward pass will stand, and how things are called there.

    Args:
        cell: the cell.
        traced: its step.
    """

    def __init__(self, cell: Any, traced: Traced) -> None:
        self.cell, self.traced = cell, traced
        function = getattr(cell.step, "__func__", cell.step)
        self.variables: dict[str, Any] = getattr(function, "__globals__", {})
        code = traced.first.step
        own = function.__code__
        arguments = list(own.co_varnames[: own.co_argcount])
        self.bound = inspect.ismethod(cell.step)
        self.self_name = arguments[0] if self.bound else ""
        self.params_name = arguments[1 if self.bound else 0]
        taken = {"cache", "d_state", "d_y", "d_params", self.self_name, self.params_name, "np"}
        self.names = StepNames(traced.first.values, code, taken | set(self.variables))
        self.imports: dict[str, None] = {}
        self.given = self._cotangents()
        self.forward = Forward(self._sizes(), self.has_name, self._attribute)

    @property
    def unpacked(self) -> bool:
        """True for a state whose leaves get a name each."""
        structure = self.traced.first.structure
        flat = all(child.kind == "leaf" for child in structure.children)
        return structure.kind in ("tuple", "namedtuple") and flat

    def has_name(self, value: Value) -> bool:
        """True for a value that a variable of ``step`` holds."""
        return bool(self.names.own(value))

    def is_parameter(self, value: Value) -> bool:
        """True for a leaf of the parameters."""
        return value.op == INPUT and value.label.startswith("params")

    def parameter(self, value: Value) -> str:
        """``params["W"]``."""
        return f"{self.params_name}{value.label[6:]}"

    def function(self, name: str) -> str:
        """How the user's file calls a function of NumPy or SciPy."""
        home, _, last = name.rpartition(".")
        if home.startswith("np"):
            return f"{self._module(np, 'np', 'import numpy as np')}{name[2:]}"
        if home == "scipy.special":
            found = getattr(scipy.special, last)
            direct = [key for key, item in self.variables.items() if item is found]
            home = "from scipy import special"
            return direct[0] if direct else f"{self._module(scipy.special, 'special', home)}.{last}"
        return name

    def _module(self, module: ModuleType, usual: str, statement: str) -> str:
        alias = next((key for key, item in self.variables.items() if item is module), "")
        if not alias:
            self.imports[statement] = None
        return alias or usual

    def _cotangents(self) -> list[GivenCotangent]:
        """A name for the cotangent of each leaf of the new state, and of the output."""
        first = self.traced.first
        paths = first.structure.paths
        if paths == ("",):
            return [GivenCotangent("d_state", "the new state"), GivenCotangent("d_y", "the output")]
        texts = [
            self.names.cotangent(leaf) if self.unpacked else "d_state" + path.replace("'", '"')
            for leaf, path in zip(first.state, paths, strict=True)
        ]
        return [
            *(GivenCotangent(text, "the new state") for text in texts),
            GivenCotangent("d_y", "the output"),
        ]

    def _sizes(self) -> Sizes:
        first, shapes = self.traced.first, self.traced.shapes
        known: list[tuple[str, tuple[int, ...]]] = []
        arrays = [("d_y", first.y)]
        arrays += [(g.text, v) for g, v in zip(self.given, first.new_state, strict=False)]
        parameters = sorted(first.params.values(), key=lambda value: len(value.shape))
        arrays += [(self.parameter(value), value) for value in parameters]
        for text, value in arrays:
            for k in range(len(value.shape)):
                known.append((f"{text}.shape[{k}]", tuple(s[k] for s in shapes[value])))
        return Sizes(tuple(known))

    def _attribute(self, number: Any, value: Value) -> str:
        """``self.g`` for a number that is read there."""
        for name, item in getattr(self.cell, "__dict__", {}).items():
            text = f"{self.self_name}.{name}"
            if item is number and self.bound and value.stands and text in text_at(value.stands[0]):
                return text
        return ""


class AtHand:
    """Where the values come from that a backward pass reads.

    Args:
        scene: where it stands.
        backward: the backward pass.

    Raises:
        Declined: a value cannot be had.
    """

    def __init__(self, scene: RuleScene, backward: BackwardPass) -> None:
        self._scene, self._backward = scene, backward
        self._arrays = ArrayScene(scene.forward, scene.traced.shapes)
        self._code = scene.traced.first.step
        self._assignments = assignments(self._code)
        self._cached = dict(self._in_cache())
        self.used: dict[Value, str] = {}
        """Values of the cache that are read, and their names."""
        self.copied: dict[Value, str] = {}
        """Values whose statement is that of ``step``, and that statement."""
        self.again: dict[Value, Term] = {}
        """Values that are computed again, and how."""
        self.inline: set[Value] = set()
        """Those of them that get no name."""
        forced: set[Value] = set()
        while True:
            self._resolve(forced)
            doubled = {v for v in self.copied if self._is_doubled(v)} - forced
            if not doubled:
                break
            forced |= doubled
        for value in scene.traced.first.values:  # short names in the order of their use
            if value in self.again and value not in self.inline:
                scene.names.value(value)

    def _is_doubled(self, value: Value) -> bool:
        """True if a part of what would be copied gets a name of its own."""
        named = set(self.again) - self.inline
        return bool(named & set(value.operands)) or any(
            named & set(operand.operands) for operand in value.operands
            if not self._scene.has_name(operand)
        )  # fmt: skip

    def unpacking(self) -> Iterator[str]:
        """The statements that unpack the cache."""
        cache = self._scene.traced.first.cache
        if not self.used:
            return
        pattern = self._pattern(cache)
        if pattern:
            yield f"{pattern.removeprefix('(').removesuffix(')')} = cache"
            return
        for value, path in _paths(cache, "cache"):
            if value in self.used:
                yield f"{self.used[value]} = {path}"

    def _pattern(self, item: Any) -> str:
        """Nested tuples of names, ``(h, c), x``; ``""`` for anything else in them."""
        if item is None or isinstance(item, Value):
            return "_" if item is None else self.used.get(item, "_")
        if not isinstance(item, (tuple, list)):
            return ""
        parts = [self._pattern(part) for part in item]
        return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})" if all(parts) else ""

    def copies(self) -> list[str]:
        """The statements of ``step`` that are repeated, in order."""
        values = self._scene.traced.first.values
        return list(dict.fromkeys(self.copied[v] for v in values if v in self.copied))

    def computed(self) -> Iterator[tuple[Value, Term]]:
        """The values that are computed again, and from what."""
        for value in self._scene.traced.first.values:
            if value in self.again and value not in self.inline:
                yield value, self.again[value]

    def called(self, value: Value) -> str | Term:
        """The name of a value, or the expression that stands for it."""
        if self._scene.is_parameter(value):
            return self._scene.parameter(value)
        if value in self.used:
            return self.used[value]
        if value.op == CONSTANT:
            return self._constant(value)
        if value in self.inline:
            return self.again[value]
        return self._scene.names.value(value)

    def shape(self, value: Value) -> str:
        """A text for the shape of a value: that of an array at hand, else its sizes."""
        scene = self._scene
        first, shapes = scene.traced.first, scene.traced.shapes
        outputs = zip(scene.given, [*first.new_state, first.y], strict=True)
        hand = [
            *((given.text, v) for given, v in outputs),
            *((scene.parameter(v), v) for v in first.params.values()),
            *((name, v) for v, name in self.used.items()),
        ]
        for text, other in hand:
            if shapes[other] == shapes[value]:
                return f"{text}.shape"
        sizes = scene.forward.sizes
        axes = [sizes.text([s[k] for s in shapes[value]]) for k in range(len(value.shape))]
        if not all(axes):
            raise Declined("a shape that no size explains", where=place(value))
        return f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"

    def _in_cache(self) -> Iterator[tuple[Value, str]]:
        """The values in the cache, and what they are called once it is unpacked."""
        cache = self._scene.traced.first.cache
        yield from ((v, self._scene.names.value(v)) for v, _ in _paths(cache, "cache"))

    def _resolve(self, forced: set[Value]) -> None:
        for book in (self.used, self.copied, self.again):
            book.clear()
        self.inline.clear()
        pending = [r for a in self._backward.adjoints for r in _read(a)]
        uses = Counter(pending)
        seen: set[Value] = set()
        while pending:
            value = pending.pop()
            if value in seen or self._scene.is_parameter(value):
                continue
            seen.add(value)
            inner = self._found(value, forced)
            uses.update(inner)
            pending.extend(inner)
        for value, term in self.again.items():
            cheap = term.head in _CHEAP or self._is_complement(term)
            if not self._scene.has_name(value) and (uses[value] == 1 or cheap):
                self.inline.add(value)

    def _is_complement(self, term: Term) -> bool:
        """``1 - z``."""
        if term.head != "add" or len(term.args) != 2 or term.args[0].head != "number":
            return False
        refs = list(term.args[1].refs())
        return len(refs) == 1 and (refs[0] in self._cached or self._scene.has_name(refs[0]))

    def _found(self, value: Value, forced: set[Value]) -> list[Value]:
        """Note where a value comes from; what it is computed from in turn."""
        if value in self._cached:
            self.used[value] = self._cached[value]
            return []
        if value.op == CONSTANT:
            return []
        if value.op == INPUT:
            for whole in self._cached:
                slice_ = piece(self._arrays, whole, value)
                if slice_ is not None:
                    self.again[value] = slice_
                    return [whole]
            raise Declined(
                f"{self._scene.names.own(value) or value.label}, which the backward pass needs, is "
                "not in the cache that step returns",
                remedy="return (state, x), or what the backward pass needs, as the cache",
            )
        copied = None if value in forced else self._copied(value, ())
        if copied is not None:
            self.copied[value] = copied[0]
            return copied[1]
        term = self._helper(value) or self._scene.forward.own(value)
        self.again[value] = term
        return [r for r in term.refs() if isinstance(r, Value)]

    def _copied(self, value: Value, above: Sequence[str]) -> tuple[str, list[Value]] | None:
        """The statement of ``step`` that made a value, and the values that it reads.

        None if it cannot stand in another function: it reads something that is not at hand there.
        """
        scene = self._scene
        own = scene.names.own(value)
        found = self._assignments.get(own, [])
        if not own or len(found) != 1 or own in above:
            return None
        node, text = found[0]
        if any(len(scene.names.holders(name)) > 1 for name in targets(node)):
            return None
        if scene.names.value(value) != own:
            return None
        fine = {scene.self_name, scene.params_name, *scene.variables, *vars(builtins)}
        reads: list[Value] = []
        swapped: dict[str, str] = {}  # of `W = params["W"]` nothing is written
        for name in (n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)):
            if name in self._code.co_varnames and name not in (
                scene.self_name, scene.params_name
            ):  # fmt: skip
                held = scene.names.holders(name)
                if len(held) == 1 and scene.is_parameter(held[0]):
                    swapped[name] = scene.parameter(held[0])
                    continue
                if len(held) != 1 or not self._is_at_hand(held[0], name, (*above, own)):
                    return None
                reads.append(held[0])
            elif name not in fine:
                return None
        return _with_names(node, swapped) if swapped else text, reads

    def _is_at_hand(self, value: Value, name: str, above: Sequence[str]) -> bool:
        if value in self._cached:
            return self._cached[value] == name
        return self._copied(value, above) is not None

    def _helper(self, value: Value) -> Term | None:
        """A recognised function as a call of the user's own helper, ``sigmoid(z)``."""
        if value not in self._backward.functions or not value.stands:
            return None
        code = value.stands[0].code
        for name, item in self._scene.variables.items():
            if getattr(item, "__code__", None) is code and code.co_argcount == 1:
                root = self._backward.functions[value][1]
                if all(stand.code is not code for stand in root.stands[:1]):
                    return terms.call(name, self._scene.forward.operand(root), shape=value.shape)
        return None

    def _constant(self, value: Value) -> str | Term:
        """A constant: an attribute of the cell, a global, or its numbers if they are few."""
        array, scene = value.array, self._scene
        for name, item in getattr(scene.cell, "__dict__", {}).items():
            if item is array and scene.bound:
                return f"{scene.self_name}.{name}"
        for name, item in scene.variables.items():
            if item is array:
                return name
        if not isinstance(array, Varying) and np.size(array) <= _MOST_NUMBERS:
            return f"{scene.function('np.array')}({np.asarray(array).tolist()!r})"
        raise Declined("an array of numbers that is no attribute of the cell and no global")


def _with_names(node: ast.Assign, names: Mapping[str, str]) -> str:
    """A statement with other expressions in the place of names that it reads."""

    class Swap(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            known = names.get(node.id) if isinstance(node.ctx, ast.Load) else None
            return node if known is None else ast.parse(known, mode="eval").body

    text = ast.unparse(Swap().visit(copy.deepcopy(node)))
    return text if '"' in text else text.replace("'", '"')


def terms_of(adjoint: Adjoint) -> Iterator[Term]:
    """Every expression in the statement of an adjoint."""
    yield adjoint.whole
    yield from (scatter.term for scatter, _ in adjoint.scattered)
    places = [*(scatter.at for scatter, _ in adjoint.scattered), *(at for at, _ in adjoint.cleared)]
    for at in places:
        for part in at:
            ends: Iterable[Any] = (
                (part.start, part.stop, part.step) if isinstance(part, slice) else (part,)
            )
            yield from (end for end in ends if isinstance(end, Term))


def _read(adjoint: Adjoint) -> list[Value]:
    return [r for term in terms_of(adjoint) for r in term.refs() if isinstance(r, Value)]


def quoted(key: Any) -> str:
    """A key of a dict as it is written."""
    return f'"{key}"' if isinstance(key, str) and '"' not in key else repr(key)


def _paths(item: Any, text: str) -> Iterator[tuple[Value, str]]:
    if isinstance(item, Value):
        yield item, text
    elif isinstance(item, dict):
        for key, part in item.items():
            yield from _paths(part, f"{text}[{quoted(key)}]")
    elif isinstance(item, tuple) and hasattr(item, "_fields"):
        for key in getattr(item, "_fields", ()):
            yield from _paths(getattr(item, key), f"{text}.{key}")
    elif isinstance(item, (list, tuple)):
        for k, part in enumerate(item):
            yield from _paths(part, f"{text}[{k}]")
