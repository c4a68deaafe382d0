from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpttcheck.adapt.parameters import parameters
from bpttcheck.errors import ContractError

TABLE = {
    "W": ("n_hidden", "n_in"),
    "U": ((4, "n_hidden"), "n_hidden"),
    "b": ((4, "n_hidden"),),
    "scale": (),
    "mixer": (3, 2),
}
SIZES = st.tuples(st.integers(1, 6), st.integers(1, 6))


@given(SIZES)
@settings(max_examples=20)
def test_a_table_of_shapes_gives_parameters_of_these_shapes(sizes):
    n_in, n_hidden = sizes
    init, _ = parameters(TABLE, None)
    params = init(np.random.default_rng(0), n_in, n_hidden)
    assert {name: value.shape for name, value in params.items()} == {
        "W": (n_hidden, n_in),
        "U": (4 * n_hidden, n_hidden),
        "b": (4 * n_hidden,),
        "scale": (),
        "mixer": (3, 2),
    }
    assert list(params) == list(TABLE)


@given(SIZES, st.integers(0, 4), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=20)
def test_the_default_initial_state_reads_n_hidden_off_the_parameters(sizes, batch, dtype):
    for name in ("W", "U", "b"):
        init, initial_state = parameters({name: TABLE[name], "mixer": (3, 2)}, None)
        params = init(np.random.default_rng(0), *sizes)
        state = initial_state({key: value.astype(dtype) for key, value in params.items()}, batch)
        assert state.shape == (batch, sizes[1])
        assert state.dtype == dtype
        assert not state.any()


def test_drawn_parameters_shrink_with_the_root_of_the_last_size():
    init, _ = parameters({"W": ("n_hidden", "n_in")}, None)
    params = init(np.random.default_rng(0), 400, 100)
    assert abs(params["W"].std() * 400**0.5 - 1) < 0.02


def test_the_same_seed_draws_the_same_parameters():
    init, _ = parameters(TABLE, None)
    first, second = (init(np.random.default_rng(7), 2, 3) for _ in range(2))
    for name in TABLE:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize(
    "shape",
    [
        "n_hidden",
        ("n_out",),
        ("4*n_hidden",),
        (0.5,),
        (True,),
        (-1,),
        ((4, "n_out"),),
        ((0, "n_hidden"),),
        (("n_hidden", 4),),
        ((4, "n_hidden", 2),),
        None,
    ],
)
def test_a_malformed_shape_is_refused_by_name(shape):
    with pytest.raises(ContractError, match=r"init\['W'\]=.*expected a tuple of sizes") as info:
        parameters({"W": shape}, None)
    assert info.value.item == "init['W']"


@pytest.mark.parametrize(
    "init", [{}, {3: ("n_in",)}, None, 5, dict, lambda rng: {}, lambda rng, n, m, k: {}]
)
def test_an_init_that_is_neither_function_nor_table_is_refused(init):
    with pytest.raises(ContractError, match="init"):
        parameters(init, lambda params, batch_size: None)


@pytest.mark.parametrize("init", [lambda rng, n_in, n_hidden: {}, {"W": (3, "n_in")}])
def test_without_a_table_that_names_n_hidden_the_initial_state_must_be_given(init):
    with pytest.raises(ContractError, match=r"initial_state=None, expected a function"):
        parameters(init, None)


def test_functions_are_taken_as_they_are():
    def init(rng, n_in, n_hidden):
        return {}

    def initial_state(params, batch_size):
        return np.zeros(batch_size)

    assert parameters(init, initial_state) == (init, initial_state)
    with pytest.raises(ContractError, match="initial_state=3"):
        parameters(init, 3)
