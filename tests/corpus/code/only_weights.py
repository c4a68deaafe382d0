"""The mean squared error of a regression on sequences, with weight decay; nobody needs dx or dh0."""

import numpy as np


def train_loss(x, y, Wxh, Whh, Why, lr, decay):
    """``lr`` belongs to the caller's update; it is handed through all functions of that script."""
    T, B, _ = x.shape
    h = {-1: np.zeros((B, Whh.shape[0]))}
    loss, error = 0.0, {}
    for t in range(T):
        h[t] = np.tanh(x[t] @ Wxh + h[t - 1] @ Whh)
        error[t] = h[t] @ Why - y[t]
        loss += np.sum(error[t] ** 2) / (2 * B)
    loss += 0.5 * decay * (np.sum(Wxh**2) + np.sum(Whh**2) + np.sum(Why**2))
    gxh, ghh, ghy = decay * Wxh, decay * Whh, decay * Why
    dh = np.zeros_like(h[-1])
    for t in reversed(range(T)):
        ghy = ghy + h[t].T @ error[t] / B
        da = (error[t] @ Why.T / B + dh) * (1 - h[t] ** 2)
        gxh = gxh + x[t].T @ da
        ghh = ghh + h[t - 1].T @ da
        dh = da @ Whh.T
    return {"loss": loss, "grad_Wxh": gxh, "grad_Whh": ghh, "grad_Why": ghy, "lr": lr}
