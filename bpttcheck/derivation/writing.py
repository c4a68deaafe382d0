"""The source of a ``step_vjp``: what the cache holds, what is computed again, every adjoint."""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import CodeType, ModuleType
from typing import Any

import numpy as np
import scipy.special

from bpttcheck.derivation import terms
from bpttcheck.derivation.backward import Accumulation, Adjoint, Backward, Given, place
from bpttcheck.derivation.forward import Forward
from bpttcheck.derivation.naming import Names
from bpttcheck.derivation.python_text import Python
from bpttcheck.derivation.recording import CONSTANT, INPUT, Value
from bpttcheck.derivation.source_lines import statement_at
from bpttcheck.derivation.terms import Term
from bpttcheck.derivation.traces import Sizes, Traced
from bpttcheck.errors import Declined
from bpttcheck.trees import Structure

WIDTH = 100
_INDENT = "    "


@dataclass(frozen=True)
class Line:
    """One statement of the backward pass.

    Args:
        number: of its equation.
        name: what is assigned.
        adjoint: whose it is.
    """

    number: int
    name: str
    adjoint: Adjoint


class Writer:
    """Writes the backward pass of one cell.

    Args:
        cell: the cell.
        traced: its step.
    """

    def __init__(self, cell: Any, traced: Traced) -> None:
        self._cell, self._traced = cell, traced
        first = traced.first
        self._step = first.step
        self._globals = _globals(cell)
        arguments = list(self._step.co_varnames[: self._step.co_argcount])
        self.bound = inspect.ismethod(cell.step)
        self._self = arguments[0] if self.bound else ""
        self.params_name = "params"
        taken = {"params", "cache", "d_state", "d_y", "d_params", "self", self._self, "np"}
        taken |= set(self._globals) | {""}
        self._names = Names(self._step, taken)
        self._given = self._cotangents()
        self.forward = Forward(self._sizes(), self._has_name)
        run = Accumulation(traced, self.forward, self._has_name)
        outputs = [*zip(first.new_state, self._given[:-1], strict=True)]
        self.backward: Backward = run.run([*outputs, (first.y, self._given[-1])])
        self._imports: dict[str, None] = {}
        self._python = Python(self._called, self._function, self._shape)
        self._stored: dict[Value, str] = {}
        self._again: dict[Value, Term] = {}
        self._verbatim: dict[Value, str] = {}
        self._inline: set[Value] = set()

    def _has_name(self, value: Value) -> bool:
        return bool(self._names.own(value))

    def _cotangents(self) -> list[Given]:
        """A name for the cotangent of each leaf of the new state, and of the output."""
        first = self._traced.first
        paths = first.structure.paths
        if paths == ("",):
            return [Given("d_state", "the new state"), Given("d_y", "the output")]
        found: list[Given] = []
        for leaf, path in zip(first.state, paths, strict=True):
            if self._unpacked:
                text = self._names.cotangent(leaf)
            else:
                text = f"d_state{path}"
            found.append(Given(text, "the new state"))
        return [*found, Given("d_y", "the output")]

    @property
    def _unpacked(self) -> bool:
        structure = self._traced.first.structure
        flat = all(child.kind == "leaf" for child in structure.children)
        return structure.kind in ("tuple", "namedtuple") and flat

    def _sizes(self) -> Sizes:
        first, shapes = self._traced.first, self._traced.shapes
        known: list[tuple[str, tuple[int, ...]]] = []

        def note(text: str, value: Value) -> None:
            for k in range(len(value.shape)):
                known.append((f"{text}.shape[{k}]", tuple(s[k] for s in shapes[value])))

        note("d_y", first.y)
        for given, leaf in zip(self._given, first.new_state, strict=False):
            note(given.text, leaf)
        for value in sorted(first.params.values(), key=lambda v: len(v.shape)):
            note(value.label, value)
        return Sizes(tuple(known))

    # What the expressions refer to.

    def _called(self, what: Any) -> str | Term:
        if isinstance(what, Given):
            return what.text
        if isinstance(what, Adjoint):
            return self._adjoint_name(what)
        assert isinstance(what, Value)
        if what.op == INPUT and what.label.startswith("params"):
            return what.label
        if what in self._stored:
            return self._stored[what]
        if what.op == CONSTANT:
            return self._constant(what)
        if what in self._inline:
            return self._again[what]
        return self._names.value(what)

    def _adjoint_name(self, adjoint: Adjoint) -> str:
        alias = self.backward.alias.get(adjoint.value)
        value = adjoint.value
        if alias is None and not self._names.own(value) and value.op != INPUT:
            alias = self._function_value(value)
            if alias is not None:
                return self._names.adjoint(value, alias, "pre_")
        return self._names.adjoint(value, alias)

    def _function_value(self, value: Value) -> Value | None:
        """What a value is the argument of, if that has a name."""
        for made in self._traced.first.values:
            root = self.backward.functions.get(made, ("", None))[1]
            unary = len(made.operands) == 1 and made.op in ("np.tanh", "np.maximum", "np.exp")
            if (root is value or (unary and made.operands[0] is value)) and self._names.own(made):
                return made
        return None

    def _function(self, name: str) -> str:
        """How the user's file calls a function of NumPy or SciPy."""
        if name.startswith("the ufunc "):
            name = f"np.{name[10:]}"
        home, _, last = name.rpartition(".")
        if home.startswith("np"):
            alias = self._alias(np)
            if not alias:
                self._imports["import numpy as np"] = None
            return f"{alias or 'np'}{name[2:]}"
        if home == "scipy.special":
            function = getattr(scipy.special, last)
            direct = [k for k, v in self._globals.items() if v is function]
            if direct:
                return direct[0]
            alias = self._alias(scipy.special)
            if not alias:
                self._imports["from scipy import special"] = None
            return f"{alias or 'special'}.{last}"
        return name

    def _alias(self, module: ModuleType) -> str:
        return next((k for k, v in self._globals.items() if v is module), "")

    def _shape(self, value: Value) -> str:
        """A text for the shape of a value: that of an array at hand, else its sizes."""
        shapes = self._traced.shapes
        first = self._traced.first
        hand = [
            *((given.text, v) for given, v in zip(self._given, [*first.new_state, first.y],
                                                  strict=True)),
            *((v.label, v) for v in first.params.values()),
            *((name, v) for v, name in self._stored.items()),
        ]  # fmt: skip
        for text, other in hand:
            if shapes[other] == shapes[value]:
                return f"{text}.shape"
        axes = [self.forward.sizes.text([s[k] for s in shapes[value]])
                for k in range(len(value.shape))]  # fmt: skip
        if not all(axes):
            raise Declined("a shape that no size explains", where=place(value))
        return f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"

    # Values of the forward pass.

    def _resolve(self) -> None:
        """What of the forward pass comes from the cache, and what is computed again."""
        stored = dict(self._in_cache())
        pending: list[Value] = []
        for adjoint in self.backward.adjoints:
            for term in _terms(adjoint):
                pending.extend(r for r in term.refs() if isinstance(r, Value))
        uses = Counter(pending)
        seen: set[Value] = set()
        while pending:
            value = pending.pop()
            if value in seen:
                continue
            seen.add(value)
            if value in stored or (value.op == INPUT and value.label.startswith("params")):
                continue
            if value.op == INPUT:
                raise Declined(
                    f"{self._names.own(value) or value.label}, which the backward pass needs, is "
                    "not in the cache that step returns",
                    remedy="return (state, x), or what they are made of, as the cache",
                )
            if value.op == CONSTANT:
                continue
            copied = self._copied(value)
            if copied:
                self._verbatim[value] = copied
                continue
            term = self._helper(value) or self.forward.own(value)
            self._again[value] = term
            inner = [r for r in term.refs() if isinstance(r, Value)]
            uses.update(inner)
            pending.extend(inner)
        self._used = {value for value in seen if value in stored}
        for value, term in self._again.items():
            cheap = term.head in ("T", "neg", "infix", "not", "real", "imag", "conj", "index") or (
                term.head == "add" and len(term.args) == 2 and term.args[0].head == "number")
            if not self._names.own(value) and (uses[value] == 1 or cheap):
                self._inline.add(value)
        for value in self._used:
            if value not in self._stored:
                self._stored[value] = stored[value]

    def _in_cache(self) -> Iterator[tuple[Value, str]]:
        """The values in the cache, and what they are called once it is unpacked."""
        cache = self._traced.first.cache
        self._unpacking: list[Value | None] = []
        if isinstance(cache, Value):
            self._unpacking = [cache]
            yield cache, "cache"
            return
        flat = isinstance(cache, (tuple, list)) and all(
            item is None or isinstance(item, Value) for item in cache
        )
        if flat:
            self._unpacking = list(cache)
            for item in cache:
                if item is not None:
                    yield item, self._names.value(item)
            return
        yield from _paths(cache, "cache")

    def _copied(self, value: Value) -> str:
        """The statement of ``step`` that made a constant, if it can stand in another function."""
        own = self._names.own(value)
        if not value.known or not own:
            return ""
        tree = _tree(self._step)
        if tree is None:
            return ""
        found = [
            node for node in tree.body
            if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [own]
        ]  # fmt: skip
        if len(found) != 1:
            return ""
        loaded = {n.id for n in ast.walk(found[0].value) if isinstance(n, ast.Name)}
        fine = {self._self, "params", *self._globals, *vars(builtins)}
        return ast.unparse(found[0]) if loaded <= fine and self._names.value(value) == own else ""

    def _helper(self, value: Value) -> Term | None:
        """A recognised function as a call of the user's own helper, ``sigmoid(z)``."""
        if value not in self.backward.functions or not value.stands:
            return None
        code = value.stands[0].code
        for name, item in self._globals.items():
            if getattr(item, "__code__", None) is code and code.co_argcount == 1:
                root = self.backward.functions[value][1]
                if all(stand.code is not code for stand in root.stands[:1]):
                    operand = terms.ref(root, root.shape)
                    return terms.call(name, operand, shape=value.shape)
        return None

    def _constant(self, value: Value) -> str | Term:
        """A constant: an attribute of the cell, a global, or its numbers if they are few."""
        array = value.array
        for name, item in getattr(self._cell, "__dict__", {}).items():
            if item is array and self._self:
                return f"{self._self}.{name}"
        for name, item in self._globals.items():
            if item is array:
                return name
        plain = np.asarray(array) if not hasattr(array, "values") else None
        if plain is not None and plain.size <= 8:
            return f"{self._function('np.array')}({plain.tolist()!r})"
        raise Declined("an array of numbers that is no attribute of the cell and no global")

    # The text.

    def source(self, header: Sequence[str]) -> str:
        """The whole function."""
        self._resolve()
        first = self._traced.first
        body: list[str] = []
        if any(item in self._used for item in self._unpacking if item is not None):
            if isinstance(first.cache, Value):
                pass
            else:
                names = [
                    self._names.value(item) if item in self._used else "_"
                    for item in self._unpacking if True
                ]  # fmt: skip
                while names and False:
                    names.pop()
                body.append(f"{', '.join(names)}{',' if len(names) == 1 else ''} = cache")
        if self._unpacked:
            used = {r for a in self.backward.adjoints for t in _terms(a) for r in t.refs()}
            shapes = "".join(self._needed_texts())
            names = [
                g.text if g in used or g.text in shapes or leaf.kind not in "fc" else "_"
                for g, leaf in zip(self._given, first.state, strict=False)
            ]
            body.append(f"{', '.join(names)}{',' if len(names) == 1 else ''} = d_state")
        body += [self._verbatim[v] for v in self._in_order(self._verbatim)]
        for value in self._in_order(self._again):
            if value not in self._inline:
                text = self._python.text(self._again[value])
                body.append(f"{self._names.value(value)} = {text}{self._where(value)}")
        inputs = {a for a in self.backward.inputs.values() if a is not None}
        for adjoint in self.backward.adjoints:
            if adjoint not in inputs:
                body += self._statement(self._adjoint_name(adjoint), adjoint)
        body += self._results()
        arguments = ", ".join([*([self._self] if self.bound else []), "params", "cache", "d_state", "d_y"])
        imports = list(self._imports)
        text = "\n".join([*header, *imports, *body])
        return f"def step_vjp({arguments}):\n{textwrap.indent(text, _INDENT)}\n"

    def _needed_texts(self) -> Iterator[str]:
        for adjoint in self.backward.adjoints:
            for term in _terms(adjoint):
                yield self._python.text(term)

    def _in_order(self, values: Any) -> list[Value]:
        return [v for v in self._traced.first.values if v in values]

    def _where(self, value: Value) -> str:
        return f"  # {place(value)}" if value.stands else ""

    def _statement(self, name: str, adjoint: Adjoint) -> list[str]:
        """An adjoint, its equation's number and the lines it is the adjoint of."""
        groups = self._groups(adjoint)
        text = self._python.text(adjoint.whole)
        plain = all(t.head == "ref" for t, _ in adjoint.parts)
        if adjoint.scattered and adjoint.whole.head in ("ref", "T", "index", "reshape"):
            text = f"{self._python.atom(adjoint.whole)}.copy()"
        lines: list[str]
        if len(groups) > 1 and not plain:
            first = True
            lines = [f"{name} = (  # ({adjoint.number})"]
            for term, comment in groups:
                sign = "" if first else "+ "
                inner = term
                if not first and term.head == "neg":
                    sign, inner = "- ", term.args[0]
                shown = self._python.text(inner, 4 if inner is not term or sign else 0)
                lines.append(_commented(f"{_INDENT}{sign}{shown}", comment))
                first = False
            lines.append(")")
        else:
            comments = list(dict.fromkeys(comment for _, comment in groups))
            comment = f"({adjoint.number}) " + " and ".join(comments)
            lines = [_commented(f"{name} = {text}", comment)]
        for scatter, source in adjoint.scattered:
            at = self._python.index(scatter.at)
            value = self._python.text(scatter.term)
            comment = f"({adjoint.number}) {self._source_of(source)}"
            if scatter.repeats:
                add = f"{self._function('np.add')}.at({name}, ({at},), {value})"
                lines.append(_commented(add, comment))
            else:
                lines.append(_commented(f"{name}[{at}] += {value}", comment))
        return lines

    def _groups(self, adjoint: Adjoint) -> list[tuple[Term, str]]:
        """The parts by the lines from which they come."""
        by_line: dict[str, list[Term]] = {}
        for term, source in adjoint.parts:
            by_line.setdefault(self._source_of(source), []).append(term)
        return [(terms.add(*several), line) for line, several in by_line.items()]

    def _source_of(self, source: Value | Given) -> str:
        if isinstance(source, Given):
            return source.about
        return statement_at(source.stands, self._step)

    def _results(self) -> list[str]:
        first = self._traced.first
        inputs = self.backward.inputs
        lines = ["d_params = {"]
        before: list[str] = []
        for key, value in first.params.items():
            adjoint = inputs.get(value)
            if adjoint is None:
                zeros = f"{self._function('np.zeros_like')}({value.label})"
                lines.append(f"{_INDENT}{key!r}: {zeros},  # step does not read it")
                continue
            made = self._statement("", adjoint)
            if len(made) == 1 and made[0].startswith(" = "):
                text, _, comment = made[0].partition("  # ")
                text = self._owned(text[3:], adjoint)
                lines.append(_commented(f"{_INDENT}{_quoted(key)}: {text},", comment))
            else:
                name = self._adjoint_name(adjoint)
                before += self._statement(name, adjoint)
                lines.append(f"{_INDENT}{_quoted(key)}: {name},")
        lines.append("}")
        texts: dict[Value, str] = {}
        for value in [*first.state, first.x]:
            adjoint = inputs.get(value)
            if value.kind not in "fc" or adjoint is None:
                texts[value] = self._zeros_of(value)
                continue
            name = self._adjoint_name(adjoint)
            made = self._statement(name, adjoint)
            if adjoint.whole.head in ("ref", "index", "T", "reshape", "broadcast") and not (
                adjoint.scattered
            ):
                text, _, comment = made[0].partition("  # ")
                made = [_commented(f"{name} = {self._owned(text.partition(' = ')[2], adjoint)}",
                                   comment)]  # fmt: skip
            lines += made
            texts[value] = name
        state = self._state_text(first.structure, iter([texts[v] for v in first.state]))
        return [*before, *lines, f"return d_params, {state}, {texts[first.x]}"]

    def _owned(self, text: str, adjoint: Adjoint) -> str:
        """A copy of what would be a view of an argument."""
        whole = adjoint.whole
        while whole.head in ("index", "T", "reshape", "broadcast"):
            whole = whole.args[0]
        return f"{text}.copy()" if whole.head == "ref" else text

    def _zeros_of(self, value: Value) -> str:
        first = self._traced.first
        if value in first.state:
            given = self._given[first.state.index(value)].text
            return f"{self._function('np.zeros_like')}({given})"
        return f"{self._function('np.zeros')}({self._shape(value)}, d_y.dtype)"

    def _state_text(self, structure: Structure, leaves: Iterator[str]) -> str:
        if structure.kind == "leaf":
            return next(leaves)
        inner = [self._state_text(child, leaves) for child in structure.children]
        if structure.kind == "dict":
            return "{" + ", ".join(f"{_quoted(k)}: {t}" for k, t in
                                   zip(structure.keys, inner, strict=True)) + "}"  # fmt: skip
        text = ", ".join(inner) + ("," if len(inner) == 1 else "")
        if structure.kind == "namedtuple":
            return f"type(d_state)({text})"
        return f"({text})"

    @cached_property
    def lines(self) -> list[Line]:
        """Every equation, in order."""
        return [Line(a.number, self._adjoint_name(a), a) for a in self.backward.adjoints]


def _quoted(key: Any) -> str:
    return f'"{key}"' if isinstance(key, str) and '"' not in key else repr(key)


def _commented(text: str, comment: str) -> str:
    if not comment:
        return text
    return f"{text}  # {comment}"


def _terms(adjoint: Adjoint) -> Iterator[Term]:
    yield adjoint.whole
    for scatter, _ in adjoint.scattered:
        yield scatter.term
        for part in scatter.at:
            ends = part[1:] if isinstance(part, tuple) else (part,)
            yield from (e for e in ends if isinstance(e, Term))


def _paths(item: Any, text: str) -> Iterator[tuple[Value, str]]:
    if isinstance(item, Value):
        yield item, text
    elif isinstance(item, dict):
        for key, part in item.items():
            yield from _paths(part, f"{text}[{_quoted(key)}]")
    elif isinstance(item, tuple) and hasattr(item, "_fields"):
        for key in item._fields:
            yield from _paths(getattr(item, key), f"{text}.{key}")
    elif isinstance(item, (list, tuple)):
        for k, part in enumerate(item):
            yield from _paths(part, f"{text}[{k}]")


def _globals(cell: Any) -> dict[str, Any]:
    function = getattr(cell.step, "__func__", cell.step)
    return getattr(function, "__globals__", {})


def _tree(code: CodeType) -> ast.FunctionDef | None:
    lines = linecache.getlines(code.co_filename)
    try:
        block = inspect.getblock(lines[code.co_firstlineno - 1 :])
        (tree,) = ast.parse(textwrap.dedent("".join(block))).body
    except (SyntaxError, ValueError, IndexError):
        return None
    return tree if isinstance(tree, ast.FunctionDef) else None
