"""What every comparison of a cell with a peer needs: a random case, both sides, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from bpttcheck import backpropagate, trees, unroll
from bpttcheck.jax_mode import enable_x64


@dataclass(frozen=True)
class Case:
    """One sequence, its cotangents, and the parameters."""

    params: dict
    xs: np.ndarray
    state0: Any
    d_ys: np.ndarray
    d_state_T: Any


class Compare:
    """Gradients of ``sum(d_ys * ys) + sum(d_state_T * state_T)``, by hand and by peers, by name."""

    def case(self, cell, T, B, n_in, n_hidden, seed, scale=1.0, dtype=np.float64) -> Case:
        rng = np.random.default_rng(seed)
        params = {k: scale * v for k, v in cell.init(rng, n_in, n_hidden).items()}
        params = {k: v.astype(dtype) for k, v in params.items()}

        def draw(like):
            return rng.uniform(-1, 1, np.shape(like)).astype(dtype)

        xs = draw(np.zeros((T, B, n_in)))
        state0 = trees.map_leaves(draw, cell.initial_state(params, B))
        ys, state_T, _ = unroll(cell, params, xs, state0)
        return Case(params, xs, state0, draw(ys), trees.map_leaves(draw, state_T))

    def hand(self, cell, case) -> dict[str, np.ndarray]:
        ys, state_T, tape = unroll(cell, case.params, case.xs, case.state0)
        gradients = backpropagate(cell, case.params, tape, case.d_ys, case.d_state_T)
        return self.named(ys, state_T, gradients.d_params, gradients.d_xs, gradients.d_state0)

    def named(self, ys, state_T, d_params, d_xs, d_state0) -> dict[str, np.ndarray]:
        out = {"ys": ys, "d_xs": d_xs, **{f"d_{k}": v for k, v in d_params.items()}}
        for name, tree in (("state_T", state_T), ("d_state0", d_state0)):
            leaves, structure = trees.flatten(tree)
            out |= {name + path: leaf for path, leaf in zip(structure.paths, leaves, strict=True)}
        return {name: np.asarray(value) for name, value in out.items()}

    def torch(self, step, case) -> dict[str, np.ndarray]:
        """Autograd of torch through ``step(params, state, x) -> (state, y)``, unrolled."""
        torch = pytest.importorskip("torch", reason="torch is the peer that is compared with")

        def leaf(array):
            return torch.tensor(array, requires_grad=True)

        params = {name: leaf(value) for name, value in case.params.items()}
        xs, state0 = leaf(case.xs), trees.map_leaves(leaf, case.state0)
        state, ys = state0, []
        for x in xs:
            state, y = step(params, state, x)
            ys.append(y)
        ys = torch.stack(ys)
        loss = (torch.tensor(case.d_ys) * ys).sum()
        pairs = zip(trees.leaves(case.d_state_T), trees.leaves(state), strict=True)
        loss = loss + sum((torch.tensor(d) * s).sum() for d, s in pairs)
        wanted = [*params.values(), xs, *trees.leaves(state0)]
        grads = torch.autograd.grad(loss, wanted, allow_unused=True)
        grads = [
            np.zeros(v.shape) if g is None else g.numpy()
            for v, g in zip(wanted, grads, strict=True)
        ]
        n = len(params)
        return self.named(
            ys.detach().numpy(),
            trees.map_leaves(lambda leaf: leaf.detach().numpy(), state),
            dict(zip(params, grads[:n], strict=True)),
            grads[n],
            trees.structure(case.state0).unflatten(grads[n + 1 :]),
        )

    def jax(self, step, case) -> dict[str, np.ndarray]:
        """Autodiff of JAX through ``step(params, state, x) -> (state, y)`` under ``lax.scan``."""
        jax = pytest.importorskip("jax", reason="JAX is the peer that is compared with")

        def run(params, xs, state0):
            state_T, ys = jax.lax.scan(lambda s, x: step(params, s, x), state0, xs)
            return ys, state_T

        with enable_x64(True):
            (ys, state_T), vjp = jax.vjp(run, case.params, case.xs, case.state0)
            as_jax = jax.tree_util.tree_map(jax.numpy.asarray, (case.d_ys, case.d_state_T))
            d_params, d_xs, d_state0 = vjp(as_jax)
            return self.named(ys, state_T, d_params, d_xs, d_state0)

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
def compare() -> Compare:
    return Compare()


class WrongSign:
    """A cell whose backward step turns the sign of one of the things that it returns."""

    def __init__(self, cell, part):
        self.cell, self.part = cell, part
        self.init, self.initial_state, self.step = cell.init, cell.initial_state, cell.step

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_state, d_x = self.cell.step_vjp(params, cache, d_state, d_y)
        if self.part == "d_state":
            d_state = trees.map_leaves(np.negative, d_state)
        elif self.part == "d_x":
            d_x = -d_x
        else:
            d_params = {k: -v if k == self.part else v for k, v in d_params.items()}
        return d_params, d_state, d_x


@pytest.fixture(scope="session")
def wrong_signs():
    """Every way to turn one sign in a cell's backward step, and the block that must show it."""

    def make(cell):
        names = {name: f"'d_{name}'" for name in cell.init(np.random.default_rng(0), 4, 3)}
        shown = {**names, "d_state": "'d_state0", "d_x": "'d_xs'"}
        return [(block, WrongSign(cell, part)) for part, block in shown.items()]

    return make
