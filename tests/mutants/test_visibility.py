"""Every mutant is wrong where it says, only there, and right where it says it cannot be seen."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpttcheck import trees
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.cells import BUILTINS
from bpttcheck.contract import is_cell
from bpttcheck.mutants import anatomy
from bpttcheck.mutants.base import VALUES

CELLS = [*BUILTINS, "elman[relu]", "counting"]
NAMES = [*CELLS, "layer of lstm", "layer of counting"]
SEEDS = range(3)
# These have every family, every kind of state, and sizes of their own between them.
DEFAULT = ("elman", "lstm", "counting", "jordan_teacher_forced", "layer of counting")


def each(names):
    """The names of ``DEFAULT`` in every run, the others nightly."""
    marks = {name: [] if name in DEFAULT else [pytest.mark.nightly] for name in names}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


IMPURE = ("impure", "aliasing", "uninitialised")


def pure(bench, name):
    return [mutant for mutant in bench.catalogue(name) if mutant.family not in IMPURE]


def fitting(mutant, **more):
    """The smallest structure, not too small, that shows the mutant."""
    return {
        "T": max(mutant.least_T, 3),
        "B": max(mutant.least_B, 3),
        "size": mutant.sizes[-1] if mutant.sizes else beyond(mutant),
        "regime": mutant.regimes[0] if mutant.regimes else "ordinary",
        "masked": mutant.needs_mask,
        "values": mutant.values,
        **more,
    }


IMPLIED = {"equal_rows": ("one_hot",), "large_x": ("far_x",), "fortran": ("read_only",)}
"""What other rare values show a bug of some as well."""


def beyond(mutant):
    return max(mutant.least_n_in, 4), max(mutant.least_H, 3)


def largest_gaps(bench, name, mutant, **structure):
    """For each block by how much it is off at most, in a few problems."""
    each = [bench.gaps(name, mutant, seed=seed, **structure) for seed in SEEDS]
    return {block: max(gaps[block] for gaps in each) for block in each[0]}


def is_right(bench, name, mutant, **structure):
    """Not a bit differs, in any of a few problems."""
    return not any(largest_gaps(bench, name, mutant, **structure).values())


@pytest.mark.sampled(5)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", each(NAMES))
def test_a_mutant_is_wrong_in_its_blocks_and_in_no_other(name, dtype, bench):
    silent, elsewhere = [], []
    for mutant in pure(bench, name):
        if dtype not in mutant.dtypes:
            continue
        structure = fitting(mutant, dtype=dtype)
        # A graded error is half as large as declared at least, any other far beyond rounding.
        least = 0.5 * mutant.error if np.isfinite(mutant.error) else 1e-5
        gaps = largest_gaps(bench, name, mutant, **structure)
        declared = set(mutant.blocks or gaps)
        if not any(gaps[block] > least for block in declared):
            silent.append(mutant.name)
        if any(gap for block, gap in gaps.items() if block not in declared):
            elsewhere.append((mutant.name, gaps))
    assert not silent
    assert not elsewhere


@pytest.mark.parametrize("name", ["lstm", "counting", "jordan_teacher_forced"])
@given(data=st.data())
def test_whatever_the_problem_no_other_block_is_touched(name, bench, data):
    mutant = data.draw(st.sampled_from([m for m in pure(bench, name) if m.blocks]))
    target = bench.target(name)
    case = bench.case(
        target,
        seed=data.draw(st.integers(0, 2**32 - 1)),
        T=data.draw(st.integers(1, 6)),
        B=data.draw(st.integers(1, 4)),
        size=data.draw(st.sampled_from(list(anatomy(target, bench.sizes(name)).grid))),
        dtype=data.draw(st.sampled_from(["float64", "float32"])),
        regime=data.draw(st.sampled_from(["ordinary", "saturated", "large_cotangents"])),
        masked=data.draw(st.booleans()),
    )
    right = bench.right(target, mutant, case)
    for block, value in bench.gradient(mutant.plant(target), case).items():
        if block not in mutant.blocks:
            np.testing.assert_array_equal(value, right[block], err_msg=f"{mutant.name}: {block}")


@pytest.mark.parametrize("name", ["lstm", "counting"])
def test_a_graded_error_is_as_large_as_declared(name, bench):
    target = bench.target(name)
    for mutant in pure(bench, name):
        if mutant.family in ("scale", "sign"):
            case = bench.case(target)
            (block,) = mutant.blocks
            right = bench.right(target, mutant, case)[block]
            found = bench.gradient(mutant.plant(target), case)[block]
            off = np.abs(found - right) / np.abs(right)
            np.testing.assert_allclose(off, mutant.error, rtol=1e-3, atol=4e-16)


@pytest.mark.parametrize("name", each(NAMES))
def test_a_mutant_is_right_at_every_size_that_it_does_not_name(name, bench):
    target = bench.target(name)
    grid = anatomy(target, bench.sizes(name)).grid
    with_sizes = [mutant for mutant in pure(bench, name) if mutant.sizes]
    assert {mutant.family for mutant in with_sizes} >= {"transposed", "conditional", "swapped"}
    for mutant in with_sizes:
        others = [size for size in grid if size not in mutant.sizes]
        assert others
        for size in others:
            gaps = bench.gaps(name, mutant, **fitting(mutant, size=size))
            assert not any(gaps.values()), (mutant.name, size)


@pytest.mark.parametrize("name", each(NAMES))
def test_a_mutant_of_the_batch_is_right_for_one_row(name, bench):
    found = [mutant for mutant in pure(bench, name) if mutant.least_B > 1]
    families = {mutant.family for mutant in found}
    # Rows of a single output lie in memory in one way only.
    assert families | {"layouts"} == {"batch", "sizes", "values", "layouts"}
    for mutant in found:
        assert is_right(bench, name, mutant, **fitting(mutant, B=1)), mutant.name


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", each(NAMES))
def test_a_mutant_of_sizes_is_right_up_to_its_size(name, bench):
    found = [mutant for mutant in pure(bench, name) if mutant.family == "sizes"]
    assert len(found) >= 9
    wide = [mutant for mutant in found if mutant.least_H > 1 or mutant.least_n_in > 1]
    assert bool(wide) == (bench.sizes(name) is None)
    for mutant in found:
        n_in, n_hidden = beyond(mutant)
        smaller = n_in - (mutant.least_n_in > 1), n_hidden - (mutant.least_H > 1)
        below = {"size": smaller, "B": max(mutant.least_B - 1, 3), "T": max(mutant.least_T - 1, 3)}
        assert is_right(bench, name, mutant, **fitting(mutant, **below)), mutant.name
        if mutant.every_T > 1:
            structure = fitting(mutant, T=mutant.least_T + 1)
            assert is_right(bench, name, mutant, **structure), mutant.name


@pytest.mark.parametrize("name", each(NAMES))
def test_a_mutant_of_rare_values_is_right_for_ordinary_ones(name, bench):
    found = [mutant for mutant in pure(bench, name) if mutant.values]
    assert {mutant.family for mutant in found} == {"values", "magnitudes", "layouts"}
    for mutant in found:
        structure = fitting(mutant, values="", B=5)
        assert is_right(bench, name, mutant, **structure), mutant.name
        others = set(VALUES) - {mutant.values, *IMPLIED.get(mutant.values, ())}
        for values in others & {"zero_row", "one_sign", "huge", "fortran"}:
            structure = fitting(mutant, values=values, B=5)
            assert is_right(bench, name, mutant, **structure), (mutant.name, values)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", each(NAMES))
def test_a_mutant_of_the_loop_is_right_for_a_sequence_that_is_too_short(name, bench):
    # A single step is the first and the last: its term is missing there too.
    found = [m for m in pure(bench, name) if m.least_T > 1 and m.time_step is None]
    families = {"truncated", "terms", "records", "sizes", "public"}
    assert {mutant.family for mutant in found} == families
    for mutant in found:
        structure = fitting(mutant, T=mutant.least_T - 1, regime="ordinary")
        assert is_right(bench, name, mutant, **structure), mutant.name


@pytest.mark.parametrize("name", each(CELLS))
def test_a_mutant_of_the_mask_is_right_where_nothing_is_masked(name, bench):
    found = [mutant for mutant in pure(bench, name) if mutant.needs_mask]
    assert len(found) == 4
    for mutant in found:
        assert is_right(bench, name, mutant, **fitting(mutant, masked=False)), mutant.name


@pytest.mark.parametrize("name", each(NAMES))
def test_a_mutant_of_a_regime_is_right_outside_it(name, bench):
    regimes = {"clipped": "tiny_gradients", "conditional": "ordinary"}
    found = [m for m in pure(bench, name) if m.regimes and m.family in regimes]
    assert found
    for mutant in found:
        structure = fitting(mutant, regime=regimes[mutant.family])
        assert is_right(bench, name, mutant, **structure), mutant.name


@pytest.mark.parametrize("name", each(CELLS))
def test_float32_does_not_show_what_is_rounded_to_it(name, bench):
    found = [m for m in pure(bench, name) if m.family == "precision" and m.dtypes == ("float64",)]
    assert found
    for mutant in found:
        assert is_right(bench, name, mutant, dtype="float32"), mutant.name


@pytest.mark.sampled(5)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", each(NAMES))
def test_the_forward_pass_of_every_mutant_is_the_right_one(name, masked, bench):
    target = bench.target(name)
    for mutant in bench.catalogue(name):
        wrong = mutant.plant(target)
        right = CellLayer(target) if is_cell(target) and not is_cell(wrong) else target
        case = bench.case(target, T=5, masked=masked)
        found, _ = bench.forward(wrong, case)
        expected, _ = bench.forward(right, case)
        for one, other in zip(trees.leaves(found), trees.leaves(expected), strict=True):
            assert np.array_equal(one, other), mutant.name
            assert one.dtype == other.dtype, mutant.name


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", each(NAMES))
def test_a_mutant_that_is_not_impure_is_a_function(name, bench):
    target = bench.target(name)
    for mutant in pure(bench, name):
        wrong = mutant.plant(target)
        case = bench.case(target, **fitting(mutant, T=max(3, mutant.least_T)))
        before = [array.copy() for array in case.arrays]
        _, record = bench.forward(wrong, case)
        kept = copy.deepcopy(record)
        first = bench.backward(wrong, case, record)
        values = {block: np.array(value) for block, value in first.items()}
        second = bench.backward(wrong, case, record)
        from_copy = bench.backward(wrong, case, kept)
        for block, value in values.items():
            for again in (first, second, from_copy):
                np.testing.assert_array_equal(again[block], value, err_msg=mutant.name)
        for was, now in zip(before, case.arrays, strict=True):
            assert np.array_equal(was, now), mutant.name


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", each(NAMES))
def test_dtypes_and_shapes_stay_but_where_the_shape_is_the_bug(name, bench):
    target = bench.target(name)
    for mutant in pure(bench, name):
        case = bench.case(target, **fitting(mutant, dtype="float32"))
        right = bench.right(target, mutant, case)
        found = bench.gradient(mutant.plant(target), case)
        for block, value in found.items():
            assert isinstance(value, np.ndarray), mutant.name
            assert value.dtype == right[block].dtype, (mutant.name, block)
            if "shape" not in mutant.name:
                assert value.shape == right[block].shape, (mutant.name, block)
