"""What the tests of planted bugs share: subjects, problems, and both sides of a comparison."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from bpttcheck import trees
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.cells import builtin
from bpttcheck.contract import is_cell, is_float
from bpttcheck.mutants import VjpResult, catalogue

SIZES = {"jordan_teacher_forced": tuple((n, h) for n in range(2, 6) for h in range(1, 7))}
"""The sizes that a subject takes, where it does not take all."""


class Counting:
    """``h' = tanh(z) / (1 + n)``, ``c' = c / 2 + h'``, ``y = c' V`` and ``n`` counts the steps."""

    def init(self, rng, n_in, n_hidden):
        shapes = {"U": (n_hidden, n_in), "W": (n_hidden, n_hidden), "b": (n_hidden,),
                  "V": (n_hidden, 2)}  # fmt: skip
        return {key: rng.standard_normal(s) / np.sqrt(s[-1]) for key, s in shapes.items()}

    def initial_state(self, params, batch_size):
        zeros = np.zeros((batch_size, len(params["b"])), params["b"].dtype)
        return {"h": zeros, "n": np.zeros(batch_size, np.int64), "c": zeros.copy()}

    def step(self, params, state, x):
        h, n, c = state["h"], state["n"], state["c"]
        share = (1 / (1 + n[:, None])).astype(x.dtype)
        a = np.tanh(x @ params["U"].T + h @ params["W"].T + params["b"])
        c_new = 0.5 * c + share * a
        new = {"h": share * a, "n": n + 1, "c": c_new}
        return new, c_new @ params["V"], {"x": x, "h": h, "a": a, "share": share, "c_new": c_new}

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, a, share = cache["x"], cache["h"], cache["a"], cache["share"]
        d_c = d_state["c"] + d_y @ params["V"].T
        d_z = share * (d_state["h"] + d_c) * (1 - a**2)
        d_params = {"U": d_z.T @ x, "W": d_z.T @ h, "b": d_z.sum(0), "V": cache["c_new"].T @ d_y}
        d_before = {"h": d_z @ params["W"], "n": np.zeros(len(x), x.dtype), "c": 0.5 * d_c}
        return d_params, d_before, d_z @ params["U"]


@dataclass(frozen=True)
class Case:
    """One sequence, its mask and its cotangents."""

    params: dict
    xs: np.ndarray
    state0: Any
    mask: np.ndarray | None
    d_ys: np.ndarray
    d_state: Any

    @property
    def arrays(self):
        return [*self.params.values(), self.xs, *trees.leaves(self.state0), self.d_ys,
                *trees.leaves(self.d_state)]  # fmt: skip


def special(values, case) -> Case:
    """A problem whose arrays are as a rare mutant needs them: a key of ``VALUES``.

    A condition on a row or an entry holds at every step: of a cell only the first one is run.
    """
    xs, d_ys = case.xs.copy(), case.d_ys.copy()
    d_state = trees.map_leaves(np.copy, case.d_state)
    nothing = trees.map_leaves(np.zeros_like, d_state)
    if values == "zero_row":
        xs[:, -1] = 0
    elif values in ("large_x", "far_x"):
        xs[:, 0, 0] = {"large_x": 6.0, "far_x": 11.0}[values]
    elif values == "one_hot":
        xs[:] = 0
        xs[..., -1] = 1
    elif values == "equal_rows":
        xs[:, -1] = xs[:, 0]
    elif values == "one_sign":
        d_ys = np.abs(d_ys)
    elif values == "no_d_y":
        d_ys[:] = 0
    elif values in ("no_d_state", "one_output"):
        d_state = nothing
        if values == "one_output":
            d_ys[..., :-1] = 0
    elif values in ("huge", "tiny"):
        by = {"huge": 1e12, "tiny": 1e-33}[values]
        d_ys, d_state = by * d_ys, trees.map_leaves(lambda leaf: by * leaf, d_state)
    elif values == "fortran":
        turned = {key: np.asfortranarray(value) for key, value in case.params.items()}
        d_state = trees.map_leaves(np.asfortranarray, d_state)
        # Every step alone in Fortran order: a cell is handed one of them.
        d_ys = np.asfortranarray(d_ys.transpose(1, 2, 0)).transpose(2, 0, 1)
        return replace(case, params=turned, d_ys=d_ys, d_state=d_state)
    elif values == "read_only":
        d_ys.flags.writeable = False
    else:
        raise ValueError(values)
    return replace(case, xs=xs, d_ys=d_ys, d_state=d_state)


class Bench:
    """Subjects by name, their catalogues, and problems to try them on."""

    def __init__(self):
        self._catalogues = {}
        self._known = {}

    def target(self, name):
        if name.startswith("layer of "):
            return CellLayer(self.target(name.removeprefix("layer of ")))
        return Counting() if name == "counting" else builtin(name)

    def sizes(self, name):
        return SIZES.get(name)

    def catalogue(self, name):
        if name not in self._catalogues:
            self._catalogues[name] = catalogue(self.target(name), sizes=self.sizes(name))
        return self._catalogues[name]

    def case(self, target, seed=0, T=3, B=3, size=(4, 3), dtype="float64", regime="ordinary",
             masked=False, values="") -> Case:  # fmt: skip
        """Random values; of a regime only what a mutant may look at, and ``values`` of VALUES."""
        rng = np.random.default_rng(seed)
        scale = 30.0 if regime == "saturated" else 1.0
        # Far beyond any clip even where a unit is nearly saturated.
        large = {"large_cotangents": 1e5, "tiny_gradients": 1e-6}.get(regime, 1.0)
        params = {key: (scale * (v + 0.1 * rng.standard_normal(v.shape))).astype(dtype)
                  for key, v in target.init(rng, *size).items()}  # fmt: skip
        xs = rng.standard_normal((T, B, size[0])).astype(dtype)

        def moved(leaf):
            noise = 0.5 * rng.standard_normal(leaf.shape)
            return (leaf + noise).astype(leaf.dtype) if is_float(leaf) else leaf + 1

        def cotangent(leaf, by=large):
            return (by * rng.standard_normal(leaf.shape) * is_float(leaf)).astype(dtype)

        state0 = trees.map_leaves(moved, target.initial_state(params, B))
        mask = None
        if masked:
            mask = rng.random((T, B)) < 0.5
            mask[T // 2, 0], mask[-1, -1] = False, True
        layer = CellLayer(target) if is_cell(target) else target
        ys, state, _ = layer.forward(params, xs, state0)
        plain = Case(params, xs, state0, mask, cotangent(ys), trees.map_leaves(cotangent, state))
        return special(values, plain) if values else plain

    def forward(self, target, case):
        """``(outputs, record)`` of a cell's first step or of a layer's whole sequence."""
        if is_cell(target):
            state, y, record = target.step(case.params, case.state0, case.xs[0])
        else:
            y, state, record = target.forward(case.params, case.xs, case.state0, case.mask)
        return (y, state), record

    def backward(self, target, case, record):
        """The gradients by block."""
        if is_cell(target):
            found = target.step_vjp(case.params, record, case.d_state, case.d_ys[0])
            return VjpResult(*found).blocks()
        d_params, d_xs, d_state0 = target.vjp(case.params, record, case.d_ys, case.d_state)
        return VjpResult(d_params, d_state0, d_xs).blocks()

    def gradient(self, target, case):
        """Forward, then backward."""
        return self.backward(target, case, self.forward(target, case)[1])

    def right(self, target, mutant, case):
        """What the mutant should give, by the engine that knows nothing of mutants."""
        whole = mutant.kind == "layer" and is_cell(target)
        return self.gradient(CellLayer(target) if whole else target, case)

    def gaps(self, name, mutant, **structure):
        """For each block by how much a fresh mutant, which must be pure, is off."""
        target = self.target(name)
        key = name, mutant.kind, *sorted(structure.items())
        if key not in self._known:
            case = self.case(target, **structure)
            self._known[key] = case, self.right(target, mutant, case)
        case, right = self._known[key]
        found = self.gradient(mutant.plant(target), case)
        assert found.keys() == right.keys()
        return {block: gap(found[block], right[block]) for block in right}


def gap(found, right) -> float:
    """The largest difference, relative to the largest entry; infinite for another shape."""
    if np.shape(found) != np.shape(right):
        return np.inf
    if np.array_equal(found, right):
        return 0.0
    with np.errstate(all="ignore"):
        ratio = np.abs(found - right).max() / max(np.abs(right).max(), 1e-300)
    return float(np.nan_to_num(ratio, nan=np.inf))


@pytest.fixture(scope="session")
def bench() -> Bench:
    return Bench()
