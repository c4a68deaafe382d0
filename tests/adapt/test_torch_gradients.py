from __future__ import annotations

import copy

import numpy as np
import pytest

import bpttcheck
from bpttcheck import trees
from bpttcheck.adapt import from_autograd_function
from bpttcheck.errors import ContractError

torch = pytest.importorskip("torch", reason="torch is not installed")

TABLE = {"W": ("n_hidden", "n_in"), "R": ("n_hidden", "n_hidden")}
Function = torch.autograd.Function


class Right(Function):
    """``new = tanh(x W^T + h R^T)``, ``y = 2 new``."""

    @staticmethod
    def forward(ctx, x, h, W, R):
        new = torch.tanh(x @ W.T + h @ R.T)
        ctx.save_for_backward(x, h, W, R, new)
        return 2 * new, new

    @staticmethod
    def backward(ctx, d_y, d_new):
        x, h, W, R, new = ctx.saved_tensors
        d_pre = (2 * d_y + d_new) * (1 - new**2)
        return d_pre @ W, d_pre @ R, d_pre.T @ x, d_pre.T @ h


class Absent(Right):
    """No cotangent at all for a result that takes no part in the loss."""

    @staticmethod
    def forward(ctx, *arguments):
        ctx.set_materialize_grads(False)
        return Right.forward(ctx, *arguments)

    @staticmethod
    def backward(ctx, d_y, d_new):
        zero = torch.zeros_like(ctx.saved_tensors[4])
        return Right.backward(ctx, zero if d_y is None else d_y, zero if d_new is None else d_new)


class LosesTheState(Absent):
    @staticmethod
    def backward(ctx, d_y, d_new):
        return Absent.backward(ctx, d_y, None if d_y is None else d_new)


class NeedsBoth(Absent):
    @staticmethod
    def backward(ctx, d_y, d_new):
        return Right.backward(ctx, d_y, d_new)


def adapted(F, **options):
    return from_autograd_function(F, init=options.pop("init", TABLE), **options)


def problem(cell, n_in=3, n_hidden=2, B=4):
    rng = np.random.default_rng(0)
    shapes = [(B, n_hidden), (B, n_in), (B, n_hidden), (B, n_hidden)]
    return cell.init(rng, n_in, n_hidden), *map(rng.standard_normal, shapes)


def gradients(cell, change=lambda d_state, d_y: (d_state, d_y), params=None):
    own, state, x, d_state, d_y = problem(cell)
    params = own if params is None else params
    _, _, cache = cell.step(params, state, x)
    return cell.step_vjp(params, cache, *change(d_state, d_y))


def true_gradients(change=lambda d_state, d_y: (d_state, d_y)):
    params, state, x, d_state, d_y = problem(adapted(Right))
    d_state, d_y = change(d_state, d_y)
    new = np.tanh(x @ params["W"].T + state @ params["R"].T)
    d_pre = (2 * d_y + d_state) * (1 - new**2)
    return {"W": d_pre.T @ x, "R": d_pre.T @ state}, d_pre @ params["R"], d_pre @ params["W"]


def distance(found, expected):
    pairs = zip(trees.leaves(found), trees.leaves(expected), strict=True)
    return max(float(np.abs(f - e).max()) for f, e in pairs)


def no_output(d_state, d_y):
    return d_state, np.zeros_like(d_y)


def no_state(d_state, d_y):
    return np.zeros_like(d_state), d_y


def nothing(d_state, d_y):
    return np.zeros_like(d_state), np.zeros_like(d_y)


def without(F, *positions):
    """``F`` whose backward returns None for the arguments at ``positions``."""

    class Partial(F):
        @staticmethod
        def backward(ctx, *cotangents):
            found = list(F.backward(ctx, *cotangents))
            for position in positions:
                found[position] = None
            return tuple(found)

    return Partial


@pytest.mark.parametrize("position", [0, 1, 3])
def test_none_is_handed_on_as_the_gradient_of_what_was_given(position):
    d_params, d_state, d_x = gradients(adapted(without(Right, position)))
    found = [d_x, d_state, d_params["W"], d_params["R"]]
    assert [gradient is None for gradient in found] == [i == position for i in range(4)]


def test_none_for_one_leaf_of_a_state_leaves_the_others():
    class Two(Function):
        @staticmethod
        def forward(ctx, x, h, c, b):
            return h + b, 1 * h, 1 * c

        @staticmethod
        def backward(ctx, d_y, d_h, d_c):
            return torch.zeros(4, 3, dtype=d_y.dtype), d_y + d_h, None, d_y.sum(0)

    cell = adapted(Two, init={"b": ("n_hidden",)})
    params, h, x, d_h, d_y = problem(cell)
    _, _, cache = cell.step(params, {"h": h, "c": h}, x)
    d_params, d_state, _ = cell.step_vjp(params, cache, {"h": d_h, "c": d_h}, d_y)
    assert d_state["c"] is None
    np.testing.assert_array_equal(d_state["h"], d_y + d_h)
    np.testing.assert_allclose(d_params["b"], d_y.sum(0))


def test_a_check_passes_what_is_right_and_names_what_was_none():
    def sequence(backward):
        class Sequence(Function):
            @staticmethod
            def forward(ctx, xs, h, W, spare):
                ctx.save_for_backward(xs, W)
                return torch.cumsum(xs @ W.T, 0) + h

        Sequence.backward = staticmethod(backward)
        return from_autograd_function(
            Sequence,
            init={"W": ("n_hidden", "n_in"), "spare": (2,)},
            sequence=True,
            reference=lambda p, h, x: (h + x @ p["W"].T,) * 2,
        )

    def back(ctx, d_ys):
        xs, W = ctx.saved_tensors
        d = d_ys.flip(0).cumsum(0).flip(0)
        return d @ W, d[0], torch.einsum("tbh,tbi->hi", d, xs), None

    def forgets_w(ctx, d_ys):
        return *back(ctx, d_ys)[:2], 0.99 * back(ctx, d_ys)[2], None

    options = {"checks": ["sequence_vjp"], "strict": False, "examples": 12, "raises": False}
    report = bpttcheck.check(sequence(back), **options)
    assert report.verdict is bpttcheck.Verdict.PASSED
    assert "d_params['spare']" in str(report)
    report = bpttcheck.check(sequence(forgets_w), **options)
    assert report.verdict is bpttcheck.Verdict.FAILED
    assert {finding.block for finding in report.findings} == {"d_params['W']"}


class NotDifferentiable(Right):
    @staticmethod
    def forward(ctx, *arguments):
        y, new = Right.forward(ctx, *arguments)
        ctx.mark_non_differentiable(new)
        return y, new


class Counting(Right):
    """The state is a counter, which has no gradient in any case."""

    @staticmethod
    def forward(ctx, x, count, W, R):
        y, _ = Right.forward(ctx, x, 0 * x[:, :2], W, R)
        return y, count + 1


@pytest.mark.parametrize(
    ("F", "flows"), [(Right, True), (Absent, True), (NotDifferentiable, False), (Counting, True)]
)
def test_a_forward_run_shows_whether_the_final_state_has_a_gradient(F, flows):
    cell = adapted(F)
    assert cell.final_state_gradient is True
    params, state, x, *_ = problem(cell)
    cell.step(params, state if F is not Counting else np.zeros((4, 1), int), x)
    assert cell.final_state_gradient is flows


def test_a_final_state_without_gradient_gets_no_cotangent():
    found = gradients(adapted(NotDifferentiable))
    assert distance(found, true_gradients(no_state)) < 1e-14


def in_numpy(rng, n_in, n_hidden):
    return {key: rng.standard_normal((n_hidden, n_hidden)) for key in ("W", "R")}


@pytest.mark.parametrize("init", [{"W": (2, 3), "R": (2, "n_hidden")}, in_numpy])
def test_parameters_are_passed_in_the_order_of_init(init):
    cell = adapted(Right, init=init, initial_state=lambda params, B: np.zeros((B, 2)))
    n_in = 2 if init is in_numpy else 3
    params, state, x, d_state, d_y = problem(cell, n_in=n_in)
    turned = {key: params[key] for key in sorted(params)}
    assert list(turned) != list(params)
    new, _, cache = cell.step(turned, state, x)
    np.testing.assert_array_equal(new, cell.step(params, state, x)[0])
    np.testing.assert_allclose(new, np.tanh(x @ params["W"].T + state @ params["R"].T))
    d_params, *others = cell.step_vjp(turned, cache, d_state, d_y)
    assert list(d_params) == list(turned)
    expected, *rest = cell.step_vjp(params, cache, d_state, d_y)
    assert distance(({key: d_params[key] for key in params}, *others), (expected, *rest)) == 0


def test_a_copy_knows_the_order_of_its_own_init():
    cell = copy.deepcopy(adapted(Right))
    params, state, x, *_ = problem(cell)
    turned = {key: params[key] for key in sorted(params)}
    np.testing.assert_array_equal(cell.step(turned, state, x)[0], cell.step(params, state, x)[0])


def test_parameters_of_other_names_keep_the_order_in_which_they_are_given():
    cell = adapted(Right)
    params, state, x, *_ = problem(cell)
    new, *_ = cell.step({"first": params["W"], "second": params["R"]}, state, x)
    np.testing.assert_array_equal(new, cell.step(params, state, x)[0])


@pytest.mark.parametrize("change", [no_output, no_state, nothing])
@pytest.mark.parametrize("F", [Right, Absent])
def test_a_right_backward_gives_the_same_where_a_result_is_unused(F, change):
    assert distance(gradients(adapted(F), change), true_gradients(change)) < 1e-14


def test_a_backward_that_loses_the_state_where_the_output_is_unused_is_found():
    cell = adapted(LosesTheState)
    assert distance(gradients(cell), true_gradients()) < 1e-14
    assert distance(gradients(cell, no_state), true_gradients(no_state)) < 1e-14
    assert distance(gradients(cell, no_output), true_gradients(no_output)) > 0.1


def test_none_stands_for_zeros_where_a_result_is_unused():
    class NothingToSay(Absent):
        @staticmethod
        def backward(ctx, d_y, d_new):
            found = Absent.backward(ctx, d_y, d_new)
            return found if d_new is not None else (found[0], None, None, None)

    d_params, d_state, d_x = gradients(adapted(NothingToSay), no_state)
    assert not d_state.any()
    assert not any(gradient.any() for gradient in d_params.values())
    assert distance((d_x,), true_gradients(no_state)[2:]) < 1e-14


@pytest.mark.parametrize(
    ("change", "unused", "item"),
    [(no_state, "state takes no part", "d_state"), (no_output, "y takes no part", "d_y")],
)
def test_a_backward_that_fails_where_a_result_is_unused_is_named(change, unused, item):
    cell = adapted(NeedsBoth)
    assert distance(gradients(cell), true_gradients()) < 1e-14
    assert distance(gradients(cell, nothing), true_gradients(nothing)) == 0
    with pytest.raises(ContractError, match=f"TypeError.*d_pre = .*{unused}") as info:
        gradients(cell, change)
    assert (info.value.method, info.value.item) == ("backward", item)


def test_a_backward_that_fails_in_any_case_says_so_itself():
    class Broken(Right):
        @staticmethod
        def backward(ctx, d_y, d_new):
            raise ZeroDivisionError("by design")

    for change in (no_state, nothing):
        with pytest.raises(ZeroDivisionError, match="by design"):
            gradients(adapted(Broken), change)


class Overwrites(Right):
    @staticmethod
    def forward(ctx, x, h, W, R):
        new = torch.tanh(x @ W.T + h @ R.T)
        ctx.slope = 1 - new**2
        ctx.save_for_backward(x, h, W, R)
        return 2 * new, new

    @staticmethod
    def backward(ctx, d_y, d_new):
        x, h, W, R = ctx.saved_tensors
        d_pre = ctx.slope.mul_(2 * d_y + d_new)
        return d_pre @ W, d_pre @ R, d_pre.T @ x, d_pre.T @ h


class AddsUp(Right):
    """Its buffer of one gradient is never cleared, and is itself what it returns."""

    @staticmethod
    def forward(ctx, x, h, W, R):
        ctx.total = torch.zeros_like(R)
        return Right.forward(ctx, x, h, W, R)

    @staticmethod
    def backward(ctx, d_y, d_new):
        d_x, d_h, d_W, d_R = Right.backward(ctx, d_y, d_new)
        return d_x, d_h, d_W, ctx.total.add_(d_R)


class NoneNextTime(Overwrites):
    @staticmethod
    def backward(ctx, d_y, d_new):
        d_x, *others = Overwrites.backward(ctx, d_y, d_new)
        once, ctx.once = getattr(ctx, "once", d_x), None
        return once, *others


@pytest.mark.parametrize(
    ("F", "item"), [(Overwrites, "d_params['W']"), (AddsUp, "d_params['R']"), (NoneNextTime, "d_")]
)
def test_a_second_pass_over_the_same_graph_that_gives_another_gradient_is_found(F, item):
    with pytest.raises(ContractError, match="the second time over the same graph") as info:
        gradients(adapted(F))
    assert info.value.method == "backward"
    assert info.value.item.startswith(item)


class Releases(Right):
    """It frees its memory: a second pass ends in an error, and never in a wrong gradient."""

    @staticmethod
    def forward(ctx, *arguments):
        ctx.released = False
        return Right.forward(ctx, *arguments)

    @staticmethod
    def backward(ctx, d_y, d_new):
        if ctx.released:
            raise RuntimeError("this graph has been used")
        ctx.released = True
        return Right.backward(ctx, d_y, d_new)


class Irreproducible(Right):
    """Its sums come in another order each time."""

    generator = np.random.default_rng(0)

    @staticmethod
    def backward(ctx, d_y, d_new):
        noise = 1 + 1e-16 * Irreproducible.generator.integers(-4, 5)
        return tuple(noise * gradient for gradient in Right.backward(ctx, d_y, d_new))


def test_what_cannot_be_used_twice_or_rounds_otherwise_each_time_is_no_complaint():
    assert distance(gradients(adapted(Releases)), true_gradients()) < 1e-14
    for _ in range(20):
        assert distance(gradients(adapted(Irreproducible)), true_gradients()) < 1e-13


def test_a_backward_that_writes_to_its_cotangent_leaves_its_mark_on_the_callers_array():
    class Careless(Right):
        @staticmethod
        def backward(ctx, d_y, d_new):
            return Right.backward(ctx, d_y.mul_(0.5), d_new)

    given = []

    def kept(d_state, d_y):
        given.append(d_y)
        return d_state, d_y

    gradients(adapted(Careless), kept)
    np.testing.assert_array_equal(given[0], 0.5 * problem(adapted(Right))[4])


def row_major(tensor):
    """What code reads that takes the pointer and believes the array to be contiguous."""
    strides = torch.empty(tensor.shape).stride()
    try:
        return torch.as_strided(tensor, tensor.shape, strides)
    except RuntimeError:  # beyond the memory
        return torch.zeros_like(tensor)


class ReadsPointers(Right):
    @staticmethod
    def backward(ctx, d_y, d_new):
        return Right.backward(ctx, row_major(d_y), row_major(d_new))


def read_only(array):
    array.flags.writeable = False
    return array


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "read-only Fortran": lambda a: read_only(np.asfortranarray(a)),
    "columns": lambda a: np.concatenate([a, a + 1], 1)[:, : a.shape[1]],
    "read-only broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "broadcast": lambda a: np.lib.stride_tricks.as_strided(a, a.shape, (0, a.strides[1])),
    "of one number": lambda a: np.broadcast_to(a[0, 0], a.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
def test_cotangents_keep_their_layout_so_that_reading_pointers_is_found(layout):
    def laid_out(d_state, d_y):
        return d_state, layout(d_y)

    assert distance(gradients(adapted(ReadsPointers)), true_gradients()) < 1e-14
    assert distance(gradients(adapted(Right), laid_out), true_gradients(laid_out)) < 1e-14
    assert distance(gradients(adapted(ReadsPointers), laid_out), true_gradients(laid_out)) > 0.01


def test_what_torch_cannot_lay_out_is_copied():
    def unaligned(a):
        memory = np.zeros(a.nbytes + 1, np.uint8)
        view = memory[1:].view(a.dtype).reshape(a.shape)
        view[...] = a
        assert not view.flags.aligned
        return view

    for layout in (unaligned, lambda a: a[::-1].copy()[::-1], lambda a: a[:, ::-1].copy()[:, ::-1]):
        found = gradients(adapted(ReadsPointers), lambda d_state, d_y: (d_state, layout(d_y)))  # noqa: B023 - called at once
        assert distance(found, true_gradients()) < 1e-14


def test_a_sequence_that_differentiates_nothing_hands_the_state_through_where_it_is_empty():
    class Indices(Function):
        @staticmethod
        def forward(ctx, xs):
            return xs.float()

        @staticmethod
        def backward(ctx, d_ys):
            raise AssertionError("never called")

    layer = adapted(Indices, sequence=True, arguments=lambda params, state, xs: (xs.long(),))
    params, state0, _, d_last, d_ys = problem(layer)
    _, last, tape = layer.forward(params, np.zeros((0, 4, 2)), state0)
    d_params, d_xs, d_state0 = layer.vjp(params, tape, d_ys[None][:0], d_last)
    np.testing.assert_array_equal(last, state0)
    np.testing.assert_array_equal(d_state0, d_last)
    assert not any(gradient.any() for gradient in d_params.values())
    assert d_xs.shape == (0, 4, 2)


def test_an_init_that_returns_no_dict_is_left_to_the_check_of_the_contract():
    cell = adapted(Right, init=lambda rng, n_in, n_hidden: [n_in], initial_state=lambda p, B: p)
    assert cell.init(None, 3, 2) == [3]
