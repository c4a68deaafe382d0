"""Which gradient is which: by name, by position, by shape, and never by a guess."""

import numpy as np
import pytest

from bpttcheck.adapt.returned import match, names_of, stands_for
from bpttcheck.errors import ContractError

X, W, U, B = np.zeros((2, 3)), np.zeros((3, 4)), np.zeros((4, 4)), np.zeros(4)
INPUTS = {"x": {"x": (2, 3)}, "W": {"W": (3, 4)}, "U": {"U": (4, 4)}, "b": {"b": (4,)}}
GRADIENTS = {"x": X, "W": W, "U": U, "b": B}
CELL = {"c.W": (4, 4), "c.U": (4, 4)}
NESTED = {
    "x": {"x": (2, 3)},
    "cell": {"cell.z.W": (3, 4), "cell.z.U": (4, 4), "cell.r.W": (3, 4), "cell.r.U": (4, 4)},
    "layers": {"layers.0.W": (4, 4), "layers.0.U": (4, 4)},
}


def found(result, inputs=INPUTS, grads=None):
    return match(result, inputs, names_of(grads), "backward")[0]


@pytest.mark.parametrize(
    "name",
    "dWx d_Wx grad_Wx Wx_grad g_Wx gWx dL_dWx Wx_bar Wx dwx delta_Wx".split(),
)  # fmt: skip
def test_a_gradient_is_called_in_any_common_way(name):
    assert stands_for(name, ["x", "W", "Wx"]) == "Wx"


@pytest.mark.parametrize("name", ["dWxh", "hidden", "", "loss"])
def test_other_names_stand_for_nothing(name):
    assert stands_for(name, ["x", "W", "Wx"]) is None


@pytest.mark.parametrize(
    "result",
    [
        (X, W, U, B),
        [X, W, U, B],
        {"db": B, "dU": U, "dW": W, "dx": X},
        (X, {"W": W, "U": U, "b": B}),
        (U, X, B, W),  # every shape fits one input alone
        {"grads": {"dx": X, "dW": W}, "dU": U, "db": B},
    ],
)
def test_all_are_found(result):
    matched = found(result)
    assert {
        name: value is INPUTS_BY_NAME[name] for name, value in matched.items()
    } == dict.fromkeys(INPUTS, True)


INPUTS_BY_NAME = {"x": X, "W": W, "U": U, "b": B}


def test_what_is_none_or_absent_is_not_there():
    assert set(found((None, W, U, None))) == {"W", "U"}
    assert set(found({"dW": W, "dx": None})) == {"W"}
    assert found(None, {"x": {"x": (2, 3)}}) == {}


def test_told_names_decide():
    assert found((B, U, "state"), grads="db, dU, _") == {"b": B, "U": U}
    assert set(found((X, (W, U, B)), grads="dx, dW, dU, db")) == set(INPUTS)
    assert set(found((X, {"a": W, "b": U, "c": B}), grads="dx, dW, dU, db")) == set(INPUTS)
    assert found((X, (W, None, 2 * W, U)), NESTED, "dx, dcell")["cell.r.U"] is U
    assert "cell.z.U" not in found((X, (W, None, 2 * W, U)), NESTED, "dx, dcell")


def test_nested_gradients_have_the_structure_of_the_inputs():
    gates = {"z": {"W": 1 * W, "U": 1 * U}, "r": {"W": 2 * W, "U": 2 * U}}
    layers = [{"U": 5 * U, "W": 6 * U}]
    matched = found((X, gates, layers), NESTED)
    assert matched["cell.r.U"] is gates["r"]["U"]
    assert matched["layers.0.U"] is layers[0]["U"]  # by name, whatever the order
    assert set(matched) == {leaf for leaves in NESTED.values() for leaf in leaves}
    assert set(found({"dcell": gates, "dlayers": layers}, NESTED)) == set(matched) - {"x"}
    assert set(found(gates, NESTED)) == set(NESTED["cell"])
    flat = (X, W, U, 2 * W, 2 * U, 5 * U, 6 * U)
    assert found(flat, NESTED)["cell.r.U"] is flat[4]


def test_a_gradient_keeps_the_name_that_its_author_gave_it():
    def called(result, inputs=INPUTS):
        return match(result, inputs, None, "backward")[1]

    params = {"x": {"x": (2, 3)}, "params": {"params.W": (3, 4), "params.b": (4,)}}
    assert called((X, {"dW": W, "b_grad": B}), params) == {
        "x": "d_x", "params.W": "dW", "params.b": "b_grad",
    }  # fmt: skip
    assert called({"grad_x": X}) == {"x": "grad_x"}
    cell = {"z": {"W": 1 * W}, "r": {"W": 2 * W}}  # two of them are called W
    assert called(cell, NESTED) == {"cell.z.W": "d_cell.z.W", "cell.r.W": "d_cell.r.W"}


def test_a_list_of_arrays_may_come_back_as_one_array():
    inputs = {"xs": {"xs.0": (3,), "xs.1": (3,)}, "W": {"W": (3, 4)}}
    rows = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(found((rows, W), inputs)["xs.1"], rows[1])


@pytest.mark.parametrize(
    ("result", "inputs", "grads", "said"),
    [
        ((U, U), {"W": {"W": (4, 4)}, "U": {"U": (4, 4)}, "V": {"V": (4, 4)}}, None,
         r"backward returned an array \(4, 4\), an array \(4, 4\); which is the gradient of what "
         r"cannot be told, for the inputs are W \(4, 4\), U \(4, 4\), V \(4, 4\).*grads='dx, dW"),
        ((X, W), INPUTS, "dx", r"returned 2 things .*, but `grads` names 1: dx"),
        ((X, W), INPUTS, "dx, dV", "names 'dV', which is the gradient of no input; .* are x, W"),
        ((X, (W, U)), NESTED, "dx, dcell",
         "dcell holds an array .*, but should hold the gradients of cell.z.W, cell.z.U, cell.r.W"),
        ((X, 3.0, []), NESTED, None, "which is the gradient of what cannot be told"),
        ({"foo": X}, INPUTS, None, "a dict with the keys foo, none of which names the gradient"),
        ({"dx": X, "grad_x": X}, INPUTS, None, "both 'dx' and 'grad_x' are gradients of 'x'"),
        ({"dW": W}, NESTED, None, "'dW' may be the gradient of cell.z.W or cell.r.W or layers.0.W"),
        ({"W": U, "U": U}, {"a": {"a.W": (4, 4), "a.U": (4, 4)}, "c": CELL}, None,
         "which may be the gradients of a or c; say which: grads='da"),
    ],
)  # fmt: skip
def test_what_is_ambiguous_is_an_error_that_shows_both_sides(result, inputs, grads, said):
    with pytest.raises(ContractError, match=said):
        found(result, inputs, grads)


@pytest.mark.parametrize("wrong", ["", [], [1], 3])
def test_names_are_texts(wrong):
    with pytest.raises((ContractError, TypeError), match=r"should be names|not iterable"):
        names_of(wrong)
