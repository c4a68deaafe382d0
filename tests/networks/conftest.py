"""What the tests of networks share: a random problem, both passes by hand, a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from bpttcheck import trees

MASKS = ("none", "lengths", "holes", "empty_row")


def draw_mask(kind, T, B, rng):
    if kind == "none":
        return None
    if kind == "lengths":
        return np.arange(T)[:, None] < rng.integers(1, T + 1, B)
    mask = rng.random((T, B)) < 0.6
    mask[:, 0] = kind != "empty_row"
    return mask


@dataclass(frozen=True)
class Problem:
    """One sequence with its cotangents."""

    params: dict
    xs: np.ndarray
    state0: Any
    mask: np.ndarray | None
    d_ys: np.ndarray
    d_state_T: Any


class Kit:
    """Problems for layers and their gradients by name."""

    def problem(self, layer, T=5, B=3, n_in=4, n_hidden=3, mask="none", seed=0) -> Problem:
        rng = np.random.default_rng(seed)
        params = layer.init(rng, n_in, n_hidden)

        def draw(like):
            return rng.uniform(-1, 1, np.shape(like))

        xs = draw(np.zeros((T, B, n_in)))
        state0 = trees.map_leaves(draw, layer.initial_state(params, B))
        real = draw_mask(mask, T, B, rng)
        ys, state_T, _ = layer.forward(params, xs, state0, real)
        return Problem(params, xs, state0, real, draw(ys), trees.map_leaves(draw, state_T))

    def hand(self, layer, p: Problem) -> dict[str, np.ndarray]:
        ys, state_T, tape = layer.forward(p.params, p.xs, p.state0, p.mask)
        d_params, d_xs, d_state0 = layer.vjp(p.params, tape, p.d_ys, p.d_state_T)
        return self.named(ys, state_T, d_params, d_xs, d_state0)

    def named(self, ys, state_T, d_params, d_xs, d_state0) -> dict[str, np.ndarray]:
        out = {"ys": ys, "d_xs": d_xs, **{f"d_{k}": v for k, v in d_params.items()}}
        for name, tree in (("state_T", state_T), ("d_state0", d_state0)):
            leaves, structure = trees.flatten(tree)
            out |= {name + path: leaf for path, leaf in zip(structure.paths, leaves, strict=True)}
        return {name: np.asarray(value) for name, value in out.items()}

    def transpose_defect(self, layer, p: Problem, seed=0) -> float:
        """``<cotangents, derivative along a direction>`` against ``<gradient, direction>``."""
        _, _, tape = layer.forward(p.params, p.xs, p.state0, p.mask)
        d_params, d_xs, d_state0 = layer.vjp(p.params, tape, p.d_ys, p.d_state_T)
        assert list(d_params) == list(p.params)
        rng = np.random.default_rng(seed)
        entering = (p.params, p.xs, p.state0)
        direction = trees.map_leaves(lambda a: rng.uniform(-1, 1, a.shape), entering)

        def loss(h):
            params, xs, state0 = trees.map_leaves(lambda a, d: a + h * d, entering, direction)
            ys, state_T, _ = layer.forward(params, xs, state0, p.mask)
            return self.dot((p.d_ys, p.d_state_T), (ys, state_T))[0]

        # Richardson's extrapolation of central differences: an error of order h⁴.
        coarse, fine = ((loss(h) - loss(-h)) / (2 * h) for h in (2e-3, 1e-3))
        by_hand, size = self.dot((d_params, d_xs, d_state0), direction)
        return abs(by_hand - (4 * fine - coarse) / 3) / (1 + size)

    def dot(self, one, other) -> tuple[float, float]:
        """The inner product of two trees, and the sum of the sizes of its terms."""
        pairs = zip(trees.leaves(one), trees.leaves(other), strict=True)
        terms = [np.vdot(a, b) for a, b in pairs]
        return sum(terms), sum(map(abs, terms))

    def agree(self, got, expected, rtol=1e-12) -> None:
        """Each block agrees to ``rtol`` of its largest entry; the error names every block."""
        assert set(got) == set(expected)
        worst = {}
        for name, value in expected.items():
            assert got[name].shape == value.shape, name
            scale = np.abs(value).max(initial=0.0)
            gap = np.abs(got[name] - value).max(initial=0.0)
            if not gap <= rtol * scale:
                worst[name] = f"{gap / scale if scale else np.inf:.1e}"
        assert not worst, f"relative error by block: {worst}"


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()
