"""A diagonal linear recurrence without a loop: a scan by cumulative sums of scaled inputs."""

import numpy as np


def decay_powers(log_a, T):
    return np.exp(-np.log1p(np.exp(log_a))[None, :] * np.arange(T)[:, None])


def ssm_forward(u, log_a, C):
    T = u.shape[0]
    powers = decay_powers(log_a, T)
    states = powers * np.cumsum(u / powers, axis=0)
    return states @ C, (u, log_a, C, powers, states)


def ssm_backward(dy, ctx):
    u, log_a, C, powers, states = ctx
    dC = states.T @ dy
    ds = dy @ C.T
    lam = np.cumsum((ds * powers)[::-1], axis=0)[::-1] / powers
    previous = np.concatenate([np.zeros_like(states[:1]), states[:-1]])
    a = 1 / (1 + np.exp(log_a))
    da = np.sum(lam * previous, axis=0)
    return lam, da * -a * (1 - a), dC
