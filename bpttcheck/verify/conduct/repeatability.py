"""Does a subject give the same results every time, and change nothing that it was given?

A race that corrupts one call in forty is found by :data:`CALLS` calls with a probability above
99.9 %. Sums whose order changes from call to call vary by rounding alone: this is measured,
reported, and included in the bars of everything that is compared with such gradients. Everything
else is compared bit by bit: the same arrays must give the same result, however often and in
whatever order the methods run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bpttcheck.contract import Array, Params, State, is_float
from bpttcheck.errors import ContractError
from bpttcheck.judge.run import SEQUENCE, Run
from bpttcheck.problems.problem import Problem
from bpttcheck.subject.probe import NAMES, Impurity, LentArguments, Probe, Results
from bpttcheck.subject.user_code import Notes
from bpttcheck.subject.values import Bits, arrays, bits, dtype_remedy, same
from bpttcheck.verify.conduct.passes import Arguments, Passes, RepeatBudget, Rounding, flat

CALLS = 300
"""Repetitions: an event in one call of forty is missed with probability (39/40)^300 = 5e-4."""

SECONDS = 0.5
"""A slow subject is repeated no longer than this; the number of repetitions is reported."""

ENOUGH = 118
"""With fewer repetitions, an event in one call of forty is missed in at least 5 % of all runs."""

SPREAD_CALLS = 16
"""Repetitions of one problem that measure how its gradients vary."""

_ALIKE = 4


@dataclass
class Repeats:
    """The results of repetitions at one point.

    Args:
        calls: how often forward and backward ran.
        ulps: by item, the largest difference, in units of the last place of the item's largest
            entry, of those that rounding explains.
        garbage: by item, how many calls differed by more than rounding, and the largest difference.
        error: how a repetition failed where the first had not, or None.
    """

    calls: int = 0
    ulps: dict[str, float] = field(default_factory=dict)
    garbage: dict[str, tuple[int, float]] = field(default_factory=dict)
    error: ContractError | None = None


def repeated(
    passes: Passes, given: Arguments, calls: int = CALLS, seconds: float = SECONDS
) -> Repeats:
    """Run forward and backward at one point again and again.

    Args:
        passes: the subject.
        given: the point.
        calls: how often, unless it takes longer than ``seconds``.
        seconds: work after which no further call is begun.

    Returns:
        The observations, with the number of calls made.

    Raises:
        ContractError: the first call failed.
    """
    budget = RepeatBudget(seconds)
    first = bits(passes.both(given.copy()))
    seen, bar = Repeats(calls=1), Rounding(passes, given, first)
    lent = given.copy()
    while seen.calls < calls and budget.left:
        seen.calls += 1
        try:
            cache, outputs = passes.forward(lent)
            _compare(seen, bar, first, flat(outputs))
            _compare(seen, bar, first, flat(passes.backward(lent, cache)))
        except ContractError as error:
            seen.error = error
            break
    return seen


def _compare(seen: Repeats, bar: Rounding, first: Bits, again: Bits) -> None:
    for item, now in again.items():
        if item not in first or same(first[item], now):
            continue
        gap = _gap(first[item], now)
        if bar.explains(item, first[item], now):
            unit = float(np.spacing(np.abs(first[item]).max(initial=0.0)))
            seen.ulps[item] = max(seen.ulps.get(item, 0.0), gap / unit)
        else:
            count, largest = seen.garbage.get(item, (0, 0.0))
            seen.garbage[item] = (count + 1, max(largest, gap))


def _gap(value: Array, other: Array) -> float:
    if value.shape != other.shape or value.dtype.kind not in "fiub":
        return float("nan")
    with np.errstate(all="ignore"):
        return float(np.max(np.abs(other.astype(float) - value.astype(float)), initial=0.0))


def unrepeatable(passes: Passes, seen: Repeats, deterministic: bool = False) -> list[Impurity]:
    """The differences between many runs at one point.

    Args:
        passes: the subject.
        seen: the result of :func:`repeated`.
        deterministic: the subject promises equal bits: no difference is left to rounding.

    Returns:
        For each item that varied by more than rounding, one impurity; for all that vary by rounding
        alone together, one of conduct.
    """
    found: list[Impurity] = []
    for item, (count, largest) in seen.garbage.items():
        method = passes.method_of(item)
        found.append(Impurity(method, item, (
            f"{method}: {item} differs in {count} of {seen.calls} calls with the same arguments, "
            f"by {largest:.2g} at most: it is random, or threads race for the same memory"
        )))  # fmt: skip
    if seen.error is not None:
        e = seen.error
        found.append(Impurity(e.method, e.item, (
            f"{e.method}: fails in call {seen.calls} with the same arguments, where the first call "
            f"did not: {e}"
        )))  # fmt: skip
    if seen.ulps and not found:
        item = max(seen.ulps, key=lambda name: seen.ulps[name])
        method = passes.method_of(item)
        text = (
            f"{method}: not bitwise reproducible: up to {max(1, round(seen.ulps[item]))} ulp of "
            f"its largest entry in {item} in {seen.calls} calls, as of sums whose order changes"
        )
        if deterministic:
            text += "; it declares `deterministic = True`, so equal bits are expected"
        found.append(Impurity(method, item, text, "" if deterministic else "rounding"))
    return found


def spread(run: Run, problem: Problem, calls: int = SPREAD_CALLS) -> dict[str, Array]:
    """How the gradients of a problem vary from call to call, for the bars.

    Args:
        run: the subject.
        problem: the point.
        calls: repetitions; if the first few are equal bit by bit there are no more.

    Returns:
        By block, the largest difference from the first call of every entry; empty if all are equal
        bit by bit.

    Raises:
        ContractError: the subject's code failed.
    """
    first = {b: np.array(a) for b, a in run.code.run(SEQUENCE, problem).gradients.items()}
    most = {block: np.zeros(np.shape(a)) for block, a in first.items()}
    for done in range(1, calls):
        for block, now in run.code.run(SEQUENCE, problem).gradients.items():
            with np.errstate(all="ignore"):
                gap = np.abs(np.asarray(now, np.float64) - np.asarray(first[block], np.float64))
            most[block] = np.fmax(most[block], gap)
        if done == _ALIKE and not any(gap.any() for gap in most.values()):
            return {}
    return most if any(gap.any() for gap in most.values()) else {}


def impurities(
    subject: Any,
    kind: str,
    params: Params,
    xs: Array,
    state0: State,
    d_ys: Array,
    d_state_T: State,
    notes: Notes | None = None,
) -> list[Impurity]:
    """Run forward and backward several times in several orders and list what is not pure.

    It finds changed arguments (the cache too), results that depend on the number of calls or on the
    calls in between, a cache that works only once, caches that share a buffer, results that a later
    call overwrites, and a dtype that changes. Of a cell the first step is run. Where results differ
    within rounding only, or only in dtype, the impurity concerns conduct: no gradient depends on
    it.

    Args:
        subject: a cell or a layer that keeps its contract.
        kind: ``"cell"`` or ``"layer"``.
        params: parameters, of the dtype of ``xs``.
        xs: inputs ``(T, B, n_in)`` with T at least 1 for a cell.
        state0: the state before the first step.
        d_ys: cotangents ``(T, B, n_out)``.
        d_state_T: cotangent of the last state.
        notes: receives the warnings of the subject's code.

    Returns:
        At most one :class:`Impurity` for each method and item, first seen first.

    Raises:
        ContractError: the first calls raised or returned something malformed without having changed
            an argument.
    """
    names = NAMES[kind]
    if kind == "cell" and not len(xs):
        raise ValueError("a cell needs at least one time step: xs has T = 0")
    x, d_y = (xs[0], d_ys[0]) if kind == "cell" else (xs, d_ys)
    values = {names.params: params, names.state: state0, names.x: x}
    point = LentArguments(names, {**values, names.d_state: d_state_T, names.d_y: d_y})
    probe = Probe(subject, kind, names, notes)
    try:
        _initial_state(probe, point, rows=xs.shape[1])
        first = _first_run(probe, point)
    except ContractError:
        if probe.found:  # what was changed in place is the likely cause
            return list(probe.found.values())
        raise
    probe.rounding = _rounding(subject, kind, point, first)
    _dtypes(probe, first)
    _once_more(probe, first)
    _backward_again(probe, first)
    _two_caches(probe, first)
    _after_others(probe, first)
    return list(probe.found.values())


@dataclass(frozen=True)
class _First:
    """The first forward and backward run, which all later ones must equal.

    ``tape``, ``outputs`` and ``gradients`` hold the subject's own arrays; the bits are copies.
    """

    point: LentArguments
    tape: Any
    outputs: Results
    output_bits: Bits
    gradients: Results
    gradient_bits: Bits


def _first_run(probe: Probe, point: LentArguments) -> _First:
    tape, outputs = probe.forward(point)
    output_bits = bits(_flat(outputs))
    gradients = probe.backward(point, tape)
    return _First(point, tape, outputs, output_bits, gradients, bits(_flat(gradients)))


def _initial_state(probe: Probe, point: LentArguments, rows: int) -> None:
    def run() -> Bits:
        lent = {probe.names.params: point.lend(probe.names.params)}
        state = probe.call("initial_state", point, lent, rows)
        return arrays(state, "state")

    kept = bits(run())
    why = "differs between two calls with the same arguments: it is random or keeps state"
    again = probe.repeat("initial_state", run, "when called again")
    if again is not None:
        probe.compare("initial_state", kept, again, why)


def _rounding(
    subject: Any, kind: str, point: LentArguments, first: _First
) -> Callable[[str, Array, Array], bool]:
    """How far rounding may move the results, measured when something differs."""
    names = point.names
    values = {n: point.kept[n] for n in (*names.forward_arguments, *names.cotangents)}
    bar = Rounding(
        Passes(subject, kind), Arguments(names, values),
        {**first.output_bits, **first.gradient_bits},
    )  # fmt: skip
    return lambda item, value, other: (
        not item.startswith(names.cache) and bar.explains(item, value, other)
    )


def _dtypes(probe: Probe, first: _First) -> None:
    """Outputs and gradients stay in the dtype of the input."""
    names = probe.names
    dtype = first.point.kept[names.x].dtype
    state = first.point.kept[names.state]
    gradient = names.state_gradient
    carried = {path for path, leaf in arrays(state, gradient).items() if not is_float(leaf)}
    runs = ((names.forward, first.output_bits), (names.backward, first.gradient_bits))
    for method, results in runs:
        for item, array in results.items():
            if array.dtype.kind not in "fc" or array.dtype == dtype or item in carried:
                continue
            remedy = dtype_remedy(array.dtype, dtype)
            probe.add(
                method, item, f"{item}.dtype={array.dtype}, but its inputs are {dtype}: {remedy}",
                "dtype",
            )  # fmt: skip


def _once_more(probe: Probe, first: _First) -> None:
    """A second forward and backward run at the same point gives the same bits."""
    names, point = probe.names, first.point
    why = "differs between two calls with the same arguments: it is random or keeps state"
    found = probe.repeat(names.forward, lambda: probe.forward(point), "when called again")
    if found is None:
        return
    tape, outputs = found
    if not probe.compare(names.forward, first.output_bits, _flat(outputs), why):
        return
    gradients = probe.repeat(
        names.backward, lambda: probe.backward(point, tape), "when called again"
    )
    _overwritten(probe, first)
    if gradients is not None:
        probe.compare(names.backward, first.gradient_bits, _flat(gradients), why)


def _backward_again(probe: Probe, first: _First) -> None:
    """A cache can be used more than once."""
    names, point = probe.names, first.point
    if probe.blames_cache:
        return  # it is known to be used up
    when = f"a second time from the same {names.cache}"
    gradients = probe.repeat(names.backward, lambda: probe.backward(point, first.tape), when)
    _overwritten(probe, first)
    if gradients is not None:
        why = f"differs {when}: the first call used it up, changed it, or left something on self"
        probe.compare(names.backward, first.gradient_bits, _flat(gradients), why)


def _two_caches(probe: Probe, first: _First) -> None:
    """A forward run on other inputs leaves the earlier results and the earlier cache alone."""
    names, point = probe.names, first.point
    tape_bits = bits(arrays(first.tape, names.cache))
    output_bits = bits(_flat(first.outputs))  # the current ones: backward may have changed them
    when = f"when {names.forward} runs on other inputs"
    found = probe.repeat(names.forward, lambda: _other_run(probe, point), when)
    if found is None:
        return
    other, tape = found
    overwritten = f"is overwritten {when}: return a copy, not a buffer that is used again"
    probe.compare(names.forward, output_bits, _flat(first.outputs), overwritten)
    shared = f"is overwritten {when}: two {names.cache}s share a buffer"
    probe.compare(names.forward, tape_bits, arrays(first.tape, names.cache), shared)
    if not probe.blames_cache:
        _backward_late(probe, first)
    probe.repeat(names.backward, lambda: probe.backward(other, tape), "on other inputs")
    _overwritten(probe, first)


def _backward_late(probe: Probe, first: _First) -> None:
    """The first cache gives the same gradients when forward has run on other inputs since."""
    names, point = probe.names, first.point
    when = f"once {names.forward} has run on other inputs"
    gradients = probe.repeat(names.backward, lambda: probe.backward(point, first.tape), when)
    if gradients is not None:
        why = f"differs {when}: {names.backward} reads what {names.forward} left on self, or two "
        why += f"{names.cache}s share a buffer"
        probe.compare(names.backward, first.gradient_bits, _flat(gradients), why)


def _after_others(probe: Probe, first: _First) -> None:
    """After runs on other inputs the first point still gives the same bits."""
    names, point = probe.names, first.point
    why = "depends on calls made in between: something is kept on self"
    found = probe.repeat(names.forward, lambda: probe.forward(point), "after other calls")
    if found is None:
        return
    tape, outputs = found
    if not probe.compare(names.forward, first.output_bits, _flat(outputs), why):
        return
    gradients = probe.repeat(
        names.backward, lambda: probe.backward(point, tape), "after other calls"
    )
    if gradients is not None:
        probe.compare(names.backward, first.gradient_bits, _flat(gradients), why)


def _other_run(probe: Probe, point: LentArguments) -> tuple[LentArguments, Any]:
    """Forward at other parameters and other inputs, or at one of the two if it rejects both."""
    for factor, inputs in ((0.75, True), (1.0, True), (0.75, False)):
        other = point.elsewhere(factor, inputs)
        try:
            return other, probe.forward(other)[0]
        except ContractError:
            continue
    return point, probe.forward(point)[0]


def _overwritten(probe: Probe, first: _First) -> None:
    method = probe.names.backward
    why = f"is overwritten by the next {method}: return a copy, not a buffer that is used again"
    probe.compare(method, first.gradient_bits, _flat(first.gradients), why)


def _flat(results: Results) -> Bits:
    return {item: a for name, value in results.items() for item, a in arrays(value, name).items()}
