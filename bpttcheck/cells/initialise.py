"""The initial parameters of the built-in cells."""

from __future__ import annotations

import math

import numpy as np

from bpttcheck.contract import Params


def uniform(rng: np.random.Generator, n_hidden: int, **shapes: tuple[int, ...]) -> Params:
    """Parameters drawn uniformly from ``±1/sqrt(n_hidden)``, as torch does; biases too.

    Biases are random too, although zero is common, so that a first check exercises every gradient.

    Args:
        rng: the source of randomness.
        n_hidden: the number of hidden units ``H``.
        **shapes: the shape of every parameter by its name, in the order of drawing.

    Returns:
        A float64 array for each name.
    """
    bound = 1.0 / math.sqrt(n_hidden)
    return {name: rng.uniform(-bound, bound, shape) for name, shape in shapes.items()}
