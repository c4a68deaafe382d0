"""One subject under test: its hand-written code, its oracles and its compiled programs.

A :class:`Run` answers three questions about a problem: what the hand-written code says, what JAX
says with noisy copies beside it, and what finite differences say along a direction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck import trees
from bpttcheck.blocks import (
    D_X,
    D_XS,
    YS,
    Block,
    Y,
    d_previous_state,
    d_state0,
    new_state,
    of_params,
    of_state,
    state_T,
)
from bpttcheck.contract import is_float
from bpttcheck.errors import ContractError, Declined, InternalError, OutsideDomain
from bpttcheck.judge.verdict import rounding
from bpttcheck.oracles.autodiff.autodiff import Autodiff, Point, Spread, Untied
from bpttcheck.oracles.differences.finite_difference import finite_difference
from bpttcheck.oracles.estimate import Estimate
from bpttcheck.oracles.step_graph.paths import Paths
from bpttcheck.problems import large, preconditions
from bpttcheck.problems.leaves import Leaves
from bpttcheck.problems.problem import (
    FEW,
    Problem,
    Seeded,
    Template,
    build,
    draw_case,
    generator,
    scheduled_dtype,
    scheduled_regime,
    templates,
)
from bpttcheck.problems.values import FREEDOMS, NATURAL, SCALED_PARAMETERS
from bpttcheck.results.records import Case, Finding
from bpttcheck.subject.filled import unfilled
from bpttcheck.subject.source import LineCoverage
from bpttcheck.subject.subject import Subject
from bpttcheck.subject.surrogate import surrogate_forward
from bpttcheck.subject.user_code import Notes, call

Array = NDArray[Any]

STEP, SEQUENCE = "step", "sequence"

# The longest sequence of a foreign layer that is run from each of its steps on.
_SUFFIXES = 40

# Searches for the operation at fault in one run.
_SEARCHES = 3

# Declared widths that are compiled; the others are judged without a program.
_COMPILED_SIZES = 8
# Cases of one regime that the subject could not live with, after which values stay closer.
_LESSONS = 2

_NAMES = {
    SEQUENCE: (d_state0(), D_XS, YS, state_T()),
    STEP: (d_previous_state(), D_X, Y, new_state()),
}


@dataclass(frozen=True)
class Hand:
    """What the hand-written code says about one problem.

    Args:
        forward: outputs by name: ``ys`` and the leaves of the final state.
        gradients: gradients by block name.
    """

    forward: Mapping[str, Array]
    gradients: Mapping[str, Array]


@dataclass(frozen=True)
class Reference:
    """The same from JAX: every value with its noisy copies."""

    forward: Mapping[str, Spread]
    gradients: Mapping[str, Spread]


class Run:
    """A subject, its oracles, and the case sequence of one seed.

    Args:
        subject: what is under test.
        seed: seed of the case sequence.
        dtypes: the dtypes to check.
    """

    def __init__(self, subject: Subject, seed: int, dtypes: Sequence[str]) -> None:
        self.seed = seed
        self.notes = Notes()
        for name in subject.traits.ignored:
            self.notes.add(f"`{name}` is not what the trait of that name is: it was left alone")
        self.refusals: list[Finding] = []
        self.absent: set[str] = set()
        self.subject = subject
        self.dtypes = tuple(dtypes)
        declared = _collect_sizes(subject.sizes, seed)
        self._find_preconditions(declared)
        subject = self.subject
        self.sizes = declared and declared[:_COMPILED_SIZES]
        self.templates = templates(seed, self.sizes, subject.lengths, subject.batches)
        self.declared_sizes = declared
        self.declined = ""
        self.tamed: Counter[tuple[str, str]] = Counter()
        self.untried: list[Case] = []
        self.remarks: list[Finding] = []
        self.judged: dict[str, list[Case]] = {}
        self.lines = LineCoverage(unfilled(self.subject.target))
        self._layer = subject.layer
        # The names of the subject's forward and backward methods, asked for in every case.
        self.methods = _methods(subject)
        self._autodiff = self._reference()
        self._preparing: dict[Template, Future[None]] = {}
        self._memo: dict[Any, Any] | None = None
        self._departure, self._searches = "", 0

    def _find_preconditions(self, declared: Sequence[tuple[int, int]] | None) -> None:
        """Keep out of the cases what the subject refuses, and say so."""
        found = preconditions.find(self.subject, self.dtypes, (declared or ((3, 4),))[0], self.seed)
        self.subject, self.dtypes = found.subject, found.dtypes
        self.refusals, self.absent = found.remarks, set(found.absent)

    def fork(self, subject: Subject) -> Run:
        """A run of another subject with the same forward pass, which shares what JAX says.

        For planted bugs: a hundred of them need the programs and gradients of one reference.

        Args:
            subject: a subject whose forward pass and reference are those of this run's.
        """
        other = Run.__new__(Run)
        other.__dict__.update(self.__dict__)
        other.tamed, other.untried, other.remarks, other.judged = Counter(), [], [], {}
        if self._memo is None:
            self._memo = other._memo = {}
        other.subject, other._layer, other.notes = subject, subject.layer, Notes()
        other.methods = _methods(subject)
        return other

    def for_call(self, name: str) -> Run:
        """The same run for another call: programs are shared, notes and counts are its own."""
        other = Run.__new__(Run)
        other.__dict__.update(self.__dict__)
        other.notes, other.subject = Notes(), replace(self.subject, name=name)
        other.tamed, other.untried, other.remarks, other.judged = Counter(), [], [], {}
        other.lines = LineCoverage(unfilled(self.subject.target))
        return other

    def unreached(self) -> tuple[str, ...]:
        """Lines of the backward pass that no judged case ran, and what guards them."""
        return tuple(map(str, self.lines.unreached())) if self.lines.available else ()

    def remember(self, key: Any, problem: Problem, make: Callable[[], Any]) -> Any:
        """``make()``, kept for the forks of this run if it is a function of the problem's case."""
        if self._memo is None or not problem.original:
            return make()
        known = (key, problem.case)
        if known not in self._memo:
            self._memo[known] = make()
        return self._memo[known]

    @property
    def layer(self) -> Any:
        """The subject as a layer."""
        return self._layer

    @property
    def has_jax(self) -> bool:
        """True if there is something that JAX could differentiate."""
        return self._autodiff is not None

    @property
    def compilations(self) -> int:
        """XLA programs compiled so far."""
        return self._autodiff.compilations if self._autodiff else 0

    def _reference(self) -> Autodiff | None:
        of_its_own = self._sequence_or_surrogate()
        if of_its_own is not None:
            return of_its_own
        found = self.subject.reference_step
        if found is None:
            self.declined = (
                "a layer without `reference=` or `sequence`: finite differences decide alone"
            )
            return None
        kind, step = found
        if kind == "numpy":
            from bpttcheck.oracles.tracer.trace import lift

            step = lift(step)
        return Autodiff(step)

    def _sequence_or_surrogate(self) -> Autodiff | None:
        """For what is no single loop, or declares of what its backward pass is the gradient."""
        from bpttcheck.oracles.tracer.lax_engine import LaxEngine
        from bpttcheck.oracles.tracer.trace import lift

        sequence, surrogate = self.subject.reference_sequence, self.subject.surrogate_step
        engine = LaxEngine()
        if sequence is not None:
            return Autodiff(None, lift(lambda p, xs, s, mask: sequence(engine, p, xs, s, mask)))
        if surrogate is not None:
            return Autodiff(lift(lambda p, s, x: surrogate(engine.freeze, p, s, x)))
        return None

    def prepare(self, examples: int) -> None:
        """Trace the programs of the first cases here, and compile them side by side in threads.

        Tracing runs the user's code, which must not run in two threads at once; compiling does not.
        """
        if self._autodiff is None or self.subject.traits.fixed_sizes:
            return
        needed = dict.fromkeys(self.template(index) for index in range(examples))
        pool = ThreadPoolExecutor(2, thread_name_prefix="bpttcheck-compile")
        for template in needed:
            if template not in self._preparing:
                compiling = self._traced(template)
                if compiling is not None:
                    self._preparing[template] = pool.submit(compiling)
        pool.shutdown(wait=False)

    def _traced(self, template: Template) -> Callable[[], None] | None:
        """What compiles the program of a template; None: said again when the template is used."""
        assert self._autodiff is not None
        case = Case(self.seed, 0, template.T, template.B, template.n_in, template.n_hidden,
                    self.dtypes[0], "none", "ordinary")  # fmt: skip
        try:
            return self._autodiff.lower(self._point(self.problem(case)), _pad(template))
        except (Declined, ContractError, InternalError):
            return None

    def template(self, index: int) -> Template:
        """The template of case ``index``: the long one for long cases, else one of the others.

        The first round of cases shares two, of sizes that differ pairwise, one of them unpadded: a
        short run then compiles three programs rather than five.
        """
        if scheduled_regime(index) == "long":
            return self._exact(self.templates[-1])
        few = index < FEW or self.subject.traits.fixed_sizes
        short = self.templates[2:-1] if few else self.templates[:-1]
        return self._exact(short[int(generator(self.seed, index, 1).integers(len(short)))])

    def _exact(self, template: Template) -> Template:
        """Where every new shape is dear, or T decides, T and B are always the template's own."""
        exact = self.subject.traits.fixed_sizes or self.subject.traits.exact_length
        return replace(template, exact=True) if exact else template

    def case(self, index: int, *, free: bool = False, steps: int | None = None) -> Case:
        """The structure of case ``index``.

        Args:
            index: its number.
            free: draw any size, not only one that fits a template.
            steps: exact T, or None.
        """
        regime, dtype = scheduled_regime(index), scheduled_dtype(index, self.dtypes)
        fixed = free and not self.subject.traits.fixed_sizes
        case = draw_case(
            Seeded(generator(self.seed, index, 2)),
            regime=regime,
            dtype=dtype,
            sizes=self.sizes,
            template=None if fixed else self.template(index),
            masks=self.subject.masks if self.subject.supports_mask else False,
            lengths=self.subject.lengths,
            batches=self.subject.batches,
            seed=self.seed,
            index=index,
        )
        if steps is None:
            return case
        return Case(
            self.seed, index, steps, case.B, case.n_in, case.n_hidden, dtype, "none", regime
        )

    @cached_property
    def plan(self) -> large.LargerSizes:
        """Sizes beyond those of the schedule, judged without a program."""
        return large.plan(self.subject, self.seed, self.dtypes, self.declared_sizes,
                          self.sizes or ())  # fmt: skip

    def problem(self, case: Case, stream: int = 0) -> Problem:
        """The case with values that the subject can live with.

        Values are drawn freely. Where its forward pass then raises, or is not finite, the state is
        one that a sequence reaches, and at last the parameters are the subject's own too.

        Raises:
            OutsideDomain: its forward pass raises there, but not for ordinary values.
            ContractError: it raises for ordinary values, too.
        """
        first: Problem | ContractError | None = None
        least = next((f for f in FREEDOMS if self.tamed[case.regime, f] < _LESSONS), FREEDOMS[-1])
        for freedom in FREEDOMS[FREEDOMS.index(least) :]:
            if freedom == NATURAL and case.regime in SCALED_PARAMETERS:
                break
            found = self._lives(case, stream, freedom)
            if isinstance(found, Problem) and self._finite:
                for tighter in FREEDOMS[: FREEDOMS.index(freedom)]:
                    self.tamed[case.regime, tighter] += 1
                return found
            first = found if first is None else first
        if isinstance(first, Problem):
            return first
        assert first is not None
        ordinary = replace(case, regime="ordinary", mask="none")
        if isinstance(self._lives(ordinary, stream, NATURAL), Problem):
            raise OutsideDomain(str(first), method=first.method, item=first.item) from first
        raise first

    def _lives(self, case: Case, stream: int, freedom: str) -> Problem | ContractError:
        """The problem, or what its forward pass raises; ``_finite`` tells what became of it."""
        self._finite = False
        try:
            problem = build(self.subject, case, stream, freedom)
            mask = () if problem.mask is None else (problem.mask,)
            args = (problem.params, problem.xs, problem.state0, *mask)
            ys, state, _ = call(self.methods[0], self._layer.forward, *args)
        except ContractError as error:
            return error
        leaves = (ys, *(leaf for leaf in trees.leaves(state) if is_float(leaf)))
        self._finite = all(bool(np.isfinite(leaf).all()) for leaf in leaves)
        return problem

    def hand(self, mode: str, problem: Problem) -> Hand:
        """Run the hand-written code forward and backward.

        Raises:
            ContractError: if it fails.
        """
        state_name, x_name, y_name, new_name = _NAMES[mode]
        if mode == STEP:
            cell = self.subject.target
            state, ys, cache = call(
                "step", cell.step, problem.params, problem.state0, problem.xs[0], notes=self.notes
            )
            with self.lines.recording():
                d_params, d_state0, d_xs = call(
                    "step_vjp", cell.step_vjp, problem.params, cache, problem.d_state,
                    problem.d_ys[0], notes=self.notes,
                )  # fmt: skip
        else:
            d_params, d_xs, d_state0, ys, state = self.run_layer(problem)
        blocks = _params_blocks(d_params, problem.params)
        blocks.update(of_state(state_name, d_state0, problem.state0))
        blocks[x_name] = np.asarray(d_xs)
        forward: dict[str, Array] = {y_name: np.asarray(ys)}
        forward.update(of_state(new_name, state, problem.state0))
        self._require_shapes(mode, problem, blocks)
        return Hand(forward, {b: g for b, g in blocks.items() if not self.is_absent(b)})

    def methods_of(self, check: str) -> tuple[str, str]:
        """The subject's forward and backward methods that a check speaks of."""
        return ("step", "step_vjp") if check == "step_vjp" else self.methods

    def is_absent(self, block: str) -> bool:
        """True if the subject returns None for this block, in a step or in a sequence."""
        return bool(self.absent) and Block(block).in_sequence in self.absent

    def _require_shapes(self, mode: str, problem: Problem, blocks: Mapping[str, Any]) -> None:
        """A shape that is wrong at this size only would otherwise be broadcast."""
        state_name, x_name, _, _ = _NAMES[mode]
        wanted = _params_blocks(problem.params, problem.params)
        wanted.update(of_state(state_name, problem.state0, problem.state0))
        wanted[x_name] = problem.xs[0] if mode == STEP else problem.xs
        for name, like in wanted.items():
            if np.shape(blocks[name]) != np.shape(like):
                method = self.methods_of("step_vjp" if mode == STEP else "")[1]
                raise ContractError(
                    f"{method}: {name}.shape={np.shape(blocks[name])}, but should be "
                    f"{np.shape(like)} [{problem.case}]",
                    method=method,
                    item=name,
                )

    def run_layer(self, problem: Problem) -> tuple[Any, Array, Any, Array, Any]:
        """The whole-sequence form: ``(d_params, d_xs, d_state0, ys, state_T)``."""
        step, step_vjp = self.methods
        layer, args = self._layer, (problem.params, problem.xs, problem.state0)
        mask = () if problem.mask is None else (problem.mask,)
        with self.lines.recording():  # a tape of closures is made by the forward pass
            ys, state, tape = call(step, layer.forward, *args, *mask, notes=self.notes)
            d_params, d_xs, d_state0 = call(
                step_vjp, layer.vjp, problem.params, tape, problem.d_ys, problem.d_state,
                notes=self.notes,
            )  # fmt: skip
        return d_params, d_xs, d_state0, ys, state

    def jax(
        self,
        mode: str,
        problem: Problem,
        template: Template | None,
        patterns: Sequence[int] | None = None,
    ) -> Reference:
        """What JAX says, with noisy copies.

        Args:
            mode: ``STEP`` or ``SEQUENCE``.
            problem: the point.
            template: the compiled shape to use; None: the problem's own.
            patterns: how each copy decides its free branches; None: each by itself.

        Raises:
            Declined: if there is no reference, or JAX cannot trace it.
        """
        autodiff = self._jax()
        waiting = self._preparing.get(template) if template else None
        if waiting is not None:
            waiting.result()
        unit, _ = rounding(problem.dtype)
        # Only an unchanged case of the schedule is a function of its structure.
        known = self._memo if problem.original and patterns is None else None
        key = (mode == STEP, problem.case, template)
        if known is not None and key in known:
            return known[key]
        found = autodiff.gradients(
            self._point(problem), unit, problem.case.index & 0xFFFF, _pad(template), patterns
        )
        state_name, x_name, y_name, new_name = _NAMES[mode]
        blocks = _params_blocks(found.d_params, problem.params)
        blocks.update(of_state(state_name, found.d_state0, problem.state0))
        first = (lambda s: Spread(s.value[0], s.copies[:, 0])) if mode == STEP else (lambda s: s)
        blocks[x_name] = first(found.d_xs)
        blocks = {name: g for name, g in blocks.items() if not self.is_absent(name)}
        forward: dict[str, Spread] = {y_name: first(found.ys)}
        forward.update(of_state(new_name, found.state_T, problem.state0))
        reference = Reference(forward, blocks)
        if known is not None:
            known[key] = reference
        return reference

    def jax_forward_mode(
        self, problem: Problem, along: Mapping[str, Array], template: Template | None
    ) -> Estimate:
        """JAX's forward-mode derivative of the loss along a direction."""
        assert self._autodiff is not None
        moved = Leaves(problem).direction(along)
        zero = self._point(problem)
        direction = Point(
            moved[0], moved[1], moved[2], zero.mask, np.zeros_like(zero.d_ys), zero.d_state
        )
        unit, _ = rounding(problem.dtype)
        return self._autodiff.directional(zero, direction, unit, 1, _pad(template))

    def adjoints(self, problem: Problem) -> tuple[list[Any], Any] | None:
        """The adjoint of every state, hand-derived and JAX's; None where either is missing."""
        if self._autodiff is None:
            return None
        mine = self._own_adjoints(problem)
        return None if mine is None else (mine, self.untied(problem).d_states)

    def _own_adjoints(self, problem: Problem) -> list[Any] | None:
        """dL/dstate_t for t = 0 .. T: of a foreign layer, ``d_state0`` of calls on suffixes."""
        layer: Any = self._layer
        mask = () if problem.mask is None else (problem.mask,)
        if hasattr(layer, "adjoints"):
            args = (problem.params, problem.xs, problem.state0, *mask)
            _, _, tape = call("step", layer.forward, *args)
            return call(
                "step_vjp", layer.adjoints, problem.params, tape, problem.d_ys, problem.d_state
            )
        T, subject = len(problem.xs), self.subject
        if T > _SUFFIXES or not (subject.traits.causal and subject.traits.splits_in_time):
            return None
        found: list[Any] = []
        for t in range(T):
            state = problem.state0
            if t:
                args = (problem.params, problem.xs[:t], state, *(m[:t] for m in mask))
                _, state, _ = call("forward", layer.forward, *args)
            rest = (problem.params, problem.xs[t:], state, *(m[t:] for m in mask))
            _, _, tape = call("forward", layer.forward, *rest)
            cotangents = (problem.d_ys[t:], problem.d_state)
            found.append(call("vjp", layer.vjp, problem.params, tape, *cotangents)[2])
        return [*found, problem.d_state]

    def untied(self, problem: Problem, template: Template | None = None) -> Untied:
        """JAX's per-step parameter terms and adjoints.

        Raises:
            Declined: if JAX does not judge this subject.
        """
        return self._jax().untied(self._point(problem), _pad(template))

    def carried(self, problem: Problem, template: Template | None, keep: Array) -> dict[str, Array]:
        """JAX's gradient with the carry into step t times ``keep[t]``, by block.

        Raises:
            Declined: if JAX does not judge this subject.
        """
        found = self._jax().carried(self._point(problem), keep, _pad(template))
        blocks = _params_blocks(found[0], problem.params)
        blocks.update(of_state(d_state0(), found[1], problem.state0))
        blocks[D_XS] = found[2]
        return blocks

    def paths(self, problem: Problem) -> Paths:
        """The first step as a graph whose paths can be changed one by one.

        Raises:
            Declined: if JAX does not judge this subject.
        """
        return self._jax().paths(self._point(problem))

    def _jax(self) -> Autodiff:
        if self._autodiff is None:
            raise Declined(self.declined)
        return self._autodiff

    def departure(self, mode: str, problem: Problem) -> str:
        """Where the traced forward pass first leaves the native one, or ``""`` if unknown.

        Each search costs JAX memory that is never freed, so there are few.
        """
        found = self.subject.reference_step
        searched = self._departure or self._searches >= _SEARCHES
        if searched or found is None or found[0] != "numpy":
            return self._departure
        from bpttcheck.oracles.tracer.divergence import first_departure

        self._searches += 1
        xs = problem.xs[:1] if mode == STEP else problem.xs
        operation = first_departure(found[1], problem.params, problem.state0, xs)
        self._departure = str(operation or "")
        return self._departure

    def difference(
        self, problem: Problem, along: Mapping[str, Array], enough: float = 0.0
    ) -> Estimate:
        """The derivative of the loss along a direction, from the forward pass alone.

        Args:
            problem: the point.
            along: block name -> direction; blocks left out are not moved.
            enough: a relative bar at which to stop; 0: as narrow as it gets.
        """
        leaves = Leaves(problem)
        point, direction, weights = leaves.difference_arguments(along)
        forward = surrogate_forward(self.subject) or self.layer.forward
        function = leaves.function(self.methods[0], forward)
        return finite_difference(function, point, direction, weights, enough=enough)

    def _point(self, problem: Problem) -> Point:
        return Point(
            problem.params, problem.state0, problem.xs, problem.real, problem.d_ys, problem.d_state
        )


def _params_blocks(gradients: Any, params: Any) -> dict[str, Any]:
    missing = [key for key in params if key not in gradients]
    if missing:
        raise ContractError(
            f"d_params lacks {missing[0]!r}, but should have the keys of params", item="d_params"
        )
    return of_params(gradients, params)


def _methods(subject: Subject) -> tuple[str, str]:
    return ("step", "step_vjp") if subject.kind == "cell" else ("forward", "vjp")


def _pad(template: Template | None) -> tuple[int, int] | None:
    return None if template is None else (template.T, template.B)


def _collect_sizes(strategy: Any, seed: int) -> tuple[tuple[int, int], ...] | None:
    """Distinct ``(n_in, n_hidden)`` drawn from a Hypothesis strategy, small ones first."""
    if strategy is None:
        return None
    from bpttcheck.problems.sizes import collect

    return collect(strategy, seed)
