"""The same step at several sizes: what stays, and how what changes follows from the sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from bpttcheck.errors import Declined
from bpttcheck.oracles.step_source.recording import StepRecording, Value, place, record


@dataclass(frozen=True)
class Varying:
    """A number that differs between the sizes.

    Args:
        values: one for each size.
    """

    values: tuple[Any, ...]


@dataclass
class Traced:
    """A step traced at several sizes.

    Args:
        first: the recording at the first size; arguments that differ are :class:`Varying`.
        shapes: of each value of it, at every size.
        sizes: variables of ``step`` that hold a size, with their values.
    """

    first: StepRecording
    shapes: dict[Value, tuple[tuple[int, ...], ...]]
    sizes: dict[str, tuple[int, ...]]


def traced(cell: Any, points: Sequence[tuple[Any, Any, Any]]) -> Traced:
    """Trace the step of a cell at several sizes.

    Args:
        cell: the cell.
        points: its arguments ``(params, state, x)`` at each size.

    Raises:
        Declined: it cannot be traced, or does other operations at other sizes.
    """
    recordings = [record(cell, *point) for point in points]
    first, *others = recordings
    for other in others:
        if [_operation(v) for v in first.values] != [_operation(v) for v in other.values]:
            raise Declined(
                "a step that does other operations at other sizes",
                where=_difference(first, other),
                remedy="array operations whose number does not depend on sizes",
            )
    shapes = {
        value: tuple(r.values[k].shape for r in recordings) for k, value in enumerate(first.values)
    }
    numbers = [{v: k for k, v in enumerate(r.values)} for r in recordings]
    for value, *rest in zip(*(r.values for r in recordings), strict=True):
        value.args = _merged([value.args, *(r.args for r in rest)], numbers)
        value.kwargs = _merged([value.kwargs, *(r.kwargs for r in rest)], numbers)
        if value.array is not None:
            value.array = _merged_array([value.array, *(r.array for r in rest)])
        ones = [tuple(size == 1 for size in shape) for shape in shapes[value]]
        if len(set(ones)) > 1:
            raise Declined("an axis that has one entry at some sizes alone", where=place(value))
    sizes = {
        name: tuple(r.integers[name] for r in recordings)
        for name in first.integers if all(name in r.integers for r in recordings)
    }  # fmt: skip
    return Traced(first, shapes, {n: v for n, v in sizes.items() if len(set(v)) > 1})


def _operation(value: Value) -> Any:
    return value.op, value.part, value.kind, value.known, len(value.shape), len(value.operands)


def _difference(first: StepRecording, other: StepRecording) -> str:
    pairs = zip(first.values, other.values, strict=False)
    return next((place(a) for a, b in pairs if _operation(a) != _operation(b)), "")


def _merged(items: Sequence[Any], numbers: Sequence[dict[Value, int]]) -> Any:
    first = items[0]
    if isinstance(first, Value):
        if len({numbers[i][item] for i, item in enumerate(items)}) > 1:
            raise Declined("a step that does other operations at other sizes")
        return first
    if isinstance(first, (list, tuple)) and len({len(item) for item in items}) == 1:
        parts = [_merged(each, numbers) for each in zip(*items, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    if isinstance(first, dict):
        return {key: _merged([item[key] for item in items], numbers) for key in first}
    if isinstance(first, slice):
        return slice(*(
            _merged([getattr(item, end) for item in items], numbers)
            for end in ("start", "stop", "step")
        ))  # fmt: skip
    return first if _alike(items) else Varying(tuple(items))


def _alike(items: Sequence[Any]) -> bool:
    return len({repr(item) for item in items}) == 1


def _merged_array(arrays: Sequence[Any]) -> Any:
    plain = [np.asarray(a) for a in arrays]
    same = all(p.shape == plain[0].shape and np.array_equal(p, plain[0]) for p in plain)
    return arrays[0] if same else Varying(tuple(arrays))


@dataclass(frozen=True)
class Sizes:
    """Texts for sizes that follow from the shapes of arrays.

    Args:
        known: a text, ``params["W"].shape[1]``, and its value at each size, the best first.
    """

    known: tuple[tuple[str, tuple[int, ...]], ...]

    def text(self, values: Sequence[int]) -> str:
        """A text for a number that is an integer at each size; ``""`` if none is known."""
        wanted = tuple(values)
        if len(set(wanted)) == 1:
            return str(wanted[0])
        for name, sizes in self.known:
            if sizes == wanted:
                return name
        for name, sizes in self.known:
            ratios = {Fraction(w, s) for w, s in zip(wanted, sizes, strict=True)}
            if len(ratios) == 1:
                (ratio,) = ratios
                over = f" // {ratio.denominator}" if ratio.denominator > 1 else ""
                by = f"{ratio.numerator} * " if ratio.numerator != 1 else ""
                return f"{by}{name}{over}"
        for name, sizes in self.known:
            for other, more in self.known:
                if tuple(a + b for a, b in zip(sizes, more, strict=True)) == wanted:
                    return f"{name} + {other}"
                if tuple(a - b for a, b in zip(sizes, more, strict=True)) == wanted:
                    return f"{name} - {other}"
            gaps = {w - s for w, s in zip(wanted, sizes, strict=True)}
            if len(gaps) == 1 and abs(next(iter(gaps))) < 4:
                gap = next(iter(gaps))
                return f"{name} {'+' if gap > 0 else '-'} {abs(gap)}"
        return ""

    def number(self, values: Sequence[Any]) -> str:
        """The same for any number: an integer, its root, or the inverse of either."""
        floats = [float(v) for v in values]
        if all(isinstance(v, (int, np.integer)) for v in values):
            return self.text([int(v) for v in values])
        forms = (
            (lambda v: v, "float({})"), (lambda v: v * v, "{} ** 0.5"),
            (lambda v: 1 / v, "1 / {}"), (lambda v: 1 / (v * v), "{} ** -0.5"),
        )  # fmt: skip
        for back, form in forms:
            if all(v != 0 and abs(back(v) - round(back(v))) < 1e-9 * abs(back(v)) for v in floats):
                text = self.text([round(back(v)) for v in floats])
                if text:
                    return form.format(f"({text})" if " " in text else text)
        return ""
