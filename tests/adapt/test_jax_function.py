"""JAX functions of any signature: their rules beside the same functions without them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bpttcheck
from bpttcheck import Verdict
from bpttcheck.adapt import from_custom_vjp, from_jax
from bpttcheck.errors import ContractError

pytestmark = pytest.mark.usefixtures("as_found")

SIGNATURE = "x: N D, h: N H, W: D H, U: H H -> new: N H, twice: N H"


def plain(x, h, W, U):
    new = jnp.tanh(x @ W + h @ U)
    return new, 2 * new


def by_hand(saved, cotangents):
    x, h, W, U, new = saved
    d_pre = (cotangents[0] + 2 * cotangents[1]) * (1 - new**2)
    return d_pre @ W.T, d_pre @ U.T, x.T @ d_pre, h.T @ d_pre


def ruled(bwd=by_hand, keep=lambda value: value):
    f = jax.custom_vjp(lambda x, h, W, U: plain(x, h, W, U))

    def fwd(x, h, W, U):
        new, twice = plain(x, h, W, U)
        return (new, twice), (x, h, W, U, keep(new))

    f.defvjp(fwd, bwd)
    return f


def transposed(saved, cotangents):
    d_x, d_h, d_W, d_U = by_hand(saved, cotangents)
    return d_x, d_h, d_W, d_U.T


def checked(subject, checks=("vjp",), **options):
    options = {"examples": 3, "dtypes": ["float64"], "raises": False, **options}
    return bpttcheck.check(subject, checks=checks, **options)


def notes(report):
    return [*report.notes, *(note for one in report.checks for note in one.notes)]


def test_a_right_rule_passes_every_check_and_jax_judges():
    subject = from_jax(ruled(), SIGNATURE, name="right")
    report = checked(subject, None, require=["jax"])
    assert report.passed, str(report)
    assert "vmap" not in " ".join(notes(report))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("wrapped", [False, True], ids=["decorated", "called inside"])
def test_a_wrong_rule_is_not_its_own_reference(wrapped):
    rule = ruled(transposed)
    subject = from_jax((lambda x, h, W, U: rule(x, h, W, U)) if wrapped else rule, SIGNATURE)
    report = checked(subject, require=["jax"])
    assert report.verdict is Verdict.FAILED
    assert report.findings[0].block == "d_U"


def told_zeros(save_x):
    """A rule with symbolic zeros, which saves x where ``save_x`` of the primals says so."""

    def fwd(x, h, W, U):
        kept = x.value if save_x(x, W) else jnp.zeros_like(x.value)
        new, twice = plain(x.value, h.value, W.value, U.value)
        return (new, twice), (kept, h.value, W.value, U.value, new)

    def bwd(saved, cotangents):
        filled = [
            jnp.zeros(c.shape, c.dtype) if isinstance(c, jax.custom_derivatives.SymbolicZero) else c
            for c in cotangents
        ]
        return by_hand(saved, filled)

    f = jax.custom_vjp(plain)
    f.defvjp(fwd, bwd, symbolic_zeros=True)
    return f


def test_a_rule_that_is_told_what_is_perturbed_is_asked_for_each_input_alone():
    right = told_zeros(lambda x, W: x.perturbed or W.perturbed)
    assert checked(from_jax(right, SIGNATURE)).passed
    wrong = checked(from_jax(told_zeros(lambda x, W: x.perturbed), SIGNATURE))
    assert wrong.verdict is Verdict.FAILED
    assert "where only the input of d_params['W'] is differentiated" in wrong.findings[0].message


def test_a_rule_that_takes_a_symbolic_zero_for_an_array_is_named():
    def bwd(saved, cotangents):
        return by_hand(saved, [c + 0.0 for c in cotangents])

    f = jax.custom_vjp(plain)

    def fwd(*primals):
        values = [primal.value for primal in primals]
        results = plain(*values)
        return results, (*values, results[0])

    f.defvjp(fwd, bwd, symbolic_zeros=True)
    report = checked(from_jax(f, SIGNATURE))
    assert report.verdict is Verdict.FAILED
    assert "summed over losses of one result each" in report.findings[0].message


def summed_on_the_host(d_pre, method):
    """The sum over rows, outside of JAX: ``method`` says what it is given under ``vmap``."""
    shape = jax.ShapeDtypeStruct(d_pre.shape[1:], d_pre.dtype)
    return jax.pure_callback(lambda d: np.asarray(d).sum(0), shape, d_pre, vmap_method=method)


def with_bias(method, rows="N"):
    f = jax.custom_vjp(lambda x, b: jnp.sin(x) + b)

    def bwd(x, d):
        return d * jnp.cos(x), summed_on_the_host(d, method)

    f.defvjp(lambda x, b: (jnp.sin(x) + b, x), bwd)
    return from_jax(f, f"x: {rows} H, b: H -> y: {rows} H")


def test_a_rule_under_vmap_gives_the_gradients_of_the_rows():
    assert checked(with_bias("sequential")).passed
    report = checked(with_bias("broadcast_all", rows="2"))  # as many as under vmap
    assert report.verdict is Verdict.FAILED
    assert "gives another d_params['b'] under vmap over cotangents" in report.findings[0].message


@pytest.mark.parametrize(
    ("method", "rows"), [(None, "N"), ("broadcast_all", "3")], ids=["traced", "run"]
)
def test_a_rule_that_raises_under_vmap_is_noted(method, rows):
    report = checked(with_bias(method, rows))
    assert report.passed, str(report)
    assert any("not judged under vmap(grad)" in note for note in notes(report))


def test_what_a_rule_of_a_cell_closes_over_is_named():
    scale = np.full(2, 2.0)
    step = jax.custom_vjp(lambda params, s, x: (x * params["a"] * scale, s * params["a"]))

    def bwd(saved, cotangents):
        (a, s, x), (d_new, d_y) = saved, cotangents
        return {"a": (d_new * x * scale + d_y * s).sum(0)}, d_y * a, d_new * a * scale

    step.defvjp(lambda p, s, x: (step(p, s, x), (p["a"], s, x)), bwd)
    cell = from_custom_vjp(step, init={"a": ("n_hidden",)})
    report = bpttcheck.check(
        cell, sizes=[(2, 2)], examples=3, dtypes=["float64"], checks=["step_vjp"], raises=False
    )
    assert report.passed, str(report)
    assert any("held constant" in note and "scale float64[2]" in note for note in notes(report))


def test_rules_of_cells_are_asked_under_vmap_too():
    def primal(params, state, x):
        new = jnp.sin(x) + params["b"] + 0 * state
        return new, new

    def bwd(saved, cotangents):
        d = cotangents[0] + cotangents[1]
        return {"b": summed_on_the_host(d, "broadcast_all")}, 0 * d, d * jnp.cos(saved)

    step = jax.custom_vjp(primal)
    step.defvjp(lambda p, s, x: (primal(p, s, x), x), bwd)
    cell = from_custom_vjp(step, init={"b": ("n_hidden",)})
    params = {"b": np.ones(3)}
    *_, cache = cell.step(params, np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(ContractError, match=r"another d_params\['b'\] under vmap"):
        cell.step_vjp(params, cache, np.ones((2, 3)), np.ones((2, 3)))


def made_inside(hoist):
    """A rule of a function that is made inside another, and reads an input of that one."""

    def outer(x, W):
        def inner(x, *consts):
            return jnp.tanh(converted(x, *consts)) if hoist else jnp.tanh(x @ W)

        converted, consts = jax.closure_convert(lambda x: x @ W, x) if hoist else (None, ())
        f = jax.custom_vjp(inner)

        def fwd(x, *consts):
            return inner(x, *consts), (x, consts)

        def bwd(saved, d):
            x, consts = saved
            pre, pull = jax.vjp(lambda *a: converted(*a) if hoist else a[0] @ W, x, *consts)
            return pull(d * (1 - jnp.tanh(pre) ** 2) * (hoist or 1))

        f.defvjp(fwd, bwd)
        return f(x, *consts)

    return from_jax(outer, "x: N D, W: D H -> y: N H")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_values_that_were_hoisted_are_judged(factor):
    report = checked(made_inside(factor))
    assert report.passed == (factor == 1.0), str(report)


def test_a_value_that_is_closed_over_and_depends_on_an_input_is_explained():
    report = checked(made_inside(None))
    assert report.verdict is Verdict.FAILED
    assert "hoist it with jax.closure_convert" in report.findings[0].message


@pytest.mark.parametrize("array", [np.array, jnp.array])
def test_what_is_closed_over_is_named(array):
    scale = array([1.0, 2.0, 3.0], dtype=np.float32)
    f = jax.custom_vjp(lambda x: jnp.sin(x) * scale)
    f.defvjp(lambda x: (jnp.sin(x) * scale, x), lambda x, d: (d * jnp.cos(x) * scale,))
    report = checked(from_jax(f, "x: N 3 -> y: N 3"))
    assert report.passed
    assert any("held constant" in note and "scale float32[3]" in note for note in notes(report))


def forward_ruled(slope):
    @jax.custom_jvp
    def squash(z, gain):
        return jnp.tanh(z) * gain

    @squash.defjvp
    def rule(primals, tangents):
        (z, gain), (v_z, v_gain) = primals, tangents
        y = jnp.tanh(z)
        return y * gain, slope(y) * v_z * gain + y * v_gain

    return squash


def test_a_rule_of_forward_mode_is_judged_transposed_and_by_its_tangents():
    text = "z: N H, gain: H -> y: N H"
    right = checked(from_jax(forward_ruled(lambda y: 1 - y**2), text), None)
    assert right.passed, str(right)
    assert [c.name for c in right.checks if c.name == "jvp"]
    wrong = checked(from_jax(forward_ruled(lambda y: 1 - y), text), ["vjp"], require=["jax"])
    assert wrong.verdict is Verdict.FAILED
    assert wrong.findings[0].block == "d_z"


def test_tangents_that_are_not_those_of_the_transposed_rule_are_found(monkeypatch):
    subject = from_jax(forward_ruled(lambda y: 1 - y**2), "z: N H, gain: H -> y: N H")
    own = type(subject)._tangents
    monkeypatch.setattr(
        type(subject), "_tangents", lambda self, *a: (own(self, *a)[0] * 1.5, ())
    )  # fmt: skip
    report = checked(subject, ["jvp"])
    assert report.verdict is Verdict.FAILED


def test_a_rule_of_forward_mode_that_mistreats_a_symbolic_zero_is_found():
    def squash_with(tangent):
        f = jax.custom_jvp(lambda z, gain: jnp.sin(z) * gain)

        def rule(primals, tangents):
            (z, gain), (v_z, v_gain) = primals, tangents
            zero = [isinstance(v, jax.custom_derivatives.SymbolicZero) for v in tangents]
            v_z = jnp.zeros_like(z) if zero[0] else v_z
            v_gain = jnp.zeros_like(gain) if zero[1] else v_gain
            return jnp.sin(z) * gain, tangent(z, gain, v_z, v_gain, zero)

        f.defjvp(rule, symbolic_zeros=True)
        return from_jax(f, "z: N H, gain: H -> y: N H")

    right = squash_with(lambda z, g, v_z, v_g, zero: jnp.cos(z) * v_z * g + jnp.sin(z) * v_g)
    assert checked(right).passed
    wrong = squash_with(
        lambda z, g, v_z, v_g, zero: jnp.cos(z) * v_z * (1 if zero[1] else g) + jnp.sin(z) * v_g
    )
    report = checked(wrong)
    assert report.verdict is Verdict.FAILED
    assert "where only the input of d_params['z'] is differentiated" in report.findings[0].message


def test_a_failure_is_stored_and_replayed_without_a_script(tmp_path):
    subject = from_jax(ruled(transposed), SIGNATURE)
    report = checked(subject)
    (stored,) = bpttcheck.replay.store(report, tmp_path, subject=subject)
    assert not list(tmp_path.glob("*.py"))
    assert not bpttcheck.replay.rerun(stored, subject).passed
    assert bpttcheck.replay.rerun(stored, from_jax(ruled(), SIGNATURE)).passed


def repeated(slope):
    """A rule of forward mode with a loop that JAX cannot run backward."""
    f = jax.custom_jvp(lambda z, gain: jnp.sin(z) * gain)

    @f.defjvp
    def rule(primals, tangents):
        (z, gain), (v_z, v_gain) = primals, tangents
        v = jax.lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, slope(z, c[1])), (0, v_z))[
            1
        ]
        return jnp.sin(z) * gain, v * gain + jnp.sin(z) * v_gain

    return from_jax(f, "z: N H, gain: H -> y: N H")


@pytest.mark.nightly
def test_a_rule_that_cannot_be_transposed_is_judged_in_forward_mode():
    report = checked(repeated(lambda z, v: v * jnp.cos(z)), ["vjp", "jvp"], require=["jax"])
    assert report.passed, str(report)
    assert any("judged in forward mode alone" in note for note in notes(report))
    for wrong in (lambda z, v: v * jnp.sin(z), lambda z, v: v**2 * jnp.cos(z)):
        report = checked(repeated(wrong))
        assert [finding.block for finding in report.findings] == ["d_z"]


def test_functions_of_jax_itself_with_a_rule_are_no_rule_to_test():
    report = checked(from_jax(lambda x: jax.nn.relu(x), "x: N H -> y: N H"))
    assert report.verdict is Verdict.FAILED
    assert "no hand-derived rule would be tested" in report.findings[0].message.replace("-\n", "")


def test_structures_constants_and_integers_are_handed_on():
    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def step(power, tokens, weights):
        return {"y": weights["E"][tokens] ** power}

    def bwd(power, saved, cotangents):
        tokens, E = saved
        d = cotangents["y"] * power * E[tokens] ** (power - 1)
        return np.zeros(tokens.shape, jax.dtypes.float0), {"E": jnp.zeros_like(E).at[tokens].add(d)}

    step.defvjp(lambda p, t, w: (step(p, t, w), (t, w["E"])), bwd)
    text = "tokens: N < V, weights: {E: V H} -> y: N H"
    report = checked(from_jax(functools.partial(step, 3), text), require=["jax"])
    assert report.passed, str(report)
    report = checked(from_jax(step, f"power = 3, {text}"), require=["jax"])
    assert report.passed, str(report)
    with pytest.raises(ContractError, match="in the signature, under its name: 'power = True'"):
        from_jax(step, f"p = 3, {text}")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"function": 3}, "function=3"),
        ({"primal": 3}, "primal=3"),
        ({"signature": "x: N D"}, "names no outputs"),
        ({"order": 3}, "order=3"),
        ({"function": jax.custom_vjp(plain)}, "has no rule yet"),
    ],
)
def test_wrong_arguments_are_refused(given, says):
    with pytest.raises(ContractError, match=says):
        from_jax(**{"function": ruled(), "signature": SIGNATURE, **given})


def test_from_custom_vjp_sends_rules_of_forward_mode_here():
    with pytest.raises(ContractError, match="from_jax checks both"):
        from_custom_vjp(forward_ruled(lambda y: y), init={"a": ("n_hidden",)})


SMALL = "x: N D, W: D H -> y: N H"


def in_jax(x, W):
    return jnp.tanh(x @ W)


def small(keep=lambda value: value):
    f = jax.custom_vjp(lambda x, W: in_jax(x, W))

    def bwd(saved, d):
        x, W, y = saved
        d_pre = d * (1 - y**2)
        return d_pre @ W.T, x.T @ d_pre

    f.defvjp(lambda x, W: (in_jax(x, W), (x, W, keep(in_jax(x, W)))), bwd)
    return f


@pytest.mark.nightly
def test_the_gradient_of_a_gradient_is_judged():
    subject = from_jax(small(), SMALL, order=2)
    assert str(subject.signature) == "x: N D, W: D H, d_y: N H -> grad_x: N D, grad_W: D H"
    report = checked(subject, require=["jax"], examples=2)
    assert report.passed, str(report)


def test_a_right_gradient_with_a_wrong_derivative_is_found():
    lost = small(jax.lax.stop_gradient)  # what it saves is no function of x and W
    assert checked(from_jax(lost, SMALL), examples=2).passed
    report = checked(from_jax(lost, SMALL, order=2), require=["jax"], examples=2)
    assert report.verdict is Verdict.FAILED
    assert report.findings[0].block in ("d_x", "d_W")


@pytest.mark.nightly
def test_a_rule_is_not_the_reference_of_its_own_derivative():
    rule = small()
    outer = lambda x, W: rule(x, W)  # noqa: E731
    report = checked(from_jax(outer, SMALL, order=2), examples=2)
    assert report.passed, str(report)
    assert "jax" not in report.checks[0].oracles
    assert any("would be compared with itself" in note for note in notes(report)), notes(report)
    assert checked(from_jax(outer, SMALL, in_jax, order=2), require=["jax"], examples=2).passed


def test_the_second_order_of_code_without_a_rule_is_no_test():
    report = checked(from_jax(in_jax, SMALL, order=2), examples=1)
    assert "no hand-derived gradient would be tested" in report.findings[0].message
