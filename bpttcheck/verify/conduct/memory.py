"""Memory that a subject shares or never wrote: results, kept state, arguments, ``np.empty``.

A trainer writes into the gradients that it got (``g += ...``), keeps results and caches of many
steps, and updates its parameters in place between two calls. None of this may change a later result
compared with fresh arrays. What ``np.empty`` hands out in the subject's modules is filled with NaN
and with ordinary numbers in turn: a result that differs was read from memory that nobody wrote.
"""

from __future__ import annotations

import copy
import functools
import inspect
import linecache
import sys
import sysconfig
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import Array, is_float
from bpttcheck.errors import ContractError, OutsideDomain
from bpttcheck.judge.verdict import rounding
from bpttcheck.subject.filled import unfilled
from bpttcheck.subject.probe import Impurity
from bpttcheck.subject.user_code import call
from bpttcheck.subject.values import Bits, arrays, bits, difference, different, same
from bpttcheck.verify.conduct.passes import (
    Arguments,
    Passes,
    RepeatBudget,
    Rounding,
    argument_of,
    flat,
)

CALLS = 600
"""The number of calls over which results are kept: more than a ring of 512 buffers."""

SECONDS = 0.4
"""A slow subject gets fewer calls, but at least 20."""

_STOPS = (20, 60, 200, CALLS)
_USES = 3
_TURNS = 24
_MOST_LEAVES = 24


Others = Mapping[str, Callable[[], Arguments]]
"""Points of other sizes by their description; making one runs the subject's ``init``."""


def shared_memory(passes: Passes, given: Arguments, others: Others | None = None) -> list[Impurity]:
    """Write to what was returned, keep it over many calls, update arguments in place.

    Args:
        passes: the subject, which repeats itself when called with fresh arrays.
        given: the point.
        others: points at which the subject runs between a forward pass and its backward pass.

    Returns:
        The impurities found; the remaining steps are skipped after the first that finds any.

    Raises:
        ContractError: the first calls failed.
    """
    first = bits(passes.both(given.copy()))
    probe = _Probe(passes, given, first, Rounding(passes, given, first), [], others or {})
    steps = (
        _start_written, _results_written, _other_sizes, _updated_in_place, _nearly_the_same,
        _replaced, _kept, _one_changed,
    )  # fmt: skip
    for step in steps:
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
    others: Others = field(default_factory=dict)
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
                break  # one item of a cache is enough
        return not self.found


def _start_written(probe: _Probe) -> None:
    """The caller may write into the arrays of the initial state."""
    subject, given = probe.passes.subject, probe.given
    rows = next((len(leaf) for leaf in trees.leaves(given.values[given.names.state])), 1)
    probe.when = "after the caller wrote to the initial state"

    def start() -> Bits:
        params = given.copy().values[given.names.params]
        return arrays(call("initial_state", subject.initial_state, params, rows), "state")

    first = start()
    kept = bits(first)
    for array in first.values():
        _spoil(array)
    for item in different(kept, start()):
        probe.found.append(Impurity("initial_state", item, (
            f"initial_state: {item} changes when the caller writes to what an earlier call "
            "returned: return a new array, not one that is kept"
        )))  # fmt: skip


def _results_written(probe: _Probe) -> None:
    """The caller may write into the gradients, and into everything once backward is over."""
    passes, given, names = probe.passes, probe.given, probe.passes.names
    probe.when = "after the caller wrote to what was returned"
    writes = "when the caller writes to what an earlier call returned (`g += ...`): return a new "
    writes += "array, not one that is kept"
    for write in (_increment, _spoil):
        lent = given.copy()
        cache, outputs = passes.forward(lent)
        gradients = flat(passes.backward(lent, cache))
        for array in gradients.values():
            write(array)
        for path, leaf in lent.leaves().items():
            if argument_of(path) == names.params and not same(leaf, given.leaves()[path]):
                probe.found.append(Impurity(names.backward, path, (
                    f"{names.backward}: a gradient is {path} itself: what the caller adds to it "
                    "changes the parameter; return a copy"
                )))  # fmt: skip
                return
        why = f"from the same {names.cache} changes {writes}"
        # A memo may be kept for these very objects. A gradient may be a cotangent, now written.
        for arguments in (*([lent] if _equal(lent, given) else ()), given.copy()):
            again = flat(passes.backward(arguments, cache))
            if not probe.compare(_only(probe.first, again), again, why):
                return
        for array in flat(outputs).values():
            write(array)
        if not probe.compare(probe.first, passes.both(given.copy()), f"changes {writes}"):
            return


def _equal(one: Arguments, other: Arguments) -> bool:
    leaves = other.leaves()
    return all(same(leaf, leaves[path]) for path, leaf in one.leaves().items())


def _increment(array: Array) -> None:
    if is_float(array) and array.flags.writeable:
        array += 1


def _spoil(array: Array) -> None:
    if is_float(array) and array.flags.writeable:
        array[...] = np.nan


def _other_sizes(probe: _Probe) -> None:
    """A size is read from the arrays, not kept from the last call."""
    passes, names = probe.passes, probe.passes.names
    cache, outputs = passes.forward(probe.given.copy())
    for what, make in probe.others.items():
        try:
            passes.both(make())
        except (ContractError, OutsideDomain):
            continue  # other checks report what the subject does not accept
        probe.when = f"once it has run on {what}"
        why = f"differs {probe.when} in between: a size is kept from another call; read it from "
        why += f"the {names.cache} or from the shapes"
        again = {**flat(outputs), **flat(passes.backward(probe.given.copy(), cache))}
        if not probe.compare(probe.first, again, why):
            return
        if not probe.compare(probe.first, passes.both(probe.given.copy()), why):
            return


def _updated_in_place(probe: _Probe) -> None:
    """Arguments that keep their identity but change their values must be read again."""
    passes, names = probe.passes, probe.passes.names
    for what, chosen in (
        ("parameters are", (names.params,)),
        ("inputs and states are", (names.x, names.state)),
        ("cotangents are", names.cotangents),
    ):
        probe.when = f"after {what} updated in place"
        elsewhere = probe.given.copy()
        _update(elsewhere, chosen, ...)
        _update(elsewhere, chosen, ...)
        for part in (..., -1):
            updated = probe.given.copy()
            _update(updated, chosen, part)
            passes.both(elsewhere)  # a cached value is now stale
            right = bits(passes.both(updated.copy()))
            passes.both(elsewhere)
            lent = probe.given.copy()
            passes.both(lent)
            _update(lent, chosen, part)
            why = f"is not that of fresh arrays when {what} updated in place between two calls: "
            why += "something is kept for as long as the object is the same"
            if not probe.compare(right, passes.both(lent), why, Rounding(passes, updated, right)):
                return


def _update(given: Arguments, chosen: tuple[str, ...], part: Any) -> None:
    """A scale keeps signs and (0, 1), in which a subject's parameters may have to stay."""
    for path, leaf in given.leaves().items():
        if argument_of(path) in chosen and is_float(leaf) and leaf.size:
            flat_view = leaf.reshape(-1)
            flat_view[part] *= 0.875


def _nearly_the_same(probe: _Probe) -> None:
    """Parameters that share an entry, or seven digits, are different: tested on a fresh copy."""
    passes, names = probe.passes, probe.passes.names
    probe.when = "with parameters that are nearly those of an earlier call"
    why = "is that of earlier parameters with some equal entries or digits: something is kept "
    why += "under a key that does not tell them apart"
    for turn, keep in enumerate((slice(0, 1), slice(-1, None), None)):
        try:
            fresh = copy.deepcopy(passes.subject)
        except Exception:  # a subject that cannot be copied is not tested
            return
        base, near = probe.given.copy(), probe.given.copy()
        for path, leaf in base.leaves().items():
            if argument_of(path) == names.params and is_float(leaf) and leaf.size:
                leaf *= 0.96875 - 0.03125 * turn  # parameters of no earlier call
                other = near.leaves()[path].reshape(-1)
                if keep is None:  # a key of rounded numbers
                    other[...] = leaf.reshape(-1) * (1 + max(4 * np.finfo(leaf.dtype).eps, 4e-8))
                    continue
                other[...] = leaf.reshape(-1) * 0.875
                other[keep] = leaf.reshape(-1)[keep]
        right = bits(replace(passes, subject=fresh).both(near.copy()))
        passes.both(base)
        if not probe.compare(right, passes.both(near.copy()), why, Rounding(passes, near, right)):
            return


def _one_changed(probe: _Probe) -> None:
    """Every argument counts: a result must not be that of an earlier call with one other array.

    What is right is computed from arguments that all differ in the last digit, so that no value
    that is kept under some of them is met.
    """
    passes, rng = probe.passes, np.random.default_rng(0)
    leaves = [p for p, leaf in probe.given.leaves().items() if is_float(leaf) and leaf.size]
    for turn, path in enumerate(leaves[:_MOST_LEAVES]):
        probe.when = f"after a call in which {path} alone was another"
        why = f"is that of an earlier call in which {path} alone was another: something is kept "
        why += f"under a key without {path}"
        base = probe.given.copy()
        for leaf in base.leaves().values():
            if is_float(leaf):
                leaf *= 1 - 2.0 ** -(7 + turn)  # values of no earlier call
        near = base.copy()
        near.leaves()[path][...] *= 0.875
        right = bits(passes.both(base.noisy(rng, rounding(base.dtype)[0])))
        passes.both(near)
        bar = Rounding(passes, base, right, moved=True)
        if not probe.compare(right, passes.both(base.copy()), why, bar):
            return


def _replaced(probe: _Probe) -> None:
    """New arrays may reuse the addresses of deleted ones: an id is not a valid cache key."""
    passes, given = probe.passes, probe.given
    probe.when = "with new arrays in place of others that are gone"
    other = given.copy()
    _update(other, (given.names.params,), ...)
    points, results = (given, other), (probe.first, bits(passes.both(other.copy())))
    bars = (probe.bar, Rounding(passes, other, results[1]))
    held: list[Arguments] = []
    why = "is that of other arrays, which are gone: something is kept under the id of an array"
    for turn in range(_TURNS):
        which = turn * turn % 3 % 2  # so that the two do not always alternate
        lent = points[which].copy()
        if not probe.compare(results[which], passes.both(lent), why, bars[which]):
            return
        if turn % 4 == 0:
            held.append(lent)  # so that memory is not always allocated in the same order


def _kept(probe: _Probe) -> None:
    """Many further calls must not change earlier results, a cache, or repeated results."""
    passes, names = probe.passes, probe.passes.names
    others = [_elsewhere(probe.given, factor) for factor in (0.9375, 0.875, 1.125)]
    probe.when = "a second time from the same " + names.cache
    cache, outputs = passes.forward(probe.given.copy())
    cache_bits = bits(arrays(cache, names.cache))
    gradients = passes.backward(probe.given.copy(), cache)
    kept: list[Any] = []
    budget, calls = RepeatBudget(SECONDS), 0
    waiting = passes.forward(others[0])
    for stop in _STOPS:
        while calls < stop and (calls < _STOPS[0] or budget.left):
            calls += 1
            # The next forward pass precedes the backward pass of this one.
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
        if not probe.compare(_only(probe.first, again), again, used):
            return
    counted = f"differs {later}, with the same arguments: calls are counted, or something is kept"
    probe.compare(probe.first, passes.both(probe.given.copy()), counted)


def _only(results: Bits, like: Bits) -> Bits:
    return {item: a for item, a in results.items() if item in like}


def _elsewhere(given: Arguments, factor: float) -> Arguments:
    """Other inputs and states, still in range, because a factor keeps signs."""
    names = given.names

    def change(path: str, leaf: Array) -> Array:
        moved = argument_of(path) in (names.x, names.state) and is_float(leaf)
        return (leaf * factor).astype(leaf.dtype) if moved else np.array(leaf)

    return given.changed(change)


Site = tuple[str, int]
"""File and line of a call."""

_FUNCTIONS = ("empty", "empty_like")
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


@dataclass(frozen=True)
class Unwritten:
    """A result that depends on memory that was never written.

    Args:
        method: the method that returns it.
        item: the result.
        filename: the file that asks for the memory; ``""`` if several lines do it together.
        line: its line there.
        function: ``"np.empty"`` or ``"np.empty_like"``.
        error: how the method fails, or ``""``.
    """

    method: str
    item: str
    filename: str
    line: int
    function: str
    error: str = ""

    @property
    def place(self) -> str:
        """``cell.py:12: out = np.empty_like(x)``, as far as it is known."""
        if not self.filename:
            return "several lines together"
        source = linecache.getline(self.filename, self.line).strip()
        place = f"{Path(self.filename).name}:{self.line}"
        return f"{place}: {source}" if source else place

    @property
    def message(self) -> str:
        """What was observed and what to write instead."""
        what = f"fails ({self.error})" if self.error else f"{self.item} depends on it"
        return (
            f"{self.method}: part of the memory of {self.function} is read before it is written, "
            f"and {what} ({self.place}): write every entry, or use np.zeros"
        )


def unwritten(passes: Passes, given: Arguments) -> Unwritten | None:
    """Whether memory that was not written reaches a result of one forward and backward pass.

    Args:
        passes: the subject; its code runs in this thread alone.
        given: the point.

    Returns:
        The first item that depends on such memory, with the line; None if there is none.

    Raises:
        ContractError: the subject's code fails where nothing is filled in.
    """
    filled = _Filler(_files_of(passes.subject))
    with filled.installed():
        plain = bits(passes.both(given.copy()))
        if not filled.sites:
            return None
        found = _difference(passes, given, filled, plain, None)
        if found is None:
            return None
        for site, function in list(filled.sites.items()):
            alone = _difference(passes, given, filled, plain, site)
            if alone is not None:
                method, item, error = alone
                return Unwritten(method, item, *site, function, error)
        method, item, error = found
        return Unwritten(method, item, "", 0, "np.empty", error)


def _difference(
    passes: Passes, given: Arguments, filled: _Filler, plain: Bits, site: Site | None
) -> tuple[str, str, str] | None:
    """``(method, item, error)`` that depends on the memory of one site, or of all for None."""
    try:
        with filled.filling(_ORDINARY, site):
            value, again = bits(passes.both(given.copy())), bits(passes.both(given.copy()))
    except ContractError:
        return None  # it fails with ordinary numbers too
    try:
        with filled.filling(_POISON, site):
            others = [bits(passes.both(given.copy())) for _ in range(2)]
    except ContractError as error:
        return error.method, error.item or error.method, str(error)
    bar = Rounding(passes, given, plain)

    def varies(item: str, one: Bits, other: Bits) -> bool:
        if item not in other or same(one[item], other[item]):
            return False
        return not bar.explains(item, one[item], other[item])

    for item in value:
        random = varies(item, value, again)
        if not random and all(varies(item, value, other) for other in others):
            return passes.method_of(item), item, ""
    return None


_POISON = {"f": np.nan, "c": np.nan, "i": 1_111_111_111, "u": 1_111_111_111, "b": True}
_ORDINARY = {"f": 0.375, "c": 0.375, "i": 0, "u": 0, "b": False}


class _Filler:
    """A stand-in for ``np.empty`` and ``np.empty_like`` in the user's code."""

    def __init__(self, own: frozenset[str]) -> None:
        self._own, self._thread = own, threading.get_ident()
        self._values: dict[str, Any] | None = None
        self._only: Site | None = None
        self._active = False
        self.sites: dict[Site, str] = {}

    @contextmanager
    def filling(self, values: dict[str, Any], only: Site | None) -> Generator[None]:
        """Fill the arrays of one call site, or of all, by dtype; others get ordinary numbers."""
        self._values, self._only = values, only
        try:
            yield
        finally:
            self._values, self._only = None, None

    @contextmanager
    def installed(self) -> Generator[None]:
        """Replace both functions in NumPy and in the user's modules that imported them by name."""
        originals = {name: getattr(np, name) for name in _FUNCTIONS}
        changed: list[tuple[ModuleType, str, Any]] = []
        try:
            self._active = True
            modules = [np, *_of_the_user(self._own)]
            for name, original in originals.items():
                wrapped = self._wrapped(f"np.{name}", original)
                for module in modules:
                    for attribute in [at for at, v in list(vars(module).items()) if v is original]:
                        changed.append((module, attribute, original))
                        setattr(module, attribute, wrapped)
            yield
        finally:
            self._active = False
            for module, attribute, original in changed:
                setattr(module, attribute, original)

    def _wrapped(self, function: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def memory(*args: Any, **kwargs: Any) -> Any:
            made = original(*args, **kwargs)
            # Other threads compile programs from the same code meanwhile.
            if self._active and threading.get_ident() == self._thread:
                self._fill(made, inspect.currentframe(), function)
            return made

        return memory

    def _fill(self, made: Any, wrapper: FrameType | None, function: str) -> None:
        caller = wrapper.f_back if wrapper else None
        if caller is None:
            return
        filename, site = caller.f_code.co_filename, (caller.f_code.co_filename, caller.f_lineno)
        if filename not in self._own and _is_library(filename):
            return
        self.sites.setdefault(site, function)
        if self._values is not None and isinstance(made, np.ndarray):
            _write(made, self._values if self._only in (None, site) else _ORDINARY)


def _write(made: Array, values: dict[str, Any]) -> None:
    value = values.get(made.dtype.kind)
    if value is None:
        return
    if made.dtype.kind in "iu":
        value = min(value, int(np.iinfo(made.dtype).max))
    made[...] = value


def _files_of(subject: Any) -> frozenset[str]:
    """The files that hold the subject's classes: user code wherever it is installed."""
    modules = [sys.modules.get(base.__module__) for base in type(unfilled(subject)).__mro__]
    files = [getattr(module, "__file__", None) for module in modules]
    return frozenset(file for file in files if file)


def _of_the_user(own: frozenset[str]) -> list[ModuleType]:
    """The modules that are no library's: they may have imported a function by name."""
    return [
        module
        for module in list(sys.modules.values())
        if isinstance(file := getattr(module, "__file__", None), str)
        and (file in own or not _is_library(file))
    ]


@functools.cache
def _is_library(filename: str) -> bool:
    return filename.startswith((*_LIBRARIES, "<frozen"))
