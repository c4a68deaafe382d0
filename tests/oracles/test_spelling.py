"""Values of a traced step are called what the user's own code calls them."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from bpttcheck.jax_mode import enable_x64
from bpttcheck.oracles.autodiff.programs import trace
from bpttcheck.oracles.step_graph.graph import Graph, gradient_of, spelled
from bpttcheck.oracles.tracer.trace import lift

B, N, H = 4, 2, 3


class State(NamedTuple):
    v: Any


class Unpacks:
    def step(self, params, state, u):
        h, c = state
        z = u @ params["U"].T
        a = np.tanh(z[:, :H])
        b = np.exp(z[:, H:])
        c_new = a * c + (1.0 - b) * h
        return (c_new, c), c_new


class Single:
    def step(self, params, h, x):
        h = 0.5 * h + x @ params["U"][:H].T
        return h, h * 2.0


class Renames:
    def step(self, params, state, x):
        old = state
        return np.exp(old) * old, old


def unnamed(params, h, x):
    kept, made = h * 2.0, np.exp(np.tanh(h * h + 1.0) * np.tanh(h * 3.0 + h)) * h
    return kept, made


def texts(step, state):
    params, x = {"U": np.ones((2 * H, N))}, np.ones((B, N))
    with enable_x64():
        traced = trace(lift(step), params, state, x)
    graph = Graph(traced.jaxpr, traced.consts)
    return graph, spelled(graph, traced.params, traced.state)


@pytest.mark.parametrize(
    ("step", "state", "expected"),
    [
        (Unpacks().step, (np.ones((B, H)),) * 2,
         {"U", "h", "c", "u", "a", "b", "c_new", "((1 - b) * h)", "(a * c)"}),
        (Single().step, np.ones((B, H)), {"U", "x", "h", "a part of U", "(h * 2)"}),
        (Renames().step, np.ones((B, H)), {"old", "x", "exp(old)", "(exp(old) * old)"}),
        (unnamed, np.ones((B, H)), {"U", "state", "x", "(state * 2)"}),
        (lambda p, s, x: (s, s.v * s.v), State(np.ones((B, H))), {"v", "(v * v)"}),
    ],
)  # fmt: skip
def test_values_have_the_names_of_the_users_code(step, state, expected):
    _, found = texts(step, state)
    assert expected <= set(found.values())


def test_what_would_be_too_long_is_a_part_of_its_line():
    _, found = texts(unnamed, np.ones((B, H)))
    assert any(text.startswith("a part of test_spelling.py:") for text in found.values())


def test_every_value_has_a_text():
    graph, found = texts(Unpacks().step, (np.ones((B, H)),) * 2)
    assert found.keys() == graph.shapes.keys()


def test_the_gradient_of_a_name_is_d_and_the_name():
    assert [gradient_of(text) for text in ("W", "state[1]", "(a * b)")] == [
        "d_W", "d_state[1]", "the gradient of (a * b)",
    ]  # fmt: skip
