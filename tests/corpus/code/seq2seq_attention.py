"""An encoder, a decoder with attention, teacher forcing and a cross-entropy: loss and gradients."""

import numpy as np


def softmax(a):
    e = np.exp(a - a.max())
    return e / e.sum()


def seq2seq_loss(source, target, E, We, Ue, Wd, Ud, Wo):
    """The first token that the decoder is given is 0; Wo reads its state and what it attends to."""
    H = Ue.shape[0]
    enc = [np.zeros(H)]
    for token in source:
        enc.append(np.tanh(We @ E[token] + Ue @ enc[-1]))
    memory = np.array(enc[1:])
    s, before, loss, steps = enc[-1], 0, 0.0, []
    for token in target:
        s_new = np.tanh(Wd @ E[before] + Ud @ s)
        alpha = softmax(memory @ s_new)
        both = np.concatenate([s_new, alpha @ memory])
        p = softmax(Wo @ both)
        loss += -np.log(p[token])
        steps.append((before, token, s, s_new, alpha, both, p))
        s, before = s_new, token
    dE, dWe, dUe, dWd, dUd, dWo = (np.zeros_like(w) for w in (E, We, Ue, Wd, Ud, Wo))
    dmemory, ds = np.zeros_like(memory), np.zeros(H)
    for before, token, s_prev, s_new, alpha, both, p in reversed(steps):
        dlogits = p.copy()
        dlogits[token] -= 1
        dWo += np.outer(dlogits, both)
        dboth = Wo.T @ dlogits
        dcontext = dboth[H:]
        dalpha = memory @ dcontext
        dscores = alpha * (dalpha - alpha @ dalpha)
        dmemory += np.outer(alpha, dcontext) + np.outer(dscores, s_new)
        da = (ds + dboth[:H] + memory.T @ dscores) * (1 - s_new**2)
        dWd += np.outer(da, E[before])
        dUd += np.outer(da, s_prev)
        dE[before] += Wd.T @ da
        ds = Ud.T @ da
    dh = ds
    for t in reversed(range(len(source))):
        da = (dh + dmemory[t]) * (1 - enc[t + 1] ** 2)
        dWe += np.outer(da, E[source[t]])
        dUe += np.outer(da, enc[t])
        dE[source[t]] += We.T @ da
        dh = Ue.T @ da
    return loss, (dE, dWe, dUe, dWd, dUd, dWo)
