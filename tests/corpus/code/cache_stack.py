"""Steps push what they keep on a stack; the backward pass is a generator that pops them off."""

import numpy as np


def step(x, h, params, stack):
    gate = 1 / (1 + np.exp(-(x @ params["Wg"] + h @ params["Ug"])))
    candidate = np.tanh(x @ params["Wc"])
    stack.append((x, h, gate, candidate))
    return gate * h + (1 - gate) * candidate


def forward(xs, params):
    stack, hs = [], []
    h = np.zeros((xs.shape[1], params["Ug"].shape[0]))
    for x in xs:
        h = step(x, h, params, stack)
        hs.append(h)
    return np.stack(hs), (stack, params)


def steps_back(dhs, stack, params):
    dh = 0
    for dh_t in dhs[::-1]:
        x, h, gate, candidate = stack.pop()
        dh = dh + dh_t
        dgate = dh * (h - candidate) * gate * (1 - gate)
        dcandidate = dh * (1 - gate) * (1 - candidate**2)
        yield {
            "Wg": x.T @ dgate,
            "Ug": h.T @ dgate,
            "Wc": x.T @ dcandidate,
        }, dgate @ params["Wg"].T + dcandidate @ params["Wc"].T
        dh = dh * gate + dgate @ params["Ug"].T


def backward(dhs, tape):
    stack, params = tape
    total, dxs = {}, []
    for grads, dx in steps_back(dhs, stack, params):
        dxs.append(dx)
        for name, grad in grads.items():
            total[name] = total.get(name, 0) + grad
    return np.stack(dxs[::-1]), total
