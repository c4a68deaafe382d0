"""What ``bpttcheck new`` writes."""

from __future__ import annotations

from string import Template

CELL = Template('''\
"""A recurrent cell in plain NumPy, with its hand-derived backward step."""

import numpy as np


class $cls:
    """The cell h' = tanh(x U + h W + b), whose output is its hidden state.

    Rows are samples: x (B, n_in), h (B, n_hidden). Forward:

        z  = x @ U + h @ W + b                               (1)
        h' = tanh(z)                                         (2)
        y  = h'                                              (3)

    Backward. Write d_v for the gradient of the loss with respect to v. The loss reads h' twice, as
    the next state and as the output, and tanh'(z) = 1 - tanh(z)^2 = 1 - h'^2, so

        d_z = (d_state + d_y) * (1 - h'^2)                   from (2) and (3)

    A small change of everything in (1) is dz = dx @ U + x @ dU + dh @ W + h @ dW + db. It changes
    the loss by sum(d_z * dz), and the factor of each change is its gradient:

        d_x = d_z @ U.T          d_U = x.T @ d_z             the x U term
        d_h = d_z @ W.T          d_W = h.T @ d_z             the h W term
                                 d_b = sum of d_z over rows  the b term
    """

    def init(self, rng, n_in, n_hidden):
        """Fresh parameters: U (n_in, n_hidden), W (n_hidden, n_hidden), b (n_hidden,)."""
        scale = n_hidden**-0.5
        return {
            "U": rng.uniform(-scale, scale, (n_in, n_hidden)),
            "W": rng.uniform(-scale, scale, (n_hidden, n_hidden)),
            "b": rng.uniform(-scale, scale, n_hidden),
        }

    def initial_state(self, params, batch_size):
        """The state before the first step: zeros (batch_size, n_hidden)."""
        b = params["b"]
        return np.zeros((batch_size, b.shape[0]), b.dtype)

    def step(self, params, state, x):
        """One step forward: (new_state, y, cache)."""
        h_new = np.tanh(x @ params["U"] + state @ params["W"] + params["b"])
        return h_new, h_new, (x, state, h_new)

    def step_vjp(self, params, cache, d_state, d_y):
        """One step backward: (d_params, d_previous_state, d_x), this step's share only."""
        x, h, h_new = cache
        d_z = (d_state + d_y) * (1 - h_new**2)
        d_params = {"U": x.T @ d_z, "W": h.T @ d_z, "b": d_z.sum(axis=0)}
        return d_params, d_z @ params["W"].T, d_z @ params["U"].T
''')

TEST = Template('''\
"""Checks the backward step of $cls: one test for each check."""

from $module import $cls

import bpttcheck


@bpttcheck.parametrize_with_checks([$cls()])
def test_gradients(subject, check):
    check(subject)
''')
