"""The graph of a whole sequence, pulled back in NumPy: right as it is, and changed as asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpttcheck.diagnose.whole.scene import SourceNames
from bpttcheck.jax_mode import enable_x64
from bpttcheck.oracles.step_graph.pullback import BackwardChange
from bpttcheck.oracles.step_graph.whole import WholeGraph
from bpttcheck.oracles.tracer.trace import lift

T, B, N, H = 4, 2, 3, 2
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def helper(v):
    return 1 / (1 + np.exp(-v))


def rnn(params, h, xs):
    """A gate by a helper, a weight in two products, an array that is written step by step."""
    ys = np.zeros((T, B, H))
    for t in range(T):
        gate = helper(xs[t] @ params["U"] + h @ params["W"])
        fresh = np.tanh(h @ params["W"])
        h = gate * h + fresh
        ys[t] = h
    return h, ys


@pytest.fixture(scope="module")
def point():
    rng = np.random.default_rng(0)
    params = {"U": rng.standard_normal((N, H)), "W": rng.standard_normal((H, H))}
    return params, rng.standard_normal((B, H)), rng.standard_normal((T, B, N))


@pytest.fixture(scope="module")
def cotangents():
    rng = np.random.default_rng(1)
    return rng.standard_normal((B, H)), rng.standard_normal((T, B, H))


@pytest.fixture(scope="module")
def whole(point):
    return WholeGraph(lift(rnn), *point)


@pytest.fixture(scope="module")
def pull(whole, point, cotangents):
    return whole.at(*point, *cotangents)


def by_jax(point, cotangents, stopped=lambda name, value: value, slope=None):
    """The gradient of the same loop, written for JAX, with some values held."""

    def tanh(z):
        if slope is None:
            return jnp.tanh(z)
        held = jax.lax.stop_gradient(z)
        return jax.lax.stop_gradient(jnp.tanh(z)) + slope * (z - held)

    def loop(params, h, xs):
        ys = []
        for t in range(T):
            a = xs[t] @ params["U"] + stopped("h in the gate", h) @ params["W"]
            h = h / (1 + jnp.exp(-a)) + tanh(h @ params["W"])
            ys.append(h)
        return h, jnp.stack(ys)

    with enable_x64():
        _, back = jax.vjp(loop, *point)
        return jax.tree.map(np.asarray, back(cotangents))


def require_equal(whole, pull, change, wanted):
    (found,) = zip(*pull.inputs([change]), strict=True)
    for mine, theirs in zip(
        jax.tree.leaves(whole.unflatten(found)), jax.tree.leaves(wanted), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, **CLOSE)


def turns_at(whole, line, primitive):
    (found,) = (
        turns
        for turns in whole.turns({"T": T})
        if turns.key[0] == primitive and line in whole.graph.ops[turns.ops[0]].where
    )
    return found


def test_unchanged_it_is_the_gradient(whole, pull, point, cotangents):
    require_equal(whole, pull, BackwardChange(), by_jax(point, cotangents))


def test_an_edge_that_is_cut_at_every_step(whole, pull, point, cotangents):
    products = [
        turns for turns in whole.turns({"T": T})
        if turns.key[0] == "dot_general" and "gate =" in whole.graph.ops[turns.ops[0]].where
    ]  # fmt: skip
    assert [turns.steps for turns in products] == [T, T]
    edges = [(k, 0) for k in products[1].ops]
    shape = whole.graph.shapes[whole.graph.ops[edges[0][0]].ins[0]]
    change = BackwardChange({edge: lambda adjoint, _: np.zeros(shape) for edge in edges})

    def stopped(name, value):
        return jax.lax.stop_gradient(value)

    require_equal(whole, pull, change, by_jax(point, cotangents, stopped))


def test_a_local_derivative_that_is_another(whole, pull, point, cotangents):
    turns = turns_at(whole, "fresh =", "tanh")
    ops = [whole.graph.ops[k] for k in turns.ops]
    change = BackwardChange(extra={op.outs[0]: (op.ins[0], np.full((B, H), 0.3)) for op in ops})
    require_equal(whole, pull, change, by_jax(point, cotangents, slope=0.3))


def test_many_changes_at_once_are_those_one_by_one(whole, pull):
    edges = sorted(pull.local)
    changes = [
        BackwardChange(
            {edge: lambda adjoint, _, edge=edge: 2 * pull.pulled(edge, adjoint[None])[0]}
        )
        for edge in edges
    ]
    together = pull.inputs(changes)
    for e in (0, len(edges) // 2, len(edges) - 1):
        for mine, alone in zip(together, pull.inputs([changes[e]]), strict=True):
            np.testing.assert_array_equal(mine[e], alone[0])


def test_what_reads_the_adjoint_of_an_earlier_value_is_settled(whole, pull):
    gate, fresh = (turns_at(whole, line, p) for line, p in (("gate * h", "mul"), ("fresh", "tanh")))
    refs = [[whole.graph.ops[k].outs[0] for k in turns.ops] for turns in (gate, fresh)]
    swapped = {}
    for a, b in zip(*refs, strict=True):
        swapped[a] = lambda parts, adjoint, ref=b: adjoint(ref)
        swapped[b] = lambda parts, adjoint, ref=a: adjoint(ref)
    # Both are summands of the new state: their adjoints are equal, and so is their exchange.
    found = pull.inputs([BackwardChange(values=swapped, reads=True), BackwardChange()])
    for both in found:
        np.testing.assert_allclose(both[0], both[1], **CLOSE)


def test_values_have_the_names_of_the_source(whole):
    names = SourceNames(whole.graph)
    called = {names.of(k) for k in range(len(whole.graph.ops))}
    assert {"gate", "fresh", "h"} <= called
    product = turns_at(whole, "gate * h", "mul").ops[-1]
    assert (names.operand(product, 0), names.operand(product, 1)) == ("gate", "h")
    assert "gate * h + fresh" in names.where(product)
