"""A library's layer: (examples, inputs, time), parameters and gradients in dicts, derived variables."""

import numpy as np


class RNN:
    def __init__(self, parameters):
        self.parameters = dict(parameters)
        self.gradients = {name: np.zeros_like(value) for name, value in parameters.items()}
        self.derived_variables = {"A": [], "X": []}

    def forward(self, X):
        n_ex, _, n_t = X.shape
        W_aa, W_ax = self.parameters["Waa"], self.parameters["Wax"]
        A = np.zeros((n_ex, W_aa.shape[0]))
        self.derived_variables = {"A": [A], "X": []}
        Y = []
        for t in range(n_t):
            Z = A @ W_aa + self.parameters["ba"] + X[:, :, t] @ W_ax + self.parameters["bx"]
            A = np.tanh(Z)
            self.derived_variables["A"].append(A)
            self.derived_variables["X"].append(X[:, :, t])
            Y.append(A)
        return np.dstack(Y)

    def backward(self, dLdA):
        dLdX = []
        dA_acc = np.zeros_like(dLdA[:, :, 0])
        for t in reversed(range(dLdA.shape[2])):
            dX, dA_acc = self._step_backward(dLdA[:, :, t] + dA_acc, t)
            dLdX.insert(0, dX)
        return np.dstack(dLdX)

    def _step_backward(self, dA, t):
        A, A_prev = self.derived_variables["A"][t + 1], self.derived_variables["A"][t]
        dZ = (1 - A**2) * dA
        self.gradients["Waa"] += A_prev.T @ dZ
        self.gradients["Wax"] += self.derived_variables["X"][t].T @ dZ
        self.gradients["ba"] += dZ.sum(axis=0)
        self.gradients["bx"] += dZ.sum(axis=0)
        return dZ @ self.parameters["Wax"].T, dZ @ self.parameters["Waa"].T
