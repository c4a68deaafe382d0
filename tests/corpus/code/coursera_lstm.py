"""An LSTM in columns, with one matrix a gate on [a_prev, x_t], and everything in dicts."""

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_cell_forward(xt, a_prev, c_prev, p):
    concat = np.concatenate([a_prev, xt], axis=0)
    ft = sigmoid(p["Wf"] @ concat + p["bf"])
    it = sigmoid(p["Wi"] @ concat + p["bi"])
    cct = np.tanh(p["Wc"] @ concat + p["bc"])
    c_next = ft * c_prev + it * cct
    ot = sigmoid(p["Wo"] @ concat + p["bo"])
    a_next = ot * np.tanh(c_next)
    return a_next, c_next, (c_next, c_prev, concat, ft, it, cct, ot, p)


def lstm_forward(x, a0, parameters):
    n_a, m, T_x = a0.shape[0], x.shape[1], x.shape[2]
    a, caches = np.zeros((n_a, m, T_x)), []
    a_next, c_next = a0, np.zeros((n_a, m))
    for t in range(T_x):
        a_next, c_next, cache = lstm_cell_forward(x[:, :, t], a_next, c_next, parameters)
        a[:, :, t] = a_next
        caches.append(cache)
    return a, (caches, x)


def lstm_cell_backward(da_next, dc_next, cache):
    c_next, c_prev, concat, ft, it, cct, ot, p = cache
    dc = dc_next + ot * (1 - np.tanh(c_next) ** 2) * da_next
    dot = da_next * np.tanh(c_next) * ot * (1 - ot)
    dcct = dc * it * (1 - cct**2)
    dit = dc * cct * it * (1 - it)
    dft = dc * c_prev * ft * (1 - ft)
    grads = {}
    for gate, dgate in (("f", dft), ("i", dit), ("c", dcct), ("o", dot)):
        grads["dW" + gate] = dgate @ concat.T
        grads["db" + gate] = np.sum(dgate, axis=1, keepdims=True)
    dconcat = p["Wf"].T @ dft + p["Wi"].T @ dit + p["Wc"].T @ dcct + p["Wo"].T @ dot
    n_a = da_next.shape[0]
    return {**grads, "da_prev": dconcat[:n_a], "dxt": dconcat[n_a:], "dc_prev": dc * ft}


def lstm_backward(da, caches):
    caches, x = caches
    da_prevt, dc_prevt = np.zeros(da.shape[:2]), np.zeros(da.shape[:2])
    out = {"dx": np.zeros(x.shape)}
    for t in reversed(range(da.shape[2])):
        step = lstm_cell_backward(da[:, :, t] + da_prevt, dc_prevt, caches[t])
        da_prevt, dc_prevt = step.pop("da_prev"), step.pop("dc_prev")
        out["dx"][:, :, t] = step.pop("dxt")
        for key, value in step.items():
            out[key] = out.get(key, 0) + value
    out["da0"] = da_prevt
    return out
