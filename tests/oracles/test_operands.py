"""Another quantity in the backward pass: the shift is what the formula with it gives, no more."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpttcheck.oracles.step_graph.paths import Paths
from bpttcheck.oracles.tracer.trace import lift

B, N, H = 4, 2, 3
SHAPES = {"U": (H, N), "W": (H, H), "p": (H,)}
seeds = st.integers(0, 2**32 - 1)


def step(params, state, x):
    h, c = state
    z = x @ params["U"].T + h @ params["W"].T
    a = np.tanh(z)
    c_new = a * c + params["p"] * h
    return (a, c_new), c_new


def point(seed):
    n = np.random.default_rng(seed).standard_normal
    params = {key: n(shape) for key, shape in SHAPES.items()}
    return (params, (n((B, H)), n((B, H))), n((B, N))), ((n((B, H)), n((B, H))), n((B, H)))


def by_hand(where, used, wrong):
    """The gradient with ``used`` in one place; ``wrong`` names the place."""
    (params, (h, c), x), ((d_a_next, d_c_next), d_y) = where
    a = np.tanh(x @ params["U"].T + h @ params["W"].T)
    d_c_given = used if wrong == "d_state[1]" else d_c_next
    d_c_new = d_c_given + d_y
    d_a = d_a_next + d_c_new * (used if wrong == "c" else c)
    if wrong == "d_a":
        d_a = used
    d_z = d_a * (1 - a**2)
    d_W = d_z.T @ (used if wrong == "h" else h)
    d_p = (d_c_new * (used if wrong == "h in p" else h)).sum(axis=0)
    d_h = d_z @ params["W"] + d_c_new * params["p"]
    d_c = (used if wrong == "d_c_new" else d_c_new) * a
    return {"U": d_z.T @ x, "W": d_W, "p": d_p}, (d_h, d_c), d_z @ params["U"]


# The place, the quantity that stands there, and what is said of it.
SWAPS = {
    "c": ("h", ("d_a", "h", "c")),
    "h": ("a", ("d_W", "a", "h")),
    "h in p": ("c", ("d_p", "c", "h")),
    "d_c_new": ("d_state[0]", ("d_c", "d_state[0]", "d_c_new")),
    "d_state[1]": ("d_state[0]", ("", "d_state[0]", "d_state[1]")),
    "d_a": ("d_c_new", ("", "d_c_new", "d_a")),
}


def quantity(name, where):
    (params, (h, c), x), ((d_a_next, d_c_next), d_y) = where
    a = np.tanh(x @ params["U"].T + h @ params["W"].T)
    known = {"h": h, "c": c, "a": a, "d_state[0]": d_a_next, "d_c_new": d_c_next + d_y}
    return known[name]


@pytest.fixture(scope="module")
def paths():
    return Paths(lift(step), *point(0)[0])


def flat(gradients):
    d_params, d_state, d_x = gradients
    return np.concatenate([np.ravel(d) for d in [*d_params.values(), *d_state, d_x]])


@given(seed=seeds)
@settings(max_examples=10)
def test_the_shift_is_what_the_formula_with_the_other_quantity_gives(paths, seed):
    where = point(seed)
    right = flat(by_hand(where, None, ""))
    shifts = paths.swaps(*where)
    moved = list(paths.swapped(*where, shifts))
    for place, (name, told) in SWAPS.items():
        wrong = flat(by_hand(where, quantity(name, where), place))
        (found,) = [
            flat(more)
            for shift, more in zip(shifts, moved, strict=True)
            if (shift.swap.made, shift.swap.used, shift.swap.belongs) == told
        ]
        np.testing.assert_allclose(right + found, wrong, rtol=1e-10, atol=1e-10, err_msg=place)


def test_a_swap_is_the_same_at_every_size(paths):
    keys = [shift.swap.key for shift in paths.swaps(*point(1))]
    assert len(set(keys)) == len(keys)
    assert keys == [shift.swap.key for shift in paths.swaps(*point(2))]


def test_nothing_is_exchanged_for_itself_or_for_another_shape(paths):
    for shift in paths.swaps(*point(3)):
        assert shift.swap.used != shift.swap.belongs
        assert shift.by.any()


def test_a_swap_tells_the_line_of_the_users_code(paths):
    (found,) = [
        shift.swap.where
        for shift in paths.swaps(*point(3))
        if (shift.swap.made, shift.swap.used, shift.swap.belongs) == ("d_a", "h", "c")
    ]
    assert found.endswith('c_new = a * c + params["p"] * h')


def counting(params, state, x):
    share = 1.0 / (1.0 + state["n"][:, None])
    h = np.tanh(x @ params["U"].T + share * state["h"])
    return {"h": h * state["h"], "n": state["n"] + 1}, h


def test_an_integer_of_the_state_is_no_quantity():
    n = np.random.default_rng(5).standard_normal
    params, state = {"U": n((H, N))}, {"h": n((B, H)), "n": np.arange(B)}
    where = (params, state, n((B, N))), ({"h": n((B, H)), "n": np.zeros(B)}, n((B, H)))
    found = Paths(lift(counting), *where[0])
    shifts = found.swaps(*where)
    assert shifts
    for shift, (_, d_state, _) in zip(shifts, found.swapped(*where, shifts), strict=True):
        assert "n" not in (shift.swap.used, shift.swap.belongs)
        assert not d_state["n"].any()


def batched(params, state, x):
    scores = np.einsum("bi,bj->bij", state, x)
    return state * np.einsum("bij,bj->bi", scores, x), state


def test_a_product_with_a_batch_index_passes_back_what_its_formula_does():
    n = np.random.default_rng(6).standard_normal
    h, x, d_h, d_y = n((B, H)), n((B, N)), n((B, H)), n((B, H))
    found = Paths(lift(batched), {}, h, x)
    shifts = found.swaps(({}, h, x), (d_h, d_y))
    moved = found.swapped(({}, h, x), (d_h, d_y), shifts)
    # new = h s with s = h |x|^2: with d_y for h in the cotangent of s
    expected = d_h * (d_y - h) * (x**2).sum(axis=1)[:, None]
    assert any(np.allclose(d_state, expected, rtol=1e-10) for _, d_state, _ in moved)
