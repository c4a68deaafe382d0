"""Every option of a network, alone and in pairs; what was reached is printed."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

import bpttcheck
from bpttcheck.cells import LSTM, Elman, GRUResetAfter
from bpttcheck.networks import Network

CELLS = {
    "elman": (Elman(), Elman(), Elman()),
    "lstm": (LSTM(), LSTM(), LSTM()),
    "gru": (GRUResetAfter(), GRUResetAfter(), GRUResetAfter()),
    "mixed": (LSTM(), Elman(activation="sigmoid"), GRUResetAfter()),
}
DIRECTIONS = {
    "forward": {},
    "both, concat": {"directions": 2},
    "both, sum": {"directions": 2, "merge": "sum"},
}
READOUTS = {
    "every": {"readout": "every", "n_out": 2},
    "last": {"readout": "last", "n_out": 2},
    "none": {"readout": None},
    "fed back, free": {"readout": "fed_back", "n_out": 2, "output_activation": "tanh"},
    "fed back, teacher": {"readout": "fed_back", "n_out": 2, "teacher_forced": True},
}
AXES = {
    "cells": tuple(CELLS),
    "depth": (1, 2, 3),
    "directions": tuple(DIRECTIONS),
    "readout": tuple(READOUTS),
    "trainable": (False, True),
    "mask": ("none", "lengths", "holes", "empty_row"),
}

# Each is judged by JAX and by differences, in both dtypes and every regime of the first cases.
CHECKED = [
    ("elman", 1, "forward", "every", True),
    ("lstm", 1, "both, concat", "last", False),
    ("gru", 1, "forward", "fed back, free", False),
    ("elman", 1, "forward", "fed back, teacher", False),
    ("mixed", 2, "both, sum", "every", True),
    ("elman", 2, "both, concat", "none", False),
    ("lstm", 2, "forward", "fed back, teacher", True),
    ("gru", 2, "forward", "last", True),
    ("elman", 3, "both, sum", "last", False),
    ("mixed", 3, "forward", "none", True),
    ("elman", 3, "forward", "fed back, free", False),
]


def exists(directions, readout):
    """An output cannot be fed back to steps that came before it."""
    return directions == "forward" or not readout.startswith("fed back")


COMPOSED = [
    (cells, depth, directions, readout, trainable)
    for cells, depth, directions, readout, trainable in itertools.product(*list(AXES.values())[:5])
    if exists(directions, readout)
]


def network(cells, depth, directions, readout, trainable):
    options = {**DIRECTIONS[directions], **READOUTS[readout], "trainable_state": trainable}
    return Network(CELLS[cells][:depth], **options)


def mask_of(row):
    """The mask of a row: every mask meets every pair of options."""
    return AXES["mask"][(COMPOSED.index(row) * 7 + COMPOSED.index(row) // 4) % 4]


DEAR = (
    "mixed-2-both",
    "elman-3-both",
    "mixed-3-forward",
    "elman-3-forward",
    "gru-2-forward",
    "lstm-2-forward",
)


def words(row):
    return "-".join(map(str, row))


def checked():
    """Every row of the table; the dearest ones nightly."""
    for row in CHECKED:
        dear = words(row).startswith(DEAR)
        yield pytest.param(row, id=words(row), marks=[pytest.mark.nightly] if dear else [])


@pytest.mark.sampled(1)
@pytest.mark.parametrize("row", list(checked()))
def test_the_network_of_these_options_is_right(row):
    report = bpttcheck.check(network(*row), examples=6, seed=CHECKED.index(row))
    assert report.passed, str(report)
    assert not any("JAX autodiff was not used" in note for note in report.notes)
    assert any(c.name == "initial_state" and c.verdict for c in report.checks) is row[4]


@pytest.mark.parametrize(("readout", "cells"), list(itertools.product(READOUTS, CELLS)))
def test_every_composition_passes_back_the_transpose_of_its_derivative(kit, readout, cells):
    for row in COMPOSED:
        if row[3] == readout and row[0] == cells:
            layer = network(*row)
            problem = kit.problem(layer, mask=mask_of(row), seed=COMPOSED.index(row))
            assert kit.transpose_defect(layer, problem) < 1e-9, words(row)


def reached(rows):
    """How often each value, and each pair of values of two axes, is reached."""
    values, pairs = Counter(), Counter()
    for row in rows:
        named = list(zip(AXES, row, strict=True))
        values.update(named)
        pairs.update(itertools.combinations(named, 2))
    return values, pairs


def test_every_value_and_every_pair_of_options_is_reached():
    checked, _ = reached([(*row, "drawn") for row in CHECKED])
    values, pairs = reached([(*row, mask_of(row)) for row in COMPOSED])
    print("option           value               by check   by differences")
    for axis, value in sorted(values, key=lambda pair: list(AXES).index(pair[0])):
        by_check = "its own" if axis == "mask" else checked[axis, value]
        print(f"{axis:16} {value!s:19} {by_check!s:>8} {values[axis, value]:>16}")
    print(f"{len(COMPOSED)} compositions, {len(pairs)} pairs of values, each at least once")
    axes = [[(axis, value) for value in values] for axis, values in AXES.items()]
    assert set(values) == {pair for axis in axes for pair in axis}
    assert all(checked[pair] for axis in axes[:5] for pair in axis)
    for first, second in itertools.combinations(axes, 2):
        for (axis, one), (other_axis, two) in itertools.product(first, second):
            if axis == "directions" and other_axis == "readout" and not exists(one, two):
                continue
            assert pairs[(axis, one), (other_axis, two)], (one, two)


def test_a_pair_that_is_left_out_is_noticed():
    few = [(*row, "none") for row in COMPOSED if row[:2] != ("lstm", 3)]
    _, pairs = reached(few)
    assert not pairs[("cells", "lstm"), ("depth", 3)]
