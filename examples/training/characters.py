"""A model of characters, a long short-term memory whose gradients were derived by hand.

    python examples/training/characters.py --out characters.svg

The text is made here: sentences of a tiny grammar. At every step the network guesses the next
character; the loss is the mean cross-entropy in nats.
"""

from __future__ import annotations

from collections import Counter
from math import log
from typing import Any

import numpy as np
from runs import Task
from show import command

from bpttcheck.cells import LSTM
from bpttcheck.networks import Adam, Batch, Network

T, B, H = 16, 16, 24
GRAMMAR = (
    ("the ", "a "),
    ("cat ", "dog ", "bird ", "fish "),
    ("sees ", "likes ", "hears "),
    ("the ", "a "),
    ("tree. ", "moon. ", "river. ", "house. "),
)


def sentences(count: int) -> str:
    """A text of this many sentences, each word drawn evenly among those that may stand there."""
    rng = np.random.default_rng(0)
    return "".join(str(rng.choice(words)) for _ in range(count) for words in GRAMMAR)


TEXT = sentences(400)
LETTERS = sorted(set(TEXT))
CODES = np.array([LETTERS.index(letter) for letter in TEXT])


def draw(rng: np.random.Generator) -> Batch:
    """Random places of the text: the characters as one-hot rows, and the ones that follow."""
    places = np.arange(T)[:, None] + rng.integers(0, len(CODES) - T, B)
    return Batch(np.eye(len(LETTERS))[CODES[places]], CODES[places + 1])


def unigram_entropy() -> float:
    """The loss of who knows how often each character occurs, and nothing else."""
    shares = [count / len(TEXT) for count in Counter(TEXT).values()]
    return -sum(share * log(share) for share in shares)


def grammar_entropy() -> float:
    """The loss of who knows the grammar and the beginning of the text."""
    length = sum(sum(map(len, words)) / len(words) for words in GRAMMAR)
    return sum(log(len(words)) for words in GRAMMAR) / length


def jax_loss(params: dict[str, Any], xs: Any, targets: Any) -> Any:
    """The network and its loss once more, for JAX to differentiate."""
    import jax
    import jax.numpy as jnp

    def step(state: Any, x: Any) -> tuple[Any, Any]:
        h, c = state
        a = x @ params["0.W_ih"].T + h @ params["0.W_hh"].T + params["0.b"]
        i, f, o = (jax.nn.sigmoid(a[:, k * H : (k + 1) * H]) for k in (0, 1, 3))
        c = f * c + i * jnp.tanh(a[:, 2 * H : 3 * H])
        h = o * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((xs.shape[1], H))
    _, hs = jax.lax.scan(step, (zeros, zeros), xs)
    logits = hs @ params["readout.V"].T + params["readout.c"]
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)
    return -jnp.mean(chosen)


TASK = Task(
    title="a model of characters",
    network=Network([LSTM()], n_out=len(LETTERS), loss="softmax_cross_entropy"),
    n_in=len(LETTERS),
    n_hidden=H,
    draw=draw,
    jax_loss=jax_loss,
    optimiser=Adam(learning_rate=0.02),
    limit=1.0,
    terms=T * B,
    planted="0.W_hh",
    baselines={
        "entropy of single characters": unigram_entropy(),
        "entropy of the grammar": grammar_entropy(),
    },
)

if __name__ == "__main__":
    command(TASK)
