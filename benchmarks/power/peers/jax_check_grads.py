"""``jax.test_util.check_grads`` and ``chex.assert_numerical_grads`` on a ``custom_vjp``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.power.flat import Flat
from benchmarks.power.peers.base import Named, Peer, Settings
from bpttcheck.jax_mode import enable_x64

EPS = (1e-3, 1e-4, 1e-5, 1e-6)
EPS32 = (1e-1, 3e-2, 1e-2, 1e-3)


Signature = tuple[tuple[tuple[int, ...], str], ...]

_SHOWN: list[Flat] = []


def as_custom_vjp(flat: Flat) -> Callable[..., Any]:
    """The layer as a JAX function with its own backward rule, both NumPy behind a callback.

    JAX compiles a program for every callback and never frees it: problems of the same shapes share
    one, which looks up the layer that is shown at the moment.
    """
    _SHOWN[:] = [flat]
    leaves = tuple((leaf.shape, str(leaf.dtype)) for leaf in flat.point)
    return _shared(leaves, tuple((tuple(shape), str(dtype)) for shape, dtype in flat.outputs))


@functools.cache
def _shared(leaves_like: Signature, outputs_like: Signature) -> Callable[..., Any]:
    import jax

    outputs = [jax.ShapeDtypeStruct(*one) for one in outputs_like]
    gradients = [jax.ShapeDtypeStruct(*one) for one in leaves_like]

    @jax.custom_vjp
    def f(*leaves):
        return jax.pure_callback(_forward, outputs, *leaves)

    def rule(leaves, cotangents):
        return tuple(jax.pure_callback(_backward, gradients, leaves, cotangents))

    f.defvjp(lambda *leaves: (f(*leaves), leaves), rule)
    return f


def forget() -> None:
    """Drop the functions that problems of the same shapes share."""
    _SHOWN.clear()
    _shared.cache_clear()


def _forward(*leaves: Any) -> list[Any]:
    return list(_SHOWN[0].forward(*map(np.array, leaves))[0])


def _backward(leaves: Any, cotangents: Any) -> list[Any]:
    flat, leaves = _SHOWN[0], [np.array(leaf) for leaf in leaves]
    # What JAX keeps between the passes are arrays: the record is made again, uncounted.
    flat.calls.forward -= 1
    _, record = flat.forward(*leaves)
    return flat.backward(leaves, record, [np.array(one) for one in cotangents])


def look(flat: Flat, settings: Settings | None) -> None:
    from jax.test_util import check_grads

    chosen: dict[str, Any] = {}
    if settings is not None:
        chosen = {"eps": settings.eps, "atol": settings.tol, "rtol": settings.tol}
    _at_precision(flat, lambda f, args: check_grads(f, args, 1, modes=["rev"], **chosen))


def look_chex(flat: Flat, settings: Settings | None) -> None:
    import chex

    chosen: dict[str, Any] = {}
    if settings is not None:
        # It multiplies atol by the size of the first argument.
        atol = settings.tol / max(flat.point[0].size, 1)
        chosen = {"eps": settings.eps, "atol": atol, "rtol": settings.tol}
    _at_precision(
        flat, lambda f, args: chex.assert_numerical_grads(f, args, 1, modes=["rev"], **chosen)
    )


def _at_precision(flat: Flat, run: Callable[[Any, Any], None]) -> None:
    import jax.numpy as jnp

    with enable_x64(flat.problem.dtype == np.float64):
        run(as_custom_vjp(flat), [jnp.asarray(leaf) for leaf in flat.point])


def named(message: str, flat: Flat) -> Named:
    """It compares one number for all arguments: nothing is named."""
    return Named("", None)


CHECK_GRADS = Peer("jax check_grads", "jax", look, named, EPS, EPS32,
                   '`check_grads(f, args, order=1, modes=["rev"])`: eps 1e-4, atol and rtol 1e-5 '
                   "in float64, 2e-3 in float32")  # fmt: skip
CHEX = Peer("chex", "chex", look_chex, named, EPS, EPS32,
            '`assert_numerical_grads(f, args, order=1, modes=["rev"])`: atol 0.01 times the size '
            "of the first argument")  # fmt: skip
