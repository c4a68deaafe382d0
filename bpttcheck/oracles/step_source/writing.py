"""The source of a ``step_vjp``: what is unpacked, what is computed again, and every adjoint."""

from __future__ import annotations

import linecache
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bpttcheck.oracles.step_source import terms
from bpttcheck.oracles.step_source.at_hand import AtHand, RuleScene, quoted, terms_of
from bpttcheck.oracles.step_source.backward import Accumulation, Adjoint, GivenCotangent
from bpttcheck.oracles.step_source.python_text import Python
from bpttcheck.oracles.step_source.recording import INPUT, Value
from bpttcheck.oracles.step_source.source_lines import Origin, origin
from bpttcheck.oracles.step_source.terms import Term
from bpttcheck.oracles.step_source.traces import Traced
from bpttcheck.trees import Structure

_WIDTH = 96
_INDENT = "    "
_LEAST_COMMENT = 26
_VIEWS = ("index", "T", "reshape", "broadcast")
_UNARY = ("np.tanh", "np.maximum", "np.exp")


class Writer:
    """Writes the backward pass of one cell.

    Args:
        cell: the cell.
        traced: its step.

    Raises:
        Declined: an operation has no known adjoint, or a value cannot be had.
    """

    def __init__(self, cell: Any, traced: Traced) -> None:
        self.scene = RuleScene(cell, traced)
        first = traced.first
        self._first = first
        run = Accumulation(traced, self.scene.forward, self.scene.has_name)
        *states, output = self.scene.given
        self.backward = run.run([*zip(first.new_state, states, strict=True), (first.y, output)])
        self.at_hand = AtHand(self.scene, self.backward)
        self._python = Python(self.called, self.scene.function, self.at_hand.shape)

    def called(self, what: Any) -> str | Term:
        """What a reference is called, or the expression that stands for it."""
        if isinstance(what, GivenCotangent):
            return what.text
        return self.name(what) if isinstance(what, Adjoint) else self.at_hand.called(what)

    def text(self, term: Term) -> str:
        """The source of an expression."""
        return self._python.text(term)

    def index(self, at: Any) -> str:
        """The source of an index."""
        return self._python.index(at)

    def name(self, adjoint: Adjoint) -> str:
        """The variable of an adjoint."""
        value = adjoint.value
        alias = self.backward.alias.get(value)
        if alias is None and not self.scene.has_name(value) and value.op != INPUT:
            made = self._function_of(value)
            if made is not None:
                return self.scene.names.adjoint(value, made, "pre_")
        return self.scene.names.adjoint(value, alias)

    def _function_of(self, value: Value) -> Value | None:
        """What a value is the argument of, if that has a name."""
        for made in self._first.values:
            root = self.backward.functions.get(made, ("", None))[1]
            alone = made.op in _UNARY and [o for o in made.operands if not o.known] == [value]
            if (root is value or alone) and self.scene.has_name(made):
                return made
        return None

    def source(self, header: Sequence[str]) -> str:
        """The whole function."""
        unpacked = list(self._unpacked())
        body = list(self._computed())
        inputs = {a for a in self.backward.inputs.values() if a is not None}
        for adjoint in self.backward.adjoints:
            if adjoint not in inputs:
                body += self._statement(self.name(adjoint), adjoint)
        body += self._results()
        scene = self.scene
        own = [scene.self_name] if scene.bound else []
        arguments = ", ".join([*own, scene.params_name, "cache", "d_state", "d_y"])
        text = "\n".join([*header, *scene.imports, *unpacked, *self._with_sizes(body)])
        return f"def step_vjp({arguments}):\n{textwrap.indent(text, _INDENT)}\n"

    def _with_sizes(self, body: list[str]) -> list[str]:
        """The sizes that have a name in ``step`` by that name."""
        sizes = self.scene.forward.sizes
        text = "\n".join(body)
        named: list[str] = []
        for name, values in self.scene.traced.sizes.items():
            size = sizes.text(values)
            if size in text and "[" in size and " " not in size and self.scene.names.claim(name):
                named.append(f"{name} = {size}")
                text = text.replace(size, name)
        return [*named, *text.split("\n")]

    def _unpacked(self) -> Iterator[str]:
        yield from self.at_hand.unpacking()
        if self.scene.unpacked:
            read = {r for a in self.backward.adjoints for t in terms_of(a) for r in t.refs()}
            written = [self._python.text(t) for a in self.backward.adjoints for t in terms_of(a)]
            names = [
                given.text
                if given in read or leaf.kind not in "fc" or self.backward.inputs[leaf] is None
                or any(f"{given.text}." in text for text in written) else "_"
                for given, leaf in zip(self.scene.given, self._first.state, strict=False)
            ]  # fmt: skip
            yield f"{', '.join(names)}{',' if len(names) == 1 else ''} = d_state"

    def _computed(self) -> Iterator[str]:
        """The values of the forward pass that the cache does not hold."""
        hand = self.at_hand
        yield from hand.copies()
        for value, term in hand.computed():
            text = f"{self.scene.names.value(value)} = {self._python.text(term)}"
            yield from self._commented(text, 0, [self._origin(value)])

    def _statement(self, name: str, adjoint: Adjoint) -> list[str]:
        """An adjoint, the number of its equation, and the lines from which it comes."""
        groups = self._groups(adjoint)
        plain = all(term.head == "ref" for term, _ in adjoint.parts)
        k = adjoint.number
        if len(groups) > 1 and not plain:
            lines = [f"{name} = (  # ({k})"]
            for n, (term, source) in enumerate(groups):
                sign, inner = ("- ", term.args[0]) if n and term.head == "neg" else (
                    "+ " if n else "", term)  # fmt: skip
                shown = self._python.text(inner, 4 if sign == "- " else 3)
                rows = self._commented(f"{_INDENT}{sign}{shown}", 0, [source])
                if len(shown) > _WIDTH and inner.head == "add" and sign != "- ":
                    rows = [*rows[:-1], *(f"{_INDENT}{r}" for r in self._rows(inner, bool(n)))]
                lines += rows
            lines.append(")")
        else:
            text = self._owned(adjoint, bool(adjoint.scattered or adjoint.cleared))
            sources = [source for _, source in groups]
            lines = self._folded(f"{name} = {text}", adjoint.whole, k, sources)
        for scatter, source in adjoint.scattered:
            at, value = self._python.index(scatter.at), self._python.text(scatter.term)
            add = self.scene.function("np.add")
            repeats = f"{add}.at({name}, {self.scene.function('np.s_')}[{at}], {value})"
            text = repeats if scatter.repeats else f"{name}[{at}] += {value}"
            lines += self._commented(text, k, [self._origin(source)])
        for place, source in adjoint.cleared:
            text = f"{name}[{self._python.index(place)}] = 0"
            lines += self._commented(text, k, [self._origin(source)])
        return lines

    def _folded(self, text: str, whole: Term, number: int, sources: Sequence[Origin]) -> list[str]:
        """A statement; of a long product with a sum, the sum in lines of its own."""
        found = self._commented(text, number, sources)
        last = whole.args[-1] if whole.head == "mul" else whole
        if len(text) <= _WIDTH or last.head != "add":
            return found
        inside = self._python.text(last)
        inner = f"({inside})" if text.endswith(f"({inside})") else inside
        rows = [f"{_INDENT}{row}" for row in self._rows(last, False)]
        return [*found[:-1], f"{text.removesuffix(inner)}(", *rows, ")"]

    def _rows(self, term: Term, signed: bool) -> Iterator[str]:
        """The terms of a sum, a line each."""
        for n, arg in enumerate(term.args):
            minus = arg.head == "neg" and (n > 0 or signed)
            sign = "- " if minus else "+ " if n or signed else ""
            yield f"{sign}{self._python.text(arg.args[0] if minus else arg, 4 if sign else 3)}"

    def _owned(self, adjoint: Adjoint, always: bool) -> str:
        """An adjoint; of an input, or if entries are added, a copy of what would be a view."""
        whole = inner = adjoint.whole
        while inner.head in _VIEWS:
            inner = inner.args[0]
        if inner.head == "ref" and (always or adjoint.value.op == INPUT):
            return f"{self._python.atom(whole)}.copy()"
        return self._python.text(whole)

    def grouped(self, adjoint: Adjoint) -> Term:
        """An adjoint as a sum with what comes from one line together."""
        parts = [term for term, _ in self._groups(adjoint)]
        return parts[0] if len(parts) == 1 else terms.add_plain(parts, adjoint.whole.shape)

    def _groups(self, adjoint: Adjoint) -> list[tuple[Term, Origin]]:
        """The parts by the lines from which they come."""
        by_line: dict[Origin, list[Term]] = {}
        for term, source in adjoint.parts:
            by_line.setdefault(self._origin(source), []).append(term)
        return [(terms.add(*several), line) for line, several in by_line.items()]

    def _origin(self, source: Value | GivenCotangent) -> Origin:
        if isinstance(source, GivenCotangent):
            return Origin(source.about)
        return origin(source.stands, self._first.step)

    def _commented(self, text: str, number: int, sources: Iterable[Origin]) -> list[str]:
        """A statement and its comment, behind it or, where there is no room, before it."""
        tag = f"({number}) " if number else ""
        distinct = [o for o in dict.fromkeys(sources) if o.text or o.place]
        room = _WIDTH - len(text) - len(tag) - 4
        if len(distinct) > 1 or (distinct and not distinct[0].place):
            return [f"{text}  # {tag}{' and '.join(o.within(40) for o in distinct)}".rstrip()]
        comment = distinct[0].within(room) if distinct else ""
        if len(comment) <= room and (room >= _LEAST_COMMENT or not distinct):
            return [f"{text}  # {tag}{comment}".rstrip() if tag or comment else text]
        indent = text[: len(text) - len(text.lstrip())]
        above = distinct[0].within(_WIDTH - len(indent) - len(tag) - 2) if distinct else ""
        return [f"{indent}# {tag}{above}", text]

    def _results(self) -> list[str]:
        """The gradients of the parameters in a dict, those of state and input, and the return."""
        first, inputs = self._first, self.backward.inputs
        entries: list[str] = []
        before: list[str] = []
        for key, value in first.params.items():
            adjoint = inputs.get(value)
            head = f"{_INDENT}{quoted(key)}: "
            if adjoint is None:
                zeros = f"{self.scene.function('np.zeros_like')}({self.scene.parameter(value)})"
                entries.append(f"{head}{zeros},  # step does not depend on it")
            elif len(self._groups(adjoint)) > 1 or adjoint.scattered or adjoint.cleared:
                before += self._statement(self.name(adjoint), adjoint)
                entries.append(f"{head}{self.name(adjoint)},")
            else:
                text = f"{head}{self._owned(adjoint, False)},"
                sources = [source for _, source in self._groups(adjoint)]
                entries += self._commented(text, adjoint.number, sources)
        after: list[str] = []
        texts: dict[Value, str] = {}
        for value in [*first.state, first.x]:
            adjoint = inputs.get(value)
            if adjoint is None or value.kind not in "fc":
                texts[value] = self._zeros(value)
            else:
                texts[value] = self.name(adjoint)
                after += self._statement(texts[value], adjoint)
        state = _packed(first.structure, iter([texts[v] for v in first.state]))
        back = f"return d_params, {state}, {texts[first.x]}"
        return [*before, "d_params = {", *entries, "}", *after, back]

    def _zeros(self, value: Value) -> str:
        first = self._first
        if value in first.state:
            given = self.scene.given[first.state.index(value)].text
            return f"{self.scene.function('np.zeros_like')}({given})"
        return f"{self.scene.function('np.zeros')}({self.at_hand.shape(value)}, d_y.dtype)"


def _packed(structure: Structure, leaves: Iterator[str], given: str = "d_state") -> str:
    """The state as it is returned, in the form of what is given."""
    if structure.kind == "leaf":
        return next(leaves)
    below = [
        f"{given}.{key}" if structure.kind == "namedtuple" else f"{given}[{quoted(key)}]"
        for key in structure.keys
    ]
    inner = [_packed(c, leaves, text) for c, text in zip(structure.children, below, strict=True)]
    if structure.kind == "dict":
        pairs = zip(structure.keys, inner, strict=True)
        return "{" + ", ".join(f"{quoted(key)}: {text}" for key, text in pairs) + "}"
    text = ", ".join(inner) + ("," if len(inner) == 1 else "")
    return f"type({given})({text})" if structure.kind == "namedtuple" else f"({text})"


def compiled(cell: Any, source: str) -> Any:
    """A function ``step_vjp`` of this source, with the globals of the file of ``step``.

    Args:
        cell: the cell.
        source: the function.
    """
    step = getattr(cell.step, "__func__", cell.step)
    variables = dict(getattr(step, "__globals__", {}))
    name = f"<step_vjp of {type(cell).__name__}, derived {abs(hash(source)):x}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    exec(compile(source, name, "exec"), variables)
    return variables["step_vjp"]
