"""One flat vector of parameters, as scipy.optimize wants it: ``minimize(objective, theta, jac=True)``."""

import numpy as np

D, H = 2, 3
SIZE = H * D + H * H + H + H


def unpack(theta):
    ends = np.cumsum([H * D, H * H, H])
    U, W, b, v = np.split(theta, ends)
    return U.reshape(H, D), W.reshape(H, H), b, v


def objective(theta, x, target):
    U, W, b, v = unpack(theta)
    T = len(x)
    h = np.zeros((T + 1, H))
    for t in range(T):
        h[t + 1] = np.tanh(U @ x[t] + W @ h[t] + b)
    error = h[1:] @ v - target
    cost = 0.5 * np.sum(error**2)
    dU, dW, db = np.zeros_like(U), np.zeros_like(W), np.zeros_like(b)
    dv = h[1:].T @ error
    dh = np.zeros(H)
    for t in range(T, 0, -1):
        dh = dh + error[t - 1] * v
        da = dh * (1 - h[t] ** 2)
        dU += np.outer(da, x[t - 1])
        dW += np.outer(da, h[t - 1])
        db += da
        dh = W.T @ da
    return cost, np.concatenate([dU.ravel(), dW.ravel(), db, dv])
