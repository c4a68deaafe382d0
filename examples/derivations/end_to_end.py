"""Formulas as backward passes of a cell or layer, for the public door: ``bpttcheck.check``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import bpttcheck
from bpttcheck import activations, backpropagate, unroll
from bpttcheck.cells import Elman

Rule = Callable[..., "tuple[np.ndarray, np.ndarray]"]


@dataclass(frozen=True)
class FormulaCell(Elman):
    """The simple recurrent cell with a text's formula in its backward step.

    Args:
        name: what to call it.
        rule: from the parameters, ``f'(z)``, ``d_state`` and ``d_y`` to the error term that the
            parameters get and the one that goes on to the state before.
    """

    name: str = ""
    rule: Rule = field(default=lambda params, slope, d_state, d_y: (d_state, d_y), repr=False)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, z = cache
        slope = activations.get(self.activation).derivative(z)
        d_z, d_h = self.rule(params, slope, d_state, d_y)
        d_params = {"U": d_z.T @ x, "W": d_z.T @ h, "b": d_z.sum(axis=0)}
        d_x = ((d_state + d_y) * slope) @ params["U"]
        return d_params, d_h, d_x


def right(params, slope, d_state, d_y):
    """A1, A3, B2, C5, E8: what all of the right formulas come to."""
    d_z = (d_state + d_y) * slope
    return d_z, d_z @ params["W"]


def a4(params, slope, d_state, d_y):
    """The text has f "ignored": no slope anywhere."""
    d_h = d_state + d_y
    return d_h, d_h @ params["W"]


def a5(params, slope, d_state, d_y):
    """One Jacobian too many before the immediate derivative."""
    d_z = (d_state + d_y) * slope
    return (d_z @ params["W"]) * slope, d_z @ params["W"]


def b6(params, slope, d_state, d_y):
    """The term k = t, the step's own output, never reaches the parameters."""
    return d_state * slope, ((d_state + d_y) * slope) @ params["W"]


def e7(params, slope, d_state, d_y):
    """``diag(f') W^T`` times the gradient, where ``W^T diag(f')`` is right."""
    d = d_state + d_y
    return d * slope, (d @ params["W"]) * slope


@dataclass(frozen=True)
class LastTwo:
    """D1 and D2: of every loss, the last two steps before it alone."""

    name: str = "D1 and D2, the last two steps of every loss"
    supports_mask = False

    def init(self, rng, n_in, n_hidden):
        return Elman().init(rng, n_in, n_hidden)

    def initial_state(self, params, batch_size):
        return Elman().initial_state(params, batch_size)

    def forward(self, params, xs, state0, mask=None):
        return unroll(Elman(), params, xs, state0)

    def vjp(self, params, tape, d_ys, d_state_T):
        found = backpropagate(Elman(), params, tape, d_ys, d_state_T)
        d_params = {name: np.zeros_like(value) for name, value in params.items()}
        for t in range(len(tape.caches)):
            d = d_ys[t] + (d_state_T if t == len(tape.caches) - 1 else 0)
            for k in (t, t - 1)[: t + 1]:
                step, d, _ = Elman().step_vjp(params, tape.caches[k], d, np.zeros_like(d))
                d_params = {name: d_params[name] + step[name] for name in params}
        return d_params, found.d_xs, found.d_state0


SUBJECTS: dict[str, Any] = {
    "A4": FormulaCell("tanh", "A4", a4),
    "A5": FormulaCell("tanh", "A5", a5),
    "B6": FormulaCell("tanh", "B6", b6),
    "C5": FormulaCell("tanh", "C5", right),
    "D1": LastTwo(),
    "E7": FormulaCell("tanh", "E7, diag in front of W^T, and E8", e7),
}
"""By the formula's code."""


def reported(code: str) -> list[str]:
    """What ``bpttcheck.check`` says of it: the verdict, and each finding with its diagnosis."""
    subject = SUBJECTS[code]
    report = bpttcheck.check(
        subject, reference=Elman(), examples=20, dtypes=["float64"], raises=False,
        checks=["step_vjp"] if isinstance(subject, FormulaCell) else ["sequence_vjp"],
    )  # fmt: skip
    found = [f"{subject.name}: {report.verdict.value}"]
    by_diagnosis: dict[str, list[str]] = {}
    for finding in report.findings:
        told = finding.diagnoses[0] if finding.diagnoses else None
        said = f"{told.code}: {told.sentence}" if told else "no diagnosis fits"
        # Without the line of our own cell, which has nothing to do with the formula.
        said = re.sub(r",? at elman\.py:\d+: .*?# \(\d+\)", "", said).replace(finding.block, "it")
        by_diagnosis.setdefault(said, []).append(finding.block)
    return [*found, *(f"{', '.join(sorted(b))}: {said}" for said, b in by_diagnosis.items())]
