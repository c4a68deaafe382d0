from __future__ import annotations

import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import bpttcheck
from bpttcheck import activations, trees
from bpttcheck.activations import ACTIVATIONS
from bpttcheck.bptt.fused import FUSED, FusedElman, FusedGRUResetAfter, FusedLSTM, sequence
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.errors import ContractError, GradientMismatch

LIMIT = 32  # that of the checks: the bar below is built in the same way
LAYERS = {name: make() for name, make in FUSED.items()}
ACTIVATED = {f"elman[{name}]": FusedElman(name) for name in ACTIVATIONS if name != "tanh"}


def problem(layer, T, B, n_in, n_hidden, *, dtype="float64", masked=False, seed=0):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    params = {k: v.astype(dtype) for k, v in layer.init(rng, n_in, n_hidden).items()}
    like = layer.initial_state(params, B)
    state0, d_state_T = (trees.map_leaves(lambda s: draw(*s.shape), like) for _ in range(2))
    mask = rng.random((T, B)) < 0.7 if masked else None
    return params, draw(T, B, n_in), state0, mask, draw(T, B, n_hidden), d_state_T


def everything(layer, params, xs, state0, mask, d_ys, d_state_T):
    ys, state_T, tape = layer.forward(params, xs, state0, mask)
    d_params, d_xs, d_state0 = layer.vjp(params, tape, d_ys, d_state_T)
    return {"ys": ys, "state_T": state_T, "d_xs": d_xs, "d_state0": d_state0, **d_params}


def blocks(results):
    return [leaf for value in results.values() for leaf in trees.leaves(value)]


def assert_same_bits(got, expected):
    for a, b in zip(blocks(got), blocks(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def worst_ratio(layer, given, copies=8):
    """The largest distance from the cell in units of the cell's own rounding noise.

    The noise is how far the cell's results in the checked dtype move when each of its inputs is
    changed in its last digit, plus 5 % of the block's own noise for entries that stand still.
    """
    cell, rng, dtype = CellLayer(layer.reference), np.random.default_rng(1), given[1].dtype
    eps = np.finfo(dtype).eps

    def moved(leaf):
        if leaf is None or leaf.dtype == bool:
            return leaf
        return leaf * (1 + eps * rng.choice([-1, 1], leaf.shape)).astype(dtype)

    got, expected = (blocks(everything(one, *given)) for one in (layer, cell))
    spread = [np.zeros(block.shape) for block in expected]
    for _ in range(copies):
        other = blocks(everything(cell, *(trees.map_leaves(moved, part) for part in given)))
        for total, a, b in zip(spread, other, expected, strict=True):
            total += (a.astype(float) - b) ** 2 / copies
    ratios = []
    for a, b, variance in zip(got, expected, spread, strict=True):
        assert a.dtype == b.dtype == dtype
        bar = np.sqrt(variance) + 0.05 * np.sqrt(variance.max()) + eps * np.abs(b)
        bar += np.finfo(dtype).tiny
        ratios.append(np.max(np.abs(a.astype(float) - b) / bar))
    return max(ratios)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", list(LAYERS))
def test_a_fused_layer_passes_every_check_against_its_cell(name):
    report = bpttcheck.check(LAYERS[name], examples=8)
    assert report.passed
    assert {r.name for r in report.checks if r.skipped} == {"step_vjp", "initial_state"}


@pytest.mark.sampled(8)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", list(LAYERS))
def test_a_long_sequence_agrees_with_the_cell_within_its_rounding_noise(name, masked, dtype):
    layer = LAYERS[name]
    given = problem(layer, T=100, B=8, n_in=16, n_hidden=64, dtype=dtype, masked=masked)
    assert worst_ratio(layer, given) < LIMIT


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", list(ACTIVATED))
def test_every_activation_agrees_with_the_cell_within_its_rounding_noise(name, dtype):
    layer = ACTIVATED[name]
    for masked in (False, True):
        given = problem(layer, T=12, B=3, n_in=4, n_hidden=5, dtype=dtype, masked=masked)
        assert worst_ratio(layer, given) < LIMIT


def test_an_activation_of_ones_own_that_is_only_called_tanh_is_used():
    steep = activations.Activation(
        "tanh", lambda z: np.tanh(2 * z), lambda z: 2 / np.cosh(2 * z) ** 2
    )
    layer = FusedElman(steep)
    assert worst_ratio(layer, problem(layer, T=6, B=3, n_in=2, n_hidden=4)) < LIMIT


@pytest.mark.parametrize("name", list(LAYERS))
def test_blocks_of_steps_change_no_bit_but_those_of_sums_over_blocks(name, monkeypatch):
    layer = LAYERS[name]
    given = problem(layer, T=9, B=2, n_in=3, n_hidden=4, masked=True)
    whole = everything(layer, *given)
    monkeypatch.setattr("bpttcheck.bptt.fused.sequence._BLOCK_BYTES", 2000)
    monkeypatch.setattr("bpttcheck.bptt.fused.sequence._ROWS_OF_A_PRODUCT", 2)
    found = everything(layer, *given)
    summed = list(given[0]) if isinstance(layer, FusedGRUResetAfter) else []
    for key in summed:
        np.testing.assert_allclose(found.pop(key), whole.pop(key), rtol=1e-13, atol=1e-14)
    assert_same_bits(found, whole)
    assert worst_ratio(layer, given) < LIMIT


@pytest.mark.parametrize("width", [3, 512], ids=["apart", "on one place of the cache"])
def test_a_product_is_added_whichever_way_it_is_made(width):
    rng = np.random.default_rng(0)
    d, operand, before = rng.normal(size=(5, width)), rng.normal(size=(5, 2)), rng.normal(size=2)
    total = np.tile(before, (width, 1))
    sequence.add_product(total, d, operand)
    np.testing.assert_allclose(total, before + d.T @ operand, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", list(LAYERS))
@pytest.mark.parametrize(("T", "B"), [(0, 3), (4, 0), (0, 0)])
def test_no_step_or_no_row_gives_zero_gradients_and_passes_the_state_through(name, T, B):
    layer = LAYERS[name]
    given = problem(layer, T, B, n_in=3, n_hidden=2, dtype="float32")
    params, xs, state0, _, d_ys, d_state_T = given
    found = everything(layer, *given)
    assert found["ys"].shape == d_ys.shape
    assert found["d_xs"].shape == xs.shape
    for key, value in params.items():
        np.testing.assert_array_equal(found[key], np.zeros_like(value))
    if T == 0:
        expected = {"state_T": state0, "d_state0": d_state_T}
        assert_same_bits({key: found[key] for key in expected}, expected)
    assert all(leaf.dtype == np.float32 for leaf in blocks(found))


@pytest.mark.parametrize("name", list(LAYERS))
@pytest.mark.parametrize("padding", [np.nan, np.inf])
def test_what_stands_in_the_padding_has_no_effect(name, padding):
    layer = LAYERS[name]
    params, xs, state0, mask, d_ys, d_state_T = problem(layer, 7, 3, 2, 4, masked=True)
    clean = everything(layer, params, xs, state0, mask, d_ys, d_state_T)
    real = mask[..., None]
    dirty = np.where(real, xs, padding), np.where(real, d_ys, padding)
    found = everything(layer, params, dirty[0], state0, mask, dirty[1], d_state_T)
    assert_same_bits(found, clean)
    assert not found["ys"][~mask].any()
    assert not found["d_xs"][~mask].any()


@pytest.mark.parametrize("name", list(LAYERS))
def test_a_mask_that_is_true_everywhere_changes_no_bit(name):
    layer = LAYERS[name]
    params, xs, state0, _, *cotangents = problem(layer, 5, 3, 2, 4)
    full = everything(layer, params, xs, state0, np.ones((5, 3), bool), *cotangents)
    assert_same_bits(full, everything(layer, params, xs, state0, None, *cotangents))


@pytest.mark.parametrize("name", list(LAYERS))
def test_two_tapes_may_be_alive_and_each_serves_more_than_once(name):
    layer = LAYERS[name]
    one, two = (problem(layer, 6, 3, 2, 4, masked=k, seed=k) for k in (0, 1))
    alone = [everything(layer, *given) for given in (one, two)]
    tapes = [layer.forward(*given[:4]) for given in (one, two)]
    for k in (1, 0, 0, 1):
        (params, *_, d_ys, d_state_T), (ys, state_T, tape) = (one, two)[k], tapes[k]
        d_params, d_xs, d_state0 = layer.vjp(params, tape, d_ys, d_state_T)
        found = {"ys": ys, "state_T": state_T, "d_xs": d_xs, "d_state0": d_state0, **d_params}
        assert_same_bits(found, alone[k])


@pytest.mark.parametrize("name", list(LAYERS))
def test_one_layer_serves_several_threads(name):
    layer = LAYERS[name]
    given = [problem(layer, 40, 4, 3, 8, seed=k) for k in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda g: everything(layer, *g), given))
    for found, g in zip(together, given, strict=True):
        assert_same_bits(found, everything(layer, *g))


@pytest.mark.parametrize("name", list(LAYERS))
def test_changing_the_outputs_leaves_the_gradients_alone(name):
    layer = LAYERS[name]
    params, xs, state0, mask, d_ys, d_state_T = problem(layer, 5, 2, 3, 4)
    ys, state_T, tape = layer.forward(params, xs, state0, mask)
    before = layer.vjp(params, tape, d_ys, d_state_T)
    for leaf in (ys, *trees.leaves(state_T)):
        leaf.fill(7.0)
    assert_same_bits({"": layer.vjp(params, tape, d_ys, d_state_T)}, {"": before})


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", [*LAYERS, "elman[softsign]"])
def test_the_tape_and_the_peak_take_the_bytes_that_are_stated(name, dtype):
    layer = {**LAYERS, **ACTIVATED}[name]
    T, B, n_in, n_hidden = sizes = 100, 16, 24, 64
    params, xs, state0, _, d_ys, d_state_T = problem(layer, *sizes, dtype=dtype)
    layer.forward(params, xs, state0)  # imports and caches of NumPy are none of the tape
    tracemalloc.start()
    try:
        tape = layer.forward(params, xs, state0)[2]
        kept = tracemalloc.get_traced_memory()[0]
        del tape
        tracemalloc.reset_peak()
        ys, _, tape = layer.forward(params, xs, state0)
        gradients = layer.vjp(params, tape, d_ys, d_state_T)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ys.shape == (T, B, n_hidden)
    assert gradients[1].shape == (T, B, n_in)
    tape_bytes = layer.tape_bytes(*sizes, dtype)
    assert tape_bytes <= kept <= 1.02 * tape_bytes
    # Another derivative than that of tanh is allowed four arrays; softsign takes two.
    assert (0.8 if "[" in name else 0.9) < peak / layer.peak_bytes(*sizes, dtype) < 1.2


@pytest.mark.parametrize("name", list(LAYERS))
def test_wrong_shapes_are_refused_by_name(name):
    layer = LAYERS[name]
    params, xs, state0, _, d_ys, d_state_T = problem(layer, 3, 2, 2, 4)
    with pytest.raises(ContractError, match=r"xs\.shape=\(2, 2\)"):
        layer.forward(params, xs[0], state0)
    with pytest.raises(ContractError, match=r"mask\.shape=\(2, 3\).*expected a bool"):
        layer.forward(params, xs, state0, np.ones((2, 3), bool))
    with pytest.raises(ContractError, match=r"mask\.dtype=float64"):
        layer.forward(params, xs, state0, np.ones((3, 2)))
    tape = layer.forward(params, xs, state0)[2]
    with pytest.raises(ContractError, match=r"d_ys\.shape=\(1, 2, 4\)"):
        layer.vjp(params, tape, d_ys[:1], d_state_T)


def test_the_index_loads_nothing_before_it_is_asked():
    code = "import sys, bpttcheck.bptt.fused as f; assert 'numpy' not in sys.modules, f.FUSED"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="FusedGRU"):
        bpttcheck.bptt.fused.FusedGRU  # noqa: B018


class FirstStepMissing(FusedElman):
    """The sum over the steps of the weight gradient starts at the second."""

    def vjp(self, params, tape, d_ys, d_state_T):
        xs = tape.xs.copy()
        xs[:1] = 0.0
        return super().vjp(params, tape._replace(xs=xs), d_ys, d_state_T)


class StatesShifted(FusedLSTM):
    """The deferred product pairs each step with the state after it."""

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, *rest = super().vjp(params, tape, d_ys, d_state_T)
        after = tape._replace(hs=np.concatenate([tape.hs[1:], tape.hs[-1:]]))
        d_params["W_hh"] = super().vjp(params, after, d_ys, d_state_T)[0]["W_hh"]
        return d_params, *rest


class BufferShared(FusedLSTM):
    """The gates are kept in one buffer for all tapes of one size."""

    buffers: dict = {}  # noqa: RUF012 - the bug

    def forward(self, params, xs, state0, mask=None):
        ys, state_T, tape = super().forward(params, xs, state0, mask)
        buffer = self.buffers.setdefault((tape.gates.shape, tape.gates.dtype), tape.gates)
        buffer[...] = tape.gates
        return ys, state_T, tape._replace(gates=buffer)


class PaddingForgotten(FusedLSTM):
    """The cell state runs on through the padding."""

    def forward(self, params, xs, state0, mask=None):
        ys, state_T, tape = super().forward(params, xs, state0, mask)
        if mask is not None:
            state_T = (state_T[0], super().forward(params, xs, state0)[1][1])
        return ys, state_T, tape


@pytest.mark.usefixtures("as_found")
@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("planted", "check"),
    [
        (FirstStepMissing(), "sequence_vjp"),
        (StatesShifted(), "sequence_vjp"),
        (BufferShared(), "purity"),
        (PaddingForgotten(), "masking"),
    ],
)
def test_a_bug_of_fused_layers_is_caught(planted, check):
    with pytest.raises(GradientMismatch) as caught:
        bpttcheck.check(planted, examples=8, checks=[check])
    assert caught.value.report.findings[0].check == check
