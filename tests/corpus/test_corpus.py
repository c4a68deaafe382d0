"""Code as people write it: the right versions pass, the wrong ones fail where they are wrong."""

from __future__ import annotations

import importlib.util
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bpttcheck
from bpttcheck.adapt.returned import stands_for


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ENTRIES = load("cases").ENTRIES
by_hand = load("by_hand")

SLOW = {"ctc_loss"}  # a program for every way through its ifs: 20 seconds

RIGHT = [pytest.param(entry, id=name) for name, entry in ENTRIES.items()]
WRONG = [
    pytest.param(entry, bug, id=f"{name}: {bug.name}", marks=[pytest.mark.nightly] * (name in SLOW))
    for name, entry in ENTRIES.items()
    for bug in entry.bugs
]


def wrong_inputs(entry: Any, bug: Any = None) -> set[str]:
    """What central differences say is wrong."""
    dtype = np.float32 if entry.name == "float32_buffers" else np.float64
    return by_hand.wrong(entry.subject(bug), dtype)


def require_pass(entry: Any, examples: int) -> None:
    report = bpttcheck.check(entry.subject(), examples=examples)
    assert report.passed
    judged = {check.name: check.oracles for check in report.checks}["vjp"]
    assert bool(judged.get("jax")) is not bool(entry.no_jax)
    assert judged["differences"]


def of_list(block: str, wrong: set[str]) -> str:
    """An entry of a list over time (``xs.27``) by that of a wrong one of the same list.

    Central differences look at one short list: which steps a mistake reaches depends on the length.
    """
    found = re.search(r"(\w+)\.\d+\b", block)
    known = sorted(name for name in wrong if found and name.startswith(f"{found[1]}."))
    return known[0] if known else block


def require_failure(entry: Any, bug: Any, examples: int) -> None:
    report = bpttcheck.check(entry.subject(bug), examples=examples, raises=False)
    assert report.verdict is bpttcheck.Verdict.FAILED
    gradients = [f for f in report.findings if f.check in ("vjp", "linearity", "batch_additivity")]
    wrong = wrong_inputs(entry, bug)
    names = [*wrong, *(name.rpartition(".")[2] for name in wrong)]
    assert gradients
    blocks = [of_list(str(f.block), wrong) for f in gradients]
    assert [block for block in blocks if stands_for(block, names) is None] == []
    said = [one.code for finding in gradients for one in finding.diagnoses]
    assert said[:1] == [bug.diagnosis] or not bug.diagnosis


def test_there_are_many_modules_with_little_glue():
    lines = [entry.glue_lines for entry in ENTRIES.values()]
    assert len(lines) >= 28
    assert statistics.median(lines) <= 3
    assert max(lines) <= 8
    assert {path.stem for path in (Path(__file__).parent / "code").glob("*.py")} == set(ENTRIES)


@pytest.mark.parametrize("entry", RIGHT)
def test_the_right_version_agrees_with_central_differences(entry):
    assert wrong_inputs(entry) == set()


@pytest.mark.parametrize(("entry", "bug"), WRONG)
def test_every_mistake_shows_in_central_differences(entry, bug):
    assert wrong_inputs(entry, bug)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("entry", RIGHT)
def test_the_right_version_passes_and_jax_judged_it(entry):
    require_pass(entry, examples=12)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("entry", "bug"), WRONG)
def test_the_wrong_version_fails_where_it_is_wrong(entry, bug):
    require_failure(entry, bug, examples=6)


@pytest.mark.nightly
@pytest.mark.parametrize("entry", RIGHT)
def test_the_right_version_passes_at_a_hundred_cases(entry):
    require_pass(entry, examples=100)


@pytest.mark.nightly
@pytest.mark.parametrize(("entry", "bug"), WRONG)
def test_the_wrong_version_fails_at_a_hundred_cases(entry, bug):
    require_failure(entry, bug, examples=100)
