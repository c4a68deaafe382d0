"""Observing a trace, operation by operation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from bpttcheck.oracles.tracer.run import current


class NumpyCall(NamedTuple):
    """One operation of user code as a call of NumPy.

    Args:
        name: the operation, such as ``"np.tanh"``.
        native: NumPy's own function.
        args: its positional arguments, with traced arrays among them.
        kwargs: its keyword arguments.
    """

    name: str
    native: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Watch = Callable[[NumpyCall, Callable[[], Any]], Any]
"""``watch(call, perform)`` observes one operation and returns ``perform()``."""


def observed(
    describe: Callable[..., NumpyCall],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Pass the calls of a function to the run's watch; ``describe`` takes the same arguments."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            run = current()
            if run is None or run.watch is None:
                return function(*args, **kwargs)
            # Not shown are the operations that this one consists of.
            watch, run.watch = run.watch, None
            try:
                return watch(describe(*args, **kwargs), lambda: function(*args, **kwargs))
            finally:
                run.watch = watch

        return call

    return decorate


def observed_method(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """:func:`observed` for a method of arrays."""

    def native(array: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(array, name)(*args, **kwargs)

    return observed(
        lambda array, *args, **kwargs: NumpyCall(f"ndarray.{name}", native, (array, *args), kwargs)
    )
