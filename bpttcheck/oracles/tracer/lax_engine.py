"""The engine of a layer's ``sequence`` while JAX traces it: a scan becomes ``lax.scan``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bpttcheck import trees
from bpttcheck.errors import Declined
from bpttcheck.oracles.autodiff.programs import where_real
from bpttcheck.oracles.tracer.run import TracingRun, current
from bpttcheck.oracles.tracer.trace import enter, leave, lift
from bpttcheck.traits import trait


class LaxEngine:
    """Implements :class:`bpttcheck.contract.Engine` on the proxies of a lifted function."""

    def scan(
        self,
        cell: Any,
        params: Any,
        xs: Any,
        state0: Any,
        mask: Any = None,
        reverse: bool = False,
    ) -> tuple[Any, Any]:
        """One cell over a sequence, traced once however long that is."""
        ys, last, _ = _scanned(cell, params, xs, state0, mask, reverse)
        return ys, last

    def states(self, cell: Any, params: Any, xs: Any, state0: Any, mask: Any = None) -> Any:
        """The state before each step and after the last, leaves ``(T + 1, B, ...)``."""
        return _scanned(cell, params, xs, state0, mask, False)[2]

    def freeze(self, tree: Any) -> Any:
        """Constants."""
        run = _run()
        return trees.map_leaves(lambda leaf: enter(run, jax.lax.stop_gradient(leave(leaf))), tree)


def _scanned(
    cell: Any, params: Any, xs: Any, state0: Any, mask: Any, reverse: bool
) -> tuple[Any, Any, Any]:
    """``(ys, state_T, every state)`` as proxies."""
    run = _run()
    given = trees.map_leaves(leave, params)
    sequence, first = leave(xs), trees.map_leaves(leave, state0)
    real = jnp.ones(sequence.shape[:2], bool) if mask is None else leave(mask)
    step = lift(_step(cell))
    structure = trees.structure(first)

    def body(leaves: Any, inputs: Any) -> Any:
        x, now = inputs
        old = structure.unflatten(leaves)
        new, y = step(given, old, x)
        kept = trees.map_leaves(lambda o, n: where_real(now, n.astype(o.dtype), o), old, new)
        return trees.leaves(kept), (where_real(now, y, jnp.zeros_like(y)), leaves)

    start = trees.leaves(first)
    last, (ys, before) = jax.lax.scan(body, start, (sequence, real), reverse=reverse)
    every = [jnp.concatenate([b, e[None]]) for b, e in zip(before, last, strict=True)]
    ends, states = (
        trees.map_leaves(lambda leaf: enter(run, leaf), structure.unflatten(leaves))
        for leaves in (last, every)
    )
    return enter(run, ys), ends, states


def _step(cell: Any) -> Any:
    surrogate = trait(cell, "surrogate_step")
    if surrogate is not None:
        return lambda p, s, x: surrogate(LaxEngine().freeze, p, s, x)
    return lambda p, s, x: cell.step(p, s, x)[:2]


def _run() -> TracingRun:
    run = current()
    if run is None:
        raise Declined("the engine of a traced sequence was used outside of it")
    return run
