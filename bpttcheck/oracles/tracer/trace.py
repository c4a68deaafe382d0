"""Plain NumPy step functions made traceable by JAX, without a change to their code."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bpttcheck import trees
from bpttcheck.errors import Declined, InternalError
from bpttcheck.oracles.error_origin import on_behalf, raise_defect
from bpttcheck.oracles.tracer.array import TracedArray
from bpttcheck.oracles.tracer.call import wrap
from bpttcheck.oracles.tracer.kept import unchanged
from bpttcheck.oracles.tracer.memory import Box, Chosen, Held, constant, fill_with_dummies
from bpttcheck.oracles.tracer.reach import Reach
from bpttcheck.oracles.tracer.run import (
    TracingRun,
    decline,
    raised_on_purpose,
    running,
    where_raised,
)
from bpttcheck.oracles.tracer.swap import swapped
from bpttcheck.oracles.tracer.watch import Watch

# User modules are shared by all threads: one trace at a time. A trace inside a trace is no problem.
_LOCK = threading.RLock()


def lift(function: Callable[..., Any], watch: Watch | None = None) -> Callable[..., Any]:
    """Make a function of NumPy arrays one of JAX arrays, to be traced, differentiated and batched.

    Args:
        function: NumPy code on trees of arrays, such as
            ``lambda params, state, x: cell.step(params, state, x)[:2]``. It returns a tree of
            arrays and numbers.
        watch: is shown each operation on arrays as it is traced; None: nobody looks.

    Returns:
        The same function on trees whose leaves are JAX arrays or tracers. It must be called in
        64-bit mode, and gives leaves of the dtypes that NumPy gives. When called it raises
        :class:`bpttcheck.errors.Declined`, naming the line of user code, for what cannot be traced
        and for any error but those that user code raises on purpose, and
        :class:`bpttcheck.errors.InternalError` for a defect of the tracer.
    """

    def lifted(*args: Any, **kwargs: Any) -> Any:
        if jnp.result_type(float) != np.float64:
            raise Declined("JAX in 32-bit mode", remedy="with jax.enable_x64(True): ...")
        with _LOCK:
            reach = Reach(function)
            run = TracingRun(make=TracedArray, namespaces=reach.namespaces, watch=watch)
            try:
                with unchanged(reach), running(run), swapped(reach):
                    result = _trace(run, function, args, kwargs)
                if run.refusal is not None:
                    raise run.refusal
            finally:
                # Its traceback leads back to the run: a cycle, freed by nothing but the collector.
                run.refusal = None
        return result

    return lifted


def _trace(run: TracingRun, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    wrapped = functools.partial(enter, run)
    inputs = [trees.map_leaves(wrapped, arg) for arg in args]
    named = {name: trees.map_leaves(wrapped, arg) for name, arg in kwargs.items()}
    try:
        return trees.map_leaves(leave, on_behalf(function, *inputs, **named))
    except (Declined, InternalError):
        raise
    except Exception as error:
        if run.refusal is not None:
            return None  # user code made another error of it; the caller raises the first
        if raised_on_purpose(run, error):
            raise
        raise_defect("tracing the step", error, run.namespaces)
        what = f"{type(error).__name__} while JAX traced the step: {_short(error)}"
        raise Declined(what, where=where_raised(run, error)) from error


def enter(run: TracingRun, leaf: Any) -> Any:
    """A wrapper around an argument."""
    if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float)):
        return leaf
    value = leaf if isinstance(leaf, jax.Array) else constant(leaf)
    owner = np.empty(value.shape, value.dtype)
    fill_with_dummies(owner)
    box = Box(owner, value.astype(owner.dtype), sure=owner.ndim < 2, lone=owner.ndim == 0)
    return wrap(run, owner, box)


def leave(leaf: Any) -> Any:
    """A JAX array from what user code returned."""
    if isinstance(leaf, Held):
        return jnp.asarray(leaf.read())
    if isinstance(leaf, Chosen):
        what = "z[mask] returned for a mask that depends on values"
        decline(what, "np.where(mask, a, b)", where=getattr(leaf, "where", ""))
    if isinstance(leaf, jax.Array):
        return leaf
    if isinstance(leaf, (np.ndarray, np.generic, bool, int, float)):
        return constant(leaf)
    return decline(
        f"the step returned {type(leaf).__name__}", "arrays, in tuples, NamedTuples or dicts"
    )


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
