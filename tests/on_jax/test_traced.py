"""Cells that nobody wrote a form for: their own NumPy code, traced and compiled."""

import importlib.util
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpttcheck import activations, cells
from bpttcheck.errors import ContractError
from bpttcheck.on_jax import HostCallbackWarning, layer, traced
from bpttcheck.on_jax.function import with_rule
from bpttcheck.on_jax.traced import FORMS, FastestLoops, TracedLoops, forms_of

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(path, name):
    spec = importlib.util.spec_from_file_location(f"{path.stem}_traced", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return getattr(module, name)()


OWN = {
    "leaky": lambda: load(EXAMPLES / "leaky.py", "Leaky"),
    "clockwork": lambda: load(EXAMPLES / "gallery/clockwork.py", "Clockwork"),
    "slstm": lambda: load(EXAMPLES / "gallery/slstm.py", "SLSTM"),
    "lru_complex": lambda: load(EXAMPLES / "gallery/lru_complex.py", "ComplexLRU"),
    "teacher forced": lambda: cells.Jordan(teacher_forced=True),
    "own activation": lambda: cells.Elman(
        activations.Activation("mine", np.tanh, lambda z: 1 - np.tanh(z) ** 2)
    ),
    "subclass": type("Mine", (cells.LSTM,), {}),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", OWN)
def test_gradients_are_those_of_the_code_in_numpy(kit, x64, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f = layer(OWN[name]())
    for masked in (False, True):
        problem = kit.problem(OWN[name](), masked=masked)
        kit.assert_equal(
            kit.pull_back(f, problem), kit.pull_back(layer(OWN[name](), form="host"), problem)
        )


@pytest.mark.nightly
@pytest.mark.parametrize("name", OWN)
def test_the_forms_that_a_cell_has(name):
    forms, _ = forms_of(OWN[name](), with_rule)
    assert [forms.refused(form) for form in FORMS] == [""] * len(FORMS)


def test_a_form_that_is_wrong_is_refused_and_the_next_is_taken(kit, monkeypatch):
    back = TracedLoops.backward

    def backward(self, tape, d_ys, d_state_T):
        d_params, d_xs, d_state0 = back(self, tape, d_ys, d_state_T)
        return d_params, d_xs * (1 if self.form == "in the loop" else 1.001), d_state0

    monkeypatch.setattr(TracedLoops, "backward", backward)
    cell = OWN["leaky"]()
    forms, _ = forms_of(cell, with_rule)
    found = forms.function(*kit.problem(cell, dtype=np.float32).arguments, None)
    assert found is forms.functions["in the loop"]
    assert "d_xs is not that of the code in NumPy" in forms.refused("hoisted")


def test_float32_jit_vmap_and_no_steps_without_64_bits(kit):
    cell = OWN["leaky"]()
    params, xs, state0 = kit.problem(cell, dtype=np.float32).arguments
    f = layer(cell, form="deferred")

    def loss(params, xs):
        ys, state = f(params, xs, state0)
        return jnp.sum(ys**2) + jnp.sum(state)

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    one, two = gradient(params, xs), gradient(params, 2 * xs)
    many = jax.jit(jax.vmap(jax.grad(loss, (0, 1)), (None, 0)))(params, np.stack([xs, 2 * xs]))
    for both, *apart in zip(*map(jax.tree.leaves, (many, one, two)), strict=True):
        assert both.dtype == np.float32
        np.testing.assert_allclose(both, np.stack(apart), rtol=2e-5, atol=1e-6)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient(params, xs[:0])[0]))


@pytest.mark.nightly
def test_a_counter_keeps_its_dtype_and_gets_no_gradient(kit):
    cell = OWN["clockwork"]()
    params, xs, (h, t) = kit.problem(cell, dtype=np.float32).arguments
    f = layer(cell, form="in the loop")
    (_, (_, last)), pull = jax.vjp(f, params, xs, (h, np.asarray(t, np.int32)))
    assert last.dtype == np.int32
    zeros = np.zeros(last.shape, jax.dtypes.float0)
    _, _, (_, d_t) = pull((np.ones_like(xs, shape=(len(xs), *h.shape)), (h, zeros)))
    assert d_t.dtype == jax.dtypes.float0


def products_in_loops(f, arguments):
    """The products inside the loops of both passes, by the jaxpr of the gradients."""

    def both(params, xs, state0):
        out, pull = jax.vjp(lambda *given: f(*given), params, xs, state0)
        return pull(out)

    def loops(jaxpr):
        for equation in jaxpr.eqns:
            for inner in jax.tree.leaves(list(equation.params.values())):
                if hasattr(inner, "jaxpr"):
                    yield from [inner] if equation.primitive.name == "scan" else loops(inner)

    return [str(loop).count("dot_general") for loop in loops(jax.make_jaxpr(both)(*arguments))]


@pytest.mark.parametrize(
    ("form", "forward", "backward"),
    [("in the loop", 2, 6), ("deferred", 2, 0), ("hoisted", 0, 0)],  # 2: U_z x and U_c x
)
def test_what_reads_no_state_is_in_no_loop(kit, x64, form, forward, backward):
    cell = load(EXAMPLES / "gallery/mingru.py", "MinGRU")
    arguments = kit.problem(cell).arguments
    assert products_in_loops(layer(cell, form=form), arguments) == [forward, backward]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("form", [form for form, how in FORMS.items() if how.chunk])
@pytest.mark.parametrize("name", ["leaky", "clockwork"])
def test_chunks_and_left_over_steps_give_the_gradients_of_the_whole(kit, x64, name, form):
    cell = OWN[name]()
    problem = kit.problem(cell, T=2 * FORMS[form].chunk + 3, masked=True)
    if name == "clockwork":  # a counter is carried from chunk to chunk
        assert any(leaf.dtype.kind == "i" for leaf in jax.tree.leaves(problem.arguments[2]))
    kit.assert_equal(
        kit.pull_back(layer(cell, form=form), problem),
        kit.pull_back(layer(cell, form="host"), problem),
    )


def test_a_form_that_recomputes_chunks_keeps_only_the_states_before_them(kit, x64):
    cell, form = OWN["leaky"](), "deferred, chunks recomputed"
    params, xs, state0 = kit.problem(cell, T=3 * FORMS[form].chunk).arguments
    _, _, tape = TracedLoops(cell, form).forward(params, jnp.asarray(xs), state0, None)
    assert [len(start[0]) for start in tape.starts] == [3]
    assert len(tape.stacked) == 1  # the inputs


class MeanOverTheBatch(cells.Elman):
    """Its gradient of b is a mean: over the rows of all steps it would be another."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {**d_params, "b": d_params["b"] / len(d_y)}, d_h, d_x


def test_a_cell_that_breaks_the_law_of_the_batch_is_refused_by_name():
    forms, reason = forms_of(MeanOverTheBatch(), with_rule)
    assert forms is None
    assert reason == "traced, d_params['b'] is not that of the code in NumPy"
    with pytest.raises(ContractError, match="form='deferred', expected"):
        layer(MeanOverTheBatch(), form="deferred")


class ReadsItself(cells.Elman):
    """What is traced is not what runs: the tracer's arrays are told apart."""

    def step(self, params, state, x):
        new, y, cache = super().step(params, state, x)
        return (new * 1.5, y, cache) if hasattr(x, "shadow") else (new, y, cache)


def test_code_that_is_another_when_it_is_traced_is_called_back():
    with pytest.warns(HostCallbackWarning, match="is not that of the code in NumPy"):
        layer(ReadsItself())


def test_the_fastest_form_is_measured_once_for_each_shape(kit, monkeypatch):
    cell = OWN["leaky"]()
    forms, _ = forms_of(cell, with_rule)
    asked = []
    monkeypatch.setattr(
        type(forms), "_fastest", lambda self, shapes, mode: asked.append(shapes) or "hoisted"
    )
    arguments = (*kit.problem(cell, dtype=np.float32).arguments, None)
    assert forms.function(*arguments) is forms.functions["hoisted"]
    assert forms.function(*arguments) is forms.functions["hoisted"]
    assert len(asked) == 1


def test_a_form_that_takes_far_more_memory_is_not_measured(kit, monkeypatch):
    cell = load(EXAMPLES / "leaky.py", "Leaky")
    sizes = {"in the loop": 10, "hoisted": 50}
    ran = []

    class Compiled:
        def __init__(self, loops):
            self.form = loops.form

        def lower(self, *_):
            return self

        compile = lower

        def memory_analysis(self):
            return SimpleNamespace(temp_size_in_bytes=sizes[self.form])

        def __call__(self, *_):
            ran.append(self.form)

    monkeypatch.setattr(traced.jax, "jit", lambda function: Compiled(*function.args))
    monkeypatch.setattr(traced, "_MOST_BYTES", 0)
    loops = {form: TracedLoops(cell, form) for form in sizes}
    arguments = (*kit.problem(cell, dtype=np.float32).arguments, None)
    FastestLoops(None, loops, dict(loops), reasons={"in the loop": ""}).function(*arguments)
    assert set(ran) == {"in the loop"}
