"""For every oracle, and every part of one, a bug that is missed or a right cell convicted without.

``HARDLY`` is an error that JAX sees and the differences do not.
"""

from dataclasses import replace

import numpy as np
import pytest
from subjects import Elementwise, relu

import bpttcheck
from bpttcheck import Verdict, trees
from bpttcheck.errors import Declined
from bpttcheck.judge import gradient
from bpttcheck.judge.oracle import Differences
from bpttcheck.judge.reference import JaxReference
from bpttcheck.judge.run import STEP
from bpttcheck.oracles.autodiff import noise
from bpttcheck.oracles.autodiff.autodiff import Autodiff, NoisyGradients, Spread
from bpttcheck.oracles.autodiff.programs import CACHE
from bpttcheck.oracles.branches.recording import plain
from bpttcheck.oracles.differences import program as _program
from bpttcheck.oracles.estimate import Estimate

pytestmark = pytest.mark.usefixtures("programs_apart", "as_found")

HARDLY = 1 + 2e-13


class Cell(Elementwise):
    factor = 1

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_h * self.factor, d_x


class HardlyWrong(Cell):
    factor = HARDLY


class HalfTheSlope(Cell):
    def slope(self, z, h):
        return super().slope(z, h) / 2


class Stairs(Cell):
    """f is tanh and stairs beside it, too fine to be seen as jumps; right."""

    def value(self, z):
        return np.tanh(z) + 1e-7 * np.rint(1e7 * z)

    def slope(self, z, h):
        return 1 - np.tanh(z) ** 2


class Layer(Cell):
    """The first cell over time in one piece, without a reference."""

    step = step_vjp = None
    supports_mask = False

    def forward(self, params, xs, state0):
        hs = [state0]
        for x in xs:
            hs.append(self.value(x @ params["U"].T + hs[-1] @ params["W"].T + params["b"]))
        hs = np.stack(hs)
        return hs[1:].copy(), hs[-1].copy(), (xs, hs)

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs = tape
        d_zs, d_h = np.zeros_like(hs[1:]), d_state_T
        for t in reversed(range(len(xs))):
            d_zs[t] = (d_h + d_ys[t]) * (1 - hs[t + 1] ** 2)
            d_h = d_zs[t] @ params["W"]
        d_params = {
            "U": np.einsum("tbi,tbj->ij", d_zs, xs),
            "W": np.einsum("tbi,tbj->ij", d_zs, hs[:-1]),
            "b": d_zs.sum(axis=(0, 1)),
        }
        return d_params, d_zs @ params["U"] * self.factor, d_h


class TwiceTheInputGradient(Layer):
    factor = 2


class Opaque(Layer):
    """The layer, which JAX cannot trace."""

    def forward(self, params, xs, state0):
        assert float(np.sum(xs)) < np.inf
        return super().forward(params, xs, state0)


class OpaqueAndTwice(Opaque):
    factor = 2


def half_the_path(params, state, x):
    """The same forward pass in JAX; half of its gradient is cut off."""
    import jax
    import jax.numpy as jnp

    h = jnp.tanh(x @ params["U"].T + state @ params["W"].T + params["b"])
    h = (h + jax.lax.stop_gradient(h)) / 2
    return h, h


def hardly_the_same(params, state, x):
    """Nearly the same forward pass in JAX."""
    import jax.numpy as jnp

    h = HARDLY * jnp.tanh(x @ params["U"].T + state @ params["W"].T + params["b"])
    return h, h


def verdict(cell, check="step_vjp", examples=5, dtypes=("float64",), reference=None):
    CACHE.clear()  # what is patched is compiled in
    report = bpttcheck.check(
        cell, checks=[check], examples=examples, dtypes=dtypes, reference=reference, raises=False
    )
    return report.verdict


def declines(*args, **options):
    raise Declined("left out")


def test_jax_sees_an_error_that_the_differences_miss(monkeypatch):
    cell = HardlyWrong()
    assert verdict(cell) is Verdict.FAILED
    monkeypatch.setattr(JaxReference, "gradient", declines)
    assert verdict(cell) is Verdict.PASSED


def test_the_differences_expose_a_reference_that_is_wrong_as_the_cell_is(monkeypatch):
    cell = HalfTheSlope()
    # Where JAX speaks the two contradict each other; at large widths the differences are alone.
    assert verdict(cell, reference=half_the_path) is Verdict.FAILED
    monkeypatch.setattr(Differences, "directional", declines)
    assert verdict(cell, reference=half_the_path) is Verdict.PASSED


def test_the_differences_keep_a_wrong_reference_from_convicting_a_right_cell(monkeypatch):
    cell = Cell()
    assert verdict(cell, reference=half_the_path) is Verdict.INCONCLUSIVE
    monkeypatch.setattr(Differences, "directional", declines)
    assert verdict(cell, reference=half_the_path) is Verdict.FAILED


@pytest.mark.nightly
def test_jax_traces_a_layer_without_a_reference(monkeypatch):
    monkeypatch.setattr(Differences, "directional", declines)
    assert verdict(Layer(), "sequence_vjp") is Verdict.PASSED
    assert verdict(TwiceTheInputGradient(), "sequence_vjp") is Verdict.FAILED


def test_the_differences_alone_judge_a_layer_that_cannot_be_traced(monkeypatch):
    assert verdict(Opaque(), "sequence_vjp") is Verdict.PASSED
    assert verdict(OpaqueAndTwice(), "sequence_vjp") is Verdict.FAILED
    monkeypatch.setattr(Differences, "directional", declines)
    assert verdict(OpaqueAndTwice(), "sequence_vjp") is Verdict.INCONCLUSIVE


def test_forward_mode_keeps_a_wrong_reverse_mode_from_convicting_a_right_cell(monkeypatch):
    cell, gradients = Cell(), Autodiff.gradients

    def wrong(*args):
        found = gradients(*args)
        W = found.d_params["W"]
        W = Spread(W.value * HARDLY, W.copies * HARDLY)
        return replace(found, d_params={**found.d_params, "W": W})

    def agrees(jax, problem, along, template):
        known = jax.gradient(STEP, problem, template).gradients
        return Estimate(sum((known[block].value * v).sum() for block, v in along.items()), 0.0)

    assert verdict(cell) is Verdict.PASSED
    monkeypatch.setattr(Autodiff, "gradients", wrong)
    (row,) = bpttcheck.check(cell, checks=["step_vjp"], examples=4, raises=False).checks
    assert row.verdict is Verdict.INCONCLUSIVE
    assert "JAX's reverse and forward mode contradict each other in d_params['W']" in row.reason
    monkeypatch.setattr(JaxReference, "directional", agrees)
    assert verdict(cell) is Verdict.FAILED


def test_the_noise_of_the_copies_keeps_rounding_from_convicting_a_right_cell(monkeypatch):
    cell, gradients = Cell(), Autodiff.gradients

    def still(spread):
        return Spread(spread.value, np.broadcast_to(spread.value, spread.copies.shape))

    def without_noise(*args):
        found = gradients(*args)
        names = ("d_params", "d_state0", "d_xs", "ys", "state_T")
        return NoisyGradients(*(trees.map_leaves(still, getattr(found, name)) for name in names))

    assert verdict(cell) is Verdict.PASSED
    monkeypatch.setattr(Autodiff, "gradients", without_noise)
    assert verdict(cell) is Verdict.FAILED


@pytest.mark.nightly
def test_rounding_of_float32_alone_convicts_no_layer_without_a_reference(monkeypatch):
    layer = Layer()
    assert verdict(layer, "sequence_vjp", 60, ["float32"]) is Verdict.PASSED
    monkeypatch.setattr(gradient, "own_rounding", lambda *args: {})
    monkeypatch.setattr(gradient, "own_noise", lambda *args: {})
    assert verdict(layer, "sequence_vjp", 60, ["float32"]) is Verdict.FAILED


def test_free_branches_let_a_right_slope_at_a_kink_pass(monkeypatch):
    freedom = noise._freedom

    def bound(*args):
        free, first = freedom(*args)
        return free & False, first

    assert verdict(relu(1), examples=20) is Verdict.PASSED
    monkeypatch.setattr(noise, "_freedom", bound)
    assert verdict(relu(1), examples=20) is Verdict.FAILED


def test_the_hull_of_the_branches_shows_a_slope_beyond_both_sides(monkeypatch):
    cell, dtypes = relu(5), ["float64", "float32"]
    assert verdict(relu(1), dtypes=dtypes) is Verdict.PASSED
    assert verdict(cell, dtypes=dtypes) is Verdict.FAILED
    monkeypatch.setattr(gradient, "_unblinded", lambda case, oracle, judged, chaotic: judged)
    assert verdict(cell, dtypes=dtypes) is Verdict.PASSED


def test_recorded_branches_keep_the_differences_on_one_branch(monkeypatch):
    cell = Stairs()
    assert verdict(cell) is Verdict.PASSED
    monkeypatch.setattr(_program, "record", lambda f, point: (plain(f, point), None))
    # They contradict JAX, and a right cell no longer passes.
    assert verdict(cell) is not Verdict.PASSED


def test_a_reference_of_another_forward_pass_convicts_no_right_gradient(monkeypatch):
    def wrong_blocks():
        report = bpttcheck.check(
            Cell(), checks=["step_vjp"], examples=5, dtypes=["float64"], raises=False,
            reference=hardly_the_same,
        )  # fmt: skip
        assert report.verdict is Verdict.FAILED
        return {finding.block for finding in report.findings}

    assert wrong_blocks() <= {"y", "new_state"}
    monkeypatch.setattr(gradient, "differing_outputs", lambda *args: [])
    assert "d_x" in wrong_blocks()
