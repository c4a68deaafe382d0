from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpttcheck.errors import ContractError
from bpttcheck.networks import SGD, Adam, clip_by_norm

SHAPES = {"W": (3, 2), "b": (3,), "scalar": ()}
SEEDS = st.integers(0, 2**32 - 1)
# The step that each is: from parameters and a gradient to new parameters.
STEPS = {
    "clip": lambda params, gradients: clip_by_norm(gradients, 1.0).gradients,
    "sgd": lambda params, gradients: SGD().step(params, gradients)[0],
    "adam": lambda params, gradients: Adam().step(params, gradients, Adam().start(params))[0],
}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is the peer that is compared with")


def drawn(rng, scale=1.0, dtype=np.float64):
    return {k: np.asarray(scale * rng.standard_normal(s), dtype) for k, s in SHAPES.items()}


def norm_of(gradients):
    return math.sqrt(math.fsum(float(v) ** 2 for g in gradients.values() for v in np.ravel(g)))


def taken(optimiser, params, gradients, state=None):
    """The parameters after a step with each of the gradients."""
    state = optimiser.start(params) if state is None else state
    for one in gradients:
        params, state = optimiser.step(params, one, state)
    return params


def taken_by_torch(torch, kind, params, gradients, **options):
    tensors = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in params.items()}
    optimiser = kind(tensors.values(), **options)
    for one in gradients:
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(one[name])
        optimiser.step()
    return {k: v.detach().numpy() for k, v in tensors.items()}


def distance(found, expected):
    """The largest distance relative to the largest entry of its array."""
    return max(np.abs(found[k] - v).max() / np.abs(v).max() for k, v in expected.items())


@given(SEEDS, st.sampled_from([1e-3, 1.0, 1e3]), st.sampled_from([0.1, 1.0, 50.0]))
def test_clipping_has_the_norm_and_the_direction_of_torch(torch, seed, scale, limit):
    gradients = drawn(np.random.default_rng(seed), scale)
    tensors = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in gradients.items()}
    for name, tensor in tensors.items():
        tensor.grad = torch.tensor(gradients[name])
    n = float(torch.nn.utils.clip_grad_norm_(tensors.values(), limit))
    clipped, norm = clip_by_norm(gradients, limit)
    assert norm == pytest.approx(n, rel=1e-12)
    # torch divides by n + 1e-6.
    theirs = {k: v.grad.numpy() * max(1.0, (n + 1e-6) / max(n, limit)) for k, v in tensors.items()}
    if n > limit:
        assert distance(clipped, theirs) < 1e-12
    else:
        assert all((clipped[k] == gradients[k]).all() for k in gradients)


@given(SEEDS, st.sampled_from([1e-3, 0.1, 1.0]), st.integers(1, 5))
def test_gradient_descent_is_that_of_torch(torch, seed, rate, steps):
    rng = np.random.default_rng(seed)
    params, gradients = drawn(rng), [drawn(rng) for _ in range(steps)]
    theirs = taken_by_torch(torch, torch.optim.SGD, params, gradients, lr=rate)
    assert distance(taken(SGD(rate), params, gradients), theirs) < 1e-12


ADAM = Adam(learning_rate=0.01, beta1=0.8, beta2=0.95, epsilon=1e-6)


def adam_of_torch(torch, params, gradients):
    options = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6}
    return taken_by_torch(torch, torch.optim.Adam, params, gradients, **options)


@given(SEEDS, st.sampled_from([1e-8, 1e-3, 1.0, 1e3]), st.integers(1, 12))
def test_adam_is_that_of_torch(torch, seed, scale, steps):
    rng = np.random.default_rng(seed)
    params, gradients = drawn(rng), [drawn(rng, scale) for _ in range(steps)]
    theirs = adam_of_torch(torch, params, gradients)
    assert distance(taken(ADAM, params, gradients), theirs) < 1e-12


@pytest.mark.parametrize(
    ("wrong", "skipped"),
    [
        (replace(ADAM, beta1=0.8 + 1e-9), 0),
        (replace(ADAM, beta2=0.95 + 1e-9), 0),
        (replace(ADAM, epsilon=1e-6 + 1e-12), 0),
        (ADAM, 1),
        (ADAM, 10**6),
    ],
    ids=["beta1", "beta2", "epsilon", "bias of the step before", "no bias correction"],
)
def test_the_comparison_with_torch_sees_a_wrong_adam(torch, wrong, skipped):
    rng = np.random.default_rng(0)
    params, gradients = drawn(rng), [drawn(rng, 1e-3) for _ in range(5)]
    state = wrong.start(params)._replace(t=skipped)
    theirs = adam_of_torch(torch, params, gradients)
    assert distance(taken(wrong, params, gradients, state), theirs) > 1e-12


@given(SEEDS, st.sampled_from([1e-290, 1e-160, 1.0, 1e160, 1e300]))
def test_the_norm_neither_overflows_nor_vanishes(seed, scale):
    gradients = drawn(np.random.default_rng(seed))
    expected = norm_of(gradients)
    scaled = {name: scale * g for name, g in gradients.items()}
    clipped, norm = clip_by_norm(scaled, 1e-3 * scale)
    assert norm == pytest.approx(expected * scale, rel=1e-12)
    back = {name: g / scale for name, g in clipped.items()}
    assert norm_of(back) == pytest.approx(1e-3, rel=1e-12)
    assert distance(back, {k: g * (1e-3 / expected) for k, g in gradients.items()}) < 1e-12


def test_a_norm_beyond_the_range_is_infinite_and_clipped_all_the_same():
    largest = float(np.finfo(np.float64).max)
    clipped, norm = clip_by_norm({"W": np.full(4, largest)}, 1.0)
    assert norm == math.inf
    np.testing.assert_allclose(clipped["W"], 0.5, rtol=1e-12)


def test_no_gradient_at_all_is_not_divided_by_its_norm():
    clipped, norm = clip_by_norm({"W": np.zeros((2, 2)), "none": np.zeros((0, 3))}, 1.0)
    assert norm == 0.0
    assert (clipped["W"] == 0).all()
    assert clip_by_norm({}, 1.0) == ({}, 0.0)


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_entry_that_is_not_finite_is_told_by_name(step, value):
    params, gradients = drawn(np.random.default_rng(0)), drawn(np.random.default_rng(1))
    gradients["W"][1, 0] = value
    with pytest.raises(ContractError, match=r"gradients\['W'\]\[1, 0\]=.*1 of 6") as raised:
        step(params, gradients)
    assert raised.value.item == "W"


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_step_changes_nothing_in_place(step):
    params, gradients = drawn(np.random.default_rng(0)), drawn(np.random.default_rng(1), 100.0)
    for array in (*params.values(), *gradients.values()):
        array.flags.writeable = False
    before = [array.copy() for array in (*params.values(), *gradients.values())]
    new = step(params, gradients)
    after = (*params.values(), *gradients.values())
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
    assert not any(np.shares_memory(new[k], params[k]) for k in new)


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_single_precision_stays_single(step):
    rng = np.random.default_rng(0)
    new = step(drawn(rng, dtype=np.float32), drawn(rng, 100.0, dtype=np.float32))
    assert {array.dtype for array in new.values()} == {np.dtype(np.float32)}
    assert {name: array.shape for name, array in new.items()} == SHAPES


@given(SEEDS)
def test_the_first_step_of_adam_has_the_length_of_the_learning_rate(seed):
    rng = np.random.default_rng(seed)
    params, gradients = drawn(rng), drawn(rng)
    new = taken(Adam(0.01, epsilon=1e-30), params, [gradients])
    for name, g in gradients.items():
        np.testing.assert_allclose(params[name] - new[name], 0.01 * np.sign(g), rtol=1e-9)


@given(SEEDS, st.sampled_from([0.5, 2.0, 3.7]))
def test_adam_hides_a_constant_factor_and_gradient_descent_does_not(seed, factor):
    rng = np.random.default_rng(seed)
    params, gradients = drawn(rng), [drawn(rng) for _ in range(5)]
    wrong = [{**one, "W": factor * one["W"]} for one in gradients]
    hidden = Adam(0.01, epsilon=1e-30)
    right = taken(hidden, params, gradients)
    assert distance(taken(hidden, params, wrong), right) < 1e-12
    assert distance(taken(SGD(0.01), params, wrong), taken(SGD(0.01), params, gradients)) > 1e-4


@pytest.mark.parametrize(
    ("gradients", "message"),
    [
        ({"W": np.ones((2, 2))}, r"gradients of \['W'\], but expected .*\['W', 'b'\]"),
        ({"W": np.ones((2, 2)), "b": np.ones(3)}, r"gradients\['b'\]\.shape=\(3,\), .* \(2,\)"),
        ({"W": np.ones((2, 2)), "b": np.ones(2, np.int64)}, r"gradients\['b'\] of .*dtype=int64"),
        ({"W": np.ones((2, 2)), "b": [1.0, 1.0]}, r"gradients\['b'\] of type=list"),
    ],
)
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_gradients_of_other_parameters_are_refused(name, gradients, message):
    with pytest.raises(ContractError, match=message):
        STEPS[name]({"W": np.ones((2, 2)), "b": np.ones(2)}, gradients)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_whole_numbers_as_parameters_are_refused(name):
    with pytest.raises(ContractError, match=r"params\['W'\] of .*dtype=int64"):
        STEPS[name]({"W": np.ones(2, np.int64)}, {"W": np.ones(2)})


def test_the_state_of_other_parameters_is_refused():
    params = {"W": np.ones((2, 2))}
    with pytest.raises(ContractError, match=r"state\.m\['W'\]\.shape=\(3,\)"):
        Adam().step(params, params, Adam().start({"W": np.ones(3)}))


@pytest.mark.parametrize(
    ("make", "item"),
    [
        (lambda: SGD(0.0), "learning_rate"),
        (lambda: Adam(math.nan), "learning_rate"),
        (lambda: Adam(epsilon=0.0), "epsilon"),
        (lambda: Adam(beta1=1.0), "beta1"),
        (lambda: Adam(beta2=-0.1), "beta2"),
        (lambda: clip_by_norm({}, math.inf), "limit"),
    ],
)
def test_an_option_out_of_its_range_is_refused(make, item):
    with pytest.raises(ContractError, match=f"{item}=") as raised:
        make()
    assert raised.value.item == item
