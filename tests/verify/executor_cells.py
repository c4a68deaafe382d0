"""Cells at the top of a module, where other processes find them."""

import os
import warnings

import numpy as np

from bpttcheck.cells import Elman


class Warns(Elman):
    """Right, and warns of what it is given."""

    def step_vjp(self, params, cache, d_state, d_y):
        warnings.warn(f"a batch of {len(d_y)}", stacklevel=2)
        return super().step_vjp(params, cache, d_state, d_y)


class NegativeInput(Elman):
    """``d_x`` has the wrong sign."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h, -d_x


class Raises(Elman):
    """Refuses large weights."""

    def step(self, params, state, x):
        if np.abs(params["W"]).max() > 5:
            raise RuntimeError("too large")
        return super().step(params, state, x)


class Remembers(Elman):
    """Every other call is wrong."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def step_vjp(self, params, cache, d_state, d_y):
        self.calls += 1
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h, d_x * (1 + self.calls % 2)


class Dies(Elman):
    """Ends every process but the one that made it."""

    def __init__(self):
        super().__init__()
        self.home = os.getpid()

    def step(self, params, state, x):
        if os.getpid() != self.home:
            os._exit(3)
        return super().step(params, state, x)
