"""The judgement of published formulas: it is right, it can fail, and its page is current."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bpttcheck
from examples.derivations import a, e, page
from examples.derivations.end_to_end import reported
from examples.derivations.formula import Formula, Outcome, Reading, Statement
from examples.derivations.grid import Kind, Truth, kinds
from examples.derivations.judge import attempt, judge_all
from examples.derivations.network import Network
from examples.derivations.search import Condition, conditions, search
from examples.derivations.stack import Stack
from examples.derivations.systems import SYSTEMS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "derivations.md").read_text()
FEW = [k for k in kinds() if k.T <= 3 and (k.n, k.H) in ((1, 1), (2, 1), (1, 3))]
CODES = [f"{text}{i + 1}" for text, count in zip("ABCDE", (5, 6, 7, 3, 8), strict=True)
         for i in range(count)]  # fmt: skip


def clauses(sentence):
    """``right only if`` as the page has it, and whether that is all of it."""
    body, _, rest = sentence.removeprefix("right only if ").partition("; or in single kinds")
    return [clause.split(" and ") for clause in body.split("; or ")], not rest


def predicted(sentence, kind, known):
    """What a verdict of the page says of one kind: True, False, or None if it says nothing."""
    if sentence in ("right", "wrong"):
        return sentence == "right"
    found, exact = clauses(sentence)
    holds = any(all(known[words].holds(kind) for words in clause) for clause in found)
    return holds if holds or exact else None


def sentence_of(text, words):
    """The verdict that the page gives to a reading."""
    found = re.search(rf"^- {re.escape(words)}: (.*?); wrong on", text, re.M)
    return found[1].replace("**", "") if found else ""


def stale(text, judged):
    """What the page says and the judgement of a few kinds of problem does not."""
    faults = [] if re.findall(r"^### (\w+)$", text, re.M) == CODES else ["the formulas"]
    for number, formula in enumerate(page.FORMULAS):
        after = text.partition(f"### {formula.code}\n")[2]
        section = f"### {formula.code}\n" + re.split(r"^##", after, maxsplit=1, flags=re.M)[0]
        if page.heading(formula) not in section or formula.against not in text:
            faults.append(f"{formula.code}: its text")
        if not all(line in section for line in page.wrapped(formula.corrected)):
            faults.append(f"{formula.code}: the corrected formula")
        faults += readings_that_are_stale(section, judged[formula.code], formula)
        rows = [row for row in text.splitlines() if row.startswith(f"| [{formula.code}]")]
        sentence = sentence_of(section, formula.readings[0].words).replace("|", "\\|")
        if not formula.parts and (len(rows) != 1 or sentence not in rows[0].replace("**", "")):
            faults.append(f"{formula.code}: its row, number {number}")
    return faults


@functools.cache
def known_of(code):
    """The conditions that a verdict on a formula may name, by their words."""
    (formula,) = [formula for formula in page.FORMULAS if formula.code == code]
    within = [kind for kind in kinds() if formula.within(kind)]
    return {condition.words: condition for condition in conditions(within)}


def readings_that_are_stale(section, judged, formula):
    known = known_of(formula.code)
    for reading in formula.readings:
        judgement = judged[reading.words]
        if isinstance(reading, Statement):
            if page.told(judgement) not in section:
                yield f"{formula.code}: {reading.words}"
            continue
        sentence = sentence_of(section, reading.words)
        if not sentence:
            yield f"{formula.code}: {reading.words} is not there"
            continue
        for kind, right in judgement.right.items():
            if None not in (right, said := predicted(sentence, kind, known)) and right != said:
                yield f"{formula.code}: {reading.words}, {kind}"
        found = judgement.counterexample
        if found is not None and page.example(reading, found) not in section:
            yield f"{formula.code}: the counterexample to {reading.words}"


@pytest.mark.nightly
def test_the_page_is_current_every_planted_change_noticed_and_every_correction_right():
    judged = judge_all(page.FORMULAS, FEW)  # dear: once for all three
    every_correction_is_right(judged)
    assert stale(PAGE, judged) == [], "python docs/_make/make_derivations.py"
    for code in CODES:
        for reading in judged[code]:
            section = PAGE.partition(f"### {code}\n")[2]
            line = re.search(rf"^- {re.escape(reading)}: (.*)$", section, re.M)
            if line is None:
                continue  # a correction, which has no line of its own
            changed = line[0].replace("**right**", "**wrong**").replace("T = 1", "T <= 2")
            changed = changed.replace("**wrong**", "**right**") if changed == line[0] else changed
            changed = (
                changed.replace("only if", "only if H = 1 and") if changed == line[0] else changed
            )
            head, tail = PAGE.split(f"### {code}\n")
            planted = f"{head}### {code}\n{tail.replace(line[0], changed, 1)}"
            assert stale(planted, judged), (code, reading)
    assert stale(PAGE.replace("### B6\n", "### B7\n"), judged)
    assert stale(PAGE.replace("the true dE/dW = ", "the true dE/dW = 1", 1), judged)


def test_what_the_harness_says_of_a_formula_as_a_backward_pass_is_on_the_page():
    said = [line for one in reported("B6") for line in page.wrapped(one)]
    assert any("missing-path" in line for line in said)
    assert "\n".join(said) in PAGE


def every_correction_is_right(judged):
    corrected = [formula for formula in page.FORMULAS if formula.correction is not None]
    assert {judged[f.code][f.correction.words].verdict for f in corrected} == {"right"}
    wrong = {
        f.code for f in page.FORMULAS if judged[f.code][f.readings[0].words].verdict != "right"
    }
    assert wrong <= {f.code for f in corrected}


def test_every_formula_has_its_section_and_its_row():
    assert [formula.code for formula in page.FORMULAS] == CODES
    assert re.findall(r"^\| \[(\w+)\]", PAGE, re.M) == CODES
    assert "MISSING" not in PAGE
    assert "WRONG" not in PAGE


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.words)
def test_every_system_is_there_and_so_is_what_verifies_it(system):
    module, _, name = system.public.rpartition(".")
    assert hasattr(importlib.import_module(module), name)
    path = re.search(r"(tests|examples)/[\w/.]+", system.verified)
    assert path is None or (ROOT / path[0]).exists()
    assert f"| {system.words} | {system.where} | `{system.public}` | right |" in PAGE


@pytest.mark.sampled(1)
@pytest.mark.parametrize("cell", [Network("tanh"), Stack("sigmoid")], ids=str)
def test_the_networks_that_the_formulas_are_about_have_right_gradients_themselves(cell):
    options = {"checks": ["step_vjp", "sequence_vjp"], "dtypes": ["float64"]}
    assert bpttcheck.check(cell, examples=5, **options).passed


@pytest.mark.parametrize("factor", [1 + 1e-11, -1.0, 0.5])
def test_a_right_formula_times_a_factor_is_wrong(factor):
    right, truth = a.CORRECT_PATHS, Truth(Kind("tanh", 3, 2, 3, loss="last step"), 0)
    off = Reading("off", lambda s: {"W": right.rule(s)["W"] * factor})
    assert attempt(right, truth).right is True
    assert attempt(off, truth).right is False


def test_a_system_that_is_missing_or_wrong_is_said_to_be():
    gone = replace(SYSTEMS[0], public="bpttcheck.cells.Elmann")
    assert gone.verdict.startswith("MISSING")
    assert replace(SYSTEMS[0], run=lambda found: False).verdict == "WRONG"


def test_the_search_finds_a_planted_disjunction_of_conditions():
    tried = list(kinds())
    right = [k.T == 1 or (k.activation == "identity" and k.h0 == "zero") for k in tried]
    found = search(tried, right, conditions(tried))
    assert found.exact
    assert set(found.clauses) == {("T = 1",), ("f is the identity", "h_0 = 0")}


def test_the_search_says_when_its_conditions_do_not_describe_what_it_saw():
    found = search([1, 2, 3, 5], [True, False, True, True], [Condition("odd", lambda k: k % 2)])
    assert found.exact
    found = search([1, 2, 3, 4], [True, False, True, True], [Condition("odd", lambda k: k % 2)])
    assert not found.exact
    assert "single kinds" in str(found)


def test_kinds_on_which_nothing_could_be_seen_are_no_evidence():
    silent = Statement("silent", [1, 2], lambda kind, index: Outcome(None))
    with pytest.raises(ValueError, match="no problem was evidence"):
        judge_all([Formula("X1", "x", (silent,), by_eye="right")], [])


def test_a_relu_formula_that_forgets_a_dead_unit_is_found():
    forgets = Reading("no slope", lambda s: {"b": np.sum(s.de_dh[1:], axis=0)})
    truths = [Truth(Kind("relu", 1, 1, 1, loss="last step"), index) for index in range(4)]
    found = [attempt(forgets, truth).right for truth in truths]
    assert True in found
    assert False in found


def test_shapes_that_do_not_fit_are_wrong_and_not_an_error():
    letter = e.FORMULAS[6].readings[0]
    assert attempt(letter, Truth(Kind("tanh", 2, 1, 1), 0)).right is True
    assert attempt(letter, Truth(Kind("tanh", 2, 1, 3), 0)).right is False


def test_the_formulas_import_nothing_private():
    for path in (ROOT / "examples" / "derivations").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                assert not any(n.startswith("_") and n != "__future__" for n in names), path
