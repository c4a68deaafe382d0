"""Right cells with a matrix function or an equation inside, differentiated implicitly."""

from __future__ import annotations

import numpy as np
from scipy.linalg import expm, expm_frechet, solve_triangular

from benchmarks.right_cells._parts import blank, draw


class SkewRotation:
    """R = exp(A - A^T),  h' = h R + tanh(x U),  y = h'.  The state keeps its length."""

    def init(self, rng, n_in, n_hidden):
        return {
            "A": 0.3 * rng.standard_normal((n_hidden, n_hidden)),
            "U": draw(rng, n_in, n_hidden),
        }

    def initial_state(self, params, batch_size):
        return blank(params["A"], batch_size, len(params["A"]))

    def step(self, params, h, x):
        R = expm(params["A"] - params["A"].T).astype(x.dtype)
        c = np.tanh(x @ params["U"])
        new = h @ R + c
        return new, new, (x, h, R, c)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, R, c = cache
        d = d_state + d_y
        # The adjoint of the derivative of exp at S is its derivative at S^T.
        skew = params["A"] - params["A"].T
        d_S = expm_frechet(skew.T, h.T @ d, compute_expm=False).astype(x.dtype)
        d_c = d * (1 - c * c)
        return {"A": d_S - d_S.T, "U": x.T @ d_c}, d @ R.T, d_c @ params["U"].T


class BackwardEuler:
    """h' (I - s A) = h + s tanh(x U + b): an implicit step of a linear equation; y = h'.

    With d = d_state + d_y and g (I - s A)^T = d:
    d_h = g,  d_A = s h'^T g,  d_(tanh) = s g.
    """

    s = 0.2

    def init(self, rng, n_in, n_hidden):
        A = draw(rng, n_hidden, n_hidden) - np.eye(n_hidden)
        return {"A": A, "U": draw(rng, n_in, n_hidden), "b": np.zeros(n_hidden)}

    def initial_state(self, params, batch_size):
        return blank(params["b"], batch_size, len(params["b"]))

    def step(self, params, h, x):
        c = np.tanh(x @ params["U"] + params["b"])
        J = np.eye(h.shape[1], dtype=x.dtype) - self.s * params["A"]
        new = np.linalg.solve(J.T, (h + self.s * c).T).T
        return new, new, (x, c, J, new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, c, J, new = cache
        g = np.linalg.solve(J, (d_state + d_y).T).T
        d_z = self.s * g * (1 - c * c)
        return {"A": self.s * new.T @ g, "U": x.T @ d_z, "b": d_z.sum(0)}, g, d_z @ params["U"].T


class Cayley:
    """Q = (I + S)^-1 (I - S) with S = A - A^T is orthogonal;  z = h Q + x U.

    The new state and output is z / sqrt(1 + z^2).
    d_Q = h^T d_z;  with G = (I + S)^-T d_Q:  d_S = -G - G Q^T,  d_A = d_S - d_S^T.
    """

    def init(self, rng, n_in, n_hidden):
        return {"A": draw(rng, n_hidden, n_hidden), "U": draw(rng, n_in, n_hidden)}

    def initial_state(self, params, batch_size):
        return blank(params["A"], batch_size, len(params["A"]))

    def step(self, params, h, x):
        S = params["A"] - params["A"].T
        eye = np.eye(len(S), dtype=x.dtype)
        Q = np.linalg.solve(eye + S, eye - S)
        z = h @ Q + x @ params["U"]
        root = np.sqrt(1 + z * z)
        return z / root, z / root, (x, h, S, Q, root)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, S, Q, root = cache
        d_z = (d_state + d_y) / root**3
        G = np.linalg.solve((np.eye(len(S), dtype=x.dtype) + S).T, h.T @ d_z)
        d_S = -G - G @ Q.T
        return {"A": d_S - d_S.T, "U": x.T @ d_z}, d_z @ Q.T, d_z @ params["U"].T


class RootOfEquation:
    """h' + k tanh(h') = z with z = h R + x U + b and k = exp(l), found by Newton's rounds from 0.

    Every round from 0 stays below the root.  d_z = d / (1 + k (1 - tanh^2 h')),
    d_l = -k sum d_z tanh h'.
    """

    rounds = 18

    def init(self, rng, n_in, n_hidden):
        return {"R": draw(rng, n_hidden, n_hidden), "U": draw(rng, n_in, n_hidden),
                "b": np.zeros(n_hidden), "l": np.zeros(n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        return blank(params["b"], batch_size, len(params["b"]))

    def step(self, params, h, x):
        z = h @ params["R"] + x @ params["U"] + params["b"]
        k = np.exp(params["l"])
        new = np.zeros_like(z)
        for _ in range(self.rounds):
            t = np.tanh(new)
            new = new - (new + k * t - z) / (1 + k * (1 - t * t))
        return new, new, (x, h, k, new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, k, new = cache
        t = np.tanh(new)
        d_z = (d_state + d_y) / (1 + k * (1 - t * t))
        d_params = {"R": h.T @ d_z, "U": x.T @ d_z, "b": d_z.sum(0), "l": -k * (d_z * t).sum(0)}
        return d_params, d_z @ params["R"].T, d_z @ params["U"].T


class Whitener:
    """L z = h R + x U with L lower triangular, ones on its diagonal;  h' = arctan z.

    g = L^-T d_z;  d_L = -g^T z below the diagonal.
    """

    def init(self, rng, n_in, n_hidden):
        return {"L": 0.4 * rng.standard_normal((n_hidden, n_hidden)),
                "R": draw(rng, n_hidden, n_hidden), "U": draw(rng, n_in, n_hidden)}  # fmt: skip

    def initial_state(self, params, batch_size):
        return blank(params["L"], batch_size, len(params["L"]))

    def step(self, params, h, x):
        a = h @ params["R"] + x @ params["U"]
        z = solve_triangular(params["L"], a.T, lower=True, unit_diagonal=True).T if len(a) else a
        new = np.arctan(z)
        return new, new, (x, h, z)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, z = cache
        d_z = (d_state + d_y) / (1 + z * z)
        g = d_z
        if len(z):
            g = solve_triangular(params["L"], d_z.T, trans=1, lower=True, unit_diagonal=True).T
        d_params = {"L": np.tril(-g.T @ z, -1), "R": h.T @ g, "U": x.T @ g}
        return d_params, g @ params["R"].T, g @ params["U"].T


CELLS = (SkewRotation, BackwardEuler, Cayley, RootOfEquation, Whitener)
