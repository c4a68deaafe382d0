"""A failed subject, the edit of its own source that mends it, and what is proved of that."""

from __future__ import annotations

import ast
import importlib.util
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import bpttcheck
from bpttcheck.adapt import from_grad, from_vjp
from bpttcheck.cli import main
from bpttcheck.judge.run import Run
from bpttcheck.mutants import catalogue
from bpttcheck.remedy import remedies, with_remedies
from bpttcheck.remedy.backward import BackwardSource
from bpttcheck.remedy.patch import diff, patched, size
from bpttcheck.remedy.proved import unsearchable
from bpttcheck.remedy.search import search
from bpttcheck.remedy.trials import trials
from bpttcheck.results.page import section

CELL = '''
"""A leaky cell with a gate."""
import numpy as np


class Gated:
    """h' = g tanh(a) + 0.7 h, with both from one product."""

    def init(self, rng, n_in, n_hidden):
        return {
            "U": rng.standard_normal((2 * n_hidden, n_in)),
            "W": rng.standard_normal((2 * n_hidden, n_hidden)),
            "b": rng.standard_normal(2 * n_hidden),
        }

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, params["W"].shape[1]), params["W"].dtype)

    def step(self, params, state, x):
        z = x @ params["U"].T + state @ params["W"].T + params["b"]
        a, b = np.split(z, 2, axis=-1)
        c, g = np.tanh(a), 1 / (1 + np.exp(-b))
        new = g * c + 0.7 * state
        return new, new, (x, state, c, g)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, c, g = cache
        d_new = d_state + d_y  # both paths
        d_a = d_new * g * (1 - c**2)
        d_b = d_new * c * g * (1 - g)
        d_z = np.concatenate([d_a, d_b], axis=-1)
        d_params = {"U": d_z.T @ x, "W": d_z.T @ h, "b": d_z.sum(axis=0)}
        d_h = d_z @ params["W"] + 0.7 * d_new
        return d_params, d_h, d_z @ params["U"]
'''

LAYER = """
import numpy as np
from bpttcheck.cells import Elman


class Layer:
    reference = Elman()

    def init(self, rng, n_in, n_hidden):
        return self.reference.init(rng, n_in, n_hidden)

    def initial_state(self, params, batch_size):
        return self.reference.initial_state(params, batch_size)

    def forward(self, params, xs, state0):
        hs = [state0]
        for x in xs:
            hs.append(np.tanh(x @ params["U"].T + hs[-1] @ params["W"].T + params["b"]))
        hs = np.stack(hs)
        return hs[1:], hs[-1], (xs, hs)

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, hs = tape
        d_params = {k: np.zeros_like(v) for k, v in params.items()}
        d_xs = np.zeros_like(xs)
        d_h = d_state_T
        for t in reversed(range(len(xs))):
            d_h = d_h + d_ys[t]
            d_a = d_h * (1 - hs[t + 1] ** 2)
            d_params["U"] += d_a.T @ xs[t]
            d_params["W"] += d_a.T @ hs[t]
            d_params["b"] += d_a.sum(axis=0)
            d_xs[t] = d_a @ params["U"]
            d_h = d_a @ params["W"]
        return d_params, d_xs, d_h
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """``module(text, (right, wrong), ...)``: a module of this text with one thing changed."""
    monkeypatch.chdir(tmp_path)

    def make(text, *changes):
        for right, wrong in changes:
            assert text.count(right) == 1
            text = text.replace(right, wrong)
        name = f"planted_{len(list(tmp_path.iterdir()))}"
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        found = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, found)
        spec.loader.exec_module(found)
        return found

    return make


def mended(target, seconds=60):
    """The text of the file by the first edit that passes the trials, or None."""
    run = Run(bpttcheck.Subject(target), 0, ("float64", "float32"))
    source = BackwardSource.of(target)
    tried = trials(run, source, [])
    if not tried:
        return None
    found = search(source, tried, time.monotonic() + seconds)
    return found[0].source.text if found else None


CHANGES = [
    ("d_new = d_state + d_y", "d_new = d_state - d_y"),
    ("d_new = d_state + d_y", "d_new = d_y"),
    ("d_a = d_new * g * (1 - c**2)", "d_a = d_new * (1 - c**2)"),
    ("d_a = d_new * g * (1 - c**2)", "d_a = d_new * g * (1 - c)"),
    ("d_a = d_new * g * (1 - c**2)", "d_a = d_new * g"),
    ("d_new * c * g * (1 - g)", "d_new * c * (1 - g**2)"),
    ("d_new * c * g * (1 - g)", "c * g * (1 - g)"),
    ("[d_a, d_b]", "[d_b, d_a]"),
    ("d_z.sum(axis=0)", "d_z.mean(axis=0)"),
    ("d_z.T @ h", "d_z.T @ c"),
    ("d_z.T @ x", "x.T @ d_z"),
    (" + 0.7 * d_new", ""),
    ("0.7 * d_new", "0.3 * d_new"),
    ("x, h, c, g = cache", "x, h, g, c = cache"),
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("change", CHANGES, ids=" to ".join)
def test_a_planted_bug_is_undone_in_its_own_line(module, change):
    text = mended(module(CELL, change).Gated())
    assert text is not None
    before, after = CELL.replace(*change).splitlines(), text.splitlines()
    changed = [k for k, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert len(changed) == 1
    assert after[changed[0]].count("#") == before[changed[0]].count("#")


@pytest.mark.parametrize(
    "changes",
    [
        [("d_z.sum(axis=0)", "d_z.mean(axis=0)"), ("= d_state + d_y", "= d_state - d_y")],
        [("d_z.T @ h", "d_z.T @ c"), (" + 0.7 * d_new", "")],
    ],
    ids=["a reduction and a sign", "an operand and a path"],
)  # fmt: skip
def test_two_independent_bugs_are_undone_together(module, changes):
    assert mended(module(CELL, *changes).Gated()) is not None


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "change",
    [
        ("d_h = d_h + d_ys[t]", "d_h = d_h + d_ys[t - 1]"),
        ('d_params["W"] += d_a', 'd_params["W"] = d_a'),
        ("d_a.T @ hs[t]", "d_a.T @ hs[t + 1]"),
        ("d_a.sum(axis=0)", "d_h.sum(axis=0)"),
        ('            d_h = d_a @ params["W"]\n', ""),
        ('            d_params["b"] += d_a.sum(axis=0)\n', ""),
    ],
    ids=lambda change: change[0].strip(),
)
def test_a_loop_over_time_is_mended(module, change):
    text = mended(module(LAYER, change).Layer())
    assert text is not None
    plain = [line.replace("'", '"').strip() for line in text.splitlines()]
    assert sorted(plain) == sorted(line.strip() for line in LAYER.splitlines())


def test_a_remedy_is_proved_by_all_checks_and_stands_in_the_report(module):
    cell = module(CELL, ("d_z.sum(axis=0)", "d_z.mean(axis=0)")).Gated()
    report = bpttcheck.check(cell, raises=False, examples=8, checks=["step_vjp"])
    found = remedies(cell, report)
    assert len(found) == 1
    assert '-        d_params = {"U": d_z.T @ x' in found[0].diff
    assert found[0].sentence.startswith("with this edit all ")
    assert found[0].patched.count("d_z.sum(axis=0)") == 1
    told = with_remedies(report, found)
    assert all(finding.remedy is found[0] for finding in told.findings)
    assert told.to_dict()["findings"][0]["remedy"]["diff"] == found[0].diff
    assert "patched" not in told.to_dict()["findings"][0]["remedy"]
    assert f"remedy: {found[0].sentence}"[:60] in str(told)
    assert "d_z.sum" in section(told)


@pytest.mark.nightly
def test_the_same_edit_with_a_factor_of_one_is_no_other_edit(module):
    cell = module(CELL, ('d_z @ params["W"] + 0.7 * d_new', 'd_z @ params["W"]')).Gated()
    report = bpttcheck.check(cell, raises=False, examples=8, checks=["step_vjp"])
    (found,) = remedies(cell, report)
    mine = next(line[1:].strip() for line in found.diff.splitlines() if line.startswith("+  "))
    assert found.others
    assert [other for other in found.others if mine in other] == []


@pytest.mark.parametrize(("old", "new", "now"), [
    ("d_new = d_state + d_y", "d_state += d_y; d_new = d_state", "d_state = d_state + d_y; d_new"),
    ("d_new = d_state + d_y", "d_new = d_state; d_new += d_y", "d_new = d_new + d_y"),
])  # fmt: skip
def test_an_argument_that_is_written_to_is_left_alone_then(module, old, new, now):
    cell = module(CELL, (old, new)).Gated()
    options = {"raises": False, "examples": 4, "checks": ["purity", "step_vjp"]}
    report = bpttcheck.check(cell, **options)
    said = [one.code for f in report.findings for one in f.diagnoses]
    assert set(said) == {"impure"}
    (found,) = remedies(cell, report)
    assert now in found.patched


def test_an_edit_that_a_check_rejects_is_not_given(module, monkeypatch):
    cell = module(CELL, ("d_z.sum(axis=0)", "d_z.mean(axis=0)")).Gated()
    report = bpttcheck.check(cell, raises=False, examples=4, checks=["step_vjp"])
    room = sys.modules["bpttcheck.remedy.proved"]
    monkeypatch.setattr(room, "check", lambda *_args, **_options: report)
    assert remedies(cell, report) == ()


def test_nothing_is_said_where_nothing_is_wrong_or_no_edit_mends_it(module):
    cell = module(CELL).Gated()
    assert mended(cell) is None
    assert remedies(cell, bpttcheck.check(cell, examples=4, checks=["step_vjp"])) == ()
    # Three terms of it would have to be written.
    hopeless = (
        "d_z = np.concatenate([d_a, d_b], axis=-1)",
        "d_z = np.ones_like(h @ params['W'].T)",
    )
    assert mended(module(CELL, hopeless).Gated(), seconds=2) is None


def test_code_without_a_source_of_its_own_is_left_alone():
    wrong = catalogue(bpttcheck.cells.Elman(), families=("sign",))[0].plant(bpttcheck.cells.Elman())
    report = bpttcheck.check(wrong, raises=False, examples=4, checks=["step_vjp"])
    assert not report.passed
    assert remedies(wrong, report) == ()


@pytest.mark.nightly
def test_a_loss_that_leaves_a_gradient_out_is_mended(module):
    code = module(
        "import numpy as np\n"
        "def loss(x, target, W):\n"
        "    error = x @ W - target\n"
        "    return 0.5 * (error**2).sum(), {'W': x.T @ error * 2}\n"
    )
    function = from_grad(code.loss, "x: B D, target: B H, W: D H")
    report = bpttcheck.check(function, raises=False, examples=4)
    (found,) = remedies(function, report)
    assert "{'W': x.T @ error}" in found.patched


def test_a_backward_function_is_mended(module):
    code = module(
        "import numpy as np\n"
        "def forward(x, W):\n"
        "    y = np.tanh(x @ W)\n"
        "    return y, (x, W, y)\n"
        "def backward(d_y, cache):\n"
        "    x, W, y = cache\n"
        "    d_a = d_y * (1 - y**2)\n"
        "    return d_y @ W.T, x.T @ d_a\n"
    )
    function = from_vjp(code.forward, code.backward, "x: B D, W: D H -> y: B H")
    text = mended(function)
    assert text is not None
    assert "return d_a @ W.T, x.T @ d_a" in text


def test_a_patch_changes_one_place_and_keeps_the_comments():
    source = BackwardSource.of(bpttcheck.cells.LSTM())
    way = next(
        (source.method.tree, statement, statement.value)
        for statement in source.method.tree.body
        if isinstance(statement, ast.Assign) and "# (13)" in source.text.splitlines()[
            statement.lineno - 1]
    )  # fmt: skip
    text, tree = patched(source.text, way, ast.UnaryOp(ast.USub(), way[-1]))
    assert "d_i = -(d_c_new * g)  # (13)" in text
    assert ast.unparse(tree).count("-(d_c_new * g)") == 1


@pytest.mark.parametrize(
    ("old", "new", "now"),
    [
        ("y = a, b", None, "pass"),
        ("y = a, b", "(c, a)", "y = c, a"),
        ("y = a, b", "a ** 2", "y = a**2"),
        ('y = "no"', "'say \"no\"'", 'y = "say \\"no\\""'),
        ("y = 'no'", '"yes"', "y = 'yes'"),
    ],
)
def test_a_patch_is_the_least_change_that_means_it(old, new, now):
    source = f"def f(a, b, c):\n    {old}\n"
    function = ast.parse(source).body[0]
    way = (function, function.body[0]) + (() if new is None else (function.body[0].value,))
    node = None if new is None else ast.parse(new, mode="eval").body
    text, tree = patched(source, way, node)
    assert text == source.replace(old, now)
    assert ast.unparse(tree) == ast.unparse(ast.parse(text))


def test_a_patch_that_no_text_can_give_is_none():
    source = "def f(a):\n    return a\n"
    function = ast.parse(source).body[0]
    other = ast.parse("\n" + source).body[0]  # of a file that has changed since
    new = ast.Name("b", ast.Load())
    assert patched(source, (function, function.body[0], function.body[0].value), new) is not None
    assert patched(source, (other, function.body[0], function.body[0].value), new) is None


def test_a_diff_of_a_file_elsewhere_has_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert diff("a\n", "b\n", str(tmp_path / "mine.py")).startswith("--- a/mine.py\n+++ b/mine")
    assert diff("a\n", "b\n", "/elsewhere/mine.py").startswith("--- /elsewhere/mine.py\n")


def test_the_size_of_an_edit_is_counted_in_tokens_or_in_words():
    assert size("d = a * b\n", "d = a * (b + c)\n") == 4
    assert size("d = (a\n", "d = (b\n") == 1  # no whole program


def test_the_command_line_writes_a_patch_and_edits_the_file_only_if_asked(module, tmp_path):
    wrong = CELL.replace("d_z.sum(axis=0)", "d_z.mean(axis=0)")
    Path("mine.py").write_text(wrong)
    plain = ["verify", "mine.py:Gated", "--examples", "6", "--fix", "--no-isolate"]
    result = CliRunner().invoke(main, plain)
    assert result.exit_code == 1
    assert "remedy: with this edit all" in result.stdout
    assert Path("mine.py").read_text() == wrong
    assert "+        d_params" in Path("mine-Gated.patch").read_text()
    result = CliRunner().invoke(main, [*plain, "--write"])
    assert Path("mine.py").read_text() == CELL
    assert CliRunner().invoke(main, ["verify", "mine.py:Gated", "--write"]).exit_code == 2


def test_a_defect_of_the_search_leaves_the_report_and_is_said(module, monkeypatch):
    Path("mine.py").write_text(CELL.replace("d_z.sum(axis=0)", "d_z.mean(axis=0)"))
    monkeypatch.setattr(bpttcheck.remedy, "remedies", lambda *_: 1 / 0)
    options = ["--examples", "4", "--check", "step_vjp", "--fix", "--no-isolate"]
    result = CliRunner().invoke(main, ["verify", "mine.py:Gated", *options])
    assert result.exit_code == 1
    assert "note: internal error" in result.stderr
    assert "FAILED" in result.stdout


HELPERS = {
    "a method": CELL.replace(
        "        d_a = d_new * g * (1 - c**2)\n        d_b = d_new * c * g * (1 - g)\n",
        "        d_a, d_b = self.gates(d_new, c, g)\n",
    )
    + """
    def gates(self, d, c, g):
        return d * g * (1 - c**2), d * c * g * (1 - g)
""",
    "a function": CELL.replace("        d_a = d_new * g * (1 - c**2)\n", "")
    .replace("        d_b = d_new * c * g * (1 - g)\n", "        d_a, d_b = gates(d_new, c, g)\n")
    .replace(
        "class Gated",
        "def gates(d, c, g):\n    return d * g * (1 - c**2), d * c * g * (1 - g)\n\n\nclass Gated",
    ),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("text", HELPERS.values(), ids=HELPERS)
def test_what_the_backward_pass_alone_calls_is_mended_too(module, text):
    cell = module(text, ("1 - c**2)", "1 - c)")).Gated()
    options = {"checks": ["step_vjp"], "dtypes": ["float64"]}
    report = bpttcheck.check(cell, raises=False, examples=4, **options)
    (remedy,) = remedies(cell, report)
    assert remedy.patched == text


def test_what_the_forward_pass_calls_too_stays_as_it_is(module):
    def names(text):
        return [
            one.method.function.__name__
            for one in BackwardSource.of(module(text).Gated()).helpers()
        ]

    assert names(HELPERS["a method"]) == names(HELPERS["a function"]) == ["gates"]
    shared = HELPERS["a function"].replace("new = g * c +", "new = 0 * gates(c, c, g)[0] + g * c +")
    assert names(shared) == []
    shared = HELPERS["a method"].replace(
        "new = g * c +", "new = 0 * self.gates(c, c, g)[0] + g * c +"
    )
    assert names(shared) == []
    assert names(CELL) == []


LOSS = """
import numpy as np

def loss_and_grads(x, target, W, b):
    N, T, D = x.shape
    pred = x @ W + b
    err = pred - target
    loss = 0.5 * (err**2).sum(axis=2).mean()
    d = err / N
    return loss, {"W": np.tensordot(x, d, axes=([0, 1], [0, 1])), "b": d.sum(axis=(0, 1))}
"""


def test_no_edit_of_a_loss_that_changes_its_value_is_a_remedy_or_named_as_one(module):
    function = module(LOSS).loss_and_grads
    subject = from_grad(function, "x: N T D, target: N T O, W: D O, b: O", returns="loss, _")
    report = bpttcheck.check(subject, checks=["vjp"], examples=6, raises=False)
    (remedy,) = remedies(subject, report)
    lines = [line for line in remedy.patched.splitlines() if line not in LOSS.splitlines()]
    assert all(line.strip().startswith("d = ") for line in lines)
    assert not [other for other in remedy.others if "err = " in other]


def test_what_has_no_source_is_not_said_to_have_been_searched(module):
    assert unsearchable(module(CELL).Gated()) == ""
    pair = from_vjp(lambda x: x, lambda d: d, "x: N -> y: N")
    assert "without a `def` of its own" in unsearchable(pair)
