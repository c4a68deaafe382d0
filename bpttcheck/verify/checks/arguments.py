"""The same values in another layout, dtype or order give the same gradients."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bpttcheck.calibration import LIMIT
from bpttcheck.contract import Array, is_float
from bpttcheck.errors import ContractError
from bpttcheck.judge.gradient_finding import exception_finding
from bpttcheck.judge.run import Run
from bpttcheck.judge.tally import Tally
from bpttcheck.judge.verdict import rounding
from bpttcheck.problems.problem import Problem
from bpttcheck.results.records import Finding
from bpttcheck.subject.probe import Impurity
from bpttcheck.subject.values import Bits, bits
from bpttcheck.verify.checks.base import Check, Context
from bpttcheck.verify.conduct.passes import (
    Arguments,
    Passes,
    Rounding,
    argument_of,
    finite,
    small_case,
)

Placed = Callable[[Array], Array | None]
"""An array with the same values in another layout; None if there is no other."""


def _placed(like: Array, strides: Sequence[int], first: int = 0) -> Array:
    """The values of ``like`` at given strides, amid memory that holds NaN or huge integers.

    Code that reads memory from the array's pointer stays inside the allocation: there is padding
    before and after.
    """
    margin = 2 * like.nbytes + 2 * sum(abs(s) * n for s, n in zip(strides, like.shape, strict=True))
    memory = np.empty(2 * margin + 64, np.uint8)
    kind = like.dtype.kind
    whole = memory[: memory.size // like.itemsize * like.itemsize].view(like.dtype)
    whole[...] = {"f": np.nan, "b": True}.get(kind, 101)
    view = np.ndarray(like.shape, like.dtype, memory.data, margin // 16 * 16 + first, strides)
    view[...] = like
    return view


def _fortran(a: Array) -> Array | None:
    return _placed(a, np.empty(a.shape, a.dtype, order="F").strides) if _many(a) > 1 else None


def _batch_first(a: Array) -> Array | None:
    if a.ndim < 3 or _many(a) < 2:
        return None
    order = (1, 0, *range(2, a.ndim))
    turned = np.empty([a.shape[i] for i in order], a.dtype).strides
    return _placed(a, [turned[order.index(i)] for i in range(a.ndim)])


def _columns(a: Array) -> Array | None:
    """The first columns of a wider array."""
    if _many(a) < 2:
        return None
    wide = (*a.shape[:-1], a.shape[-1] + 3)
    return _placed(a, np.empty(wide, a.dtype).strides)


def _every_second(a: Array) -> Array | None:
    return _placed(a, [2 * s for s in np.empty(a.shape, a.dtype).strides]) if _many(a) else None


def _reversed(a: Array) -> Array | None:
    if not _many(a):
        return None
    plain = np.empty(a.shape, a.dtype).strides
    axis = next(i for i, n in enumerate(a.shape) if n > 1)
    strides = [-s if i == axis else s for i, s in enumerate(plain)]
    return _placed(a, strides, plain[axis] * (a.shape[axis] - 1))


def _unaligned(a: Array) -> Array | None:
    return _placed(a, np.empty(a.shape, a.dtype).strides, 1) if a.itemsize > 1 and a.size else None


def _read_only(a: Array) -> Array | None:
    fixed = np.array(a, order="C")
    fixed.flags.writeable = False
    return fixed


def _many(a: Array) -> int:
    """Axes that have more than one entry; 0 for an array without entries."""
    return sum(n > 1 for n in a.shape) if a.size else 0


READ_ONLY, UNALIGNED = "read-only", "unaligned"

LAYOUTS: Mapping[str, Placed] = {
    "in Fortran order": _fortran,
    "as a transposed batch-first array": _batch_first,
    "as columns of a wider array": _columns,
    "as every second entry of a larger array": _every_second,
    "with a negative stride": _reversed,
    UNALIGNED: _unaligned,
    READ_ONLY: _read_only,
}


@dataclass
class _Compared:
    """The results with plain arguments, which all others must match up to rounding."""

    passes: Passes
    given: Arguments
    plain: Bits
    bar: Rounding

    @classmethod
    def of(cls, passes: Passes, given: Arguments) -> _Compared | None:
        plain = bits(passes.both(given.copy()))
        return cls(passes, given, plain, Rounding(passes, given, plain)) if finite(plain) else None

    def wrong(self, given: Arguments) -> list[str]:
        """The items of the results at other arguments that rounding does not explain."""
        return self.bar.differing(self.plain, self.passes.both(given))

    def gradients(self, items: list[str]) -> list[str]:
        return [item for item in items if not self.passes.is_output(item)]


def other_layouts(passes: Passes, given: Arguments) -> list[Impurity] | None:
    """Pass every argument in every layout, constant arrays also with a stride of 0.

    Args:
        passes: the subject.
        given: the point, of C-contiguous arrays.

    Returns:
        What was misread and, with ``conduct`` set, what was rejected. None where the results at
        this point are not finite, so that nothing can be compared.

    Raises:
        ContractError: the subject's code fails with plain arguments.
    """
    return _collected(passes, given, _in_other_layouts, _constants)


def other_forms(passes: Passes, given: Arguments) -> list[Impurity] | None:
    """Pass a mask as numbers, and the parameters with their keys in another order.

    Args:
        passes: the subject.
        given: the point, of C-contiguous arrays.

    Returns:
        As of :func:`other_layouts`.

    Raises:
        ContractError: the subject's code fails with plain arguments.
    """
    return _collected(passes, given, _masks, _key_orders)


def _collected(
    passes: Passes, given: Arguments, *sources: Callable[[_Compared], Generator[Impurity]]
) -> list[Impurity] | None:
    compared = _Compared.of(passes, given)
    if compared is None:
        return None
    found: dict[tuple[str, str], Impurity] = {}
    for source in sources:
        for one in source(compared):
            found.setdefault((one.item, one.conduct or one.message), one)
    return list(found.values())


def _in_other_layouts(compared: _Compared) -> Generator[Impurity]:
    """Every argument in every layout: all at once, and one by one if that fails."""
    misread: set[str] = set()
    for layout, place in LAYOUTS.items():
        placed = {path: place(leaf) for path, leaf in compared.given.leaves().items()}
        other = {path: leaf for path, leaf in placed.items() if leaf is not None}
        if not other or not _goes_wrong(compared, other):
            continue
        alone = {path: {path: leaf} for path, leaf in other.items()}
        wrong = {path: one for path, leaf in alone.items() if (one := _goes_wrong(compared, leaf))}
        if not wrong and (together := _goes_wrong(compared, other)):
            wrong = {"every argument": together}
        if layout == READ_ONLY:
            yield from _read_only_refused(compared, wrong)
        else:
            yield from _told(compared, layout, wrong, misread)


_Wrong = ContractError | list[str]
"""How a call failed: it raised, or these results differ."""


def _goes_wrong(compared: _Compared, other: Mapping[str, Array]) -> _Wrong | None:
    try:
        return compared.wrong(compared.given.copy().with_leaves(other)) or None
    except ContractError as error:
        return error


def _told(
    compared: _Compared, layout: str, wrong: Mapping[str, _Wrong], misread: set[str]
) -> Generator[Impurity]:
    """One rejection, and one finding for all arguments that no other layout has reported."""
    for path, error in wrong.items():
        if isinstance(error, ContractError):
            kind = "aligned" if layout == UNALIGNED else "C-contiguous"
            text = f"{error.method}: refuses arrays that are not {kind} ({path} {layout}): {error}"
            yield Impurity(error.method, f"not {kind}", text, "refusal")
    others = {p: i for p, i in wrong.items() if p not in misread and isinstance(i, list)}
    misread.update(others)
    if others:
        items = next(iter(others.values()))
        method = compared.passes.method_of(items[0])
        yield Impurity(method, items[0], (
            f"{method}: another {_listed(items)} with {' and '.join(others)} {layout}: is an array "
            "read through its raw pointer, or reshaped in the order of its memory? Its strides "
            "say how to read it; np.ascontiguousarray copies it where need be"
        ))  # fmt: skip


def _read_only_refused(compared: _Compared, wrong: Mapping[str, _Wrong]) -> Generator[Impurity]:
    for path, error in wrong.items():
        if not isinstance(error, ContractError):
            method = compared.passes.method_of(error[0])
            yield Impurity(method, error[0], (
                f"{method}: another {_listed(error)} where {path} is read-only, with equal values. "
                "Arrays of JAX, torch and np.broadcast_to are read-only; only the values count"
            ))  # fmt: skip
        if isinstance(error, ContractError):
            yield Impurity(error.method, path, (
                f"{error.method}: {path} that is read-only is refused: {error}. Arrays of JAX, "
                "torch and np.broadcast_to are read-only, and a function that writes to no "
                "argument has no reason to refuse them"
            ))  # fmt: skip


def _listed(items: list[str]) -> str:
    more = f" (and {len(items) - 1} more)" if len(items) > 1 else ""
    return items[0] + more


_MOST_PARAMETERS = 6


def _constants(compared: _Compared) -> Generator[Impurity]:
    """Arrays that are constant along an axis, with a stride of 0 there."""
    given, names = compared.given, compared.given.names
    parameters = [path for path in given.leaves() if argument_of(path) == names.params]
    # One at a time, because constant weights everywhere make all units equal.
    groups = [(path,) for path in parameters[:_MOST_PARAMETERS]]
    groups += [
        tuple(path for path in given.leaves() if argument_of(path) == name)
        for name in (names.x, names.state, names.d_y, names.d_state)
    ]
    for paths in groups:
        # The gradient of a sum is constant; states and inputs have equal rows.
        whole = bool(paths) and argument_of(paths[0]) in names.cotangents
        leaves = given.leaves()
        flat = {p: _broadcast(leaves[p], whole) for p in paths if _many(leaves[p])}
        if not flat:
            continue
        plain = {path: np.array(leaf, order="C") for path, leaf in flat.items()}
        try:
            twin = _Compared.of(compared.passes, given.copy().with_leaves(plain))
        except ContractError:
            continue  # equal rows are outside its domain
        if twin is None:
            continue
        alone = {path: _goes_wrong(twin, {path: leaf}) for path, leaf in flat.items()}
        wrong = {path: one for path, one in alone.items() if one}
        yield from _told(twin, "broadcast with a stride of 0", wrong, set())


def _broadcast(a: Array, whole: bool) -> Array:
    axes = a.shape if whole else a.shape[:1]
    first = a[(0,) * len(axes)]
    strides = [0] * len(axes) + list(np.empty(a.shape, a.dtype).strides[len(axes) :])
    view = _placed(a, strides)
    view[...] = first
    return view


def _masks(compared: _Compared) -> Generator[Impurity]:
    """A mask of 0 and 1: code that uses it as a mask forward must do so backward."""
    mask = compared.given.values.get("mask")
    for dtype in ("int8", "int64", "float64") if mask is not None else ():
        other = compared.given.copy().with_leaves({"mask": np.asarray(mask).astype(dtype)})
        method = compared.passes.names.forward
        try:
            wrong = compared.wrong(other)
        except ContractError as error:
            text = f"{error.method}: refuses a mask of {dtype}, only bool is taken: {error}"
            yield Impurity(error.method, "mask", text, "refusal")
            continue
        gradients = compared.gradients(wrong)
        if gradients != wrong:
            text = f"{method}: a mask of 0 and 1 as {dtype} gives another {_listed(wrong)}: "
            text += "only bool is understood; write `mask = mask.astype(bool)`"
            yield Impurity(method, "mask", text, "refusal")
        elif wrong:
            method = compared.passes.method_of(wrong[0])
            yield Impurity(method, wrong[0], (
                f"{method}: a mask of 0 and 1 as {dtype} gives the outputs of a mask of bool, but "
                f"another {_listed(wrong)}: `~mask` is -1 or -2 of integers; write `mask = "
                "mask.astype(bool)`"
            ))  # fmt: skip
            return


def _key_orders(compared: _Compared) -> Generator[Impurity]:
    """The parameters with their keys in another order: JAX and JSON sort them."""
    params = compared.given.values[compared.given.names.params]
    for order in _orders(params):
        given = compared.given.copy()
        lent = given.values[given.names.params]
        turned = replace(given, values={**given.values, given.names.params: {
            key: lent[key] for key in order
        }})  # fmt: skip
        keys = ", ".join(map(repr, order))
        try:
            wrong = compared.wrong(turned)
        except ContractError as error:
            text = f"{error.method}: refuses the keys of params in the order {keys}, in which JAX "
            text += f"or JSON may put them: {error}"
            yield Impurity(error.method, "params", text, "refusal")
            continue
        if not wrong:
            continue
        method = compared.passes.method_of(wrong[0])
        text = f"{method}: with the keys of params in the order {keys} there is another "
        text += f"{_listed(wrong)}: read params by key, not by position; JAX and JSON sort keys"
        # If the outputs differ, so may the gradient.
        outputs = len(compared.gradients(wrong)) < len(wrong)
        if outputs:
            yield Impurity(method, "params", text, "refusal")
        else:
            yield Impurity(method, wrong[0], text)
            return


def _orders(params: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Sorted, reversed, and with all parameters of one shape rotated by one place."""
    keys = tuple(params)
    turned = list(keys)
    shapes: dict[tuple[int, ...], list[int]] = {}
    for i, key in enumerate(keys):
        shapes.setdefault(np.shape(params[key]), []).append(i)
    for places in shapes.values():
        for place, source in zip(places, places[1:] + places[:1], strict=True):
            turned[place] = keys[source]
    orders = dict.fromkeys((tuple(turned), tuple(sorted(keys)), keys[::-1]))
    return [order for order in orders if order != keys]


def mixed_dtypes(passes: Passes, given: Arguments) -> list[Impurity]:
    """Float32 parameters with float64 inputs, and the reverse, where both are accepted.

    The gradients must be those of float64 arrays of the same values, up to the rounding of float32
    as this code has it.

    Args:
        passes: the subject.
        given: the point, in any dtype.

    Returns:
        What is wrong. A rejection is no finding, nor are other outputs: then the forward pass does
        not support such arguments.
    """
    single = given.cast(np.float32)
    double = single.cast(np.float64)
    try:
        low, high = bits(passes.both(single.copy())), bits(passes.both(double.copy()))
    except ContractError:
        return []
    if not (finite(low) and finite(high)) or low.keys() != high.keys():
        return []
    own = {i: np.abs(high[i] - low[i].astype(float)) for i in high if is_float(high[i])}
    loss = {item: gap + gap.max(initial=0.0) for item, gap in own.items()}
    bar = Rounding(passes, double, high, rounding(np.float32)[0], loss)
    for what, dtype in (("float32 parameters and float64", np.float32),
                        ("float64 parameters and float32", np.float64)):  # fmt: skip
        base = double if dtype is np.float32 else single
        mixed = base.copy().cast(dtype, lambda path: argument_of(path) == "params")
        try:
            results = passes.both(mixed)
        except ContractError:
            continue
        wrong = [i for i in high if i not in results or bar.ratio(i, high[i], results[i]) > LIMIT]
        if wrong and not any(passes.is_output(item) for item in wrong):
            method = passes.method_of(wrong[0])
            return [Impurity(method, wrong[0], (
                f"{method}: {what} inputs give the outputs of float64, but another "
                f"{_listed(wrong)}: is memory of one dtype read as another?"
            ))]  # fmt: skip
    return []


_APART = (4, 3, 2, 4)
"""T, B, n_in and n_hidden that differ, so that a wrong order gives a wrong shape."""

_SQUARE = (3, 2, 3, 3)
"""Weights that are all square, so that parameters read by position have a fitting shape."""


def arguments(context: Context) -> Tally:
    """Passes every argument in other layouts, and params in another order, with equal values.

    Finds code that reads an array through its raw pointer, rejects read-only arrays, misinterprets
    an integer mask, reads params by position, or reads one dtype as another. A rejection of other
    layouts, masks or dtypes by an exception is a remark.
    """
    run, tally = context.run, Tally("arguments")
    first = run.dtypes[0]
    looks = [(_layouts, small_case(run, *_APART, dtype, "holes")) for dtype in run.dtypes]
    looks += [(_forms, small_case(run, *_APART, first, "lengths"))]
    looks += [(_forms, small_case(run, *_SQUARE, first))]
    if run.subject.kind == "layer" and run.subject.supports_mask:
        looks += [(_layouts, small_case(run, *_APART, first))]  # its path without a mask
    for look, case in looks:
        tally.cases += 1
        try:
            look(run, tally, run.cases.problem(case))
            if look is _forms and {"float32", "float64"} <= set(run.dtypes):
                _mixed(run, tally, run.cases.problem(case))
        except ContractError as error:
            tally.skipped[f"{error.method} failed with plain arguments"] += 1
    tally.failures += bool(tally.findings)
    return tally


def on_problem(run: Run, problem: Problem) -> Tally:
    """The check on one given problem."""
    tally = Tally("arguments", cases=1)
    try:
        _layouts(run, tally, problem)
        _forms(run, tally, problem)
        _mixed(run, tally, problem)
    except ContractError as error:
        failed = exception_finding("arguments", error, problem.case)
        tally.findings.append(replace(failed, problem=problem))
    return tally


def _layouts(run: Run, tally: Tally, problem: Problem) -> None:
    """Every argument in other layouts, unless the subject declares `contiguous`."""
    if run.subject.traits.contiguous:
        tally.remarks["layouts were left out: it declares `contiguous = True`"] += 1
        return
    _tell(tally, other_layouts(*_passes(run, problem)), problem)


def _forms(run: Run, tally: Tally, problem: Problem) -> None:
    """Masks of numbers, keys in another order."""
    _tell(tally, other_forms(*_passes(run, problem)), problem)


def _mixed(run: Run, tally: Tally, problem: Problem) -> None:
    """Parameters of one dtype with inputs of another."""
    _tell(tally, mixed_dtypes(*_passes(run, problem)), problem)


def _passes(run: Run, problem: Problem) -> tuple[Passes, Arguments]:
    kind = run.subject.kind
    return Passes(run.subject.target, kind), Arguments.of(kind, problem)


def _tell(tally: Tally, found: list[Impurity] | None, problem: Problem) -> None:
    """Each message, and each kind of refusal, once."""
    if found is None:
        tally.skipped["the results are not finite"] += 1
        return
    for one in found:
        reported = tally.conduct if one.conduct else tally.findings
        known = {(f.method, f.block) if one.conduct else f.message for f in reported}
        if ((one.method, one.item) if one.conduct else one.message) not in known:
            reported.append(Finding(
                check="arguments",
                method=one.method,
                block=one.item,
                message=one.message,
                case=problem.case,
                problem=problem,
            ))  # fmt: skip


CHECK = Check("arguments", arguments, on_problem, replayed_twice="layouts")
