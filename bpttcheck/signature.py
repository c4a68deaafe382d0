"""Signatures: the named inputs and outputs of a function, with the axes of each by letter.

    x: N T D, h0: N H, Wx: D 4H, Wh: H 4H, b: 4H -> h: N T H

A letter is a size, equal wherever it stands. What an item may be:

    x: N T D                 a float array; a size is ``H``, ``4``, ``4H``, ``D+H`` or ``2*H``
    scale:                   a float scalar
    tokens: N T < V          integers from 0 to V - 1
    mask: N T bool           booleans, about three in four of them true
    lens: N packs S          how long each of N rows is that stand one after another in the axis S
    cu: N+1 offsets S        the same by where they begin; lens: N within T  rows padded to T steps
    layers = 2               a constant, handed in as it is
    params: {W: H D, b: H}   a dict; ``(N H, N H)`` a tuple, ``[W: H D, b: H]`` a list
    xs: T * [N D]            a list of T arrays

Of the outputs only float arrays are compared. One that has no shape (``-> h: N T H, cache``) is
handed to the backward pass as it is, ``_`` is dropped, and so may be left out what comes last.
Letters may be restricted at the end: ``... where H in 8|16, T in 1|2|3``.

By convention ``T`` is the time axis, and ``B``, or ``N`` where there is no ``B``, the batch axis,
if it stands in an input and in every output.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn, cast

import numpy as np

from bpttcheck.errors import ContractError

Kind = Literal["float", "int", "bool", "constant", "opaque", "packs", "offsets", "within"]

_LENGTHS = ("packs", "offsets", "within")

_TOKEN = re.compile(r"\s*(->|[A-Za-z_]\w*|\d+|[^\sA-Za-z_\d])")
EACH = "*"
"""Stands for the index in the name of an element of a list of T arrays: ``"xs.*"``."""

_RESTRICTION = re.compile(r"\s*([A-Z])\s+in\s+([\d|\s]+)$")


@dataclass(frozen=True)
class Length:
    """The length of one axis: a number plus multiples of letters, such as ``4H`` or ``D + H``."""

    terms: tuple[tuple[int, str], ...] = ()
    number: int = 0

    def at(self, sizes: Mapping[str, int]) -> int:
        """Its value for given letters."""
        return self.number + sum(factor * sizes[letter] for factor, letter in self.terms)

    @property
    def letter(self) -> str:
        """The letter that it is, or ``""`` if it is anything else."""
        return self.terms[0][1] if not self.number and [f for f, _ in self.terms] == [1] else ""

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters in it."""
        return tuple(letter for _, letter in self.terms)

    def __str__(self) -> str:
        """As it is written."""
        texts = [letter if factor == 1 else f"{factor}{letter}" for factor, letter in self.terms]
        return "+".join([*texts, *([str(self.number)] if self.number or not texts else [])])


@dataclass(frozen=True)
class Leaf:
    """One array, scalar, constant or opaque value of a signature.

    Args:
        name: its name, with the path to it: ``"x"``, ``"params.W"``, ``"state.0"``.
        short: its own name without the path, ``"W"``; ``""`` if it has none.
        kind: what it holds.
        axes: the length of each axis.
        below: the integers are smaller than this.
        value: the constant.
    """

    name: str
    short: str
    kind: Kind
    axes: tuple[Length, ...] = ()
    below: Length = field(default_factory=lambda: Length(number=2))
    value: Any = None

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Its shape for given letters."""
        return tuple(axis.at(sizes) for axis in self.axes)

    def axis(self, letter: str) -> int | None:
        """Which axis has the length of a letter alone, or None."""
        found = [i for i, size in enumerate(self.axes) if size.letter == letter and letter]
        return found[0] if found else None

    def __str__(self) -> str:
        """As it is written."""
        if self.kind in ("constant", "opaque"):
            return self.name
        told = {one: f" {one} {self.below}" for one in _LENGTHS}
        tail = {"int": f" < {self.below}", "bool": " bool", **told}.get(self.kind, "")
        return f"{self.name}: {' '.join(map(str, self.axes))}{tail}"


@dataclass(frozen=True)
class Entry:
    """An input or output: a leaf, or a container of entries.

    Args:
        name: its name, or ``""`` inside a tuple or list without names.
        leaf: the leaf, if it is one.
        container: ``"dict"``, ``"tuple"``, ``"list"``, or ``""`` for a leaf.
        parts: what a container holds.
        times: for ``T * [...]``: the length of a list whose parts are alike; ``parts`` has one.
    """

    name: str
    leaf: Leaf | None = None
    container: str = ""
    parts: tuple[Entry, ...] = ()
    times: Length | None = None


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a function.

    Args:
        inputs: in the order in which the function takes them.
        outputs: in the order in which it returns them.
        allowed: letter -> the only sizes that it may have.
        time: the letter of the time axis, or ``""``.
        batch: the letter of the batch axis, or ``""``.
        text: as it was written.
    """

    inputs: tuple[Entry, ...]
    outputs: tuple[Entry, ...]
    allowed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    time: str = ""
    batch: str = ""
    text: str = ""

    @classmethod
    def parse(cls, text: Any, *, time: str | None = None, batch: str | None = None) -> Signature:
        """Read a signature.

        >>> Signature.parse("x: N T D, W: H D -> y: N T H").letters
        ('N', 'T', 'D', 'H')

        Args:
            text: the signature; see the module.
            time: the letter of the time axis; ``""``: there is none; None: by convention.
            batch: the letter of the batch axis, in the same way.

        Raises:
            ContractError: the text is no signature; it says where and what was expected.
        """
        if not isinstance(text, str):
            raise ContractError(
                f"signature={text!r}, but should be a text such as 'x: N T D, W: H D -> y: N T H'",
                item="signature",
            )
        body, _, tail = text.partition(" where ")
        inputs, outputs = _Parser(body).signature()
        found = cls(inputs, outputs, _restrictions(tail, text), text=text.strip())
        found._require_known_letters()
        names = [item.name for item in inputs]
        for name in names:
            if names.count(name) > 1:
                _refuse(text, f"two inputs are called {name!r}")
        return replace(found, time=found._axis("T", time), batch=found._batch(batch))

    @classmethod
    def of_arrays(cls, names: Sequence[str], values: Sequence[Any]) -> Signature:
        """The signature of given arguments, with their own sizes as numbers.

        Args:
            names: of the inputs.
            values: arrays, scalars, or nested tuples, lists and dicts of such.
        """
        entries = tuple(_item_of(name, name, v) for name, v in zip(names, values, strict=True))
        return cls(entries, (), text=", ".join(str(leaf) for leaf in _leaves(entries)))

    @property
    def letters(self) -> tuple[str, ...]:
        """Every letter, in the order of first use."""
        found = [
            letter
            for leaf in (*self.leaves, *self.results)
            for size in (*leaf.axes, *((leaf.below,) if leaf.kind in ("int", *_LENGTHS) else ()))
            for letter in size.letters
        ]
        repeated = [letter for item in _all(self.inputs) if item.times
                    for letter in item.times.letters]  # fmt: skip
        return tuple(dict.fromkeys([*found, *repeated]))

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """The leaves of the inputs; those of a list of T arrays stand for all of it."""
        return tuple(_leaves(self.inputs))

    @property
    def results(self) -> tuple[Leaf, ...]:
        """The leaves of the outputs."""
        return tuple(_leaves(self.outputs))

    def expanded(self, sizes: Mapping[str, int]) -> list[tuple[str, Leaf]]:
        """Every input leaf for given letters, a list of T arrays element by element."""
        return list(_expanded(self.inputs, sizes))

    def expanded_outputs(self, sizes: Mapping[str, int]) -> list[tuple[str, Leaf]]:
        """Every output leaf for given letters, a list of T arrays element by element."""
        return list(_expanded(self.outputs, sizes))

    def build(self, values: Mapping[str, Any], sizes: Mapping[str, int]) -> list[Any]:
        """The arguments, in order, from the values of :meth:`expanded` leaves by name."""
        return [_built(item, item.name, values, sizes) for item in self.inputs]

    def build_outputs(self, values: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
        """The containers among the outputs by name or number, from the values of their leaves."""
        return {
            item.name or str(number): _built(item, item.name or str(number), values, sizes)
            for number, item in enumerate(self.outputs)
            if item.container
        }

    def _axis(self, letter: str, told: str | None) -> str:
        if told is not None:
            if told and told not in self.letters:
                _refuse(self.text, f"the axis {told!r} does not stand in it")
            return told
        return letter if letter in self.letters else ""

    def _batch(self, told: str | None) -> str:
        if told is not None:
            return self._axis("", told)
        floats = [leaf for leaf in self.results if leaf.kind == "float"]
        for letter in ("B", "N"):
            inputs = [leaf for leaf in self.leaves if leaf.axis(letter) is not None]
            if inputs and floats and all(leaf.axis(letter) is not None for leaf in floats):
                return letter
        return ""

    def _require_known_letters(self) -> None:
        known = {letter for leaf in self.leaves for size in leaf.axes for letter in size.letters}
        known |= {
            letter for item in _all(self.inputs) if item.times for letter in item.times.letters
        }
        known |= {
            letter for leaf in self.leaves if leaf.kind == "int" for letter in leaf.below.letters
        }
        for leaf in self.results:
            for size in leaf.axes:
                for letter in size.letters:
                    if letter not in known:
                        _refuse(
                            self.text,
                            f"{letter!r} of the output {leaf.name} is the size of no input",
                        )
        for letter in self.allowed:
            if letter not in known:
                _refuse(self.text, f"{letter!r} is restricted, but does not stand in it")

    def __str__(self) -> str:
        """As it was written."""
        return self.text


class _Parser:
    """A recursive-descent parser of the text of a signature."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[str] = []
        self.places: list[int] = []
        at = 0
        while at < len(text.rstrip()):
            found = _TOKEN.match(text, at)
            assert found is not None
            if found[1] in "'\"":  # a text constant
                end = text.find(found[1], found.end())
                if end < 0:
                    _refuse(text, "a quotation mark is not closed")
                self.tokens.append(text[found.start(1) : end + 1])
                self.places.append(found.start(1))
                at = end + 1
                continue
            self.tokens.append(found[1])
            self.places.append(found.start(1))
            at = found.end()
        self.at = 0

    def signature(self) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
        inputs = self._items("->", "")
        outputs: tuple[Entry, ...] = ()
        if self._peek() == "->":
            self._next()
            outputs = self._items("", "", output=True)
        if not inputs:
            _refuse(self.text, "it has no input")
        return inputs, outputs

    def _items(self, end: str, path: str, output: bool = False) -> tuple[Entry, ...]:
        found: list[Entry] = []
        while self._peek() not in (end, ""):
            found.append(self._item(path, len(found), output))
            if self._peek() == ",":
                self._next()
            elif self._peek() not in (end, ""):
                self._expected(f"',' or {end!r}" if end else "',' or the end")
        return tuple(found)

    def _item(self, path: str, number: int, output: bool) -> Entry:
        name, following = "", self._peek(1)
        if _is_name(self._peek()) and following in (":", "="):
            name = self._next()
            full = self._named(path, name, number)
            if self._next() == "=":
                return Entry(name, Leaf(full, name, "constant", value=self._constant()))
        elif output and not path and _is_name(self._peek()) and following in (",", ""):
            name = self._next()
            return Entry(name, Leaf(name, name, "opaque"))
        return self._value(name, self._named(path, name, number))

    def _named(self, path: str, name: str, number: int) -> str:
        if not path:
            return name or str(number)
        return f"{path}.{name or number}"

    def _value(self, name: str, full: str) -> Entry:
        opened = {"(": (")", "tuple"), "[": ("]", "list"), "{": ("}", "dict")}
        if self._peek() in opened and not self._is_sum():
            end, container = opened[self._next()]
            parts = self._items(end, full)
            self._take(end)
            if container == "dict" and any(not part.name for part in parts):
                _refuse(self.text, f"an entry of the dict {full} has no name")
            return Entry(name, None, container, parts)
        start = self.at
        if self._peek(1) == "*" and self._peek(2) == "[":
            times = self._size()
            self._take("*")
            self._take("[")
            part = self._value("", f"{full}.{EACH}")
            self._take("]")
            return Entry(name, None, "list", (part,), times)
        self.at = start
        return Entry(name, self._leaf(full, name))

    def _is_sum(self) -> bool:
        """True for an axis in brackets, such as ``(D+H)``."""
        return self._peek() == "(" and self._peek(2) == "+"

    def _leaf(self, full: str, name: str) -> Leaf:
        axes: list[Length] = []
        kind: Kind = "float"
        below = Length(number=2)
        while self._peek() and self._peek() not in (",", "->", ")", "]", "}"):
            if self._peek() == "<":
                self._next()
                kind, below = "int", self._size()
            elif self._peek() in _LENGTHS:
                kind, below = cast(Kind, self._next()), self._size()
            elif self._peek() == "bool":
                self._next()
                kind = "bool"
            else:
                axes.append(self._size())
        return Leaf(full, name, kind, tuple(axes), below)

    def _size(self) -> Length:
        if self._peek() == "(":
            self._next()
            found = self._sum()
            self._take(")")
            return found
        return self._sum()

    def _sum(self) -> Length:
        terms: list[tuple[int, str]] = []
        number = 0
        while True:
            token = self._next()
            if token.isdigit():
                factor = int(token)
                if self._peek() == "*" and self._peek(1) != "[":
                    self._next()
                if _is_letter(self._peek()) and self._adjoins():
                    terms.append((factor, self._next()))
                else:
                    number += factor
            elif _is_letter(token):
                terms.append((1, token))
            else:
                self.at -= 1
                self._expected("a size: a capital letter, a number, or both, as in 4H")
            if self._peek() != "+":
                return Length(tuple(terms), number)
            self._next()

    def _adjoins(self) -> bool:
        """True if the letter belongs to the number before it: ``4H`` or ``4*H``, not ``4 H``."""
        before = self.tokens[self.at - 1]
        return before == "*" or self.places[self.at - 1] + len(before) == self.places[self.at]

    def _constant(self) -> Any:
        texts: list[str] = []
        depth = 0
        while self._peek() and (depth or self._peek() not in (",", "->", ")", "]", "}")):
            depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(self._peek(), 0)
            texts.append(self._next())
        try:
            return ast.literal_eval(_joined(texts))
        except (ValueError, SyntaxError):
            return self._expected("a constant such as 2, 0.5, True or 'relu'")

    def _peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self.at += 1
        return token

    def _take(self, wanted: str) -> None:
        if self._peek() != wanted:
            self._expected(repr(wanted))
        self._next()

    def _expected(self, what: str) -> NoReturn:
        place = self.places[self.at] if self.at < len(self.places) else len(self.text)
        given = repr(self._peek()) if self._peek() else "the end"
        _refuse(self.text, f"at character {place + 1} there is {given}, but should be {what}")


def _joined(texts: Sequence[str]) -> str:
    """Tokens as Python: a sign, a point or an exponent belongs to its number."""
    text = " ".join(texts)
    return re.sub(
        r"(?<=[\w.]) ?(\.) ?(?=\w)|(?<=\d) (?=[eE])|(?<=[eE]) ?(-) ?(?=\d)", r"\1\2", text
    )


def _is_name(token: str) -> bool:
    return token.isidentifier()


def _is_letter(token: str) -> bool:
    return len(token) == 1 and token.isupper()


def _refuse(text: str, why: str) -> NoReturn:
    raise ContractError(
        f"signature {text.strip()!r}: {why}; it is written as 'x: N T D, W: H D -> y: N T H'",
        item="signature",
    )


def _restrictions(tail: str, text: str) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for part in tail.split(",") if tail.strip() else ():
        form = _RESTRICTION.match(part)
        sizes = [int(n) for n in form[2].split("|") if n.strip()] if form else []
        if form is None or not sizes:
            _refuse(text, f"the restriction {part.strip()!r} is not of the form 'H in 8|16'")
        found[form[1]] = tuple(sorted(set(sizes)))
    return found


def _all(entries: Sequence[Entry]) -> Iterator[Entry]:
    for item in entries:
        yield item
        yield from _all(item.parts)


def _leaves(entries: Sequence[Entry]) -> Iterator[Leaf]:
    return (item.leaf for item in _all(entries) if item.leaf is not None)


def _expanded(entries: Sequence[Entry], sizes: Mapping[str, int]) -> Iterator[tuple[str, Leaf]]:
    for item in entries:
        if item.leaf is not None:
            yield item.leaf.name, item.leaf
        elif item.times is None:
            yield from _expanded(item.parts, sizes)
        else:
            for t in range(item.times.at(sizes)):
                for name, leaf in _expanded(item.parts, sizes):
                    yield name.replace(EACH, str(t), 1), leaf


def _built(
    item: Entry,
    path: str,
    values: Mapping[str, Any],
    sizes: Mapping[str, int],
    t: int | None = None,
) -> Any:
    if item.leaf is not None:
        name = item.leaf.name if t is None else item.leaf.name.replace(EACH, str(t), 1)
        return item.leaf.value if item.leaf.kind == "constant" else values[name]
    if item.times is not None:
        return [_built(item.parts[0], path, values, sizes, i) for i in range(item.times.at(sizes))]
    parts = [_built(part, path, values, sizes, t) for part in item.parts]
    if item.container == "dict":
        return dict(zip([part.name for part in item.parts], parts, strict=True))
    make: Callable[[list[Any]], Any] = tuple if item.container == "tuple" else list
    return make(parts)


def _item_of(name: str, full: str, value: Any) -> Entry:
    """The item that a given argument is an example of."""
    if isinstance(value, dict):
        parts = tuple(_item_of(str(k), f"{full}.{k}", v) for k, v in value.items())
        return Entry(name, None, "dict", parts)
    if isinstance(value, (tuple, list)) and any(
        isinstance(v, (np.ndarray, tuple, list, dict)) for v in value
    ):
        parts = tuple(_item_of("", f"{full}.{i}", v) for i, v in enumerate(value))
        return Entry(name, None, "tuple" if isinstance(value, tuple) else "list", parts)
    array = np.asarray(value) if not isinstance(value, (str, bytes, type(None))) else None
    if array is None or array.dtype.kind not in "fiub":
        return Entry(name, Leaf(full, name, "constant", value=value))
    kinds: dict[str, Kind] = {"f": "float", "b": "bool"}
    kind = kinds.get(array.dtype.kind, "int")
    if not isinstance(value, (np.ndarray, float)) and kind != "float" and array.ndim == 0:
        return Entry(name, Leaf(full, name, "constant", value=value))
    axes = tuple(Length(number=n) for n in array.shape)
    most = int(array.max()) + 1 if kind == "int" and array.size else 2
    return Entry(name, Leaf(full, name, kind, axes, Length(number=most)))
