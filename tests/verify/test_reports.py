"""What is printed of a right cell, of wrong ones and of what cannot be decided, as a whole.

Update: ``pytest tests/verify/test_reports.py --snapshot-update``, and read the difference.
"""

import re

import numpy as np
import pytest
from planted_bugs import Tanh, output

import bpttcheck


class Untraceable(Tanh):
    """Its step branches on a value, which JAX cannot trace."""

    def step(self, params, state, x):
        if float(x.sum()) > np.inf:
            x = x / 2
        return super().step(params, state, x)


class DoubleInside(Tanh):
    """Its outputs are float64 whatever it is given."""

    def step(self, params, state, x):
        h, _, cache = super().step(params, state, x)
        return h, h.astype(np.float64), cache


class Accumulates(Tanh):
    """Its gradients pile up across calls."""

    total = 0

    def d_params(self, d_z, x, h):
        right = super().d_params(d_z, x, h)
        self.total = self.total + right["b"].sum()
        return {**right, "b": right["b"] + self.total}


class MissingKey(Tanh):
    def d_params(self, d_z, x, h):
        return {"U": d_z.T @ x, "W": d_z.T @ h}


class Raises(Tanh):
    def step_vjp(self, params, cache, d_state, d_y):
        raise RuntimeError("no such kernel")


SUBJECTS = {
    "right": (Tanh(), {}),
    "a wrong sign": (output(Tanh, "d_x", np.negative), {}),
    "an error without a pattern": (output(Tanh, "W", lambda v: v * np.cos(np.arange(v.size)
        ).reshape(v.shape)), {}),
    "known to fail": (output(Tanh, "d_x", np.negative),
        {"expected_failures": {"step_vjp": "the input is never trained"}}),
    "known to fail and right": (Tanh(), {"expected_failures": {"step_vjp": "it used to fail"}}),
    "untraceable": (Untraceable(), {}),
    "untraceable where JAX is required": (Untraceable(), {"require": ["jax"]}),
    "a broken contract": (MissingKey(), {}),
    "raises": (Raises(), {}),
    "a dtype that does not stay": (DoubleInside(),
        {"checks": ["contract"], "strict": False, "dtypes": ["float32"]}),
    "impure": (Accumulates(), {"checks": ["purity"]}),
}  # fmt: skip

NUMBER = r"[-+]?\d+(\.\d+)?e[-+]?\d+|[-+]?\d+\.\d+|\binf\b"


def stable(text):
    """Without what differs between machines and with each edit: measured numbers, line numbers."""
    text = re.sub(r"(\w+\.py):\d+", r"\1:#", re.sub(NUMBER, "#", text))
    return re.sub(r"(?<=\S) {2,}", "  ", text)


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_report_reads_as_it_should(name, forks, snapshot):
    subject, changed = SUBJECTS[name]
    # One size: how many larger ones are tried depends on the time that they take.
    usual = {"checks": ["step_vjp"], "dtypes": ["float64"], "examples": 6, "sizes": [(2, 3)]}
    options = usual | changed
    report = bpttcheck.check(subject, raises=False, session=forks, **options)
    assert stable(str(report)) == snapshot
