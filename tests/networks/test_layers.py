"""What holds of every layer, and what the layers are to each other."""

from __future__ import annotations

import inspect
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from bpttcheck import networks, trees, unroll
from bpttcheck.bptt.engine import NativeEngine
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.cells import LSTM, Elman, GRUResetAfter, GRUResetBefore, Jordan, PeepholeLSTM
from bpttcheck.errors import ContractError
from bpttcheck.networks import (
    Bidirectional,
    Direction,
    FinalOutput,
    Network,
    OutputFeedback,
    Readout,
    Stack,
    StackedCell,
    TrainableState,
)

LAYERS = [
    Direction(LSTM()),
    Direction(PeepholeLSTM(), reverse=True),
    FinalOutput(Direction(LSTM(), reverse=True), reverse=True),
    Bidirectional(LSTM(), Elman()),
    Bidirectional(GRUResetAfter(), merge="sum"),
    Stack([Elman(), Bidirectional(LSTM()), Direction(GRUResetBefore(), reverse=True)]),
    Readout(Elman(), 2),
    Readout(Stack([Elman(), Bidirectional(LSTM(), Jordan(n_out=2))]), 3, at="last"),
    TrainableState(Bidirectional(LSTM())),
    Readout(TrainableState(Bidirectional(LSTM(), merge="sum")), 2, at="last"),
    Network([LSTM()], directions=2, readout="last", n_out=2),
]
EQUATIONS = {
    "Direction": ("forward", "vjp"),
    "FinalOutput": ("forward", "vjp"),
    "Bidirectional": ("forward", "vjp", "_merged"),
    "Stack": ("forward", "vjp"),
    "StackedCell": ("step", "step_vjp"),
    "OutputFeedback": ("step", "step_vjp"),
    "Readout": ("forward", "vjp", "_outputs"),
    "TrainableState": ("forward", "vjp", "initial_state", "initial_state_vjp"),
    "Network": ("forward", "vjp", "loss_and_gradient"),
}
SIZES = {
    "T": st.integers(1, 6),
    "B": st.integers(1, 4),
    "n_in": st.integers(1, 4),
    "n_hidden": st.integers(1, 5),
    "mask": st.sampled_from(["none", "lengths", "holes", "empty_row"]),
    "seed": st.integers(0, 2**32 - 1),
}


@pytest.mark.parametrize("layer", LAYERS, ids=range(len(LAYERS)))
@settings(deadline=None, max_examples=12)
@given(**SIZES)
def test_the_vjp_is_the_transpose_of_the_derivative(kit, layer, **sizes):
    assert kit.transpose_defect(layer, kit.problem(layer, **sizes)) < 1e-8


@pytest.mark.parametrize("layer", LAYERS, ids=range(len(LAYERS)))
@settings(deadline=None, max_examples=8)
@given(**SIZES)
def test_the_sequence_run_natively_is_the_forward_pass(kit, layer, **sizes):
    p = kit.problem(layer, **sizes)
    ys, state_T = layer.sequence(NativeEngine(), p.params, p.xs, p.state0, p.mask)
    expected_ys, expected_state, _ = layer.forward(p.params, p.xs, p.state0, p.mask)
    for got, expected in zip(
        trees.leaves((ys, state_T)), trees.leaves((expected_ys, expected_state)), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("layer", LAYERS, ids=range(len(LAYERS)))
def test_a_layer_keeps_float32_and_changes_nothing_that_it_is_given(kit, layer):
    p = trees.map_leaves(lambda a: a.astype(np.float32), vars(kit.problem(layer)) | {"mask": ()})
    for value in trees.leaves(p):
        value.flags.writeable = False
    for _ in range(2):
        ys, state_T, tape = layer.forward(p["params"], p["xs"], p["state0"])
        gradients = layer.vjp(p["params"], tape, p["d_ys"], p["d_state_T"])
        assert {a.dtype for a in trees.leaves((ys, state_T, gradients))} == {np.dtype(np.float32)}


@pytest.mark.parametrize("layer", LAYERS, ids=range(len(LAYERS)))
def test_a_layer_is_a_value_that_travels(layer):
    again = pickle.loads(pickle.dumps(layer))
    assert again == layer
    assert hash(again) == hash(layer)


@pytest.mark.parametrize("name", EQUATIONS)
def test_every_equation_of_the_docstring_tags_a_line_of_the_code_and_vice_versa(name):
    cls = getattr(networks, name)
    in_doc = set(re.findall(r"\((\d+[a-c]?)\)\n", cls.__doc__))
    source = "".join(inspect.getsource(getattr(cls, method)) for method in EQUATIONS[name])
    comments = "".join(line.partition("#")[2] for line in source.splitlines())
    assert set(re.findall(r"\((\d+[a-c]?)\)", comments)) == in_doc
    assert len(in_doc) >= 4


CELLS = [LSTM(), Elman(), GRUResetAfter(), Jordan()]


@settings(deadline=None, max_examples=25)
@given(cells=st.lists(st.sampled_from(CELLS), min_size=1, max_size=4), **SIZES)
def test_a_stack_of_cells_is_the_cell_of_the_stack(kit, cells, **sizes):
    stack, cell = Stack(cells), CellLayer(StackedCell(cells))
    p = kit.problem(stack, **sizes)
    kit.agree(kit.hand(cell, p), kit.hand(stack, p))


@settings(deadline=None, max_examples=25)
@given(teacher_forced=st.booleans(), g=st.sampled_from(["identity", "sigmoid"]), **SIZES)
def test_output_feedback_of_a_cell_without_memory_is_the_jordan_cell(
    kit, teacher_forced, g, **sizes
):
    n_out, sizes["n_in"] = 2, sizes["n_in"] + 2
    fed_back = OutputFeedback([Elman()], n_out, teacher_forced, g)
    jordan = Jordan(n_out, output_activation=g, teacher_forced=teacher_forced)
    p = kit.problem(CellLayer(jordan), **sizes)
    H = len(p.params["b"])
    params = {
        "0.U": np.concatenate([p.params["U"], p.params["W"]], axis=1),
        "0.W": np.zeros((H, H)),
        "0.b": p.params["b"],
        "readout.V": p.params["V"],
        "readout.c": p.params["c"],
    }
    hidden = np.zeros((p.xs.shape[1], H))
    ours = kit.hand(
        CellLayer(fed_back),
        type(p)(params, p.xs, ((hidden,), p.state0), p.mask, p.d_ys, ((0 * hidden,), p.d_state_T)),
    )
    theirs = kit.hand(CellLayer(jordan), p)
    assert_close(ours["ys"], theirs["ys"])
    assert_close(ours["d_xs"], theirs["d_xs"])
    assert_close(ours["d_state0[1]"], theirs["d_state0"])
    assert_close(ours["d_0.U"], np.concatenate([theirs["d_U"], theirs["d_W"]], axis=1))
    for name, other in (("0.b", "b"), ("readout.V", "V"), ("readout.c", "c")):
        assert_close(ours[f"d_{name}"], theirs[f"d_{other}"])


def test_the_fed_back_output_reaches_the_next_step_and_a_target_takes_its_place():
    cells, n_out = [LSTM()], 2
    for teacher_forced in (False, True):
        cell = OutputFeedback(cells, n_out, teacher_forced)
        params = cell.init(np.random.default_rng(0), 3, 4)
        xs = np.random.default_rng(1).standard_normal((3, 2, 3))
        ys, (_, fed), _ = unroll(cell, params, xs)
        np.testing.assert_array_equal(fed, xs[-1, :, 1:] if teacher_forced else ys[-1])


def test_a_bidirectional_layer_is_its_two_directions(kit):
    layer = Bidirectional(LSTM())
    p = kit.problem(layer, mask="lengths")
    ys, state_T, _ = layer.forward(p.params, p.xs, p.state0, p.mask)
    for i, part in enumerate(("forward", "backward")):
        own = {k.partition(".")[2]: v for k, v in p.params.items() if k.startswith(part)}
        direction = Direction(LSTM(), reverse=bool(i))
        half, state, _ = direction.forward(own, p.xs, p.state0[i], p.mask)
        np.testing.assert_array_equal(ys[:, :, 3 * i : 3 * i + 3], half)
        assert all(map(np.array_equal, state_T[i], state))


@pytest.mark.parametrize("merge", ["concat", "sum"])
@pytest.mark.parametrize("mask", ["none", "lengths", "holes", "empty_row"])
def test_the_last_readout_reads_each_directions_own_final_output(kit, merge, mask):
    plain = Stack([Elman(), Bidirectional(LSTM())])
    layer = Readout(Stack([Elman(), Bidirectional(LSTM(), merge=merge)]), 2, at="last")
    p = kit.problem(layer, mask=mask, B=4)
    inner = {k: v for k, v in p.params.items() if not k.startswith("readout")}
    hs, _, _ = plain.forward(inner, p.xs, p.state0, p.mask)
    ys, _, _ = layer.forward(p.params, p.xs, p.state0, p.mask)
    for b in range(4):
        steps = np.arange(5) if p.mask is None else np.flatnonzero(p.mask[:, b])
        if not len(steps):
            assert not ys[:, b].any()
            continue
        first, last = steps[0], steps[-1]
        forward, backward = hs[last, b, :3], hs[first, b, 3:]
        h = forward + backward if merge == "sum" else np.concatenate([forward, backward])
        o = p.params["readout.V"] @ h + p.params["readout.c"]
        assert_close(ys[last, b], o)
        assert not np.delete(ys[:, b], last, axis=0).any()


def test_every_row_starts_from_the_trainable_state_and_all_rows_pay_into_it():
    layer = TrainableState(LSTM())
    params = layer.init(np.random.default_rng(0), 2, 3)
    assert list(params)[3:] == ["state0[0]", "state0[1]"]
    h, c = layer.initial_state(params, 4)
    assert (h == params["state0[0]"]).all()
    assert (c == params["state0[1]"]).all()
    d_params = layer.initial_state_vjp(params, (np.ones((4, 3)), 2 * np.ones((4, 3))))
    assert (d_params["state0[0]"] == 4).all()
    assert (d_params["state0[1]"] == 8).all()
    assert not d_params["W_ih"].any()
    assert not hasattr(Stack([LSTM()]), "initial_state_vjp")
    assert hasattr(Readout(Stack([LSTM(), layer]), 2), "initial_state_vjp")


class StartsAnywhere(Elman):
    """A cell with a trainable initial state of its own."""

    def init(self, rng, n_in, n_hidden):
        return super().init(rng, n_in, n_hidden) | {"h0": rng.standard_normal(n_hidden)}

    def initial_state(self, params, batch_size):
        return np.repeat(params["h0"][None], batch_size, axis=0)

    def initial_state_vjp(self, params, d_state0):
        return {"h0": d_state0.sum(axis=0)}

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params | {"h0": np.zeros_like(params["h0"])}, d_h, d_x


CELL = StartsAnywhere()
TRAINABLE = [
    Direction(CELL),
    Bidirectional(LSTM(), CELL),
    FinalOutput(Direction(CELL)),
    Stack([LSTM(), CELL]),
    StackedCell([CELL, LSTM()]),
    OutputFeedback([LSTM(), CELL], 2),
    Readout(Stack([CELL, Elman()]), 2, at="last"),
    Network([CELL], readout="fed_back", n_out=2),
    TrainableState(Stack([Elman(), LSTM()])),
]


@pytest.mark.parametrize("layer", TRAINABLE, ids=range(len(TRAINABLE)))
def test_the_initial_state_of_a_part_is_trained_through_every_composition(kit, layer):
    rng = np.random.default_rng(0)
    params = layer.init(rng, 2, 3)
    state = layer.initial_state(params, 4)
    d_state = trees.map_leaves(lambda leaf: rng.standard_normal(leaf.shape), state)
    direction = {name: rng.standard_normal(value.shape) for name, value in params.items()}
    moved = layer.initial_state({k: v + direction[k] for k, v in params.items()}, 4)
    change = trees.map_leaves(np.subtract, moved, state)
    d_params = layer.initial_state_vjp(params, d_state)
    assert {k: v.shape for k, v in d_params.items()} == {k: v.shape for k, v in params.items()}
    in_order = {name: d_params[name] for name in params}
    expected, size = kit.dot(d_state, change)
    assert size > 0.1
    assert kit.dot(in_order, direction)[0] == pytest.approx(expected, rel=1e-12)


def test_the_final_output_of_what_is_final_is_itself(kit):
    final = Direction(LSTM(), reverse=True).final()
    assert final.final() is final
    network = Network([LSTM()], n_out=3)
    layer = Readout(network, 2, at="last")
    with pytest.raises(ContractError, match=r"already has the parameters 'readout\.V'"):
        layer.init(np.random.default_rng(0), 2, 3)
    layer = Readout(Network([LSTM()], directions=2, readout=None), 2, at="last")
    same = Readout(Stack([Bidirectional(LSTM())]), 2, at="last")
    p = kit.problem(layer, mask="lengths")
    kit.agree(kit.hand(layer, p), kit.hand(same, p), rtol=0)


def test_the_sizes_of_a_composition_are_those_of_its_first_part():
    forced = OutputFeedback([LSTM()], 2, teacher_forced=True)
    assert StackedCell([LSTM()]).sizes is None
    for layer in (forced, StackedCell([forced]), Readout(forced, 1), Stack([forced, LSTM()])):
        n_in, n_hidden = find(layer.sizes, lambda pair: True)
        assert n_in == 2
        assert n_hidden == 1


def test_a_network_has_what_its_parts_have():
    both = Bidirectional(LSTM())
    assert Stack([LSTM(), Elman()]).causal
    assert not Stack([LSTM(), both]).causal
    assert not Readout(Stack([both, LSTM()]), 2).causal
    assert Readout(LSTM(), 2).splits_in_time
    assert not Readout(LSTM(), 2, at="last").splits_in_time
    assert Stack([both]).supports_mask
    assert not Stack([WithoutMasks()]).supports_mask
    assert Readout(WithoutMasks(), 2).surrogate == "a straight line"
    assert Stack([LSTM(), WithoutMasks()]).exact_length
    assert Stack([LSTM()]).surrogate == ""
    assert not Stack([LSTM()]).exact_length
    assert Network([LSTM()], readout="fed_back", n_out=2, teacher_forced=True).sizes is not None


class WithoutMasks(Direction):
    """A layer with every trait that a layer can have."""

    supports_mask = False
    surrogate = "a straight line"
    exact_length = True

    def __init__(self):
        super().__init__(Elman())


def test_parameters_are_called_by_their_place():
    layer = Readout(Stack([Elman(), Bidirectional(Elman())]), 2)
    assert list(layer.init(np.random.default_rng(0), 2, 3)) == [
        *("0.U", "0.W", "0.b"),
        *("1.forward.U", "1.forward.W", "1.forward.b"),
        *("1.backward.U", "1.backward.W", "1.backward.b"),
        *("readout.V", "readout.c"),
    ]


def test_naming_the_networks_loads_neither_numpy_nor_scipy():
    program = (
        "import sys, bpttcheck.networks as n; dir(n);"
        "assert not {'numpy', 'scipy', 'hypothesis'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_index_has_every_name_and_no_other():
    assert all(getattr(networks, name).__name__ == name for name in networks.__all__)
    assert set(networks.__all__) <= set(dir(networks))
    with pytest.raises(AttributeError, match="no attribute 'Stak'"):
        networks.Stak  # noqa: B018 - the access is the test


def assert_close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-13)
