"""What a subject returned, kept, and was given: do they stay apart from each other?

A trainer writes into the gradients that it got (``g += ...``), keeps results and caches of many
steps, and updates its parameters in place between two calls. Each must leave every later result
what fresh arrays would give.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpttcheck.contract import Array, is_float
from bpttcheck.errors import ContractError
from bpttcheck.verify._validate_bits import Bits, arrays, bits, difference, different
from bpttcheck.verify._validate_probe import Impurity
from bpttcheck.verify.passes import Arguments, Passes, Rounding, argument_of, flat

CALLS = 600
"""Calls over which results are kept: beyond a ring of 512 buffers."""

SECONDS = 0.25
"""For a slow subject there are fewer calls, but no fewer than 20."""

_STOPS = (20, 60, 200, CALLS)
_USES = 3


def shared_memory(passes: Passes, given: Arguments) -> list[Impurity]:
    """Write to what was returned, keep it over many calls, update arguments in place.

    Args:
        passes: the subject, which repeats itself when called with fresh arrays.
        given: the point.

    Returns:
        What was found; the steps after the first that found anything are left out.

    Raises:
        ContractError: the very first calls failed.
    """
    first = bits(passes.both(given.copy()))
    probe = _Probe(passes, given, first, Rounding(passes, given, first), [])
    for step in (_results_written, _updated_in_place, _kept):
        try:
            step(probe)
        except ContractError as error:
            probe.found.append(Impurity(error.method, error.item, (
                f"{error.method}: fails {probe.when}, where the first call did not: {error}"
            )))  # fmt: skip
        if probe.found:
            break
    return probe.found


@dataclass
class _Probe:
    passes: Passes
    given: Arguments
    first: Bits
    bar: Rounding
    found: list[Impurity]
    when: str = ""

    def compare(self, value: Bits, other: Bits, why: str, bar: Rounding | None = None) -> bool:
        """Report every item that differs by more than rounding; True if none does."""
        bar = bar or self.bar
        names = self.passes.names
        for item in different(value, other):
            if item in other and bar.explains(item, value[item], other[item]):
                continue
            size = difference(value[item], other[item]) if item in other else "it is gone"
            method = names.forward if item.startswith(names.cache) else self.passes.method_of(item)
            self.found.append(Impurity(method, item, f"{method}: {item} {why} ({size})"))
            if item.startswith(names.cache):
                break  # one item of a cache says it
        return not self.found


def _results_written(probe: _Probe) -> None:
    """The caller may write into what it got, once the backward pass is over."""
    passes, given = probe.passes, probe.given
    probe.when = "after the caller wrote to what was returned"
    for write in (_increment, _spoil):
        cache, outputs = passes.forward(given.copy())
        gradients = passes.backward(given.copy(), cache)
        written = {**flat(outputs), **flat(gradients)}
        for array in written.values():
            write(array)
        why = "changes when the caller writes to what an earlier call returned (`g += ...`): "
        why += "return a new array, not one that is kept"
        if not probe.compare(probe.first, passes.both(given.copy()), why):
            return


def _increment(array: Array) -> None:
    if is_float(array) and array.flags.writeable:
        array += 1


def _spoil(array: Array) -> None:
    if is_float(array) and array.flags.writeable:
        array[...] = np.nan


def _updated_in_place(probe: _Probe) -> None:
    """Arguments that keep their identity and change their values are read again."""
    passes, names = probe.passes, probe.passes.names
    # A scale keeps signs and (0, 1), in which a subject's parameters may have to stay.
    for what, chosen in (
        ("parameters are", (names.params,)),
        ("inputs and states are", (names.x, names.state)),
        ("cotangents are", names.cotangents),
    ):
        probe.when = f"after {what} updated in place"
        updated = probe.given.copy()
        _update(updated, chosen)
        right = bits(passes.both(updated.copy()))
        lent = probe.given.copy()
        passes.both(lent)
        _update(lent, chosen)
        why = f"is not that of fresh arrays when {what} updated in place between two calls: "
        why += "something is kept for as long as the object is the same"
        if not probe.compare(right, passes.both(lent), why, Rounding(passes, updated, right)):
            return


def _update(given: Arguments, chosen: tuple[str, ...]) -> None:
    for path, leaf in given.leaves().items():
        if argument_of(path) in chosen and is_float(leaf):
            leaf *= 0.875


def _kept(probe: _Probe) -> None:
    """Many more calls leave what was returned, a cache and the results as they are."""
    passes, names = probe.passes, probe.passes.names
    others = [_elsewhere(probe.given, factor) for factor in (0.9375, 0.875, 1.125)]
    probe.when = "a second time from the same " + names.cache
    cache, outputs = passes.forward(probe.given.copy())
    cache_bits = bits(arrays(cache, names.cache))
    gradients = passes.backward(probe.given.copy(), cache)
    kept: list[Any] = []
    started, calls = time.perf_counter(), 0
    waiting = passes.forward(others[0])
    for stop in _STOPS:
        while calls < stop and (calls < _STOPS[0] or time.perf_counter() - started < SECONDS):
            calls += 1
            # The next forward pass comes before the backward pass of this one.
            at, following = others[(calls - 1) % 3], passes.forward(others[calls % 3])
            kept.append((waiting, passes.backward(at, waiting[0])))
            waiting = following
        probe.when = f"after {calls} calls"
        more = f"is overwritten within {calls} further calls: return a copy, not a buffer that is "
        more += "used again"
        now = {**flat(outputs), **flat(gradients)}
        if not probe.compare(probe.first, now, more):
            return
        if not probe.compare(cache_bits, arrays(cache, names.cache), more):
            return
        _again(probe, cache, f"{calls} calls later")
        if probe.found or calls < stop:
            return


def _again(probe: _Probe, cache: Any, later: str) -> None:
    passes = probe.passes
    used = f"differs in a further backward pass from the same {passes.names.cache}, {later}"
    for _ in range(_USES):
        again = flat(passes.backward(probe.given.copy(), cache))
        if not probe.compare(_only(probe.first, again.__contains__), again, used):
            return
    counted = f"differs {later}, with the same arguments: calls are counted, or something is kept"
    probe.compare(probe.first, passes.both(probe.given.copy()), counted)


def _only(results: Bits, wanted: Callable[[str], bool]) -> Bits:
    return {item: a for item, a in results.items() if wanted(item)}


def _elsewhere(given: Arguments, factor: float) -> Arguments:
    """Other inputs and states: in-range, for a factor keeps signs."""
    names = given.names

    def change(path: str, leaf: Array) -> Array:
        moved = argument_of(path) in (names.x, names.state) and is_float(leaf)
        return (leaf * factor).astype(leaf.dtype) if moved else np.array(leaf)

    return given.changed(change)
