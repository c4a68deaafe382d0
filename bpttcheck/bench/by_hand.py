"""The hand-written NumPy implementations, as they are, deferred and fused, and their call overhead.

The floor of a time is the overhead of the NumPy calls in each step: one call costs some hundred
nanoseconds before it computes anything. The calls of a step are counted by running the layer at two
lengths with a counting stand-in for ``np``, and each is timed on arrays of one number, or of their
actual size. The arithmetic in the first case, and Python itself in both, come on top; so do
operations that do not use the name ``np`` of a module, such as an operator between two arrays.
"""

from __future__ import annotations

import sys
import timeit
from collections import Counter
from collections.abc import Generator, Hashable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from operator import attrgetter
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np

from bpttcheck.bench.form import Blocks, PreparedRun, by_name
from bpttcheck.contract import Array, Layer
from bpttcheck.deferred import layer as deferred_layer
from bpttcheck.errors import ContractError, Declined
from bpttcheck.problems.problem import Problem
from bpttcheck.subject.subject import Subject
from bpttcheck.subject.user_code import call
from bpttcheck.traits import trait


def as_it_is(subject: Subject, problem: Problem) -> PreparedRun:
    """The subject's own code: a cell step by step, or a layer."""
    methods = ("step", "step_vjp") if subject.kind == "cell" else ("forward", "vjp")
    return _ready(subject.layer, problem, methods)


def fused(subject: Subject, problem: Problem) -> PreparedRun:
    """The fused layer of this cell.

    Raises:
        Declined: there is none.
    """
    layer = fused_layer(subject.target)
    if layer is None:
        raise Declined("this package has no fused form of it")
    ready = _ready(layer, problem, ("forward", "vjp"))
    return replace(
        ready,
        floor=lambda: (seconds(layer, problem), seconds_at_size(layer, problem)),
    )


def deferred(subject: Subject, problem: Problem) -> PreparedRun:
    """The cell with the gradients of its parameters in one call over the rows of all steps.

    Raises:
        Declined: it is no cell, it cannot be split, or there is a fused layer of it.
    """
    if subject.kind != "cell":
        raise Declined("the gradients of a cell are deferred, not those of a layer")
    if fused_layer(subject.target) is not None:
        raise Declined("this package has a fused form of it, which defers them too")
    try:
        layer = deferred_layer(subject.target, form="deferred")
    except ContractError as error:
        raise Declined(str(error)) from error
    return _ready(layer, problem, ("forward", "vjp"))


def fused_layer(cell: Any) -> Layer | None:
    """The fused layer whose reference is equal to ``cell``, None if there is none."""
    from bpttcheck.bptt.fused import FUSED

    for make in FUSED.values():
        layer = make()
        if type(trait(layer, "reference")) is not type(cell):
            continue
        activation = getattr(cell, "activation", None)
        layer = layer if activation is None else make(activation=activation)
        return layer if layer.reference == cell else None
    return None


def _ready(layer: Layer, problem: Problem, methods: tuple[str, str]) -> PreparedRun:
    forward, vjp = methods
    params, xs, state0 = problem.params, problem.xs, problem.state0

    def run() -> Any:
        ys, state_T, tape = layer.forward(params, xs, state0)
        return layer.vjp(params, tape, problem.d_ys, problem.d_state), ys, state_T

    def at(other: Problem) -> Blocks:
        _, _, tape = call(forward, layer.forward, other.params, other.xs, other.state0)
        return blocks((call(vjp, layer.vjp, other.params, tape, other.d_ys, other.d_state),))

    def blocks(result: Any) -> Blocks:
        return by_name(problem, *result[0])

    return PreparedRun(run, blocks, at=at)


# The difference of two lengths excludes what is done once per sequence.
_SHORT, _LONG = 2, 12
_MEDIANS, _SAMPLES, _CALLS = 15, 9, 200
_LONGEST_SAMPLE = 1e-4  # seconds


@dataclass(frozen=True)
class Given:
    """One argument of a call, equal to another on which the call costs the same.

    Args:
        kind: the dtype of an array, else the type of the value: a shape that depends on the length
            does not make it another call.
        ndim: of an array, -1 for another value.
        layout: shape and strides of an array, where they matter; else empty.
        value: the other value; None where it cannot be repeated, such as a list of arrays.
    """

    kind: str
    ndim: int = -1
    layout: tuple[tuple[int, ...], ...] = ()
    value: Any = field(default=None, compare=False)

    @classmethod
    def of(cls, value: Any, at_size: bool = False) -> Given:
        """The argument ``value``."""
        if isinstance(value, np.ndarray):
            layout = (value.shape, value.strides) if at_size else ()
            return cls(value.dtype.str, value.ndim, layout)
        return cls(type(value).__name__, value=value if isinstance(value, Hashable) else None)

    def again(self) -> Any:
        """The value, or an array of one number, or of zeros where there is a layout.

        Raises:
            Declined: the value was not kept.
        """
        if self.ndim < 0 and type(self.value).__name__ != self.kind:
            raise Declined(f"an argument of NumPy of type {self.kind} cannot be repeated")
        if self.ndim < 0:
            return self.value
        return (
            _zeros(self.kind, *self.layout) if self.layout else np.ones((1,) * self.ndim, self.kind)
        )


@dataclass(frozen=True)
class CountedCall:
    """One way to call a function of NumPy.

    Args:
        name: of the function, such as ``"add"`` or ``"add.reduce"``.
        given: the positional arguments.
        named: the keyword arguments, such as ``out``.
    """

    name: str
    given: tuple[Given, ...]
    named: tuple[tuple[str, Given], ...] = ()


def seconds(layer: Layer, problem: Problem) -> float:
    """The floor of one forward and backward pass of ``layer`` on ``problem``.

    Raises:
        Declined: a call of the layer could not be repeated on small arrays.
    """
    counts = calls_per_step(layer, problem)
    return len(problem.xs) * sum(count * cost(call) for call, count in counts.items())


def seconds_at_size(layer: Layer, problem: Problem) -> float:
    """The cost of the NumPy calls in all steps on arrays of their actual sizes.

    Raises:
        Declined: a call of the layer could not be repeated.
    """
    counts = _counted(layer, problem, _LONG, at_size=True)
    # A call made less often than once per step is not part of every step.
    every = {call: count / _LONG for call, count in counts.items() if count >= _LONG}
    return len(problem.xs) * sum(count * cost(call) for call, count in every.items())


def calls_per_step(layer: Layer, problem: Problem) -> dict[CountedCall, float]:
    """How often each call is made in a step of ``layer``, forward and backward together.

    Args:
        layer: a layer in NumPy whose module, and those it uses, import NumPy as ``np``.
        problem: gives rows and widths, for a layer may work on blocks of steps that depend on them;
            its length does not matter.
    """
    short, long = (_counted(layer, problem, T) for T in (_SHORT, _LONG))
    more = {call: (long[call] - short[call]) / (_LONG - _SHORT) for call in long}
    return {call: count for call, count in more.items() if count > 0}


@cache
def cost(call: CountedCall) -> float:
    """Seconds of one such call: the best of several medians.

    Raises:
        Declined: it cannot be repeated.
    """
    names = {f"a{i}": one.again() for i, one in enumerate(call.given)}
    named = {f"k_{key}": one.again() for key, one in call.named}
    arguments = [*names, *(f"{key}=k_{key}" for key, _ in call.named)]
    known = {"f": attrgetter(call.name)(np), **names, **named}
    # The call is generated, because a call with *args and **kwargs costs more.
    timer = timeit.Timer(f"f({', '.join(arguments)})", globals=known)
    try:
        timer.timeit(1)
    except Exception as error:
        raise Declined(f"np.{call.name} cannot be timed on arrays of its own") from error
    calls = max(1, min(_CALLS, int(_LONGEST_SAMPLE / max(timer.timeit(3) / 3, 1e-9))))
    medians = _MEDIANS if calls > 1 else 1
    return min(median(timer.timeit(calls) / calls for _ in range(_SAMPLES)) for _ in range(medians))


def _zeros(kind: str, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """Zeros, which most calls map to zeros, with the given memory layout."""
    last = sum(abs(step) * (count - 1) for count, step in zip(shape, strides, strict=True))
    memory = np.zeros(last // np.dtype(kind).itemsize + 1, kind)
    return np.lib.stride_tricks.as_strided(memory, shape, [abs(step) for step in strides])


def _counted(layer: Layer, problem: Problem, T: int, at_size: bool = False) -> Counter[CountedCall]:
    # A shorter problem than T steps is repeated, a longer one cut.
    xs, d_ys = (np.resize(a, (T, *a.shape[1:])) for a in (problem.xs, problem.d_ys))
    with _counting(layer, at_size) as counts, np.errstate(all="ignore"):
        tape = layer.forward(problem.params, xs, problem.state0)[2]
        layer.vjp(problem.params, tape, d_ys, problem.d_state)
    return counts


@contextmanager
def _counting(layer: Layer, at_size: bool) -> Generator[Counter[CountedCall]]:
    """Count calls through every ``np`` of the layer's modules, and restore them afterwards."""
    counts: Counter[CountedCall] = Counter()
    modules = _modules(layer)
    stand_in = _Counting(np, "", counts, at_size)
    try:
        for module in modules:
            vars(module)["np"] = stand_in
        yield counts
    finally:
        for module in modules:
            vars(module)["np"] = np


def _modules(layer: Layer) -> list[ModuleType]:
    """The modules with an ``np``: the layer's, and those that it uses of the same package."""
    todo = [sys.modules[type(layer).__module__]]
    package = todo[0].__name__.partition(".")[0]
    found: dict[str, ModuleType] = {}
    while todo:
        module = todo.pop()
        if module.__name__ in found:
            continue
        found[module.__name__] = module
        for value in list(vars(module).values()):
            name = value.__name__ if isinstance(value, ModuleType) else _home(value)
            if name.partition(".")[0] == package and name in sys.modules:
                todo.append(sys.modules[name])
    return [module for module in found.values() if vars(module).get("np") is np]


def _home(value: Any) -> str:
    name = getattr(value, "__module__", "")
    return name if isinstance(name, str) else ""


class _Counting:
    """A stand-in for NumPy, or for one of its functions, that records every call."""

    def __init__(self, target: Any, name: str, counts: Counter[CountedCall], at_size: bool) -> None:
        self._target, self._name, self._counts = target, name, counts
        self._at_size = at_size

    def __getattr__(self, key: str) -> Any:
        found = getattr(self._target, key)
        if isinstance(found, type) or not callable(found):
            return found
        name = f"{self._name}.{key}" if self._name else key
        return _Counting(found, name, self._counts, self._at_size)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = tuple(Given.of(value, self._at_size) for value in args)
        named = tuple((key, Given.of(value, self._at_size)) for key, value in kwargs.items())
        self._counts[CountedCall(self._name, given, named)] += 1
        return self._target(*args, **kwargs)
