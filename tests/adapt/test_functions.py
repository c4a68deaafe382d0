"""Functions as layers: how they are called, what they may keep, and what errors say."""

import operator
from types import SimpleNamespace

import numpy as np
import pytest

import bpttcheck
from bpttcheck.adapt import from_grad, from_object, from_vjp, in_module
from bpttcheck.errors import ContractError

pytestmark = pytest.mark.usefixtures("as_found")

CELL = "p: {W: D H, b: H}"
NOTHING = np.zeros((1, 1, 0))
SIGNATURE = "x: N D, W: D H -> h: N H"


def forward(x, W):
    h = np.tanh(x @ W)
    return h, (x, W, h)


def gradient(dh, x, W, h):
    da = dh * (1 - h**2)
    return da @ W.T, x.T @ da


def point(dtype=np.float64):
    rng = np.random.default_rng(0)
    return {n: rng.normal(size=s).astype(dtype) for n, s in {"x": (2, 3), "W": (3, 4)}.items()}


def gradients(function, params=None):
    params = params or point()
    row, _, tape = function.forward(params, NOTHING, ())
    d_row = np.arange(1.0, row.size + 1).reshape(row.shape).astype(row.dtype)
    return function.vjp(params, tape, d_row, ())[0]


@pytest.fixture(scope="module")
def expected():
    x, W = point().values()
    h = np.tanh(x @ W)
    dx, dW = gradient(np.arange(1.0, 9.0).reshape(2, 4), x, W, h)
    return {"x": dx, "W": dW}


BACKWARD = {
    "cotangent, cache": lambda dh, cache: gradient(dh, *cache),
    "cache, cotangent": lambda cache, dout: gradient(dout, *cache),
    "saved first": lambda saved_tensors, grad_output: gradient(grad_output, *saved_tensors),
    "inputs and outputs by name": lambda x, W, h, dh: gradient(dh, x, W, h),
    "in another order": lambda dh, h, W, x: gradient(dh, x, W, h),
    "a default after what is required": lambda dh, cache, clip=None: gradient(dh, *cache),
    "names that say nothing": lambda a, b: gradient(a, *b),
    "keywords alone": lambda *, dh, cache: gradient(dh, *cache),
    "a keyword": lambda dh, *, cache: gradient(dh, *cache),
}


@pytest.mark.parametrize("backward", BACKWARD.values(), ids=BACKWARD)
def test_a_backward_pass_is_called_as_its_parameters_are_named(backward, expected):
    found = gradients(from_vjp(forward, backward, SIGNATURE))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value)


def test_it_can_be_told_what_to_hand_in(expected):
    def backward(a, b):
        return gradient(b, *a)

    found = gradients(from_vjp(forward, backward, SIGNATURE, receives="cache, dh"))
    np.testing.assert_allclose(found["W"], expected["W"])


def test_cotangents_have_the_structure_of_the_outputs():
    def two(x, W):
        return [x @ W, (x, W)], "cache"

    def backward(d_out, cache):
        return d_out[1][0], d_out[1][1]

    found = gradients(from_vjp(two, backward, "x: N D, W: D H -> out: [N H, (N D, D H)], cache"))
    np.testing.assert_array_equal(found["x"], np.arange(9.0, 15.0).reshape(2, 3))


@pytest.mark.parametrize(
    ("returned", "outputs"),
    [
        (lambda y, z: (y, z), "(N H, N D)"),
        (lambda y, z: [y, z], "[N H, N D]"),
        (lambda y, z: ([y, z], "cache"), "[N H, N D]"),
        (lambda y, z: ((y, z), "cache"), "(N H, N D), cache"),
        (lambda y, z: {"y": y, "z": z}, "out: {y: N H, z: N D}"),
        (lambda y, z: ({"y": y, "z": z}, "cache"), "{y: N H, z: N D}"),
    ],
)
def test_a_container_of_outputs_stands_alone_or_beside_a_cache(returned, outputs):
    calls = []

    def backward(x, W, d_out):
        calls.append(d_out)
        return x, W

    found = from_vjp(
        lambda x, W: returned(x @ W, 2 * x), backward, f"x: N D, W: D H -> {outputs}",
        receives="x, W, d_out" if outputs.startswith("out") else "x, W, d_0",
    )  # fmt: skip
    gradients(found)
    first, second = calls[0].values() if isinstance(calls[0], dict) else calls[0]
    assert (first.shape, second.shape) == ((2, 4), (2, 3))


@pytest.mark.parametrize(
    ("function", "backward"),
    [
        (lambda x: np.sum(x**3), lambda x: 3 * x**2),
        (lambda x: (np.sum(x**3), x), lambda cache: 3 * cache**2),
        (lambda x: (np.sum(x**3), x), lambda dout, cache: dout * 3 * cache**2),
    ],
)
def test_a_backward_pass_of_a_loss_may_take_no_cotangent(function, backward):
    found = gradients(from_vjp(function, backward, "x: N D -> loss:"), {"x": point()["x"]})
    np.testing.assert_allclose(found["x"], 3 * point()["x"] ** 2)


@pytest.mark.parametrize("dout", ["", ", dout=1"])
def test_so_may_that_of_an_object(dout):
    scope = {}
    exec(f"def backward(self{dout}):\n    return {'dout *' if dout else ''} 3 * self.x**2", scope)

    class Loss:
        backward = scope["backward"]

        def forward(self, x):
            self.x = x
            return np.sum(x**3)

    report = bpttcheck.check_object(lambda p: Loss(), {"W": "2"}, "N D", examples=4)
    assert report.passed


def test_a_cache_may_be_popped():
    def pushing(x, W):
        h, cache = forward(x, W)
        return h, {"stack": [cache]}

    def popping(dh, cache):
        return gradient(dh, *cache["stack"].pop())

    assert bpttcheck.check_vjp(pushing, popping, SIGNATURE, examples=4).passed


def test_a_cache_whose_arrays_are_changed_is_found():
    def backward(dh, cache):
        x, W, h = cache
        h *= h
        return dh * (1 - h) @ W.T, x.T @ (dh * (1 - h))

    report = bpttcheck.check_vjp(forward, backward, SIGNATURE, examples=4, raises=False)
    assert not report.passed


def loss(W, x):
    h = np.tanh(x @ W)
    return 0.5 * np.sum(h**2), x.T @ (h * (1 - h**2))


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (loss, {}),
        (loss, {"returns": "loss, dW"}),
        (lambda W, x: loss(W, x)[::-1], {"returns": "dW, loss"}),
        (lambda W, x: (loss(W, x)[0], (loss(W, x)[1], "state")), {"returns": "loss, dW, _"}),
        (lambda W, x: {"loss": loss(W, x)[0], "W_grad": loss(W, x)[1]}, {}),
        (lambda W, x: (loss(W, x)[0], {"W": loss(W, x)[1]}), {}),
    ],
)
def test_a_loss_returns_its_gradients_in_many_ways(function, options):
    found = gradients(from_grad(function, "W: D H, x: N D", **options))
    assert found["x"] is None
    np.testing.assert_allclose(found["W"], loss(point()["W"], point()["x"])[1])


class Layer:
    """Gathers its gradients and, if it is told to, takes a step of gradient descent."""

    def __init__(self, W, rate=0.0):
        self.W, self.rate, self.dW = W, rate, np.zeros_like(W)

    def forward(self, x):
        self.x, self.h = x, np.tanh(x @ self.W)
        return self.h

    def backward(self, dh):
        dx, dW = gradient(dh, self.x, self.W, self.h)
        self.dW += dW
        self.W = self.W - self.rate * dW
        return dx


def test_an_object_may_gather_its_gradients():
    report = bpttcheck.check_object(
        lambda p: Layer(p["W"]), {"W": "D H"}, "N D", y="N H", examples=6
    )  # fmt: skip
    assert report.passed


@pytest.mark.sampled(1)
@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_a_step_of_the_optimiser_shows_the_gradient(rate):
    report = bpttcheck.check_object(
        lambda p: Layer(p["W"], rate), {"W": "D H"}, "N D", y="N H", update=rate, examples=12
    )  # fmt: skip
    assert report.passed
    assert report.dtypes == ("float64", "float32")


def test_a_wrong_step_is_found():
    class Wrong(Layer):
        def backward(self, dh):
            self.W = self.W - self.rate * self.x.T @ dh
            return gradient(dh, self.x, self.W, self.h)[0]

    report = bpttcheck.check_object(
        lambda p: Wrong(p["W"], 0.5), {"W": "D H"}, "N D", y="N H", update=0.5, examples=4,
        raises=False,
    )  # fmt: skip
    assert {finding.block for finding in report.findings} >= {"d_W"}


@pytest.mark.parametrize("place", ["params", "a list", "a function"])
def test_parameters_that_change_are_found_where_they_are_kept(place, expected):
    class Net:
        def __init__(self, W):
            self.params = [W] if place == "a list" else {"W": W}
            self.inner = SimpleNamespace(W=W)

        def forward(self, x):
            self.x, self.h = x, np.tanh(x @ self.inner.W)
            return self.h

        def backward(self, dh):
            step = 0.25 * gradient(dh, self.x, self.inner.W, self.h)[1]
            if place == "a function":
                self.inner.W = self.inner.W - step
            else:
                self.params[0 if place == "a list" else "W"] -= step

    where = (lambda net: {"W": net.inner.W}) if place == "a function" else None
    subject = from_object(lambda p: Net(**p), {"W": "D H"}, "N D", update=0.25, grads=where)
    np.testing.assert_allclose(gradients(subject)["W"], expected["W"], rtol=1e-14)


def test_globals_that_change_show_their_gradients():
    module = SimpleNamespace(W=None)

    def train(x):
        value, dW = loss(module.W, x)
        module.W = module.W - 0.1 * dW
        return value

    held = in_module(module, W="D H")
    assert bpttcheck.check_grad(train, "x: N D", params=held, update=0.1, examples=6).passed

    def run(x):
        return forward(x, module.W)

    def backward(dh, cache):
        dx, dW = gradient(dh, *cache)
        module.W -= 0.1 * 2 * dW
        return dx

    report = bpttcheck.check_vjp(
        run, backward, "x: N D -> h: N H", params=held, update=0.1, examples=4, raises=False
    )
    assert {finding.block for finding in report.findings} == {"d_W"}
    assert module.W is None


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: from_vjp(3, forward, SIGNATURE), "forward is 3 .*but should be a function"),
        (lambda: from_vjp(forward, forward), "neither a signature nor `args` nor `at` was given"),
        (lambda: from_vjp(forward, forward, SIGNATURE, params={"W": 1}),
         r"params=\{'W': 1\}, but should be made by bpttcheck.in_module"),
        (lambda: from_vjp(forward, forward, SIGNATURE, update=0.1), "name them with params="),
        (lambda: from_grad(loss, "x: N", returns="dW"), "does not say which is the loss"),
        (lambda: from_object(Layer, {"W": "D H"}, "N D", update=0), "update=0, but should be the "),
        (lambda: from_object(Layer, {"W": "D H"}, "N D", backward=3), "the name of a method"),
        (lambda: in_module(np), "in_module needs the names of the globals"),
        (lambda: in_module(np, W=3), "in_module: W=3, but should be axes such as 'H V'"),
        (lambda: from_vjp(forward, forward, SIGNATURE, at=(1.0,)), "1 arguments were given, but"),
        (lambda: from_vjp(forward, forward, SIGNATURE, at={"x": 1}), "at lacks 'W'"),
        (lambda: from_vjp(forward, forward, at="no.npz"), "no.npz is no .npz file of arrays"),
        (lambda: from_vjp(forward, forward, at=1.0), "at=float, but should be a tuple of arg"),
        (lambda: from_vjp(forward, forward, SIGNATURE, at=(np.ones((2, 3)), np.ones((4, 4)))),
         r"W has the shape \(4, 4\), but the signature says W: D H = \(3, 4\) for N=2, D=3, H=4"),
        (lambda: from_vjp(forward, forward, "x: 2*N -> y: 2*N", at=(np.ones(3),)),
         r"x has the shape \(3,\)"),
        (lambda: from_vjp(forward, forward, f"{CELL} -> h: H", at=({"W": np.ones((2, 2))},)),
         "p is a dict, but the signature says a dict of W, b"),
        (lambda: from_vjp(forward, forward, f"{CELL} -> h: H", at=([1.0],)), "p is a list, but"),
        (lambda: from_vjp(forward, forward, "p: (D, H) -> h: H", at=({},)),
         "p is a dict, but the signature says a tuple of"),
        (lambda: from_vjp(forward, forward, "p: (D, H) -> h: H", at=((np.ones(2),),)),
         "p is a tuple, but the signature says a tuple of"),
    ],
)  # fmt: skip
def test_a_malformed_argument_is_an_error_that_says_what_was_expected(made, said):
    with pytest.raises(ContractError, match=said):
        made()


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        (from_vjp(lambda x, W: x @ W.T, forward, "x: N D, W: H D -> h: H N"),
         r"returned h of shape \(2, 4\), but the signature says h: H N = \(4, 2\)"),
        (from_vjp(forward, lambda a, b, c, d: 0, SIGNATURE),
         r"takes \(a, b, c, d\), and what to hand in cannot be told: there are the cotangents dh, "
         r"and x, W, h, cache. Name them in order, such as receives='dh, cache'"),
        (from_vjp(lambda x, W: x @ W, forward, "x: N D, W: D H -> h: N H, c, d"),
         "returned 1 things, but the signature names 3 outputs: h, c, d"),
        (from_vjp(lambda x, W: x, lambda x, W, dx: x, "x: N D, W: D H -> x: N D"),
         "takes 'x', which is an input and an output of the signature: give the output another"),
        (from_grad(lambda x, W: (x, W), "x: N D, W: D H"), "as its loss, but should return a num"),
        (from_grad(lambda x, W: (1.0, W), "x: N D, W: D H", returns="loss, dx, dW"),
         "returned 2 things, but `returns` names 3: loss, dx, dW"),
        (from_vjp(forward, gradient, "x: N C+D, W: C+D H -> h: N D"),
         "D cannot be told from the shapes of the inputs of x: N C.D, W: C.D H"),
        (from_vjp(lambda x, W: (x @ W, "text", x), lambda a, b: 0, "x: N D, W: D H"),
         "returned str where an output was expected; say what it returns"),
        (from_object(lambda p: SimpleNamespace(forward=lambda x: x, backward=lambda d: d,
                                               grads=[1, 2]), {"W": "3 4"}, "x: 2 3"),
         "2 gradients were left, but there are 1 parameters: W"),
        (from_object(lambda p: SimpleNamespace(forward=lambda x: x, backward=lambda dy: dy),
                     {"W": "3 4"}, "x: 2 3", update=1.0),
         "keeps no parameter 'W' where it was looked for"),
    ],
)  # fmt: skip
def test_code_that_does_not_fit_its_signature_is_an_error_that_shows_both(subject, said):
    params = {"x": np.ones((2, 3)), "W": np.ones((4, 3) if "H D" in str(subject) else (3, 4))}
    with pytest.raises(ContractError, match=said):
        gradients(subject, params)


def test_an_object_hands_its_gradients_out_in_many_ways(expected):
    for grads in (None, "left", lambda made: made.left):
        made = SimpleNamespace(left={})

        def backward(dh, made=made):
            dx, dW = gradient(dh, *made.cache)
            made.left = made.grads = {"W": dW}
            return {"dx": dx}

        def run(x, made=made):
            h, made.cache = forward(x, made.W)
            return h

        made.forward, made.backward = run, backward
        subject = from_object(
            lambda p, made=made: made.__dict__.update(W=p["W"]) or made,
            {"W": "D H"}, "x: N D", y="N H", grads=grads,
        )  # fmt: skip
        found = gradients(subject)
        np.testing.assert_allclose(found["x"], expected["x"])
        np.testing.assert_allclose(found["W"], expected["W"])


def test_a_compiled_function_has_inputs_by_number():
    found = from_vjp(operator.itemgetter(0), lambda dy: dy, at=(np.ones(3),))
    assert [item.name for item in found.signature.inputs] == ["arg0"]


def test_a_gradient_may_be_a_python_number():
    found = gradients(from_vjp(lambda a: 2 * a, lambda a, dy: 3.0, "a: -> y:"), {"a": np.ones(())})
    assert (found["a"], found["a"].dtype) == (3.0, np.float64)


def test_of_many_shapes_the_letters_are_worked_out_again(monkeypatch):
    monkeypatch.setattr("bpttcheck.adapt.function._SHAPES_KEPT", 1)
    subject = from_vjp(forward, gradient, SIGNATURE)
    for sizes in ((2, 3, 4), (5, 6, 7), (2, 3, 4)):
        N, D, H = sizes
        found = subject.letters({"x": np.ones((N, D)), "W": np.ones((D, H))})
        assert found == {"N": N, "D": D, "H": H}


def by_keywords(x, *, W, scale=2.0):
    return scale * np.tanh(x @ W), (x, W)


def by_keywords_vjp(d_y, *, cache, scale=2.0):
    x, W = cache
    d = scale * d_y * (1 - np.tanh(x @ W) ** 2)
    return d @ W.T, x.T @ d


def test_keyword_only_arguments_are_handed_in_by_their_names():
    report = bpttcheck.check_vjp(
        by_keywords, by_keywords_vjp, "x: N D, W: D H -> y: N H", examples=4, checks=["vjp"]
    )
    assert report.passed


def stationary(theta, r):
    """Takes positive rates whose sum is below one alone, as they are fitted."""
    alpha, beta = theta
    rest = 1 - alpha - beta
    loss = np.sum(r**2) * rest / 2 - 0.5 * np.log(rest * alpha) - np.log(beta) / 2
    d = 0.5 / rest - np.sum(r**2) / 2
    return loss + 0 * np.log(alpha), np.array([d - 0.5 / alpha, d - 0.5 / beta])


def test_values_are_drawn_near_given_ones_where_a_function_takes_no_others():
    given = (np.array([0.4, 0.55]), np.array([0.3, -1.2, 0.8]))
    report = bpttcheck.check_grad(
        stationary, args=given, returns="loss, dtheta", examples=40, checks=["vjp", "arguments"],
        raises=False,
    )  # fmt: skip
    assert report.passed, str(report)
    regimes = report.regimes
    assert regimes["near_given"] > 5
    wrong = bpttcheck.check_grad(
        lambda theta, r: (stationary(theta, r)[0], np.array([1.0, 0.0]) * stationary(theta, r)[1]),
        args=given, returns="loss, dtheta", examples=40, checks=["vjp"], raises=False,
    )  # fmt: skip
    assert not wrong.passed


def test_the_domain_of_integers_is_kept():
    def loss(rows, order):
        assert sorted(order) == list(range(len(order)))
        weights = np.arange(1.0, len(order) + 1)
        total = np.sum(weights[:, None] * np.sin(rows[order]))
        d = np.zeros_like(rows)
        d[order] = weights[:, None] * np.cos(rows[order])
        return total, d

    options = {"returns": "loss, d_rows", "examples": 6, "checks": ["vjp"], "raises": False}
    text = "rows: T D, order: T < T"
    drawn = {"order": lambda rng, order: rng.permutation(len(order))}
    assert bpttcheck.check_grad(loss, text, domain=drawn, **options).passed
    within = bpttcheck.check_grad(
        lambda x, n: (np.sum(x) / n, np.full_like(x, 1 / n) if 1 < n < 4 else np.nan * x),
        "x: D, n: < 9", domain={"n": (1, 4)}, **{**options, "returns": "loss, d_x"},
    )  # fmt: skip
    assert within.passed, str(within)


def test_a_function_of_integers_alone_has_no_gradient():
    with pytest.raises(ContractError, match="no input is a float array, so there is no gradient"):
        bpttcheck.check_vjp(lambda t: t, lambda d: d, "tokens: T < V -> y: T")


def test_the_derivative_of_a_numpy_backward_pass_is_not_guessed():
    forward, backward = (lambda x: x**2), (lambda dy, x: 2 * x * dy)
    for check, code in (
        (bpttcheck.check_vjp, (forward, backward)),
        (bpttcheck.check_grad, (forward,)),
    ):
        with pytest.raises(ContractError, match=r"order=2, but .* check_vjp\(backward, double"):
            check(*code, "x: N -> y: N", order=2)
    assert bpttcheck.check_vjp(forward, backward, "x: N -> y: N", order=1, examples=2).passed
    # One that was written by hand is a pair of its own.
    twice = lambda d_dx, x, dy: (2 * dy * d_dx, 2 * x * d_dx)  # noqa: E731
    report = bpttcheck.check_vjp(
        lambda x, dy: 2 * x * dy, twice, "x: N, dy: N -> dx: N", grads="d_x, d_dy", examples=3,
        receives="d_dx, x, dy", dtypes=["float64"], checks=["vjp"],
    )  # fmt: skip
    assert report.passed
