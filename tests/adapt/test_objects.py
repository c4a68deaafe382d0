import numpy as np
import pytest

import bpttcheck

pytestmark = pytest.mark.usefixtures("as_found")


class Accumulating:
    """Adds to its gradients, and never empties them."""

    def __init__(self, W, factor):
        self.W, self.dW, self.factor = W, np.zeros_like(W), factor

    def forward(self, x):
        self.x = x
        return x @ self.W

    def backward(self, dy):
        self.dW += self.factor * np.einsum("nd,nh->dh", self.x, dy)
        return dy @ self.W.T


@pytest.mark.parametrize("factor", [1, 2])
def test_an_object_that_adds_to_its_gradients_has_one_of_its_own_for_every_pass(factor):
    report = bpttcheck.check_object(
        lambda p: Accumulating(p["W"], factor),
        params={"W": "D H"}, x="N D", y="N H", examples=4, raises=False,
    )  # fmt: skip
    assert report.passed == (factor == 1), str(report)
    assert {finding.block for finding in report.findings} == (set() if factor == 1 else {"d_W"})
