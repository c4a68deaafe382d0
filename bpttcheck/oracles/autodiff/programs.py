"""The JAX programs of :mod:`.autodiff`: one step, traced, scanned over time.

A program takes flat lists of leaves, grouped as in :class:`ProgramInputs`, and returns trees.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bpttcheck import trees
from bpttcheck.activity import about_to
from bpttcheck.calibration import COPIES
from bpttcheck.errors import Declined, InternalError
from bpttcheck.oracles.autodiff.noise import (
    COPIES_AXIS,
    Noise,
    constants,
    count_draws,
    interpret,
    uniform,
)
from bpttcheck.oracles.error_origin import on_behalf, raise_defect
from bpttcheck.oracles.tracer.kept import unchanged
from bpttcheck.oracles.tracer.reach import UserNamespaces
from bpttcheck.oracles.tracer.run import Decisions, deciding
from bpttcheck.warning_scope import silenced

Step = Callable[[Any, Any, Any], tuple[Any, Any]]
WholeSequence = Callable[[Any, Any, Any, Any], tuple[Any, Any]]
Forward = Callable[[Any, Any, Any], tuple[Any, Any]]


# Compile time matters here, throughput hardly does. The old emitters and a single code-generation
# unit compile in a quarter of the default's time.
_CHEAP = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


class ProgramInputs(NamedTuple):
    """The inputs of one sequence as flat leaves: see :class:`.autodiff.Point`."""

    params: list[Any]
    state0: list[Any]
    xs: Any
    mask: Any
    d_ys: Any
    d_state: list[Any]


@dataclass(frozen=True)
class TracedStep:
    """One step as a jaxpr, with the structures of its inputs."""

    jaxpr: Any
    consts: Sequence[Any]
    params: trees.Structure
    state: trees.Structure

    def run(
        self, params: Sequence[Any], state: Sequence[Any], step: Any, noise: Noise | None
    ) -> tuple[list[Any], Any]:
        """One step on leaves, masked rows carried through: ``(new_state, y)``."""
        x, real = step
        *new, y = interpret(self.jaxpr, self.consts, [*params, *state, x], noise)
        kept = [where_real(real, n.astype(s.dtype), s) for n, s in zip(new, state, strict=True)]
        return kept, where_real(real, y, jnp.zeros_like(y))

    def forward(self, mask: Any, eps: Any, unit: Any, copy: Any, key: Any) -> Forward:
        """``(params, state0, xs) -> (ys, state_T)`` on leaves, with the noise of one copy."""
        count = count_draws(self.jaxpr)

        def forward(params: Any, state0: Any, xs: Any) -> Any:
            def body(state: Any, step: Any) -> Any:
                numbers = uniform(key * jnp.uint32(1000003) + step[2], count)
                return self.run(params, state, step[:2], Noise(eps, unit, copy, numbers))

            steps = jnp.arange(1, xs.shape[0] + 1, dtype=jnp.uint32)
            state, ys = jax.lax.scan(body, state0, (xs, mask, steps))
            return ys, state

        return forward


@dataclass(frozen=True)
class TracedSequence:
    """A whole sequence as a jaxpr: the forward pass of a layer that is no single loop."""

    jaxpr: Any
    consts: Sequence[Any]
    params: trees.Structure
    state: trees.Structure

    def forward(self, mask: Any, eps: Any, unit: Any, copy: Any, key: Any) -> Forward:
        """``(params, state0, xs) -> (ys, state_T)`` on leaves, with the noise of one copy."""

        def forward(params: Any, state0: Any, xs: Any) -> Any:
            numbers = uniform(key * jnp.uint32(1000003) + 1, count_draws(self.jaxpr))
            noise = Noise(eps, unit, copy, numbers)
            out = interpret(self.jaxpr, self.consts, [*params, *state0, xs, mask], noise)
            return jnp.where(mask[:, :, None], out[-1], 0.0), out[:-1]

        return forward


@dataclass(frozen=True)
class CompiledProgram:
    """A compiled program and the structure of what it returns."""

    compiled: Any
    shape: trees.Structure

    def __call__(self, *args: Any) -> Any:
        """Run it and rebuild the tree that it returns."""
        return self.shape.unflatten(self.compiled(*args))


def trace(step: Step, params: Any, state: Any, x: Any) -> TracedStep:
    """Trace ``step`` at the shapes of the given trees.

    Raises:
        Declined: if the step cannot be traced, or returns a state of another structure.
        InternalError: for a defect of the tracer.
    """
    p_shape, s_shape = trees.structure(params), trees.structure(state)
    given = [_abstract(leaf) for leaf in [*trees.leaves(params), *trees.leaves(state), x]]
    n = p_shape.size

    def flat(*leaves: Any) -> list[Any]:
        old = s_shape.unflatten(leaves[n:-1])
        found = on_behalf(step, p_shape.unflatten(leaves[:n]), old, leaves[-1])
        new, y = on_behalf(_two, found)
        ordered = on_behalf(trees.map_leaves, lambda _, leaf: leaf, old, new)
        return [on_behalf(jnp.asarray, leaf) for leaf in [*trees.leaves(ordered), y]]

    closed = _jaxpr(flat, given, given[n:-1], UserNamespaces(step))
    return TracedStep(closed.jaxpr, closed.consts, p_shape, s_shape)


def decisions_at(
    sequence: WholeSequence, params: Any, state0: Any, xs: Any, mask: Any
) -> tuple[bool | int, ...]:
    """What the values of a point decide in ``sequence``: its `if`s, its integers, in order.

    Raises:
        Declined: if it cannot be traced for another reason.
        InternalError: for a defect of the tracer.
    """
    found = Decisions()
    arrays = [trees.map_leaves(jnp.asarray, tree) for tree in (params, xs, state0, mask)]
    with unchanged(UserNamespaces(sequence)), silenced(), deciding(found):
        on_behalf(sequence, *arrays)
    return tuple(found.found)


def trace_sequence(
    sequence: WholeSequence,
    params: Any,
    state0: Any,
    xs: Any,
    decisions: tuple[bool | int, ...] | None = None,
) -> TracedSequence:
    """Trace ``sequence(params, xs, state0, mask) -> (ys, state_T)`` at the shapes of the trees.

    With ``decisions`` of a point, what is traced is what runs at that point.

    Raises:
        Declined: if it cannot be traced, or returns a state of another structure.
        InternalError: for a defect of the tracer.
    """
    p_shape, s_shape = trees.structure(params), trees.structure(state0)
    leaves = [*trees.leaves(params), *trees.leaves(state0), xs]
    given = [*map(_abstract, leaves), jax.ShapeDtypeStruct(xs.shape[:2], bool)]
    n = p_shape.size

    def flat(*leaves: Any) -> list[Any]:
        *state, x, mask = leaves[n:]
        old = s_shape.unflatten(state)
        found = on_behalf(sequence, p_shape.unflatten(leaves[:n]), x, old, mask)
        ys, new = on_behalf(_two, found)
        ordered = on_behalf(trees.map_leaves, _like, old, new)
        return [*trees.leaves(ordered), on_behalf(jnp.asarray, ys)]

    told = contextlib.nullcontext() if decisions is None else deciding(Decisions(decisions))
    with told:
        closed = _jaxpr(flat, given, given[n:-2], UserNamespaces(sequence))
    return TracedSequence(closed.jaxpr, closed.consts, p_shape, s_shape)


def _two(found: Any) -> tuple[Any, Any]:
    first, second = found
    return first, second


def _like(old: Any, leaf: Any) -> Any:
    return jnp.asarray(leaf, old.dtype)


def _jaxpr(
    flat: Callable[..., Any], given: Sequence[Any], state: Sequence[Any], reach: UserNamespaces
) -> Any:
    about_to(_DOING["trace"], *given)
    try:
        with unchanged(reach), silenced():
            closed = jax.make_jaxpr(_told_apart(flat, "trace"))(*given)
    except (Declined, InternalError):
        raise
    except Exception as error:
        raise_defect(_DOING["trace"], error)
        raise _declined("trace", error) from error
    for made, old in zip(closed.out_avals[:-1], state, strict=True):
        if made.shape != old.shape:
            raise Declined(f"the traced step turned a state of shape {old.shape} into {made.shape}")
    return closed


def _told_apart(function: Callable[..., Any], verb: str) -> Callable[..., Any]:
    """``function`` whose errors become Declined or InternalError before JAX filters tracebacks.

    Only a trace runs user code; after it, only what is called on the user's behalf may fail.
    """

    def run(*args: Any) -> Any:
        try:
            return function(*args)
        except (Declined, InternalError):
            raise
        except Exception as error:
            raise_defect(_DOING[verb], error, any_kind=verb != "trace")
            raise _declined(verb, error) from error

    return run


_DOING = {"trace": "tracing the step", "differentiate": "differentiating the step"}


@dataclass(frozen=True)
class Lowered:
    """A traced and lowered program; what remains to be done runs no user code.

    Args:
        lowered: JAX's own object.
        shape: the structure of what the program returns.
    """

    lowered: Any
    shape: trees.Structure

    def compile(self) -> CompiledProgram:
        """Compile it; may run in a thread of its own.

        Raises:
            Declined: if XLA cannot compile the step.
            InternalError: for a defect of bpttcheck.
        """
        try:
            return CompiledProgram(compile_cheaply(self.lowered), self.shape)
        except Exception as error:
            raise_defect("compiling the step", error)
            raise _declined("compile", error) from error


def lower(maker: Callable[..., Any], traced: TracedStep | TracedSequence, *args: Any) -> Lowered:
    """Lower ``maker(traced)`` for arguments like ``args``.

    Raises:
        Declined: if JAX cannot differentiate the step.
        InternalError: for a defect of bpttcheck.
    """
    shape: list[trees.Structure] = []

    def flat(*args: Any) -> list[Any]:
        tree = maker(traced)(*args)
        shape.append(trees.structure(tree))
        return trees.leaves(tree)

    try:
        # A new function each time, so that dropping the compiled object frees its code.
        with silenced():
            lowered = jax.jit(_told_apart(flat, "differentiate")).lower(*args)
    except (Declined, InternalError):
        raise
    except Exception as error:
        raise_defect("lowering the step", error)
        raise _declined("differentiate", error) from error
    return Lowered(lowered, shape[0])


class Waiting:
    """A lowered program, compiled once by the thread that needs it first.

    Args:
        lowered: the program.
        traced: its source, which must live as long: the text of the key contains addresses.
    """

    def __init__(self, lowered: Lowered, traced: TracedStep | TracedSequence) -> None:
        self._lowered: Lowered | None = lowered
        self._traced = traced
        self._program: CompiledProgram | None = None
        self._lock = threading.Lock()

    def program(self) -> CompiledProgram:
        """The compiled program; waits while another thread compiles it."""
        with self._lock:
            if self._program is None:
                assert self._lowered is not None
                self._program = self._lowered.compile()
                self._lowered = None
            return self._program

    @property
    def is_compiled(self) -> bool:
        """True once it has been requested."""
        return self._program is not None


class Cache:
    """A least-recently-used cache of programs, keyed by what was traced.

    A subject whose attributes have changed is traced to another text and so misses the cache.

    Args:
        most: programs kept; a process can hold about two hundred.
    """

    def __init__(self, most: int = 32) -> None:
        self.most = most
        self._known: OrderedDict[Hashable, Waiting] = OrderedDict()
        self._lock = threading.Lock()

    def get(
        self, maker: Callable[..., Any], traced: TracedStep | TracedSequence, *args: Any
    ) -> Waiting:
        """The program ``maker(traced)`` for arguments like ``args``, lowered if it is new.

        Raises:
            Declined: if JAX cannot differentiate the step.
            InternalError: for a defect of bpttcheck.
        """
        leaves = jax.tree_util.tree_leaves(args)
        shapes = tuple((np.shape(leaf), str(jnp.result_type(leaf))) for leaf in leaves)
        key = (maker.__name__, shapes, traced.params, traced.state, *_text(traced))
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        made = Waiting(lower(maker, traced, *args), traced)
        with self._lock:
            made = self._known.setdefault(key, made)
            while len(self._known) > self.most:
                self._known.popitem(last=False)
            return made

    def clear(self) -> None:
        """Drop all of them."""
        with self._lock:
            self._known.clear()

    @contextmanager
    def apart(self) -> Generator[None]:
        """A context without caching, for experiments that change the noise model."""
        before, self._known = self._known, OrderedDict()
        try:
            yield
        finally:
            self._known = before


CACHE = Cache()


def _text(traced: TracedStep | TracedSequence) -> Iterator[Hashable]:
    """The cache key of a traced program: its equations and every literal number."""
    yield type(traced)
    yield str(traced.jaxpr)
    for value in (*traced.consts, *constants(traced.jaxpr)):
        array = np.asarray(value)
        yield array.shape, str(array.dtype), array.tobytes()


def build(
    maker: Callable[..., Any], traced: TracedStep | TracedSequence, *args: Any
) -> CompiledProgram:
    """Lower and compile ``maker(traced)`` for arguments like ``args``.

    Raises:
        Declined: if JAX cannot differentiate the step.
        InternalError: for a defect of bpttcheck.
    """
    return lower(maker, traced, *args).compile()


def compile_cheaply(lowered: Any) -> Any:
    """Compile with options that shorten compilation at the cost of run time."""
    try:
        return lowered.compile(compiler_options=_CHEAP)
    except Exception as error:
        if "compile option" not in str(error):
            raise
        return lowered.compile()  # a version of XLA that lacks one of these options


def noisy(traced: TracedStep | TracedSequence) -> Callable[..., Any]:
    """``(inputs, unit, keys, copies) -> (d_params, d_state0, d_xs, ys, state_T)``, per copy."""

    def one(exact: ProgramInputs, unit: Any, copy: Any, key: Any) -> Any:
        inputs, forward = _copy(traced, exact, unit, copy, key)
        at = (inputs.params, inputs.state0, inputs.xs)
        (ys, state), pull = jax.vjp(forward, *at)
        d_params, d_state0, d_xs = on_behalf(
            pull, (inputs.d_ys, _cotangents(inputs.d_state, state))
        )
        return (
            traced.params.unflatten(_zeroed(d_params, inputs.params)),
            traced.state.unflatten(_zeroed(d_state0, inputs.state0)),
            d_xs,
            ys,
            traced.state.unflatten(state),
        )

    def run(inputs: ProgramInputs, unit: Any, keys: Any, copies: Any) -> Any:
        over = jax.vmap(one, in_axes=(None, None, 0, 0), axis_name=COPIES_AXIS)
        return over(inputs, unit, copies, keys)

    return run


def forward_mode(traced: TracedStep | TracedSequence) -> Callable[..., Any]:
    """``(inputs, unit, keys, direction) -> dL/ds`` per copy, along params, state0 and xs."""

    def one(exact: ProgramInputs, unit: Any, copy: Any, key: Any, along: ProgramInputs) -> Any:
        inputs, forward = _copy(traced, exact, unit, copy, key)
        at = (inputs.params, inputs.state0, inputs.xs)
        tangents = (
            _cotangents(along.params, inputs.params),
            _cotangents(along.state0, inputs.state0),
            along.xs,
        )
        _, (d_ys, d_state) = jax.jvp(forward, at, tangents)
        total = (inputs.d_ys * d_ys).sum()
        for c, d in zip(inputs.d_state, d_state, strict=True):
            if _is_float(d):
                total = total + (c * d).sum()
        return total

    def run(inputs: ProgramInputs, unit: Any, keys: Any, along: ProgramInputs) -> Any:
        over = jax.vmap(one, in_axes=(None, None, 0, 0, None), axis_name=COPIES_AXIS)
        return over(inputs, unit, jnp.arange(COPIES + 1), keys, along)

    return run


def untied(traced: TracedStep) -> Callable[..., Any]:
    """``inputs -> (params untied in time (T, ...), adjoints of every state (T + 1, B, ...))``."""

    def run(inputs: ProgramInputs) -> Any:
        T = inputs.mask.shape[0]
        floats = [_is_float(s) for s in inputs.state0]
        taps = [jnp.zeros((T, *p.shape), p.dtype) for p in inputs.params]
        bumps = [jnp.zeros((T, *s.shape)) for s in inputs.state0]

        def forward(taps: Any, bumps: Any) -> Any:
            def body(state: Any, step: Any) -> Any:
                x, real, tap, bump = step
                state = [s + b if f else s for s, b, f in zip(state, bump, floats, strict=True)]
                params = [p + t for p, t in zip(inputs.params, tap, strict=True)]
                return traced.run(params, state, (x, real), None)

            state, ys = jax.lax.scan(body, inputs.state0, (inputs.xs, inputs.mask, taps, bumps))
            return ys, state

        (_, state), pull = jax.vjp(forward, taps, bumps)
        d_taps, d_bumps = on_behalf(pull, (inputs.d_ys, _cotangents(inputs.d_state, state)))
        last = [c if f else jnp.zeros(c.shape) for c, f in zip(inputs.d_state, floats, strict=True)]
        adjoints = [jnp.concatenate([d, c[None]]) for d, c in zip(d_bumps, last, strict=True)]
        return traced.params.unflatten(d_taps), traced.state.unflatten(adjoints)

    return run


def carried(traced: TracedStep) -> Callable[..., Any]:
    """``(inputs, keep (T,)) -> (d_params, d_state0, d_xs)``, carry into step t times keep[t]."""

    def run(inputs: ProgramInputs, keep: Any) -> Any:
        floats = [_is_float(s) for s in inputs.state0]

        def forward(params: Any, state0: Any, xs: Any) -> Any:
            def body(state: Any, step: Any) -> Any:
                x, real, share = step
                fixed = [jax.lax.stop_gradient(s) for s in state]
                state = [
                    f + share * (s - f) if d else s
                    for s, f, d in zip(state, fixed, floats, strict=True)
                ]
                return traced.run(params, state, (x, real), None)

            state, ys = jax.lax.scan(body, state0, (xs, inputs.mask, keep))
            return ys, state

        (_, state), pull = jax.vjp(forward, inputs.params, inputs.state0, inputs.xs)
        d_params, d_state0, d_xs = on_behalf(
            pull, (inputs.d_ys, _cotangents(inputs.d_state, state))
        )
        return (
            traced.params.unflatten(_zeroed(d_params, inputs.params)),
            traced.state.unflatten(_zeroed(d_state0, inputs.state0)),
            d_xs,
        )

    return run


def _copy(
    traced: TracedStep | TracedSequence, exact: ProgramInputs, unit: Any, copy: Any, key: Any
) -> tuple[ProgramInputs, Forward]:
    """One copy's perturbed inputs, and its noisy forward pass ``-> (ys, state_T)``."""
    eps = jnp.where(copy == 0, 0.0, unit)
    inputs = _perturbed(exact, eps, key)
    return inputs, traced.forward(inputs.mask, eps, unit, copy, key)


def _perturbed(inputs: ProgramInputs, eps: Any, key: Any) -> ProgramInputs:
    """Inputs and cotangents times ``1 + eps u``; the mask and integer leaves stay."""
    groups = [inputs.params, inputs.state0, [inputs.xs, inputs.d_ys], inputs.d_state]
    count = sum(leaf.size for group in groups for leaf in group)
    noise = Noise(eps, None, None, uniform(key, count))

    def one(leaf: Any) -> Any:
        return leaf * noise.factor(leaf.shape) if _is_float(leaf) else leaf

    params, state0, (xs, d_ys), d_state = [[one(leaf) for leaf in group] for group in groups]
    return ProgramInputs(params, state0, xs, inputs.mask, d_ys, d_state)


def _cotangents(given: Sequence[Any], primals: Sequence[Any]) -> list[Any]:
    """Cotangents as JAX expects them: float0 for integer leaves."""
    return [
        c.astype(p.dtype) if _is_float(p) else _no_tangent(p)
        for c, p in zip(given, primals, strict=True)
    ]


def _no_tangent(leaf: Any) -> Any:
    return np.zeros(leaf.shape, jax.dtypes.float0)


def _zeroed(gradients: Sequence[Any], primals: Sequence[Any]) -> list[Any]:
    """Integer leaves have the gradient zero."""
    return [
        g if _is_float(p) else jnp.zeros(p.shape) for g, p in zip(gradients, primals, strict=True)
    ]


def where_real(real: Any, new: Any, old: Any) -> Any:
    """``new (B, ...)`` in the rows that are real, ``old`` in the others."""
    return jnp.where(real.reshape(real.shape + (1,) * (new.ndim - 1)), new, old)


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _abstract(leaf: Any) -> Any:
    dtype = jnp.float64 if _is_float(leaf) else leaf.dtype
    return jax.ShapeDtypeStruct(leaf.shape, dtype)


def _declined(verb: str, error: Exception) -> Declined:
    line = (str(error).strip() or "no message").splitlines()[0]
    return Declined(
        f"JAX could not {verb} the step: {type(error).__name__}: {line}",
        remedy="pass `reference=`, a JAX function step(params, state, x) -> (state, y)",
    )
