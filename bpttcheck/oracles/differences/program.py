"""A program around one point: run in its own precision, and only on the branches it takes there.

It also runs with every floating result off by about one rounding error. The change of the outputs
is the rounding of the code itself, intermediate results included: it shows a sum that absorbs a
small term, although neither the outputs nor the arguments do. The array class works wherever
NumPy's protocols are used; compiled code only sees arguments that are off by a rounding error.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles.branches.recording import Difference, Function, Pattern, plain, record
from bpttcheck.oracles.differences.weighted import flat, require_like

Array = NDArray[Any]
Vector = NDArray[np.float64]
_FLOATS: dict[int, Any] = {2: np.float16, 4: np.float32, 8: np.float64}


class NativeProgram:
    """``function`` and what a first run at ``point`` revealed about it.

    The first run is on a float64 copy of the point. If any result is narrower, points are rounded
    to that type from then on, so that the program sees the step that is taken. Code that raises in
    float64 gets float32.

    Attributes:
        point: the leaves in float64, representable in the program's own type.
        outputs: all outputs at ``point`` in one vector.
        pattern: the branches taken at ``point``; ``None`` if they could not be recorded.
        eps: the spacing of the program's own type at one.
        smallest: the spacing of the smallest numbers of the program's own type.
        evaluations: runs so far.
        limit: runs at most; beyond them ``run`` returns None.
        trouble: why the last run returned None, or ``""``.
        departure: the branch on which the last run departed from ``pattern``, if that was why.
        matters: the outputs whose values are used; the others may be anything.
        spread: the largest change of each output seen between runs at the point itself.
    """

    def __init__(self, function: Function, point: Sequence[Array]) -> None:
        self._function = function
        self.evaluations = 0
        self.limit: float = math.inf
        self.trouble = ""
        self.departure: Difference | None = None
        self.point = [np.asarray(leaf, np.float64) for leaf in point]
        self._handed: Any = np.float64
        outputs = self._first_run_in_either(point)
        self._dtype = _FLOATS[self._narrowest(outputs)]
        rounded = self.rounded(self.point)
        if any(not _same(a, b) for a, b in zip(rounded, self.point, strict=True)):
            self.point = rounded
            outputs = self._first_run()
        self._like = outputs
        self.outputs = flat(outputs)
        self.matters = np.ones(self.outputs.shape, bool)
        self.spread = np.zeros(self.outputs.shape)
        self.eps = float(np.finfo(self._dtype).eps)
        self.smallest = float(np.finfo(self._dtype).smallest_subnormal)

    @property
    def note(self) -> str:
        """What limits differences of this program, or ``""``."""
        notes: list[str] = []
        if self._dtype is not np.float64:
            notes.append(f"{np.dtype(self._dtype).name}-only code")
        if self.pattern is None:
            notes.append("branches not recorded: the code refuses a subclass of ndarray")
        elif self.pattern.unseen:
            notes.append(f"branches on values that left NumPy not seen: {self.pattern.unseen[0]}")
        if any(not np.isfinite(leaf).all() for leaf in self.point):
            notes.append("entries of the point that are not finite were not moved")
        if self.spread.any():
            notes.append("repeated runs at the same point differ")
        return "; ".join(notes)

    def require_weights(self, weights: Sequence[Array]) -> None:
        """Raise a ContractError unless ``weights`` has the shapes of the outputs."""
        require_like("weights", weights, "the outputs", self._like)

    def rounded(self, leaves: Sequence[Array]) -> list[Array]:
        """``leaves`` as the program sees them, in float64 again."""
        with np.errstate(all="ignore"):
            return [leaf.astype(self._dtype).astype(np.float64) for leaf in leaves]

    def run(self, leaves: Sequence[Array]) -> Vector | None:
        """All outputs at ``leaves`` in one vector; zero where they do not matter.

        ``None``, with ``trouble`` set, if the program fails there, is not finite or takes another
        branch than at ``point``.
        """
        self.trouble, self.departure = "", None
        if self.evaluations >= self.limit:
            self.trouble = "the limit of evaluations is reached"
            return None
        self.evaluations += 1
        try:
            outputs, pattern = self._outputs(leaves)
        except Exception as error:  # whatever user code raises away from the point
            self.trouble = f"the code raises {type(error).__name__} near the point"
            return None
        if self.pattern is not None and pattern is not None:
            self.departure = self.pattern.difference(pattern)
            if self.departure is not None:
                self.trouble = f"another branch is taken: {self.departure.event}"
                return None
        values = self._usable(outputs)
        if values is None:
            self.trouble = "the outputs near the point are not finite"
        return values

    def run_shaken(
        self, seed: int, moving: Sequence[NDArray[np.bool_]]
    ) -> tuple[Vector, NDArray[np.bool_]] | None:
        """The outputs when every operation is off by rounding, and which outputs show it.

        An output that is no longer of the noisy array class may come from code whose rounding was
        not perturbed.
        """
        if self.evaluations >= self.limit:
            return None
        self.evaluations += 1
        found = shaken(self._function, self._as_handed(self.point), seed, self.eps, moving)
        values = None if found is None else self._usable(found[0])
        if found is None or values is None:
            return None
        outputs, kept, any_moved = found
        shown = np.repeat(kept, [output.size for output in outputs])
        # An output in a buffer of the code's own has lost the class, but moves as well.
        return values, shown | (any_moved & (values != self._usable_outputs))

    def repeat(self) -> bool:
        """Run at the point itself once more; false if that fails."""
        values = self.run(self.point)
        if values is None:
            return False
        self.spread = np.maximum(self.spread, np.abs(values - self._usable_outputs))
        return True

    @property
    def _usable_outputs(self) -> Vector:
        return np.where(self.matters, self.outputs, 0.0)

    def _usable(self, outputs: Sequence[Array]) -> Vector | None:
        values = flat(outputs)
        if values.shape != self.outputs.shape:
            return None
        values = np.where(self.matters, values, 0.0)
        return values if np.isfinite(values).all() else None

    def _first_run_in_either(self, given: Sequence[Array]) -> list[Array]:
        try:
            return self._first_run()
        except Exception as error:  # whatever user code raises; perhaps only because of float64
            self._dtype = np.float32
            self._handed = np.float32
            self.point = self.rounded(self.point)
            try:
                return self._first_run()
            except Exception:
                if all(np.asarray(leaf).dtype == np.float32 for leaf in given):
                    raise
                raise error from None

    def _first_run(self) -> list[Array]:
        self.evaluations += 1
        outputs, self.pattern = record(self._function, self._as_handed(self.point))
        return outputs

    def _as_handed(self, leaves: Sequence[Array]) -> list[Array]:
        with np.errstate(all="ignore"):
            return [np.asarray(leaf, self._handed) for leaf in leaves]

    def _outputs(self, leaves: Sequence[Array]) -> tuple[list[Array], Pattern | None]:
        handed = self._as_handed(leaves)
        # Without any branch at the point there is none nearby: recording would be wasted.
        if self.pattern is not None and self.pattern.events:
            return record(self._function, handed)
        return plain(self._function, handed), None

    def _narrowest(self, outputs: Sequence[Array]) -> int:
        sizes = [output.dtype.itemsize for output in outputs if output.dtype.kind == "f"]
        if self.pattern is not None:
            # Half precision inside is a staircase in wider arithmetic, measured as noise.
            sizes.append(max(self.pattern.narrowest, 4))
        return min(8, np.dtype(self._handed).itemsize, *sizes)


def _same(a: Array, b: Array) -> bool:
    return np.array_equal(a, b, equal_nan=True)


_running = threading.local()
_SMALL_INTEGERS = 1024
_POOL = 4099  # a prime, so that repeated signs meet other entries
_ULPS = 64  # a number this close to an integer is taken for one
_SNAP = frozenset({"floor", "ceil", "trunc", "floor_divide"})
_EXACT = frozenset({
    *("absolute", "fabs", "negative", "positive", "sign", "heaviside", "copysign", "conjugate"),
    *("maximum", "minimum", "fmax", "fmin", "clip", "rint", "floor", "ceil", "trunc"),
    "floor_divide",
})  # fmt: skip
_LAYOUT = frozenset({
    *(np.concatenate, np.stack, np.hstack, np.vstack, np.split, np.array_split, np.hsplit),
    *(np.vsplit, np.reshape, np.transpose, np.swapaxes, np.moveaxis, np.expand_dims, np.squeeze),
    *(np.broadcast_to, np.tile, np.repeat, np.roll, np.where, np.sort, np.take, np.flip),
    *(np.zeros_like, np.ones_like, np.empty_like, np.full_like, np.copy, np.split),
})  # fmt: skip


class Shaken(np.ndarray):
    """An array whose floating results are moved up or down, at random, by about 3/4 of a unit."""

    __array_priority__: Any = 1.0  # pyright: ignore[reportIncompatibleMethodOverride]

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = ufunc.__name__
        plain = [_plain(x) for x in inputs]
        if name in _SNAP:
            plain = [_snapped(x) for x in plain]
        out = kwargs.get("out")
        if out is not None:
            kwargs["out"] = tuple(_plain(x) for x in out)
        if "where" in kwargs:
            kwargs["where"] = _plain(kwargs["where"])
        result = getattr(ufunc, method)(*plain, **kwargs)
        if out is None:
            return _wrapped(result, shake=name not in _EXACT)
        if name not in _EXACT:
            for array in kwargs["out"]:
                if isinstance(array, np.ndarray) and _is_float(array):
                    array[...] = _off(array)
        return out[0] if len(out) == 1 else out

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        result = super().__array_function__(func, types, args, kwargs)
        return _wrapped(result, shake=func not in _LAYOUT)

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        """As NumPy's; a shorter format rounds by its own unit."""
        plain, target = self.view(np.ndarray), np.dtype(dtype)
        if target.kind in "iu":
            return _snapped(plain).astype(target, *args, **kwargs)
        if target.kind in "fV" and target.itemsize < plain.dtype.itemsize:
            return _off(plain, _unit(target)).astype(target).view(Shaken)
        return plain.astype(target, *args, **kwargs).view(Shaken)

    def __int__(self) -> int:
        return int(_snapped(self.view(np.ndarray)))

    def dot(self, b: Any, out: Any = None) -> Any:
        """As NumPy's."""
        return np.dot(self, b, out)


def shaken(
    function: Function,
    point: Sequence[Array],
    seed: int,
    unit: float,
    moving: Sequence[NDArray[np.bool_]],
) -> tuple[list[Array], list[bool], bool] | None:
    """The outputs of a run in which the arguments and all results are off by rounding.

    Args:
        function: takes a list of arrays, returns a list of arrays.
        point: the arrays to run it on; never written to.
        seed: of the signs.
        unit: the spacing at one of the format in which the arguments are given.
        moving: the entries to be moved. The others are left where they are small integers (counts,
            labels, zeros and ones), which have no rounding error.

    Returns:
        The outputs, for each whether it still is an array of this class, and whether any internal
        result was moved; None if the code does not run on this class.
    """
    _running.rng = _Signs(seed)
    try:
        with np.errstate(all="ignore"):
            outputs = function(
                [_argument(leaf, unit, moves) for leaf, moves in zip(point, moving, strict=True)]
            )
            return (
                [np.asarray(output).view(np.ndarray) for output in outputs],
                [isinstance(output, Shaken) for output in outputs],
                _running.rng.used > sum(leaf.size > 0 for leaf in point),
            )
    except Exception:  # whatever user code raises because of the subclass
        return None
    finally:
        _running.rng = None


class _Signs:
    """Random signs and sizes near one, from a pool: drawing them again is most of the cost."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        # Sizes differ, because errors of equal size cancel exactly too often.
        self._pool = rng.choice(np.array([-1.0, 1.0]), _POOL) * rng.uniform(0.7, 1.7, _POOL)
        self._next = 0
        self.used = 0

    def signs(self, count: int) -> Array:
        """The next ``count`` signs."""
        self.used += 1
        end = self._next + count
        if end > len(self._pool):
            shortage = -(-count // len(self._pool))
            self._pool = np.concatenate([self._pool[self._next :], *[self._pool] * shortage])
            self._next, end = 0, count
        found = self._pool[self._next : end]
        self._next = end
        return found


def _argument(leaf: Array, unit: float, moves: NDArray[np.bool_]) -> Any:
    values = np.array(leaf)
    if not values.size:
        return values.view(Shaken)
    is_count = (values == np.rint(values)) & (np.abs(values) <= _SMALL_INTEGERS) & ~moves
    return np.where(is_count, values, _off(values, unit)).astype(values.dtype).view(Shaken)


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, Shaken) else x


def _is_float(array: Array) -> bool:
    return array.dtype.kind in "fc"


def _wrapped(result: Any, *, shake: bool) -> Any:
    if isinstance(result, np.ndarray):
        plain = result.view(np.ndarray)
        if not _is_float(plain) and plain.dtype.kind != "V":
            return plain
        return (_off(plain) if shake and _is_float(plain) else plain).view(Shaken)
    if isinstance(result, np.inexact):
        return _off(np.asarray(result))[()] if shake else result
    if isinstance(result, (tuple, list)):
        items = [_wrapped(item, shake=shake) for item in result]
        return type(result)(*items) if hasattr(result, "_fields") else type(result)(items)
    return result


def _off(array: Array, unit: float | None = None) -> Array:
    rng = getattr(_running, "rng", None)
    if rng is None or not array.size:
        return array
    # Enough for a number just above a power of two to move both ways, most of the time.
    size = 0.75 * (_unit(array.dtype) if unit is None else unit)
    signs = rng.signs(array.size).reshape(array.shape)
    wide = np.asarray(array, np.result_type(array.dtype, np.float64))
    return np.asarray(wide + wide * size * signs).astype(array.dtype)


@cache
def _unit(dtype: Any) -> float:
    """The spacing at one; measured for formats that NumPy does not define (bfloat16)."""
    if dtype.kind in "fc":
        return float(np.finfo(dtype).eps)
    unit = 1.0
    while float(np.asarray(1 + unit / 2).astype(dtype).astype(np.float64)) != 1.0:
        unit /= 2
    return unit


def _snapped(x: Any) -> Any:
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
        return x
    whole = np.rint(x)
    near = np.abs(x - whole) <= _ULPS * np.finfo(x.dtype).eps * np.abs(x)
    return np.where(near, whole, x)
