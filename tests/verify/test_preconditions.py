"""Kernels that refuse dtypes, sizes and masks, or omit gradients: right ones pass with remarks."""

import numpy as np
import pytest

import bpttcheck
from bpttcheck import Verdict
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.cells import Elman

pytestmark = pytest.mark.usefixtures("as_found")

FEW = {"examples": 8, "raises": False}


class Kernel:
    """A fused Elman layer; ``factor`` other than 1 makes it wrong."""

    reference = Elman()
    init, initial_state = reference.init, reference.initial_state

    def __init__(self, factor=1.0):
        self.factor = factor
        self.layer = CellLayer(Elman())

    def require(self, xs, mask):
        pass

    def forward(self, params, xs, state0, mask=None):
        self.require(xs, mask)
        return self.layer.forward(params, xs, state0, mask)

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_state0 = self.layer.vjp(params, tape, d_ys, d_state_T)
        return {k: v * v.dtype.type(self.factor) for k, v in d_params.items()}, d_xs, d_state0


class Float32Only(Kernel):
    def require(self, xs, mask):
        if xs.dtype != np.float32:
            raise TypeError("only float32 is supported")


class MultipleOf16(Kernel):
    supports_mask = False

    def require(self, xs, mask):
        assert len(xs) % 16 == 0, "T must be a multiple of 16"


class OneRow(Kernel):
    supports_mask = False

    def require(self, xs, mask):
        if xs.shape[1] != 1:
            raise ValueError("batch size must be 1")


class LengthsOnly(Kernel):
    def require(self, xs, mask):
        if mask is not None and (np.diff(mask.astype(int), axis=0) > 0).any():
            raise ValueError("only right-padded rows")
        if mask is not None and not mask.any(axis=0).all():
            raise ValueError("no empty rows")


class TakesNoMask(Kernel):
    def forward(self, params, xs, state0):
        return self.layer.forward(params, xs, state0)


REFUSALS = {
    Float32Only: "float64 is refused",
    MultipleOf16: "T = ",
    OneRow: "B = 2, 3, 4 is refused",
    LengthsOnly: "holes",
    TakesNoMask: "masks with",
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kernel", REFUSALS)
def test_a_right_kernel_passes_and_the_report_says_what_it_refuses(kernel):
    report = bpttcheck.check(kernel(), **FEW)
    assert report.passed, str(report)
    assert any(REFUSALS[kernel] in remark.message for remark in report.remarks), report.remarks
    assert report.checks[3 if report.checks[3].verdict else 4].oracles.get("jax")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kernel", REFUSALS)
def test_a_wrong_kernel_fails_all_the_same(kernel):
    report = bpttcheck.check(kernel(1.01), **FEW)
    assert report.verdict is Verdict.FAILED
    assert any(f.block.startswith("d_params") for f in report.findings)


@pytest.mark.parametrize("kernel", REFUSALS)
def test_strict_makes_the_refusal_a_failure(kernel):
    assert bpttcheck.check(kernel(), strict=True, **FEW).verdict is Verdict.FAILED


@pytest.mark.nightly
def test_what_is_declared_is_respected_without_a_remark():
    class Declared(MultipleOf16):
        lengths = (16, 32, 64)

    report = bpttcheck.check(Declared(), **FEW)
    assert report.passed
    assert not [r for r in report.remarks if r.block == "T"]
    assert report.lengths == (16, 64) or report.lengths == (16, 32)


class Omits(Kernel):
    supports_mask = False

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, _ = super().vjp(params, tape, d_ys, d_state_T)
        return {**d_params, "b": None}, d_xs, None


def test_a_gradient_that_is_none_is_not_checked_and_named():
    report = bpttcheck.check(Omits(), **FEW)
    assert report.passed
    assert {text.split()[0] for text in report.unchecked} == {"d_params['b']", "d_state0"}
    judged = {b.block for check in report.checks for b in check.blocks if b.judged}
    assert "d_state0" not in judged
    assert bpttcheck.check(Omits(1.01), **FEW).verdict is Verdict.FAILED


class CellThatOmits(Elman):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_previous, _ = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_previous, None


def test_a_cell_may_omit_the_gradient_of_its_input():
    report = bpttcheck.check(CellThatOmits(), **FEW)
    assert report.passed
    assert any(text.startswith("d_xs") for text in report.unchecked)


def test_an_accident_at_an_ordinary_size_is_no_refusal():
    class Broken(Kernel):
        supports_mask = False

        def vjp(self, params, tape, d_ys, d_state_T):
            return super().vjp(params, tape, d_ys, d_state_T) if len(d_ys) != 3 else [][0]

    assert bpttcheck.check(Broken(), **FEW).verdict is Verdict.FAILED
