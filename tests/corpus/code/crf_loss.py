"""The negative log-likelihood of a linear-chain CRF, with marginals from forward and backward."""

import numpy as np


def logsumexp(a, axis):
    top = a.max(axis=axis, keepdims=True)
    return np.log(np.exp(a - top).sum(axis=axis)) + np.squeeze(top, axis=axis)


def crf_nll(emissions, transitions, tags):
    T, K = emissions.shape
    alpha, beta = np.zeros((T, K)), np.zeros((T, K))
    alpha[0] = emissions[0]
    for t in range(1, T):
        alpha[t] = emissions[t] + logsumexp(alpha[t - 1][:, None] + transitions, axis=0)
    for t in range(T - 2, -1, -1):
        beta[t] = logsumexp(transitions + (emissions[t + 1] + beta[t + 1])[None, :], axis=1)
    log_z = logsumexp(alpha[-1], axis=0)
    score = emissions[0, tags[0]]
    d_emissions = np.exp(alpha + beta - log_z)
    d_transitions = np.zeros_like(transitions)
    d_emissions[0, tags[0]] -= 1
    for t in range(1, T):
        score += emissions[t, tags[t]] + transitions[tags[t - 1], tags[t]]
        pair = alpha[t - 1][:, None] + transitions + (emissions[t] + beta[t])[None, :]
        d_transitions += np.exp(pair - log_z)
        d_transitions[tags[t - 1], tags[t]] -= 1
        d_emissions[t, tags[t]] -= 1
    return log_z - score, d_emissions, d_transitions
