import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bpttcheck
from bpttcheck import cells
from bpttcheck.adapt import from_custom_vjp, from_jax
from bpttcheck.on_jax import layer
from bpttcheck.on_jax.function import NativeLoops, with_rule
from bpttcheck.on_jax.gru_reset_before import GRUResetBeforeForm
from bpttcheck.on_jax.lstm import LSTMForm

# Each shape of each check costs a compilation, so that the cases are few.
FEW = {"examples": 4, "checks": ["sequence_vjp"], "dtypes": ["float64"]}


def test_a_native_form_passes_with_its_cell_as_the_reference(kit, gated):
    cell, _ = gated
    assert bpttcheck.check(kit.layer(cell), reference=cell, **FEW).passed


@pytest.mark.nightly
def test_float32_and_masks_pass_as_well(kit):
    cell, _ = kit.twins["gru_reset_after"]
    options = {**FEW, "checks": ["sequence_vjp", "masking"], "dtypes": ["float32"]}
    report = bpttcheck.check(kit.layer(cell), reference=cell, **options)
    assert report.passed
    assert all(check.cases >= 4 for check in report.checks)


@pytest.mark.nightly
def test_from_custom_vjp_takes_a_native_form(kit):
    cell, step = kit.twins["lstm"]
    subject = from_custom_vjp(
        layer(cell),
        init=cell.init,
        initial_state=cell.initial_state,
        primal=kit.scan(step),
        sequence=True,
    )
    assert bpttcheck.check(subject, **FEW).passed


class ForgetsTheCellPath(LSTMForm):
    def step_vjp(self, params, memory, kept, d_state, d_y):
        (d_h, d_c), d_a = super().step_vjp(params, memory, kept, d_state, d_y)
        return (d_h, jnp.zeros_like(d_c)), d_a  # without (15)


class ReadsTheWrongState(GRUResetBeforeForm):
    def accumulate(self, params, xs, memories, kept, deferred):
        return super().accumulate(params, xs, jnp.roll(memories, 1, axis=0), kept, deferred)


@pytest.mark.usefixtures("as_found")
@pytest.mark.parametrize(
    ("form", "cell", "item"),
    [
        (ReadsTheWrongState(), cells.GRUResetBefore(), "d_params['W_hh']"),
        pytest.param(ForgetsTheCellPath(), cells.LSTM(), "d_state0", marks=pytest.mark.nightly),
    ],
    ids=lambda value: type(value).__name__,
)
def test_one_wrong_equation_is_found(kit, form, cell, item):
    rule = with_rule(NativeLoops(form))
    wrong = kit.layer(cell, lambda params, xs, state0, mask: rule(params, xs, state0, mask))
    report = bpttcheck.check(wrong, reference=cell, raises=False, **FEW)
    assert not report.passed
    assert any(item in str(finding) for finding in report.findings)


def test_no_mask_is_a_mask_of_true(kit):
    cell, _ = kit.twins["gru_reset_after"]
    problem = kit.problem(cell)
    f = kit.layer(cell)
    plain = f.forward(*problem.arguments)[0]
    np.testing.assert_array_equal(plain, f.forward(*problem.arguments, np.ones((5, 3), bool))[0])


@pytest.mark.nightly
@pytest.mark.parametrize("order", [1, 2])
def test_gradients_and_their_gradients_of_a_native_form_are_right(order):
    f = layer(cells.Elman())

    def by_hand(x, h, U, W, b):
        return f({"U": U, "W": W, "b": b}, x, h)

    def plain(x, h, U, W, b):
        def step(h, x):
            h = jnp.tanh(x @ U.T + h @ W.T + b)
            return h, h

        last, ys = jax.lax.scan(step, h, x)
        return ys, last

    text = "x: T B D, h: B H, U: H D, W: H H, b: H -> y: T B H, last: B H"
    subject = from_jax(by_hand, text, plain, order=order)
    report = bpttcheck.check(
        subject, examples=4, dtypes=["float64"], checks=["vjp"], require=["jax"]
    )
    assert report.passed
