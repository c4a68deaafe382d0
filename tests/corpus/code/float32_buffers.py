"""Everything is kept in float32 buffers, whatever comes in; gradients come back in an odd order."""

import numpy as np


def forward(X, W_in, W_rec, bias):
    T, B, _ = X.shape
    H = np.zeros((T + 1, B, W_rec.shape[0]), dtype=np.float32)
    for t in range(T):
        H[t + 1] = np.tanh(X[t] @ W_in + H[t] @ W_rec + bias)
    return H[1:], (H, X, W_in, W_rec)


def backward(grad_out, saved):
    H, X, W_in, W_rec = saved
    g_in, g_rec = np.zeros(W_in.shape, np.float32), np.zeros(W_rec.shape, np.float32)
    g_bias = np.zeros(W_rec.shape[0], np.float32)
    g_X = np.zeros(X.shape, np.float32)
    back = np.zeros(H.shape[1:], np.float32)
    for t in range(len(grad_out) - 1, -1, -1):
        local = (grad_out[t] + back) * (1 - H[t + 1] ** 2)
        g_bias += local.sum(0)
        g_rec += H[t].T @ local
        g_in += X[t].T @ local
        g_X[t] = local @ W_in.T
        back = local @ W_rec.T
    return g_bias, g_rec, g_in, g_X
