"""A character LSTM: a dict of parameters goes in, the loss and a dict of gradients come out."""

import numpy as np


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def forward_backward(params, tokens, targets):
    H = params["b"].shape[0] // 4
    h, c, loss, steps = np.zeros(H), np.zeros(H), 0.0, []
    for token, target in zip(tokens, targets):
        x = params["E"][token]
        z = params["Wx"] @ x + params["Wh"] @ h + params["b"]
        i, f, o = sigmoid(z[:H]), sigmoid(z[H : 2 * H]), sigmoid(z[2 * H : 3 * H])
        g = np.tanh(z[3 * H :])
        c_new = f * c + i * g
        h_new = o * np.tanh(c_new)
        logits = params["Wy"] @ h_new + params["by"]
        shifted = logits - logits.max()
        p = np.exp(shifted) / np.exp(shifted).sum()
        loss -= np.log(p[target])
        steps.append((token, target, x, h, c, i, f, o, g, c_new, h_new, p))
        h, c = h_new, c_new
    grads = {name: np.zeros_like(value) for name, value in params.items()}
    dh_next, dc_next = np.zeros(H), np.zeros(H)
    for token, target, x, h_prev, c_prev, i, f, o, g, c, h, p in reversed(steps):
        dlogits = p.copy()
        dlogits[target] -= 1
        grads["Wy"] += np.outer(dlogits, h)
        grads["by"] += dlogits
        dh = params["Wy"].T @ dlogits + dh_next
        dc = dc_next + dh * o * (1 - np.tanh(c) ** 2)
        dz = np.concatenate([
            dc * g * i * (1 - i),
            dc * c_prev * f * (1 - f),
            dh * np.tanh(c) * o * (1 - o),
            dc * i * (1 - g**2),
        ])  # fmt: skip
        grads["Wx"] += np.outer(dz, x)
        grads["Wh"] += np.outer(dz, h_prev)
        grads["b"] += dz
        grads["E"][token] += params["Wx"].T @ dz
        dh_next = params["Wh"].T @ dz
        dc_next = dc * f
    return loss, grads
