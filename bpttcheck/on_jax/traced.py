"""A user's own cell on JAX: its unmodified ``step`` and ``step_vjp``, traced, scanned, compiled.

Nobody wrote these forms for it. NumPy code becomes a JAX program as it does for the checker, and
the rule that was derived by hand stays the rule.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bpttcheck import trees
from bpttcheck.blocks import D_XS, YS, of_params, of_state
from bpttcheck.blocks import d_state0 as d_of_state0
from bpttcheck.blocks import state_T as of_state_T
from bpttcheck.errors import BpttcheckError, Declined
from bpttcheck.jax_mode import enable_x64, is_x64
from bpttcheck.judge.own_noise import unlike
from bpttcheck.judge.run import Run
from bpttcheck.on_jax.form import JaxArray, is_float
from bpttcheck.on_jax.partition import EquationGraph, Steps, in_chunks, joined, over_chunks
from bpttcheck.oracles.tracer.trace import lift
from bpttcheck.subject.subject import Subject


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False)
class TracedRule:
    """One step and its rule, masked rows included.

    ::

        new, y, cache               = step(params, state, x)
        d_params, d_previous, d_x   = step_vjp(params, cache, d_new, d_y)

    A row that is masked keeps its state, and its ``d_new`` becomes ``d_previous``; its output and
    its other cotangents are zero.

    Args:
        graph: the equations; the other fields are values of it, leaf by leaf.
        params: the parameters.
        state: the state before the step.
        given: ``x``, and where there is a mask whether each row is real.
        d_new: the cotangent of the new state; of an integer leaf, floating zeros.
        d_y: the cotangent of the output.
        new: the new state.
        y: the output.
        d_params: the step's part of the gradients of the parameters.
        d_previous: the cotangent of ``state``.
        d_x: the gradient of ``x``.
    """

    graph: EquationGraph
    params: tuple[int, ...]
    state: tuple[int, ...]
    given: tuple[int, ...]
    d_new: tuple[int, ...]
    d_y: int
    new: tuple[int, ...]
    y: int
    d_params: tuple[int, ...]
    d_previous: tuple[int, ...]
    d_x: int

    @property
    def moving(self) -> list[int]:
        """The inputs that differ from step to step."""
        return [*self.state, *self.given, *self.d_new, self.d_y]


def traced(
    cell: Any, params: Any, state: Any, xs: JaxArray, mask: JaxArray | None = None
) -> TracedRule:
    """The rule of a cell for arguments of these shapes and dtypes, in 64-bit mode.

    Args:
        cell: any :class:`bpttcheck.Cell`.
        params: its parameters.
        state: a state.
        xs: the inputs of all steps, ``(T, B, n_in)``.
        mask: ``(T, B)``, whether a row is real, or None.

    Raises:
        Declined: the code cannot be traced.
    """
    at_params, at_state = trees.structure(params), trees.structure(state)

    def both(params: Any, state: Any, x: Any, d_state: Any, d_y: Any) -> Any:
        new, y, cache = cell.step(params, state, x)
        return new, y, cell.step_vjp(params, cache, d_state, d_y)

    def flat(params: Any, state: Any, given: Any, d_state: Any, d_y: Any) -> Any:
        params, state = at_params.unflatten(params), at_state.unflatten(state)
        d_state, (x, real) = at_state.unflatten(d_state), (*given, None)[:2]
        d_new = _where(real, d_state)
        new, y, found = lift(both)(params, state, x, d_new, _where(real, d_y))
        d_params, d_previous, d_x = found
        d_previous = _where(real, trees.map_leaves(_as, d_new, d_previous), d_state)
        new = _where(real, trees.map_leaves(_as, state, new), state)
        y, d_x = _where(real, y.astype(xs.dtype)), _where(real, _as(x, d_x))
        d_params = trees.map_leaves(_as, params, d_params)
        return trees.leaves(new), y, trees.leaves(d_params), trees.leaves(d_previous), d_x

    params, state = (trees.map_leaves(_shape, tree) for tree in (params, state))
    x = jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype)
    given = [x] if mask is None else [x, jax.ShapeDtypeStruct(mask.shape[1:], mask.dtype)]
    y = jax.eval_shape(
        lift(lambda params, state, x: cell.step(params, state, x)[1]), params, state, x
    )
    leaves = trees.leaves(state)
    d_new = [jax.ShapeDtypeStruct(a.shape, a.dtype if is_float(a) else x.dtype) for a in leaves]
    d_y = jax.ShapeDtypeStruct(y.shape, x.dtype)
    program = jax.make_jaxpr(flat)(trees.leaves(params), leaves, given, d_new, d_y)
    graph = EquationGraph(program)
    values = iter([*graph.inputs, *graph.outputs])

    def take(count: int) -> tuple[int, ...]:
        return tuple(islice(values, count))

    P, S = at_params.size, at_state.size
    return TracedRule(
        graph, take(P), take(S), take(len(given)), take(S), next(values),
        take(S), next(values), take(P), take(S), next(values),
    )  # fmt: skip


def _shape(array: Any) -> Any:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _as(of: Any, array: Any) -> JaxArray:
    return jnp.broadcast_to(jnp.asarray(array, of.dtype), of.shape)


def _where(real: JaxArray | None, tree: Any, old: Any = None) -> Any:
    """The leaves where a row is real; elsewhere the old ones, or zeros."""
    if real is None:
        return tree
    old = trees.map_leaves(jnp.zeros_like, tree) if old is None else old

    def one(old: Any, new: Any) -> Any:
        return jnp.where(real.reshape(*real.shape, *[1] * (new.ndim - 1)), new, old)

    return trees.map_leaves(one, old, tree)


class Form(NamedTuple):
    """Where the equations of a rule are evaluated.

    Args:
        hoisted: what no carried value enters is evaluated for all steps at once, before the loop
            or after it; else in the loop.
        kept: the backward pass reads what the loop forward made; else it makes it again of the
            states.
        deferred: the gradients of the parameters are summed after the loop.
        unroll: steps in one turn of a loop.
        chunk: where it is not 0, the backward pass goes through the sequence in chunks of about so
            many steps: what it makes of a chunk is still in the caches of a CPU when it is summed.
            If it is not ``kept``, the states at the first steps of the chunks are all that is.
    """

    hoisted: bool
    kept: bool
    deferred: bool
    unroll: int = 1
    chunk: int = 0


FORMS = {
    "in the loop": Form(hoisted=False, kept=False, deferred=False),
    "deferred": Form(hoisted=False, kept=True, deferred=True),
    "deferred, chunks recomputed": Form(hoisted=False, kept=False, deferred=True, chunk=20),
    "hoisted": Form(hoisted=True, kept=True, deferred=True),
    "hoisted, in chunks": Form(hoisted=True, kept=True, deferred=True, chunk=50),
    "hoisted, recomputed": Form(hoisted=True, kept=False, deferred=True),
    "hoisted, unrolled": Form(hoisted=True, kept=True, deferred=True, unroll=4),
}
"""The forms that are tried."""

_ROUNDS = 5
# A form that takes more memory than this, and than so many times the least, is not measured.
_MOST_BYTES, _MOST_TIMES = 2**30, 4


class TracedTape(NamedTuple):
    """The residuals: arrays ``(T, ...)`` of values of the rule, or states at starts of chunks."""

    rule: TracedRule
    params: Any
    state0: Any
    stacked: dict[int, JaxArray]
    starts: Sequence[Any] = ()


@dataclass(frozen=True, eq=False)
class TracedLoops:
    """A cell over a whole sequence, by its own code, in two loops as short as they can be.

    Forward, for ``t = 0 .. T-1``::

        state[t+1], ys[t], cache[t] = step(params, state[t], xs[t])

    Backward, for ``t = T-1 .. 0`` from ``d_state[T] = d_state_T``::

        d_params[t], d_state[t], d_xs[t] = step_vjp(params, cache[t], d_state[t+1], d_ys[t])

    and ``d_params = sum_t d_params[t]``. Both are traced together, into one graph of equations,
    and each equation is evaluated where what it depends on is known:

    - parameters alone: once;
    - no state, such as ``x W``: for all steps at once, before the loop forward;
    - what the next state is made of: in the loop forward;
    - other things that read the state: for all steps at once, after it;
    - what ``d_state[t]`` is made of, of ``d_state[t+1]``: in the loop backward;
    - other things that read ``d_state[t+1]``: after it. A sum of ``a[t]^T b[t]`` over the steps is
      one product over the rows of all steps (:class:`bpttcheck.on_jax.partition.Steps`).

    ``lax.scan`` and XLA move nothing out of a loop but what is constant. Arrays of all steps cost
    memory: with many rows or a large state more may belong in the loops (:class:`Form`).

    Args:
        cell: any :class:`bpttcheck.Cell` whose code can be traced.
        form: one of :data:`FORMS`.
    """

    cell: Any
    form: str = "in the loop"

    def forward(
        self, params: Any, xs: JaxArray, state0: Any, mask: JaxArray | None
    ) -> tuple[JaxArray, Any, TracedTape]:
        """``(ys, state_T, tape)``."""
        if mask is not None:  # zero times NaN is NaN: padding must not reach a product
            xs = jnp.where(mask[..., None], xs, 0)
        given = [xs] if mask is None else [xs, mask]
        how, starts = FORMS[self.form], ()
        with enable_x64():
            rule = traced(self.cell, params, state0, *given)
            stacked = dict(zip(rule.given, given, strict=True))
            first = trees.leaves(state0)
            if how.chunk and not how.kept:

                def one(state: Any, part: Any) -> tuple[Any, Any]:
                    last, ys, _ = self._ahead(rule, params, part, state)
                    return last, (ys, state)

                last, found = over_chunks(one, first, in_chunks(stacked, how.chunk))
                ys, starts = joined([ys for ys, _ in found]), [start for _, start in found]
            else:
                last, ys, stacked = self._ahead(rule, params, stacked, first)
        tape = TracedTape(rule, params, state0, stacked, starts)
        return ys, trees.structure(state0).unflatten(last), tape

    def backward(self, tape: TracedTape, d_ys: JaxArray, d_state_T: Any) -> tuple[Any, Any, Any]:
        """``(d_params, d_xs, d_state0)``; an integer leaf of the state gets a ``float0``."""
        rule, params, state0, stacked, starts = tape
        how = FORMS[self.form]
        d_last = trees.map_leaves(
            lambda leaf, d: d if is_float(leaf) else jnp.zeros(leaf.shape, d_ys.dtype),
            state0, d_state_T,
        )  # fmt: skip
        known = {**stacked, rule.d_y: d_ys}

        def one(carry: Any, part: Any) -> tuple[Any, Any]:
            (d_new, totals), (known, start) = carry, part
            if starts:
                _, _, again = self._ahead(rule, params, known, start)
                known = {**known, **again}
            d_previous, d_params, d_xs = self._back(rule, params, known, d_new)
            return (d_previous, [a + b for a, b in zip(totals, d_params, strict=True)]), d_xs

        with enable_x64():
            if how.chunk:
                zeros = [jnp.zeros_like(leaf) for leaf in trees.leaves(params)]
                chunks = in_chunks(known, how.chunk)
                parts = [*zip(chunks, starts or [None] * len(chunks), strict=True)]
                carry, found = over_chunks(one, (trees.leaves(d_last), zeros), parts, reverse=True)
                (d_first, d_params), d_xs = carry, joined(found)
            else:
                d_first, d_params, d_xs = self._back(rule, params, known, trees.leaves(d_last))
        d_state0 = trees.map_leaves(
            lambda leaf, d: d if is_float(leaf) else np.zeros(leaf.shape, jax.dtypes.float0),
            state0, trees.structure(state0).unflatten(d_first),
        )  # fmt: skip
        return trees.structure(params).unflatten(d_params), d_xs, d_state0

    def _ahead(
        self, rule: TracedRule, params: Any, known: dict[int, JaxArray], first: Sequence[Any]
    ) -> tuple[list[Any], JaxArray, dict[int, JaxArray]]:
        """The last state, ``ys`` and what the backward pass reads, from the first state on."""
        graph, how = rule.graph, FORMS[self.form]
        T = len(known[rule.given[0]])
        known = {v: known[v] for v in rule.given}
        steps = Steps(graph, _named(rule.params, params), rule.moving, known, T)
        within = graph.depending(rule.state) if how.hoisted else steps.moving - {*rule.given}
        results = rule.new if how.hoisted else (*rule.new, rule.y)
        inside = graph.reached(results, lambda v: v not in within) & within | {*rule.state}
        in_y = graph.reached([rule.y], lambda v: v in inside or v not in within) & inside
        is_kept = how.kept or how.chunk
        stop = inside if is_kept else in_y | {*rule.state}
        kept = graph.reached(_read_back(rule), lambda v: v in stop) & stop | in_y
        carried = dict(zip(rule.state, first, strict=True))
        last, _ = steps.loop(inside, carried, rule.new, sorted(kept), unroll=how.unroll)
        ys, stacked = steps.stacked(rule.y), steps.known()
        if not is_kept:
            stacked = {v: stacked[v] for v in {*rule.given, *kept}}
        return last, ys, stacked

    def _back(
        self, rule: TracedRule, params: Any, known: dict[int, JaxArray], d_last: Sequence[Any]
    ) -> tuple[list[Any], list[Any], JaxArray]:
        """The leaves of ``d_state0`` and ``d_params``, and ``d_xs``, of what is known."""
        graph, how = rule.graph, FORMS[self.form]
        T = len(known[rule.d_y])
        steps = Steps(graph, _named(rule.params, params), rule.moving, known, T)
        reads = graph.depending(rule.d_new)
        within = reads if how.hoisted else steps.moving - known.keys()
        sums = () if how.deferred else rule.d_params
        results = rule.d_previous if how.deferred else (*rule.d_previous, *sums, rule.d_x)
        inside = graph.reached(results, lambda v: v not in within) & within | {*rule.d_new}
        after = (*rule.d_params, rule.d_x) if how.deferred else (rule.d_x,)
        kept = graph.reached(after, lambda v: v in inside or v not in reads) & inside & reads
        zeros = trees.map_leaves(jnp.zeros_like, params)
        carried = dict(zip(rule.d_new, d_last, strict=True))
        d_first, totals = steps.loop(
            inside, carried, rule.d_previous, sorted(kept), _named(sums, zeros) if sums else {},
            reverse=True, unroll=how.unroll,
        )  # fmt: skip
        d_params = totals if sums else [steps.total(value) for value in rule.d_params]
        return d_first, d_params, steps.stacked(rule.d_x)


def _named(values: Sequence[int], tree: Any) -> dict[int, Any]:
    return dict(zip(values, trees.leaves(tree), strict=True))


def _read_back(rule: TracedRule) -> set[int]:
    """What the equations of the backward pass read of the forward pass."""
    backward = rule.graph.depending([*rule.d_new, rule.d_y])
    ends = (*rule.d_params, *rule.d_previous, rule.d_x)
    return rule.graph.reached(ends, lambda v: v not in backward) - backward


@dataclass(frozen=True, eq=False)
class FastestLoops:
    """The fastest of the forms that are right, found once for each set of shapes.

    A form is verified against the cell in NumPy before it is handed out.

    Args:
        run: the cell.
        loops: the forms by name.
        functions: the differentiable function of each, by name.
        chosen: shapes -> the name of the form that is used there.
        reasons: why a form is refused, by name, or an empty text.
    """

    run: Run
    loops: dict[str, TracedLoops]
    functions: dict[str, Callable[..., Any]]
    chosen: dict[Any, str] = field(default_factory=dict[Any, str])
    reasons: dict[str, str] = field(default_factory=dict[str, str])

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

    def refused(self, form: str) -> str:
        """Why a form is not handed out, or an empty text.

        Values and gradients are compared with those of the cell in NumPy, with and without a mask:
        a difference must be one that rounding explains, by Monte Carlo arithmetic on the cell.
        """
        if form not in self.reasons:
            try:
                self.reasons[form] = _differs(self.run, self.loops[form], ("none", "lengths"))
            except Declined as refusal:
                self.reasons[form] = str(refusal)
            except (BpttcheckError, TypeError, ValueError) as error:
                self.reasons[form] = f"{type(error).__name__}: {error}".partition("\n")[0]
        return self.reasons[form]

    def _fastest(self, shapes: Any, mode: bool) -> str:
        given = jax.tree.map(_filling, shapes)
        arguments = (given[:3], given[3], None, given[2])
        times: dict[str, list[float]] = {}
        with enable_x64(mode):
            runs: dict[str, tuple[Callable[..., Any], int]] = {}
            for name, loops in self.loops.items():
                if self.reasons.get(name) or len(given[1]) <= FORMS[name].chunk:
                    continue
                with suppress(BpttcheckError, TypeError, ValueError):  # at these sizes alone
                    compiled = jax.jit(partial(_everything, loops)).lower(*arguments).compile()
                    found = compiled.memory_analysis()
                    runs[name] = compiled, found.temp_size_in_bytes if found else 0
            least = min((size for _, size in runs.values()), default=0)
            most = max(_MOST_BYTES, _MOST_TIMES * least)
            fitting = {name: run for name, (run, size) in runs.items() if size <= most}
            for _ in range(_ROUNDS + 1):
                for name, run in fitting.items():
                    started = time.perf_counter()
                    jax.block_until_ready(run(*arguments))
                    times.setdefault(name, []).append(time.perf_counter() - started)
        by_time = sorted(times, key=lambda name: min(times[name]))
        right = (name for name in by_time if not self.refused(name))
        return next(right, next(iter(self.functions)))


def _filling(shape: Any) -> Any:
    if shape.dtype == np.bool_:
        return np.ones(shape.shape, np.bool_)
    if not np.issubdtype(shape.dtype, np.floating):
        return np.zeros(shape.shape, shape.dtype)
    return np.random.default_rng(0).uniform(0.05, 0.15, shape.shape).astype(shape.dtype)


def forms_of(
    cell: Any,
    with_rule: Callable[[TracedLoops], Callable[..., Any]],
    first: str = "in the loop",
) -> tuple[FastestLoops | None, str]:
    """The forms of a cell, and why there are none.

    Args:
        cell: any :class:`bpttcheck.Cell`.
        with_rule: makes the differentiable function of a form.
        first: the form that must be right.

    Returns:
        The forms and an empty text, or None and the reason.
    """
    loops = {name: TracedLoops(cell, name) for name in FORMS}
    functions = {name: with_rule(one) for name, one in loops.items()}
    forms = FastestLoops(Run(Subject(cell), 0, ("float64",)), loops, functions)
    reason = forms.refused(first)
    return (None if reason else forms), reason


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
