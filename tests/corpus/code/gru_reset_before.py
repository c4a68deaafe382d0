"""A GRU with one bias a gate, reset before the product, weights in a dict of dicts."""

import numpy as np


def sigmoid(v):
    return 0.5 * (1 + np.tanh(0.5 * v))


def gru_forward(x, h0, w):
    hs, cache, h = [], [], h0
    for x_t in x:
        z = sigmoid(x_t @ w["z"]["W"] + h @ w["z"]["U"] + w["z"]["b"])
        r = sigmoid(x_t @ w["r"]["W"] + h @ w["r"]["U"] + w["r"]["b"])
        n = np.tanh(x_t @ w["h"]["W"] + (r * h) @ w["h"]["U"] + w["h"]["b"])
        cache.append((x_t, h, z, r, n))
        h = (1 - z) * h + z * n
        hs.append(h)
    return np.array(hs), (cache, w)


def gru_backward(dhs, cache):
    steps, w = cache
    grads = {k: {name: np.zeros_like(v) for name, v in part.items()} for k, part in w.items()}
    dxs, dh = [], np.zeros_like(dhs[0])
    for dh_t, (x_t, h, z, r, n) in zip(dhs[::-1], steps[::-1]):
        dh = dh + dh_t
        da = {"z": dh * (n - h) * z * (1 - z), "h": dh * z * (1 - n**2)}
        drh = da["h"] @ w["h"]["U"].T
        da["r"] = drh * h * r * (1 - r)
        for k, left in (("z", h), ("r", h), ("h", r * h)):
            grads[k]["W"] += x_t.T @ da[k]
            grads[k]["U"] += left.T @ da[k]
            grads[k]["b"] += da[k].sum(axis=0)
        dxs.append(sum(da[k] @ w[k]["W"].T for k in "zrh"))
        dh = dh * (1 - z) + drh * r + da["z"] @ w["z"]["U"].T + da["r"] @ w["r"]["U"].T
    return np.array(dxs[::-1]), dh, grads
