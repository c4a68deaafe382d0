"""The bugs that one makes in networks, planted: each is caught by ``check``, and by which check."""

from __future__ import annotations

import numpy as np
import pytest

import bpttcheck
from bpttcheck.cells import Elman
from bpttcheck.networks import (
    Bidirectional,
    Direction,
    FinalOutput,
    OutputFeedback,
    Readout,
    Stack,
    StackedCell,
    TrainableState,
)
from bpttcheck.networks.composed import part_of
from bpttcheck.networks.final_output import FinalTape


class NotFlipped(Direction):
    """The backward direction gives back ``d_xs`` in the order in which it ran."""

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_state0 = super().vjp(params, tape, d_ys, d_state_T)
        return d_params, d_xs[::-1], d_state0


class NotFlippedForward(Direction):
    """The outputs of the backward direction stand in the order in which it ran."""

    def forward(self, params, xs, state0, mask=None):
        ys, state_T, tape = super().forward(params, xs, state0, mask)
        return ys[::-1], state_T, tape


class CotangentNotFlipped(Direction):
    """The backward direction takes ``d_ys`` in the order of time."""

    def vjp(self, params, tape, d_ys, d_state_T):
        return super().vjp(params, tape, d_ys[::-1], d_state_T)


class NotSplit(Bidirectional):
    """Both directions get the sum of the two halves of the cotangent."""

    def vjp(self, params, tape, d_ys, d_state_T):
        both = d_ys[:, :, : tape.width] + d_ys[:, :, tape.width :]
        return super().vjp(params, tape, np.concatenate([both, both], axis=-1), d_state_T)


class HalvesSwapped(Bidirectional):
    """The forward direction gets the cotangent of the backward one."""

    sequence = None  # differences alone find it, without a program to compile

    def vjp(self, params, tape, d_ys, d_state_T):
        swapped = np.concatenate([d_ys[:, :, tape.width :], d_ys[:, :, : tape.width]], axis=-1)
        return super().vjp(params, tape, swapped, d_state_T)


class LastInputAlone(Bidirectional):
    """The inputs get the cotangent of one direction alone."""

    sequence = None

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, _, d_state0 = super().vjp(params, tape, d_ys, d_state_T)
        forward = self.parts["forward"]
        d_fs = d_ys[:, :, : tape.width]
        _, d_xs, _ = forward.vjp(part_of(params, "forward"), tape.forward, d_fs, d_state_T[0])
        return d_params, d_xs, d_state0


class ReadsTheArraysEnd(FinalOutput):
    """The last step of the array is read, not each row's last real one."""

    def forward(self, params, xs, state0, mask=None):
        ys, state_T, tape = super().forward(params, xs, state0, mask)
        end = np.zeros(tape.put.shape, bool)
        end[-1:] = True
        return ys, state_T, FinalTape(tape.inner, end, end)


class ReadsTheLastStepOfBoth(FinalOutput):
    """The backward direction's gradient goes to its output at the last step, its very first one."""

    def forward(self, params, xs, state0, mask=None):
        ys, state_T, tape = super().forward(params, xs, state0, mask)
        return ys, state_T, tape._replace(read=tape.put)


class ReadoutOfPadding(Readout):
    """The cotangent of masked steps reaches the bias of the readout."""

    def vjp(self, params, tape, d_ys, d_state_T):
        everywhere = tape._replace(steps=np.ones_like(tape.steps))
        return super().vjp(params, everywhere, d_ys, d_state_T)


class MeanOfRows(TrainableState):
    """The rows' cotangents are averaged."""

    def initial_state_vjp(self, params, d_state0):
        return super().initial_state_vjp(params, d_state0 / len(d_state0))


class OneRow(TrainableState):
    """The first row's cotangent stands for all."""

    def initial_state_vjp(self, params, d_state0):
        return super().initial_state_vjp(params, d_state0[:1])


class LayersSwapped(Stack):
    """The final cotangents of the layers are handed out in the wrong order."""

    def vjp(self, params, tape, d_ys, d_state_T):
        return super().vjp(params, tape, d_ys, d_state_T[::-1])


class NothingBelow(StackedCell):
    """No gradient travels from one cell to the one below."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_states, d_x = super().step_vjp(params, cache, d_state, d_y)
        zero = {name: 0 * d if name.startswith("0.") else d for name, d in d_params.items()}
        return zero, d_states, d_x


class NotFedBack(OutputFeedback):
    """The output is not known to be read again at the next step."""

    def step_vjp(self, params, cache, d_state, d_y):
        return super().step_vjp(params, cache, (d_state[0], 0 * d_state[1]), d_y)


BOTH = Bidirectional(Elman())
PLANTED = [
    (NotFlipped(Elman(), reverse=True), Direction(Elman(), reverse=True), "d_xs"),
    (NotFlippedForward(Elman(), reverse=True), Direction(Elman(), reverse=True), "ys"),
    (CotangentNotFlipped(Elman(), reverse=True), Direction(Elman(), reverse=True), "d_"),
    (NotSplit(Elman()), BOTH, "d_"),
    (HalvesSwapped(Elman()), BOTH, "d_"),
    (LastInputAlone(Elman()), BOTH, "d_xs"),
    (ReadsTheArraysEnd(Direction(Elman())), FinalOutput(Direction(Elman())), "d_"),
    (
        ReadsTheLastStepOfBoth(Direction(Elman(), reverse=True), reverse=True),
        Direction(Elman(), reverse=True).final(),
        "d_",
    ),
    (ReadoutOfPadding(Elman(), 2), Readout(Elman(), 2), "d_params['readout.c']"),
    (LayersSwapped([Elman(), Elman()]), Stack([Elman(), Elman()]), "d_"),
    (NothingBelow([Elman(), Elman()]), StackedCell([Elman(), Elman()]), "d_params['0."),
    (NotFedBack([Elman()], 2), OutputFeedback([Elman()], 2), "d_"),
]
IDS = [type(wrong).__name__ for wrong, _, _ in PLANTED]


@pytest.mark.usefixtures("as_found")
@pytest.mark.sampled(2)
@pytest.mark.parametrize(("wrong", "right", "block"), PLANTED, ids=IDS)
def test_a_planted_bug_is_caught_by_the_laws_or_by_the_gradient(wrong, right, block):
    cheap = ("contract", "linearity", "batch_additivity", "masking", "zero_length")
    gradient = ("contract", "sequence_vjp")
    found = failures(wrong, cheap) or failures(wrong, gradient)
    assert any(one.block.startswith(block) for one in found), found
    assert not failures(right, cheap)


@pytest.mark.parametrize("wrong", [MeanOfRows(Elman()), OneRow(Elman())], ids=["mean", "one row"])
def test_a_gradient_of_the_initial_state_that_is_not_summed_over_the_rows_is_caught(wrong):
    names = ("contract", "initial_state")
    found = failures(wrong, names)
    assert {(one.check, one.block) for one in found} == {("initial_state", "d_params['state0']")}
    assert not failures(TrainableState(Elman()), names)


def failures(layer, checks):
    report = bpttcheck.check(layer, examples=6, checks=checks, raises=False)
    return report.findings
