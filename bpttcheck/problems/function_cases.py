"""The cases of a function with a signature: sizes by letter, values by what an input looks like.

A case's ``T`` is the time axis, ``B`` the batch axis; its ``n_in`` and ``n_hidden`` are the first
two other letters, from which further letters follow. So whatever draws, enlarges or shrinks the
cases of layers does the same for functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from bpttcheck.blocks import D_XS, d_param
from bpttcheck.contract import Array, is_float
from bpttcheck.errors import ContractError
from bpttcheck.problems import large
from bpttcheck.problems.cases import (
    FREE_CASES,
    Cases,
    Scheduled,
    generator,
    scheduled_regime,
    turn_of,
)
from bpttcheck.problems.function_rows import draw_lengths
from bpttcheck.problems.preconditions import Preconditions
from bpttcheck.problems.problem import FEW, GIVEN, NEAR_GIVEN, Problem, Template, nearest
from bpttcheck.problems.values import FREE, NATURAL, Values
from bpttcheck.results.records import Case, Finding
from bpttcheck.signature import Leaf, Signature
from bpttcheck.subject.filled import filled, unfilled
from bpttcheck.subject.subject import Subject
from bpttcheck.subject.user_code import call

# Traced whole, with the loop over time unrolled: programs of few steps. The first round of cases
# uses the first two.
_SHAPES = ((3, 3, 2, 5), (2, 2, 4, 4), (4, 2, 5, 3), (1, 1, 1, 1))
_LONG = 35
_LONGEST, _MOST_ROWS, _WIDEST = 513, 300, 256
_ABOUT = 0.05

# What these choose are cotangents, or lengths: values near given ones may be all of them.
_OF_COTANGENTS = (
    "ordinary", "long", "large_cotangents", "tiny_gradients", "one_sign", "silent_outputs",
    NEAR_GIVEN,
)  # fmt: skip


class FunctionCases(Cases):
    """The cases of a function.

    Args:
        subject: what is under test.
        seed: seed of the sequence.
        dtypes: the dtypes checked.
    """

    def __init__(self, subject: Subject, seed: int, dtypes: Sequence[str]) -> None:
        self.signature: Signature = subject.traits.signature
        super().__init__(subject, seed, dtypes, None)
        self._given = 2 * len(subject.target.points)
        self._only = subject.target.only_points

    def compile_for(self, sizes: tuple[tuple[int, int], ...] | None) -> None:
        """Few shapes: see :data:`_SHAPES`. A function declares its sizes by letter."""
        self.sizes = sizes
        allowed = self.signature.allowed
        rng = np.random.default_rng([self.seed, 0xF5])
        shapes = list(_SHAPES)
        if rng.integers(2):
            shapes[0], shapes[2] = (3, 3, 5, 2), (4, 2, 3, 5)
        self.templates = tuple(
            Template(
                n_in, n_hidden, nearest(T, allowed.get(self.signature.time)),
                nearest(B, allowed.get(self.signature.batch)), exact=True,
            )
            for T, B, n_in, n_hidden in shapes
        )  # fmt: skip

    def letters(self, case: Case) -> dict[str, int]:
        """The size of every letter."""
        return letters(self.signature, case)

    def scheduled(self, index: int, one_step: bool) -> Scheduled:
        """Case ``index``: long and large ones are judged without a program."""
        if self._is_given(index):
            return Scheduled(self.case(index), None, False)
        free = scheduled_regime(index) == "long" or index % FREE_CASES == FREE_CASES - 1
        free = free and not self.subject.traits.fixed_sizes
        return Scheduled(self.case(index, free=free), None, free)

    def template(self, index: int) -> Template:
        """One of few shapes, each compiled once; the first cases share two."""
        some = self.templates[: 2 if index < FEW else None]
        return some[int(generator(self.seed, index, 1).integers(len(some)))]

    def case(self, index: int, *, free: bool = False, steps: int | None = None) -> Case:
        """The structure of case ``index``."""
        if self._is_given(index):
            dtype = self.dtypes[index % len(self.dtypes)]
            return Case(self.seed, index, 1, 1, 1, 1, dtype, "none", GIVEN)
        if free and not self.subject.traits.fixed_sizes:
            case = super().case(index, free=True)
            T = _LONG if case.regime == "long" else min(case.T, 12)
        else:
            case, one = super().case(index), self.template(index)
            case = replace(case, B=one.B, n_in=one.n_in, n_hidden=one.n_hidden)
            T = one.T
        return replace(case, T=T, mask="none")

    def _is_given(self, index: int) -> bool:
        """Whether a case is at a given point."""
        return self._only or index < self._given

    @cached_property
    def plan(self) -> large.LargerSizes:
        """Each letter at and around the block sizes of real kernels, the others small."""
        if self._only:
            return large.LargerSizes((), (), ())
        dtype = "float64" if "float64" in self.dtypes else self.dtypes[0]
        constants = large.neighbours(self.subject.size_constants)
        wanted = sorted({*large.EDGES, *constants})
        cases: list[Case] = []
        always: set[int] = set()

        def add(T: int, B: int, n_in: int, n_hidden: int, meant: int) -> None:
            number = large.FIRST + len(cases)
            cases.append(Case(self.seed, number, T, B, n_in, n_hidden, dtype, "none", "ordinary"))
            if meant in constants:
                always.add(number)

        for i, n in enumerate(wanted):
            if self.signature.time and n <= _LONGEST:
                add(n, 2, 2, 3, n)
            if self.signature.batch and n <= _MOST_ROWS:
                add(2, n, 3, 2, n)
            if n <= _WIDEST:
                add(2, 2, n, wanted[-1 - i] if wanted[-1 - i] <= _WIDEST else 3, n)
        if self.signature.time:
            add(_LONGEST, 1, 2, 2, 0)
        return large.LargerSizes((), (), tuple(cases), frozenset(always))

    def build(self, case: Case, stream: int, freedom: str) -> Problem:
        """The case with values: see :func:`build_function`."""
        return build_function(self.subject, case, stream, freedom)


def letters(signature: Signature, case: Case) -> dict[str, int]:
    """The size of every letter of a signature in a case."""
    others = [x for x in signature.letters if x not in (signature.time, signature.batch)]
    wide = (case.n_in, case.n_hidden)
    found = {signature.time: case.T, signature.batch: case.B}
    for i, letter in enumerate(others):
        found[letter] = wide[i] if i < 2 else max(1, sum(wide) - 3 + i)
    return {x: nearest(found[x], signature.allowed.get(x)) for x in signature.letters}


def build_function(subject: Subject, case: Case, stream: int, freedom: str) -> Problem:
    """Fill a structure with numbers: a function of the case alone.

    Raises:
        ContractError: if the subject's own code fails on the way.
    """
    function, signature = unfilled(subject.target), subject.traits.signature
    is_near = bool(function.points) and (freedom == NATURAL or case.regime == NEAR_GIVEN)
    if is_near and case.regime not in (*_OF_COTANGENTS, GIVEN):
        case = replace(case, regime=NEAR_GIVEN)
    rng = generator(case.seed, max(case.index, 0) + (case.index < 0) * 10**6, stream)
    dtype = np.dtype(case.dtype)
    sizes = letters(signature, case)
    shown = replace(case, letters=tuple(sizes.items()))
    values = Values(
        case, rng, subject.traits.domain, subject.thresholds, freedom, turn_of(case), True
    )
    if function.only_points or case.regime == GIVEN:
        given = function.points[case.index // 2 % len(function.points)]
        params = {n: v.astype(dtype) if is_float(v) else np.array(v) for n, v in given.items()}
        sizes = function.letters(params)
        shown = replace(
            shown, T=sizes.get(signature.time, 1), B=sizes.get(signature.batch, 1),
            letters=tuple(sizes.items()),
        )  # fmt: skip
    else:
        params = {
            name: _value(signature, name, leaf, sizes, values)
            for name, leaf in signature.expanded(sizes)
            if leaf.kind != "constant"
        }
        if is_near:
            given = function.points[turn_of(case) % len(function.points)]
            params |= _near(given, params, values)
    nothing = np.zeros((1, 1, 0), dtype)
    _, _, tape = call("forward", function.forward, params, nothing, ())
    outputs = dict(signature.expanded_outputs(sizes))
    d_ys = np.concatenate(
        [np.zeros(0), *(
            _cotangent(signature, outputs.get(name), np.shape(value), values)
            for name, value in tape.outputs.items()
        )]
    )  # fmt: skip
    problem = Problem(shown, params, nothing, (), None, d_ys.reshape(1, 1, -1).astype(dtype), ())
    object.__setattr__(problem, "original", stream == 0 and freedom == FREE)
    return problem


def _near(given: Mapping[str, Any], drawn: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """Values about those of a given point, where the shapes are the same.

    A function that does not live with any number lives with these.
    """
    rng, dtype = values.rng, np.dtype(values.case.dtype)
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name in drawn and np.shape(drawn[name]) == value.shape:
            moved = value * (1 + _ABOUT * rng.uniform(-1, 1, value.shape))
            near = values.within(name, moved).astype(dtype) if is_float(value) else value
            found[name] = np.array(near)
    return found


def _value(
    signature: Signature, name: str, leaf: Leaf, sizes: Mapping[str, int], values: Values
) -> Any:
    """The value of one input: data if it has a batch or time axis, else a parameter."""
    shape, rng, case = leaf.shape(sizes), values.rng, values.case
    if leaf.kind in ("packs", "offsets", "within"):
        return draw_lengths(leaf, sizes, rng)
    if leaf.kind == "int":
        return values.within(name, rng.integers(0, leaf.below.at(sizes), shape))
    if leaf.kind == "bool":
        return values.within(name, rng.random(shape) < 0.75)
    time, batch = leaf.axis(signature.time), leaf.axis(signature.batch)
    if time is None and batch is None:
        fan_in = shape[-1] if len(shape) > 1 else 1
        natural = rng.standard_normal(shape) / np.sqrt(max(fan_in, 1))
        return np.asarray(values.parameter(name, np.asarray(natural, np.dtype(case.dtype))))
    steps = sizes[signature.time] if time is not None else 1
    rows = sizes[signature.batch] if batch is not None else 1
    rest = prod(shape) // max(steps * rows, 1)
    data = replace(values, case=replace(case, T=steps, B=rows, n_in=rest)).inputs()
    if time is None:  # a state: zeros in a regime that says so
        data = np.zeros_like(data) if case.regime in ("zeros", "own_initial_state") else data
    data = _laid_out(data, shape, time, batch)
    return values.within(name, data).astype(np.dtype(case.dtype))


def _laid_out(data: Array, shape: tuple[int, ...], time: int | None, batch: int | None) -> Array:
    """``(T, B, rest)`` in the order of the axes of a shape."""
    order = [axis for axis in (time, batch) if axis is not None]
    order += [axis for axis in range(len(shape)) if axis not in order]
    moved = data.reshape([shape[axis] for axis in order])
    return np.ascontiguousarray(np.transpose(moved, np.argsort(order)))


def _cotangent(
    signature: Signature, leaf: Leaf | None, shape: tuple[int, ...], values: Values
) -> Array:
    """A cotangent of one output, as the regime wants it."""
    time = None if leaf is None else leaf.axis(signature.time)
    batch = None if leaf is None else leaf.axis(signature.batch)
    steps = 1 if time is None else shape[time]
    rows = 1 if batch is None else shape[batch]
    rest = prod(shape) // max(steps * rows, 1)
    case = replace(values.case, T=steps, B=rows)
    plain = values.rng.standard_normal((steps, rows, rest))
    scaled, _ = replace(values, case=case).scaled(plain, ())
    return _laid_out(scaled, shape, time, batch).reshape(-1)


def preconditions(subject: Subject, dtypes: Sequence[str], seed: int) -> Preconditions:
    """What a function refuses, and which gradients it leaves out, found by running it.

    A dtype in which it does not compute (a buffer of another, an output that is narrower) is left
    out; inputs for which it returns no gradient are not checked.

    Raises:
        ContractError: it runs in no dtype; what it raised.
    """
    # A function has no input of its own beside those that its signature names.
    known = Preconditions(subject, tuple(dtypes), absent=(D_XS,))
    cases = FunctionCases(subject, seed, dtypes)
    problem: Problem | None = None
    first: ContractError | None = None
    taken: list[str] = []
    for dtype in dtypes:
        case = replace(cases.case(0), dtype=dtype, regime="ordinary", index=-1)
        try:
            one = build_function(subject, case, 0, FREE)
            narrow = _narrower(subject, one)
        except ContractError as error:
            first = first or error
            known.remarks.append(
                Finding("contract", error.method, "dtype",
                        f"{dtype} is refused, and was not checked: {error}",
                        exception=str(error.__cause__ or ""))
            )  # fmt: skip
            continue
        if narrow:
            text = f"computes in {narrow} where it is given {dtype}, which was not checked"
            known.remarks.append(Finding("contract", subject.target.methods[1], "dtype", text))
            continue
        taken.append(dtype)
        problem = problem or one
    if not taken:
        if first is not None and len(known.remarks) == len(dtypes):
            known.remarks.clear()
        return known
    known.dtypes = tuple(taken)
    assert problem is not None
    missing, called = _returned(subject, problem)
    # ``d_params['x']`` is ours: an input is called after what its author calls its gradient.
    known.names = {d_param(name): called.get(name, f"d_{name}") for name in problem.params}
    known.absent = (*map(d_param, missing), D_XS)
    if missing:
        known.subject = replace(subject, target=filled(subject.target, "layer"))
    return known


def _narrower(subject: Subject, problem: Problem) -> str:
    """The dtype of a result with fewer digits than the arguments, or ``""``."""
    function = unfilled(subject.target)
    args: Any = (problem.params, problem.xs, ())
    _, _, tape = call(function.methods[0], function.forward, *args)
    found, _ = call(function.methods[1], function.gradients, tape, problem.d_ys)
    widest = np.finfo(problem.dtype).eps
    for value in (*tape.outputs.values(), *found.values()):
        if value is not None and is_float(value) and np.finfo(np.asarray(value).dtype).eps > widest:
            return str(np.asarray(value).dtype)
    return ""


def _returned(subject: Subject, problem: Problem) -> tuple[list[str], dict[str, str]]:
    """The inputs of which no gradient is returned, and what the others are called."""
    function = unfilled(subject.target)
    _, _, tape = call(function.methods[0], function.forward, problem.params, problem.xs, ())
    found, called = call(function.methods[1], function.gradients, tape, problem.d_ys)
    return [name for name in problem.params if name not in found], called
