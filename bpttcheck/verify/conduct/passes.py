"""One forward and one backward pass at given arrays, and the rounding bar of their results.

Of a cell it is one step, of a layer the whole sequence. Results are compared by their paths, such
as ``"d_params['W']"``, so that the order of a dict's keys does not matter.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.calibration import LAW_COPIES, LIMIT
from bpttcheck.contract import Array, is_float
from bpttcheck.errors import ContractError
from bpttcheck.judge.run import Run
from bpttcheck.judge.verdict import rounding, width
from bpttcheck.problems.problem import Problem
from bpttcheck.results.records import Case
from bpttcheck.subject.probe import NAMES, Names
from bpttcheck.subject.user_code import Notes, call
from bpttcheck.subject.values import Bits, arrays, same

Change = Callable[[str, Array], Array]
"""From an argument's path and array to another array."""


@dataclass(frozen=True)
class Arguments:
    """The arguments of one forward and one backward pass.

    Args:
        names: the names of the arguments.
        values: arguments by name; ``"mask"`` is among them if there is one.
    """

    names: Names
    values: Mapping[str, Any]

    @classmethod
    def of(cls, kind: str, problem: Problem) -> Arguments:
        """Those of a problem: for a cell, of its first step.

        Args:
            kind: ``"cell"`` or ``"layer"``.
            problem: the problem, with at least one step for a cell.
        """
        names, p = NAMES[kind], problem
        x, d_y = (p.xs[0], p.d_ys[0]) if kind == "cell" else (p.xs, p.d_ys)
        values: dict[str, Any] = {
            names.params: p.params, names.state: p.state0, names.x: x,
            names.d_state: p.d_state, names.d_y: d_y,
        }  # fmt: skip
        if kind == "layer" and p.mask is not None:
            values["mask"] = p.mask
        return cls(names, values).changed(lambda _, leaf: np.array(leaf, order="C"))

    def leaves(self) -> dict[str, Array]:
        """Every array by its path."""
        return {
            f"{name}{path}": np.asarray(leaf)
            for name, tree in self.values.items()
            for path, leaf in zip(trees.structure(tree).paths, trees.leaves(tree), strict=True)
        }

    def changed(self, change: Change) -> Arguments:
        """The same arguments with every array changed."""

        def one(name: str, tree: Any) -> Any:
            shape = trees.structure(tree)
            pairs = zip(shape.paths, trees.leaves(tree), strict=True)
            return shape.unflatten([change(f"{name}{path}", leaf) for path, leaf in pairs])

        return replace(self, values={name: one(name, tree) for name, tree in self.values.items()})

    def with_leaves(self, other: Mapping[str, Array]) -> Arguments:
        """The same arguments, some of the arrays replaced."""
        return self.changed(lambda path, leaf: other.get(path, leaf))

    def copy(self) -> Arguments:
        """Fresh arrays in fresh containers."""
        return self.changed(lambda _, leaf: np.array(leaf))

    def cast(self, dtype: Any, only: Callable[[str], bool] = lambda _: True) -> Arguments:
        """The floating arrays whose path ``only`` accepts, in another dtype; the mask stays."""

        def one(path: str, leaf: Array) -> Array:
            return leaf.astype(dtype) if is_float(leaf) and path != "mask" and only(path) else leaf

        return self.changed(one)

    def noisy(self, rng: np.random.Generator, unit: float) -> Arguments:
        """Every float times ``1 + unit u``, with ``u`` of variance one."""

        def one(path: str, leaf: Array) -> Array:
            if path == "mask" or not is_float(leaf):
                return leaf
            u = rng.uniform(-np.sqrt(3), np.sqrt(3), np.shape(leaf))
            return np.asarray(np.asarray(leaf, np.float64) * (1 + unit * u)).astype(leaf.dtype)

        return self.changed(one)

    @property
    def dtype(self) -> Any:
        """The dtype of the inputs."""
        return np.asarray(self.values[self.names.x]).dtype


@dataclass(frozen=True)
class Passes:
    """Calls a subject's two methods.

    Args:
        subject: a cell or a layer that keeps its contract.
        kind: ``"cell"`` or ``"layer"``.
        notes: where warnings of the subject's code go.
    """

    subject: Any
    kind: str
    notes: Notes | None = None

    @property
    def names(self) -> Names:
        """The names of the methods, their arguments and their results."""
        return NAMES[self.kind]

    def forward(self, given: Arguments) -> tuple[Any, dict[str, Any]]:
        """The cache, and the two other results by name.

        Raises:
            ContractError: the subject's code raised, or did not return three things.
        """
        names = self.names
        method = getattr(self.subject, names.forward)
        args = [given.values[name] for name in names.forward_arguments]
        args += [given.values["mask"]] if "mask" in given.values else []
        found = self._three(names.forward, call(names.forward, method, *args, notes=self.notes))
        results = dict(zip(names.outputs, found, strict=True))
        return results.pop(names.cache), results

    def backward(self, given: Arguments, cache: Any) -> dict[str, Any]:
        """The three gradients by name.

        Raises:
            ContractError: the subject's code raised, or did not return three things.
        """
        names = self.names
        method = getattr(self.subject, names.backward)
        first, second = (given.values[name] for name in names.cotangents)
        found = call(
            names.backward, method, given.values[names.params], cache, first, second,
            notes=self.notes,
        )  # fmt: skip
        return dict(zip(names.gradients, self._three(names.backward, found), strict=True))

    def both(self, given: Arguments) -> Bits:
        """Outputs and gradients by their paths: the subject's own arrays, not copies."""
        cache, outputs = self.forward(given)
        return flat({**outputs, **self.backward(given, cache)})

    def method_of(self, item: str) -> str:
        """The method that returns an item."""
        names = self.names
        forward = any(item.startswith(name) for name in names.outputs)
        return names.forward if forward else names.backward

    def is_output(self, item: str) -> bool:
        """True if the forward method returns the item."""
        return self.method_of(item) == self.names.forward

    def _three(self, method: str, result: Any) -> tuple[Any, Any, Any]:
        if isinstance(result, tuple) and len(result) == 3:
            return result
        raise ContractError(f"{method}: returned no tuple of three items", method=method)


def small_case(
    run: Run, T: int, B: int, n_in: int, n_hidden: int, dtype: str = "", mask: str = "none"
) -> Case:
    """An ordinary case of given sizes, or the nearest that the subject allows.

    Args:
        run: the subject.
        T: time steps.
        B: batch rows.
        n_in: width of the inputs.
        n_hidden: hidden size.
        dtype: the dtype; empty: the first of the run.
        mask: kind of mask, for a subject that has masks.
    """
    case = replace(run.cases.case(0, free=True), regime="ordinary", dtype=dtype or run.dtypes[0])
    if run.subject.traits.fixed_sizes:
        return case
    subject = run.subject
    T, B = _nearest(T, subject.lengths), _nearest(B, subject.batches)
    # Unsupported kinds of mask are dropped, as are those that would mask nothing.
    masked = mask in subject.masks and T * B > 1
    case = replace(case, T=T, B=B, mask=mask if masked else "none", index=-1)
    return case if run.cases.sizes is not None else replace(case, n_in=n_in, n_hidden=n_hidden)


def _nearest(wanted: int, allowed: Sequence[int] | None) -> int:
    return min(allowed, key=lambda size: (abs(size - wanted), size)) if allowed else wanted


def argument_of(path: str) -> str:
    """The argument's name in a path: ``"params"`` of ``"params['W']"``."""
    return re.split(r"[\[.]", path, maxsplit=1)[0]


class RepeatBudget:
    """A time limit for repetitions: CPU time of this thread, and four times as much wall time.

    So a busy machine does not matter, and a subject that waits (for a device, say) gets its time.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._worked, self._started = time.thread_time(), time.perf_counter()

    @property
    def left(self) -> bool:
        """True while neither limit is reached."""
        waited = time.perf_counter() - self._started
        if waited < self._seconds:  # so the thread has worked less: its clock is slow to read
            return True
        return time.thread_time() - self._worked < self._seconds and waited < 4 * self._seconds


def flat(results: Mapping[str, Any]) -> Bits:
    """Arrays by their paths."""
    return {item: a for name, value in results.items() for item, a in arrays(value, name).items()}


def finite(results: Bits) -> bool:
    """True if no floating result is NaN or infinite."""
    return all(np.isfinite(a).all() for a in results.values() if a.dtype.kind in "fc")


class Rounding:
    """How far rounding may move the results of one point: the bar of the laws, on demand.

    ``s`` is the rms of runs whose arguments are perturbed by one rounding unit, with the floors of
    the error model; results may differ by ``LIMIT s``.

    Args:
        passes: the subject.
        given: the point.
        value: the results there.
        unit: rounding unit; None: that of the inputs' dtype.
        extra: by item, what is added to ``s``.
        moved: one of the two that are compared is of arguments moved by a rounding unit, which the
            subject may amplify: a difference is not expected to be small beside everything.
    """

    def __init__(
        self,
        passes: Passes,
        given: Arguments,
        value: Bits,
        unit: float | None = None,
        extra: Mapping[str, Array] | None = None,
        moved: bool = False,
    ) -> None:
        self._moved = moved
        self._passes, self._given = replace(passes, notes=None), given.copy()
        self._value = {item: np.array(a) for item, a in value.items() if a.dtype.kind == "f"}
        self._unit, self._tiny = rounding(given.dtype)
        self._unit = self._unit if unit is None else unit
        self._extra = extra or {}
        self._widths: dict[int, dict[str, Array]] = {}

    @property
    def largest(self) -> float:
        """The largest entry of any result or argument."""
        every = [*self._value.values(), *self._given.leaves().values()]
        sizes = [np.abs(a).max(initial=0.0) for a in every if a.dtype.kind == "f"]
        return float(max(sizes, default=0.0))

    def ratio(self, item: str, value: Array, other: Array) -> float:
        """The largest ``|value - other| / s``; infinite if they cannot be compared."""
        if same(value, other):
            return 0.0
        if value.shape != other.shape or value.dtype.kind != "f" or other.dtype.kind != "f":
            return np.inf if value.shape != other.shape or (value != other).any() else 0.0
        for copies in (LAW_COPIES, _MANY):  # a few may agree by luck
            s = self._width(item, copies)
            if s is None or s.shape != value.shape:
                return np.inf
            with np.errstate(all="ignore"):
                gap = np.abs(np.asarray(other, np.float64) - np.asarray(value, np.float64))
                equal = (value == other) | (np.isnan(value) & np.isnan(other))
                ratios = np.where(equal, 0.0, np.where(np.isfinite(gap), gap / s, np.inf))
            ratio = float(ratios.max(initial=0.0))
            if ratio <= LIMIT:
                break
        return ratio

    def differing(self, value: Bits, other: Bits) -> list[str]:
        """The items, in order, that rounding does not explain."""
        return [
            item
            for item, one in value.items()
            if item not in other or self.ratio(item, one, other[item]) > LIMIT
        ]

    def explains(self, item: str, value: Array, other: Array) -> bool:
        """True if the difference is small beside everything at this point, and below the bar.

        The first condition prevents random code from setting its own bar.
        """
        if value.shape != other.shape or value.dtype != other.dtype or value.dtype.kind != "f":
            return False
        with np.errstate(all="ignore"):
            gap = float(np.max(np.abs(other - value), initial=0.0))
        if not (self._moved or gap <= _LAST_DIGITS * self._unit * self.largest):
            return False
        return self.ratio(item, value, other) <= LIMIT

    def _width(self, item: str, copies: int) -> Array | None:
        if copies not in self._widths:
            self._widths[copies] = self._measured(copies)
        return self._widths[copies].get(item)

    def _measured(self, count: int) -> dict[str, Array]:
        rng = np.random.default_rng(17)
        copies: list[Bits] = []
        for _ in range(count):
            try:
                found = self._passes.both(self._given.noisy(rng, self._unit))
            except ContractError:
                continue  # a point that the code rejects says nothing about rounding
            copies.append({item: np.array(a, np.float64) for item, a in _floats(found).items()})
        widths: dict[str, Array] = {}
        for item, value in self._value.items():
            near = [c[item] for c in copies if item in c and c[item].shape == value.shape]
            r = np.asarray(value, np.float64)
            stack = np.stack(near) if near else r[None] * (1 + self._unit)
            widths[item] = width(r, stack, self._unit, self._tiny) + self._extra.get(item, 0.0)
        return widths


_MANY = 16 * LAW_COPIES

_LAST_DIGITS = 1e3
"""Differences beyond this many rounding units of the largest number are never rounding.

Sums of a hundred terms in another order differ by less than twenty units of their largest term.
"""


def _floats(results: Bits) -> Bits:
    return {item: a for item, a in results.items() if a.dtype.kind == "f"}
