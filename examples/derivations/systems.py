"""Every system that the texts describe: its public object, run once more, and what verifies it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import bpttcheck


@dataclass(frozen=True)
class System:
    """A system of the texts.

    Args:
        words: what it is.
        where: the formulas that describe it.
        public: the object's dotted name.
        verified: the command or test that verifies it.
        run: takes the object, and returns True if a short run of the harness finds it right.
    """

    words: str
    where: str
    public: str
    verified: str
    run: Callable[[Any], bool]

    @property
    def verdict(self) -> str:
        """``"right"``, or what is wrong: a missing object is no less wrong than a wrong one."""
        module, _, name = self.public.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            return f"MISSING ({error})"
        return "right" if self.run(found) else "WRONG"


def is_right(subject: Any) -> bool:
    """A short run of the harness."""
    report = bpttcheck.check(
        subject, examples=5, checks=["sequence_vjp"], dtypes=["float64"], raises=False
    )
    return report.passed


def by_check(**options: Any) -> Callable[[Any], bool]:
    """The harness on an object made with these options."""
    return lambda found: is_right(found(**options))


def network(cells: int = 1, **options: Any) -> Callable[[Any], bool]:
    """The harness on a network of simple cells."""
    return lambda found: is_right(found([bpttcheck.cells.Elman()] * cells, **options))


def _problem():
    rng = np.random.default_rng(0)
    cell = bpttcheck.cells.Elman()
    params = cell.init(rng, 2, 3)
    xs, d_ys = rng.standard_normal((6, 2, 2)), rng.standard_normal((6, 2, 3))
    return cell, params, xs, d_ys, bpttcheck.unroll(cell, params, xs)[2]


def _paths(sum_over_paths: Any) -> bool:
    cell, params, _, d_ys, tape = _problem()
    one = sum_over_paths(cell, params, tape, d_ys)
    other = bpttcheck.backpropagate(cell, params, tape, d_ys)
    return all(np.allclose(one.d_params[n], other.d_params[n], rtol=1e-12) for n in params)


def _flow(flow: Any) -> bool:
    cell, params, xs, _, _ = _problem()
    found = flow(cell, params, xs)
    return bool((found.norms <= found.bounds * (1 + 1e-12)).all())


def _cross_entropy(loss: Any) -> bool:
    rng = np.random.default_rng(0)
    o, labels = rng.standard_normal((4, 2, 3)), rng.integers(3, size=(4, 2))
    odds = np.exp(o)
    said = odds / odds.sum(axis=2, keepdims=True) - np.eye(3)[labels]
    return np.allclose(loss(reduction="sum").gradient(o, labels), said, rtol=1e-12, atol=1e-14)


def _untied(autodiff: Any) -> bool:
    """JAX's untied gradients sum to the tied one; A3 judges each of them."""
    from bpttcheck.judge.run import Run
    from bpttcheck.problems.cases import build

    assert callable(autodiff.untied)
    run = Run(bpttcheck.Subject(bpttcheck.cells.Elman()), 0, ["float64"])
    problem = build(run.subject, run.cases.case(0, free=True, steps=4))
    untied = run.jax.untied(problem).d_params
    tied = run.code.run("sequence", problem).gradients
    return all(
        np.allclose(terms.sum(axis=0), tied[f"d_params[{name!r}]"], rtol=1e-9, atol=1e-12)
        for name, terms in untied.items()
    )


def _clip(clip_by_norm: Any) -> bool:
    long, short = {"W": np.array([3e200, 4e200])}, {"W": np.array([0.3, 0.4])}
    kept = clip_by_norm(short, 1.0).gradients["W"]
    cut = clip_by_norm(long, 1.0).gradients["W"]
    return np.allclose(cut, [0.6, 0.8], rtol=1e-12) and np.array_equal(kept, short["W"])


def _trains(sgd: Any) -> bool:
    """The sign of the first of four inputs, remembered to the end."""
    from bpttcheck.networks import Batch, Network

    rng = np.random.default_rng(0)
    made = Network([bpttcheck.cells.Elman()], readout="last", n_out=2)
    params, losses = made.init(rng, 1, 6), []
    for _ in range(400):
        xs = rng.standard_normal((4, 32, 1))
        batch = Batch(xs, (xs[0, :, 0] > 0).astype(np.int64))
        loss, gradients = made.loss_and_gradient(params, batch)
        params, _ = sgd(0.5).step(params, gradients.d_params)
        losses.append(float(loss))
    return bool(np.mean(losses[-20:]) < 0.5 * losses[0])


CELLS, NETWORKS = "tests/cells/test_every_cell.py", "tests/networks/test_every_option.py"

SYSTEMS = (
    *(
        System(
            f"Elman, {f}, with biases", where, "bpttcheck.cells.Elman",
            f"`bpttcheck verify 'elman[{f}]'`", by_check(activation=f),
        )
        for f, where in (("tanh", "A to E"), ("sigmoid", "B, C, D"), ("relu", "B, C"))
    ),
    System(
        "trainable initial state", "E3", "bpttcheck.networks.Network", f"`{NETWORKS}`",
        network(readout="every", n_out=2, trainable_state=True),
    ),
    System(
        "output recurrence, running freely", "E2", "bpttcheck.cells.Jordan",
        "`bpttcheck verify jordan`", by_check(),
    ),
    System(
        "output recurrence, teacher forced", "E4", "bpttcheck.cells.Jordan", f"`{CELLS}`",
        by_check(teacher_forced=True),
    ),
    System(
        "one output after the whole sequence", "E2", "bpttcheck.networks.Network", f"`{NETWORKS}`",
        network(readout="last", n_out=2),
    ),
    System(
        "softmax cross-entropy summed over the steps", "B, D, E5", "bpttcheck.losses."
        "SoftmaxCrossEntropy", "`tests/losses/test_losses_through_the_checker.py`", _cross_entropy,
    ),
    System(
        "stacked layers", "C1, C4", "bpttcheck.networks.Network", f"`{NETWORKS}`",
        network(2, readout=None),
    ),
    System("LSTM", "C7", "bpttcheck.cells.LSTM", "`bpttcheck verify lstm`", by_check()),
    System(
        "GRU", "C7", "bpttcheck.cells.GRUResetBefore", "`bpttcheck verify gru_reset_before`",
        by_check(),
    ),
    System(
        "the sum over paths beside the recursion", "A5, B6", "bpttcheck.bptt.sum_over_paths."
        "sum_over_paths", "`tests/bptt/test_three_forms.py`", _paths,
    ),
    System(
        "gradients untied in time", "A3", "bpttcheck.oracles.autodiff.autodiff.Autodiff",
        "`tests/oracles/test_autodiff.py`", _untied,
    ),
    System(
        "products of Jacobians with their bounds", "B3, C6", "bpttcheck.bptt.flow.flow",
        "`tests/bptt/test_flow.py`", _flow,
    ),
    System(
        "clipping by the norm", "C7", "bpttcheck.networks.clip_by_norm",
        "C7 above", _clip,
    ),
    System(
        "a stochastic-gradient step that trains a small task", "C", "bpttcheck.networks."
        "SGD", "`examples/training`", _trains,
    ),
)  # fmt: skip
