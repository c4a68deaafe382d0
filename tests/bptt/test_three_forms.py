from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bpttcheck import backpropagate, trees, unroll
from bpttcheck.bptt import sum_over_paths as module
from bpttcheck.bptt.jacobian import derivatives, layout_of, split_params
from bpttcheck.bptt.real_time import real_time
from bpttcheck.bptt.sum_over_paths import sum_over_paths
from bpttcheck.cells import BUILTINS, LSTM, Elman, builtin
from bpttcheck.errors import ContractError

EPS = np.finfo(np.float64).eps
CASES = {
    "T": st.integers(0, 7),
    "B": st.integers(1, 3),
    "n_hidden": st.integers(1, 3),
    "seed": st.integers(0, 2**32 - 1),
    "scale": st.sampled_from([0.3, 1.0, 4.0]),
    "masked": st.booleans(),
}


class Counting:
    """``h' = h / (1 + n) + tanh(x w)`` with a counter ``n`` of the steps, which is carried."""

    def init(self, rng, n_in, n_hidden):
        return {"w": rng.standard_normal((n_in, n_hidden))}

    def initial_state(self, params, batch_size):
        h = np.zeros((batch_size, params["w"].shape[1]), params["w"].dtype)
        return {"n": np.zeros(batch_size, np.int64), "h": h}

    def step(self, params, state, x):
        gain, squashed = 1 / (1 + state["n"])[:, None], np.tanh(x @ params["w"])
        h = state["h"] * gain + squashed
        return {"n": state["n"] + 1, "h": h}, h, (x, gain, squashed)

    def step_vjp(self, params, cache, d_state, d_y):
        x, gain, squashed = cache
        d_h = d_state["h"] + d_y
        d_z = d_h * (1 - squashed**2)
        return {"w": x.T @ d_z}, {"n": d_state["n"], "h": d_h * gain}, d_z @ params["w"].T


class BatchMean(Elman):
    """A wrong cell: its ``d_params`` are means over the batch."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {name: value / len(d_x) for name, value in d_params.items()}, d_h, d_x


def make(name):
    own = {"counting": Counting, "wrong": BatchMean}
    return own[name]() if name in own else builtin(name)


class Problem:
    """One sequence, and its gradient in each of the three forms, as arrays by name."""

    def __init__(self, cell, T, B, n_hidden=2, seed=0, scale=1.0, masked=False):
        rng = np.random.default_rng(seed)
        self.cell = cell
        self.params = {k: scale * v for k, v in cell.init(rng, 3, n_hidden).items()}
        self.xs = rng.standard_normal((T, B, 3))
        self.mask = rng.random((T, B)) < 0.6 if masked else None

        def draw(leaf):
            return rng.standard_normal(leaf.shape) if leaf.dtype.kind == "f" else leaf

        self.state0 = trees.map_leaves(draw, cell.initial_state(self.params, B))
        ys, state_T, self.tape = unroll(cell, self.params, self.xs, self.state0, self.mask)
        self.d_ys, self.d_state_T = draw(ys), trees.map_leaves(draw, state_T)

    def recursive(self):
        cotangents = self.d_ys, self.d_state_T
        return named(*backpropagate(self.cell, self.params, self.tape, *cotangents))

    def paths(self):
        cotangents = self.d_ys, self.d_state_T
        return named(*sum_over_paths(self.cell, self.params, self.tape, *cotangents))

    def forward(self):
        return named(
            *real_time(
                self.cell, self.params, self.xs, self.d_ys, self.d_state_T, self.state0, self.mask
            )
        )

    def size(self):
        """The same sums with every factor replaced by its absolute value."""
        tape, layout = self.tape, layout_of(self.tape)
        d_state = np.abs(layout.join(self.d_state_T))
        d_params = np.zeros(sum(value.size for value in self.params.values()))
        d_xs, d_states = np.zeros_like(self.xs), [layout.unflatten(d_state)]
        steps = list(derivatives(self.cell, self.params, tape))
        for t in reversed(range(len(steps))):
            d_z = np.concatenate([d_state, np.abs(self.d_ys[t]).reshape(len(d_state), -1)], axis=1)
            d_params += np.einsum("bi,bip->p", d_z, np.abs(steps[t].params))
            d_xs[t] = np.einsum("bi,bin->bn", d_z, np.abs(steps[t].x))
            d_state = np.einsum("bi,bis->bs", d_z, np.abs(steps[t].state))
            d_states.append(layout.unflatten(d_state))
        return named(split_params(self.params, d_params), d_xs, d_states[-1], d_states[::-1])


def named(d_params, d_xs, d_state0, d_states=()):
    blocks = {**d_params, "xs": d_xs}
    for t, state in enumerate((d_state0, *d_states)):
        blocks |= {f"state {t - 1} {i}": leaf for i, leaf in enumerate(trees.leaves(state))}
    return blocks


def require_agreement(problem, got, expected):
    """Each entry agrees to the rounding of a sum of products.

    A sum of products in which every path takes at most ``n`` roundings errs by at most ``n EPS``
    times the sum of the absolute values. A path has a rounding for each factor and each addition:
    of the order of ``Z`` in each of the ``T + 1`` steps, and ``T^2 B`` when paths are added up. The
    factor 100 is for the roundings inside of ``step_vjp``. Its gates may cancel: ``1 - z`` near
    zero errs by ``EPS``, however small it is, and the entry by ``EPS`` times the block's largest.
    """
    Z, (T, B, _) = layout_of(problem.tape).Z, problem.xs.shape
    bar = 100 * ((T + 1) * (Z + 3) + (T + 1) ** 2 * B) * EPS
    size = problem.size()
    for name, value in got.items():
        assert value.shape == expected[name].shape, name
        np.testing.assert_array_less(
            np.abs(value - expected[name]),
            bar * size[name] + EPS * size[name].max(initial=0.0) + 1e-300,
            err_msg=name,
        )


@pytest.mark.parametrize("name", [*BUILTINS, "elman[relu]", "counting", "wrong"])
@examples(max_examples=15)
@given(**CASES)
def test_the_three_forms_are_one_gradient(name, T, B, n_hidden, seed, scale, masked):
    problem = Problem(make(name), T, B, n_hidden, seed, scale, masked)
    expected = problem.recursive()
    require_agreement(problem, problem.paths(), expected)
    require_agreement(problem, problem.forward(), expected)


def test_the_agreement_is_also_to_1e_12_of_the_largest_entry_of_a_block():
    for name in BUILTINS:
        problem = Problem(builtin(name), 7, 3)
        expected = problem.recursive()
        for got in (problem.paths(), problem.forward()):
            for block, value in got.items():
                gap = np.abs(value - expected[block]).max()
                assert gap <= 1e-12 * np.abs(expected[block]).max(), block


def one_factor_too_many(J, t):
    """Formula A5 as published: the product starts at ``i = k``."""
    product = np.broadcast_to(np.eye(J.shape[-1]), J.shape[1:])
    for k in range(t, -1, -1):
        if k > 0:
            product = product @ J[k - 1]
        yield k, product


def the_other_order(J, t):
    """The factors of the product from left to right, earliest first."""
    product = np.broadcast_to(np.eye(J.shape[-1]), J.shape[1:])
    for k in range(t, -1, -1):
        yield k, product
        if k > 0:
            product = J[k - 1] @ product


def without_the_last(J, t):
    """The term ``k = t`` is lost."""
    return (pair for pair in CORRECT(J, t) if pair[0] != t)


CORRECT = module.products


@pytest.mark.parametrize("planted", [one_factor_too_many, the_other_order, without_the_last])
@pytest.mark.parametrize("name", ["elman", "lstm", "jordan"])
def test_a_wrong_product_of_jacobians_is_found(planted, name, monkeypatch):
    problem = Problem(builtin(name), 3, 2)
    require_agreement(problem, problem.paths(), problem.recursive())
    monkeypatch.setattr(module, "products", planted)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        require_agreement(problem, problem.paths(), problem.recursive())


@pytest.mark.parametrize("part", ["mask", "state0", "d_state_T", "d_ys"])
def test_the_agreement_needs_everything_that_it_is_given(part):
    problem = Problem(builtin("lstm"), 4, 2, masked=True)
    expected = problem.recursive()
    without = {"mask": None, "state0": None, "d_state_T": None, "d_ys": None}[part]
    setattr(problem, part, without)
    got = real_time(
        problem.cell, problem.params, problem.xs, problem.d_ys, problem.d_state_T, problem.state0,
        problem.mask,
    )  # fmt: skip
    assert any(not np.allclose(value, expected[name]) for name, value in named(*got).items())


@pytest.mark.parametrize("name", list(BUILTINS))
def test_what_stands_in_the_padding_reaches_no_form(name):
    problem = Problem(builtin(name), 5, 3, masked=True)
    expected = problem.paths(), problem.forward()
    padding = ~problem.mask
    problem.xs[padding], problem.d_ys[padding] = np.nan, np.nan
    _, _, problem.tape = unroll(
        problem.cell, problem.params, problem.xs, problem.state0, problem.mask
    )
    for got, before in zip((problem.paths(), problem.forward()), expected, strict=True):
        for block, value in got.items():
            np.testing.assert_array_equal(value, before[block])


@pytest.mark.parametrize("masked", [False, True])
def test_float32_stays_float32(masked):
    problem = Problem(LSTM(), 4, 2, masked=masked)
    for part in ("params", "xs", "state0", "d_ys", "d_state_T"):
        setattr(problem, part, trees.map_leaves(np.float32, getattr(problem, part)))
    problem.tape = unroll(problem.cell, problem.params, problem.xs, problem.state0, problem.mask)[2]
    for got in (problem.paths(), problem.forward()):
        assert {value.dtype for value in got.values()} == {np.dtype(np.float32)}


def test_cotangents_that_are_left_out_are_zero():
    problem = Problem(LSTM(), 4, 2)
    given = problem.cell, problem.params
    expected = backpropagate(*given, problem.tape, None, None)
    got = sum_over_paths(*given, problem.tape, None)
    for block, value in named(*got).items():
        np.testing.assert_array_equal(value, named(*expected)[block])
    got = real_time(*given, problem.xs, None)
    assert not any(value.any() for value in named(*got).values())


def test_arguments_of_the_wrong_shape_are_refused():
    problem = Problem(Elman(), 4, 2)
    given = problem.cell, problem.params
    with pytest.raises(ContractError, match=r"d_ys\.shape=\(3, 2, 2\).*of ys, \(4, 2, 2\)"):
        sum_over_paths(*given, problem.tape, problem.d_ys[:3])
    with pytest.raises(ContractError, match=r"d_ys\.shape=\(3, 2, 2\).*of ys, \(4, 2, 2\)"):
        real_time(*given, problem.xs, problem.d_ys[:3])
    with pytest.raises(
        ContractError, match=r"mask\.shape=\(5, 2\).*expected a bool array \(T, B\) = \(4, 2\)"
    ):
        real_time(*given, problem.xs, problem.d_ys, mask=np.ones((5, 2), bool))


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_backward_step_of_the_wrong_shape_is_refused(part):
    class Wrong(Elman):
        def step_vjp(self, params, cache, d_state, d_y):
            out = list(super().step_vjp(params, cache, d_state, d_y))
            out[part] = {"U": out[0]["U"]} if part == 0 else out[part][:, :1]
            return tuple(out)

    problem = Problem(Elman(), 4, 2)
    with pytest.raises(ContractError, match="step_vjp returned"):
        sum_over_paths(Wrong(), problem.params, problem.tape, problem.d_ys)


def test_a_state_without_a_floating_entry_has_no_jacobian():
    class Counter(Elman):
        def initial_state(self, params, batch_size):
            return np.zeros((batch_size, 1), int)

        def step(self, params, state, x):
            return state + 1, x, None

    with pytest.raises(ContractError, match="no floating entry"):
        real_time(Counter(), {}, np.ones((2, 1, 3)), None)


def test_a_floating_leaf_without_a_batch_axis_has_no_jacobian():
    class Global(Elman):
        def initial_state(self, params, batch_size):
            return super().initial_state(params, batch_size), np.array(0.5)

        def step(self, params, state, x):
            new, y, cache = super().step(params, state[0], x)
            return (new, state[1]), y, cache

    params = Elman().init(np.random.default_rng(0), 3, 2)
    with pytest.raises(ContractError, match="expected a batch axis"):
        real_time(Global(), params, np.ones((2, 1, 3)), None)
