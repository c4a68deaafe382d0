"""The command line of both examples: train, compare, print, and draw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from drawing import draw, require_drawing
from envelope import Envelope
from runs import RUNS, Task, by_hand, by_jax, one_ulp_away, train, with_factor

FACTOR = 1 + 1e-7


@dataclass(frozen=True)
class Result:
    """What was found.

    Args:
        task: what was trained.
        before: the loss of an unseen batch before the training by hand.
        after: the same afterwards.
        hand: the loss curve of the gradients by hand, ``(steps,)``.
        wrong: that of the same gradients with a wrong factor in one block, ``(steps,)``.
        jax: the loss curves of JAX.
    """

    task: Task
    before: float
    after: float
    hand: np.ndarray
    wrong: np.ndarray
    jax: Envelope


def compare(task: Task, steps: int, seed: int = 0) -> Result:
    """Train by hand, with JAX from eight starts that are one ulp away, and with a mistake."""
    start, batches, unseen = task.start(seed), task.batches(seed, steps), task.unseen(seed)
    hand = by_hand(task.network)
    wrong = with_factor(hand, task.planted, FACTOR)
    losses, (last,) = train(task, [start], batches, hand, "by hand")
    around = one_ulp_away(start, seed)
    jax_losses, _ = train(task, around, batches, by_jax(task.jax_loss), f"{RUNS} runs of JAX")
    wrong_losses, _ = train(task, [start], batches, wrong, "by hand, with a mistake")
    return Result(
        task,
        task.loss(start, unseen),
        task.loss(last, unseen),
        losses[:, 0],
        wrong_losses[:, 0],
        Envelope(jax_losses, task.terms),
    )


def text(found: Result) -> str:
    """The result as lines for a terminal."""
    task, jax = found.task, found.jax
    apart = np.ptp(jax.losses, axis=1).max()
    losses = {
        "loss of an unseen batch before": found.before,
        "the same after training on gradients derived by hand": found.after,
        **task.baselines,
    }
    return "\n".join(
        [
            f"{task.title}, {len(found.hand)} steps",
            *(f"  {value:8.4f}  {name}" for name, value in losses.items()),
            "",
            f"The band of {RUNS} JAX runs whose first parameters are one ulp away, at most"
            f" {apart:.1e} apart:",
            f"  {'':38}{'left at step':14}{'farthest':10}within the range",
            _row("gradients derived by hand", [(jax, found.hand)]),
            _row("each JAX run, in the band of the rest", jax.of_the_others()),
            _row(f"gradient of {task.planted} times 1 + 1e-7", [(jax, found.wrong)]),
            "  farthest: outside of the range, in widths w of the band on either side of it",
        ]
    )


def _row(name: str, judged: list[tuple[Envelope, np.ndarray]]) -> str:
    steps = [step for band, curve in judged if (step := band.leaves(curve)) is not None]
    farthest = max(band.reach(curve).max() for band, curve in judged)
    shares = sorted({f"{band.within_range(curve):4.0%}" for band, curve in judged})
    within = shares[0] if len(shares) == 1 else f"{shares[0]} to {shares[-1]}"
    return f"  {name:38}{min(steps, default='never'):<14}{farthest:<10.2g}{within}"


def command(task: Task) -> None:
    """Run the task from the command line; exit code 1 if the curve by hand leaves the band."""

    @click.command(help=f"Train {task.title} on gradients derived by hand, and compare with JAX.")
    @click.option("--steps", type=click.IntRange(1), default=200, help="Steps (default 200).")
    @click.option("--seed", type=click.IntRange(0), default=0, help="Of parameters and batches.")
    @click.option(
        "--out", type=click.Path(dir_okay=False, path_type=Path), help="Draw to a .svg or .png."
    )
    def main(steps: int, seed: int, out: Path | None) -> None:
        if out is not None:
            require_drawing(out)
        found = compare(task, steps, seed)
        click.echo(text(found))
        if out is not None:
            draw(found, out)
            click.echo(f"plot: {out}", err=True)
        raise SystemExit(found.jax.leaves(found.hand) is not None)

    main()
