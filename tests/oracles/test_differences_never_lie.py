"""Random problems made to mislead differences: a value is near the truth, or there is none."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bpttcheck.calibration import DIFFERENCE_LIMIT
from bpttcheck.oracles.differences import finite_difference as _differences
from bpttcheck.oracles.differences.finite_difference import finite_difference
from bpttcheck.oracles.differences.line import Line
from bpttcheck.oracles.differences.program import NativeProgram


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FAMILIES = load("difference_families").FAMILIES

PROBLEMS = 210  # of each family
ABSTAINED = 0.04  # of the problems of a family at most
# What cannot be told from a jump of the slope, or has no slope that anybody could measure.
HARD = {"kinks": 0.9, "stairs": 0.6}


@dataclass
class Count:
    judged: int = 0
    lies: list[str] = field(default_factory=list)
    abstained: Counter[str] = field(default_factory=Counter)
    evaluations: list[int] = field(default_factory=list)


def problems(family: str, number: int) -> list[Any]:
    return [FAMILIES[family](np.random.default_rng([17, index])) for index in range(number)]


def count(family: str, number: int = PROBLEMS) -> Count:
    result = Count()
    for index, trap in enumerate(problems(family, number)):
        found = finite_difference(trap.function, trap.point, trap.direction, trap.weights)
        result.evaluations.append(found.evaluations)
        if found.abstains:
            assert found.note
            result.abstained[found.note] += 1
            continue
        result.judged += 1
        if not trap.gap(float(found.value)) <= DIFFERENCE_LIMIT * float(found.error):
            result.lies.append(f"{index}: {found.value} ± {found.error}, truth {trap.truth}")
    return result


@pytest.mark.sampled(5)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_value_is_further_from_the_truth_than_its_bar_allows(family: str) -> None:
    result = count(family)
    abstained = sum(result.abstained.values())
    print(
        f"{family}: {result.judged} judged, {len(result.lies)} lies, {abstained} abstained; "
        f"median evaluations {np.median(result.evaluations):g}"
    )
    assert result.lies == []
    assert abstained <= HARD.get(family, ABSTAINED) * PROBLEMS
    assert max(result.evaluations) <= 160


def test_there_are_at_least_two_thousand_problems() -> None:
    assert PROBLEMS * len(FAMILIES) >= 2000


def test_the_interval_between_the_one_sided_slopes_holds_every_subgradient() -> None:
    hulls = 0
    for trap in problems("kinks", PROBLEMS):
        found = finite_difference(trap.function, trap.point, trap.direction, trap.weights)
        if found.hull is None:
            continue
        hulls += 1
        low, high = found.hull
        slack = 0.02 * (high - low)
        assert found.abstains
        assert low - slack <= trap.truth[0] <= trap.truth[1] <= high + slack
    assert hulls >= PROBLEMS // 2


def assume_only(line: Line) -> None:
    line._take(line._assumed(line.program.outputs))


# What each guard is for: without it, at least so many of the family's problems are lies.
ABLATIONS = {
    "stairs": ([(_differences, "stair_height", lambda *_: 0.0)], 50),
    "plateaus": ([(Line, "measure_noise", assume_only)], 10),
    "jitter": (
        [(Line, "measure_noise", assume_only), (NativeProgram, "repeat", lambda _: True)],
        3,
    ),
    "kinks": (
        [
            (_differences, "jump_at_point", lambda *_: None),
            (_differences, "crosses_kink", lambda _: False),
        ],
        3,
    ),
}


@pytest.mark.parametrize("family", ABLATIONS)
def test_without_its_guard_a_family_is_lied_about(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed, least = ABLATIONS[family]
    for where, name, instead in removed:
        monkeypatch.setattr(where, name, instead)
    assert len(count(family).lies) >= least


def test_without_the_look_at_single_outputs_those_of_other_scales_are_not_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_differences, "unsettled", lambda _: np.zeros(1, bool))
    assert sum(count("odometer").abstained.values()) >= 50
