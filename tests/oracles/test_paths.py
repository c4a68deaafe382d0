"""One path changed at a time: what flows back is the formula with that path changed, no more."""

import inspect
import linecache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpttcheck.errors import Declined
from bpttcheck.jax_mode import enable_x64
from bpttcheck.oracles.step_graph.paths import Paths
from bpttcheck.oracles.tracer.trace import lift

B, N, H = 4, 2, 3
CLOSE = {"rtol": 1e-12, "atol": 1e-12}
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=25)


def gated(params, h, x):
    """Products, a sum that forks, a split gate, tanh, a sigmoid written out, and np.where."""
    from_x = x @ params["U"].T
    from_h = h @ params["W"].T
    z = from_x + from_h
    a, g = np.split(z, 2, axis=-1)
    c = np.tanh(a)
    s = 1.0 / (1.0 + np.exp(-g))
    fresh = s * c
    kept = (1.0 - s) * h
    new = fresh + kept
    bent = np.where(new > 0, new, 0.5 * new)
    return new, bent + s


def gated_by_hand(point, cotangents, cut="", slopes=None):
    """The gradient with one path cut or with other slopes, written out without any graph."""
    (params, h, x), (d_new, d_y) = point, cotangents
    keep = {cut: 0.0}.get
    z = x @ params["U"].T + h @ params["W"].T
    a, g = z[:, :H], z[:, H:]
    c, s = np.tanh(a), 1 / (1 + np.exp(-g))
    new = s * c + (1 - s) * h
    slope = {"c": 1 - c**2, "s": s * (1 - s), "1 - s": -s * (1 - s)}
    slope = {**slope, "bent": np.where(new > 0, 1, 0.5), **(slopes or {})}
    if cut in ("half of new", "new where it is positive"):
        slope["bent"] = np.where((new > 0) == (cut == "half of new"), slope["bent"], 0)

    d_new = d_new + keep("new in the output", 1.0) * slope["bent"] * d_y
    d_fresh, d_kept = d_new * keep("the fresh part", 1.0), d_new * keep("the kept part", 1.0)
    d_c = d_fresh * s * keep("c in its product", 1.0)
    d_s = keep("s in the output", 1.0) * d_y + d_fresh * c * keep("s in its product", 1.0)
    d_share = d_kept * h * keep("1 - s in its product", 1.0)
    d_a = d_c * slope["c"]
    d_g = (d_s * slope["s"] + d_share * slope["1 - s"]) * keep("s, wherever it is read", 1.0)
    d_z = np.concatenate([d_a, d_g], axis=1)
    d_from_x, d_from_h = d_z * keep("the part from x", 1.0), d_z * keep("the part from h", 1.0)
    d_params = {
        "U": keep("U in its product", 1.0) * d_from_x.T @ x,
        "W": keep("W in its product", 1.0) * d_from_h.T @ h,
    }
    d_h = keep("h in its product", 1.0) * d_from_h @ params["W"]
    d_h = d_h + keep("h as it is kept", 1.0) * d_kept * (1 - s)
    return d_params, d_h, keep("x in its product", 1.0) * d_from_x @ params["U"]


# What is cut: the line of user code, the operation, and which operand.
EDGES = {
    "x in its product": ("from_x =", "dot_general", 0),
    "U in its product": ("from_x =", "dot_general", 1),
    "h in its product": ("from_h =", "dot_general", 0),
    "W in its product": ("from_h =", "dot_general", 1),
    "the part from x": ("z =", "add", 0),
    "the part from h": ("z =", "add", 1),
    "s, wherever it is read": ("s =", "div", 1),
    "s in its product": ("fresh =", "mul", 0),
    "c in its product": ("fresh =", "mul", 1),
    "1 - s in its product": ("kept =", "mul", 0),
    "h as it is kept": ("kept =", "mul", 1),
    "the fresh part": ("new =", "add", 0),
    "the kept part": ("new =", "add", 1),
    "half of new": ("bent =", "select_n", 1),
    "new where it is positive": ("bent =", "select_n", 2),
    "new in the output": ("return", "add", 0),
    "s in the output": ("return", "add", 1),
}
FUNCTIONS = {
    "c": ("c =", "tanh"),
    "s": ("s =", "div"),
    "1 - s": ("kept =", "sub"),
    "bent": ("bent =", "select_n"),
}


def code(site):
    """The text of the line that a site names, without its place."""
    return site.where.split(": ", 1)[1]


def the(sites, line, operation, operand=0):
    """The one site of this line, operation and operand."""
    found = [s for s in sites if code(s).startswith(line) and s.text == operation]
    (site,) = [s for s in found if s.kind != "edge" or s.place[1] == operand]
    return site


def values(seed, params, state=(B, H), n_in=N, scale=1.0):
    """A point and cotangents."""
    n = np.random.default_rng(seed).standard_normal
    point = {key: scale * n(shape) for key, shape in params.items()}, n(state), n((B, n_in))
    return point, (n(state), n((B, H)))


GATED = {"U": (2 * H, N), "W": (2 * H, H)}


@pytest.fixture(scope="module")
def paths():
    return Paths(lift(gated), *values(0, GATED)[0])


def equal(found, expected):
    d_params, d_state, d_x = found
    assert d_params.keys() == expected[0].keys()
    for key, value in expected[0].items():
        np.testing.assert_allclose(d_params[key], value, **CLOSE, err_msg=key)
    np.testing.assert_allclose(d_state, expected[1], **CLOSE)
    np.testing.assert_allclose(d_x, expected[2], **CLOSE)


@given(seed=seeds)
@few
def test_the_gradient_with_a_path_cut_is_the_formula_without_it(paths, seed):
    point, cotangents = values(seed, GATED)
    sites = [the(paths.sites("edge"), *place) for place in EDGES.values()]
    found = paths.gradients(point, cotangents, [(site, None) for site in sites])
    for cut, gradients in zip(EDGES, found, strict=True):
        equal(gradients, gated_by_hand(point, cotangents, cut))


def test_every_path_is_offered_once_and_a_written_out_sigmoid_is_a_single_one(paths):
    named = [the(paths.sites("edge"), *place) for place in EDGES.values()]
    assert sorted(site.index for site in named) == list(range(len(paths.sites("edge"))))
    functions = [the(paths.sites("function"), *place) for place in FUNCTIONS.values()]
    assert sorted(site.index for site in functions) == list(range(len(paths.sites("function"))))


@given(seed=seeds)
@few
def test_a_replaced_derivative_is_exactly_the_one_given(paths, seed):
    point, cotangents = values(seed, GATED)
    factor = np.random.default_rng(seed + 1).standard_normal((B, H))
    sites = [the(paths.sites("function"), *place) for place in FUNCTIONS.values()]
    found = paths.gradients(point, cotangents, [(site, factor) for site in sites])
    for name, gradients in zip(FUNCTIONS, found, strict=True):
        slopes = {name: factor}
        if name == "s":
            slopes["1 - s"] = -factor  # it reads s
        equal(gradients, gated_by_hand(point, cotangents, slopes=slopes))


@given(seed=seeds)
@few
def test_each_function_is_told_with_its_argument_and_its_value(paths, seed):
    (params, h, x), _ = values(seed, GATED)
    z = x @ params["U"].T + h @ params["W"].T
    s = 1 / (1 + np.exp(-z[:, H:]))
    new = s * np.tanh(z[:, :H]) + (1 - s) * h
    expected = {
        "c": (z[:, :H], np.tanh(z[:, :H])),
        "s": (z[:, H:], s),
        "1 - s": (z[:, H:], 1 - s),
        "bent": (new, np.where(new > 0, new, 0.5 * new)),
    }
    found = paths.values(params, h, x)
    for name, place in FUNCTIONS.items():
        index = the(paths.sites("function"), *place).index
        for value, right in zip(found[index], expected[name], strict=True):
            np.testing.assert_allclose(value, right, **CLOSE, err_msg=name)


def test_where_takes_the_branch_of_the_forward_pass_at_its_threshold(paths):
    (params, _, x), cotangents = values(0, GATED)
    still = {key: 0 * value for key, value in params.items()}
    at_zero = (still, np.zeros((B, H)), x)  # new = 0, which is not > 0
    output = the(paths.sites("edge"), *EDGES["new where it is positive"])
    half = the(paths.sites("edge"), *EDGES["half of new"])
    found = paths.gradients(at_zero, cotangents, [(output, None), (half, None)])
    np.testing.assert_allclose(found[0][1], 0.5 * (cotangents[0] + 0.5 * cotangents[1]), **CLOSE)
    np.testing.assert_allclose(found[1][1], 0.5 * cotangents[0], **CLOSE)


READOUT = {"U": (H, H), "W": (H, H), "V": (H, H)}


def readout(params, h, x):
    new = np.tanh(x @ params["U"].T + h @ params["W"].T)
    return new, np.square(new) @ params["V"].T


@pytest.fixture(scope="module")
def square():
    return Paths(lift(readout), *values(0, READOUT, n_in=H)[0])


@given(seed=seeds)
@few
def test_no_change_moves_a_value_of_the_forward_pass(square, seed):
    point, cotangents = values(seed, READOUT, n_in=H)
    params, h, x = point
    factor = np.random.default_rng(seed).standard_normal((B, H))
    changes = [(site, None) for kind in ("edge", "product") for site in square.sites(kind)]
    changes += [(site, factor) for site in square.sites("function")]
    # The gradient of the last weight reads only what the forward pass has put before it.
    new = np.tanh(x @ params["U"].T + h @ params["W"].T)
    d_V = cotangents[1].T @ new**2
    found = square.gradients(point, cotangents, changes)
    cut = [site for (site, _), g in zip(changes, found, strict=True) if not g[0]["V"].any()]
    assert [(s.kind, s.text, s.place[1]) for s in cut] == [("edge", "dot_general", 1)]
    for (site, _), gradients in zip(changes, found, strict=True):
        if site not in cut:
            np.testing.assert_allclose(gradients[0]["V"], d_V, **CLOSE, err_msg=str(site))


@given(seed=seeds)
@few
def test_a_transposed_weight_is_transposed_in_the_backward_product_alone(square, seed):
    point, cotangents = values(seed, READOUT, n_in=H)
    (params, h, x), (d_new, d_y) = point, cotangents

    def by_hand(U, W, V):
        new = np.tanh(x @ params["U"].T + h @ params["W"].T)
        d_z = (d_new + 2 * new * (d_y @ V)) * (1 - new**2)
        return {"U": d_z.T @ x, "W": d_z.T @ h, "V": d_y.T @ new**2}, d_z @ W, d_z @ U

    products = square.sites("product")
    assert len(products) == 3
    found = square.gradients(point, cotangents, [(site, None) for site in products])
    U, W, V = params["U"], params["W"], params["V"]
    for gradients, weights in zip(found, [(U.T, W, V), (U, W.T, V), (U, W, V.T)], strict=True):
        equal(gradients, by_hand(*weights))


def test_a_product_with_a_weight_that_is_not_square_cannot_be_transposed(paths):
    assert paths.sites("product") == []


def test_changes_come_back_in_their_order_however_many_there_are(square):
    point, cotangents = values(3, READOUT, n_in=H)
    site = square.sites("function")[0]
    found = square.gradients(
        point, cotangents, [(site, np.full((B, H), float(i))) for i in range(150)]
    )
    assert len(found) == 150
    one = found[1][2] - found[0][2]
    for i, (_, _, d_x) in enumerate(found):
        np.testing.assert_allclose(d_x, found[0][2] + i * one, rtol=1e-10, atol=1e-10)


def test_float32_inputs_are_differentiated_in_double_precision(square):
    point, cotangents = values(4, READOUT, n_in=H)
    short = {key: value.astype(np.float32) for key, value in point[0].items()}
    again = ({key: value.astype(np.float64) for key, value in short.items()}, *point[1:])
    changes = [(square.sites("edge")[0], None)]
    one, other = (square.gradients((p, *point[1:]), cotangents, changes)[0]
                  for p in (short, again[0]))  # fmt: skip
    assert one[1].dtype == np.float64
    np.testing.assert_array_equal(one[1], other[1])


def helper(z):
    return np.tanh(z)


def calls_a_helper(params, h, x):
    new = helper(h @ params["W"].T)
    return new, new


def line_of(function, text):
    lines, first = inspect.getsourcelines(function)
    (number,) = [first + i for i, line in enumerate(lines) if text in line]
    return f"test_paths.py:{number}: {linecache.getline(__file__, number).strip()}"


def test_a_place_is_the_line_of_the_users_code(paths):
    assert the(paths.sites("function"), "s =", "div").where == line_of(gated, "np.exp(-g)")
    assert the(paths.sites("edge"), "kept =", "mul", 1).where == line_of(gated, "kept = ")


def test_a_place_in_a_helper_of_the_users_is_the_line_in_the_helper():
    found = Paths(lift(calls_a_helper), *values(0, {"W": (H, H)})[0])
    (tanh,) = found.sites("function")
    assert tanh.where == line_of(helper, "np.tanh(z)")


def test_a_place_is_the_same_at_every_size():
    sizes = [{"U": (2 * n, 2), "W": (2 * n, n)} for n in (2, 5)]
    one, other = (
        Paths(lift(gated), *values(0, params, state=(B, params["W"][1]))[0]) for params in sizes
    )
    for kind in ("edge", "function"):
        assert one.sites(kind) == other.sites(kind)


def counting(params, state, x):
    share = 1.0 / (1.0 + state["n"][:, None])
    h = np.tanh(x @ params["U"].T + share * state["h"])
    return {"h": h, "n": state["n"] + 1}, h


def test_an_integer_of_the_state_is_carried_and_gets_zeros():
    rng = np.random.default_rng(5)
    params, x = {"U": rng.standard_normal((H, N))}, rng.standard_normal((B, N))
    state = {"h": rng.standard_normal((B, H)), "n": np.arange(B)}
    d_new, d_y = rng.standard_normal((B, H)), rng.standard_normal((B, H))
    found = Paths(lift(counting), params, state, x)
    changes = [(site, None) for site in found.sites("edge")]
    gradients = found.gradients((params, state, x), ({"h": d_new, "n": np.zeros(B)}, d_y), changes)
    share = 1 / (1 + np.arange(B))[:, None]
    h = np.tanh(x @ params["U"].T + share * state["h"])
    d_z = (d_new + d_y) * (1 - h**2)
    for (site, _), (_, d_state, _) in zip(changes, gradients, strict=True):
        assert d_state["n"].shape == (B,)
        assert not d_state["n"].any()
        if site.text == "dot_general":
            np.testing.assert_allclose(d_state["h"], share * d_z, **CLOSE)


def test_what_is_made_from_integers_alone_is_no_path():
    rng = np.random.default_rng(5)
    state = {"h": rng.standard_normal((B, H)), "n": np.arange(B)}
    found = Paths(lift(counting), {"U": np.ones((H, N))}, state, np.ones((B, N)))
    assert not any("share = " in site.where for site in found.sites("edge"))
    # The product share * h has one edge; it is the end of its chain into the sum.
    operands = [(s.text, s.place[1]) for s in found.sites("edge") if s.text in ("mul", "add")]
    assert operands == [("add", 0), ("add", 1)]


def clipped(params, h, x):
    z = x @ params["U"].T + h
    new = jnp.clip(
        0.2 * z + 0.5, 0, 1
    )  # a program of JAX's own, which gets its bounds as arguments
    return new, new


def test_a_constant_is_no_path_and_a_clip_is_one_function():
    (params, h, x), cotangents = values(6, {"U": (H, N)})
    found = Paths(clipped, params, h, x)
    (clip,) = found.sites("function")
    z = x @ params["U"].T + h
    ((given, value),) = found.values(params, h, x)
    np.testing.assert_allclose(given, z, **CLOSE)
    np.testing.assert_allclose(value, np.clip(0.2 * z + 0.5, 0, 1), **CLOSE)
    factor = np.random.default_rng(0).standard_normal((B, H))
    ((_, d_h, _),) = found.gradients((params, h, x), cotangents, [(clip, factor)])
    np.testing.assert_allclose(d_h, factor * (cotangents[0] + cotangents[1]), **CLOSE)


def in_jax(stop_in_product=lambda v: v, stop_in_skip=lambda v: v):
    """A step in JAX whose new value acts on the output on two paths."""

    def step(params, h, x):
        s = jax.nn.sigmoid(x @ params["U"].T + h @ params["W"].T)
        return s * jax.nn.softplus(h), stop_in_product(s) * jnp.tanh(h) + stop_in_skip(s)

    return step


@pytest.mark.parametrize(
    ("stopped", "operation"),
    [({"stop_in_product": jax.lax.stop_gradient}, "mul"),
     ({"stop_in_skip": jax.lax.stop_gradient}, "add")],
)  # fmt: skip
def test_a_cut_is_what_stop_gradient_gives_in_a_jax_step(stopped, operation):
    point, cotangents = values(7, {"U": (H, N), "W": (H, H)})
    found = Paths(in_jax(), *point)
    line = line_of(in_jax, "return s *").split(": ", 1)[1]
    edges = [s for s in found.sites("edge") if code(s) == line and s.text == operation]
    with enable_x64():
        _, pull = jax.vjp(in_jax(**stopped), *jax.tree.map(jnp.asarray, point))
        expected = pull(tuple(map(jnp.asarray, cotangents)))
    gradients = found.gradients(point, cotangents, [(site, None) for site in edges])
    same = [np.allclose(g[2], expected[2], rtol=1e-12, atol=1e-12) for g in gradients]
    assert sum(same) == 1
    equal(gradients[same.index(True)], expected)


def loops(params, h, x):
    def body(c, _):
        return jnp.tanh(c + x @ params["U"].T), None

    new = jax.lax.scan(body, h, None, length=3)[0]
    return new, jax.jit(jnp.square)(new)


def test_a_loop_inside_the_step_is_one_operation_and_stays_right():
    point, (d_new, d_y) = values(8, {"U": (H, N)})
    found = Paths(loops, *point)
    output = next(site for site in found.sites("function"))
    factor = np.zeros((B, H))
    ((_, d_h, _),) = found.gradients(point, (d_new, d_y), [(output, factor)])
    with enable_x64():
        _, pull = jax.vjp(lambda h: loops(point[0], h, point[2])[0], jnp.asarray(point[1]))
        (expected,) = pull(jnp.asarray(d_new))
    np.testing.assert_allclose(d_h, expected, **CLOSE)


def test_a_step_that_cannot_be_traced_is_declined():
    def branches(params, h, x):
        return (h, h) if x.sum() > 0 else (2 * h, h)

    with pytest.raises(Declined, match=r"x\.sum"):
        Paths(lift(branches), *values(0, GATED)[0])


def test_other_values_of_a_functions_shape_have_names_of_their_own(paths):
    (params, h, x), _ = values(9, GATED)
    s = the(paths.sites("function"), *FUNCTIONS["s"])
    found = paths.like(s.index, params, h, x)
    names = [name for name, _ in found]
    assert len(set(names)) == len(names)
    z = x @ params["U"].T + h @ params["W"].T
    told = dict(found)
    np.testing.assert_allclose(told["input 2 of the step"], h, **CLOSE)
    c = np.tanh(z[:, :H])
    # The line takes its part of z first.
    np.testing.assert_allclose(told[line_of(gated, "c = np.tanh")], z[:, :H], **CLOSE)
    np.testing.assert_allclose(told[f"{line_of(gated, 'c = np.tanh')} (value 2)"], c, **CLOSE)
    # Its own argument and value are none of the others, nor is any array of another shape.
    sigmoid = 1 / (1 + np.exp(-z[:, H:]))
    for value in told.values():
        assert value.shape == (B, H)
        assert not np.allclose(value, z[:, H:])
        assert not np.allclose(value, sigmoid)


def test_the_names_of_other_values_do_not_depend_on_the_numbers(paths):
    (params, h, x), _ = values(9, GATED)
    equal_parts = {key: np.concatenate([value[:H]] * 2) for key, value in params.items()}
    one, other = paths.like(0, params, h, x), paths.like(0, equal_parts, h, x)
    assert len(other) < len(one)  # equal values are told once
    assert {name for name, _ in other} <= {name for name, _ in one}
