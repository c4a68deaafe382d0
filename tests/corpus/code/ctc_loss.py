"""Connectionist temporal classification of one sequence; the blank is the last class."""

import numpy as np

LOW = -1e30


def log_add(*values):
    top = max(values)
    if top <= LOW:
        return LOW
    return top + np.log(sum(np.exp(v - top) for v in values))


def ctc_loss(logits, labels):
    T, classes = logits.shape
    blank = classes - 1
    shifted = logits - logits.max(axis=1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    path = [blank]
    for label in labels:
        path += [int(label), blank]
    S = len(path)
    alpha = [[LOW] * S for _ in range(T)]
    beta = [[LOW] * S for _ in range(T)]
    for s in range(min(2, S)):
        alpha[0][s] = logp[0, path[s]]
        beta[T - 1][S - 1 - s] = logp[T - 1, path[S - 1 - s]]
    for t in range(1, T):
        for s in range(S):
            come = [alpha[t - 1][s]] + ([alpha[t - 1][s - 1]] if s > 0 else [])
            if s > 1 and path[s] != blank and path[s] != path[s - 2]:
                come.append(alpha[t - 1][s - 2])
            alpha[t][s] = log_add(*come) + logp[t, path[s]]
    for t in range(T - 2, -1, -1):
        for s in range(S):
            go = [beta[t + 1][s]] + ([beta[t + 1][s + 1]] if s + 1 < S else [])
            if s + 2 < S and path[s] != blank and path[s] != path[s + 2]:
                go.append(beta[t + 1][s + 2])
            beta[t][s] = log_add(*go) + logp[t, path[s]]
    total = log_add(alpha[T - 1][S - 1], *([alpha[T - 1][S - 2]] if S > 1 else []))
    dlogits = np.exp(logp)
    for t in range(T):
        for s in range(S):
            dlogits[t, path[s]] -= np.exp(alpha[t][s] + beta[t][s] - logp[t, path[s]] - total)
    return -total, dlogits
