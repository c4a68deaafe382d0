"""The mutants that keep memory or do not write it: one gradient is right, later ones are not."""

import numpy as np
import pytest

from bpttcheck import trees
from bpttcheck.cells import BUILTINS
from bpttcheck.contract import is_cell
from bpttcheck.mutants.conduct import CALLS, RECORDS, RING

NAMES = [*BUILTINS, "counting", "layer of lstm", "layer of counting"]


def named(bench, name, family):
    return {mutant.name: mutant for mutant in bench.catalogue(name) if mutant.family == family}


def same(first, second):
    return all(np.array_equal(first[block], second[block]) for block in first)


def copies(blocks):
    return {block: np.array(value) for block, value in blocks.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_first_gradient_is_the_right_one_to_the_bit(name, bench):
    target = bench.target(name)
    found = named(bench, name, "aliasing")
    assert len(found) >= 4
    for mutant in found.values():
        case = bench.case(target)
        assert same(bench.gradient(mutant.plant(target), case), bench.gradient(target, case))


@pytest.mark.parametrize("name", NAMES)
def test_a_ring_spoils_a_result_when_it_comes_round_and_not_before(name, bench):
    target = bench.target(name)
    mutant = named(bench, name, "aliasing")[f"d_x in a ring of {RING} buffers"]
    wrong, case = mutant.plant(target), bench.case(target)
    _, record = bench.forward(wrong, case)
    kept = bench.backward(wrong, case, record)["d_x"]
    right = kept.copy()
    other = bench.case(target, regime="large_cotangents")
    for _ in range(RING - 1):
        bench.backward(wrong, other, record)
        assert np.array_equal(kept, right)
    bench.backward(wrong, other, record)
    assert not np.array_equal(kept, right)


@pytest.mark.parametrize("name", NAMES)
def test_a_memo_hands_out_what_its_caller_may_have_changed(name, bench):
    target = bench.target(name)
    mutant = named(bench, name, "aliasing")["results handed out again"]
    wrong, case = mutant.plant(target), bench.case(target)
    _, record = bench.forward(wrong, case)
    d_ys = case.d_ys[0] if is_cell(target) else case.d_ys

    def backward(d_ys):
        if is_cell(target):
            return trees.leaves(wrong.step_vjp(case.params, record, case.d_state, d_ys))
        return trees.leaves(wrong.vjp(case.params, record, d_ys, case.d_state))

    first, again = backward(d_ys), backward(d_ys)
    shared = zip(first, again, strict=True)
    assert all(np.shares_memory(one, other) for one, other in shared if np.size(one))
    apart = zip(first, backward(d_ys.copy()), strict=True)
    assert not any(np.shares_memory(one, other) for one, other in apart)


@pytest.mark.parametrize("name", ["elman", "lstm", "counting"])
def test_a_ring_of_records_is_right_for_as_many_steps_as_it_has_slots(name, bench):
    target = bench.target(name)
    mutant = named(bench, name, "aliasing")[f"records in a ring of {RECORDS}"]
    assert mutant.least_T == RECORDS + 1
    for T, right in ((RECORDS, True), (RECORDS + 1, False)):
        case = bench.case(target, T=T)
        wrong = mutant.plant(target)
        state, records = case.state0, []
        for x in case.xs:
            state, _, record = wrong.step(case.params, state, x)
            records.append(record)
        first = bench.backward(wrong, case, records[0])
        assert same(first, bench.gradient(target, case)) == right


@pytest.mark.parametrize("name", ["elman", "lstm", "layer of lstm"])
def test_copies_of_parameters_are_stale_once_these_are_updated_in_place(name, bench):
    target = bench.target(name)
    mutant = named(bench, name, "aliasing")["parameters kept by identity"]
    wrong, case = mutant.plant(target), bench.case(target)
    bench.gradient(wrong, case)
    for value in case.params.values():
        value += 0.5
    assert not same(bench.gradient(wrong, case), bench.gradient(target, case))
    anew = bench.case(target, seed=5)
    assert same(bench.gradient(wrong, anew), bench.gradient(target, anew))


def test_a_counter_ends_the_gradient_after_its_calls(bench):
    target = bench.target("elman")
    mutant = named(bench, "elman", "aliasing")[f"d_params lost after {CALLS} calls"]
    wrong, case = mutant.plant(target), bench.case(target)
    _, record = bench.forward(wrong, case)
    right = bench.gradient(target, case)
    for _ in range(CALLS):
        found = bench.backward(wrong, case, record)
    assert same(found, right)
    assert not bench.backward(wrong, case, record)["d_params['U']"].any()


def test_two_plantings_share_nothing(bench):
    target = bench.target("elman")
    case = bench.case(target)
    for mutant in named(bench, "elman", "aliasing").values():
        first, second = mutant.plant(target), mutant.plant(target)
        one = copies(bench.gradient(first, case))
        assert same(one, bench.gradient(second, case)), mutant.name


@pytest.fixture
def stale(monkeypatch):
    """Memory that is not written holds 7, for the mutants alone."""
    from bpttcheck.mutants import conduct

    class Stale:
        def __getattr__(self, name):
            return getattr(np, name)

        @staticmethod
        def empty_like(array):
            return np.full_like(array, 7)

    monkeypatch.setattr(conduct, "np", Stale())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_written_is_what_memory_held_and_all_else_is_right(name, bench, stale):
    target = bench.target(name)
    found = named(bench, name, "uninitialised")
    assert {"last entry of d_x never written", "d_x of masked steps never written"} <= found.keys()
    for mutant in found.values():
        case = bench.case(target, masked=mutant.needs_mask)
        wrong = bench.gradient(mutant.plant(target), case)
        right = bench.right(target, mutant, case)
        for block, value in right.items():
            if block not in mutant.blocks:
                assert np.array_equal(wrong[block], value), (mutant.name, block)
            elif mutant.needs_mask:
                assert (wrong[block][~case.mask] == 7).all()
                np.testing.assert_array_equal(wrong[block][case.mask], value[case.mask])
            else:
                assert wrong[block].flat[-1] == 7
                assert np.array_equal(wrong[block].ravel()[:-1], value.ravel()[:-1])
