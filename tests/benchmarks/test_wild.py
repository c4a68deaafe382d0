"""The wall: what is not installed is not imported, and the page has a row for every adapter."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.wild import libraries, teaching
from benchmarks.wild.by_hand import departures
from benchmarks.wild.implementation import IMPLEMENTATIONS, Implementation
from benchmarks.wild.page import Row, page
from bpttcheck import adapt

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evidence" / "wild.md").read_text(encoding="utf-8")


def test_adapters_import_their_package_when_they_are_called():
    code = (
        "import sys; from benchmarks.wild import libraries, teaching; "
        "print([m for m in ('thinc', 'mygrad', 'numpy_ml', 'epynn', 'neuralnetlib', 'mytorch', "
        "'RNN', 'pyrenn', 'torch', 'numba') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("one", IMPLEMENTATIONS, ids=lambda one: one.name)
def test_the_page_has_a_row_for_every_adapter(one):
    assert f"| {one.package}: {one.what} |" in PAGE
    assert one.adapter.__module__ in (libraries.__name__, teaching.__name__)


def test_every_mismatch_on_the_page_is_confirmed_by_hand():
    rows = [line.split(" | ") for line in PAGE.splitlines() if "**FAILED**" in line]
    assert rows
    for row in rows:
        assert float(row[-1].partition(" ")[0]) > 1e-8, row


def test_at_least_eight_implementations_are_judged():
    judged = [line for line in PAGE.splitlines() if " PASSED " in line or "**FAILED**" in line]
    assert len(judged) >= 8


def test_what_is_not_installed_says_so():
    one = Implementation("surely-not-installed", "`RNN`", "check_vjp", lambda: None)
    assert one.version == ""
    assert "not installed" in page([Row(one, "not installed")], 1, "here", 1.0, "today")


@pytest.mark.parametrize("factor", [1, 2])
def test_a_departure_is_measured_without_the_checker(factor):
    def forward(x, W):
        return np.tanh(x @ W), (x, W)

    def backward(dy, cache):
        x, W = cache
        da = dy * (1 - np.tanh(x @ W) ** 2)
        return da @ W.T, factor * x.T @ da

    found = departures(adapt.from_vjp(forward, backward, "x: N D, W: D H -> y: N H"), "float64")
    assert found["x"] < 1e-8
    assert found["W"] == pytest.approx(1 - 1 / factor, abs=1e-8)
