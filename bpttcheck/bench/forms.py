"""Every form that is timed, by its key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bpttcheck.bench import by_hand, correct, in_jax, in_torch
from bpttcheck.bench.form import Ready
from bpttcheck.problems.problem import Problem
from bpttcheck.subject.subject import Subject


@dataclass(frozen=True)
class Implementation:
    """A way to compute all gradients of a problem.

    Args:
        title: for a reader.
        build: makes it ready, or raises :class:`bpttcheck.errors.Declined` with the reason.
        smallest_only: True if it is so slow that it is measured at the smallest size only, and in
            few rounds.
        limit: the largest relative error in float64 and float32, for what cannot be held to the
            limits of :mod:`bpttcheck.bench.correct`.
    """

    title: str
    build: Callable[[Subject, Problem], Ready]
    smallest_only: bool = False
    limit: dict[str, float] | None = None


# What autodiff gives to who writes the forward pass alone; "jax_deferred" has a part of its
# backward pass written by hand.
BASELINES = ("jax", "jax_hoisted")
NUMPY = ("numpy", "fused")
FEW_ROUNDS = 3

FORMS: dict[str, Implementation] = {
    "numpy": Implementation("hand-written in NumPy, as it is", by_hand.as_it_is),
    "fused": Implementation("hand-written in NumPy, fused", by_hand.fused),
    "on_jax": Implementation("hand-written on JAX, jitted", in_jax.by_hand),
    "jax": Implementation("JAX autodiff of one scan, jitted", in_jax.plain),
    "jax_hoisted": Implementation("JAX autodiff, projection hoisted, jitted", in_jax.hoisted),
    "jax_deferred": Implementation(
        "JAX autodiff, weight gradients deferred, jitted", in_jax.weights_deferred
    ),
    "torch": Implementation("torch's own layer, autograd", in_torch.native),
    "jax_eager": Implementation("JAX autodiff, not jitted", in_jax.not_jitted, smallest_only=True),
    "differences": Implementation(
        "central differences, entry by entry",
        correct.every_entry,
        smallest_only=True,
        limit={"float64": 1e-5, "float32": 3e-2},
    ),
}
