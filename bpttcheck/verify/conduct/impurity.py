"""Does a cell or a layer change its arguments, keep state, or share its buffers?

Everything is compared bit by bit: the same arrays must give the same result, however often and in
whatever order the methods run. Differences within rounding are reported separately.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bpttcheck.contract import Array, Params, State, is_float
from bpttcheck.errors import ContractError
from bpttcheck.subject.probe import NAMES, Impurity, LentArguments, Probe, Results
from bpttcheck.subject.user_code import Notes
from bpttcheck.subject.values import Bits, arrays, bits, dtype_remedy
from bpttcheck.verify.conduct.passes import Arguments, Passes, Rounding

__all__ = ["Impurity", "impurities"]


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
