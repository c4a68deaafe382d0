"""States kept in dicts by time with ``hs[-1]`` the first one; only the last output is returned."""

import numpy as np


def forward(tokens, embed, Wh, bh, Wo):
    hs = {-1: np.zeros((Wh.shape[0], 1))}
    xs = {}
    for t, token in enumerate(tokens):
        xs[t] = embed[token].reshape(-1, 1)
        hs[t] = np.tanh(xs[t] + Wh @ hs[t - 1] + bh)
    return Wo @ hs[len(tokens) - 1], (xs, hs)


def backward(tokens, embed, Wh, bh, Wo, cache, dy):
    xs, hs = cache
    last = len(tokens) - 1
    d_embed, d_Wh, d_bh = np.zeros_like(embed), np.zeros_like(Wh), np.zeros_like(bh)
    d_Wo = dy @ hs[last].T
    dh = Wo.T @ dy
    for t in range(last, -1, -1):
        draw = dh * (1 - hs[t] ** 2)
        d_bh += draw
        d_Wh += draw @ hs[t - 1].T
        d_embed[tokens[t]] += draw[:, 0]
        dh = Wh.T @ draw
    return {"embed": d_embed, "Wh": d_Wh, "bh": d_bh, "Wo": d_Wo}
