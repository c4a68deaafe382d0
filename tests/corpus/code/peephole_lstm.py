"""An LSTM with peepholes, time first: the new cell state gates the output."""

import numpy as np


def sig(a):
    return 1 / (1 + np.exp(-a))


def forward(x, h0, c0, W, R, p, b):
    T, B, _ = x.shape
    H = h0.shape[1]
    h, c = np.empty((T + 1, B, H), x.dtype), np.empty((T + 1, B, H), x.dtype)
    gates = np.empty((T, B, 4, H), x.dtype)
    h[0], c[0] = h0, c0
    for t in range(T):
        a = (x[t] @ W + h[t] @ R + b).reshape(B, 4, H)
        z = np.tanh(a[:, 0])
        i = sig(a[:, 1] + p[0] * c[t])
        f = sig(a[:, 2] + p[1] * c[t])
        c[t + 1] = z * i + c[t] * f
        o = sig(a[:, 3] + p[2] * c[t + 1])
        h[t + 1] = o * np.tanh(c[t + 1])
        gates[t] = np.stack([z, i, f, o], axis=1)
    return h[1:], c[T], (x, W, R, p, h, c, gates)


def backward(d_h, d_c_last, saved):
    x, W, R, p, h, c, gates = saved
    T, B, H = d_h.shape
    dx, dW, dR = np.empty_like(x), np.zeros_like(W), np.zeros_like(R)
    dp, db = np.zeros_like(p), np.zeros(4 * H, x.dtype)
    dh, dc = np.zeros((B, H), x.dtype), d_c_last.copy()
    for t in range(T - 1, -1, -1):
        z, i, f, o = (gates[t, :, k] for k in range(4))
        dh = dh + d_h[t]
        tanh_c = np.tanh(c[t + 1])
        do = dh * tanh_c * o * (1 - o)
        dc = dc + dh * o * (1 - tanh_c**2) + do * p[2]
        df = dc * c[t] * f * (1 - f)
        di = dc * z * i * (1 - i)
        dz = dc * i * (1 - z**2)
        dp += np.stack([(di * c[t]).sum(0), (df * c[t]).sum(0), (do * c[t + 1]).sum(0)])
        dc = dc * f + di * p[0] + df * p[1]
        da = np.concatenate([dz, di, df, do], axis=1)
        dx[t] = da @ W.T
        dW += x[t].T @ da
        dR += h[t].T @ da
        db += da.sum(axis=0)
        dh = da @ R.T
    return dx, dh, dc, dW, dR, dp, db
