"""A causal convolution over time, channels first, with zeros on the left."""

import numpy as np


class CausalConv1d:
    def __init__(self, weight, bias):
        self.weight, self.bias = weight, bias
        self.weight_grad, self.bias_grad = np.zeros_like(weight), np.zeros_like(bias)

    def __call__(self, x):
        k, T = self.weight.shape[2], x.shape[2]
        self.padded = np.pad(x, ((0, 0), (0, 0), (k - 1, 0)))
        out = np.zeros((x.shape[0], self.weight.shape[0], T))
        for j in range(k):
            out += np.einsum("oc,bct->bot", self.weight[:, :, j], self.padded[:, :, j : j + T])
        return out + self.bias[:, None]

    def backward(self, dy):
        k, T = self.weight.shape[2], dy.shape[2]
        d_padded = np.zeros_like(self.padded)
        for j in range(k):
            self.weight_grad[:, :, j] = np.einsum("bot,bct->oc", dy, self.padded[:, :, j : j + T])
            d_padded[:, :, j : j + T] += np.einsum("oc,bot->bct", self.weight[:, :, j], dy)
        self.bias_grad += dy.sum(axis=(0, 2))
        return d_padded[:, :, k - 1 :]
