"""The hand-written forms in NumPy: the subject as it is, and the fused layer of its cell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bpttcheck.bench import floor
from bpttcheck.bench.form import Blocks, Ready, by_name
from bpttcheck.contract import Layer
from bpttcheck.errors import Declined
from bpttcheck.problems.problem import Problem
from bpttcheck.subject.subject import Subject
from bpttcheck.subject.user_code import call
from bpttcheck.traits import Traits


def as_it_is(subject: Subject, problem: Problem) -> Ready:
    """The subject's own code: a cell step by step, or a layer."""
    methods = ("step", "step_vjp") if subject.kind == "cell" else ("forward", "vjp")
    return _ready(subject.layer, problem, methods)


def fused(subject: Subject, problem: Problem) -> Ready:
    """The fused layer of the very cell.

    Raises:
        Declined: there is none.
    """
    layer = fused_layer(subject.target)
    if layer is None:
        raise Declined("this package has no fused form of it")
    ready = _ready(layer, problem, ("forward", "vjp"))
    return replace(
        ready,
        floor=lambda: (floor.seconds(layer, problem), floor.seconds_at_size(layer, problem)),
    )


def fused_layer(cell: Any) -> Layer | None:
    """The fused layer whose reference is equal to ``cell``, None if there is none."""
    from bpttcheck.bptt.fused import FUSED

    for make in FUSED.values():
        layer = make()
        if type(Traits.of(layer).reference) is not type(cell):
            continue
        activation = getattr(cell, "activation", None)
        layer = layer if activation is None else make(activation=activation)
        return layer if layer.reference == cell else None
    return None


def _ready(layer: Layer, problem: Problem, methods: tuple[str, str]) -> Ready:
    forward, vjp = methods
    params, xs, state0 = problem.params, problem.xs, problem.state0

    def run() -> Any:
        ys, state_T, tape = layer.forward(params, xs, state0)
        return layer.vjp(params, tape, problem.d_ys, problem.d_state), ys, state_T

    def at(other: Problem) -> Blocks:
        _, _, tape = call(forward, layer.forward, other.params, other.xs, other.state0)
        return blocks((call(vjp, layer.vjp, other.params, tape, other.d_ys, other.d_state),))

    def blocks(result: Any) -> Blocks:
        return by_name(problem, *result[0])

    return Ready(run, blocks, at=at)
