"""The hand-written forms in NumPy, as they are and fused, and what they cannot go below.

The floor is the calls of NumPy in each step, at their own cost. One costs some hundred nanoseconds
before it computes anything. The calls of a step are counted by running the layer at two lengths
with a counting stand-in for ``np``, and each is timed on arrays of one number, or of the size that
it has. What is computed in the first case, and Python itself in both, come on top; so do calls that
do not go through the name ``np`` of a module, such as an operator between two arrays.
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
from bpttcheck.errors import Declined
from bpttcheck.problems.problem import Problem
from bpttcheck.subject.subject import Subject
from bpttcheck.subject.user_code import call
from bpttcheck.traits import trait


def as_it_is(subject: Subject, problem: Problem) -> PreparedRun:
    """The subject's own code: a cell step by step, or a layer."""
    methods = ("step", "step_vjp") if subject.kind == "cell" else ("forward", "vjp")
    return _ready(subject.layer, problem, methods)


def fused(subject: Subject, problem: Problem) -> PreparedRun:
    """The fused layer of the very cell.

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


# Lengths whose difference is taken, so that what is done once for a sequence does not count.
_SHORT, _LONG = 2, 12
_MEDIANS, _SAMPLES, _CALLS = 15, 9, 200
_LONGEST_SAMPLE = 1e-4  # seconds


@dataclass(frozen=True)
class Given:
    """One argument of a call, equal to another on which the call costs the same.

    Args:
        kind: the dtype of an array, else the type of the value: a shape that depends on the length
            makes no other call.
        ndim: of an array, -1 for another value.
        layout: shape and strides of an array, where they are to count; else empty.
        value: the other value; None where it cannot be given again, such as a list of arrays.
    """

    kind: str
    ndim: int = -1
    layout: tuple[tuple[int, ...], ...] = ()
    value: Any = field(default=None, compare=False)

    @classmethod
    def of(cls, value: Any, at_size: bool = False) -> Given:
        """How ``value`` was given."""
        if isinstance(value, np.ndarray):
            layout = (value.shape, value.strides) if at_size else ()
            return cls(value.dtype.str, value.ndim, layout)
        return cls(type(value).__name__, value=value if isinstance(value, Hashable) else None)

    def again(self) -> Any:
        """The value, or an array of one number, or of zeros where there is a layout.

        Raises:
            Declined: the value is not known any more.
        """
        if self.ndim < 0 and type(self.value).__name__ != self.kind:
            raise Declined(f"an argument of NumPy of type {self.kind} cannot be given again")
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
        given: the arguments.
        named: those that were given by name, such as ``out``.
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
    """What the calls of NumPy in all steps cost on arrays of the sizes that they have.

    Raises:
        Declined: a call of the layer could not be repeated.
    """
    counts = _counted(layer, problem, _LONG, at_size=True)
    # What is called less often than there are steps is not called in every step.
    every = {call: count / _LONG for call, count in counts.items() if count >= _LONG}
    return len(problem.xs) * sum(count * cost(call) for call, count in every.items())


def calls_per_step(layer: Layer, problem: Problem) -> dict[CountedCall, float]:
    """How often each call is made in a step of ``layer``, forward and backward together.

    Args:
        layer: a layer in NumPy whose module, and those it uses, know NumPy as ``np``.
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
        Declined: it cannot be made again.
    """
    names = {f"a{i}": one.again() for i, one in enumerate(call.given)}
    named = {f"k_{key}": one.again() for key, one in call.named}
    arguments = [*names, *(f"{key}=k_{key}" for key, _ in call.named)]
    known = {"f": attrgetter(call.name)(np), **names, **named}
    # The call is written out, for a call by *args and **kwargs costs more.
    timer = timeit.Timer(f"f({', '.join(arguments)})", globals=known)
    try:
        timer.timeit(1)
    except Exception as error:
        raise Declined(f"np.{call.name} cannot be timed on arrays of its own") from error
    calls = max(1, min(_CALLS, int(_LONGEST_SAMPLE / max(timer.timeit(3) / 3, 1e-9))))
    medians = _MEDIANS if calls > 1 else 1
    return min(median(timer.timeit(calls) / calls for _ in range(_SAMPLES)) for _ in range(medians))


def _zeros(kind: str, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """Zeros, which stay as they are in most calls, laid out in memory as given."""
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
    """Every ``np`` of the layer's modules counts; afterwards all are themselves again."""
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
    """The module of the layer, and what it uses of the same package, where NumPy is ``np``."""
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
    """Stands for NumPy, or for one of its functions, and notes every call."""

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
