"""A user's own cell on JAX: its unmodified ``step`` and ``step_vjp``, traced, scanned, compiled.

Nobody wrote these forms for it. NumPy code becomes a JAX program as it does for the checker, and
the rule that was derived by hand stays the rule.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bpttcheck import trees
from bpttcheck.blocks import D_XS, YS, of_params, of_state
from bpttcheck.blocks import d_state0 as d_of_state0
from bpttcheck.blocks import state_T as of_state_T
from bpttcheck.errors import BpttcheckError, Declined
from bpttcheck.jax_mode import enable_x64, is_x64
from bpttcheck.judge.own_noise import unlike
from bpttcheck.judge.run import Run
from bpttcheck.on_jax.form import JaxArray, is_float
from bpttcheck.oracles.tracer.trace import lift
from bpttcheck.subject.subject import Subject

FORMS = ("in the loop", "deferred", "kept", "kept, deferred")
"""Where the gradients of the parameters are summed, and whether residuals are kept."""

_ROUNDS = 5


class TracedTape(NamedTuple):
    """The residuals: the state before each step, and the caches where they are kept."""

    params: Any
    xs: JaxArray
    states: Any
    mask: JaxArray | None
    caches: Any


@dataclass(frozen=True, eq=False)
class TracedLoops:
    """A cell over a whole sequence, by its own code, in two scans.

    Forward, for ``t = 0 .. T-1``::

        state[t+1], ys[t], cache[t] = step(params, state[t], xs[t])

    Backward, for ``t = T-1 .. 0`` from ``d_state[T] = d_state_T``::

        d_params[t], d_state[t], d_xs[t] = step_vjp(params, cache[t], d_state[t+1], d_ys[t])

    and ``d_params = sum_t d_params[t]``, in one of four ways:

    - *in the loop*: the caches are computed again from ``state[t]``, the sum is carried;
    - *deferred*: by the batch law, ``d_params`` of all steps is one call of ``step_vjp`` over the
      ``T B`` rows of all steps together; XLA drops what the loop does not use;
    - *kept*: as in the loop, but the caches of the forward pass are kept;
    - *kept, deferred*: both; only where every array of the cache has the batch as its first axis.

    A row that is masked at a step keeps its state; its cotangents there are zero.

    Args:
        cell: any :class:`bpttcheck.Cell` whose code can be traced.
        form: one of :data:`FORMS`.
    """

    cell: Any
    form: str = FORMS[0]

    def forward(
        self, params: Any, xs: JaxArray, state0: Any, mask: JaxArray | None
    ) -> tuple[JaxArray, Any, TracedTape]:
        """``(ys, state_T, tape)``."""
        if mask is not None:  # zero times NaN is NaN: padding must not reach a product
            xs = jnp.where(mask[..., None], xs, 0)
        keep = self.form.startswith("kept")
        step = lift(self._step_with_cache if keep else self._step)

        def body(state: Any, given: Any) -> tuple[Any, Any]:
            x, real = given
            new, y, *cache = step(params, state, x)
            y = y if real is None else jnp.where(_column(real, y), y, 0)
            return _like(state, new, real), (state, y.astype(x.dtype), tuple(cache))

        with enable_x64():
            state_T, (states, ys, caches) = lax.scan(body, state0, (xs, mask))
        return ys, state_T, TracedTape(params, xs, states, mask, caches)

    def backward(self, tape: TracedTape, d_ys: JaxArray, d_state_T: Any) -> tuple[Any, Any, Any]:
        """``(d_params, d_xs, d_state0)``; an integer leaf of the state gets a ``float0``."""
        params, xs, deferred = tape.params, tape.xs, self.form.endswith("deferred")
        pull = lift(self._pull if self.form.startswith("kept") else self._pull_again)
        zeros = trees.map_leaves(jnp.zeros_like, params)

        def pulled(state: Any, x: Any, cache: Any, d_new: Any, d_y: Any) -> tuple[Any, Any, Any]:
            d_params, d_state, d_x = pull(params, state, x, cache, d_new, d_y)
            d_params = trees.map_leaves(_gradient_like, params, d_params)
            return d_params, trees.map_leaves(_gradient_like, d_new, d_state), d_x.astype(x.dtype)

        def body(carried: Any, given: Any) -> tuple[Any, Any]:
            d_state, total = carried
            state, x, cache, d_y, real = given
            d_new = _real(real, d_state)
            found, d_previous, d_x = pulled(state, x, cache, d_new, _real(real, d_y))
            d_previous = _like(d_state, d_previous, real)
            seen = d_new if deferred else None
            total = total if deferred else trees.map_leaves(jnp.add, total, found)
            return (d_previous, total), (_real(real, d_x), seen)

        d_last = trees.map_leaves(
            lambda leaf, d: d if is_float(leaf) else jnp.zeros(leaf.shape[1:], xs.dtype),
            tape.states, d_state_T,
        )  # fmt: skip
        with enable_x64():
            given = (tape.states, xs, tape.caches, d_ys, tape.mask)
            (d_state0, d_params), (d_xs, d_news) = lax.scan(
                body, (d_last, zeros), given, reverse=True
            )
            if deferred and xs.shape[0] and xs.shape[1]:
                d_rows = _real(tape.mask, d_ys)
                given = map(_rows, (tape.states, xs, tape.caches, d_news, d_rows))
                d_params = pulled(*given)[0]
        d_state0 = trees.map_leaves(
            lambda leaf, d: d if is_float(leaf) else np.zeros(leaf.shape[1:], jax.dtypes.float0),
            tape.states, d_state0,
        )  # fmt: skip
        return d_params, d_xs, d_state0

    def _step(self, params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        return self.cell.step(params, state, x)[:2]

    def _step_with_cache(self, params: Any, state: Any, x: Any) -> tuple[Any, Any, Any]:
        return self.cell.step(params, state, x)

    def _pull_again(
        self, params: Any, state: Any, x: Any, cache: Any, d_state: Any, d_y: Any
    ) -> Any:
        return self.cell.step_vjp(params, self.cell.step(params, state, x)[2], d_state, d_y)

    def _pull(self, params: Any, state: Any, x: Any, cache: Any, d_state: Any, d_y: Any) -> Any:
        return self.cell.step_vjp(params, cache[0], d_state, d_y)


def _column(real: JaxArray, leaf: JaxArray) -> JaxArray:
    """``real`` (..., B) beside ``leaf`` (..., B, n, ...)."""
    return real.reshape(*real.shape, *[1] * (leaf.ndim - real.ndim))


def _real(real: JaxArray | None, tree: Any) -> Any:
    """Zero where a row is masked."""
    if real is None:
        return tree
    return trees.map_leaves(lambda leaf: jnp.where(_column(real, leaf), leaf, 0), tree)


def _like(old: Any, new: Any, real: JaxArray | None) -> Any:
    """The new leaves in the structure and the dtypes of the old ones, which masked rows keep."""

    def one(o: Any, n: Any) -> Any:
        n = jnp.broadcast_to(jnp.asarray(n, o.dtype), o.shape)
        return n if real is None else jnp.where(_column(real, o), n, o)

    return trees.map_leaves(one, old, new)


def _gradient_like(of: Any, gradient: Any) -> Any:
    return jnp.broadcast_to(jnp.asarray(gradient, of.dtype), of.shape)


def _rows(tree: Any) -> Any:
    """``(T, B, ...)`` as ``(T B, ...)``, in every leaf."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


@dataclass(frozen=True, eq=False)
class FastestLoops:
    """The fastest of the forms that are right, measured once for each set of shapes.

    Args:
        loops: the forms by name, each verified against the cell in NumPy.
        functions: the differentiable function of each, by name.
        chosen: shapes -> the name of the form that is used there.
    """

    loops: dict[str, TracedLoops]
    functions: dict[str, Callable[..., Any]]
    chosen: dict[Any, str] = field(default_factory=dict[Any, str])

    def function(self, *arguments: Any) -> Callable[..., Any]:
        """The function of the form for arguments of these shapes."""
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)
        leaves, structure = jax.tree.flatten(shapes)
        key = structure, *((leaf.shape, str(leaf.dtype)) for leaf in leaves)
        if key not in self.chosen:
            found: list[str] = []
            # A thread of its own stands in no trace, and has the mode of the program.
            mode = is_x64()
            worker = threading.Thread(target=lambda: found.append(self._fastest(shapes, mode)))
            worker.start()
            worker.join()
            self.chosen[key] = found[0] if found else next(iter(self.functions))
        return self.functions[self.chosen[key]]

    def _fastest(self, shapes: Any, mode: bool) -> str:
        arguments = jax.tree.map(_filling, shapes)
        times: dict[str, list[float]] = {}
        runs: dict[str, Callable[[], Any]] = {}
        with enable_x64(mode):
            for name, loops in self.loops.items():
                compiled = jax.jit(partial(_everything, loops))
                one = partial(_finished, compiled, arguments[:3], arguments[3], None, arguments[2])
                try:
                    one()
                except (BpttcheckError, TypeError, ValueError):
                    continue  # a cache whose first axis was the batch by chance
                runs[name] = one
            for _ in range(_ROUNDS):
                for name, run in runs.items():
                    started = time.perf_counter()
                    run()
                    times.setdefault(name, []).append(time.perf_counter() - started)
        return min(times, key=lambda name: min(times[name]), default=next(iter(self.functions)))


def _finished(compiled: Callable[..., Any], *arguments: Any) -> None:
    jax.block_until_ready(compiled(*arguments))


def _filling(shape: Any) -> Any:
    if shape.dtype == np.bool_:
        return np.ones(shape.shape, np.bool_)
    if not np.issubdtype(shape.dtype, np.floating):
        return np.zeros(shape.shape, shape.dtype)
    return np.random.default_rng(0).uniform(0.05, 0.15, shape.shape).astype(shape.dtype)


def forms_of(
    cell: Any, with_rule: Callable[[TracedLoops], Callable[..., Any]]
) -> tuple[FastestLoops | None, str]:
    """The forms of a cell that give its own gradients, and why there is none.

    Each is compared with the cell in NumPy, values and gradients, with and without a mask: a
    difference must be one that rounding explains, by Monte Carlo arithmetic on the cell.

    Args:
        cell: any :class:`bpttcheck.Cell`.
        with_rule: makes the differentiable function of a form.

    Returns:
        The forms, or None and the reason.
    """
    run = Run(Subject(cell), 0, ("float64",))
    loops: dict[str, TracedLoops] = {}
    functions: dict[str, Callable[..., Any]] = {}
    reason = ""
    for name in FORMS:
        one = TracedLoops(cell, name)
        try:
            # What is done with masked rows is the same in all forms.
            wrong = _differs(run, one, ("none", "lengths") if name == FORMS[0] else ("none",))
        except Declined as refusal:
            reason = reason or str(refusal)
            continue
        except (BpttcheckError, TypeError, ValueError) as error:
            reason = reason or f"{type(error).__name__}: {error}".partition("\n")[0]
            continue
        if wrong:
            reason = reason or wrong
        else:
            loops[name], functions[name] = one, with_rule(one)
    if "in the loop" not in loops and loops:  # a law of the batch is broken, or rounding explodes
        return None, reason
    return (FastestLoops(loops, functions) if loops else None), reason


def _differs(run: Run, loops: TracedLoops, masks: Sequence[str]) -> str:
    """What differs from the cell in NumPy by more than rounding, or an empty text."""
    for mask in masks:
        case = run.cases.case(0, free=True, steps=5)
        case = replace(case, regime="ordinary", B=3, mask=mask, index=-1)
        problem = run.cases.problem(case)
        given = problem.params, problem.xs, problem.state0
        with enable_x64():
            run_all = jax.jit(partial(_everything, loops))
            (ys, state_T), found = run_all(given, problem.mask, problem.d_ys, problem.d_state)
        d_params, d_xs, d_state0 = found
        found = {
            **of_params(d_params),
            **of_state(d_of_state0(), d_state0, problem.state0),
            D_XS: d_xs,
            YS: ys,
            **of_state(of_state_T(), state_T, problem.state0),
        }
        wrong = unlike(run.code, problem, {block: np.asarray(a) for block, a in found.items()})
        if wrong:
            return f"traced, {wrong} is not that of the code in NumPy"
    return ""


def _everything(
    loops: TracedLoops, given: Any, mask: Any, d_ys: Any, d_state: Any
) -> tuple[Any, Any]:
    """Both results and the three gradients; the gradient of an integer leaf is zero."""
    params, xs, state0 = given
    ys, state_T, tape = loops.forward(params, xs, state0, mask)
    d_ys = jnp.ones_like(ys) if d_ys is None else d_ys
    d_state = trees.map_leaves(lambda leaf, d: jnp.asarray(d, d_ys.dtype), state_T, d_state)
    d_params, d_xs, d_state0 = loops.backward(tape, d_ys, d_state)
    d_state0 = trees.map_leaves(
        lambda leaf, d: d if is_float(leaf) else jnp.zeros(leaf.shape), state0, d_state0
    )
    return (ys, state_T), (d_params, d_xs, d_state0)
