"""Doors for code that is no cell and no layer: pairs of functions, losses with gradients, objects.

Each makes a subject of it (see :mod:`bpttcheck.adapt`) and checks that; options of
:func:`bpttcheck.check` such as ``examples=``, ``seed=``, ``checks=`` or ``raises=`` are handed on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from bpttcheck.adapt.function import Function
from bpttcheck.adapt.functions import from_grad, from_vjp
from bpttcheck.adapt.objects import from_object
from bpttcheck.errors import ContractError
from bpttcheck.results.report import Report
from bpttcheck.verify.check import check

_OPTIONS = frozenset(inspect.signature(check).parameters) - {
    "subject",
    "sizes",
    "lengths",
    "batches",
}
CASES_OF_A_POINT = 10
"""How many cotangents are drawn at each of the given arguments."""


def check_vjp(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    signature: str | None = None,
    **options: Any,
) -> Report:
    """Tell whether a hand-written backward pass of a function is right.

    >>> import numpy as np, bpttcheck
    >>> def forward(x, W):
    ...     h = np.tanh(x @ W)
    ...     return h, (x, W, h)
    >>> def backward(dh, cache):
    ...     x, W, h = cache
    ...     da = dh * (1 - h**2)
    ...     return da @ W.T, x.T @ da
    >>> bpttcheck.check_vjp(forward, backward, "x: N D, W: D H -> h: N H", examples=5).passed
    True

    Args:
        forward: takes the inputs in order; returns outputs, and a cache if there is one.
        backward: takes cotangents and the cache; returns gradients.
        signature: inputs and outputs with their axes by letter; None: read off ``args=``.
        options: those of :func:`bpttcheck.adapt.from_vjp` (``args=``, ``at=``, ``grads=``,
            ``receives=``, ``params=``, ``update=``, ``batch=``, ``time=``, ``domain=``) and of
            :func:`bpttcheck.check`.

    Raises:
        ContractError: an argument is malformed, or the code breaks its contract.
        GradientMismatch: unless ``raises=False``, a gradient is wrong.
    """
    own, rest = _divided(options)
    return _checked(from_vjp(forward, backward, signature, **own), rest)


def check_grad(
    function: Callable[..., Any], signature: str | None = None, **options: Any
) -> Report:
    """Tell whether a function that returns its loss and gradients returns the right ones.

    Args:
        function: takes the inputs in order; returns a loss and gradients.
        signature: the inputs with their axes by letter; None: read off ``args=``.
        options: those of :func:`bpttcheck.adapt.from_grad` (``returns=``, ``args=``, ``at=``,
            ``params=``, ``update=``, ``domain=``) and of :func:`bpttcheck.check`.

    Raises:
        ContractError: an argument is malformed, or the code breaks its contract.
        GradientMismatch: unless ``raises=False``, a gradient is wrong.
    """
    own, rest = _divided(options)
    return _checked(from_grad(function, signature, **own), rest)


def check_object(
    make: Callable[[dict[str, Any]], Any], params: Mapping[str, str], x: str, **options: Any
) -> Report:
    """Tell whether an object that keeps its forward pass and its gradients has the right ones.

    Args:
        make: from the parameters, a dict by name, to a fresh object.
        params: parameter -> axes: ``{"Wx": "D 4H"}``.
        x: what its forward method takes: axes, or several inputs by name.
        options: those of :func:`bpttcheck.adapt.from_object` (``y=``, ``forward=``, ``backward=``,
            ``grads=``, ``update=``, ``at=``, ``batch=``, ``time=``, ``domain=``) and of
            :func:`bpttcheck.check`.

    Raises:
        ContractError: an argument is malformed, or the code breaks its contract.
        GradientMismatch: unless ``raises=False``, a gradient is wrong.
    """
    own, rest = _divided(options)
    return _checked(from_object(make, params, x, **own), rest)


def _divided(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of an adapter, and those of :func:`bpttcheck.check`."""
    order = options.get("order", 1)
    if order != 1:
        raise ContractError(
            f"order={order!r}, but nothing says what the derivative of a NumPy backward "
            "pass is; check one that was written by hand as a pair, check_vjp(backward, "
            "double_backward, ...), and code of torch or JAX by adapt.from_torch(..., order=2) or "
            "adapt.from_jax(..., order=2)",
            item="order",
        )
    own = {name: v for name, v in options.items() if name not in {*_OPTIONS, "order"}}
    return own, {name: value for name, value in options.items() if name in _OPTIONS}


def _checked(function: Function, options: dict[str, Any]) -> Report:
    if function.only_points:
        options.setdefault("examples", CASES_OF_A_POINT * len(function.points))
        options.setdefault("dtypes", function.dtypes)
    return check(function, **options)
