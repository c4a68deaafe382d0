"""A recurrent layer that keeps its gradients as attributes: ``self.dW``, ``self.dU``, ``self.db``."""

import numpy as np


class RecurrentLayer:
    def __init__(self, W, U, b):
        self.W, self.U, self.b = W, U, b

    def forward(self, x):
        self.x = x
        batch, steps, _ = x.shape
        self.h = np.zeros((batch, steps + 1, self.U.shape[0]))
        for t in range(steps):
            z = x[:, t] @ self.W + self.h[:, t] @ self.U + self.b
            self.h[:, t + 1] = np.maximum(z, 0)
        return self.h[:, 1:]

    def backward(self, dout):
        self.dW, self.dU, self.db = np.zeros_like(self.W), np.zeros_like(self.U), np.zeros_like(self.b)
        dx = np.zeros_like(self.x)
        dh = np.zeros_like(self.h[:, 0])
        for t in reversed(range(dout.shape[1])):
            dz = (dout[:, t] + dh) * (self.h[:, t + 1] > 0)
            self.dW += self.x[:, t].T @ dz
            self.dU += self.h[:, t].T @ dz
            self.db += dz.sum(axis=0)
            dx[:, t] = dz @ self.W.T
            dh = dz @ self.U.T
        return dx
