"""One NumPy call on traced arrays: NumPy runs on the shadows, JAX on the values.

The shadows determine what NumPy would return: shapes, dtypes, layouts, views and errors; JAX
computes the values. Where the two disagree about a shape, the call is declined.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles.error_origin import natively
from bpttcheck.oracles.tracer.arguments import (
    collect,
    foreign_owners,
    replace,
    shadows,
    stand_in,
    stand_ins,
    values,
)
from bpttcheck.oracles.tracer.memory import (
    ArrayProxy,
    Buffer,
    MaybeAliased,
    cast,
    constant,
    dummy,
    fill_with_dummies,
    owner_of,
)
from bpttcheck.oracles.tracer.run import TracingRun, current, decline

Native = Callable[..., Any]


def perform(
    native: Native,
    form: Native,
    args: Sequence[Any],
    kwargs: dict[str, Any] | None = None,
) -> Any:
    """Call ``native`` on the shadows and ``form`` on the values of the same arguments."""
    kwargs = kwargs or {}
    held = collect(args, kwargs)
    run = current()
    if run is None or all(item.known for item in held):
        return perform_known(native, args, kwargs)
    try:
        result, copies = _on_copies(native, args, kwargs, regular=False)
    except np.linalg.LinAlgError:
        result, copies = _on_copies(native, args, kwargs, regular=True)
    leaves = _arrays(result)
    made = _compute(form, args, kwargs, leaves)
    layout_known = steady(native, args, kwargs, held, leaves)

    def finish(leaf: Any, value: Any, number: int) -> Any:
        certain = not layout_known or layout_known[number]
        source = copies.get(id(owner_of(leaf))) if isinstance(leaf, np.ndarray) else None
        if source is not None:
            return _linked(run, leaf, value, [source[0].buffer], layout_known=certain)
        return fresh(run, leaf, value, layout_known=certain)

    return _pair(result, made, finish)


def _on_copies(
    native: Native, args: Sequence[Any], kwargs: dict[str, Any], *, regular: bool
) -> tuple[Any, dict[int, tuple[ArrayProxy, Any]]]:
    """Call ``native`` on copies of the shadows; also ``id`` of each copy -> its array, and it."""
    copies: dict[int, tuple[ArrayProxy, Any]] = {}

    def copy(item: Any) -> Any:
        if not isinstance(item, ArrayProxy):
            return item
        made = stand_in(item, regular=regular)
        copies[id(made)] = (item, made)
        return made

    with np.errstate(all="ignore"):
        return natively(native, *replace(args, copy), **replace(kwargs, copy)), copies


def _compute(form: Native, args: Sequence[Any], kwargs: dict[str, Any], leaves: list[Any]) -> Any:
    """Call ``form`` in at least the precision in which NumPy computes."""
    wide = _real_dtype(leaves[0].dtype) if leaves else np.dtype(float)
    given, named = values(args, wide), values(kwargs, wide)
    made = form(*given, **named)
    if not _loses(made, leaves):
        return made
    # JAX takes the mean of bools and short integers in single precision.
    made = form(jnp.asarray(given[0]).astype(wide), *given[1:], **named)
    if _loses(made, leaves):
        decline(f"a call that JAX computes in less precision than {wide}", "z.astype(float)")
    return made


def _loses(made: Any, leaves: list[Any]) -> bool:
    return any(
        isinstance(value, jax.Array)
        and value.dtype.kind in "fc"
        and leaf.dtype.kind in "fc"
        and value.real.dtype.itemsize < _real_dtype(leaf.dtype).itemsize
        for value, leaf in zip(_flat(made), leaves, strict=False)
    )


def _flat(made: Any) -> list[Any]:
    if isinstance(made, (list, tuple)):
        return [leaf for item in made for leaf in _flat(item)]
    return [made]


def _real_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of the real part."""
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def perform_known(native: Native, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Let NumPy compute with constants, also outside a run (an array kept from an earlier one)."""
    result = natively(native, *shadows(args), **shadows(kwargs))
    run = current()
    return result if run is None else adopt(run, result, foreign_owners(run, args, kwargs))


def rearrange(native: Native, args: Sequence[Any], kwargs: dict[str, Any] | None = None) -> Any:
    """Call a function that only rearranges entries: views stay views and copies stay copies."""
    kwargs = kwargs or {}
    held = collect(args, kwargs)
    run = current()
    if run is None or all(item.known for item in held):
        return perform_known(native, args, kwargs)
    result = natively(native, *shadows(args), **shadows(kwargs))
    leaves = _arrays(result)
    owners = {id(item.buffer.owner): item.buffer for item in held}
    layout_known = steady(native, args, kwargs, held, leaves)
    places: list[Any] = []

    def finish(leaf: Any, _: Any, number: int) -> Any:
        buffer = owners.get(id(owner_of(leaf))) if isinstance(leaf, np.ndarray) else None
        steady_leaf = not layout_known or layout_known[number]
        if buffer is not None and steady_leaf and leaf.dtype == buffer.owner.dtype:
            return wrap(run, leaf, buffer)
        value = _moved(native, args, kwargs, held, places, number)
        if buffer is None and steady_leaf:
            return fresh(run, leaf, value, layout_known=True)
        return _linked(run, leaf, value, [item.buffer for item in held], layout_known=steady_leaf)

    return _pair(result, result, finish)


def _moved(
    native: Native,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    held: list[ArrayProxy],
    places: list[Any],
    number: int,
) -> Any:
    """The values of a rearranged copy; an array of indices shows which entries it took."""
    if len(held) != 1:
        decline("a rearrangement of several arrays that NumPy copies", "rearrange one at a time")
    if not places:
        index = np.empty_like(held[0].shadow, np.int64)
        index[...] = np.arange(index.size).reshape(index.shape)
        swap: Native = lambda item: index if isinstance(item, ArrayProxy) else item  # noqa: E731
        moved = natively(native, *replace(args, swap), **replace(kwargs, swap))
        places.extend(_arrays(moved))
    where = np.asarray(places[number])
    if where.dtype != np.int64:
        decline("a rearrangement that also changes the dtype", "z.astype(dtype)")
    flat = held[0].read().reshape(-1)
    if where.size == flat.size and np.array_equal(where.reshape(-1), np.arange(where.size)):
        return flat.reshape(where.shape)
    return flat[where]


def blind(native: Native, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Call a function that reads shapes and dtypes only: its result is a constant."""
    run = current()
    held = collect(args, kwargs)
    result = natively(native, *shadows(args), **shadows(kwargs))
    if run is None:
        return result
    made = adopt(run, result, set())
    layout_known = steady(native, args, kwargs, held, _arrays(result))
    if isinstance(made, ArrayProxy) and layout_known:
        made.buffer.layout_known = layout_known[0]
    return made


def steady(
    native: Native,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    held: Iterable[ArrayProxy],
    leaves: list[Any],
) -> list[bool]:
    """Whether each result has this layout, or is a view, for every layout of the inputs.

    An empty list means yes: no argument depends on the layout of arrays from outside.
    """
    if all(item.buffer.layout_known or item.shadow.ndim < 2 for item in held):
        return []
    owners: set[int] = set()
    alive: list[Any] = []

    def other(item: Any) -> Any:
        if not isinstance(item, ArrayProxy):
            return item
        made = stand_in(item)
        if not item.buffer.layout_known and made.ndim > 1:
            made = np.array(made, order="F" if made.flags.c_contiguous else "C")
        alive.append(made)
        owners.add(id(made))
        return made

    try:
        with np.errstate(all="ignore"):
            again = _arrays(natively(native, *replace(args, other), **replace(kwargs, other)))
    except np.linalg.LinAlgError:
        return [False] * len(leaves)
    looks_in = {id(owner_of(item.shadow)) for item in held if isinstance(item.shadow, np.ndarray)}
    return [
        (id(owner_of(b)) in owners) == (id(owner_of(a)) in looks_in)
        and (id(owner_of(b)) in owners or _axis_order(a) == _axis_order(b))
        for a, b in zip(leaves, again, strict=True)
    ]


def _axis_order(array: Any) -> tuple[int, ...]:
    axes = [axis for axis in range(np.ndim(array)) if array.shape[axis] > 1]
    return tuple(sorted(axes, key=lambda axis: -abs(array.strides[axis])))


def adopt(run: TracingRun, result: Any, external: set[int]) -> Any:
    """Wrap the ndarrays in what NumPy returned; their values are exact."""
    if type(result) is np.ndarray:
        owner = owner_of(result)
        buffer = run.buffers.get(id(owner)) or Buffer(owner, external=id(owner) in external)
        return wrap(run, result, buffer)
    home = type(result).__module__
    if isinstance(result, (list, tuple)) and (home == "builtins" or home.startswith("numpy")):
        items = [adopt(run, item, external) for item in result]
        return type(result)(*items) if hasattr(result, "_fields") else type(result)(items)
    return result


def wrap(run: TracingRun, shadow: NDArray[Any], buffer: Buffer) -> ArrayProxy:
    """The wrapper of ``shadow``: the same object as before if there is one."""
    run.buffers[id(buffer.owner)] = buffer
    old = run.wrappers.get(id(shadow), lambda: None)()
    if old is not None and old.shadow is shadow:
        return old
    made = run.make(shadow, buffer)
    run.wrappers[id(shadow)] = weakref.ref(made)
    return made


def fresh(run: TracingRun, shadow: Any, value: Any, *, layout_known: bool) -> ArrayProxy:
    """A new array or scalar with the layout of ``shadow`` and the given values."""
    leaf = shadow if isinstance(shadow, (np.ndarray, np.generic)) else np.asarray(shadow)[()]
    if jnp.shape(value) != leaf.shape:
        decline(
            f"a call whose result has shape {leaf.shape} in NumPy and {jnp.shape(value)} in JAX",
            "other NumPy functions",
        )
    value = cast(value, leaf.dtype)
    if not isinstance(leaf, np.ndarray):
        scalar = dummy(leaf.dtype)
        return run.make(scalar, Buffer(scalar, value))
    owner = np.empty_like(leaf, subok=False)
    fill_with_dummies(owner)
    dense = all(
        size < 2 or a == b
        for size, a, b in zip(leaf.shape, owner.strides, leaf.strides, strict=True)
    )
    return wrap(run, owner, Buffer(owner, value, layout_known=layout_known and dense))


def _linked(
    run: TracingRun, leaf: NDArray[Any], value: Any, sources: list[Buffer], *, layout_known: bool
) -> ArrayProxy:
    owner = np.empty_like(leaf, subok=False)
    fill_with_dummies(owner)
    value = cast(jnp.broadcast_to(value, leaf.shape), leaf.dtype)
    return wrap(run, owner, MaybeAliased(owner, value, sources, layout_known=layout_known))


def _arrays(result: Any) -> list[Any]:
    """The leaves of a result, in order, as arrays or NumPy scalars."""
    if isinstance(result, (list, tuple)):
        return [leaf for item in result for leaf in _arrays(item)]
    return [result if isinstance(result, (np.ndarray, np.generic)) else np.asarray(result)]


def _pair(shape: Any, value: Any, finish: Callable[[Any, Any, int], Any]) -> Any:
    counter = iter(range(1 << 30))

    def walk(shape: Any, value: Any) -> Any:
        if isinstance(shape, (list, tuple)):
            if not isinstance(value, (list, tuple)) or len(value) != len(shape):
                decline("a call that returns one thing in NumPy and another in JAX")
            items = [walk(a, b) for a, b in zip(shape, value, strict=True)]
            return type(shape)(*items) if hasattr(shape, "_fields") else type(shape)(items)
        number = next(counter)
        if not isinstance(shape, (np.ndarray, np.generic, bool, int, float, complex, jax.Array)):
            decline(f"a call that returns {type(shape).__name__}", "array code")
        return finish(shape, value, number)

    return walk(shape, value)


def overwrite(native: Native, form: Native, target: Any, others: Sequence[Any]) -> None:
    """Change ``target`` in place: ``native(target, *others)`` in NumPy, ``form`` gives the values.

    ``form(value, *values)`` returns the new value of the whole target.
    """
    held = collect(others)
    if not isinstance(target, ArrayProxy):
        if any(not item.known for item in held):
            decline(
                "a traced value is written into an array that was made outside the step",
                "make the array inside the step, with np.empty, np.zeros or np.array",
            )
        natively(native, target, *shadows(others))
        return
    if target.known and all(item.known for item in held):
        natively(native, target.shadow, *shadows(others))
        target.buffer.touch()
        return
    run = current()
    if run is None or run.buffers.get(id(target.buffer.owner)) is not target.buffer:
        decline("an array was kept from an earlier call", "keep nothing outside the step")
    scratch = np.empty_like(target.shadow)
    fill_with_dummies(scratch)
    scratch.flags.writeable = target.shadow.flags.writeable
    with np.errstate(all="ignore"):
        natively(native, scratch, *stand_ins(others))
    whole = constant(target.shadow) if target.known else target.read()
    target.write(form(whole, *values(others)))
