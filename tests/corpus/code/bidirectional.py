"""A bidirectional RNN: two passes over time, their outputs side by side."""

import numpy as np


def run(x, W, U, order):
    h = np.zeros((x.shape[0], U.shape[0]))
    states = {}
    for t in order:
        before = h
        h = np.tanh(x[:, t] @ W + before @ U)
        states[t] = (before, h)
    return states


def unrun(dh_all, x, W, U, order, states):
    dx, dW, dU = np.zeros_like(x), np.zeros_like(W), np.zeros_like(U)
    dh = np.zeros_like(dh_all[:, 0])
    for t in reversed(order):
        before, h = states[t]
        da = (dh_all[:, t] + dh) * (1 - h * h)
        dx[:, t] = da @ W.T
        dW += x[:, t].T @ da
        dU += before.T @ da
        dh = da @ U.T
    return dx, dW, dU


def birnn_forward(x, Wf, Uf, Wb, Ub):
    T = x.shape[1]
    right, left = list(range(T)), list(range(T))[::-1]
    fwd, bwd = run(x, Wf, Uf, right), run(x, Wb, Ub, left)
    y = np.stack([np.concatenate([fwd[t][1], bwd[t][1]], axis=-1) for t in range(T)], axis=1)
    return y, {"x": x, "fwd": fwd, "bwd": bwd, "weights": (Wf, Uf, Wb, Ub)}


def birnn_backward(dy, cache):
    x, (Wf, Uf, Wb, Ub) = cache["x"], cache["weights"]
    H, T = Uf.shape[0], x.shape[1]
    right, left = list(range(T)), list(range(T))[::-1]
    dxf, dWf, dUf = unrun(dy[:, :, :H], x, Wf, Uf, right, cache["fwd"])
    dxb, dWb, dUb = unrun(dy[:, :, H:], x, Wb, Ub, left, cache["bwd"])
    return dxf + dxb, dWf, dUf, dWb, dUb
