"""Right cells that estimate: Kalman, an information filter, log-probabilities, least squares."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from benchmarks.right_cells._parts import blank, draw, sigmoid


def _t(a: Any) -> Any:
    return np.swapaxes(a, -1, -2)


def _sum(a: Any) -> Any:
    return a.sum(0)


class Gaussian(NamedTuple):
    """Mean ``(B, H)`` and covariance ``(B, H, H)``."""

    mean: Any
    cov: Any


class KalmanTrack:
    """A Kalman filter; nothing is symmetrised, so every state has the same derivative.

    m = mean A^T,  P = A cov A^T + diag(exp q)                   (1)
    L = P C^T,  S = C L + diag(exp r),  G = S^-1,  K = L G       (2)
    e = x - m C^T,  mean' = m + K e                              (3)
    cov' = P - K C P,  y = mean'                                 (4)
    """

    def init(self, rng, n_in, n_hidden):
        return {"A": 0.6 * draw(rng, n_hidden, n_hidden), "C": draw(rng, n_hidden, n_in).T.copy(),
                "q": np.full(n_hidden, -1.0), "r": np.zeros(n_in)}  # fmt: skip

    def initial_state(self, params, batch_size):
        d = len(params["q"])
        eye = np.eye(d, dtype=params["q"].dtype)
        return Gaussian(blank(params["q"], batch_size, d), np.repeat(eye[None], batch_size, 0))

    def step(self, params, state, x):
        A, C = params["A"], params["C"]
        m = state.mean @ A.T
        W = state.cov @ A.T
        P = A @ W + np.diag(np.exp(params["q"]))  # (1)
        L = P @ C.T
        G = np.linalg.inv(C @ L + np.diag(np.exp(params["r"])))
        K, M = L @ G, C @ P  # (2)
        e = x - m @ C.T
        mean = m + (K @ e[:, :, None])[:, :, 0]  # (3)
        return Gaussian(mean, P - K @ M), mean, (state, m, W, P, L, G, K, M, e)  # (4)

    def step_vjp(self, params, cache, d_state, d_y):
        A, C = params["A"], params["C"]
        state, m, W, P, L, G, K, M, e = cache
        d_mean, d_cov = d_state.mean + d_y, d_state.cov
        d_K = d_mean[:, :, None] * e[:, None] - d_cov @ _t(M)  # (3), (4)
        d_M = -_t(K) @ d_cov  # (4)
        d_e = (_t(K) @ d_mean[:, :, None])[:, :, 0]  # (3)
        d_G = _t(L) @ d_K  # (2)
        d_S = -_t(G) @ d_G @ _t(G)  # (2)
        d_L = d_K @ _t(G) + C.T @ d_S  # (2)
        d_P = d_cov + d_L @ C + C.T @ d_M  # (4), (2)
        d_C = _sum(d_S @ _t(L)) + _sum(_t(d_L) @ P) + _sum(d_M @ _t(P)) - d_e.T @ m
        d_m = d_mean - d_e @ C  # (3)
        d_W = A.T @ d_P  # (1)
        d_A = _sum(d_P @ _t(W)) + _sum(_t(d_W) @ state.cov) + d_m.T @ state.mean  # (1)
        d_params = {"A": d_A, "C": d_C, "q": np.einsum("bii->i", d_P) * np.exp(params["q"]),
                    "r": np.einsum("bii->i", d_S) * np.exp(params["r"])}  # fmt: skip
        return d_params, Gaussian(d_m @ A, d_W @ A), d_e


class InformationForm:
    """The same by precision and Cholesky: a state that is not positive definite has no step.

    u = x U,  t = x w,  f = sigmoid(a)                             (1)
    J' = f (J + J^T) / 2 + u^T u + c I                             (2)
    i' = f i + u t                                                 (3)
    y = J'^-1 i', by the factor of Cholesky                        (4)
    """

    c = 0.1

    def init(self, rng, n_in, n_hidden):
        return {"U": draw(rng, n_in, n_hidden), "w": draw(rng, n_in), "a": np.array(1.0)}

    def initial_state(self, params, batch_size):
        d = params["U"].shape[1]
        eye = np.eye(d, dtype=params["U"].dtype)
        return {"J": np.repeat(eye[None], batch_size, 0), "i": blank(params["U"], batch_size, d)}

    def step(self, params, state, x):
        J, i = state["J"], state["i"]
        u, t, f = x @ params["U"], (x @ params["w"])[:, None], sigmoid(params["a"])
        even = 0.5 * (J + _t(J))
        new = f * even + u[:, :, None] * u[:, None] + self.c * np.eye(u.shape[1], dtype=x.dtype)
        info = f * i + u * t  # (3)
        factor = np.linalg.cholesky(new)  # (4)
        half = np.linalg.solve(factor, info[:, :, None])
        y = np.linalg.solve(_t(factor), half)[:, :, 0]
        return {"J": new, "i": info}, y, (x, even, i, u, t, f, factor, y)

    def step_vjp(self, params, cache, d_state, d_y):
        x, even, i, u, t, f, factor, y = cache
        s = np.linalg.solve(_t(factor), np.linalg.solve(factor, d_y[:, :, None]))[:, :, 0]
        d_i = d_state["i"] + s  # (4)
        d_J = d_state["J"] - s[:, :, None] * y[:, None]  # (4)
        both = d_J + _t(d_J)
        d_u = (both @ u[:, :, None])[:, :, 0] + d_i * t  # (2), (3)
        d_t = (d_i * u).sum(1)  # (3)
        d_f = (d_J * even).sum() + (d_i * i).sum()  # (2), (3)
        d_params = {"U": x.T @ d_u, "w": x.T @ d_t, "a": np.asarray(d_f * f * (1 - f), x.dtype)}
        d_before = {"J": 0.5 * f * both, "i": f * d_i}  # (2), (3)
        return d_params, d_before, d_u @ params["U"].T + d_t[:, None] * params["w"]


class Alignment:
    """Log-probabilities of a chain that stays or moves on by one; states not yet reached are -inf.

    stay = -log(1 + exp(-m)), move = -log(1 + exp(m)),  e = log softmax(x E)       (1)
    s_j = log(exp(a_j + stay_j) + exp(a_(j-1) + move_(j-1)))                       (2)
    a' = s + e,  y = log sum exp(a')                                               (3)
    """

    def init(self, rng, n_in, n_hidden):
        return {"m": 0.5 * rng.standard_normal(n_hidden), "E": draw(rng, n_in, n_hidden)}

    def initial_state(self, params, batch_size):
        a = np.full((batch_size, len(params["m"])), -np.inf, params["m"].dtype)
        a[:, 0] = 0
        return a

    def step(self, params, a, x):
        m = params["m"]
        stays = a - np.logaddexp(0, -m)
        moves = np.full_like(a, -np.inf)
        moves[:, 1:] = (a - np.logaddexp(0, m))[:, :-1]
        s = np.logaddexp(stays, moves)  # (2)
        z = x @ params["E"]
        top = z.max(1, keepdims=True)
        e = z - top - np.log(np.exp(z - top).sum(1, keepdims=True))  # (1)
        new = s + e
        best = new.max(1, keepdims=True)
        y = best + np.log(np.exp(new - best).sum(1, keepdims=True))  # (3)
        return new, y, (x, stays, moves, s, e, new, y)

    def step_vjp(self, params, cache, d_state, d_y):
        x, stays, moves, s, e, new, y = cache
        d = d_state + d_y * np.exp(new - y)  # (3)
        d_z = d - np.exp(e) * d.sum(1, keepdims=True)  # (3), (1)
        reached = s > -np.inf
        safe = np.where(reached, s, 0)
        d_stay = d * np.where(reached, np.exp(stays - safe), 0)  # (2)
        d_move = np.zeros_like(d)
        d_move[:, :-1] = (d * np.where(reached, np.exp(moves - safe), 0))[:, 1:]  # (2)
        m = params["m"]
        d_m = d_stay.sum(0) * sigmoid(-m) - d_move.sum(0) * sigmoid(m)  # (1)
        return {"m": d_m, "E": x.T @ d_z}, d_stay + d_move, d_z @ params["E"].T


class LeastSquares:
    """Recursive least squares with a forgetting factor.

    u = tanh(x U), t = x w, f = sigmoid(a)                      (1)
    p = P u, r = u P, n = f + u . p                             (2)
    b' = b + p (t - u . b) / n                                  (3)
    P' = (P - p^T r / n) / f,  y = u . b'                       (4)
    """

    def init(self, rng, n_in, n_hidden):
        return {"U": draw(rng, n_in, n_hidden), "w": draw(rng, n_in), "a": np.array(3.0)}

    def initial_state(self, params, batch_size):
        d = params["U"].shape[1]
        eye = np.eye(d, dtype=params["U"].dtype)
        return blank(params["U"], batch_size, d), np.repeat(eye[None], batch_size, 0)

    def step(self, params, state, x):
        b, P = state
        u, t, f = np.tanh(x @ params["U"]), (x @ params["w"])[:, None], sigmoid(params["a"])
        p, r = np.einsum("bij,bj->bi", P, u), np.einsum("bj,bji->bi", u, P)
        n = f + (u * p).sum(1, keepdims=True)  # (2)
        e = t - (u * b).sum(1, keepdims=True)
        g = p / n
        b_new = b + g * e  # (3)
        P_new = (P - g[:, :, None] * r[:, None]) / f  # (4)
        y = (u * b_new).sum(1, keepdims=True)
        return (b_new, P_new), y, (x, b, P, u, f, r, n, e, g, b_new, P_new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, b, P, u, f, r, n, e, g, b_new, P_new = cache
        d_b = d_state[0] + d_y * u  # (4)
        d_Q = d_state[1] / f  # (4)
        d_g = d_b * e - np.einsum("bij,bj->bi", d_Q, r)  # (3), (4)
        d_r = -np.einsum("bij,bi->bj", d_Q, g)  # (4)
        d_e = (d_b * g).sum(1, keepdims=True)  # (3)
        d_n = -(d_g * g).sum(1, keepdims=True) / n
        d_p = d_g / n + d_n * u  # (2)
        d_u = d_y * b_new - d_e * b + d_n * g * n  # (4), (3), (2)
        d_u += np.einsum("bij,bi->bj", P, d_p) + np.einsum("bij,bj->bi", P, d_r)  # (2)
        d_P = d_Q + d_p[:, :, None] * u[:, None] + u[:, :, None] * d_r[:, None]  # (4), (2)
        d_f = d_n.sum() - (d_state[1] * P_new).sum() / f  # (2), (4)
        d_z = d_u * (1 - u * u)  # (1)
        d_params = {"U": x.T @ d_z, "w": x.T @ d_e[:, 0],
                    "a": np.asarray(d_f * f * (1 - f), x.dtype)}  # fmt: skip
        d_x = d_z @ params["U"].T + d_e * params["w"]
        return d_params, (d_b - d_e * u, d_P), d_x


CELLS = (KalmanTrack, InformationForm, Alignment, LeastSquares)
