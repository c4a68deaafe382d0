"""Does a cell or a layer change what it is given, keep state, or share its buffers?

Everything is compared bit by bit: the same arrays must give the same answer, however often and in
whatever order the methods run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import Array, Params, State, is_float
from bpttcheck.errors import ContractError
from bpttcheck.verify._validate_bits import Bits, arrays, bits, difference, same
from bpttcheck.verify._validate_result import check_layouts
from bpttcheck.verify._validate_values import dtype_remedy
from bpttcheck.verify.guard import Notes, call, examining
from bpttcheck.verify.validate import backward_items, forward_items

Results = dict[str, Any]


@dataclass(frozen=True)
class Impurity:
    """One way in which a method is no pure function.

    Args:
        method: the method at fault.
        item: the argument or the result at fault, such as ``"params['W']"``.
        message: what was seen and what to write instead.
    """

    method: str
    item: str
    message: str


@dataclass(frozen=True)
class _Names:
    """What the methods of a kind, their arguments and their results are called."""

    forward: str
    params: str
    state: str
    x: str
    outputs: tuple[str, str, str]
    cache: str
    backward: str
    d_state: str
    d_y: str
    gradients: tuple[str, str, str]

    @property
    def forward_arguments(self) -> tuple[str, ...]:
        """The arguments of the forward method in order."""
        if self.forward == "step":
            return self.params, self.state, self.x
        return self.params, self.x, self.state

    @property
    def cotangents(self) -> tuple[str, ...]:
        """The last two arguments of the backward method in order."""
        return (self.d_state, self.d_y) if self.forward == "step" else (self.d_y, self.d_state)

    @property
    def state_gradient(self) -> str:
        """The gradient with respect to the state that came in."""
        return self.gradients[1 if self.forward == "step" else 2]


_NAMES = {
    "cell": _Names(
        "step", "params", "state", "x", ("new_state", "y", "cache"), "cache",
        "step_vjp", "d_state", "d_y", ("d_params", "d_previous_state", "d_x"),
    ),
    "layer": _Names(
        "forward", "params", "state0", "xs", ("ys", "state_T", "tape"), "tape",
        "vjp", "d_state_T", "d_ys", ("d_params", "d_xs", "d_state0"),
    ),
}  # fmt: skip


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

    Found: arguments that are changed (the cache too), results that depend on the number of calls or
    on the calls in between, a cache that serves only once, caches that share a buffer, results that
    a later call overwrites, and a dtype that does not stay. Of a cell the first step is run.

    Args:
        subject: a cell or a layer that keeps its contract.
        kind: ``"cell"`` or ``"layer"``.
        params: parameters, of the dtype of ``xs``.
        xs: inputs ``(T, B, n_in)`` with T at least 1 for a cell.
        state0: the state before the first step.
        d_ys: cotangents ``(T, B, n_out)``.
        d_state_T: cotangent of the last state.
        notes: where warnings of the subject's code go.

    Returns:
        At most one :class:`Impurity` for each method and item, first seen first.

    Raises:
        ContractError: the very first calls raised or returned something malformed, and had changed
            no argument before.
    """
    names = _NAMES[kind]
    if kind == "cell" and not len(xs):
        raise ValueError("a cell needs at least one time step: xs has T = 0")
    x, d_y = (xs[0], d_ys[0]) if kind == "cell" else (xs, d_ys)
    values = {names.params: params, names.state: state0, names.x: x}
    point = _Point(names, {**values, names.d_state: d_state_T, names.d_y: d_y})
    probe = _Probe(subject, kind, names, notes)
    try:
        _initial_state(probe, point, rows=xs.shape[1])
        first = _first_run(probe, point)
    except ContractError:
        if probe.found:  # what was changed in place is the likely cause
            return list(probe.found.values())
        raise
    _dtypes(probe, first)
    _once_more(probe, first)
    _backward_again(probe, first)
    _two_caches(probe, first)
    _after_others(probe, first)
    return list(probe.found.values())


class _Point:
    """One problem: the arrays to lend out by name, and copies that nobody else holds."""

    def __init__(self, names: _Names, values: Mapping[str, Any]) -> None:
        self.names = names
        self.kept = {name: _copy(value) for name, value in values.items()}
        self._lent = {name: _copy(value) for name, value in values.items()}

    def lend(self, name: str) -> Any:
        """An argument: the same arrays every time, in containers made anew."""
        return trees.map_leaves(lambda leaf: leaf, self._lent[name])

    def replace(self, name: str) -> None:
        """Lend out a fresh copy from now on: the user's code has changed this argument."""
        self._lent[name] = _copy(self.kept[name])

    def elsewhere(self, factor: float, inputs: bool) -> _Point:
        """Another problem of the same sizes: parameters times ``factor``, other inputs if asked."""

        def moved(tree: Any, factor: float, offset: float) -> Any:
            def move(leaf: Array) -> Array:
                return (leaf * factor + offset).astype(leaf.dtype) if is_float(leaf) else leaf

            return trees.map_leaves(move, tree) if inputs else tree

        names, kept = self.names, self.kept
        values = {
            names.params: {key: value * factor for key, value in kept[names.params].items()},
            names.state: moved(kept[names.state], -1.5, 0.25),
            names.x: moved(kept[names.x], -1.75, 0.5),
            names.d_state: moved(kept[names.d_state], -1.5, 0.75),
            names.d_y: moved(kept[names.d_y], -1.5, 0.75),
        }
        return _Point(names, values)


class _Probe:
    """Calls the subject's methods and gathers what is found, one impurity a method and item."""

    def __init__(self, subject: Any, kind: str, names: _Names, notes: Notes | None) -> None:
        self.subject, self.kind, self.names, self.notes = subject, kind, names, notes
        self.found: dict[tuple[str, str], Impurity] = {}

    def add(self, method: str, item: str, message: str) -> None:
        """Remember an impurity unless this item of this method has one already."""
        self.found.setdefault((method, item), Impurity(method, item, f"{method}: {message}"))

    def call(self, method: str, point: _Point, lent: Mapping[str, Any], *opaque: Any) -> Any:
        """Call a method with arguments of ``point`` and see whether it changed them.

        ``opaque`` (the cache) stands after the parameters.
        """
        params, *others = lent.values()
        function = getattr(self.subject, method)
        result = call(method, function, params, *opaque, *others, notes=self.notes)
        for name, value in lent.items():
            with examining(method, name):
                kept, now = arrays(point.kept[name], name), arrays(value, name)
                if self.compare_argument(method, kept, now):
                    point.replace(name)
        return result

    def forward(self, point: _Point) -> tuple[Any, Results]:
        """Run ``step`` or ``forward``: the cache, and the two other results by name."""
        names = self.names
        lent = {name: point.lend(name) for name in names.forward_arguments}
        result = self.call(names.forward, point, lent)
        items = forward_items(self.kind, point.kept[names.state], point.kept[names.x])
        given = check_layouts(result, names.forward, items)
        results = dict(zip(names.outputs, given, strict=True))
        return results.pop(names.cache), results

    def backward(self, point: _Point, cache: Any) -> Results:
        """Run ``step_vjp`` or ``vjp``: the three gradients by name."""
        names = self.names
        before = bits(arrays(cache, names.cache))
        lent = {name: point.lend(name) for name in (names.params, *names.cotangents)}
        result = self.call(names.backward, point, lent, cache)
        self.compare_argument(names.backward, before, arrays(cache, names.cache))
        kept = point.kept
        items = backward_items(self.kind, kept[names.params], kept[names.state], kept[names.x])
        return dict(zip(names.gradients, check_layouts(result, names.backward, items), strict=True))

    def compare_argument(self, method: str, before: Bits, after: Bits) -> bool:
        """Report what a method did to an argument; True if it did anything."""
        changed = False
        for item, kept in before.items():
            if item not in after:
                self.add(method, item, f"{item} is gone from the argument: work on a copy of it")
            elif not same(kept, after[item]):
                self.add(
                    method,
                    item,
                    f"{item}, an argument, is changed ({difference(kept, after[item])}): `a += b` "
                    "and `out=a` write into the caller's array; write `a = a + b`",
                )
            else:
                continue
            changed = True
        return changed

    def compare(self, method: str, kept: Bits, now: Bits, why: str) -> bool:
        """Report every result that differs in a bit; True if none does."""
        differing = [item for item in kept if item not in now or not same(kept[item], now[item])]
        for item in differing:
            size = difference(kept[item], now[item]) if item in now else "it is gone"
            self.add(method, item, f"{item} {why} ({size})")
        return not differing

    def repeat(self, method: str, run: Callable[[], Any], when: str) -> Any:
        """Run a repetition; an error is an impurity, because the first run had none."""
        try:
            return run()
        except ContractError as error:
            self.add(method, error.item, f"fails {when}, where the first call did not: {error}")
            return None


@dataclass(frozen=True)
class _First:
    """The very first forward and backward run, which all later ones must equal.

    ``tape``, ``outputs`` and ``gradients`` hold the subject's own arrays; the bits are copies.
    """

    point: _Point
    tape: Any
    outputs: Results
    output_bits: Bits
    gradients: Results
    gradient_bits: Bits


def _first_run(probe: _Probe, point: _Point) -> _First:
    tape, outputs = probe.forward(point)
    output_bits = bits(_flat(outputs))
    gradients = probe.backward(point, tape)
    return _First(point, tape, outputs, output_bits, gradients, bits(_flat(gradients)))


def _initial_state(probe: _Probe, point: _Point, rows: int) -> None:
    def run() -> Bits:
        lent = {probe.names.params: point.lend(probe.names.params)}
        state = probe.call("initial_state", point, lent, rows)
        return arrays(state, "state")

    kept = bits(run())
    why = "differs between two calls with the same arguments: it is random or keeps state"
    again = probe.repeat("initial_state", run, "when called again")
    if again is not None:
        probe.compare("initial_state", kept, again, why)


def _dtypes(probe: _Probe, first: _First) -> None:
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
                method, item, f"{item}.dtype={array.dtype}, but its inputs are {dtype}: {remedy}"
            )


def _once_more(probe: _Probe, first: _First) -> None:
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


def _backward_again(probe: _Probe, first: _First) -> None:
    """A cache serves more than once."""
    names, point = probe.names, first.point
    when = f"a second time from the same {names.cache}"
    gradients = probe.repeat(names.backward, lambda: probe.backward(point, first.tape), when)
    _overwritten(probe, first)
    if gradients is not None:
        why = f"differs {when}: the first call used it up, changed it, or left something on self"
        probe.compare(names.backward, first.gradient_bits, _flat(gradients), why)


def _two_caches(probe: _Probe, first: _First) -> None:
    """A forward run on other inputs leaves the earlier results and the earlier cache alone."""
    names, point = probe.names, first.point
    tape_bits = bits(arrays(first.tape, names.cache))
    when = f"when {names.forward} runs on other inputs"
    found = probe.repeat(names.forward, lambda: _other_run(probe, point), when)
    if found is None:
        return
    other, tape = found
    overwritten = f"is overwritten {when}: return a copy, not a buffer that is used again"
    probe.compare(names.forward, first.output_bits, _flat(first.outputs), overwritten)
    shared = f"is overwritten {when}: two {names.cache}s share a buffer"
    probe.compare(names.forward, tape_bits, arrays(first.tape, names.cache), shared)
    gradients = probe.repeat(
        names.backward,
        lambda: probe.backward(point, first.tape),
        f"once {names.forward} has run on other inputs",
    )
    if gradients is not None:
        why = f"differs once {names.forward} has run on other inputs: two {names.cache}s share a buffer"
        why += f", or {names.backward} reads what {names.forward} left on self"
        probe.compare(names.backward, first.gradient_bits, _flat(gradients), why)
    probe.repeat(names.backward, lambda: probe.backward(other, tape), "on other inputs")
    _overwritten(probe, first)


def _after_others(probe: _Probe, first: _First) -> None:
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


def _other_run(probe: _Probe, point: _Point) -> tuple[_Point, Any]:
    """Forward at other parameters and other inputs, or at one of the two if it refuses both."""
    for factor, inputs in ((0.75, True), (1.0, True), (0.75, False)):
        other = point.elsewhere(factor, inputs)
        try:
            return other, probe.forward(other)[0]
        except ContractError:
            continue
    return point, probe.forward(point)[0]


def _overwritten(probe: _Probe, first: _First) -> None:
    method = probe.names.backward
    why = f"is overwritten by the next {method}: return a copy, not a buffer that is used again"
    probe.compare(method, first.gradient_bits, _flat(first.gradients), why)


def _flat(results: Results) -> Bits:
    return {item: a for name, value in results.items() for item, a in arrays(value, name).items()}


def _copy(tree: Any) -> Any:
    return trees.map_leaves(np.array, tree)
