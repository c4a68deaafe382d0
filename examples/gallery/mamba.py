"""A selective state space, the recurrence of Mamba: step size, input and readout depend on x.

    bpttcheck verify examples/gallery/mamba.py:Mamba

Each of H channels has a state of N numbers: the state S is ``(B, H, N)``. Below, ``j`` is a
channel, ``k`` one of its numbers, and rows of the batch are left out. Forward:

    u    = W x                                     (1), the channels
    dt   = softplus(V x + v)                       (2), a step size for each channel
    b    = P x,  c = Q x                           (3), of N numbers each
    A_jk = -exp(L_jk)                              (4), always decaying
    E_jk = exp(dt_j A_jk)                          (5), exact over a step of dt
    S'_jk = E_jk S_jk + dt_j b_k u_j               (6)
    y_j  = sum over k of S'_jk c_k + D_j u_j       (7)

Backward, ``G`` the whole gradient of S':

    G_jk = d_S'_jk + d_y_j c_k                     from the next step, and from (7)
    d_S  = G E                                     from (6)
    F_jk = G_jk S_jk E_jk                          from (6) and (5): the gradient of dt_j A_jk
    d_dt = sum over k of F_jk A_jk + G_jk b_k u_j  from (5), from (6)
    d_L  = A times sum over rows of F_jk dt_j      from (5), from (4): d_A/d_L = A
    d_b  = sum over j of G_jk dt_j u_j             from (6)
    d_c  = sum over j of d_y_j S'_jk               from (7)
    d_u  = sum over k of G_jk dt_j b_k + d_y D     from (6), from (7)
    d_D  = sum over rows of d_y u                  from (7)
    d_a  = d_dt sigmoid(V x + v)                   from (2), before the softplus
    d_W = d_u^T x,  d_V = d_a^T x,  d_v = sum of d_a,  d_P = d_b^T x,  d_Q = d_c^T x
    d_x = d_u W + d_a V + d_b P + d_c Q            from (1), (2), (3)

Source: Gu and Dao (2023), "Mamba: linear-time sequence modeling with selective state spaces",
algorithm 2; as there in practice, the input in (6) has Euler's dt b in the place of the exact form.
"""

import numpy as np


def sigmoid(z):
    return 0.5 * (1 + np.tanh(0.5 * z))  # overflows nowhere


class Mamba:
    """S' = exp(dt A) S + dt b u and y = S' c + D u, with dt, b and c made from the input."""

    def __init__(self, n_state=3):
        self.n_state = n_state

    def init(self, rng, n_in, n_hidden):
        H, N = n_hidden, self.n_state
        shapes = {"W": (H, n_in), "V": (H, n_in), "P": (N, n_in), "Q": (N, n_in)}
        params = {k: rng.standard_normal(s) / np.sqrt(n_in) for k, s in shapes.items()}
        L = np.tile(np.log(np.arange(1.0, N + 1)), (H, 1))
        return params | {"v": rng.uniform(-2, 0, H), "L": L, "D": np.ones(H)}

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, *params["L"].shape), params["L"].dtype)

    def step(self, params, S, x):
        u = x @ params["W"].T  # (1)
        z = x @ params["V"].T + params["v"]
        dt = np.logaddexp(0, z)  # (2)
        b, c = x @ params["P"].T, x @ params["Q"].T  # (3)
        E = np.exp(dt[:, :, None] * -np.exp(params["L"]))  # (4), (5)
        new = E * S + (dt * u)[:, :, None] * b[:, None, :]  # (6)
        y = (new * c[:, None, :]).sum(2) + params["D"] * u  # (7)
        return new, y, (x, S, u, z, dt, b, c, E, new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, S, u, z, dt, b, c, E, new = cache
        A = -np.exp(params["L"])  # (4)
        G = d_state + d_y[:, :, None] * c[:, None, :]  # (7)
        F = G * S * E  # (6), (5)
        G_b = (G * b[:, None, :]).sum(2)
        d_dt = (F * A).sum(2) + G_b * u  # (5), (6)
        d_u = G_b * dt + d_y * params["D"]  # (6), (7)
        d_a = d_dt * sigmoid(z)  # (2)
        d_b = (G * (dt * u)[:, :, None]).sum(1)  # (6)
        d_c = (d_y[:, :, None] * new).sum(1)  # (7)
        d_L = A * (F * dt[:, :, None]).sum(0)  # (5), (4)
        d_params = {"W": d_u.T @ x, "D": (d_y * u).sum(0), "L": d_L}  # (1), (7)
        d_params |= {"V": d_a.T @ x, "v": d_a.sum(0), "P": d_b.T @ x, "Q": d_c.T @ x}  # (2), (3)
        d_x = d_u @ params["W"] + d_a @ params["V"] + d_b @ params["P"] + d_c @ params["Q"]
        return d_params, G * E, d_x  # (6)
