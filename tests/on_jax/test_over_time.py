"""OnDemand of all steps, at once, in a loop and summed: each is what the steps give one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpttcheck.on_jax.partition import EquationGraph, Steps, in_chunks, joined, over_chunks

T, B, N, K = 4, 3, 2, 5

OF_ONE_STEP = {
    "a product of rows": lambda w, a, b: a.T @ b,
    "of untransposed rows": lambda w, a, b: jnp.einsum("bi,bj->ij", a, b),
    "of batches": lambda w, a, b: jnp.einsum("bi,bj->bij", a, b),
    "masked and scaled": lambda w, a, b: (a.T @ b) * (w > 0) / 3,
    "of a constant": lambda w, a, b: w @ b.T,
    "a sum over rows": lambda w, a, b: (a[:, :, None] * b[:, None]).sum(0),
    "put together": lambda w, a, b: jnp.concatenate([-a.sum(0), b[0], jnp.zeros(2)]),
    "not linear": lambda w, a, b: jnp.tanh(a).sum(0) * jnp.exp(b.sum()),
    "divided by what moves": lambda w, a, b: w / b.sum(),
    "the same at every step": lambda w, a, b: w * 2,
    "of a function with a rule": lambda w, a, b: jax.nn.relu(a).sum(0) + jnp.logaddexp(a, 1.0)[0],
    "an input": lambda w, a, b: a,
}


def of(function):
    rng = np.random.default_rng(0)
    w, a, b = (rng.standard_normal(shape) for shape in ((N, K), (T, B, N), (T, B, K)))
    w, a, b = map(jnp.asarray, (w, a, b))
    graph = EquationGraph(jax.make_jaxpr(lambda *given: [function(*given)])(w, a[0], b[0]))
    constant, *moving = graph.inputs
    known = dict(zip(moving, (a, b), strict=True))
    steps = Steps(graph, {constant: w}, moving, known, T)
    return steps, graph.outputs[0], [function(w, *one) for one in zip(a, b, strict=True)]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", OF_ONE_STEP)
def test_all_steps_at_once_and_their_sum_are_those_of_each_step(x64, name):
    steps, value, one_by_one = of(OF_ONE_STEP[name])
    np.testing.assert_allclose(steps.stacked(value), np.stack(one_by_one), atol=1e-12)
    steps, value, _ = of(OF_ONE_STEP[name])  # nothing is stacked yet
    np.testing.assert_allclose(steps.total(value), np.sum(one_by_one, axis=0), atol=1e-12)


def test_the_sum_of_products_is_one_product_over_all_rows(x64):
    steps, value, _ = of(OF_ONE_STEP["a product of rows"])
    assert str(jax.make_jaxpr(lambda: steps.total(value))()).count("dot_general") == 1
    assert value not in steps.known()


@pytest.mark.parametrize("axes", [[3], [2], [1], [0, 2]])
def test_sums_over_any_axes(x64, axes):
    array = jnp.asarray(np.random.default_rng(0).standard_normal((T, 4, 1, 20, 3)))
    graph = EquationGraph(jax.make_jaxpr(lambda a: [a.sum(tuple(axes))])(array[0]))
    steps = Steps(graph, {}, graph.inputs, {graph.inputs[0]: array}, T)
    found = steps.stacked(graph.outputs[0])
    np.testing.assert_allclose(found, array.sum(tuple(a + 1 for a in axes)), atol=1e-12)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("steps", "shape"),
    [(0, (1, 0)), (1, (1, 1)), (2, (2, 1)), (5, (2, 2)), (12, (3, 4)), (13, (3, 4))],
)
def test_chunks_are_walked_in_order_and_joined(x64, steps, shape, reverse):
    array = jnp.arange(2.0 * steps).reshape(steps, 2)

    def sums(part):
        return jnp.cumsum(part[::-1], 0)[::-1] if reverse else jnp.cumsum(part, 0)

    def one(carry, part):
        return carry + part.sum(0), carry + sums(part)

    parts = in_chunks(array, 4)
    carry, found = over_chunks(one, jnp.zeros(2), parts, reverse=reverse)
    np.testing.assert_array_equal(joined(found), sums(array))
    np.testing.assert_array_equal(carry, array.sum(0))
    assert parts[-1].shape[:2] == shape
