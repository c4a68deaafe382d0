"""The first operation of a step whose traced value differs from NumPy's.

Each operation is run twice on exactly the same operands, traced and natively, so that neither
accumulated rounding, nor random numbers, nor the state of an object affect the comparison. For the
native run every array is put back into memory of its own layout, so that writes through a view
reach the same memory as in the user's program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bpttcheck import trees
from bpttcheck.calibration import BLOCK_FLOOR, COPIES, LIMIT
from bpttcheck.errors import InternalError
from bpttcheck.jax_mode import reference_mode
from bpttcheck.oracles.estimate import rms
from bpttcheck.oracles.tracer.arguments import replace
from bpttcheck.oracles.tracer.index import MaskedSelection
from bpttcheck.oracles.tracer.memory import ArrayProxy, Buffer, GatherView, MaybeAliased
from bpttcheck.oracles.tracer.run import here, paused
from bpttcheck.oracles.tracer.trace import lift
from bpttcheck.oracles.tracer.watch import NumpyCall

Array = NDArray[Any]
Step = Callable[[Any, Any, Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Departure:
    """An operation that the trace translates wrongly.

    Args:
        function: the NumPy function, ``"np.multiply"``; ``"z[...]"`` for an index.
        where: the line of user code, ``"cell.py:12: v *= .5"``, or ``""``.
        what: how much the two differ.
    """

    function: str
    where: str
    what: str

    def __str__(self) -> str:
        """``np.multiply at cell.py:12: v *= .5 (off by 1.3 where ...)``."""
        place = f" at {self.where}" if self.where else ""
        return f"{self.function}{place} ({self.what})"


def first_departure(step: Step, params: Any, state0: Any, xs: Array) -> Departure | None:
    """Find the operation at which the traced values of a step first leave NumPy's.

    Args:
        step: NumPy code ``step(params, state, x) -> (new_state, y)``.
        params: its parameters, a tree of arrays. Floats are used as float64, as in every trace.
        state0: the state before the first step, leaves ``(B, ...)``.
        xs: inputs ``(T, B, n_in)``; steps are searched in order.

    Returns:
        The operation, or None if every one agrees with NumPy: then the cause is not the translation
        but random numbers, state that the step keeps, or arguments that it changes. None also if
        the step cannot be traced, or fails.
    """
    params, state = trees.map_leaves(_double, params), trees.map_leaves(_double, state0)
    lookout = _Lookout()
    lifted = lift(step, watch=lookout.see)
    for x in _double(xs):
        try:
            with reference_mode():
                lifted(*(trees.map_leaves(jnp.asarray, tree) for tree in (params, state, x)))
            if lookout.found is not None:
                return lookout.found
            with np.errstate(all="ignore"):
                new, _ = step(*(trees.map_leaves(np.array, tree) for tree in (params, state, x)))
            state = trees.map_leaves(lambda old, leaf: np.asarray(leaf, old.dtype), state, new)
        except InternalError:
            raise
        except Exception:
            # The step ran both ways before, so an error now is not caused by the translation.
            return lookout.found
    return None


class _Lookout:
    """Compares each operation as it is traced, up to the first that differs."""

    def __init__(self) -> None:
        self.found: Departure | None = None

    def see(self, call: NumpyCall, perform: Callable[[], Any]) -> Any:
        """Perform the operation and compare it with NumPy's own."""
        if self.found is not None:
            return perform()
        replay = NativeReexecution(call)
        result = perform()
        where = here()
        with paused():
            what = _difference(replay, result)
        if what:
            self.found = Departure(call.name, where, what)
        return result


def _difference(replay: NativeReexecution, result: Any) -> str:
    """How the traced operation differs from NumPy's, or ``""``."""
    made = leaves(result)
    changed = {key: content(buffer) for key, buffer in replay.buffers.items() if not buffer.known}
    traced = [traced_value(leaf) for leaf in made]
    if not changed and all(value is None for value in traced):
        return ""  # constants: NumPy itself has computed them
    try:
        exact = replay.run(lambda values: values)
    except Exception:
        return ""  # NumPy rejects these arguments, so this is not how it was called natively
    if len(exact.leaves) != len(made):
        return f"{len(made)} results where NumPy gives {len(exact.leaves)}"
    return _views_differ(exact, made) or _values_differ(replay, exact, traced, changed)


def _views_differ(exact: Outcome, made: list[Any]) -> str:
    """Results that are a view in one run and a copy in the other, as a later write would show."""
    for leaf, native in zip(made, exact.leaves, strict=True):
        looks_into = traced_views(leaf)
        if looks_into is None or not np.size(native):
            continue
        views = exact.views(native)
        if views != looks_into & exact.memory.keys():
            return f"NumPy gives a {'view' if views else 'copy'}, and the trace does not"
    return ""


def _values_differ(
    replay: NativeReexecution, exact: Outcome, traced: list[Any], changed: dict[int, Array]
) -> str:
    """Compare results, and all memory that the operands lie in, with NumPy's."""

    def natively(outcome: Outcome) -> list[Array]:
        pairs = zip(outcome.leaves, traced, strict=True)
        returned = [np.asarray(leaf) for leaf, value in pairs if value is not None]
        return [*returned, *(outcome.memory[key] for key in changed)]

    right = natively(exact)
    found = [*(np.asarray(value) for value in traced if value is not None), *changed.values()]
    for a, b in zip(right, found, strict=True):
        if a.shape != b.shape:
            return f"shape {b.shape} where NumPy gives {a.shape}"
    if all(np.array_equal(a, b) for a, b in zip(right, found, strict=True)):
        return ""
    rng = np.random.default_rng(0)
    copies = [natively(replay.run(lambda v: _jittered(v, rng))) for _ in range(COPIES)]
    for number, (a, b) in enumerate(zip(right, found, strict=True)):
        what = _gap(a, b, np.stack([copy[number] for copy in copies]))
        if what:
            return what
    return ""


def _gap(native: Array, traced: Array, copies: Array) -> str:
    """How much two arrays differ if rounding does not explain it, or ``""``."""
    a, b = _wide(native), _wide(traced)
    unit, tiny = _rounding(native.dtype)
    gaps, spread = _apart(b, a), rms(_apart(_wide(copies), a))
    size = np.where(np.isfinite(a), np.abs(a), 0.0)
    width = spread + BLOCK_FLOOR * spread.max(initial=0.0) + unit * size + tiny
    # Where rounding alone turns a number into infinity or NaN, the entry is not compared.
    wrong = np.isfinite(width) & ~(gaps <= LIMIT * width)
    if not wrong.any():
        return ""
    return f"off by {gaps[wrong].max():.2g} where NumPy gives up to {size.max():.2g}"


def _apart(values: Array, native: Array) -> Array:
    """Distances entry by entry; 0 where both have the same infinity, or NaN."""
    with np.errstate(all="ignore"):
        equal = (values == native) | (np.isnan(values) & np.isnan(native))
        return np.where(equal, 0.0, np.abs(values - native))


def _jittered(values: Array, rng: np.random.Generator) -> Array:
    """Every floating value moved by about one rounding error."""
    if values.dtype.kind not in "fc":
        return values
    u = rng.uniform(-np.sqrt(3), np.sqrt(3), values.shape)
    return np.asarray(values * (1 + _rounding(values.dtype)[0] * u), values.dtype)


def _rounding(dtype: np.dtype[Any]) -> tuple[float, float]:
    """``(eps, tiny)`` of a dtype; integers and booleans do not round."""
    if dtype.kind not in "fc":
        return 0.0, 0.0
    info = np.finfo(dtype)
    return float(info.eps), float(info.tiny)


def _wide(array: Array) -> Array:
    return np.asarray(array, np.complex128 if array.dtype.kind == "c" else np.float64)


def _double(leaf: Any) -> Array:
    array = np.asarray(leaf)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


Draw = Callable[[NDArray[Any]], NDArray[Any]]
"""What is done to the values of an array before NumPy gets them."""


class Outcome:
    """NumPy's result of one operation.

    Args:
        leaves: the arrays and numbers that it returned, in order.
        memory: ``id`` of each buffer -> the memory of that buffer afterwards.
    """

    def __init__(self, leaves: list[Any], memory: dict[int, NDArray[Any]]) -> None:
        self.leaves = leaves
        self.memory = memory

    def views(self, leaf: Any) -> set[int]:
        """``id`` of the buffers of which a returned array is a view."""
        if not isinstance(leaf, np.ndarray):
            return set()
        return {key for key, whole in self.memory.items() if np.may_share_memory(leaf, whole)}


class NativeReexecution:
    """The operands of an operation before it has run.

    Args:
        call: the operation.
    """

    def __init__(self, call: NumpyCall) -> None:
        self._call = call
        self.buffers: dict[int, Buffer] = {}
        self._values: dict[int, Any] = {}
        replace((call.args, call.kwargs), self._keep)

    def _keep(self, item: Any) -> None:
        if isinstance(item, MaskedSelection):
            item, _ = item.parts()
        if isinstance(item, ArrayProxy) and id(item.buffer) not in self.buffers:
            self.buffers[id(item.buffer)] = item.buffer
            self._values[id(item.buffer)] = content(item.buffer)

    def run(self, draw: Draw) -> Outcome:
        """Run NumPy on fresh memory filled with ``draw`` of the values."""
        memory = {key: _laid(self.buffers[key], draw(v)) for key, v in self._values.items()}

        def native(item: Any) -> Any:
            if isinstance(item, MaskedSelection):
                held, mask = item.parts()
                return _view(memory[id(held.buffer)], held)[np.asarray(mask)]
            return _view(memory[id(item.buffer)], item) if isinstance(item, ArrayProxy) else item

        args, kwargs = replace(self._call.args, native), replace(self._call.kwargs, native)
        with np.errstate(all="ignore"):
            return Outcome(leaves(self._call.native(*args, **kwargs)), memory)


def content(buffer: Buffer) -> NDArray[Any]:
    """The values of a whole piece of memory now, a copy."""
    if isinstance(buffer, GatherView):
        return np.array(buffer.load())
    return np.array(buffer.layout if buffer.known else buffer.value)


def leaves(result: Any) -> list[Any]:
    """What an operation returned as a flat list."""
    if isinstance(result, (list, tuple)):
        return [leaf for item in result for leaf in leaves(item)]
    return [] if result is None else [result]


def traced_value(leaf: Any) -> Any:
    """The values of a traced result; None for anything else."""
    if isinstance(leaf, MaskedSelection):
        held, mask = leaf.parts()
        return np.asarray(held.read())[np.asarray(mask)]
    return np.asarray(leaf.read()) if isinstance(leaf, ArrayProxy) and not leaf.known else None


def traced_views(leaf: Any) -> set[int] | None:
    """``id`` of the buffer of which a traced result is a view; None where the trace cannot tell."""
    if not isinstance(leaf, ArrayProxy) or isinstance(leaf.buffer, (MaybeAliased, GatherView)):
        return None
    return {id(leaf.buffer)}


def _laid(buffer: Buffer, values: NDArray[Any]) -> NDArray[Any]:
    """The values in memory that is laid out as the buffer's own."""
    memory = np.empty_like(buffer.layout)
    memory[...] = values
    return memory


def _view(memory: NDArray[Any], held: ArrayProxy) -> Any:
    """The view that ``held`` is of its buffer's memory, applied to other memory."""
    if not isinstance(held.shadow, np.ndarray):
        return memory[()]
    offset = _address(held.shadow) - _address(held.buffer.layout)
    flat = memory.ravel(order="K")
    return np.ndarray(held.shadow.shape, memory.dtype, flat, offset, held.shadow.strides)


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
