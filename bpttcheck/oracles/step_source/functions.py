"""Functions of one variable that are written out, recognised by what they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles.step_source.forward import SIGMOID, SOFTPLUS
from bpttcheck.oracles.step_source.recording import CONSTANT, FREEZE, INPUT, Value
from bpttcheck.oracles.step_source.rules import SLOPES
from bpttcheck.oracles.tracer.arguments import replace

Array = NDArray[Any]

_POINTS = np.linspace(-5.0, 5.0, 41)
_NEAR = 1e-12
_KNOWN: dict[str, Callable[[Array], Array]] = {
    SIGMOID: lambda z: 1 / (1 + np.exp(-z)),
    SOFTPLUS: lambda z: np.log1p(np.exp(z)),
}


def recognised(values: list[Value]) -> dict[Value, tuple[str, Value]]:
    """The values that are a known function of another one: its name, and that value.

    A function is known by its values at points from -5 to 5: what the derivation is worth, the
    check of the whole says.
    """
    found: dict[Value, tuple[str, Value]] = {}
    root: dict[Value, Value] = {}
    for value in values:
        moving = {root.get(o, o) for o in value.operands if not o.known}
        if len(moving) != 1 or value.op not in SLOPES or value.kind != "f":
            continue
        (start,) = moving
        if start.shape != value.shape or start.kind != "f":
            continue
        root[value] = start
        direct = value.op == "scipy.special.expit" and value.operands[0] is start
        name = SIGMOID if direct else _name(value, start)
        if name:
            found[value] = (name, start)
            del root[value]  # what is made of it is a function of it
    return found


def _name(value: Value, start: Value) -> str:
    try:
        with np.errstate(all="ignore"):
            computed = np.asarray(_computed(value, {start: _POINTS}), float)
            for name, function in _KNOWN.items():
                right = function(_POINTS)
                if computed.shape == right.shape and np.all(abs(computed - right) <= _NEAR):
                    return name
    except (TypeError, ValueError):
        return ""
    return ""


def _computed(value: Value, known: dict[Value, Array]) -> Any:
    """A value from that of another one, in NumPy."""
    if value in known:
        return known[value]
    if value.op == CONSTANT and np.ndim(value.array) == 0:
        return value.array
    if value.op in (INPUT, CONSTANT, FREEZE) or value.native is None or value.part is not None:
        raise ValueError
    args, kwargs = replace(
        (value.args, value.kwargs), lambda x: _computed(x, known) if isinstance(x, Value) else x
    )
    known[value] = value.native(*args, **kwargs)
    return known[value]
