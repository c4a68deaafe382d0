"""The linear recurrent unit again, in complex arithmetic, with a state of real numbers.

    bpttcheck verify examples/gallery/lru_complex.py:ComplexLRU

Parameters, states and outputs of a cell are real. The state here is ``(p, q)`` as in lru.py, and
``s = p + i q`` is put together at the start of each step. Forward:

    lambda = exp(-exp(nu) + i exp(theta))                    (1)
    g  = sqrt(1 - |lambda|^2)                                (2)
    B  = B_re + i B_im,  C = C_re + i C_im                   (3)
    v  = B x                                                 (4)
    s' = lambda s + g v,  (p', q') = its two parts           (5)
    y  = Re(C s') + D x                                      (6)

Backward. The cotangent of a complex number holds those of its two parts, ``d_s = d_p + i d_q``:
neither halved nor conjugated. Then ``w = a z`` gives ``d_z = conj(a) d_w``: to multiply by ``a``
turns and stretches the plane, and the transpose of that turns it back. A real factor of a complex
product takes the real part of what a complex one would get.

    G   = d_s' + conj(C) d_y                                 from the next step, and from (6)
    d_C = d_y^T conj(s'),  d_D = d_y^T x                     from (6)
    d_s = conj(lambda) G,  (d_p, d_q) = its two parts        from (5)
    d_v = g G,  d_B = d_v^T x                                from (5), from (4)
    d_g = Re(sum over rows of conj(v) G)                     from (5), g is real
    d_e = conj(lambda) times the sum over rows of conj(s) G  from (1), from (5): e = log lambda
    d_nu = exp(nu) (d_g |lambda|^2 / g - Re d_e)             from (2), from (1)
    d_theta = exp(theta) Im d_e                              from (1)
    d_x = Re(d_v conj(B)) + d_y D                            from (4), from (6)

Source: Orvieto et al. (2023), "Resurrecting recurrent neural networks for long sequences",
section 3.
"""

import numpy as np


class ComplexLRU:
    """s' = lambda s + sqrt(1 - |lambda|^2) B x;  y = Re(C s') + D x, all complex but x, y and D."""

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
        s = state[0] + 1j * state[1]
        lam = np.exp(-np.exp(params["nu"]) + 1j * np.exp(params["theta"]))  # (1)
        g = np.sqrt(-np.expm1(-2 * np.exp(params["nu"])))  # (2) without cancellation
        B = params["B_re"] + 1j * params["B_im"]  # (3)
        C = params["C_re"] + 1j * params["C_im"]  # (3)
        v = x @ B.T  # (4)
        new = lam * s + g * v  # (5)
        y = (new @ C.T).real + x @ params["D"].T  # (6)
        return (new.real, new.imag), y, (x, s, lam, g, B, C, v, new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, s, lam, g, B, C, v, new = cache
        G = d_state[0] + 1j * d_state[1] + d_y @ C.conj()  # (6)
        d_s, d_v, d_C = lam.conj() * G, g * G, d_y.T @ new.conj()  # (5), (5), (6)
        d_B = d_v.T @ x  # (4)
        d_g = (v.conj() * G).real.sum(0)  # (5)
        d_e = lam.conj() * (s.conj() * G).sum(0)  # (5), (1)
        r = np.exp(params["nu"])
        d_params = {
            "nu": d_g * np.exp(-2 * r) * (r / g) - r * d_e.real,  # (2), (1)
            "theta": np.exp(params["theta"]) * d_e.imag,  # (1)
            "D": d_y.T @ x,  # (6)
        }
        d_params |= {"B_re": d_B.real, "B_im": d_B.imag, "C_re": d_C.real, "C_im": d_C.imag}  # (3)
        return d_params, (d_s.real, d_s.imag), (d_v @ B.conj()).real + d_y @ params["D"]  # (4), (6)
