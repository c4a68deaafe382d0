"""The same training twice: on gradients derived by hand, and on those of JAX."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
import numpy as np

from bpttcheck.networks import Adam, Batch, Network, clip_by_norm

Params = dict[str, np.ndarray]
# From the parameters of several runs and a batch to the loss and the gradient of each run.
Gradients = Callable[[Sequence[Params], Batch], list[tuple[Any, Params]]]

RUNS = 8


@dataclass(frozen=True)
class Task:
    """What is trained, on what, and how.

    Args:
        title: what it is called.
        network: the network whose backward pass was derived by hand.
        n_in: the number of inputs.
        n_hidden: the number of hidden units.
        draw: a random batch.
        jax_loss: the same loss ``(params, xs, targets)`` in plain ``jax.numpy``.
        optimiser: what makes a step of a gradient.
        limit: the norm to which a gradient is clipped.
        terms: of how many terms the loss is the mean.
        planted: the parameter whose gradient gets a wrong factor, for comparison.
        baselines: losses to compare with, by what they are.
    """

    title: str
    network: Network
    n_in: int
    n_hidden: int
    draw: Callable[[np.random.Generator], Batch]
    jax_loss: Callable[..., Any]
    optimiser: Adam
    limit: float
    terms: int
    planted: str
    baselines: dict[str, float]

    def start(self, seed: int) -> Params:
        """The first parameters."""
        return self.network.init(np.random.default_rng([seed, 0]), self.n_in, self.n_hidden)

    def batches(self, seed: int, steps: int) -> list[Batch]:
        """A new batch for each step."""
        rng = np.random.default_rng([seed, 1])
        return [self.draw(rng) for _ in range(steps)]

    def unseen(self, seed: int) -> Batch:
        """A batch that no step was made with."""
        return self.draw(np.random.default_rng([seed, 2]))

    def loss(self, params: Params, batch: Batch) -> float:
        """The loss of a batch."""
        return float(self.network.loss_and_gradient(params, batch).loss)


def train(
    task: Task, starts: Sequence[Params], batches: Sequence[Batch], gradients: Gradients, label: str
) -> tuple[np.ndarray, list[Params]]:
    """Train from several starts side by side; who takes the gradients makes the only difference.

    Args:
        task: what is trained.
        starts: the first parameters of each run.
        batches: one for each step, the same for all runs.
        gradients: the losses and gradients of all runs.
        label: what the progress bar says.

    Returns:
        The losses ``(steps, runs)``, each before its step, and the last parameters of each run.
    """
    runs, losses = list(starts), []
    states = [task.optimiser.start(params) for params in runs]
    with progress(batches, label) as steps:
        for batch in steps:
            found = gradients(runs, batch)
            losses.append([float(loss) for loss, _ in found])
            clipped = [clip_by_norm(d_params, task.limit).gradients for _, d_params in found]
            moved = [task.optimiser.step(*one) for one in zip(runs, clipped, states, strict=True)]
            runs, states = [list(part) for part in zip(*moved, strict=True)]
    return np.array(losses), runs


def by_hand(network: Network) -> Gradients:
    """The gradients of ``Network.loss_and_gradient``, derived by hand."""

    def gradients(runs: Sequence[Params], batch: Batch) -> list[tuple[Any, Params]]:
        found = [network.loss_and_gradient(params, batch) for params in runs]
        return [(loss, of.d_params) for loss, of in found]

    return gradients


def with_factor(gradients: Gradients, block: str, factor: float) -> Gradients:
    """The gradients with a mistake: those of one block are multiplied by a factor."""

    def wrong(runs: Sequence[Params], batch: Batch) -> list[tuple[Any, Params]]:
        found = gradients(runs, batch)
        return [(loss, {**d_params, block: factor * d_params[block]}) for loss, d_params in found]

    return wrong


def by_jax(loss: Callable[..., Any]) -> Gradients:
    """The gradients that JAX takes of ``loss``: one program, compiled once for all runs."""
    import jax

    program = jax.jit(jax.vmap(jax.value_and_grad(loss), in_axes=(0, None, None)))

    def gradients(runs: Sequence[Params], batch: Batch) -> list[tuple[Any, Params]]:
        stacked = {name: np.stack([params[name] for params in runs]) for name in runs[0]}
        with in_64_bits():
            losses, d_stacked = program(stacked, batch.xs, batch.targets)
        d_stacked = {name: np.asarray(value) for name, value in d_stacked.items()}
        return [
            (losses[i], {name: value[i] for name, value in d_stacked.items()})
            for i in range(len(runs))
        ]

    return gradients


def in_64_bits() -> Any:
    """A context in which JAX computes in 64 bits."""
    import jax

    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # its place before JAX 0.8

    return enable_x64(True)


def one_ulp_away(params: Params, seed: int, runs: int = RUNS) -> list[Params]:
    """Copies of the parameters in which every entry is the next number up or down, at random."""
    rng = np.random.default_rng([seed, 3])

    def moved(value: np.ndarray) -> np.ndarray:
        return np.nextafter(value, np.where(rng.random(value.shape) < 0.5, -np.inf, np.inf))

    return [{name: moved(value) for name, value in params.items()} for _ in range(runs)]


@contextmanager
def progress(items: Sequence[Any], label: str) -> Iterator[Any]:
    """The items, with a progress bar if somebody looks."""
    if not sys.stderr.isatty():
        yield items
        return
    with click.progressbar(items, label=f"{label:28}", file=sys.stderr) as bar:
        yield bar
