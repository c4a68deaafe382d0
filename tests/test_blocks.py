"""The names of blocks are made and read in one place, and a step's correspond to a sequence's."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import bpttcheck
from bpttcheck import blocks
from bpttcheck.blocks import Block

PACKAGE = Path(bpttcheck.__file__).parent
# The zoo and what is printed for readers speak of arrays, not of blocks.
ELSEWHERE = {"bptt", "cells", "networks", "losses", "on_jax", "bench", "adapt"}


@pytest.mark.parametrize(
    ("text", "kind", "path", "in_step", "in_sequence"),
    [
        ("d_params['W']", "params", "['W']", "d_params['W']", "d_params['W']"),
        ("d_params['a b']", "params", "['a b']", "d_params['a b']", "d_params['a b']"),
        ("d_state0", "state", "", "d_previous_state", "d_state0"),
        ("d_previous_state[0].h", "state", "[0].h", "d_previous_state[0].h", "d_state0[0].h"),
        ("d_xs", "x", "", "d_x", "d_xs"),
        ("ys before the change", "y", "", "y before the change", "ys before the change"),
        ("state_T['c']", "new_state", "['c']", "new_state['c']", "state_T['c']"),
        ("shape of ys", "", "", "shape of ys", "shape of ys"),
        ("d_xs_of_mine", "", "", "d_xs_of_mine", "d_xs_of_mine"),
    ],
)
def test_a_block_is_read(text, kind, path, in_step, in_sequence):
    block = Block(text)
    assert (block.kind, block.path) == (kind, path)
    assert (block.in_step, block.in_sequence) == (in_step, in_sequence)


def test_a_part_belongs_to_a_whole():
    part = blocks.D_XS.part("of masked steps")
    assert part == "d_xs of masked steps"
    assert part.whole == blocks.D_XS == "d_xs"


def test_blocks_of_trees():
    state = {"h": np.zeros(2), "n": np.zeros(2, int)}
    assert blocks.of_state(blocks.d_state0(), {"n": 1, "h": 2}, state) == {"d_state0['h']": 2}
    assert list(blocks.of_state(blocks.new_state(), (1, (2, 3)))) == [
        "new_state[0]", "new_state[1][0]", "new_state[1][1]",
    ]  # fmt: skip
    assert blocks.of_params({"b": 1, "W": 2}, ["W"]) == {"d_params['W']": 2}


def built_or_parsed(source: str) -> list[int]:
    """The lines that make a block's name with an f-string, or compare with a part of one."""
    names = r"d_params|d_previous_state|d_state0|d_xs?|new_state|state_T"
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
            text = str(node.values[0].value)
            made = re.fullmatch(rf"({names})\[?", text) and len(node.values) > 1
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            parsing = node.func.attr in ("startswith", "removeprefix", "partition", "replace")
            texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
            made = parsing and any(re.fullmatch(rf"{names}", str(text)) for text in texts)
        elif isinstance(node, ast.Compare):
            texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
            made = any(re.fullmatch(r"d_xs?|d_state0|d_previous_state", str(t)) for t in texts)
        else:
            continue
        if made:
            found.append(node.lineno)
    return found


def test_nobody_else_builds_or_parses_their_names():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE)
        if inside.parts[0] not in ELSEWHERE and inside.name != "blocks.py":
            lines = built_or_parsed(path.read_text(encoding="utf-8"))
            if lines:
                found[str(inside)] = lines
    assert not found


@pytest.mark.parametrize(
    "source",
    ["f'd_params[{key!r}]'", "block.startswith('d_state0')", "block == 'd_xs'", "f'd_state0{p}'"],
)
def test_building_and_parsing_would_be_seen(source):
    assert built_or_parsed(source) == [1]
