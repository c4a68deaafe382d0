import numpy as np
import pytest

from bpttcheck import cells
from bpttcheck.adapt import from_custom_vjp
from bpttcheck.errors import ContractError
from bpttcheck.on_jax import layer


@pytest.mark.parametrize(
    "subject", [object(), np.tanh, cells.LSTM], ids=["object", "function", "class"]
)
def test_what_is_neither_cell_nor_layer_is_refused(subject):
    with pytest.raises(ContractError, match="neither a cell with init, initial_state, step"):
        layer(subject)


def test_what_runs_jax_itself_is_refused(kit):
    cell, step = kit.twins["lstm"]
    subject = from_custom_vjp(
        layer(cell), init=cell.init, initial_state=cell.initial_state, primal=step, sequence=True
    )
    with pytest.raises(ContractError, match="runs JAX itself"):
        layer(subject)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"xs": np.zeros((5, 2), np.float32)}, r"xs.shape=\(5, 2\).* \(T, B, n_in\)"),
        ({"xs": np.zeros((5, 3, 2), int)}, "xs.dtype=int32, but expected a floating"),
        ({"xs": np.zeros((5, 3, 7), np.float32)}, r"for xs.shape=\(5, 3, 7\)"),
        ({"xs": np.zeros((5, 3, 2), np.float16)}, "has dtype float32, .* xs, float16"),
        ({"params": [1.0]}, "params is of type list"),
        ({"params": {"W": np.zeros(3, np.float32)}}, "not the parameters of LSTMForm"),
        ({"state0": np.zeros((3, 4), np.float32)}, "state0 is a single array .* a tuple"),
        ({"state0": (np.zeros((2, 4), np.float32),) * 2}, "state0 is a tuple of 2 of shapes"),
        ({"state0": None}, "state0=None"),
        ({"mask": np.ones((3, 5), bool)}, r"mask.shape=\(3, 5\).* \(5, 3\)"),
        ({"mask": np.ones((5, 3), np.float32)}, "mask.dtype=float32"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(kit, change, message):
    cell = cells.LSTM()
    params, xs, state0 = kit.problem(cell, dtype=np.float32).arguments
    with pytest.raises(ContractError, match=message):
        layer(cell)(**{"params": params, "xs": xs, "state0": state0, **change})
