"""Causal linear attention: a matrix of memory that decays and is written by outer products."""

import numpy as np


def forward(q, k, v, log_decay):
    N, T, D = q.shape
    memory = [np.zeros((N, D, v.shape[-1]))]
    decay = 1 / (1 + np.exp(-log_decay))
    out = np.zeros((N, T, v.shape[-1]))
    for t in range(T):
        memory.append(decay[None, :, None] * memory[-1] + k[:, t, :, None] * v[:, t, None, :])
        out[:, t] = np.einsum("nd,nde->ne", q[:, t], memory[-1])
    return out, (q, k, v, decay, memory)


def backward(dout, cache):
    q, k, v, decay, memory = cache
    dq, dk, dv, ddecay = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v), np.zeros_like(decay)
    dM = np.zeros_like(memory[0])
    for t in range(q.shape[1] - 1, -1, -1):
        dq[:, t] = np.einsum("ne,nde->nd", dout[:, t], memory[t + 1])
        dM += q[:, t, :, None] * dout[:, t, None, :]
        dk[:, t] = np.einsum("nde,ne->nd", dM, v[:, t])
        dv[:, t] = np.einsum("nde,nd->ne", dM, k[:, t])
        ddecay += np.einsum("nde,nde->d", dM, memory[t])
        dM = decay[None, :, None] * dM
    return dq, dk, dv, ddecay * decay * (1 - decay)
