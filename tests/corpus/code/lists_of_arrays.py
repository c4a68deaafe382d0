"""Sequences as lists of T arrays, one vector each, in and out."""

import numpy as np


def forward(xs, U, W, V):
    s_prev = np.zeros(W.shape[0])
    states, outputs = [s_prev], []
    for x in xs:
        states.append(np.tanh(U @ x + W @ states[-1]))
        outputs.append(V @ states[-1])
    return outputs, states


def bptt(xs, U, W, V, states, d_outputs):
    dU, dW, dV = np.zeros_like(U), np.zeros_like(W), np.zeros_like(V)
    d_xs = [None] * len(xs)
    ds = np.zeros(W.shape[0])
    for t in range(len(xs) - 1, -1, -1):
        dV += np.outer(d_outputs[t], states[t + 1])
        delta = (V.T @ d_outputs[t] + ds) * (1 - states[t + 1] ** 2)
        dU += np.outer(delta, xs[t])
        dW += np.outer(delta, states[t])
        d_xs[t] = U.T @ delta
        ds = W.T @ delta
    return d_xs, dU, dW, dV
