"""The forms in JAX: autodiff of a scan, jitted or not, and hand-written rules on JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bpttcheck import trees
from bpttcheck.bench import deferred, projections
from bpttcheck.bench.form import Blocks, Ready, by_name
from bpttcheck.contract import is_float
from bpttcheck.errors import Declined
from bpttcheck.oracles.tracer.lax_engine import LaxEngine
from bpttcheck.oracles.tracer.trace import lift
from bpttcheck.problems.problem import Problem
from bpttcheck.subject.subject import Subject

# (params, xs, state0) -> (ys, state_T), on trees of JAX arrays
Forward = Callable[[Any, Any, Any], tuple[Any, Any]]


def plain(subject: Subject, problem: Problem) -> Ready:
    """Autodiff of one scan over the whole step, jitted.

    Raises:
        Declined: JAX has no forward pass to differentiate.
    """
    return _ready(_scan(subject), problem, jax.jit)


def hoisted(subject: Subject, problem: Problem) -> Ready:
    """Autodiff, jitted, with the products of the inputs made in one before the scan.

    Raises:
        Declined: this is done for the package's own cells only.
    """
    split = projections.of(subject.target)
    return _of_this_package(None if split is None else split.hoisted, problem)


def weights_deferred(subject: Subject, problem: Problem) -> Ready:
    """Autodiff, jitted, with one product for each weight gradient, after the scan.

    Raises:
        Declined: this is done for the package's own cells only.
    """
    return _of_this_package(deferred.of(subject.target), problem)


def not_jitted(subject: Subject, problem: Problem) -> Ready:
    """Autodiff of the same scan without ``jit``.

    Raises:
        Declined: JAX has no forward pass to differentiate.
    """
    return _ready(_scan(subject), problem, lambda program: program)


def by_hand(subject: Subject, problem: Problem) -> Ready:
    """The rule derived by hand, written in JAX and jitted.

    Raises:
        Declined: there is none for this cell: a callback to the host would time something else.
    """
    from bpttcheck.on_jax import layer
    from bpttcheck.on_jax.native import form_of

    if form_of(subject.target) is None:
        raise Declined("this package has no hand-written form of it on JAX")
    function = layer(subject.target)
    forward: Forward = lambda params, xs, state0: function(params, xs, state0)  # noqa: E731
    return _ready(forward, problem, jax.jit)


def _of_this_package(forward: Forward | None, problem: Problem) -> Ready:
    if forward is None:
        raise Declined("this form is written for cells of this package only")
    return _ready(forward, problem, jax.jit)


def _scan(subject: Subject) -> Forward:
    split = None if subject.kind == "layer" else projections.of(subject.target)
    if split is not None:
        return split.plain
    sequence, surrogate = subject.reference_sequence, subject.surrogate_step
    engine = LaxEngine()
    if sequence is not None:
        whole = lift(lambda p, xs, s, mask: sequence(engine, p, xs, s, mask))
        return lambda params, xs, state0: whole(params, xs, state0, np.ones(xs.shape[:2], bool))
    if surrogate is not None:
        return _over_time(lift(lambda p, s, x: surrogate(engine.freeze, p, s, x)))
    found = subject.reference_step
    if found is None:
        raise Declined("a layer without `reference=` or `sequence` has nothing for JAX")
    kind, step = found
    return _over_time(lift(step) if kind == "numpy" else step)


def _over_time(step: Callable[[Any, Any, Any], tuple[Any, Any]]) -> Forward:
    def forward(params: Any, xs: Any, state0: Any) -> tuple[Any, Any]:
        structure = trees.structure(state0)

        def body(leaves: Any, x: Any) -> Any:
            old = structure.unflatten(leaves)
            new, y = step(params, old, x)
            kept = trees.map_leaves(lambda o, n: jax.numpy.asarray(n, o.dtype), old, new)
            return trees.leaves(kept), y

        last, ys = jax.lax.scan(body, trees.leaves(state0), xs)
        return ys, structure.unflatten(last)

    return forward


def _ready(forward: Forward, problem: Problem, compile_: Callable[..., Any]) -> Ready:
    """The gradients as one program of which everything is an argument and a result.

    Nothing can then be folded as a constant or dropped as unused.
    """
    structure = trees.structure(problem.state0)
    floats = [is_float(leaf) for leaf in trees.leaves(problem.state0)]
    names = list(problem.params)

    def program(params: Any, xs: Any, moving: Any, carried: Any, d_ys: Any, d_state: Any) -> Any:
        def outputs(params: Any, xs: Any, moving: Any) -> Any:
            a, b = iter(moving), iter(carried)
            state0 = structure.unflatten([next(a) if f else next(b) for f in floats])
            ys, state = forward(dict(zip(names, params, strict=True)), xs, state0)
            ends = trees.leaves(trees.map_leaves(lambda _, leaf: leaf, state0, state))
            return ys, [leaf for leaf, f in zip(ends, floats, strict=True) if f]

        out, pull = jax.vjp(outputs, params, xs, moving)
        return pull((d_ys, d_state)), out

    compiled = compile_(program)

    def arguments(at: Problem) -> Any:
        state, d_state = trees.leaves(at.state0), trees.leaves(_ordered(at))
        moving = [leaf for leaf, f in zip(state, floats, strict=True) if f]
        carried = [leaf for leaf, f in zip(state, floats, strict=True) if not f]
        d_moving = [leaf for leaf, f in zip(d_state, floats, strict=True) if f]
        given = ([at.params[n] for n in names], at.xs, moving, carried, at.d_ys, d_moving)
        return jax.block_until_ready(jax.tree.map(jax.numpy.asarray, given))

    def blocks(result: Any) -> Blocks:
        (d_params, d_xs, d_moving), _ = result
        rest = iter(d_moving)
        own = trees.leaves(problem.state0)
        d_state0 = [next(rest) if f else leaf for leaf, f in zip(own, floats, strict=True)]
        named = dict(zip(names, d_params, strict=True))
        return by_name(problem, named, d_xs, structure.unflatten(d_state0))

    own = arguments(problem)
    return Ready(
        run=lambda: jax.block_until_ready(compiled(*own)),
        blocks=blocks,
        compiled=compile_ is jax.jit,
        at=lambda other: blocks(compiled(*arguments(other))),
    )


def _ordered(problem: Problem) -> Any:
    """The cotangent of the final state with its leaves in the order of the state's."""
    return trees.map_leaves(lambda _, leaf: leaf, problem.state0, problem.d_state)
