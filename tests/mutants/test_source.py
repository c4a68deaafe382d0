from __future__ import annotations

import inspect
import time

import numpy as np
import pytest

from bpttcheck import trees
from bpttcheck.cells import BUILTINS, LSTM, Elman, Jordan, builtin
from bpttcheck.contract import is_cell
from bpttcheck.errors import ContractError
from bpttcheck.mutants.source import RAISES, planting, source_mutants, why_no_source
from bpttcheck.mutants.source.problems import compare, problem

NAMES = [*BUILTINS, "elman[relu]", "elman[sine]"]
CODES = ("", "sign", "wrong-derivative", "missing-path", "transposed", "batch-reduction",
         "swapped-gates")  # fmt: skip


@pytest.fixture(scope="module")
def mutants():
    """Every mutant of a built-in cell, equivalents too, made once."""
    made = {name: source_mutants(builtin(name), equivalents=True) for name in NAMES}
    return made.__getitem__


def one_step(cell, seed=0, size=(5, 4), B=3, **more):
    return problem(cell, np.random.default_rng(seed), size, B, **more)


def outcome(cell, wrong, one):
    return compare(one.run(cell, cell.step_vjp), one, cell, wrong.step_vjp)


@pytest.mark.parametrize("name", NAMES)
def test_every_built_in_has_many_mutants_all_of_which_compile(name, mutants):
    planted = [mutant.plant(builtin(name)) for mutant in mutants(name)]
    assert all(is_cell(cell) for cell in planted)
    broken = sum(mutant.note == RAISES for mutant in mutants(name))
    known = sum(mutant.note.startswith("equivalent") for mutant in mutants(name))
    print(f"{name}: {len(planted)} mutants, of which {broken} raise and {known} are equivalents")
    assert len(planted) >= 40
    assert len(planted) - broken - known >= 20


def test_the_lstm_has_at_least_forty_mutants_that_a_gradient_check_must_find(mutants):
    assert sum(mutant.note == "" for mutant in mutants("lstm")) >= 40


@pytest.mark.parametrize("name", NAMES)
def test_names_are_unique_and_say_class_line_and_change(name, mutants):
    cls = type(builtin(name)).__name__
    names = [mutant.name for mutant in mutants(name)]
    assert len(set(names)) == len(names)
    assert all(n.startswith(f"{cls}.step_vjp line ") and " in `" in n for n in names)
    assert {m.family for m in mutants(name)} == {"source"}
    assert {m.kind for m in mutants(name)} == {"cell"}


def test_a_mutant_says_the_wrong_line_and_the_right_one(mutants):
    lines, first = inspect.getsourcelines(LSTM.step_vjp)
    found = next(m for m in mutants("lstm") if m.name.endswith("i -> f in `d_g = d_c_new * i`"))
    number = first + next(k for k, line in enumerate(lines) if "d_g = d_c_new * i" in line)
    assert found.name == f"LSTM.step_vjp line {number}: i -> f in `d_g = d_c_new * i`"
    assert found.sentence == "`d_g = d_c_new * f`, where `d_g = d_c_new * i` is right"


def test_the_same_change_at_two_places_of_a_line_is_numbered(mutants):
    names = [m.name for m in mutants("lstm") if ": i -> f in `d_a_i" in m.name]
    assert [name.partition(":")[0][-3:] for name in names] == ["(1)", "(2)"]


@pytest.mark.parametrize("name", NAMES)
def test_no_two_mutants_write_the_same(name, mutants):
    lines = [m.name.partition(":")[0].partition(" (")[0] for m in mutants(name)]
    written = list(zip(lines, [m.sentence for m in mutants(name)], strict=True))
    assert len(set(written)) == len(written)


@pytest.mark.parametrize("name", NAMES)
def test_a_mutant_without_a_note_gives_other_gradients_at_an_ordinary_point(name, mutants):
    cell = builtin(name)
    unseen = [mutant for mutant in mutants(name) if mutant.note == ""]
    for seed in range(6):
        one = one_step(cell, seed)
        unseen = [m for m in unseen if outcome(cell, m.plant(cell), one) != "differs"]
    assert [mutant.name for mutant in unseen] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_mutant_that_is_said_to_raise_breaks_the_contract(name, mutants):
    cell = builtin(name)
    one = one_step(cell, B=7)
    raising = [m for m in mutants(name) if m.note == RAISES]
    assert raising
    for mutant in raising:
        found = outcome(cell, mutant.plant(cell), one)
        assert found in ("raises", "misshapen"), mutant.name
        assert mutant.diagnosis == "" or found == "misshapen"


@pytest.mark.parametrize("name", NAMES)
def test_what_needs_two_rows_shows_nothing_with_one(name, mutants):
    cell = builtin(name)
    single, pair = one_step(cell, B=1), one_step(cell, B=2)
    needing = [m for m in mutants(name) if m.least_B == 2]
    assert needing
    for mutant in needing:
        assert outcome(cell, mutant.plant(cell), single) == ""
        assert outcome(cell, mutant.plant(cell), pair) == "differs"


@pytest.mark.parametrize("name", NAMES)
def test_declared_diagnoses_are_codes_and_each_cell_has_the_common_ones(name, mutants):
    declared = {mutant.diagnosis for mutant in mutants(name)}
    assert declared <= set(CODES)
    assert declared >= {"sign", "wrong-derivative", "transposed", "batch-reduction"}


@pytest.mark.parametrize("name", NAMES)
def test_the_step_and_all_else_are_those_of_the_right_cell(name, mutants):
    cell = builtin(name)
    one = one_step(cell)
    state, y, _ = cell.step(one.params, one.state, one.x)
    for mutant in mutants(name):
        wrong = mutant.plant(cell)
        new_state, new_y, _ = wrong.step(one.params, one.state, one.x)
        pairs = zip(trees.leaves((state, y)), trees.leaves((new_state, new_y)), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
        assert wrong.init == cell.init
        assert wrong.initial_state == cell.initial_state


@pytest.mark.parametrize("name", NAMES)
def test_the_original_class_and_the_arguments_stay_as_they_are(name):
    cell = builtin(name)
    cls, code = type(cell), type(cell).step_vjp.__code__
    before, members = cell.step_vjp.__func__, dict(vars(cls))
    one = one_step(cell)
    right = one.run(cell, cell.step_vjp)
    for mutant in source_mutants(cell, equivalents=True):
        arguments = one.arguments(cell)
        copies = [np.copy(leaf) for leaf in trees.leaves(arguments)]
        try:
            mutant.plant(cell).step_vjp(*arguments)
        except Exception:
            assert mutant.note == RAISES
        pairs = zip(copies, trees.leaves(arguments), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs), mutant.name
    assert dict(vars(cls)) == members
    assert (cell.step_vjp.__func__, cls.step_vjp.__code__) == (before, code)
    assert all(np.array_equal(v, right[k]) for k, v in one.run(cell, cell.step_vjp).items())


def test_a_mutant_acts_on_the_very_instance_it_is_planted_in():
    mutant = next(m for m in source_mutants(Elman()) if "d_state - d_y" in m.sentence)
    for activation in ("tanh", "sine"):
        cell = Elman(activation)
        one = one_step(cell)
        flipped = one.run(cell, mutant.plant(cell).step_vjp)
        params, cache, d_state, d_y = one.arguments(cell)
        expected = cell.step_vjp(params, cache, d_state, -d_y)
        assert np.array_equal(flipped["d_x"], expected[2])


def test_a_mutant_is_refused_by_a_cell_of_another_class():
    mutant = source_mutants(LSTM())[0]
    with pytest.raises(ContractError, match=r"target=Elman.*should be a LSTM"):
        mutant.plant(Elman())


def test_allowed_sizes_are_kept():
    class OnlySquare(Elman):
        def init(self, rng, n_in, n_hidden):
            assert n_in == n_hidden == 3
            return super().init(rng, n_in, n_hidden)

    assert "cannot be run" in why_no_source(OnlySquare())
    found = source_mutants(OnlySquare(), sizes=((3, 3),))
    assert len(found) == len(source_mutants(Elman()))
    silent = [m for m in found if "x -> h" in m.name]
    assert [mutant.note for mutant in silent] == [""]
    with pytest.raises(ContractError, match="sizes"):
        source_mutants(Elman(), sizes=())


def test_a_line_that_is_never_reached_is_said_to_be_so():
    class Sometimes(Elman):
        def step_vjp(self, params, cache, d_state, d_y):
            d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
            if len(d_x) > 1000:
                d_x = d_x + 0.0 * d_h.sum()
            return d_params, d_h, d_x

    found = {m.note for m in source_mutants(Sometimes()) if "0.0" in m.name}
    assert found == {"no difference in 6 problems, none of which reached its line"}


def test_a_change_by_rounding_alone_is_no_difference():
    cell, one = Elman(), one_step(Elman())

    def shifted(by):
        def step_vjp(*arguments):
            d_params, d_h, d_x = cell.step_vjp(*arguments)
            return d_params, d_h, d_x + by

        return step_vjp

    right = one.run(cell, cell.step_vjp)
    assert compare(right, one, cell, shifted(0.0)) == ""
    assert compare(right, one, cell, shifted(1e-15)) == "rounding"
    assert compare(right, one, cell, shifted(1e-8)) == "differs"
    assert compare(right, one, cell, shifted(np.nan)) == "differs"
    assert compare(right, one, cell, shifted(np.zeros((2, 1, 1)))) == "misshapen"
    assert compare(right, one, cell, shifted("text")) == "raises"


def test_equivalents_come_only_when_asked_for():
    def proved(**options):
        return [m for m in source_mutants(Jordan(), **options) if "equivalent" in m.note]

    assert proved() == []
    assert len(proved(equivalents=True)) >= 5


def test_the_mutants_of_the_lstm_take_less_than_a_second():
    def seconds():
        start = time.process_time()
        source_mutants(LSTM())
        return time.process_time() - start

    assert min(seconds() for _ in range(3)) < 1.0


def test_making_mutants_prints_and_warns_nothing(capsys):
    class Loud(Elman):
        def step_vjp(self, params, cache, d_state, d_y):
            d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
            return d_params, d_h, d_x / (1.0 - 0.0 * d_x)

    with np.errstate(all="raise"):
        assert source_mutants(Loud())
    assert capsys.readouterr() == ("", "")
    assert planting.RAISES == "raises"
