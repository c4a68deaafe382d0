"""A GRU with two biases and the reset after the product, as GPU libraries have it; batch first."""

import numpy as np


def gru(x, h0, w_ih, w_hh, b_ih, b_hh):
    def sigmoid(a):
        return 1.0 / (1.0 + np.exp(-a))

    H = h0.shape[-1]
    outputs, saved, h = [], [], h0
    for t in range(x.shape[1]):
        gi = x[:, t] @ w_ih.T + b_ih
        gh = h @ w_hh.T + b_hh
        r = sigmoid(gi[:, :H] + gh[:, :H])
        z = sigmoid(gi[:, H : 2 * H] + gh[:, H : 2 * H])
        n = np.tanh(gi[:, 2 * H :] + r * gh[:, 2 * H :])
        saved.append((h, r, z, n, gh[:, 2 * H :]))
        h = (1 - z) * n + z * h
        outputs.append(h)
    return np.stack(outputs, axis=1), saved


def gru_grad(x, w_ih, w_hh, saved, grad_out):
    dw_ih, dw_hh = np.zeros_like(w_ih), np.zeros_like(w_hh)
    db_ih, db_hh = np.zeros(w_ih.shape[0]), np.zeros(w_hh.shape[0])
    dx = np.zeros(x.shape)
    dh = np.zeros_like(grad_out[:, 0])
    for t in range(x.shape[1] - 1, -1, -1):
        h, r, z, n, gh_n = saved[t]
        dh = dh + grad_out[:, t]
        dn = dh * (1 - z) * (1 - n**2)
        dz = dh * (h - n) * z * (1 - z)
        dr = dn * gh_n * r * (1 - r)
        dgi = np.concatenate([dr, dz, dn], axis=1)
        dgh = np.concatenate([dr, dz, dn * r], axis=1)
        dw_ih += dgi.T @ x[:, t]
        dw_hh += dgh.T @ h
        db_ih += dgi.sum(0)
        db_hh += dgh.sum(0)
        dx[:, t] = dgi @ w_ih
        dh = dh * z + dgh @ w_hh
    return dx, dh, dw_ih, dw_hh, db_ih, db_hh
