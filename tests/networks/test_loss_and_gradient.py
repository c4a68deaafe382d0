"""The gradient of a loss through a whole network, against differences and a twin in JAX."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpttcheck import losses, trees
from bpttcheck.cells import LSTM, Elman, GRUResetAfter
from bpttcheck.jax_mode import enable_x64
from bpttcheck.networks import Batch, Network, Stack

T, B, N_IN, N_HIDDEN, N_OUT = 5, 3, 2, 4, 3

NETWORKS = [
    Network([LSTM(), Elman()], n_out=N_OUT),
    Network([GRUResetAfter()], directions=2, merge="sum", readout="last", n_out=N_OUT),
    Network([LSTM()], directions=2, readout="last", n_out=N_OUT, trainable_state=True),
    Network([Elman(), LSTM()], readout="fed_back", n_out=N_OUT, trainable_state=True),
    Network([GRUResetAfter()], readout="fed_back", n_out=N_OUT, teacher_forced=True),
    Network([Elman()], readout=None, loss="squared_error", trainable_state=True),
    Network([Elman()], readout="last", n_out=N_OUT, loss="huber"),
    Network(
        [LSTM()],
        readout="fed_back",
        n_out=N_OUT,
        teacher_forced=True,
        loss=losses.LOSSES["binary_cross_entropy"](reduction="sum"),
    ),
]


def problem(network, seed, padding="none", own_state=True, dtype=np.float64):
    """Parameters and a batch that fit the network."""
    rng = np.random.default_rng(seed)
    width = N_IN + N_OUT * network.teacher_forced
    params = {k: v.astype(dtype) for k, v in network.init(rng, width, N_HIDDEN).items()}
    steps = (B,) if network.readout == "last" else (T, B)
    if network.loss == "softmax_cross_entropy":
        targets = rng.integers(0, N_OUT, steps)
    else:
        width = N_HIDDEN if network.readout is None else N_OUT
        targets = rng.uniform(0, 1, (*steps, width)).astype(dtype)
    xs = rng.standard_normal((T, B, N_IN)).astype(dtype)
    state0 = network.initial_state(params, B)
    state0 = trees.map_leaves(lambda leaf: rng.uniform(-1, 1, leaf.shape).astype(dtype), state0)
    lengths = rng.integers(0, T + 1, B) if padding == "lengths" else None
    mask = rng.random((T, B)) < 0.6 if padding == "mask" else None
    if lengths is not None:
        lengths[0] = T - 1
    if mask is not None:
        mask[0, 0] = True
    return params, Batch(xs, targets, mask, lengths, None if own_state else state0)


def difference_defect(kit, network, params, batch, seed):
    """The gradient along a direction against differences of the loss."""
    _, (d_params, d_xs, d_state0) = network.loss_and_gradient(params, batch)
    rng = np.random.default_rng(seed)
    entering = (params, batch.xs, batch.state0 or ())
    entered = (d_params, d_xs, () if batch.state0 is None else d_state0)
    direction = trees.map_leaves(lambda leaf: rng.uniform(-1, 1, leaf.shape), entering)

    def moved(h):
        at = trees.map_leaves(lambda a, d: a + h * d, entering, direction)
        state0 = at[2] if batch.state0 is not None else None
        there = Batch(at[1], batch.targets, batch.mask, batch.lengths, state0)
        return network.loss_and_gradient(at[0], there).loss

    coarse, fine = ((moved(h) - moved(-h)) / (2 * h) for h in (2e-3, 1e-3))
    by_hand, size = kit.dot(entered, direction)
    return abs(by_hand - (4 * fine - coarse) / 3) / (1 + size)


@pytest.mark.parametrize("network", NETWORKS, ids=range(len(NETWORKS)))
@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 2**32 - 1),
    padding=st.sampled_from(["none", "lengths", "mask"]),
    own_state=st.booleans(),
)
def test_the_gradient_of_the_loss_is_that_of_differences(kit, network, seed, padding, own_state):
    params, batch = problem(network, seed, padding, own_state)
    # Huber's gradient has corners: no difference straddles them to a high order.
    limit = 1e-5 if network.loss == "huber" else 1e-8
    assert difference_defect(kit, network, params, batch, seed) < limit


def test_a_state_gradient_that_is_dropped_is_seen_by_the_differences(kit, monkeypatch):
    network = NETWORKS[2]
    params, batch = problem(network, 3)
    assert difference_defect(kit, network, params, batch, 3) < 1e-8
    zeros = {name: np.zeros_like(value) for name, value in params.items()}
    monkeypatch.setattr("bpttcheck.networks.network.initial_state_vjp", lambda *_: zeros)
    assert difference_defect(kit, network, params, batch, 3) > 1e-4


def test_the_gradient_of_a_teacher_forced_network_is_that_of_a_twin_in_jax(kit):
    jax = pytest.importorskip("jax", reason="JAX differentiates the twin")
    jnp = jax.numpy
    network = Network(
        [Elman(), Elman()],
        readout="fed_back",
        n_out=N_OUT,
        teacher_forced=True,
        trainable_state=True,
    )
    params, batch = problem(network, 4, "lengths")

    def twin(params, xs):
        rows = [params[f"state0[{i}]"] for i in ("0][0", "0][1", "1")]
        h0, h1, fed = (jnp.tile(row, (B, 1)) for row in rows)
        total = 0.0
        for t in range(T):
            real = (t < batch.lengths)[:, None]
            x = jnp.concatenate([xs[t], fed], axis=1)
            new0 = jnp.tanh(x @ params["0.U"].T + h0 @ params["0.W"].T + params["0.b"])
            new1 = jnp.tanh(new0 @ params["1.U"].T + h1 @ params["1.W"].T + params["1.b"])
            o = new1 @ params["readout.V"].T + params["readout.c"]
            one_hot = jax.nn.one_hot(batch.targets[t], N_OUT)
            total -= (jax.nn.log_softmax(o) * one_hot * real).sum()
            h0, h1 = jnp.where(real, new0, h0), jnp.where(real, new1, h1)
            fed = jnp.where(real, one_hot, fed)
        return total / batch.lengths.sum()

    with enable_x64(True):
        both = jax.jit(jax.value_and_grad(twin, argnums=(0, 1)))
        expected, (d_params, d_xs) = both(params, batch.xs)
        theirs = {**d_params, "d_xs": d_xs}
        theirs = {name: np.asarray(value) for name, value in theirs.items()}
    loss, gradients = network.loss_and_gradient(params, batch)
    kit.agree({**gradients.d_params, "d_xs": gradients.d_xs}, theirs)
    assert loss == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize("network", NETWORKS, ids=range(len(NETWORKS)))
def test_gradients_have_the_names_shapes_and_dtypes_of_what_they_belong_to(network):
    params, batch = problem(network, 1, dtype=np.float32)
    loss, gradients = network.loss_and_gradient(params, batch)
    assert loss.dtype == np.float32
    assert gradients._fields == ("d_params", "d_xs", "d_state0")
    of = {name: (v.shape, v.dtype) for name, v in params.items()}
    assert {name: (v.shape, v.dtype) for name, v in gradients.d_params.items()} == of
    assert (gradients.d_xs.shape, gradients.d_xs.dtype) == (batch.xs.shape, np.float32)
    own = network.initial_state(params, B)
    assert trees.structure(gradients.d_state0) == trees.structure(own)
    pairs = zip(trees.leaves(gradients.d_state0), trees.leaves(own), strict=True)
    assert all((d.shape, d.dtype) == (s.shape, np.float32) for d, s in pairs)


@pytest.mark.parametrize("network", NETWORKS, ids=range(len(NETWORKS)))
def test_lengths_are_a_mask_and_padding_has_no_influence(network):
    params, batch = problem(network, 2, "lengths")
    real = batch.real
    xs = np.where(real[:, :, None], batch.xs, np.nan)
    targets = batch.targets
    if network.readout != "last":
        hidden = real.reshape(real.shape + (1,) * (targets.ndim - 2))
        targets = np.where(hidden, targets, -1)
    one = network.loss_and_gradient(params, batch)
    other = network.loss_and_gradient(params, Batch(xs, targets, mask=real))
    for got, expected in zip(trees.leaves(other), trees.leaves(one), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert not one.gradients.d_xs[~real].any()


def test_a_state_of_the_batch_leaves_the_trainable_one_without_a_gradient():
    network = NETWORKS[2]
    params, batch = problem(network, 0, own_state=False)
    d_params = network.loss_and_gradient(params, batch).gradients.d_params
    rows = [name for name in params if "state0" in name]
    assert rows == [f"0.state0[{i}][{j}]" for i in (0, 1) for j in (0, 1)]
    assert not any(d_params[name].any() for name in rows)
    own = Batch(batch.xs, batch.targets)
    d_params = network.loss_and_gradient(params, own).gradients.d_params
    assert all(d_params[name].any() for name in rows)


def test_a_few_steps_of_descent_learn_to_tell_which_number_came_first():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, 16)
    xs = rng.standard_normal((6, 16, 1)) * 0.1
    xs[0, :, 0] = 2.0 * first - 1.0
    network = Network([LSTM()], directions=2, readout="last", n_out=2)
    params = network.init(rng, 1, 6)
    batch = Batch(xs, first, lengths=rng.integers(2, 7, 16))
    start = network.loss_and_gradient(params, batch).loss
    for _ in range(60):
        loss, gradients = network.loss_and_gradient(params, batch)
        params = {name: v - 0.5 * gradients.d_params[name] for name, v in params.items()}
    assert start > 0.5
    assert loss < 0.1


def test_a_network_is_its_composition_and_can_be_a_layer_of_another(kit):
    inner = Network([LSTM()], n_out=N_OUT)
    layer = Stack([inner, Elman()])
    assert kit.transpose_defect(layer, kit.problem(layer, mask="holes")) < 1e-9
    problem = kit.problem(inner)
    kit.agree(kit.hand(inner, problem), kit.hand(inner.layer, problem), rtol=0)
