"""The networks that the formulas are about, with a tap at every quantity a formula speaks of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bpttcheck import activations

K = 2
"""The number of classes of the readout."""


@dataclass(frozen=True)
class Layout:
    """Where the columns of ``x`` lie: the input, the target, and taps that are zero.

    Args:
        n: inputs of the network.
        H: hidden units.
    """

    n: int
    H: int

    @property
    def widths(self) -> dict[str, int]:
        """The width of every group of columns."""
        n, H = self.n, self.H
        return {"x": n, "y": K, "z": H, "h": H, "o": K, "W": H * H, "U": H * n}

    @property
    def width(self) -> int:
        """The number of columns."""
        return sum(self.widths.values())

    def columns(self, name: str) -> slice:
        """The columns of one group."""
        start = 0
        for group, wide in self.widths.items():
            if group == name:
                return slice(start, start + wide)
            start += wide
        raise KeyError(name)

    @classmethod
    def of(cls, params: dict) -> Layout:
        """The layout that belongs to parameters."""
        H, n = params["U"].shape
        return cls(n, H)


@dataclass(frozen=True)
class Network:
    """The simple recurrent network with a softmax readout and the cross-entropy of each step.

    Forward, with ``x = [x_in, target, e_z, e_h, e_o, E_W, E_U]``, where every tap ``e`` is zero::

        z  = x_in @ (U + E_U).T + h @ (W + E_W).T + b + e_z               (1)
        h' = f(z) + e_h                                                   (2)
        o  = h' @ V.T + c + e_o                                           (3)
        y  = [log sum exp(o) - o target, z, o]                            (4)

    The gradient with respect to a tap is what the texts call an error term: that of ``e_z`` is
    ``dE/dnet_t``, of ``e_h`` ``dE/dh_t``, of ``E_W`` the gradient with untied weights.

    Args:
        activation: the name of ``f``.
    """

    activation: str = "tanh"

    def init(self, rng, n_in, n_hidden):
        H = n_hidden
        n = (n_in - 2 * K - 2 * H - H * H) // (1 + H)
        draw = lambda *shape: rng.standard_normal(shape) / np.sqrt(shape[-1])  # noqa: E731
        return {"U": draw(H, n), "W": draw(H, H), "b": draw(H), "V": draw(K, H), "c": draw(K)}

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["b"])), params["b"].dtype)

    @property
    def sizes(self):
        """The widths that :class:`Layout` allows, as a Hypothesis strategy."""
        from hypothesis import strategies as st

        pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
        return pairs.map(lambda pair: (Layout(*pair).width, pair[1]))

    def step(self, params, state, x):
        f, layout, B = activations.get(self.activation), Layout.of(params), len(x)
        n, H = layout.n, layout.H
        x_in, target, e_z, e_h, e_o = (x[:, layout.columns(name)] for name in "xyzho")
        E_W = x[:, layout.columns("W")].reshape(B, H, H)
        E_U = x[:, layout.columns("U")].reshape(B, H, n)
        z = x_in @ params["U"].T + state @ params["W"].T + params["b"] + e_z
        z = z + (E_W @ state[:, :, None])[:, :, 0] + (E_U @ x_in[:, :, None])[:, :, 0]  # (1)
        h = f.value(z) + e_h  # (2)
        o = h @ params["V"].T + params["c"] + e_o  # (3)
        most = o.max(axis=1, keepdims=True)
        total = most + np.log(np.exp(o - most).sum(axis=1, keepdims=True))
        loss = total - (o * target).sum(axis=1, keepdims=True)
        return h, np.concatenate([loss, z, o], axis=1), (x, state, z, h, o, E_W, E_U)  # (4)

    def step_vjp(self, params, cache, d_state, d_y):
        f, layout = activations.get(self.activation), Layout.of(params)
        x, state, z, h, o, E_W, E_U = cache
        H, B = layout.H, len(x)
        x_in, target = x[:, layout.columns("x")], x[:, layout.columns("y")]
        d_loss, d_z_out, d_o_out = d_y[:, :1], d_y[:, 1 : 1 + H], d_y[:, 1 + H :]
        weights = np.exp(o - o.max(axis=1, keepdims=True))
        p = weights / weights.sum(axis=1, keepdims=True)
        d_o = d_o_out + d_loss * (p - target)  # (4)
        d_h = d_state + d_o @ params["V"]  # (3)
        d_z = d_z_out + d_h * f.derivative(z)  # (2)
        d_E_W = d_z[:, :, None] * state[:, None, :]  # (1)
        d_E_U = d_z[:, :, None] * x_in[:, None, :]
        d_params = {
            "U": d_E_U.sum(axis=0),
            "W": d_E_W.sum(axis=0),
            "b": d_z.sum(axis=0),
            "V": d_o.T @ h,
            "c": d_o.sum(axis=0),
        }
        d_previous = d_z @ params["W"] + (d_z[:, None, :] @ E_W)[:, 0]
        d_x_in = d_z @ params["U"] + (d_z[:, None, :] @ E_U)[:, 0]
        d_target = -d_loss * o
        taps = [d_z, d_h, d_o, d_E_W.reshape(B, -1), d_E_U.reshape(B, -1)]
        return d_params, d_previous, np.concatenate([d_x_in, d_target, *taps], axis=1)
