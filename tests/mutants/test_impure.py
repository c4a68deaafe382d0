"""The mutants that are no functions: the first gradient is right, and something else is not."""

import copy

import numpy as np
import pytest

from bpttcheck.cells import BUILTINS
from bpttcheck.mutants import anatomy
from bpttcheck.mutants.conduct import NOISE, first_array

NAMES = [*BUILTINS, "counting", "layer of lstm", "layer of counting"]


def impure(bench, name):
    return [mutant for mutant in bench.catalogue(name) if mutant.family == "impure"]


def copies(blocks):
    return {block: np.array(value) for block, value in blocks.items()}


def differing(first, second):
    return {block for block in first if not np.array_equal(first[block], second[block])}


def symptoms(bench, target, case):
    """What a few calls show of a target that is no function; nothing for a right one."""
    found = set()
    arguments = [array.copy() for array in case.arrays]
    _, record = bench.forward(target, case)
    kept = copy.deepcopy(record)
    first = bench.backward(target, case, record)
    values = copies(first)
    if any(not np.array_equal(a, b) for a, b in zip(arguments, case.arrays, strict=True)):
        return {"changes an argument"}
    if not np.array_equal(first_array(record), first_array(kept)):
        return {"changes the record"}
    other = bench.case(target, seed=99, T=len(case.xs))
    other = type(case)(**{**vars(other), "params": case.params})
    _, elsewhere = bench.forward(target, other)
    bench.backward(target, other, elsewhere)
    if differing(values, first):
        found.add("overwrites a result")
    try:
        again = bench.backward(target, case, record)
    except RuntimeError:
        return {"raises again"}
    if differing(values, again):
        found.add("differs again")
    return found


EXPECTED = {
    "d_y changed in place": {"changes an argument"},
    "d_state changed in place": {"changes an argument"},
    "a parameter changed in place": {"changes an argument"},
    "d_params accumulates": {"differs again"},
    "random noise in d_params": {"differs again"},
    "a second use raises": {"raises again"},
    "a second use gives zeros": {"differs again"},
    "record on the instance": {"differs again"},
}


@pytest.mark.parametrize("name", NAMES)
def test_each_shows_its_own_symptom(name, bench):
    target = bench.target(name)
    found = impure(bench, name)
    assert {mutant.name for mutant in found} >= EXPECTED.keys()
    for mutant in found:
        seen = symptoms(bench, mutant.plant(target), bench.case(target))
        if mutant.name.endswith("in a buffer"):
            assert seen == {"overwrites a result"}, mutant.name
        elif mutant.name == "the record changed in place":
            # The first array of a record may be an argument: the input.
            assert seen in ({"changes an argument"}, {"changes the record"})
        else:
            assert seen == EXPECTED[mutant.name], mutant.name


@pytest.mark.parametrize("name", NAMES)
def test_a_right_target_and_a_mutant_that_is_pure_show_no_symptom(name, bench):
    target = bench.target(name)
    assert symptoms(bench, target, bench.case(target)) == set()
    for mutant in bench.catalogue(name):
        if mutant.family in ("sign", "path") and mutant.kind == "cell":
            assert symptoms(bench, mutant.plant(target), bench.case(target)) == set()


@pytest.mark.parametrize("name", NAMES)
def test_the_first_gradient_is_the_right_one_but_for_noise(name, bench):
    target = bench.target(name)
    for mutant in impure(bench, name):
        case = bench.case(target, T=1)
        right = bench.gradient(target, case)
        found = bench.gradient(mutant.plant(target), case)
        for block, value in right.items():
            if "noise" in mutant.name and block.startswith("d_params"):
                # Six standard deviations, and never none.
                np.testing.assert_allclose(found[block], value, rtol=6 * NOISE)
                assert not np.array_equal(found[block], value)
            else:
                np.testing.assert_array_equal(found[block], value, err_msg=mutant.name)


def test_two_plantings_share_nothing(bench):
    target, case = bench.target("elman"), bench.case(bench.target("elman"))
    for mutant in impure(bench, "elman"):
        if "in place" in mutant.name:
            continue
        first, second = mutant.plant(target), mutant.plant(target)
        one = copies(bench.gradient(first, case))
        bench.gradient(first, case)
        assert not differing(one, bench.gradient(second, case)), mutant.name


def test_every_array_inside_a_record_can_be_found():
    array = np.ones(2)
    for record in (array, (None, array), {"a": [1, array]}, type("Box", (), {})()):
        if not isinstance(record, (np.ndarray, tuple, dict)):
            record.inside = {"deep": (array,)}
        assert first_array(record) is array
    locked = np.ones(2)
    locked.flags.writeable = False
    for record in (None, 3.0, np.ones(0), np.arange(3), locked, np, object, []):
        assert first_array(record) is None
    endless: list = []
    endless.append(endless)
    assert first_array(endless) is None


def test_a_target_that_records_nothing_has_no_record_to_change(bench):
    class Identity:
        def init(self, rng, n_in, n_hidden):
            return {"b": rng.standard_normal(n_in)}

        def initial_state(self, params, batch_size):
            return np.zeros((batch_size, len(params["b"])), params["b"].dtype)

        def step(self, params, state, x):
            y = x + state + params["b"]
            return y, y, None

        def step_vjp(self, params, cache, d_state, d_y):
            d = d_state + d_y
            return {"b": d.sum(axis=0)}, d, d.copy()

    from bpttcheck.mutants import catalogue

    names = {mutant.name for mutant in catalogue(Identity())}
    assert "the record changed in place" not in names
    assert "step t reads the record of t - 1" not in names
    assert "step t reads d_ys[t + 1]" in names
    assert anatomy(Identity()).recurrent
