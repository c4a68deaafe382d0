"""What the rules for whole arrays share: the parts that they send, and what they ask of sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bpttcheck.errors import Declined
from bpttcheck.oracles.step_source import terms
from bpttcheck.oracles.step_source.forward import Forward
from bpttcheck.oracles.step_source.recording import Value
from bpttcheck.oracles.step_source.terms import Term, number, total
from bpttcheck.oracles.step_source.traces import Sizes


@dataclass(frozen=True)
class Piece:
    """The adjoint of a slice along one axis.

    Args:
        term: the adjoint.
        axis: the axis.
        bounds: start and end, at each size.
        at: the slice as an index.
    """

    term: Term
    axis: int
    bounds: tuple[tuple[int, int], ...]
    at: tuple[Any, ...]


@dataclass(frozen=True)
class Scatter:
    """The adjoint of some entries: to be added at an index.

    Args:
        term: the adjoint.
        at: the index.
        repeats: True if an entry may be met twice.
    """

    term: Term
    at: tuple[Any, ...]
    repeats: bool


@dataclass(frozen=True)
class ClearedPart:
    """The adjoint of an array of which some entries were then overwritten: they get nothing.

    Args:
        term: the adjoint.
        at: the index of what was overwritten.
    """

    term: Term
    at: tuple[Any, ...]


Part = Term | Piece | Scatter | ClearedPart
Sent = Iterator[tuple[Value, Part]]


class ArrayScene:
    """What the rules ask for.

    Args:
        forward: writes operands.
        shapes: of each value, at every size.
    """

    def __init__(self, forward: Forward, shapes: dict[Value, Any]) -> None:
        self.forward, self.shapes = forward, shapes

    @property
    def sizes(self) -> Sizes:
        """Texts of sizes."""
        return self.forward.sizes

    def full(self, d: Term, v: Value) -> Term:
        """An adjoint in the shape of its value."""
        return terms.broadcast(d, v, v.shape)

    def bound(self, values: Sequence[int], v: Value) -> Term | int:
        """The start or the end of a slice.

        Raises:
            Declined: no size explains it.
        """
        text = self.sizes.text(values)
        if not text:
            raise Declined(f"{v.op} at a place that no size explains")
        return int(text) if text.isdigit() else number(values[0], text)


Rule = Callable[[ArrayScene, Value, Term], Sent]


def given(*pairs: tuple[Value, Term]) -> Sent:
    """To each operand its term, of which a real one takes the real part."""
    for operand, term in pairs:
        yield operand, term if operand.kind == "c" else terms.real(term)


def batched(term: Term, operand: Value) -> Term:
    """Summed over the leading axes along which an operand was repeated."""
    term = term if operand.kind == "c" else terms.real(term)
    extra = len(term.shape) - len(operand.shape)
    if extra:
        term = total(term, tuple(range(extra)), keep=False)
    kept = tuple(
        k for k, (a, b) in enumerate(zip(term.shape, operand.shape, strict=True)) if a != b
    )
    return total(term, kept, keep=True)


def axis_of(v: Value, position: int, default: Any) -> Any:
    """The argument ``axis`` of an operation."""
    if "axis" in v.kwargs:
        return v.kwargs["axis"]
    return v.args[position] if len(v.args) > position else default


def unsupported(v: Value) -> Declined:
    """An operation with arguments of which no adjoint is known here."""
    return Declined(f"{v.op} in this form, of which no adjoint is known here")
