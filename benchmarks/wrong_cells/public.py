"""Mistakes that stand in public code: each backward loop is written out in full."""

from __future__ import annotations

import numpy as np

from benchmarks.wrong_cells.base import WrongLayer, at


class _Loop(WrongLayer):
    """The textbook loop; each class below changes one line of it."""

    def forward(self, params, xs, state0, mask=None):
        return self.right.forward(params, xs, state0, mask)


class StartsFromParameters(_Loop):
    kind, where = "public", "the buffers of the gradients start as copies of the parameters"

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs, real = tape
        grads = {key: value.copy() for key, value in params.items()}
        d_xs, d = np.zeros_like(xs), d_state_T
        for t in reversed(range(len(xs))):
            d_z = np.where(real[t], (d + d_ys[t]) * (1 - hs[t + 1] ** 2), 0)
            grads["U"] += xs[t].T @ d_z
            grads["R"] += hs[t].T @ d_z
            grads["b"] += d_z.sum(0)
            d_xs[t] = d_z @ params["U"].T
            d = np.where(real[t], d_z @ params["R"].T, d)
        return grads, d_xs, d


class NeverStored(_Loop):
    kind, where = "public", "d_xs of the first step is computed and not stored"

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs, real = tape
        grads = {key: np.zeros_like(value) for key, value in params.items()}
        d_xs, d = np.zeros_like(xs), d_state_T
        for t in reversed(range(len(xs))):
            d_z = np.where(real[t], (d + d_ys[t]) * (1 - hs[t + 1] ** 2), 0)
            grads["U"] += xs[t].T @ d_z
            grads["R"] += hs[t].T @ d_z
            grads["b"] += d_z.sum(0)
            d_x = d_z @ params["U"].T
            if t > 0:
                d_xs[t] = d_x
            d = np.where(real[t], d_z @ params["R"].T, d)
        return grads, d_xs, d


class SameStep(_Loop):
    kind, where = "public", "d_R is taken with this step's output instead of the one before"

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs, real = tape
        grads = {key: np.zeros_like(value) for key, value in params.items()}
        d_xs, d = np.zeros_like(xs), d_state_T
        for t in reversed(range(len(xs))):
            d_z = np.where(real[t], (d + d_ys[t]) * (1 - hs[t + 1] ** 2), 0)
            grads["U"] += xs[t].T @ d_z
            grads["R"] += hs[t + 1].T @ d_z
            grads["b"] += d_z.sum(0)
            d_xs[t] = d_z @ params["U"].T
            d = np.where(real[t], d_z @ params["R"].T, d)
        return grads, d_xs, d


class WrapsAround(_Loop):
    kind, where = "public", "outputs[t - 1] at t = 0 is the output of the last step"

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs, real = tape
        outputs = hs[1:]
        grads = {key: np.zeros_like(value) for key, value in params.items()}
        d_xs, d = np.zeros_like(xs), d_state_T
        for t in reversed(range(len(xs))):
            d_z = np.where(real[t], (d + d_ys[t]) * (1 - outputs[t] ** 2), 0)
            grads["U"] += xs[t].T @ d_z
            grads["R"] += outputs[t - 1].T @ d_z
            grads["b"] += d_z.sum(0)
            d_xs[t] = d_z @ params["U"].T
            d = np.where(real[t], d_z @ params["R"].T, d)
        return grads, d_xs, d


class SlopeOfOutput(_Loop):
    kind, where = "public", "the slope of tanh is taken at the output: 1 - tanh(h)^2"

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs, real = tape
        d_z, d = np.zeros_like(hs[1:]), d_state_T
        for t in reversed(range(len(xs))):
            d_z[t] = np.where(real[t], (d + d_ys[t]) * (1 - np.tanh(hs[t + 1]) ** 2), 0)
            d = np.where(real[t], d_z[t] @ params["R"].T, d)
        return self.right.gathered(params, tape, d_z, d)


class CarryOutside(_Loop):
    kind, where = "public", "the carry is assigned after the loop instead of in it"

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs, real = tape
        d_z, d = np.zeros_like(hs[1:]), d_state_T
        back = d
        for t in reversed(range(len(xs))):
            d_z[t] = np.where(real[t], (d + d_ys[t]) * (1 - hs[t + 1] ** 2), 0)
            back = np.where(real[t], d_z[t] @ params["R"].T, d)
        d = back
        return self.right.gathered(params, tape, d_z, d)


class MeanAndSum(_Loop):
    kind, where = "public", "d_params is divided by the rows of the batch: the loss is a sum here"
    probe = at(B=4)

    def change(self, params, tape, d_ys, d_state_T, d_params, d_xs, d_h):
        rows = max(d_xs.shape[1], 1)
        return {key: value / rows for key, value in d_params.items()}, d_xs, d_h


class LastOutputAlways(_Loop):
    kind, where = "public", "the cotangent of the last output is added at every step"

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs, real = tape
        d_z, d = np.zeros_like(hs[1:]), d_state_T
        for t in reversed(range(len(xs))):
            d_out = d_ys[t] if t == len(xs) - 1 else d_ys[t] + d_ys[-1]
            d_z[t] = np.where(real[t], (d + d_out) * (1 - hs[t + 1] ** 2), 0)
            d = np.where(real[t], d_z[t] @ params["R"].T, d)
        return self.right.gathered(params, tape, d_z, d)


class FirstRowOnly(_Loop):
    kind, where = "public", "d_R is the outer product of row 0: written for one sequence at a time"

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs, real = tape
        grads = {key: np.zeros_like(value) for key, value in params.items()}
        d_xs, d = np.zeros_like(xs), d_state_T
        for t in reversed(range(len(xs))):
            d_z = np.where(real[t], (d + d_ys[t]) * (1 - hs[t + 1] ** 2), 0)
            grads["U"] += xs[t].T @ d_z
            if len(d_z):
                grads["R"] += np.outer(hs[t][0], d_z[0])
            grads["b"] += d_z.sum(0)
            d_xs[t] = d_z @ params["U"].T
            d = np.where(real[t], d_z @ params["R"].T, d)
        return grads, d_xs, d


CELLS = (
    StartsFromParameters, NeverStored, SameStep, WrapsAround, SlopeOfOutput, CarryOutside,
    MeanAndSum, LastOutputAlways, FirstRowOnly,
)  # fmt: skip
