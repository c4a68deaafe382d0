"""A stack of two RNN layers, each a dict of weights in a list; the states of all layers come in and out."""

import numpy as np


def forward(xs, h0, layers):
    h = [state for state in h0]
    steps, ys = [], []
    for x in xs:
        step = []
        for k, w in enumerate(layers):
            previous = h[k]
            h[k] = np.tanh(x @ w["W"] + previous @ w["U"] + w["b"])
            step.append((x, previous, h[k]))
            x = h[k]
        steps.append(step)
        ys.append(x)
    return np.array(ys), np.array(h), (steps, layers)


def backward(dys, dhT, tape):
    steps, layers = tape
    grads = [{key: np.zeros_like(value) for key, value in w.items()} for w in layers]
    dh = [d for d in dhT]
    dxs = []
    for dy, step in zip(reversed(dys), reversed(steps)):
        d_above = dy
        for k in reversed(range(len(layers))):
            x, previous, h = step[k]
            da = (dh[k] + d_above) * (1 - h**2)
            grads[k]["W"] += x.T @ da
            grads[k]["U"] += previous.T @ da
            grads[k]["b"] += da.sum(axis=0)
            dh[k] = da @ layers[k]["U"].T
            d_above = da @ layers[k]["W"].T
        dxs.insert(0, d_above)
    return np.array(dxs), np.array(dh), grads
