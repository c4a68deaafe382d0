"""JAX autodiff of a reference step, scanned over time, with an error bar for every entry.

The loss is linear in the network's outputs, with cotangents that the caller chooses:

    L = sum_t <d_ys[t], ys[t]> + <d_state_T, state_T>

One program per size template evaluates the gradient of L for the exact inputs (copy 0) and for
``COPIES`` noisy samples at once. T and B are masked inside the program, so that XLA compiles a
handful of programs rather than one per example.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bpttcheck import trees
from bpttcheck.calibration import COPIES
from bpttcheck.errors import Declined
from bpttcheck.jax_mode import reference_mode
from bpttcheck.oracles.autodiff import programs
from bpttcheck.oracles.autodiff.noise import PATTERN
from bpttcheck.oracles.autodiff.programs import (
    CompiledProgram,
    ProgramInputs,
    Step,
    Waiting,
    WholeSequence,
)
from bpttcheck.oracles.estimate import Estimate, rms
from bpttcheck.oracles.step_graph.paths import Paths
from bpttcheck.oracles.step_graph.whole import WholeGraph

Array = NDArray[Any]

MOST_WAYS = 8
"""Ways through the `if`s of a whole function that are compiled for equal shapes."""

MOST_OPERATIONS = 2000
"""Operations of all these programs together, beyond which no further one is compiled."""


@dataclass(frozen=True)
class Point:
    """The inputs of one sequence, as trees of plain arrays.

    Args:
        params: parameters, any tree.
        state0: initial state, leaves ``(B, ...)``.
        xs: inputs ``(T, B, n_in)``.
        mask: ``(T, B)`` bool, true where the step is real.
        d_ys: cotangent of the outputs, ``(T, B, n_out)``.
        d_state: cotangent of the final state, like ``state0``.
    """

    params: Any
    state0: Any
    xs: Array
    mask: Array
    d_ys: Array
    d_state: Any


@dataclass(frozen=True)
class Spread:
    """One quantity at the exact inputs and in the noisy copies.

    Args:
        value: the exact program's result, float64.
        copies: the noisy results, ``(COPIES, *value.shape)``.
    """

    value: Array
    copies: Array

    @classmethod
    def of(cls, stacked: Array) -> Spread:
        """From an array whose first axis holds the exact result and then the copies."""
        return cls(stacked[0], stacked[1:])


@dataclass(frozen=True)
class NoisyGradients:
    """The autodiff result at one point; every leaf of every tree is a :class:`Spread`.

    ``d_params``, ``d_state0`` and ``d_xs`` are gradients of L; ``ys`` and ``state_T`` the traced
    forward pass, to be compared with the native one. Integer leaves have a zero gradient.
    """

    d_params: Any
    d_state0: Any
    d_xs: Spread
    ys: Spread
    state_T: Any


@dataclass(frozen=True)
class Untied:
    """The gradient with the parameters untied in time, to locate an error.

    Args:
        d_params: a tree like the parameters, leaves ``(T, *shape)``: step t's own contribution.
        d_states: leaves ``(T + 1, B, ...)``: the adjoint dL/dstate_t.
    """

    d_params: Any
    d_states: Any


def spread_estimate(spread: Spread, unit: float) -> Estimate:
    """A value whose error bar is the rms of its noisy copies plus its own rounding error."""
    with np.errstate(all="ignore"):
        noise = rms(spread.copies - spread.value)
        return Estimate(spread.value, noise + unit * np.abs(spread.value))


class Autodiff:
    """Compiled gradients of one reference; the programs live as long as this object.

    Args:
        step: ``step(params, state, x) -> (new_state, y)`` on JAX arrays.
        sequence: ``sequence(params, xs, state0, mask) -> (ys, state_T)`` instead of a step, for a
            layer that is not a single loop; then there are no single steps to untie or to cut.
    """

    def __init__(self, step: Step | None, sequence: WholeSequence | None = None) -> None:
        self._step = step
        self._sequence = sequence
        self._programs: dict[Any, Waiting] = {}
        self._refused: dict[Any, tuple[str, str, str]] = {}
        self._ways: dict[Any, set[Any]] = {}
        self._decided: dict[bytes, tuple[bool | int, ...]] = {}
        self._operations = 0
        self._paths: dict[Any, Paths] = {}
        self._wholes: dict[Any, WholeGraph] = {}
        self._lock = threading.Lock()

    @property
    def compilations(self) -> int:
        """XLA programs compiled so far."""
        with self._lock:
            return sum(one.is_compiled for one in self._programs.values())

    def gradients(
        self,
        point: Point,
        unit: float,
        seed: int,
        pad: tuple[int, int] | None = None,
        patterns: Sequence[int] | None = None,
    ) -> NoisyGradients:
        """The gradient of L and its noisy copies.

        Args:
            point: the inputs; float leaves are used as float64.
            unit: rounding unit of the checked dtype.
            seed: seed of the noise.
            pad: ``(T, B)`` of the size template; None: the point's own.
            patterns: for each copy 15 bits by which it decides its free branches, the same way for
                all elements; None: the copies decide by themselves.

        Returns:
            Trees of :class:`Spread`, cut back to the point's own T and B.

        Raises:
            Declined: if the step cannot be traced.
            InternalError: for a defect of bpttcheck.
        """
        T, B = point.mask.shape
        with reference_mode(), np.errstate(all="ignore"):
            args = (_inputs(point, pad), float(unit), _keys(seed), _copies(patterns))
            out = self._program(programs.noisy, point, *args)(*args)
        d_params, d_state0, d_xs, ys, state = trees.map_leaves(np.asarray, out)
        return NoisyGradients(
            d_params=trees.map_leaves(Spread.of, d_params),
            d_state0=trees.map_leaves(lambda leaf: Spread.of(leaf[:, :B]), d_state0),
            d_xs=Spread.of(d_xs[:, :T, :B]),
            ys=Spread.of(ys[:, :T, :B]),
            state_T=trees.map_leaves(lambda leaf: Spread.of(leaf[:, :B]), state),
        )

    def lower(self, point: Point, pad: tuple[int, int] | None = None) -> Callable[[], None]:
        """Trace the program that :meth:`gradients` will need; it is compiled later.

        Tracing runs the user's code, which may keep state that a run in another thread would see,
        so it happens in the calling thread; compiling does not run user code.

        Args:
            point: the inputs.
            pad: ``(T, B)`` of the size template.

        Returns:
            A function that compiles and keeps the program; it may be called in another thread.

        Raises:
            Declined: if the step cannot be traced.
            InternalError: for a defect of bpttcheck.
        """
        with reference_mode(), np.errstate(all="ignore"):
            args = (_inputs(point, pad), 1.0, _keys(0), _copies(None))
            waiting = self._lowered(programs.noisy, point, *args)

        def finish() -> None:
            with reference_mode(), np.errstate(all="ignore"):
                waiting.program()

        return finish

    def prepare(self, point: Point, pad: tuple[int, int] | None = None) -> None:
        """Compile the program that :meth:`gradients` will need.

        Raises:
            Declined: if the step cannot be traced.
            InternalError: for a defect of bpttcheck.
        """
        self.lower(point, pad)()

    def directional(
        self,
        point: Point,
        direction: Point,
        unit: float,
        seed: int,
        pad: tuple[int, int] | None = None,
    ) -> Estimate:
        """The derivative of L along ``direction`` in forward mode: a cross-check of JAX itself.

        Args:
            point: the inputs.
            direction: tangents in ``params``, ``state0`` and ``xs``; the rest is ignored.
            unit: rounding unit of the checked dtype.
            seed: seed of the noise.
            pad: ``(T, B)`` of the size template.

        Returns:
            dL/ds at s = 0 for the inputs moved by ``s * direction``; the bar is the spread of the
            noisy copies.

        Raises:
            Declined: if the step cannot be traced.
        """
        with reference_mode(), np.errstate(all="ignore"):
            along = _inputs(direction, pad, repeat=False)
            args = (_inputs(point, pad), float(unit), _keys(seed), along)
            out = np.asarray(self._program(programs.forward_mode, point, *args)(*args))
        return spread_estimate(Spread.of(out), unit)

    def untied(self, point: Point, pad: tuple[int, int] | None = None) -> Untied:
        """Per-step parameter contributions and the adjoint of every state, without noise."""
        self._one_step()
        T, B = point.mask.shape
        with reference_mode(), np.errstate(all="ignore"):
            args = (_inputs(point, pad),)
            out = self._program(programs.untied, point, *args)(*args)
        taps, adjoints = trees.map_leaves(np.asarray, out)
        return Untied(
            trees.map_leaves(lambda leaf: leaf[:T], taps),
            trees.map_leaves(lambda leaf: leaf[: T + 1, :B], adjoints),
        )

    def carried(
        self, point: Point, keep: Array, pad: tuple[int, int] | None = None
    ) -> tuple[Any, Any, Array]:
        """The gradient with the carry into step t multiplied by ``keep[t]``; 0 cuts it.

        Args:
            point: the inputs.
            keep: ``(T,)``.
            pad: ``(T, B)`` of the size template.

        Returns:
            ``(d_params, d_state0, d_xs)``, without noise.
        """
        self._one_step()
        T, B = point.mask.shape
        with reference_mode(), np.errstate(all="ignore"):
            inputs = _inputs(point, pad)
            padding = len(inputs.mask) - T
            args = (inputs, np.pad(np.asarray(keep, np.float64), (0, padding), constant_values=1.0))
            out = self._program(programs.carried, point, *args)(*args)
        d_params, d_state0, d_xs = trees.map_leaves(np.asarray, out)
        return d_params, trees.map_leaves(lambda leaf: leaf[:B], d_state0), d_xs[:T, :B]

    def paths(self, point: Point) -> Paths:
        """The first step of ``point`` as a graph whose edges can be changed one at a time."""
        leaves = [*trees.leaves(point.params), *trees.leaves(point.state0), point.xs[0]]
        key = tuple((np.shape(leaf), np.asarray(leaf).dtype.kind) for leaf in leaves)
        if key not in self._paths:
            x = np.asarray(point.xs[0], np.float64)
            self._paths[key] = Paths(self._one_step(), point.params, point.state0, x)
        return self._paths[key]

    def whole(self, point: Point) -> WholeGraph:
        """The whole sequence of ``point``, all of its steps real, as a graph.

        Raises:
            Declined: if it cannot be traced.
        """
        leaves = [*trees.leaves(point.params), *trees.leaves(point.state0), point.xs]
        key = tuple((np.shape(leaf), np.asarray(leaf).dtype.kind) for leaf in leaves)
        if key not in self._wholes:
            xs = np.asarray(point.xs, np.float64)
            self._wholes[key] = WholeGraph(self._unrolled, point.params, point.state0, xs)
        return self._wholes[key]

    def _unrolled(self, params: Any, state: Any, xs: Any) -> tuple[Any, Any]:
        """``(state_T, ys)`` of the sequence, or of the step in a loop."""
        if self._sequence is not None:
            ys, last = self._sequence(params, xs, state, np.ones(np.shape(xs)[:2], bool))
            return last, ys
        step, ys = self._one_step(), []
        for t in range(len(xs)):
            state, y = step(params, state, xs[t])
            ys.append(y)
        return state, jnp.stack(ys)

    def _one_step(self) -> Step:
        if self._step is None:
            raise Declined("the reference is a whole sequence: it has no single step")
        return self._step

    def _program(self, maker: Callable[..., Any], point: Point, *args: Any) -> CompiledProgram:
        return self._lowered(maker, point, *args).program()

    def _lowered(self, maker: Callable[..., Any], point: Point, *args: Any) -> Waiting:
        """The cached program for these shapes, or a new one, traced in this thread."""
        inputs: ProgramInputs = args[0]
        flat = [*inputs.params, *inputs.state0, inputs.xs, inputs.d_ys]
        key = (maker.__name__, *((leaf.shape, str(leaf.dtype)) for leaf in flat))
        decisions = self._decisions(key, point, inputs) if key in self._ways else None
        at_point = key if decisions is None else (*key, decisions)
        with self._lock:
            found = self._programs.get(at_point)
            refused = self._refused.get(key)
        if found is not None:
            return found
        if refused is not None:  # tracing sees shapes alone: it would be refused again
            raise Declined(refused[0], where=refused[1], remedy=refused[2])
        try:
            made = self._traced(maker, point, inputs, args, decisions)
        except Declined as refusal:
            if refusal.by_value and decisions is None and self._sequence is not None:
                self._ways[key] = set()
                return self._lowered(maker, point, *args)
            with self._lock:
                # Its words alone: a traceback leads back to the run.
                self._refused[key] = (refusal.what, refusal.where, refusal.remedy)
            raise
        with self._lock:
            return self._programs.setdefault(at_point, made)

    def _decisions(self, key: Any, point: Point, inputs: ProgramInputs) -> tuple[bool | int, ...]:
        """What the values of this point decide; few ways through the code are compiled."""
        assert self._sequence is not None
        params = trees.structure(point.params).unflatten(inputs.params)
        state = trees.structure(point.state0).unflatten(inputs.state0)
        # The checks ask at one point again and again, each time with other cotangents.
        values = _digest([*inputs.params, *inputs.state0, inputs.xs, inputs.mask])
        found = self._decided.get(values)
        if found is None:
            where = (params, state, inputs.xs, inputs.mask > 0)
            found = programs.decisions_at(self._sequence, *where)
            self._decided[values] = found
        ways = self._ways[key]
        if found not in ways and len(ways) >= MOST_WAYS:
            raise Declined(f"its `if`s take more than {MOST_WAYS} ways at equal shapes")
        if found not in ways and self._operations >= MOST_OPERATIONS:
            raise Declined("its `if`s take many ways, each a program that takes long to compile")
        ways.add(found)
        return found

    def _traced(
        self,
        maker: Callable[..., Any],
        point: Point,
        inputs: ProgramInputs,
        args: Sequence[Any],
        decisions: tuple[bool | int, ...] | None = None,
    ) -> Waiting:
        batch = inputs.mask.shape[1]
        state = trees.map_leaves(lambda leaf: _rows(leaf, batch), point.state0)
        if self._sequence is not None:
            traced = programs.trace_sequence(
                self._sequence, point.params, state, inputs.xs, decisions
            )
            self._operations += 0 if decisions is None else len(traced.jaxpr.eqns)
        else:
            traced = programs.trace(self._one_step(), point.params, state, inputs.xs[0])
        return programs.CACHE.get(maker, traced, *args)


def _digest(arrays: Sequence[Array]) -> bytes:
    """Equal for arrays that have the same shapes, dtypes and bits."""
    found = hashlib.blake2b(digest_size=16)
    for array in arrays:
        found.update(f"{array.shape} {array.dtype} ".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.digest()


def _inputs(point: Point, pad: tuple[int, int] | None, repeat: bool = True) -> ProgramInputs:
    """The point as float64 leaves, padded to the template.

    Padding repeats real rows and steps instead of zeros, so that the step handles it as well as it
    handles them; the mask keeps it out of every result. The adjoint of the last state passes
    through masked steps unchanged and so reaches the last real one.
    """
    T, B = pad or point.mask.shape
    steps, rows = T - point.mask.shape[0], B - point.mask.shape[1]

    def sequence(leaf: Array) -> Array:
        mode = "edge" if repeat and leaf.shape[0] else "constant"
        grown = np.pad(leaf, [(0, steps), (0, 0), (0, 0)], mode=mode)
        return _double(_rows(grown, B, axis=1))

    def zeros(leaf: Array) -> Array:
        padding = [(0, steps), (0, rows), *[(0, 0)] * (leaf.ndim - 2)]
        return _double(np.pad(leaf, padding))

    def state(tree: Any) -> list[Array]:
        return [_double(_rows(leaf, B)) for leaf in trees.leaves(tree)]

    def cotangent(leaf: Array) -> Array:
        padding = [(0, rows), *[(0, 0)] * (leaf.ndim - 1)]
        return np.pad(np.asarray(leaf, np.float64), padding)

    return ProgramInputs(
        [_double(leaf) for leaf in trees.leaves(point.params)],
        state(point.state0),
        sequence(point.xs),
        zeros(point.mask),
        zeros(point.d_ys),
        [cotangent(leaf) for leaf in trees.leaves(point.d_state)],
    )


def _rows(leaf: Array, batch: int, axis: int = 0) -> Array:
    """``leaf`` padded to ``batch`` rows with its real rows, halved.

    Equal rows would hide a step that mixes them: a mean over equal rows is the row itself.
    """
    if leaf.shape[axis] == batch:
        return leaf
    if leaf.shape[axis] == 0:
        shape = list(leaf.shape)
        shape[axis] = batch
        return np.zeros(shape, leaf.dtype)
    rows = leaf.shape[axis]
    more = np.take(leaf, np.arange(rows, batch) % rows, axis=axis)
    halved = more * leaf.dtype.type(0.5) if np.issubdtype(leaf.dtype, np.floating) else more
    return np.concatenate([leaf, halved], axis=axis)


def _double(leaf: Any) -> Array:
    array = np.asarray(leaf)
    return array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array


def _keys(seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, 2**32, COPIES + 1, dtype=np.uint32)


def _copies(patterns: Sequence[int] | None) -> Array:
    """The indices of the copies, the exact one first."""
    if patterns is None:
        return np.arange(COPIES + 1)
    return np.concatenate([[0], PATTERN + np.asarray(patterns)])
