"""A backward pass that is written from a step is its gradient, says what it is, or is refused."""

import re
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import plain_cells as plain
import pytest
from click.testing import CliRunner

import bpttcheck
from bpttcheck import trees
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.cells import builtin, every_name
from bpttcheck.cli import main
from bpttcheck.cli.targets import load
from bpttcheck.errors import ContractError, Declined
from bpttcheck.oracles.step_source import backward
from bpttcheck.oracles.step_source.terms import mul, number
from bpttcheck.problems.sizes import collect
from bpttcheck.results.records import CheckResult, Verdict
from bpttcheck.results.report import Report
from bpttcheck.traits import trait

ROOT = Path(__file__).parents[2]
GALLERY = {
    "clockwork": "Clockwork", "indrnn": "IndRNN", "lru": "LRU", "lru_complex": "ComplexLRU",
    "mamba": "Mamba", "mgu": "MGU", "mingru": "MinGRU", "slstm": "SLSTM", "spiking": "Spiking",
}  # fmt: skip
NAMES = [*every_name(), *GALLERY]
HERE = Path(__file__).parent


def cell(name):
    if name in GALLERY:
        return load(f"{ROOT}/examples/gallery/{name}.py:{GALLERY[name]}").subject
    return builtin(name)


@pytest.fixture(scope="module")
def derived():
    found = {}

    def of(name):
        if name not in found:
            known = plain.CELLS.get(name)
            found[name] = bpttcheck.derive(known() if known else cell(name), examples=0)
        return found[name]

    return of


def points(subject, dtype=np.float64):
    """Parameters, state, input and cotangents at a few sizes, down to one of everything."""
    rng = np.random.default_rng(0)
    declared = trait(subject, "sizes")
    pairs = ((1, 1), (3, 4), (2, 2)) if declared is None else collect(declared, 0)[:3]

    def drawn(leaf):
        return rng.standard_normal(leaf.shape).astype(dtype) if leaf.dtype.kind == "f" else leaf

    for n_in, n_hidden in pairs:
        for rows in (1, 3):
            made = subject.init(rng, n_in, n_hidden)
            params = {key: value.astype(dtype) for key, value in made.items()}
            state = subject.initial_state(params, rows)
            x = rng.standard_normal((rows, n_in)).astype(dtype)
            state = subject.step(params, state, x)[0]
            new, y, cache = subject.step(params, state, x)
            yield (params, state, x), cache, trees.map_leaves(drawn, new), drawn(y)


def flat(gradients, params):
    d_params, d_state, d_x = gradients
    return [*(d_params[key] for key in params), *trees.leaves(d_state), d_x]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_gradient_that_was_derived_by_hand(name, derived):
    subject = cell(name)
    for (params, _, _), cache, d_state, d_y in points(subject):
        ours = flat(derived(name).cell.step_vjp(params, cache, d_state, d_y), params)
        theirs = flat(subject.step_vjp(params, cache, d_state, d_y), params)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", [*NAMES, *plain.CELLS])
def test_it_keeps_the_dtype_and_the_shapes(name, derived):
    made = derived(name).cell
    for given, cache, d_state, d_y in points(made, np.float32):
        params, state, x = given
        found = flat(made.step_vjp(params, cache, d_state, d_y), params)
        wanted = [*params.values(), *trees.leaves(state), x]
        for one, like in zip(found, wanted, strict=True):
            assert one.shape == like.shape
            assert one.dtype == like.dtype


@pytest.mark.parametrize("name", plain.CELLS)
def test_a_cell_without_a_backward_pass_gets_its_gradient(name, derived):
    subject, h = derived(name).cell, 1e-6
    rng = np.random.default_rng(1)
    for given, cache, d_state, d_y in points(subject):
        along = trees.map_leaves(
            lambda leaf: rng.standard_normal(leaf.shape) if leaf.dtype.kind == "f" else 0 * leaf,
            given,
        )  # fmt: skip
        far, near = (
            subject.step(*trees.map_leaves(lambda a, v, s=s: a + s * h * v, given, along))
            for s in (1, -1)
        )
        slope = sum(
            np.sum(d * (a - b)) / (2 * h)
            for d, a, b in zip([*trees.leaves(d_state), d_y], [*trees.leaves(far[0]), far[1]],
                               [*trees.leaves(near[0]), near[1]], strict=True)
            if a.dtype.kind == "f"
        )  # fmt: skip
        gradient = flat(subject.step_vjp(given[0], cache, d_state, d_y), given[0])
        v = [*along[0].values(), *trees.leaves(along[1]), along[2]]
        inner = sum(np.sum(a * b) for a, b in zip(gradient, v, strict=True))
        assert inner == pytest.approx(slope, rel=1e-6, abs=1e-7)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", [*NAMES, *plain.CELLS])
def test_the_checks_pass_it(name, derived):
    report = bpttcheck.check(derived(name).cell, examples=20, checks=("step_vjp", "purity"))
    assert report.passed


@pytest.mark.nightly
@pytest.mark.parametrize("name", [*NAMES, *plain.CELLS])
def test_all_checks_pass_it(name):
    known = plain.CELLS.get(name)
    assert bpttcheck.derive(known() if known else cell(name)).report.passed


def test_it_says_what_it_is_and_what_the_checks_say():
    made = bpttcheck.derive(bpttcheck.cells.Elman(), examples=20)
    assert "automatic differentiation" in made.source
    assert "no derivation by hand" in made.source
    assert "automatic differentiation" in made.latex
    assert str(made).endswith("\n# passes all 11 checks, each with 20 cases at most")
    assert made.report.verdict is bpttcheck.Verdict.PASSED


def test_without_its_checks_it_says_so(derived):
    made = derived("elman")
    assert made.conclusion == "not checked"
    assert str(made) == made.source
    undecided = CheckResult("step_vjp", Verdict.INCONCLUSIVE, 4, reason="blind")
    report = Report("Elman", (undecided,))
    assert replace(made, report=report).conclusion == "INCONCLUSIVE: step_vjp"
    none = replace(report, checks=(replace(undecided, verdict=None),))
    assert replace(made, report=none).conclusion == "INCONCLUSIVE: no check was run"


def test_a_wrong_rule_fails_the_checks_and_says_so(monkeypatch, as_found):
    monkeypatch.setitem(backward.SLOPES, "np.tanh", (lambda d, y, a: mul(d, number(2)),))
    done = CliRunner().invoke(main, ["derive", "elman", "--examples", "4"])
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1].startswith("# FAILS")
    assert "step_vjp" in done.stdout.splitlines()[-1]
    assert "d_params['U']" in done.stderr


def test_pasted_into_a_class_it_is_its_step_vjp(tmp_path, derived):
    source = textwrap.indent(derived("GatesBySlices").source, "    ")
    body = f"from plain_cells import *\nclass Pasted(GatesBySlices):\n{source}"
    (tmp_path / "pasted.py").write_text(body)
    subject = load(f"{tmp_path}/pasted.py:Pasted").subject
    for (params, _, _), cache, d_state, d_y in points(subject):
        ours = flat(derived("GatesBySlices").cell.step_vjp(params, cache, d_state, d_y), params)
        theirs = flat(subject.step_vjp(params, cache, d_state, d_y), params)
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_text_of_an_lstm(derived, snapshot):
    assert derived("lstm").source == snapshot
    assert derived("lstm").latex == snapshot


@pytest.mark.parametrize("name", [*NAMES, *plain.CELLS])
def test_latex_is_balanced_and_has_the_numbers_of_the_source(name, derived):
    latex = derived(name).latex
    bare = re.sub(r"\\[{}]", "", latex)
    depth = 0
    for char in bare:
        depth += {"{": 1, "}": -1}.get(char, 0)
        assert depth >= 0
    assert depth == 0
    assert bare.count(r"\left") == bare.count(r"\right")
    assert bare.count(r"\begin{") == bare.count(r"\end{")
    for kind in ("align", "cases"):
        assert bare.count(rf"\begin{{{kind}}}") == bare.count(rf"\end{{{kind}}}")
    tags = [int(tag) for tag in re.findall(r"\\tag\{(\d+)\}", latex)]
    assert tags == list(range(1, len(tags) + 1))
    assert set(tags) == {int(n) for n in re.findall(r"# \((\d+)\)", derived(name).source)}


@pytest.mark.parametrize("name", [*NAMES, *plain.CELLS])
def test_every_variable_is_used(name, derived):
    source = derived(name).source
    body = "\n".join(line.partition("  # ")[0] for line in source.splitlines())
    for variable in re.findall(r"^    (\w+) = ", body, re.MULTILINE):
        assert len(re.findall(rf"\b{variable}\b", body)) > 1, variable


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        (plain.ByLoops, r"other operations at other sizes.*plain_cells\.py:\d+"),
        (plain.UnknownOperation, r"np\.sort.*plain_cells\.py:\d+"),
        (plain.NothingKept, r"not in the cache.*return \(state, x\)"),
        (plain.Overwritten, r"written in place.*plain_cells\.py:\d+"),
        (plain.BranchOnValues, r"plain_cells\.py:\d+"),
        (plain.TwoThings, "return new_state, y, cache"),
        (plain.Raises, "ValueError: not yet"),
        (plain.UnnamedNumbers, "no attribute of the cell"),
        (plain.AnotherStructure, "returns a state of another structure"),
        (plain.OnlyAProductKept, "h, which the backward pass needs, is not in the cache"),
        (plain.ByParity, "other operations at other sizes"),
        (plain.Callable, "step is a Step, no function"),
    ],
)
def test_a_refusal_names_the_operation_and_the_line(subject, said):
    with pytest.raises(Declined, match=re.compile(said, re.DOTALL)):
        bpttcheck.derive(subject(), examples=0)


@pytest.mark.parametrize("given", [object(), CellLayer(builtin("elman")), 3])
def test_what_is_no_cell_is_refused(given):
    with pytest.raises(ContractError, match="expected a cell"):
        bpttcheck.derive(given)


def test_the_command_writes_for_a_file_without_a_backward_pass(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(HERE), *sys.path])
    target = f"{HERE / 'plain_cells.py'}:LayerNorm"
    done = CliRunner().invoke(main, ["derive", target, "--no-check"])
    assert done.exit_code == 0
    assert done.stdout.startswith("def step_vjp(self, p, cache, d_state, d_y):\n")
    assert "# passes" not in done.stdout
    latex = CliRunner().invoke(main, ["derive", target, "--no-check", "--latex"])
    assert r"\begin{align}" in latex.stdout


def test_the_command_refuses_with_exit_code_2():
    target = f"{HERE / 'plain_cells.py'}:UnknownOperation"
    done = CliRunner().invoke(main, ["derive", target])
    assert done.exit_code == 2
    assert "np.sort" in done.stderr
