"""The suite of pytest-benchmark: what is wrong fails before it is timed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.speed import grid
from benchmarks.speed.test_speed import require_right
from bpttcheck.bench.forms import FORMS
from bpttcheck.jax_mode import enable_x64


def test_a_planted_error_of_one_block_fails_and_the_right_form_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = ("elman", grid.SIZES[0], "float64")
    right = FORMS["numpy"]

    def off(subject: Any, problem: Any) -> Any:
        ready = right.build(subject, problem)
        return replace(ready, blocks=lambda r: {**(b := ready.blocks(r)), "d_xs": b["d_xs"] * 1.01})

    with enable_x64():
        require_right(*point, "numpy")
        monkeypatch.setitem(FORMS, "numpy", replace(right, build=off))
        with pytest.raises(AssertionError, match=r"numpy: d_xs is off by 0\.01"):
            require_right(*point, "numpy")


def test_the_grid_knows_every_form_and_cell_that_it_names() -> None:
    assert set(grid.WAYS) == FORMS.keys()
    assert {1, 1024} <= {size.n_hidden for size in grid.SIZES}
    assert grid.forward("jordan", grid.SIZES[0], "float64", "fused") is None
    assert grid.forward("lstm", grid.SIZES[0], "float64", "fused") is not None
