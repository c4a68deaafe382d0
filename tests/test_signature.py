"""Signatures: what is written is what is read, and an error says where and what was expected."""

import numpy as np
import pytest

from bpttcheck.errors import ContractError
from bpttcheck.signature import Signature


def parse(text, **options):
    return Signature.parse(text, **options)


def shapes(text, **sizes):
    return {name: leaf.shape(sizes) for name, leaf in parse(text).expanded(sizes)}


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ("", ()),
        ("T", (5,)),
        ("T D", (5, 3)),
        ("4", (4,)),
        ("4H", (8,)),
        ("4*H", (8,)),
        ("4 H", (4, 2)),
        ("D+H", (5,)),
        ("(D + H) 2H+1", (5, 5)),
        ("H H+D", (2, 5)),
    ],
)
def test_an_axis_is_a_letter_a_number_or_a_sum(axes, expected):
    assert shapes(f"x: {axes}, rest: T D H", T=5, D=3, H=2)["x"] == expected


def test_containers_name_their_leaves_by_the_path():
    text = (
        "p: {W: H D, gates: {b: H}}, state: (N H, N H), layers: [{W: H H}, {W: H 2}], xs: T * [D]"
    )
    assert shapes(text, H=2, D=3, N=4, T=2) == {
        "p.W": (2, 3), "p.gates.b": (2,), "state.0": (4, 2), "state.1": (4, 2),
        "layers.0.W": (2, 2), "layers.1.W": (2, 2), "xs.0": (3,), "xs.1": (3,),
    }  # fmt: skip


def test_arguments_are_built_in_their_structure():
    signature = parse("a: (N, [N, N]), p: {u: N, v: N}, xs: T * [N], k = 3")
    sizes = {"N": 1, "T": 2}
    values = {name: name for name, _ in signature.expanded(sizes)}
    assert signature.build(values, sizes) == [
        ("a.0", ["a.1.0", "a.1.1"]), {"u": "p.u", "v": "p.v"}, ["xs.0", "xs.1"], 3,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("2", 2), ("-3", -3), ("0.5", 0.5), ("1e-3", 1e-3), ("True", True), ("None", None),
        ("'relu'", "relu"), ("(1, 2)", (1, 2)), ("[0.1, {'a': 1}]", [0.1, {"a": 1}]),
    ],
)  # fmt: skip
def test_a_constant_is_a_literal(written, value):
    signature = parse(f"x: N, k = {written}, y: N -> z: N")
    assert signature.inputs[1].leaf.value == value
    assert [item.name for item in signature.inputs] == ["x", "k", "y"]


def test_integers_and_booleans_have_a_range():
    tokens, mask, many = parse("tokens: N T < V, mask: N T bool, k: < 2V+1").leaves
    sizes = {"N": 2, "T": 3, "V": 4}
    assert (tokens.kind, tokens.below.at(sizes)) == ("int", 4)
    assert (mask.kind, mask.shape(sizes)) == ("bool", (2, 3))
    assert (many.kind, many.shape(sizes), many.below.at(sizes)) == ("int", (), 9)


@pytest.mark.parametrize(
    ("text", "time", "batch"),
    [
        ("x: N T D -> h: N T D", "T", "N"),
        ("x: T B N -> h: T B N", "T", "B"),
        ("x: T D -> h: T D", "T", ""),
        ("x: N D -> h: N D, s: N", "", "N"),
        ("x: N D -> h: N D, s: D", "", ""),  # not every output has it
        ("x: N T D", "T", ""),  # no output is known
    ],
)
def test_letters_of_time_and_batch_are_by_convention(text, time, batch):
    signature = parse(text)
    assert (signature.time, signature.batch) == (time, batch)


def test_they_can_be_told():
    signature = parse("x: D M L, W: H D -> a: H M L", batch="M", time="L")
    assert (signature.time, signature.batch) == ("L", "M")
    assert parse("x: N T -> h: N T", batch="", time="").batch == ""


def test_letters_may_be_restricted():
    assert parse("x: T H -> y: T H where H in 16|8, T in 3").allowed == {"H": (8, 16), "T": (3,)}


def test_what_has_no_shape_among_the_outputs_is_handed_on():
    kinds = [leaf.kind for leaf in parse("x: N -> h: N, _, cache").results]
    assert kinds == ["float", "opaque", "opaque"]


def test_it_is_read_off_given_arguments():
    signature = Signature.of_arrays(
        ["x", "p", "n", "rows", "mode", "tokens"],
        [np.ones((2, 3)), {"W": np.ones(4)}, 7, [np.ones(1)], "fast", np.array([0, 5])],
    )
    kinds = {leaf.name: (leaf.kind, leaf.shape({})) for leaf in signature.leaves}
    assert kinds == {
        "x": ("float", (2, 3)), "p.W": ("float", (4,)), "n": ("constant", ()),
        "rows.0": ("float", (1,)), "mode": ("constant", ()), "tokens": ("int", (2,)),
    }  # fmt: skip
    assert signature.leaves[-1].below.at({}) == 6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "signature=None, but should be a text such as 'x: N T D"),
        ("", "it has no input"),
        ("-> y: N", "it has no input"),
        ("x: N T d", "at character 8 there is 'd', but should be a size: a capital letter"),
        ("x: N, x: T", "two inputs are called 'x'"),
        ("x: N T y: N", "at character 8 there is 'y', but should be a size"),
        ("x: N) -> y: N", r"at character 5 there is '\)', but should be ',' or '->'"),
        ("x: N -> y: N)", r"at character 13 there is '\)', but should be ',' or the end"),
        ("p: {N D}", "an entry of the dict p has no name"),
        ("p: (N, D", r"at character 9 there is the end, but should be '\)'"),
        ("x: N, k = foo", "should be a constant such as 2, 0.5, True or 'relu'"),
        ("x: N, k = 'foo", "a quotation mark is not closed"),
        ("x: N -> y: M", "'M' of the output y is the size of no input"),
        ("x: N where M in 3", "'M' is restricted, but does not stand in it"),
        ("x: N where N > 3", "the restriction 'N > 3' is not of the form 'H in 8|16'"),
    ],
)
def test_an_error_says_where_and_what_was_expected(text, said):
    with pytest.raises(ContractError, match=said):
        parse(text)


def test_an_axis_that_is_told_must_stand_in_it():
    with pytest.raises(ContractError, match="the axis 'L' does not stand in it"):
        parse("x: N T", time="L")
