from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpttcheck import trees
from bpttcheck.trees import LEAF, flatten, leaves, map_leaves, structure


class Pair(NamedTuple):
    h: object
    c: object


KEYS = st.text("abcdh", min_size=1, max_size=2)
TREES = st.recursive(
    st.integers(-9, 9),
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.builds(Pair, inner, inner)
        | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a, b) -> bool:
    """Equal in value, type of container, and order of keys."""
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


@settings(deadline=None)
@given(TREES)
def test_a_tree_is_rebuilt_from_its_leaves_and_its_structure(tree):
    flat, shape = flatten(tree)
    assert same(shape.unflatten(flat), tree)
    assert flat == leaves(tree)
    assert shape == structure(tree)
    assert shape.size == len(flat) == len(shape.paths)


@settings(deadline=None)
@given(TREES)
def test_mapping_the_identity_changes_nothing(tree):
    assert same(map_leaves(lambda leaf: leaf, tree), tree)


@settings(deadline=None)
@given(TREES, st.integers(-3, 3))
def test_mapping_acts_on_each_leaf_and_keeps_the_structure(tree, n):
    mapped = map_leaves(lambda a, b: a + n * b, tree, tree)
    assert leaves(mapped) == [(1 + n) * leaf for leaf in leaves(tree)]
    assert structure(mapped) == structure(tree)


@settings(deadline=None)
@given(TREES)
def test_a_path_written_behind_the_tree_leads_to_its_leaf(tree):
    flat, shape = flatten(tree)
    found = [eval("tree" + path, {"tree": tree}) for path in shape.paths]
    assert found == flat


def test_the_order_is_the_one_in_which_the_keys_were_written():
    assert leaves({"h": 1, "c": 2}) == [1, 2]
    assert structure({"h": 1, "c": 2}) != structure({"c": 2, "h": 1})
    assert structure({"h": 1, "c": 2}).paths == ("['h']", "['c']")


def test_the_keys_of_further_trees_may_come_in_another_order():
    assert map_leaves(lambda a, b: (a, b), {"h": 1, "c": 2}, {"c": 20, "h": 10}) == {
        "h": (1, 10),
        "c": (2, 20),
    }


def test_a_named_tuple_keeps_its_type_and_its_names():
    tree = (Pair(1, {"a": 2}), 3)
    assert structure(tree).paths == ("[0].h", "[0].c['a']", "[1]")
    assert map_leaves(str, tree) == (Pair("1", {"a": "2"}), "3")
    assert type(map_leaves(str, tree)[0]) is Pair


def test_any_mapping_becomes_a_dict():
    tree = OrderedDict(h=1, c=(2, 3))
    assert type(map_leaves(str, tree)) is dict
    assert flatten(tree)[1].unflatten([1, 2, 3]) == {"h": 1, "c": (2, 3)}


def test_everything_that_is_no_container_is_a_leaf():
    for leaf in (1.0, "text", None, [1, 2]):
        assert structure(leaf) is LEAF
        assert leaves(leaf) == [leaf]
        assert LEAF.unflatten([leaf]) is leaf


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (1, "a single array"),
        ((1, 2), "a tuple of 2"),
        (Pair(1, 2), "a Pair of 2"),
        ({"h": 1, "c": 2}, "a dict with keys 'h', 'c'"),
    ],
)
def test_a_structure_describes_itself(tree, text):
    assert structure(tree).describe() == text


@pytest.mark.parametrize("wrong", [[], [1], [1, 2, 3]])
def test_the_wrong_number_of_leaves_is_refused(wrong):
    with pytest.raises(ValueError, match=f"got {len(wrong)} leaves, expected 2"):
        structure((1, 2)).unflatten(wrong)


def test_trees_of_different_structure_are_no_pair():
    with pytest.raises(KeyError):
        map_leaves(lambda a, b: a, {"h": 1}, {"c": 1})
    with pytest.raises(IndexError):
        map_leaves(lambda a, b: a, (1, 2), (1,))


def test_the_module_needs_no_numpy():
    assert not hasattr(trees, "np")
