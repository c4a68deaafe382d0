"""Leaky integrate-and-fire neurons, trained with a surrogate gradient.

    bpttcheck verify examples/gallery/spiking.py:Spiking

The state is ``(v, s)``: membrane potentials and the last spikes. Forward:

    u  = beta v + U x + W s + b         (1), beta = sigmoid(k), a leak in each unit
    s' = 1 where u > 1, else 0          (2), y = s'
    v' = u - s'                         (3), a spike subtracts the threshold

The derivative of (2) is zero wherever it exists: nothing would learn. Backward, ``d = d_s' + d_y``,
and two things are put in the place of the gradient, both on purpose:

    d_u = d_v' + d / (1 + g |u - 1|)^2  from (3); from (2), with the slope of the fast sigmoid
                                        (u - 1) / (1 + g |u - 1|) in the place of the jump's; and
                                        no gradient passes through the spike that (3) subtracts
    d_v = d_u beta                      from (1)
    d_U = d_u^T x,  d_x = d_u U         from (1)
    d_W = d_u^T s,  d_s = d_u W         from (1)
    d_b = sum of d_u over the rows      from (1)
    d_k = beta (1 - beta) times sum over the rows of d_u v       from (1)

So this backward pass is *not* the gradient of ``step``, and a checker that is not told so must say
that it is wrong. ``surrogate_step`` tells it: the values of ``step``, with the derivative of the
surrogate. What stands in ``freeze`` counts as constant. ``step_vjp`` is then held to that.

Source: Zenke and Ganguli (2018), "SuperSpike: supervised learning in multilayer spiking neural
networks", the fast sigmoid in the place of the spike's derivative.
"""

import numpy as np


def sigmoid(z):
    return 0.5 * (1 + np.tanh(0.5 * z))  # overflows nowhere


class Spiking:
    """u = beta v + U x + W s + b; s' = 1 where u > 1; v' = u - s'."""

    surrogate = "a spike has the derivative of a fast sigmoid, and the reset has none"

    def __init__(self, steepness=10.0):
        self.g = steepness

    def init(self, rng, n_in, n_hidden):
        def draw(*shape):
            return rng.standard_normal(shape) / np.sqrt(shape[-1])

        params = {"U": draw(n_hidden, n_in), "W": draw(n_hidden, n_hidden), "b": draw(n_hidden)}
        return params | {"k": rng.uniform(1, 3, n_hidden)}

    def initial_state(self, params, batch_size):
        zeros = np.zeros((batch_size, len(params["b"])), params["b"].dtype)
        return zeros, zeros.copy()

    def potential(self, params, state, x):
        v, s = state
        return sigmoid(params["k"]) * v + x @ params["U"].T + s @ params["W"].T + params["b"]  # (1)

    def step(self, params, state, x):
        u = self.potential(params, state, x)
        s = (u > 1).astype(u.dtype)  # (2)
        return (u - s, s), s, (x, *state, u)  # (3)

    def surrogate_step(self, freeze, params, state, x):
        u = self.potential(params, state, x)
        smooth = (u - 1) / (1 + self.g * np.abs(u - 1))
        s = freeze((u > 1) - smooth) + smooth
        return (u - freeze(s), s), s

    def step_vjp(self, params, cache, d_state, d_y):
        x, v, s, u = cache
        d_v, d_s = d_state
        d_u = d_v + (d_s + d_y) / (1 + self.g * np.abs(u - 1)) ** 2  # (3), (2)
        beta = sigmoid(params["k"])
        d_params = {"U": d_u.T @ x, "W": d_u.T @ s, "b": d_u.sum(0)}  # (1)
        d_params["k"] = beta * (1 - beta) * (d_u * v).sum(0)  # (1)
        return d_params, (d_u * beta, d_u @ params["W"]), d_u @ params["U"]  # (1)
