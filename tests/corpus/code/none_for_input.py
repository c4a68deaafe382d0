"""A minimal gated unit with scipy's sigmoid; the first layer of a net returns None for its input."""

import numpy as np
from scipy.special import expit


class MinimalGatedUnit:
    def __init__(self, Wf, Uf, Wh, Uh):
        self.Wf, self.Uf, self.Wh, self.Uh = Wf, Uf, Wh, Uh
        self.grads = {}

    def forward(self, x):
        self.x, self.steps = x, []
        h, out = np.zeros((x.shape[0], self.Uf.shape[0])), []
        for t in range(x.shape[1]):
            f = expit(x[:, t] @ self.Wf + h @ self.Uf)
            n = np.tanh(x[:, t] @ self.Wh + (f * h) @ self.Uh)
            self.steps.append((h, f, n))
            h = (1 - f) * h + f * n
            out.append(h)
        return np.stack(out, axis=1)

    def backward(self, dout):
        grads = {name: np.zeros_like(getattr(self, name)) for name in ("Wf", "Uf", "Wh", "Uh")}
        dh = np.zeros_like(dout[:, 0])
        for t in range(dout.shape[1] - 1, -1, -1):
            h, f, n = self.steps[t]
            dh = dh + dout[:, t]
            dn = dh * f * (1 - n**2)
            dfh = dn @ self.Uh.T
            df = (dh * (n - h) + dfh * h) * f * (1 - f)
            grads["Wf"] += self.x[:, t].T @ df
            grads["Uf"] += h.T @ df
            grads["Wh"] += self.x[:, t].T @ dn
            grads["Uh"] += (f * h).T @ dn
            dh = dh * (1 - f) + dfh * f + df @ self.Uf.T
        self.grads = grads
        return None
