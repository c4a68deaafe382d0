"""Forward functions that return their result and the function that goes back."""

import numpy as np


def affine(x, W, b):
    def backprop(dy):
        axes = tuple(range(x.ndim - 1))
        return dy @ W.T, np.tensordot(x, dy, (axes, axes)), dy.sum(axis=axes)

    return x @ W + b, backprop


def tanh(a):
    y = np.tanh(a)
    return y, lambda dy: dy * (1 - y**2)


def rnn(X, W, b):
    """W acts on the input and the state side by side."""
    n_in = X.shape[-1]
    h = np.zeros((X.shape[1], b.shape[0]), dtype=X.dtype)
    hs, steps = [], []
    for x in X:
        a, back_affine = affine(np.concatenate([x, h], axis=-1), W, b)
        h, back_tanh = tanh(a)
        hs.append(h)
        steps.append((back_affine, back_tanh))

    def backprop(dY):
        dX, dW, db = np.zeros_like(X), np.zeros_like(W), np.zeros_like(b)
        dh = np.zeros_like(h)
        for t in reversed(range(len(steps))):
            back_affine, back_tanh = steps[t]
            d_in, dW_t, db_t = back_affine(back_tanh(dY[t] + dh))
            dX[t], dh = d_in[:, :n_in], d_in[:, n_in:]
            dW += dW_t
            db += db_t
        return dX, dW, db

    return np.stack(hs), backprop
