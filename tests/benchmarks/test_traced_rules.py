"""The measurement of the traced rules: its cells, one small point, and what the page says of it."""

from __future__ import annotations

import dataclasses
from typing import Any

from benchmarks.speed import traced, traced_page
from bpttcheck.contract import is_cell


def test_nineteen_cells_can_be_loaded() -> None:
    names = [*traced.GALLERY, *traced.FRESH]
    assert len(names) == 19
    for name in names:
        cell = traced.cell_of(name)
        assert is_cell(cell)
        assert type(cell).__name__ == name


def document(cells: list[traced.TracedCell]) -> dict[str, Any]:
    environment = {"processor": "a processor", "cores": 1, "python": "3", "packages": {"jax": "1"},
                   "load_average": [0.1], "warnings": []}  # fmt: skip
    told = {cell.name: dataclasses.asdict(cell) for cell in cells}
    return {"environment": environment, "date": "2026-01-02", "rounds": 3, "growth": (8, 32),
            "cells": told}  # fmt: skip


def point(size: str, over: float) -> traced.TracedPoint:
    base = [1.0, 1.01, 0.99]
    return traced.TracedPoint(size, "float32", "kept", [over * b for b in base], base, base)


def test_the_page_has_every_point_the_mean_and_what_is_above_one() -> None:
    points = [point("50,1,32,32", 0.5), point("9,1,2,3", 2.0)]
    lengths, seconds = (1, 10, 100), (1.0, 10.0, 100.0)
    one = traced.TracedCell("One", "", points, (), lengths, seconds, "kept")
    two = traced.TracedCell("Two", reason="a callback")
    three = traced.TracedCell("Three", points=[point("9,1,2,3", 1.0)], skipped=["50,1,32,32: big"])
    text = traced_page.page(document([one, two, three]))
    assert "2 of 3 cells are traced; 3 points" in text
    assert "Geometric mean: 1.00x (1.00 to 1.00)" in text
    assert "Points above 1 beyond their interval: 1;" in text
    assert "One 9,1,2,3 float32 2.00x (2.00 to 2.00)" in text
    assert "to the power of 1.00 to 1.00" in text
    assert "- Two is not traced: a callback" in text
    assert "- Three, 50,1,32,32: big" in text
    assert "| Three | - | 1.00x (1.00 to 1.00), kept | 1.00x (1.00 to 1.00) |" in text


def test_a_cell_is_measured(monkeypatch: Any) -> None:
    monkeypatch.setattr("bpttcheck.bench.measure.SHORTEST", 1e-5)
    found = traced.measured("IndRNN", ["3,2,2,3"], ["float32"], [], 3)
    assert found.reason == ""
    (one,) = found.points
    assert len(one.traced) >= 3
    assert len(one.traced) == len(one.jax) == len(one.again)
    monkeypatch.setattr(traced, "MOST_NUMBERS", 1)
    assert traced.measured("IndRNN", ["3,2,2,3"], ["float32"], [], 3).skipped == (
        ["3,2,2,3 float32: the states alone are 2e+01 numbers"]
    )
