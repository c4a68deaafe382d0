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
from bpttcheck.on_jax.over_time import Steps
from bpttcheck.on_jax.partition import Graph, Values, apply
from bpttcheck.oracles.tracer.trace import lift
from bpttcheck.subject.subject import Subject


_ROUNDS = 5


class Form(NamedTuple):
    """How the equations of a step and its rule are placed."""

    hoisted: bool
    kept: str
    deferred: bool
    unroll: int = 1


FORMS = {
    "in the loop": Form(False, "states", False),
    "kept": Form(False, "frontier", False),
    "deferred": Form(False, "states", True),
    "kept, deferred": Form(False, "frontier", True),
    "h states": Form(True, "states", True),
    "h products": Form(True, "products", True),
    "h frontier": Form(True, "frontier", True),
    "h frontier 4": Form(True, "frontier", True, 4),
    "h states 4": Form(True, "states", True, 4),
}


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False)
class Rule:
    """A step and its rule as one graph, with the numbers of its inputs and outputs."""

    graph: Graph
    params: list[int]
    state: list[int]
    x: list[int]
    d_new: list[int]
    d_y: int
    new: list[int]
    y: int
    d_params: list[int]
    d_previous: list[int]
    d_x: int


class TracedTape(NamedTuple):
    """The residuals: stacked values by their numbers in the graph of the rule."""

    rule: Rule
    params: Any
    like: Any
    stacked: dict[int, JaxArray]


@dataclass(frozen=True, eq=False)
class TracedLoops:
    cell: Any
    form: str = "in the loop"

    def forward(self, params, xs, state0, mask):
        if mask is not None:
            xs = jnp.where(mask[..., None], xs, 0)
        how = FORMS[self.form]
        with enable_x64():
            rule = self._traced(params, xs, state0, mask)
            graph = rule.graph
            state, x = set(rule.state), set(rule.x)
            constant = Values(graph, dict(zip(rule.params, trees.leaves(params))), apply)
            moving = graph.depending([*rule.state, *rule.x, *rule.d_new, rule.d_y])
            inside = graph.depending(rule.state) if how.hoisted else moving
            given = dict(zip(rule.x, [xs] if mask is None else [xs, mask]))
            T = xs.shape[0]
            steps = Steps(graph, constant, moving, given, T)
            targets = rule.new if how.hoisted else [*rule.new, rule.y]
            looped = graph.reached(targets, lambda v: v not in inside or v in x) & inside - x
            fed = _fed(graph, looped, state, moving)
            # what is emitted
            in_y = graph.reached([rule.y], lambda v: v in looped or v not in moving) & looped
            backward = graph.depending([*rule.d_new, rule.d_y])
            ends = [*rule.d_params, *rule.d_previous, rule.d_x]
            pulled = graph.reached(ends, lambda v: v not in backward)
            needed = {v for v in pulled if v not in backward and v in moving}
            stop = {
                "frontier": lambda v: v in looped,
                "products": lambda v: v in looped and (v in in_y or v in state or _expensive(graph, v)),
                "states": lambda v: v in state or v in in_y,
            }[how.kept]
            emitted = sorted(in_y | {v for v in graph.reached(needed, stop) if stop(v)})
            stacked_in = {v: steps.stacked[v] for v in fed if v in moving}
            for v in fed:
                if v not in moving:
                    constant[v]

            def body(carried, given):
                values = Values(graph, {**dict(zip(rule.state, carried)), **given}, apply, constant, moving)
                return [values[v] for v in rule.new], [values[v] for v in emitted]

            last, found = lax.scan(body, trees.leaves(state0), stacked_in, length=T, unroll=how.unroll)
            steps.stacked.known.update(zip(emitted, found))
            ys = steps.stacked[rule.y] if rule.y in moving else jnp.broadcast_to(constant[rule.y], (T, *constant[rule.y].shape))
        state_T = trees.structure(state0).unflatten(last)
        if how.kept == "states":
            stacked = {v: steps.stacked.known[v] for v in {*given, *emitted}}
        else:
            stacked = {v: a for v, a in steps.stacked.known.items() if v in moving}
        return ys, state_T, TracedTape(rule, params, state0, stacked)

    def backward(self, tape, d_ys, d_state_T):
        how = FORMS[self.form]
        rule, graph = tape.rule, tape.rule.graph
        T, dtype = d_ys.shape[0], d_ys.dtype
        floats = [is_float(leaf) for leaf in trees.leaves(tape.like)]
        last = [d if f else jnp.zeros(leaf.shape, dtype) for leaf, d, f in zip(trees.leaves(tape.like), trees.leaves(trees.map_leaves(lambda _, d: d, tape.like, d_state_T)), floats)]
        with enable_x64():
            constant = Values(graph, dict(zip(rule.params, trees.leaves(tape.params))), apply)
            moving = graph.depending([*rule.state, *rule.x, *rule.d_new, rule.d_y])
            known = {**tape.stacked, rule.d_y: d_ys}
            steps = Steps(graph, constant, moving, known, T)
            carried_in = set(rule.d_new)
            depends = graph.depending(rule.d_new)
            inside = depends if how.hoisted else moving
            targets = list(rule.d_previous) + ([] if how.deferred else [*rule.d_params, rule.d_x])
            looped = {v for v in graph.reached(targets, lambda v: v not in inside or v in known) if v in inside and v not in known}
            fed = _fed(graph, looped, carried_in, moving) | {v for v in targets if v not in looped}
            stacked_in = {v: steps.stacked[v] for v in fed if v in moving}
            for v in fed:
                if v not in moving:
                    constant[v]
            after = [*rule.d_params, rule.d_x] if how.deferred else [rule.d_x]
            stop = lambda v: v in looped or v in carried_in or v not in depends
            emitted = sorted(v for v in graph.reached(after, stop) if v in looped or v in carried_in)
            summed = [] if how.deferred else rule.d_params
            zeros = [jnp.zeros(p.shape, p.dtype) for p in trees.leaves(tape.params)] if summed else []

            def body(state, given):
                carried, totals = state
                values = Values(graph, {**dict(zip(rule.d_new, carried)), **given}, apply, constant, moving)
                totals = [a + values[v] for a, v in zip(totals, summed)]
                return ([values[v] for v in rule.d_previous], totals), [values[v] for v in emitted]

            (d_state0, totals), found = lax.scan(body, (last, zeros), stacked_in, length=T, reverse=True, unroll=how.unroll)
            steps.stacked.known.update(zip(emitted, found))
            d_params = totals if summed else [steps.total(v) for v in rule.d_params]
            d_xs = steps.stacked[rule.d_x]
        d_state0 = [d if f else np.zeros(d.shape, jax.dtypes.float0) for d, f in zip(d_state0, floats)]
        return (trees.structure(tape.params).unflatten(d_params), d_xs, trees.structure(tape.like).unflatten(d_state0))

    def _traced(self, params, xs, state0, mask):
        def shape(leaf, drop=0):
            return jax.ShapeDtypeStruct(leaf.shape[drop:], leaf.dtype)
        p, s = (trees.map_leaves(shape, one) for one in (params, state0))
        x = shape(xs, 1)
        real = None if mask is None else shape(mask, 1)
        d_new = trees.map_leaves(lambda l: jax.ShapeDtypeStruct(l.shape, l.dtype if is_float(l) else xs.dtype), state0)
        y = jax.eval_shape(lift(lambda p, s, x: self.cell.step(p, s, x)[1]), p, s, x)
        d_y = jax.ShapeDtypeStruct(y.shape, xs.dtype)
        flat = [*trees.leaves(p), *trees.leaves(s), x, *([] if mask is None else [real]), *trees.leaves(d_new), d_y]
        both = lift(self._both)
        P, S = trees.structure(params), trees.structure(state0)

        def joint(*flat):
            rest = iter(flat)
            params = P.unflatten([next(rest) for _ in range(P.size)])
            state = S.unflatten([next(rest) for _ in range(S.size)])
            x = next(rest)
            real = None if mask is None else next(rest)
            d_state = S.unflatten([next(rest) for _ in range(S.size)])
            d_y = next(rest)
            d_new = _real(real, d_state)
            new, y, (d_params, d_previous, d_x) = both(params, state, x, d_new, _real(real, d_y))
            d_params = trees.map_leaves(_gradient_like, params, d_params)
            d_previous = _like(d_state, trees.map_leaves(_gradient_like, d_new, d_previous), real)
            y = _real(real, y)
            return [*trees.leaves(_like(state, new, real)), y.astype(x.dtype), *trees.leaves(d_params), *trees.leaves(d_previous), _real(real, jnp.asarray(d_x).astype(x.dtype))]

        graph = Graph(jax.make_jaxpr(joint)(*flat))
        i, o = iter(graph.inputs), iter(graph.outputs)
        def take(it, n): return [next(it) for _ in range(n)]
        return Rule(graph, take(i, P.size), take(i, S.size), take(i, 1 + (mask is not None)), take(i, S.size), next(i),
                    take(o, S.size), next(o), take(o, P.size), take(o, S.size), next(o))

    def _both(self, params, state, x, d_state, d_y):
        new, y, cache = self.cell.step(params, state, x)
        return new, y, self.cell.step_vjp(params, cache, d_state, d_y)


def _fed(graph, looped, carried, moving):
    return {i for v in looped if v not in carried and v in graph.makers for i in graph.makers[v].inputs if i not in looped and i not in carried}


def _expensive(graph, v):
    m = graph.makers.get(v)
    return m is not None and m.primitive.name in ("dot_general", "conv_general_dilated", "scan", "while", "lu", "triangular_solve", "cholesky", "custom_linear_solve", "eigh", "qr", "svd")


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
