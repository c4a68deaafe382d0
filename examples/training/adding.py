"""The adding problem, learned by a gated recurrent unit whose gradients were derived by hand.

    python examples/training/adding.py --out adding.svg

Each step has a number between 0 and 1 and a mark. Two steps are marked, one in either half; the
target is the sum of their numbers. Who always answers 1 has the loss 1/6, the variance of the
target.

Source: Hochreiter and Schmidhuber (1997), "Long short-term memory", section 5.4; here the numbers
are in [0, 1], the target is not scaled, and the length is fixed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from runs import Task
from show import command

from bpttcheck.cells import GRUResetAfter
from bpttcheck.networks import Adam, Batch, Network

T, B, H = 12, 32, 16


def draw(rng: np.random.Generator) -> Batch:
    """Random numbers ``xs[:, :, 0]``, marks ``xs[:, :, 1]``, and the sums ``(B, 1)``."""
    numbers, marks, rows = rng.random((T, B)), np.zeros((T, B)), np.arange(B)
    marks[rng.integers(0, T // 2, B), rows] = 1.0
    marks[rng.integers(T // 2, T, B), rows] = 1.0
    return Batch(np.stack([numbers, marks], axis=-1), (numbers * marks).sum(axis=0)[:, None])


def jax_loss(params: dict[str, Any], xs: Any, targets: Any) -> Any:
    """The network and its loss once more, for JAX to differentiate."""
    import jax
    import jax.numpy as jnp

    def step(h: Any, x: Any) -> tuple[Any, None]:
        a = x @ params["0.W_ih"].T + params["0.b"]
        s = h @ params["0.W_hh"].T
        r = jax.nn.sigmoid(a[:, :H] + s[:, :H])
        z = jax.nn.sigmoid(a[:, H : 2 * H] + s[:, H : 2 * H])
        n = jnp.tanh(a[:, 2 * H :] + r * (s[:, 2 * H :] + params["0.b_hn"]))
        return (1 - z) * n + z * h, None

    h, _ = jax.lax.scan(step, jnp.zeros((xs.shape[1], H)), xs)
    outputs = h @ params["readout.V"].T + params["readout.c"]
    return jnp.mean(jnp.sum((outputs - targets) ** 2, axis=-1))


TASK = Task(
    title="the adding problem",
    network=Network([GRUResetAfter()], readout="last", n_out=1, loss="squared_error"),
    n_in=2,
    n_hidden=H,
    draw=draw,
    jax_loss=jax_loss,
    optimiser=Adam(learning_rate=0.02),
    limit=1.0,
    terms=B,
    planted="0.W_hh",
    baselines={"variance of the target": 1 / 6},
)

if __name__ == "__main__":
    command(TASK)
