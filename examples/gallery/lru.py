"""The linear recurrent unit: a diagonal complex recurrence, in real numbers.

    bpttcheck verify examples/gallery/lru.py:LRU

A complex number is two reals; the state is ``(p, q)`` for ``p + i q``. B, C and D are matrices;
everything else has one value for each unit, and products are element-wise. Forward:

    r = exp(nu),  w = exp(theta),  e = exp(-r)               (1)
    (a, b) = (e cos w, e sin w), the two parts of lambda     (2)
    g = sqrt(1 - e^2), so that the state keeps its size      (3)
    s = B_re x,  t = B_im x                                  (4)
    p' = a p - b q + g s                                     (5), real part
    q' = a q + b p + g t                                     (6), imaginary part
                                                             of lambda (p + i q) + g B x
    y  = C_re p' - C_im q' + D x                             (7), real part of C (p' + i q')

Backward, ``d_p`` and ``d_q`` the derivatives by either part:

    D_p = d_p' + d_y C_re,  D_q = d_q' - d_y C_im            from the next step, and from (7)
    d_Cre = d_y^T p',  d_Cim = -d_y^T q',  d_D = d_y^T x     from (7)
    d_p = a D_p + b D_q,  d_q = a D_q - b D_p                from (5) and (6): conjugate of lambda
    d_a = sum of D_p p + D_q q over the rows                 from (5), from (6)
    d_b = sum of D_q p - D_p q over the rows                 from (6), from (5)
    d_g = sum of D_p s + D_q t over the rows                 from (5), from (6)
    d_w = a d_b - b d_a,  d_theta = d_w w                    from (2), from (1)
    d_nu = -r (a d_a + b d_b - d_g e^2 / g)                  from (2), from (3); de/dnu = -r e
    d_s = g D_p,  d_t = g D_q                                from (5), from (6)
    d_Bre = d_s^T x,  d_Bim = d_t^T x                        from (4)
    d_x = d_s B_re + d_t B_im + d_y D                        from (4), from (7)

Source: Orvieto et al. (2023), "Resurrecting recurrent neural networks for long sequences": the
exponential parametrisation and the normalisation of its section 3; here g is always that of (3).
"""

import numpy as np


class LRU:
    """p' + i q' = lambda (p + i q) + sqrt(1 - |lambda|^2) B x;  y = Re(C (p' + i q')) + D x."""

    def init(self, rng, n_in, n_hidden):
        radius, phase = rng.uniform(0.4, 0.9, n_hidden), rng.uniform(0.1, 1.0, n_hidden)
        params = {"nu": np.log(-np.log(radius)), "theta": np.log(phase)}
        for name in ("B_re", "B_im"):
            params[name] = rng.standard_normal((n_hidden, n_in)) / np.sqrt(2 * n_in)
        for name in ("C_re", "C_im"):
            params[name] = rng.standard_normal((n_in, n_hidden)) / np.sqrt(n_hidden)
        return params | {"D": rng.standard_normal((n_in, n_in)) / np.sqrt(n_in)}

    def initial_state(self, params, batch_size):
        zeros = np.zeros((batch_size, len(params["nu"])), params["nu"].dtype)
        return zeros, zeros.copy()

    def step(self, params, state, x):
        p, q = state
        r, w = np.exp(params["nu"]), np.exp(params["theta"])  # (1)
        e, g = np.exp(-r), np.sqrt(-np.expm1(-2 * r))  # (1), (3) without cancellation
        a, b = e * np.cos(w), e * np.sin(w)  # (2)
        s, t = x @ params["B_re"].T, x @ params["B_im"].T  # (4)
        p_new, q_new = a * p - b * q + g * s, a * q + b * p + g * t  # (5), (6)
        y = p_new @ params["C_re"].T - q_new @ params["C_im"].T + x @ params["D"].T  # (7)
        return (p_new, q_new), y, (x, p, q, r, w, e, g, a, b, s, t, p_new, q_new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, p, q, r, w, e, g, a, b, s, t, p_new, q_new = cache
        D_p, D_q = d_state[0] + d_y @ params["C_re"], d_state[1] - d_y @ params["C_im"]  # (7)
        d_a, d_b = (D_p * p + D_q * q).sum(0), (D_q * p - D_p * q).sum(0)  # (5), (6)
        d_g = (D_p * s + D_q * t).sum(0)  # (5), (6)
        d_s, d_t = g * D_p, g * D_q  # (5), (6)
        d_params = {
            "nu": -r * (a * d_a + b * d_b) + d_g * e**2 * (r / g),  # (2), (3), (1)
            "theta": w * (a * d_b - b * d_a),  # (2), (1)
            "B_re": d_s.T @ x,  # (4)
            "B_im": d_t.T @ x,  # (4)
            "C_re": d_y.T @ p_new,  # (7)
            "C_im": -d_y.T @ q_new,  # (7)
            "D": d_y.T @ x,  # (7)
        }
        d_x = d_s @ params["B_re"] + d_t @ params["B_im"] + d_y @ params["D"]  # (4), (7)
        return d_params, (a * D_p + b * D_q, a * D_q - b * D_p), d_x  # (5), (6)
