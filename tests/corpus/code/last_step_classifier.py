"""A sentence classifier: embed, run, classify the last state; the loss is the mean over the batch."""

import numpy as np


class Model:
    def __init__(self, params):
        self.p = params

    def loss(self, tokens, labels):
        p, (B, T) = self.p, tokens.shape
        self.h = [np.zeros((B, p["U"].shape[0]))]
        for t in range(T):
            self.h.append(np.tanh(p["E"][tokens[:, t]] + self.h[-1] @ p["U"]))
        logits = self.h[-1] @ p["V"]
        logits = logits - logits.max(axis=1, keepdims=True)
        self.probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        self.tokens, self.labels = tokens, labels
        return -np.log(self.probs[range(B), labels]).mean()

    def grad(self):
        p, (B, T) = self.p, self.tokens.shape
        g = {name: np.zeros_like(value) for name, value in p.items()}
        dlogits = self.probs.copy()
        dlogits[range(B), self.labels] -= 1
        dlogits /= B
        g["V"] += self.h[-1].T @ dlogits
        dh = dlogits @ p["V"].T
        for t in range(T)[::-1]:
            da = dh * (1 - self.h[t + 1] ** 2)
            np.add.at(g["E"], self.tokens[:, t], da)
            g["U"] += self.h[t].T @ da
            dh = da @ p["U"].T
        return g


def loss_and_grad(params, tokens, labels):
    model = Model(params)
    return model.loss(tokens, labels), model.grad()
