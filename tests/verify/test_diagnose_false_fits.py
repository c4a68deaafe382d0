"""No diagnosis fits what it does not describe: garbage, and cases that another trait explains."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from planted_bugs import Coupled, Loop, Tanh

from bpttcheck.diagnose import CODES, paths, rule
from bpttcheck.diagnose.base import Evidence, FailingExample
from bpttcheck.diagnose.evidence import explain
from bpttcheck.diagnose.whole import EditSearch
from bpttcheck.judge.run import SEQUENCE, STEP, Run
from bpttcheck.judge.tally import Seen
from bpttcheck.results.records import Case
from bpttcheck.subject.subject import Subject

HOW = {
    "off by shares": lambda right, u: right * (1 + u),
    "off by amounts": lambda right, u: right + np.abs(right).max(initial=0) * u,
    "anything": lambda right, u: np.abs(right).max(initial=0) * u,
    "sorted": lambda right, u: np.sort(right.reshape(-1)).reshape(right.shape),
}


class Garbled:
    """A right subject whose backward pass is spoilt, block by block, in a way of its own."""

    def __init__(self, right, how, size, seed):
        self._right, self._how, self._size, self._seed = right, HOW[how], size, seed

    def __getattr__(self, name):
        return getattr(self._right, name)

    def spoilt(self, tree, number=0):
        if isinstance(tree, dict):
            return {k: self.spoilt(v, i) for i, (k, v) in enumerate(tree.items())}
        if isinstance(tree, tuple):
            return tuple(self.spoilt(v, 10 + i) for i, v in enumerate(tree))
        rng = np.random.default_rng([self._seed, number, *tree.shape])
        return self._how(tree, self._size * rng.standard_normal(tree.shape)).astype(tree.dtype)


class GarbledCell(Garbled):
    def step(self, *args):
        return self._right.step(*args)

    def step_vjp(self, *args):
        d_params, d_state, d_x = self._right.step_vjp(*args)
        return self.spoilt(d_params), self.spoilt(d_state, 20), self.spoilt(d_x, 30)


class GarbledLayer(Garbled):
    def vjp(self, *args):
        d_params, d_xs, d_state = self._right.vjp(*args)
        return self.spoilt(d_params), self.spoilt(d_xs, 30), self.spoilt(d_state, 20)


SUBJECTS = {"a cell": (Tanh(), STEP), "gates": (Coupled(), STEP), "a layer": (Loop(), SEQUENCE)}


@pytest.fixture(scope="module")
def runs():
    bases = {right: Run(Subject(right()), 0, ("float64", "float32")) for right in (Tanh, Coupled)}
    return {"a cell": bases[Tanh], "gates": bases[Coupled], "a layer": bases[Coupled]}


def evidence(base, target, mode, dtype):
    """What would be known of each block, if it and all others were wrong in every case."""
    run = base.fork(Subject(target, reference=base.subject.target))
    examples = []
    for template, T in ((run.cases.templates[2], 6), (run.cases.templates[1], 4)):
        steps = 1 if mode == STEP else T
        case = Case(0, -1, steps, 3, template.n_in, template.n_hidden, dtype, "none", "ordinary")
        problem = run.cases.problem(case)
        hand, reference = run.code.run(mode, problem), run.jax.gradient(mode, problem, template)
        wrong = tuple(reference.gradients)
        examples.append(FailingExample(run, mode, problem, template, hand, reference, wrong))
    seen = [Seen(run.cases.case(i), wrong, wrong) for i in range(20)]
    return [Evidence(run, "check", mode, block, examples, seen) for block in wrong]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", SUBJECTS)
@given(
    how=st.sampled_from(list(HOW)),
    size=st.sampled_from([1.0, 0.1, 1e-3]),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float64", "float32"]),
)
@example(how="anything", size=1.0, seed=0, dtype="float64")
@settings(max_examples=3)
def test_garbage_gets_no_diagnosis(name, runs, how, size, seed, dtype):
    right, mode = SUBJECTS[name]
    kind = GarbledCell if mode == STEP else GarbledLayer
    search = EditSearch()
    for known in evidence(runs[name], kind(right, how, size, seed), mode, dtype):
        assert search.best(known) is None
        assert {code: rule(code).fit(known) for code in CODES} == dict.fromkeys(CODES)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", SUBJECTS)
def test_a_right_gradient_is_not_explained(name, runs):
    right, mode = SUBJECTS[name]
    for known in evidence(runs[name], right, mode, "float64"):
        failing = [(s.problem, s.template) for s in known.examples]
        assert explain(known.run, "check", mode, known.block, known.seen, failing) == ()


@pytest.mark.parametrize("code", CODES)
def test_without_a_problem_that_shows_the_bug_nothing_is_said(code, runs):
    run = runs["a cell"]
    for mode in (STEP, SEQUENCE):
        seen = [Seen(run.cases.case(i), ("d_params['W']",), ("d_params['W']",)) for i in range(20)]
        assert rule(code).fit(Evidence(run, "check", mode, "d_params['W']", [], seen)) is None


def test_a_single_number_is_not_called_a_multiple_of_another(runs):
    run = runs["a cell"].fork(Subject(GarbledCell(Tanh(), "anything", 1.0, 3)))
    problem = run.cases.problem(Case(0, -1, 1, 2, 1, 1, "float64", "none", "ordinary"))
    hand, reference = (
        run.code.run(STEP, problem),
        run.jax.gradient(STEP, problem, run.cases.templates[0]),
    )
    example = FailingExample(
        run, STEP, problem, run.cases.templates[0], hand, reference, ("d_params['W']",)
    )
    alone = Evidence(run, "check", STEP, "d_params['W']", [example], [])
    assert rule("scale").fit(alone) is None


def test_rounding_noise_in_the_place_of_a_gradient_is_called_zero_not_a_multiple(runs):
    noise = GarbledCell(Tanh(), "anything", 1e-9, 4)
    for known in evidence(runs["a cell"], noise, STEP, "float32"):
        assert rule("scale").fit(known) is None
        assert "is zero" in rule("missing-path").fit(known).sentence


def case(**fields):
    values = {"T": 3, "B": 2, "n_in": 2, "n_hidden": 3, "mask": "none", "regime": "ordinary"}
    return Case(seed=0, index=0, dtype="float64", **{**values, **fields})


def told(code, wrong, right, block="d_params['W']", kind="layer", examples=()):
    """What a diagnosis says that looks at the cases alone."""
    seen = [Seen(one, (block,), (block,)) for one in wrong]
    seen += [Seen(one, (), (block,)) for one in right]
    run = SimpleNamespace(subject=SimpleNamespace(kind=kind))
    found = rule(code).fit(Evidence(run, "check", SEQUENCE, block, examples, seen))
    return found and found.sentence


LARGEST = ", the largest that was judged"
SQUARE, WIDE = {"n_in": 3, "n_hidden": 3}, {"n_in": 2, "n_hidden": 5}


@pytest.mark.parametrize(
    ("wrong", "right", "says"),
    [
        ([SQUARE, {"n_in": 4, "n_hidden": 4}], [WIDE] * 5, "n_in == n_hidden"),
        ([SQUARE] * 2, [WIDE, *[{"n_in": 1, "n_hidden": 1}] * 4], "n_in == n_hidden > 1"),
        ([WIDE, {"n_in": 3, "n_hidden": 5}], [{}] * 5, f"n_hidden = 5{LARGEST}"),
        ([{"B": 4}, {"B": 4, **WIDE}], [{}, WIDE] * 3, f"B = 4{LARGEST}"),
        ([{"B": 4}, {"B": 4, **WIDE}], [{"B": 5}, WIDE] * 3, "B = 4"),
        ([{"T": 1, "B": 1}, {"T": 1, **WIDE}], [{}, WIDE] * 3, "T = 1"),
    ],
)
def test_the_size_that_tells_wrong_cases_from_right_ones_is_named(wrong, right, says):
    sentence = told("one-size", [case(**c) for c in wrong], [case(**c) for c in right])
    assert sentence is not None
    assert sentence.endswith(f"is wrong only where {says}")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ([SQUARE], [WIDE] * 5),  # one wrong case has every trait
        ([SQUARE] * 2, [WIDE] * 4),  # too few right ones
        ([WIDE] * 3, [{}] * 5 + [WIDE]),  # a right case of the same size
        ([{**WIDE, "regime": "long", "T": 70}] * 3, [{}] * 9),  # the length explains as much
    ],
)
def test_a_size_that_does_not_tell_them_apart_is_not_named(wrong, right):
    assert told("one-size", [case(**c) for c in wrong], [case(**c) for c in right]) is None


def test_sizes_of_functions_are_named_by_their_letters():
    wrong, right = ([case(letters=(("N", n), ("V", v))) for v in range(3)] for n in (5, 4))
    sentence = told("one-size", wrong, [*right, *right])
    assert sentence.endswith(f"only where N = 5{LARGEST}")


sizes = st.fixed_dictionaries({name: st.integers(1, 4) for name in ("T", "B", "n_in", "n_hidden")})


@given(pairs=st.lists(st.tuples(sizes, st.booleans()), min_size=8, max_size=30))
def test_whatever_size_is_named_holds_of_every_wrong_case_and_of_no_right_one(pairs):
    wrong = [case(**c) for c, bad in pairs if bad]
    right = [case(**c) for c, bad in pairs if not bad]
    sentence = told("one-size", wrong, right)
    if sentence is None:
        return
    trait = sentence.rpartition("where ")[2].removesuffix(LARGEST).replace(" = ", " == ")
    if trait.startswith("n_in and n_hidden"):
        trait = trait.replace("n_in and n_hidden", "(n_in, n_hidden)")
    assert all(eval(trait, {}, vars(c)) for c in wrong)
    assert not any(eval(trait, {}, vars(c)) for c in right)


MASKED, PLAIN = case(mask="holes"), case()


@pytest.mark.parametrize(
    ("wrong", "right", "fits"),
    [
        ([MASKED] * 3, [PLAIN] * 7, True),
        ([MASKED], [PLAIN] * 3, False),  # by chance in one of four
        ([MASKED, PLAIN], [PLAIN] * 3, False),
        ([MASKED], [MASKED] * 5 + [PLAIN] * 2, False),
        ([], [PLAIN] * 9, False),
    ],
)
def test_the_mask_is_blamed_only_where_it_tells_wrong_from_right(wrong, right, fits):
    assert bool(told("mask-ignored", wrong, right)) is fits


LARGE, KINK = case(regime="saturated"), case(regime="at_kinks")


@pytest.mark.parametrize(
    ("wrong", "right", "fits"),
    [
        ([LARGE], [PLAIN] * 3, True),
        ([LARGE, KINK], [PLAIN] * 3, True),
        ([KINK, KINK], [PLAIN] * 9, False),
        ([LARGE, PLAIN], [PLAIN] * 9, False),
        ([LARGE], [LARGE] * 9, False),
    ],
)
def test_saturation_is_blamed_only_where_it_tells_wrong_from_right(wrong, right, fits):
    assert bool(told("saturated", wrong, right)) is fits


def test_the_initial_state_is_not_blamed_where_anything_else_is_wrong(runs):
    base = runs["a layer"]
    known = next(e for e in evidence(base, Loop(), SEQUENCE, "float64") if "state0" in e.block)
    only = [Seen(PLAIN, (known.block,), (known.block,))]
    both = [Seen(PLAIN, (known.block, "d_params['W']"), (known.block,))]
    blames = rule("initial-state").fit
    assert blames(replace(known, seen=only)) is not None
    assert blames(replace(known, seen=[*only, *both])) is None
    assert blames(replace(known, seen=only, examples=[])) is None


@pytest.mark.parametrize(
    ("formula", "line", "says"),
    [
        ("1 - h", "c = np.tanh(a)", "1 - c"),
        ("z * (1 - z)", "g = sigmoid(x @ W + b)", "(x @ W + b) * (1 - (x @ W + b))"),
        (
            "that of tanh at h, not at its argument z",
            "h = f(z)",
            "that of tanh at h, not at its argument z",
        ),
        (
            "u * (1 - h), u from a.py:3: z = h @ W",
            "c = np.tanh(a)",
            "u * (1 - c), u from a.py:3: z = h @ W",
        ),
        ("1 - h", "h, c = np.tanh(a), 2", "1 - h (h its value, z its argument)"),
        ("1 - h", "return np.tanh(a", "1 - h (h its value, z its argument)"),
    ],
)
def test_a_wrong_derivative_is_told_in_the_names_of_its_line(formula, line, says):
    assert paths.in_its_names(formula, f"cell.py:9: {line}") == says
