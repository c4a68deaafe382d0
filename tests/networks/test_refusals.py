"""What a network refuses, and what it says: what was given, what was expected, what to do."""

from __future__ import annotations

import re

import numpy as np
import pytest

from bpttcheck.cells import LSTM, Elman, Jordan
from bpttcheck.errors import ContractError
from bpttcheck.networks import (
    Batch,
    Bidirectional,
    Direction,
    Network,
    OutputFeedback,
    Readout,
    Stack,
    StackedCell,
    TrainableState,
)

T, B = 4, 3
XS = np.zeros((T, B, 2))
LABELS = np.zeros((T, B), int)


class OnlyLayer:
    """A layer without ``sequence``."""

    init = initial_state = forward = vjp = lambda *_: None


def refused(make, *parts):
    with pytest.raises(ContractError) as caught:
        make()
    for part in parts:
        assert re.search(part, str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: Network([]), [r"cells=\[\]", "empty", "at least one cell"]),
        (lambda: Network(LSTM()), ["should be a list", r"\[LSTM\(\)\]"]),
        (lambda: Network([LSTM]), [r"cells\[0\]", "instance"]),
        (lambda: Network([Elman()], readout="evry"), ["'evry'", "'every', 'last', 'fed_back'"]),
        (lambda: Network([Elman()], n_out=2, merge="add"), ["merge='add'", "'concat', 'sum'"]),
        (lambda: Network([Elman()]), ["n_out=None", "1 or more"]),
        (lambda: Network([Elman()], n_out=0), ["n_out=0", "1 or more"]),
        (lambda: Network([Elman()], n_out=True), ["n_out=True", "1 or more"]),
        (lambda: Network([Elman()], n_out=2, directions=3), ["directions=3", "1 or 2"]),
        (lambda: Network([Elman()], readout=None, n_out=2), ["n_out=2", "set n_out=None"]),
        (
            lambda: Network([Elman()], directions=2, readout="fed_back", n_out=2),
            ["directions=2", "fed back", "use directions=1"],
        ),
        (
            lambda: Network([Elman()], n_out=2, teacher_forced=True),
            ["teacher_forced=True", "readout='fed_back'"],
        ),
        (
            lambda: Network([Elman()], n_out=2, output_activation="tanh"),
            ["output_activation='tanh'", "readout='fed_back'"],
        ),
        (lambda: Network([Elman()], n_out=2, loss="entropy"), ["'entropy'", "squared_error"]),
        (lambda: Stack([]), [r"layers=\[\]", "empty"]),
        (lambda: Stack([OnlyLayer()]), [r"layers\[0\]", "without the method sequence"]),
        (lambda: Stack([3]), [r"layers\[0\] is 3", "a cell, or a layer"]),
        (lambda: StackedCell([]), [r"cells=\[\]", "empty"]),
        (lambda: StackedCell([Stack([LSTM()])]), [r"cells\[0\]", "should be a cell"]),
        (lambda: Direction(Stack([LSTM()])), ["should be a cell"]),
        (lambda: Bidirectional(LSTM(), merge="mean"), ["merge='mean'", "'concat', 'sum'"]),
        (lambda: Bidirectional(LSTM), ["instance"]),
        (lambda: Readout(LSTM(), 2, at="first"), ["at='first'", "'every', 'last'"]),
        (lambda: Readout(LSTM(), 1.5), ["n_out=1.5", "1 or more"]),
        (lambda: OutputFeedback([LSTM()], 0), ["n_out=0"]),
        (lambda: OutputFeedback([LSTM()], 2, output_activation="tahn"), ["'tahn'"]),
        (lambda: TrainableState(TrainableState(LSTM())), ["already has", "once"]),
    ],
)
def test_options_that_do_not_fit_are_refused(make, parts):
    refused(make, *parts)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: Batch(XS, LABELS, lengths=[1, 2, T + 1]), [r"lengths\[2\]=5", r"0\.\.4", "T=4"]),
        (lambda: Batch(XS, LABELS, lengths=[1, -1, 2]), [r"lengths\[1\]=-1", r"0\.\.4"]),
        (lambda: Batch(XS, LABELS, lengths=[1, 2]), [r"lengths.shape=\(2,\)", r"\(B,\) = \(3,\)"]),
        (lambda: Batch(XS, LABELS, lengths=[1.0, 2.0, 3.0]), ["float64", "integers"]),
        (lambda: Batch(XS, LABELS, lengths=[0, 0, 0]), ["no step is real", "at least one"]),
        (
            lambda: Batch(XS, LABELS, np.ones((T, B), bool), [1, 1, 1]),
            ["both mask and lengths", "give one of them"],
        ),
        (lambda: Batch(XS, LABELS, np.zeros((T, B), bool)), ["no step is real"]),
        (lambda: Batch(XS, LABELS, np.ones((B, T), bool)), [r"mask.shape=\(3, 4\)", r"\(4, 3\)"]),
        (lambda: Batch(XS, LABELS, np.ones((T, B))), ["mask.dtype=float64", "bool"]),
        (lambda: Batch(XS[:0], LABELS[:0]), [r"xs.shape=\(0, 3, 2\)", "empty", "at least one"]),
        (lambda: Batch(XS[:, :0], LABELS[:, :0]), [r"xs.shape=\(4, 0, 2\)", "empty"]),
        (lambda: Batch(XS[0], LABELS), [r"xs.shape=\(3, 2\)", r"\(T, B, n_in\)"]),
        (lambda: Batch(XS.astype(int), LABELS), ["int", "floating"]),
        (lambda: Batch(XS.tolist(), LABELS), ["list", "floating array"]),
        (lambda: Batch(XS, LABELS.tolist()), ["targets of type list", "NumPy array"]),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused(make, parts):
    refused(make, *parts)


def setting(**options):
    network = Network([Elman(), LSTM()], n_out=3, **options)
    return network, network.init(np.random.default_rng(0), 2 + 3 * network.teacher_forced, 4)


def test_inputs_of_another_width_than_the_parameters_are_refused():
    network, params = setting()
    wide = Batch(np.zeros((T, B, 5)), LABELS)
    message = [r"xs.shape=\(4, 3, 5\)", r"U \(4, 2\)", "n_in that was given to init"]
    refused(lambda: network.loss_and_gradient(params, wide), *message)


def test_parameters_of_another_depth_are_refused():
    network, params = setting()
    one = Network([Elman()], n_out=3)
    three = Network([Elman(), LSTM(), LSTM()], n_out=3)
    batch = Batch(XS, LABELS)
    for other in (one, three):
        count = len(other.cells)
        message = ["belong to '0', '1'", f"a Stack of {count}", "its own init"]
        refused(lambda other=other: other.loss_and_gradient(params, batch), *message)
    for cell in (StackedCell([Elman()]), OutputFeedback([Elman()], 3)):
        refused(lambda cell=cell: cell.initial_state(params, B), "belong to '0', '1', 'readout'")
    without = {name: value for name, value in params.items() if name != "readout.c"}
    refused(lambda: network.loss_and_gradient(without, batch), "have no 'readout.c'", "own init")


def test_a_state_of_another_depth_or_batch_is_refused():
    network, params = setting()
    state = network.initial_state(params, B)
    for wrong in (state[:1], (*state, state[0]), network.initial_state(params, 1)):
        batch = Batch(XS, LABELS, state0=wrong)
        message = ["state0 is a tuple of", "expected that of", "with the shapes"]
        refused(lambda batch=batch: network.loss_and_gradient(params, batch), *message)
    stack, inner = network.layer.layer, {k: v for k, v in params.items() if "readout" not in k}
    refused(lambda: stack.forward(inner, XS, state[:1]), "a tuple of 1", "a tuple of 2")
    refused(lambda: stack.forward(inner, XS, state[0]), "a single array", "a tuple of 2")


@pytest.mark.parametrize("teacher_forced", [False, True])
def test_a_label_out_of_range_is_refused_with_its_place(teacher_forced):
    options = {"readout": "fed_back", "teacher_forced": teacher_forced}
    network, params = setting(**options)
    labels = LABELS.copy()
    labels[1, 2] = 3
    batch = Batch(XS, labels)
    message = [r"targets\[1, 2\]=3", r"0\.\.2"]
    refused(lambda: network.loss_and_gradient(params, batch), *message)
    masked = np.ones((T, B), bool)
    masked[1, 2] = False
    assert np.isfinite(network.loss_and_gradient(params, Batch(XS, labels, masked)).loss)


def test_targets_of_another_shape_are_refused():
    network, params = setting(readout="last")
    batch = Batch(XS, LABELS)
    refused(lambda: network.loss_and_gradient(params, batch), r"targets.shape=\(4, 3\)")


def test_the_sum_of_outputs_of_different_widths_is_refused():
    layer = Bidirectional(LSTM(), Jordan(n_out=2), merge="sum")
    params = layer.init(np.random.default_rng(0), 2, 4)
    state = layer.initial_state(params, B)
    refused(lambda: layer.forward(params, XS, state), "4 outputs forward and 2 backward", "concat")


def test_a_target_wider_than_the_inputs_is_refused():
    cell = OutputFeedback([LSTM()], 3, teacher_forced=True)
    refused(lambda: cell.init(np.random.default_rng(0), 2, 4), "n_in=2", "at least n_out=3")


def test_a_parameter_name_that_is_taken_is_refused():
    layer = Readout(Readout(LSTM(), 2), 2)
    refused(lambda: layer.init(np.random.default_rng(0), 2, 4), "already has", "'readout.V'")
