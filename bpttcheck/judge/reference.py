"""JAX, or torch, as an oracle: gradients of one subject with noisy copies, by names of blocks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.blocks import D_XS, YS, d_param, d_state0, of_state
from bpttcheck.calibration import BLOCK_FLOOR, COPIES, LIMIT
from bpttcheck.contract import is_float
from bpttcheck.errors import ContractError, Declined, InternalError
from bpttcheck.judge.handwritten import NAMES, STEP, HandWritten, params_blocks
from bpttcheck.judge.oracle import Reference
from bpttcheck.judge.verdict import rounding
from bpttcheck.oracles import torch_autodiff
from bpttcheck.oracles.autodiff.autodiff import Autodiff, Point, Spread, Untied
from bpttcheck.oracles.autodiff.programs import WholeSequence
from bpttcheck.oracles.estimate import Estimate
from bpttcheck.oracles.step_graph.paths import Paths
from bpttcheck.oracles.step_graph.whole import Pullback, WholeGraph
from bpttcheck.problems.cases import Cases
from bpttcheck.problems.leaves import Leaves
from bpttcheck.problems.problem import Problem, Template
from bpttcheck.results.records import Case

Array = NDArray[Any]

# Steps of a loop that JAX unrolls, beyond which compiling it would take too long.
MOST_TRACED = 12
# Searches for the operation at fault in one run.
_SEARCHES = 3


class JaxReference:
    """What JAX differentiates for a subject, its compiled programs, and what it said.

    Args:
        code: the hand-written side, whose subject it judges and whose absent blocks are left out.
    """

    name = "jax"
    title = "JAX"
    relevant = True

    def __init__(self, code: HandWritten) -> None:
        self.subject, self._code = code.subject, code
        self.declined = ""
        self._autodiff = self._reference()
        self._masked = self._traced_with_masks()
        self._preparing: dict[Template, Future[None]] = {}
        self._memo: dict[Any, Any] | None = None
        self._departure, self._searches = "", 0

    def shared(self, code: HandWritten) -> JaxReference:
        """The same for a planted bug: what is a function of a case is remembered, for all of them.

        A hundred of them need the programs and gradients of one reference.

        Args:
            code: the planted bug, with the forward pass and the absent blocks of this one's.
        """
        if self._memo is None:
            self._memo = {}
        return copy.copy(self)

    def remember(self, key: Any, problem: Problem, make: Callable[[], Any]) -> Any:
        """``make()``, remembered where somebody shares it and the case alone decides it."""
        if self._memo is None or not problem.original:
            return make()
        known = (key, problem.case)
        if known not in self._memo:
            self._memo[known] = make()
        return self._memo[known]

    @property
    def available(self) -> bool:
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

        outputs = self.subject.traits.jax_reference
        if outputs is not None:
            return Autodiff(None, _in_one_row(outputs))
        sequence, surrogate = self.subject.reference_sequence, self.subject.surrogate_step
        engine = LaxEngine()
        if sequence is not None:
            return Autodiff(None, lift(lambda p, xs, s, mask: sequence(engine, p, xs, s, mask)))
        if surrogate is not None:
            return Autodiff(lift(lambda p, s, x: surrogate(engine.freeze, p, s, x)))
        if self.subject.traced_whole:
            forward: Any = self.subject.layer.forward
            return Autodiff(None, lift(lambda p, xs, s, mask: forward(p, xs, s)[:2]))
        return None

    def _traced_with_masks(self) -> Autodiff | None:
        """The forward pass of a layer that is traced whole, given a mask: other code may run."""
        if not self.subject.traced_whole or not self.subject.supports_mask:
            return None
        from bpttcheck.oracles.tracer.trace import lift

        forward: Any = self.subject.layer.forward
        return Autodiff(None, lift(lambda p, xs, s, mask: forward(p, xs, s, mask)[:2]))

    def _of(self, problem: Problem) -> Autodiff:
        if problem.mask is not None and self._masked is not None:
            return self._masked
        return self._jax()

    def prepare(self, cases: Cases, examples: int) -> None:
        """Trace the programs of the first cases here, and compile them side by side in threads.

        Tracing runs the user's code, which must not run in two threads at once; compiling does not.
        """
        if self._autodiff is None or self.subject.traits.fixed_sizes:
            return
        used = [i for i in range(examples) if not cases.scheduled(i, False).free]
        needed = dict.fromkeys(cases.template(i) for i in used or range(examples))
        pool = ThreadPoolExecutor(2, thread_name_prefix="bpttcheck-compile")
        for template in needed:
            if template not in self._preparing:
                compiling = self._traced(cases, template)
                if compiling is not None:
                    self._preparing[template] = pool.submit(compiling)
        pool.shutdown(wait=False)

    def _traced(self, cases: Cases, template: Template) -> Callable[[], None] | None:
        """What compiles the program of a template; None: said again when the template is used."""
        assert self._autodiff is not None
        case = Case(cases.seed, 0, template.T, template.B, template.n_in, template.n_hidden,
                    cases.dtypes[0], "none", "ordinary")  # fmt: skip
        try:
            return self._autodiff.lower(_point(cases.problem(case)), self._pad(template))
        except (Declined, ContractError, InternalError):
            return None

    def gradient(
        self,
        mode: str,
        problem: Problem,
        template: Template | None = None,
        patterns: Sequence[int] | None = None,
    ) -> Reference:
        """What JAX says of the blocks that the code returns, with noisy copies.

        Args:
            mode: ``STEP`` or ``SEQUENCE``.
            problem: the point.
            template: the compiled shape to use; None: the problem's own.
            patterns: how each copy decides its free branches; None: each by itself.

        Raises:
            Declined: if there is no reference, or JAX cannot trace it.
        """
        autodiff = self._of(problem)
        if self.subject.traced_whole and problem.case.T > MOST_TRACED:
            raise Declined(f"traced whole: sequences of more than {MOST_TRACED} steps are left out")
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
            _point(problem), unit, problem.case.index & 0xFFFF, self._pad(template), patterns
        )
        state_name, x_name, y_name, new_name = NAMES[mode]
        blocks = params_blocks(found.d_params, problem.params)
        blocks.update(of_state(state_name, found.d_state0, problem.state0))
        first = (lambda s: Spread(s.value[0], s.copies[:, 0])) if mode == STEP else (lambda s: s)
        blocks[x_name] = first(found.d_xs)
        blocks = {name: g for name, g in blocks.items() if not self._code.is_absent(name)}
        forward: dict[str, Spread] = {y_name: first(found.ys)}
        forward.update(of_state(new_name, found.state_T, problem.state0))
        reference = Reference(forward, blocks)
        if known is not None:
            known[key] = reference
        return reference

    def directional(
        self,
        problem: Problem,
        along: Mapping[str, Array],
        template: Template | None = None,
        enough: float = 0.0,
    ) -> Estimate:
        """JAX's forward-mode derivative of the loss along a direction.

        Args:
            problem: the point.
            along: block name -> direction; blocks left out are not moved.
            template: the compiled shape to use; None: the problem's own.
            enough: not used: its bar is as narrow as it gets.

        Raises:
            Declined: if there is no reference, or JAX cannot trace it.
        """
        autodiff = self._of(problem)
        moved = Leaves(problem).direction(along)
        zero = _point(problem)
        direction = Point(
            moved[0], moved[1], moved[2], zero.mask, np.zeros_like(zero.d_ys), zero.d_state
        )
        unit, _ = rounding(problem.dtype)
        return autodiff.directional(zero, direction, unit, 1, self._pad(template))

    def hull(
        self, mode: str, problem: Problem, template: Template | None, block: str
    ) -> tuple[Array, Array]:
        """How small and how large every entry of a block may be at a kink.

        Real code decides a branch the same way everywhere, so the copies go through the consistent
        decisions. A slope between the two sides may leave their hull, by less than its width.

        Raises:
            Declined: if JAX does not judge this subject.
        """
        rng = np.random.default_rng(problem.case.seed)
        patterns = np.concatenate([np.arange(32), rng.integers(0, 2**15, 32)]).reshape(-1, COPIES)
        unit, tiny = rounding(problem.dtype)
        runs = [self.gradient(mode, problem, template)]
        runs += [self.gradient(mode, problem, template, [int(p) for p in row]) for row in patterns]
        value = runs[0].gradients[block].value
        copies = np.concatenate([one.gradients[block].copies for one in runs])
        low, high = np.minimum(value, copies.min(axis=0)), np.maximum(value, copies.max(axis=0))
        room = high - low
        room = room / 2 + BLOCK_FLOOR * room.max(initial=0.0)
        room = room + LIMIT * (unit * np.abs(value) + tiny)
        return low - room, high + room

    def untied(self, problem: Problem, template: Template | None = None) -> Untied:
        """JAX's per-step parameter terms and adjoints.

        Raises:
            Declined: if JAX does not judge this subject.
        """
        return self._jax().untied(_point(problem), self._pad(template))

    def carried(self, problem: Problem, template: Template | None, keep: Array) -> dict[str, Array]:
        """JAX's gradient with the carry into step t times ``keep[t]``, by block.

        Raises:
            Declined: if JAX does not judge this subject.
        """
        found = self._jax().carried(_point(problem), keep, self._pad(template))
        blocks = params_blocks(found[0], problem.params)
        blocks.update(of_state(d_state0(), found[1], problem.state0))
        blocks[D_XS] = found[2]
        return blocks

    def paths(self, problem: Problem) -> Paths:
        """The first step as a graph whose paths can be changed one by one.

        Raises:
            Declined: if JAX does not judge this subject.
        """
        return self._jax().paths(_point(problem))

    def whole(self, problem: Problem) -> tuple[WholeGraph, Pullback]:
        """The whole sequence as a graph, and its backward pass, to be changed at will.

        Raises:
            Declined: if JAX does not judge this subject, or the sequence has masked steps.
        """
        if problem.mask is not None or problem.case.T > MOST_TRACED:
            raise Declined("paths are followed in short sequences without a mask alone")
        graph = self._jax().whole(_point(problem))
        p = problem
        return graph, graph.at(p.params, p.state0, p.xs, p.d_state, p.d_ys)

    def _pad(self, template: Template | None) -> tuple[int, int] | None:
        """The room for T and B; a function is traced at its own sizes."""
        if template is None or self.subject.traits.signature is not None:
            return None
        return template.T, template.B

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


def _in_one_row(outputs: Callable[[Any], list[Any]]) -> WholeSequence:
    """JAX code of a function as the layer of one step that a function is."""

    def sequence(params: Any, xs: Any, state0: Any, mask: Any) -> tuple[Any, Any]:
        import jax.numpy as jnp

        flat = [jnp.ravel(one).astype(np.float64) for one in outputs(params)]
        return jnp.concatenate(flat).reshape(1, 1, -1), state0

    return sequence


def _point(problem: Problem) -> Point:
    return Point(
        problem.params, problem.state0, problem.xs, problem.real, problem.d_ys, problem.d_state
    )


class TorchReference:
    """What torch differentiates for a subject that has the trait ``torch_reference``.

    Args:
        code: the hand-written side.
    """

    name = "torch"
    title = "torch"

    def __init__(self, code: HandWritten) -> None:
        self._code = code
        self._function = code.subject.traits.torch_reference
        self.relevant = self._function is not None
        self.declined = "" if self._function else "no torch function was given to compare with"

    def shared(self, code: HandWritten) -> TorchReference:
        """The same for other code."""
        return TorchReference(code)

    def gradient(self, mode: str, problem: Problem, template: Template | None = None) -> Reference:
        """The gradient of every input that the code returns, with noisy copies.

        Args:
            mode: not used: a function has one.
            problem: the point.
            template: not used: nothing is compiled.

        Raises:
            Declined: there is no reference, or torch cannot differentiate it here.
        """
        unit, _ = rounding(problem.dtype)
        function, slopes = self._at(problem)
        found = torch_autodiff.gradients(
            function, list(problem.params.values()), slopes, unit, problem.case.index & 0xFFFF
        )
        floats = [name for name, value in problem.params.items() if is_float(value)]
        blocks = {
            str(d_param(name)): spread
            for name, spread in zip(floats, found.gradients, strict=True)
            if not self._code.is_absent(d_param(name))
        }
        return Reference({str(YS): _row(found.outputs)}, blocks)

    def directional(
        self,
        problem: Problem,
        along: Mapping[str, NDArray[Any]],
        template: Template | None = None,
        enough: float = 0.0,
    ) -> Estimate:
        """The derivative of the loss along a direction.

        Args:
            problem: the point.
            along: block name -> direction; blocks left out are not moved.
            template: not used: nothing is compiled.
            enough: not used: its bar is as narrow as it gets.

        Raises:
            Declined: there is no reference, or torch cannot differentiate it twice.
        """
        unit, _ = rounding(problem.dtype)
        function, slopes = self._at(problem)
        moved = [along.get(str(d_param(name))) for name in problem.params]
        return torch_autodiff.directional(
            function, list(problem.params.values()), moved, slopes, unit, 1
        )

    def _at(self, problem: Problem) -> tuple[torch_autodiff.TorchFunction, list[Any]]:
        """The reference as a function of the inputs in their order, and the cotangents."""
        if self._function is None:
            raise Declined(self.declined)
        reference, names = self._function, list(problem.params)

        def function(leaves: list[Any]) -> list[Any]:
            outputs = reference(dict(zip(names, leaves, strict=True)))
            return [out.reshape(-1) for out in outputs]

        flat = np.asarray(problem.d_ys, np.float64).reshape(-1)
        sizes = [int(np.prod(shape)) for shape in self._shapes(problem)]
        return function, np.split(flat, np.cumsum(sizes)[:-1])

    def _shapes(self, problem: Problem) -> list[tuple[int, ...]]:
        import torch

        assert self._function is not None
        tensors = {n: torch.as_tensor(np.array(v)) for n, v in problem.params.items()}
        with torch.no_grad():
            return [tuple(out.shape) for out in self._function(tensors)]


def _row(outputs: list[Spread]) -> Spread:
    """All outputs in the one row ``(1, 1, M)`` that a function returns."""
    value = np.concatenate([one.value for one in outputs])
    copies = np.concatenate([one.copies for one in outputs], axis=1)
    return Spread(value.reshape(1, 1, -1), copies.reshape(len(copies), 1, 1, -1))
