from __future__ import annotations

import itertools

import numpy as np
import pytest

from bpttcheck.activations import ACTIVATIONS
from bpttcheck.cells import LSTM, Elman, Jordan, builtin, every_name
from bpttcheck.mutants.source import RAISES, planting, source_mutants
from bpttcheck.mutants.source.planting import EQUIVALENTS, matches, why_equivalent
from bpttcheck.mutants.source.problems import compare, problem

CELLS = {name: builtin(name) for name in every_name()} | {
    **{f"jordan[{name}]": Jordan(activation=name) for name in ACTIVATIONS},
    "jordan[relu, tanh]": Jordan(activation="relu", output_activation="tanh"),
    "jordan, three outputs": Jordan(n_out=3),
    "jordan_teacher_forced[identity]": Jordan(activation="identity", teacher_forced=True),
}
SIZES = [(5, 4), (4, 4), (2, 3), (3, 3), (3, 1)]
PLANS = [
    {"size": size, "B": B, "scale": scale, "d_state": d_state, "d_y": d_y}
    for size, B, scale in itertools.product(SIZES, (1, 2, 3), (1.0, 30.0))
    for d_state, d_y in ((1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0))
]


def title(mutant):
    return mutant.name.partition(": ")[2]


def trials(cell):
    rng = np.random.default_rng(7)
    for plan in PLANS:
        one = problem(cell, rng, **plan)
        yield one, one.run(cell, cell.step_vjp)


def contradictions(cell):
    """Each mutant that is equal everywhere and not in the table, or in the table and not equal."""
    found = source_mutants(cell, equivalents=True)
    for mutant in found:
        if mutant.note in ("", RAISES) and why_equivalent(cell, title(mutant)):
            yield f"in the table, but not equal: {mutant.name}"
    equal = [m for m in found if m.note not in ("", RAISES)]
    planted = {m.name: m.plant(cell).step_vjp for m in equal}
    seen = {m.name: set() for m in equal}
    for one, right in trials(cell) if equal else ():
        for name, step_vjp in planted.items():
            seen[name].add(compare(right, one, cell, step_vjp))
    for mutant in equal:
        reason = why_equivalent(cell, title(mutant))
        if not reason:
            yield f"equal, but not in the table: {mutant.name}"
        elif not seen[mutant.name] <= ({"", "rounding"} if reason == "rounding only" else {""}):
            yield f"in the table, but not equal: {mutant.name}"


@pytest.mark.sampled(12)
@pytest.mark.parametrize("name", CELLS)
def test_what_changes_nothing_is_in_the_table_and_nothing_else_is(name):
    assert list(contradictions(CELLS[name])) == []


def test_a_proof_that_is_missing_is_found(monkeypatch):
    monkeypatch.setitem(EQUIVALENTS, "Elman(activation='identity')", {})
    found = list(contradictions(Elman("identity")))
    assert len(found) == 7
    assert all(words.startswith("equal, but not in the table: Elman") for words in found)


@pytest.mark.parametrize(
    ("cell", "wrong"),
    [
        (Elman(), "- before d_y in `d_h_new = d_state + d_y`"),
        (Elman("relu"), "z -> h in `d_z = d_h_new * f.derivative(z)`"),
        (Jordan(), "without the term d_state in …"),
        (LSTM(), "… in `d_a = np.concatenate([d_a_i, d_a_f, d_a_g, d_a_o], axis=-1)`"),
        (LSTM(), "x -> h in `'W_ih': d_a.T @ x`"),
    ],
)
def test_a_proof_of_something_that_matters_is_found(cell, wrong, monkeypatch):
    monkeypatch.setitem(EQUIVALENTS, "…", {wrong: "a wrong proof"})
    found = list(contradictions(cell))
    assert found
    assert all(words.startswith("in the table, but not equal: ") for words in found)


def test_a_difference_that_only_other_problems_show_is_found(monkeypatch):
    # Equal in the problems that the mutants are made with, but not in those of the test.
    monkeypatch.setattr(planting, "compare", lambda *_: "")
    monkeypatch.setitem(EQUIVALENTS, "…", {"…": "a wrong proof"})
    found = list(contradictions(Elman()))
    assert len(found) == len(source_mutants(Elman(), equivalents=True))


@pytest.mark.nightly
def test_every_row_of_the_table_is_needed():
    unused = {(cell, change) for cell, changes in EQUIVALENTS.items() for change in changes}
    for target in CELLS.values():
        names = [title(m) for m in source_mutants(target, equivalents=True)]
        unused -= {
            (cell, change)
            for cell, change in unused
            if matches(cell, repr(target)) and any(matches(change, name) for name in names)
        }
    assert unused == set()


def test_every_proof_is_a_sentence():
    reasons = {reason for changes in EQUIVALENTS.values() for reason in changes.values()}
    assert all(reason == "rounding only" or len(reason.split()) > 6 for reason in reasons)


def test_nothing_is_taken_as_proved_for_a_cell_of_somebody_else():
    class Own(Elman):
        pass

    words = "d_z -> d_h_new in `d_x = d_z @ params['U']`"
    assert why_equivalent(Elman("identity"), words)
    assert why_equivalent(Elman("tanh"), words) == ""
    assert why_equivalent(Own("identity"), words) == ""
    notes = {m.note for m in source_mutants(Own("identity")) if "d_z -> d_h_new" in m.name}
    assert notes == {"no difference in 6 problems"}


@pytest.mark.parametrize(
    ("pattern", "words", "fits"),
    [
        ("d_z -> … in `d_x = d_z`", "d_z -> d_h in `d_x = d_z`", True),
        ("… in `d_x = d_z`", "i * (1 - i) -> i in `d_x = d_z`", True),
        ("… in `a[0] * b`", "x in `a[0] * b`", True),
        ("… in `a[0] * b`", "x in `a0 * b`", False),
        ("d_z -> d_h", "d_z -> d_h_new", False),
    ],
)
def test_only_an_ellipsis_stands_for_anything(pattern, words, fits):
    assert matches(pattern, words) == fits
