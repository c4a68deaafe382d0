"""The sLSTM of xLSTM: exponential gates, a normaliser n, and a stabiliser m that keeps them finite.

    bpttcheck verify examples/gallery/slstm.py:SLSTM

The state is ``(h, c, n, m)``. ``a = [a_z, a_i, a_f, a_o]``, one part for each line below. Forward:

    a  = U x + R h + b                             (1)
    z  = tanh(a_z),  o = sigmoid(a_o)              (2)
    l  = log sigmoid(a_f) + m                      (3), the forget gate of the paper's two
    m' = max(l, a_i)                               (4)
    i  = exp(a_i - m'),  f = exp(l - m')           (5), neither exceeds 1
    c' = f c + i z                                 (6)
    n' = f n + i                                   (7)
    h' = o c' / N,  N = max(n', 1/2),  y = h'      (8)

By (4) one of i and f is 1, so n >= 1 gives n' >= 1. The state starts at n = 1, so N is n' in every
run, and the bound only keeps h' finite in states that no run reaches. Backward, ``d = d_h' + d_y``:

    d_o  = d c' / N                                from (8)
    D_c  = d_c' + d o / N                          from the next step, and from (8)
    D_n  = d_n' - d o c' / N^2 where n' > 1/2      from the next step, and from (8)
    P    = i (D_c z + D_n)                         from (6), from (7), both with (5)
    Q    = f (D_c c + D_n n)                       from (6), from (7), both with (5)
    s    = d_m' - P - Q                            the whole gradient of m': m' enters (5) twice
    d_ai = P + s where a_i > l, else P             from (5), and from (4)
    d_l  = Q where a_i > l, else Q + s             from (5), and from (4)
    d_c  = D_c f,  d_n = D_n f                     from (6), from (7)
    d_m  = d_l,  d_af = d_l (1 - sigmoid(a_f))     from (3)
    d_az = D_c i (1 - z^2),  d_ao = d_o o (1 - o)  from (6) and (2), from (2)
    d_U = d_a^T x,  d_R = d_a^T h,  d_b = sum of d_a,  d_x = d_a U,  d_h = d_a R     from (1)

(Written out, P + s is d_m' - Q and Q + s is d_m' - P: adding s itself would lose digits.)

Has m a gradient? P + Q = c' D_c + n' D_n by (6) and (7), and what (8) adds to D_c and D_n cancels
in it: s = d_m' - c' d_c' - n' d_n'. A loss that reads outputs alone stays the same when (c, n, m)
becomes (c e^k, n e^k, m - k), so its derivative by k, c d_c + n d_n - d_m, is zero at every step.
Then s = 0, and implementations may detach m'. But the state that is handed on depends on m', and
step_vjp must be right for every cotangent: s stays. Even with s = 0, d_m = d_l is not zero.

Source: Beck et al. (2024), "xLSTM: extended long short-term memory", equations 8 to 17,
with one head.
"""

import numpy as np


def sigmoid(z):
    return 0.5 * (1 + np.tanh(0.5 * z))  # overflows nowhere


class SLSTM:
    """c' = f c + i z and n' = f n + i with exponential gates; h' = o c' / n'."""

    def init(self, rng, n_in, n_hidden):
        shapes = {"U": (4 * n_hidden, n_in), "R": (4 * n_hidden, n_hidden), "b": (4 * n_hidden,)}
        return {k: rng.standard_normal(s) / np.sqrt(s[-1]) for k, s in shapes.items()}

    def initial_state(self, params, batch_size):
        zeros = np.zeros((batch_size, params["R"].shape[1]), params["R"].dtype)
        return zeros, zeros.copy(), np.ones_like(zeros), zeros.copy()

    def step(self, params, state, x):
        h, c, n, m = state
        a = x @ params["U"].T + h @ params["R"].T + params["b"]  # (1)
        a_z, a_i, a_f, a_o = np.split(a, 4, axis=1)
        z, o = np.tanh(a_z), sigmoid(a_o)  # (2)
        log_f = -np.logaddexp(0, -a_f) + m  # (3)
        m_new = np.maximum(log_f, a_i)  # (4)
        i, f = np.exp(a_i - m_new), np.exp(log_f - m_new)  # (5)
        c_new, n_new = f * c + i * z, f * n + i  # (6), (7)
        h_new = o * c_new / np.maximum(n_new, 0.5)  # (8)
        cache = (x, h, c, n, z, i, f, o, c_new, n_new, a_f, a_i > log_f)
        return (h_new, c_new, n_new, m_new), h_new, cache

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, c, n, z, i, f, o, c_new, n_new, a_f, input_wins = cache
        d_h_new, d_c_new, d_n_new, d_m_new = d_state
        d, N = d_h_new + d_y, np.maximum(n_new, 0.5)
        d_o = d * c_new / N  # (8)
        D_c = d_c_new + d * o / N  # (8)
        D_n = d_n_new - (d * o * c_new / N**2) * (n_new > 0.5)  # (8)
        P, Q = i * (D_c * z + D_n), f * (D_c * c + D_n * n)  # (6), (7), (5)
        d_i = np.where(input_wins, d_m_new - Q, P)  # (5), (4)
        d_l = np.where(input_wins, Q, d_m_new - P)  # (5), (4)
        d_f = d_l * sigmoid(-a_f)  # (3)
        d_a = np.hstack([D_c * i * (1 - z**2), d_i, d_f, d_o * o * (1 - o)])  # (2)
        d_params = {"U": d_a.T @ x, "R": d_a.T @ h, "b": d_a.sum(0)}  # (1)
        return d_params, (d_a @ params["R"], D_c * f, D_n * f, d_l), d_a @ params["U"]
