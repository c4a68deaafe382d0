"""The JAX implementations: autodiff of a scan, jitted or not, and hand-written rules on JAX.

The built-in cells are written in plain JAX in two parts: the input projection and the rest. One
definition gives both programs that a JAX user might write: everything inside the scan, or the
projection of all inputs as one product before it.

Autodiff of a scan adds a product to every recurrent weight gradient in each step. These can be
deferred until after the loop: then the weights are constants of the scan, which gives the
cotangents of what the recurrent products are added to, and each weight gradient is one product over
all ``T B`` rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bpttcheck import activations, cells, trees
from bpttcheck.bench.form import Blocks, PreparedRun, by_name
from bpttcheck.contract import is_float
from bpttcheck.errors import Declined
from bpttcheck.oracles.tracer.lax_engine import LaxEngine
from bpttcheck.oracles.tracer.trace import lift
from bpttcheck.problems.problem import Problem
from bpttcheck.subject.subject import Subject

# (params, xs, state0) -> (ys, state_T), on trees of JAX arrays
Forward = Callable[[Any, Any, Any], tuple[Any, Any]]


def plain(subject: Subject, problem: Problem) -> PreparedRun:
    """Autodiff of one scan over the whole step, jitted.

    Raises:
        Declined: JAX has no forward pass to differentiate.
    """
    return prepared(_scan(subject), problem, jax.jit)


def hoisted(subject: Subject, problem: Problem) -> PreparedRun:
    """Autodiff, jitted, with the input projection hoisted out of the scan.

    Raises:
        Declined: this exists for the built-in cells only.
    """
    split = split_of(subject.target)
    return _of_this_package(None if split is None else split.hoisted, problem)


def weights_deferred(subject: Subject, problem: Problem) -> PreparedRun:
    """Autodiff, jitted, with one product per weight gradient after the scan.

    Raises:
        Declined: this exists for the built-in cells only.
    """
    return _of_this_package(sequence_of(subject.target), problem)


def not_jitted(subject: Subject, problem: Problem) -> PreparedRun:
    """Autodiff of the same scan without ``jit``.

    Raises:
        Declined: JAX has no forward pass to differentiate.
    """
    return prepared(_scan(subject), problem, lambda program: program)


def by_hand(subject: Subject, problem: Problem) -> PreparedRun:
    """The rule derived by hand, on JAX and jitted: written there, or traced of the cell.

    Raises:
        Declined: it cannot be traced: a callback to the host would time something else.
    """
    if not _kept or _kept[0] is not subject.target:
        _kept[:] = subject.target, _rule(subject.target)
    _, function = _kept
    if isinstance(function, str):
        raise Declined(function)
    forward: Forward = lambda params, xs, state0: function(params, xs, state0)  # noqa: E731
    return prepared(forward, problem, jax.jit)


# The subject of the last call and its rule: it is traced and verified once for all its sizes.
_kept: list[Any] = []


def _rule(target: Any) -> Callable[..., Any] | str:
    """The rule of a subject on JAX, or why there is none."""
    from bpttcheck.on_jax import HostCallbackWarning, layer

    with warnings.catch_warnings():
        warnings.simplefilter("error", HostCallbackWarning)
        try:
            return layer(target)
        except HostCallbackWarning as warning:
            return str(warning).partition(". ")[0]


def _of_this_package(forward: Forward | None, problem: Problem) -> PreparedRun:
    if forward is None:
        raise Declined("this form is written for built-in cells only")
    return prepared(forward, problem, jax.jit)


def _scan(subject: Subject) -> Forward:
    split = None if subject.kind == "layer" else split_of(subject.target)
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


def prepared(forward: Forward, problem: Problem, compile_: Callable[..., Any]) -> PreparedRun:
    """The gradients as one program of which everything is an argument and a result.

    So XLA can neither fold constants nor drop unused results.

    Args:
        forward: what is differentiated.
        problem: the point.
        compile_: ``jax.jit``, or what leaves a function as it is.
    """
    structure = trees.structure(problem.state0)
    floats = [is_float(leaf) for leaf in trees.leaves(problem.state0)]
    # Tokens and masks among the inputs of a function are handed on.
    names = [name for name, value in problem.params.items() if is_float(value)]
    others = [name for name in problem.params if name not in names]

    def program(
        params: Any, xs: Any, moving: Any, carried: Any, d_ys: Any, d_state: Any, fixed: Any
    ) -> Any:
        def outputs(params: Any, xs: Any, moving: Any) -> Any:
            a, b = iter(moving), iter(carried)
            state0 = structure.unflatten([next(a) if f else next(b) for f in floats])
            named = dict(zip(names + others, [*params, *fixed], strict=True))
            ys, state = forward({name: named[name] for name in problem.params}, xs, state0)
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
        fixed = [at.params[n] for n in others]
        given = ([at.params[n] for n in names], at.xs, moving, carried, at.d_ys, d_moving, fixed)
        return jax.block_until_ready(jax.tree.map(jax.numpy.asarray, given))

    def blocks(result: Any) -> Blocks:
        (d_params, d_xs, d_moving), _ = result
        rest = iter(d_moving)
        own = trees.leaves(problem.state0)
        d_state0 = [next(rest) if f else leaf for leaf, f in zip(own, floats, strict=True)]
        named = dict(zip(names, d_params, strict=True))
        return by_name(problem, named, d_xs, structure.unflatten(d_state0))

    own = arguments(problem)
    return PreparedRun(
        run=lambda: jax.block_until_ready(compiled(*own)),
        blocks=blocks,
        compiled=compile_ is jax.jit,
        at=lambda other: blocks(compiled(*arguments(other))),
    )


def _ordered(problem: Problem) -> Any:
    """The cotangent of the final state with its leaves in the order of the state's."""
    return trees.map_leaves(lambda _, leaf: leaf, problem.state0, problem.d_state)


# (params, state, a, addend) -> (state, what the recurrent weights multiply)
Step = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Recurrent:
    """The recurrent products of a cell.

    Args:
        step: one step; its second result is what the recurrent weights multiply.
        gradients: ``(d_a, d_addend, lefts) -> d_params``, for the recurrent weights and what is
            added to their products alone.
        addend: ``(params, a) -> (T, B, H)``, what is added to a recurrent product that is not
            simply a part of ``a``; where there is none, ``d_a`` is its cotangent already.
    """

    step: Step
    gradients: Callable[[Any, Any, Any], dict[str, Any]]
    addend: Callable[[Any, Any], Any] = lambda params, a: None


def sequence_of(cell: Any) -> Callable[[Any, Any, Any], tuple[Any, Any]] | None:
    """``f(params, xs, state0) -> (ys, state_T)`` with such gradients; None for other cells."""
    split, make = split_of(cell), _RECURRENT.get(type(cell))
    return None if split is None or make is None else _sequence(split, make(split))


def _sequence(
    split: Split, recurrent: Recurrent
) -> Callable[[Any, Any, Any], tuple[Any, Any]]:  # fmt: skip
    @jax.custom_vjp
    def sequence(params: Any, xs: Any, state0: Any) -> tuple[Any, Any]:
        return split.hoisted(params, xs, state0)

    def forward(params: Any, xs: Any, state0: Any) -> tuple[Any, Any]:
        a, pull_a = jax.vjp(split.project, params, xs)

        def scan(a: Any, addend: Any, state0: Any) -> tuple[Any, Any]:
            def body(state: Any, given: Any) -> tuple[Any, Any]:
                new, left = recurrent.step(params, state, *given)
                return new, (new[0] if isinstance(new, tuple) else new, left)

            last, (ys, lefts) = jax.lax.scan(body, state0, (a, addend))
            return (ys, last), lefts

        addend = recurrent.addend(params, a)
        out, pull, lefts = jax.vjp(scan, a, addend, state0, has_aux=True)
        return out, (pull_a, pull, lefts)

    def backward(kept: Any, cotangents: Any) -> tuple[Any, Any, Any]:
        pull_a, pull, lefts = kept
        d_a, d_addend, d_state0 = pull(cotangents)
        d_params, d_xs = pull_a(d_a)
        return {**d_params, **recurrent.gradients(d_a, d_addend, lefts)}, d_xs, d_state0

    sequence.defvjp(forward, backward)
    return sequence


def _elman(split: Split) -> Recurrent:
    return Recurrent(
        step=lambda p, h, a, _: (split.step(p, h, a), h),
        gradients=lambda d_a, _, hs: {"W": over_rows(d_a, hs)},
    )


def _lstm(split: Split) -> Recurrent:
    return Recurrent(
        step=lambda p, state, a, _: (split.step(p, state, a), state[0]),
        gradients=lambda d_a, _, hs: {"W_hh": over_rows(d_a, hs)},
    )


def _gru_reset_after(split: Split) -> Recurrent:
    """The reset gate scales ``s_n + b_hn``: a bias for each step and row is the addend of ``s_n``.

    Its gradient is the cotangent of that product, and summed up that of the bias.
    """

    def gradients(d_a: Any, d_bias: Any, hs: Any) -> dict[str, Any]:
        d_s = jnp.concatenate([d_a[..., : 2 * d_bias.shape[-1]], d_bias], axis=-1)
        return {"W_hh": over_rows(d_s, hs), "b_hn": d_bias.sum((0, 1))}

    return Recurrent(
        step=lambda p, h, a, bias: (split.step({**p, "b_hn": bias}, h, a), h),
        gradients=gradients,
        addend=lambda p, a: jnp.broadcast_to(p["b_hn"], (*a.shape[:2], len(p["b_hn"]))),
    )


def _gru_reset_before(_: Split) -> Recurrent:
    """All products are parts of ``a``, but the last multiplies ``r * h``."""

    def step(params: Any, h: Any, a: Any, _: Any) -> tuple[Any, Any]:
        new, scaled = step_gru_reset_before(params, h, a)
        return new, (h, scaled)

    def gradients(d_a: Any, _: Any, lefts: Any) -> dict[str, Any]:
        hs, scaled = lefts
        H = hs.shape[-1]
        parts = [over_rows(d_a[..., : 2 * H], hs), over_rows(d_a[..., 2 * H :], scaled)]
        return {"W_hh": jnp.concatenate(parts)}

    return Recurrent(step, gradients)


def over_rows(d_products: Any, lefts: Any) -> Any:
    """The sum of outer products over steps and rows, ``(K, H)``, as one product."""
    K, H = d_products.shape[-1], lefts.shape[-1]
    return d_products.reshape(-1, K).T @ lefts.reshape(-1, H)


_RECURRENT: dict[type, Callable[[Split], Recurrent]] = {
    cells.Elman: _elman,
    cells.LSTM: _lstm,
    cells.GRUResetAfter: _gru_reset_after,
    cells.GRUResetBefore: _gru_reset_before,
}


@dataclass(frozen=True)
class Split:
    """A step in two parts.

    Args:
        project: ``(params, xs) -> a``, for one step or for all at once.
        step: ``(params, state, a) -> state``; the output is the state, or the first part of it.
    """

    project: Callable[[Any, Any], Any]
    step: Callable[[Any, Any, Any], Any]

    def plain(self, params: Any, xs: Any, state0: Any) -> tuple[Any, Any]:
        """Everything inside the scan."""
        return self._scan(lambda state, x: self.step(params, state, self.project(params, x)),
                          state0, xs)  # fmt: skip

    def hoisted(self, params: Any, xs: Any, state0: Any) -> tuple[Any, Any]:
        """The projection of all inputs before the scan."""
        projected = self.project(params, xs)
        return self._scan(lambda state, a: self.step(params, state, a), state0, projected)

    @staticmethod
    def _scan(step: Callable[[Any, Any], Any], state0: Any, inputs: Any) -> tuple[Any, Any]:
        def body(state: Any, given: Any) -> tuple[Any, Any]:
            new = step(state, given)
            return new, new[0] if isinstance(new, tuple) else new

        last, ys = jax.lax.scan(body, state0, inputs)
        return ys, last


def split_of(cell: Any) -> Split | None:
    """The two parts of ``cell``; None unless its type is one of those here."""
    if type(cell) is cells.Elman:
        return _split_elman(cell)
    if type(cell) is cells.LSTM:
        return Split(_gates, _step_lstm)
    if type(cell) is cells.GRUResetAfter:
        return Split(_gates, _step_gru_reset_after)
    if type(cell) is cells.GRUResetBefore:
        return Split(_gates, lambda params, h, a: step_gru_reset_before(params, h, a)[0])
    return None


def _split_elman(cell: cells.Elman) -> Split:
    value = lift(activations.get(cell.activation).value)
    return Split(
        project=lambda p, x: x @ p["U"].T + p["b"],
        step=lambda p, h, a: value(a + h @ p["W"].T),
    )


def _gates(params: Any, x: Any) -> Any:
    return x @ params["W_ih"].T + params["b"]


def _step_lstm(params: Any, state: Any, a: Any) -> Any:
    h, c = state
    i, f, g, o = jnp.split(a + h @ params["W_hh"].T, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _step_gru_reset_after(params: Any, h: Any, a: Any) -> Any:
    a_r, a_z, a_n = jnp.split(a, 3, axis=-1)
    s_r, s_z, s_n = jnp.split(h @ params["W_hh"].T, 3, axis=-1)
    r, z = jax.nn.sigmoid(a_r + s_r), jax.nn.sigmoid(a_z + s_z)
    n = jnp.tanh(a_n + r * (s_n + params["b_hn"]))
    return (1 - z) * n + z * h


def step_gru_reset_before(params: Any, h: Any, a: Any) -> tuple[Any, Any]:
    """The new state, and ``r * h``, which the last recurrent product multiplies."""
    H = h.shape[-1]
    a_r, a_z, a_n = jnp.split(a, 3, axis=-1)
    u, v = jnp.split(h @ params["W_hh"][: 2 * H].T, 2, axis=-1)
    r, z = jax.nn.sigmoid(a_r + u), jax.nn.sigmoid(a_z + v)
    scaled = r * h
    n = jnp.tanh(a_n + scaled @ params["W_hh"][2 * H :].T)
    return z * h + (1 - z) * n, scaled
