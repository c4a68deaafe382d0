"""Scaled dot-product attention with queries and keys of two lengths."""

import numpy as np


def attention(q, k, v):
    scale = 1 / np.sqrt(q.shape[-1])
    scores = np.einsum("btd,bsd->bts", q, k) * scale
    scores = scores - scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores)
    weights = weights / weights.sum(axis=-1, keepdims=True)
    return np.einsum("bts,bse->bte", weights, v), weights


def attention_vjp(q, k, v, weights, d_out):
    scale = 1 / np.sqrt(q.shape[-1])
    dv = np.einsum("bts,bte->bse", weights, d_out)
    dweights = np.einsum("bte,bse->bts", d_out, v)
    dscores = weights * (dweights - (dweights * weights).sum(axis=-1, keepdims=True))
    dq = np.einsum("bts,bsd->btd", dscores, k) * scale
    dk = np.einsum("bts,btd->bsd", dscores, q) * scale
    return dq, dk, dv
