"""The delta rule: a memory corrects what it holds for a key; one sequence, time first."""

import numpy as np


def delta_forward(k, v, q, beta):
    T, D = k.shape
    S = np.zeros((T + 1, v.shape[1], D))
    y = np.zeros((T, v.shape[1]))
    for t in range(T):
        error = v[t] - S[t] @ k[t]
        S[t + 1] = S[t] + beta[t] * np.outer(error, k[t])
        y[t] = S[t + 1] @ q[t]
    return y, (k, v, q, beta, S)


def delta_backward(dy, cache):
    k, v, q, beta, S = cache
    dk, dv, dq, dbeta = np.zeros_like(k), np.zeros_like(v), np.zeros_like(q), np.zeros_like(beta)
    dS = np.zeros_like(S[0])
    for t in range(len(k) - 1, -1, -1):
        dq[t] = S[t + 1].T @ dy[t]
        dS = dS + np.outer(dy[t], q[t])
        error = v[t] - S[t] @ k[t]
        dbeta[t] = error @ dS @ k[t]
        derror = beta[t] * (dS @ k[t])
        dk[t] = beta[t] * (error @ dS) - S[t].T @ derror
        dv[t] = derror
        dS = dS - np.outer(derror, k[t])
    return dk, dv, dq, dbeta
