"""A recurrent layer with layer normalisation of the pre-activation at every step."""

import numpy as np

EPS = 1e-5


def norm(a, gain):
    centred = a - a.mean(axis=-1, keepdims=True)
    inverse = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPS)
    return centred * inverse * gain, (centred * inverse, inverse)


def norm_grad(dy, gain, kept):
    normal, inverse = kept
    dn = dy * gain
    da = dn - dn.mean(axis=-1, keepdims=True) - normal * (dn * normal).mean(axis=-1, keepdims=True)
    return da * inverse, (dy * normal).sum(axis=0)


def ln_rnn(x, W, U, gain):
    h = np.zeros((x.shape[1], U.shape[0]), x.dtype)
    ys, tape = [], []
    for x_t in x:
        y, kept = norm(x_t @ W + h @ U, gain)
        tape.append((h, y, kept))
        h = np.tanh(y)
        ys.append(h)
    return np.stack(ys), tape


def ln_rnn_vjp(x, W, U, gain, tape, dys):
    dx, dW, dU, dgain = np.zeros_like(x), np.zeros_like(W), np.zeros_like(U), np.zeros_like(gain)
    dh = np.zeros_like(dys[0])
    for t in range(len(x))[::-1]:
        h, y, kept = tape[t]
        da, dg = norm_grad((dys[t] + dh) * (1 - np.tanh(y) ** 2), gain, kept)
        dgain += dg
        dx[t] = da @ W.T
        dW += x[t].T @ da
        dU += h.T @ da
        dh = da @ U.T
    return dx, dW, dU, dgain
