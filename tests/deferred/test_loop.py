"""Any cell as a layer whose weight gradients are one call over the rows of all steps."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from bpttcheck import backpropagate, cells, check, deferred, trees, unroll
from bpttcheck.deferred.loop import faster
from bpttcheck.errors import ContractError

GALLERY = Path(__file__).parents[2] / "examples/gallery"


def gallery(stem, name):
    spec = importlib.util.spec_from_file_location(f"{stem}_deferred", GALLERY / f"{stem}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return getattr(module, name)()


CELLS = {
    "lstm": cells.LSTM,
    "gru": cells.GRUResetAfter,
    "peephole": cells.PeepholeLSTM,
    "slstm": lambda: gallery("slstm", "SLSTM"),
    "mgu": lambda: gallery("mgu", "MGU"),
    "clockwork": lambda: gallery("clockwork", "Clockwork"),
}


def run(cell, layer, masked, dtype=np.float64):
    rng = np.random.default_rng(0)
    params = {name: value.astype(dtype) for name, value in cell.init(rng, 3, 4).items()}
    xs = rng.standard_normal((6, 5, 3)).astype(dtype)
    mask = rng.random((6, 5)) < 0.6 if masked else None
    if masked:
        mask[2] = False
        xs[~mask] = np.nan
    ys, state_T, tape = unroll(cell, params, xs, None, mask)
    d_ys = rng.standard_normal(ys.shape).astype(dtype)
    d_state = trees.map_leaves(lambda leaf: rng.standard_normal(leaf.shape).astype(dtype), state_T)
    expected = backpropagate(cell, params, tape, d_ys, d_state)
    ys_again, _, tape = layer.forward(params, xs, None, mask)
    np.testing.assert_array_equal(ys_again, ys)
    return expected, layer.vjp(params, tape, d_ys, d_state)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_gradients_are_those_of_the_plain_loop(name, masked):
    cell = CELLS[name]()
    expected, (d_params, d_xs, d_state0) = run(cell, deferred.layer(cell, form="deferred"), masked)
    np.testing.assert_allclose(d_xs, expected.d_xs, rtol=1e-11, atol=1e-13)
    for found, right in zip(*map(trees.leaves, (d_state0, expected.d_state0)), strict=True):
        np.testing.assert_array_equal(found, right)
    for key, right in expected.d_params.items():
        np.testing.assert_allclose(d_params[key], right, rtol=1e-11, atol=1e-13)
        assert d_params[key].dtype == right.dtype


def test_it_passes_the_checks_of_a_layer(as_found):
    fast = deferred.layer(cells.GRUResetBefore(), form="deferred")
    report = check(fast, checks=("sequence_vjp", "masking", "zero_length", "purity"), examples=6)
    assert report.passed


class Halved(cells.Elman):
    """The mean over the batch, where the sum is right."""

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, z = cache
        d_z = (d_state + d_y) * (1 - np.tanh(z) ** 2)
        d_params = {"U": d_z.T @ x, "W": d_z.T @ h, "b": d_z.mean(0)}
        return d_params, d_z @ params["W"], d_z @ params["U"]


class HiddenPath(cells.Elman):
    """An assignment by name, which no reading of the source sees."""

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, z = cache
        d_z = (d_state + d_y) * (1 - np.tanh(z) ** 2)
        work = [d_z]
        other = {"d_z": work[0]}
        other["d_z"] *= 2.0
        d_params = {"U": d_z.T @ x, "W": d_z.T @ h, "b": d_z.sum(0)}
        return d_params, d_z @ params["W"], d_z @ params["U"]


def test_a_cell_that_breaks_the_law_of_the_batch_is_refused_by_name():
    with pytest.raises(ContractError) as raised:
        deferred.layer(Halved())
    assert str(raised.value) == (
        "the gradients of Halved() cannot be deferred: d_params['b'] over the rows"
        " of all steps is not the sum over the steps"
    )


def test_a_slice_that_would_be_another_program_is_refused():
    with pytest.raises(ContractError, match="is not the sum over the steps"):
        deferred.layer(HiddenPath())


@pytest.mark.parametrize(
    ("given", "item"), [((cells.LSTM, None), "cell"), ((cells.LSTM(), "kept"), "form")]
)
def test_what_is_no_cell_and_no_form_is_said(given, item):
    with pytest.raises(ContractError) as raised:
        deferred.layer(given[0], form=given[1])
    assert raised.value.item == item


def test_what_was_written_runs_step_by_step_without_the_products_of_the_weights():
    shapes = []

    class Watched(np.ndarray):
        def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
            plain = [np.asarray(one) for one in inputs]
            if ufunc is np.matmul:
                shapes.append(plain[0].shape)
            return getattr(ufunc, method)(*plain, **kwargs).view(Watched)

    cell = cells.Elman()
    params = cell.init(np.random.default_rng(0), 3, 4)
    params = {name: value.view(Watched) for name, value in params.items()}
    fast = deferred.layer(cell, form="deferred")
    ys, _, tape = fast.forward(params, np.ones((6, 2, 3)))
    shapes.clear()
    fast.vjp(params, tape, np.ones_like(ys))
    loop = [shape for shape in shapes if shape == (2, 4)]
    assert (len(loop), len(shapes)) == (6, 7)  # d_h of each step, then d_xs


def test_the_form_is_measured_once_for_each_set_of_shapes(monkeypatch):
    fast = deferred.layer(cells.Elman())
    params = fast.init(np.random.default_rng(0), 3, 4)
    asked = []

    def first_deferred(run):
        asked.append(run("deferred") is not None)
        return "deferred" if len(asked) == 1 else "in the loop"

    monkeypatch.setattr("bpttcheck.deferred.loop.faster", first_deferred)
    for B in (2, 2, 3):
        ys, _, tape = fast.forward(params, np.ones((6, B, 3)))
        fast.vjp(params, tape, np.ones_like(ys))
    assert list(fast.chosen.values()) == ["deferred", "in the loop"]


@pytest.mark.parametrize(("seconds", "form"), [(0.96, "in the loop"), (0.94, "deferred")])
def test_what_is_hardly_faster_is_not_used(seconds, form):
    now = [0.0]

    def run(form):
        now[0] += seconds if form == "deferred" else 1

    assert faster(run, lambda: now[0]) == form


class Counts(cells.Elman):
    """Its state has a number without rows."""

    def initial_state(self, params, batch_size):
        return super().initial_state(params, batch_size), np.array(0)

    def step(self, params, state, x):
        new, y, cache = super().step(params, state[0], x)
        return (new, state[1] + 1), y, (*cache, state[1])

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, z, _ = cache
        d_z = (d_state[0] + d_y) * (1 - np.tanh(z) ** 2)
        d_params = {"U": d_z.T @ x, "W": d_z.T @ h, "b": d_z.sum(0)}
        return d_params, (d_z @ params["W"], np.zeros(())), d_z @ params["U"]


def test_a_state_without_rows_is_refused_with_the_reason():
    with pytest.raises(ContractError, match="cannot be deferred: the batch is not the first axis"):
        deferred.layer(Counts())
