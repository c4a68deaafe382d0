"""Errors that the author of the code declares, with a limit and a reason."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import bpttcheck
from bpttcheck.errors import ContractError

pytestmark = pytest.mark.usefixtures("as_found")


def off(x):
    """The gradient of the sum of squares, times ``1 + 1e-8``."""
    return (x**2).sum(), 2 * x * (1 + 1e-8)


def square(x):
    return (x**2).sum(), 2 * x


def check(function, executor=None, **options):
    return bpttcheck.check_grad(
        function, "x: N D", examples=12, dtypes=["float64"], raises=False, executor=executor,
        **options,
    )  # fmt: skip


def test_a_declared_error_is_no_failure_and_stands_in_the_report():
    assert not check(off).passed
    report = check(off, accept={"d_x": (1e-7, "a constant that is meant")})
    assert report.passed
    (note,) = [n for c in report.checks for n in c.notes if "accepted" in n]
    assert note.startswith("d_x is off by less than 1e-07, accepted: a constant that is meant")


def test_beyond_its_limit_it_is_one():
    report = check(off, accept={"d_x": (1e-9, "a constant that is meant")})
    assert [f.block for f in report.findings] == ["d_x"]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize(("name", "why"), [("d_x", "no case needed it"), ("dW", "no gradient of")])
def test_what_is_not_needed_is_a_failure(name, why, spread):
    accept = {name: (1e-9, "none")}
    if spread:
        with ThreadPoolExecutor(2) as executor:
            (finding,) = check(square, executor, accept=accept).findings
    else:
        (finding,) = check(square, accept=accept).findings
    assert why in finding.message


@pytest.mark.parametrize("accept", [{"d_x": 1e-9}, {"d_x": (2.0, "large")}, {"d_x": (1e-9, "")}, 3])
def test_what_is_malformed_is_refused(accept):
    with pytest.raises(ContractError, match="should map gradients to a relative error"):
        check(square, accept=accept)


def test_a_block_of_a_cell_is_called_by_its_own_name():
    class Off(type(bpttcheck.cells.Elman())):
        def step_vjp(self, params, cache, d_state, d_y):
            d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
            return {**d_params, "b": d_params["b"] * np.float64(1 + 1e-9)}, d_h, d_x

    report = bpttcheck.check(
        Off(), checks=["step_vjp"], dtypes=["float64"], examples=8, raises=False,
        accept={"d_params['b']": (1e-8, "meant")},
    )  # fmt: skip
    assert report.passed, report
