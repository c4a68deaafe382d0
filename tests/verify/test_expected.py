"""The expected adjoint beside a wrong one: what is missing, what is there alone, or nothing."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

import bpttcheck
from bpttcheck.cells import LSTM, GRUResetBefore
from bpttcheck.diagnose.expected import with_expected
from bpttcheck.results.records import Finding
from bpttcheck.results.text import told_apart

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "examples" / "gallery"
CELLS = Path(bpttcheck.__file__).parent / "cells"

# file, class, right code, wrong code, wrong block, what is expected, what differs
WRONG = [
    (CELLS / "lstm.py", "LSTM", "d_f = d_c_new * c ", "d_f = d_c_new * g ", "d_params['b']",
     "d_f = d_c_new * c", "yours has `* g` where `* c` belongs"),
    (CELLS / "lstm.py", "LSTM", "d_a_f = d_f * f * (1.0 - f)", "d_a_f = d_f * f", "d_x",
     "d_a_f = d_f * f * (1 - f)", "yours lacks `* (1 - f)`"),
    (CELLS / "lstm.py", "LSTM", "d_a_o = d_o * o * (1.0 - o)", "d_a_o = d_o * o * (1.0 - o) * o",
     "d_x", "d_a_o = d_o * o * (1 - o)", "`* o` is yours alone"),
    (CELLS / "lstm.py", "LSTM", "d_c_new = d_c_next + d_h_new", "d_c_new = d_h_new", "d_x",
     "d_c_new = d_c_next + d_h_new * o * (1 - tanh_c**2)", "yours lacks `+ d_c_next`"),
    (CELLS / "lstm.py", "LSTM", 'd_h = d_a @ params["W_hh"]',
     'd_h = d_a @ params["W_hh"] + d_h_next', "d_previous_state[0]",
     'd_h = d_a @ params["W_hh"]', "`+ d_h_next` is yours alone"),
    (CELLS / "lstm.py", "LSTM", "d_i = d_c_new * g", "d_i = -d_c_new * g", "d_params['W_ih']",
     "d_i = d_c_new * g", "yours has the wrong sign at `-d_c_new * g`"),
    (CELLS / "lstm.py", "LSTM", "d_c = d_c_new * f", "d_c = d_c_next * f", "d_previous_state[1]",
     "d_c = d_c_new * f", "yours has `* d_c_next` where `* d_c_new` belongs"),
    (CELLS / "lstm.py", "LSTM", '"W_ih": d_a.T @ x', '"W_ih": d_a.T @ (2 * x)',
     "d_params['W_ih']", "d_params['W_ih'] = d_a.T @ x", ""),
    (CELLS / "gru_reset_before.py", "GRUResetBefore", "            + d_rh * r  # (16b)\n", "",
     "d_previous_state", "d_h = d_h_new * z + d_rh * r + d_uv @ W_g", "yours lacks `+ d_rh * r`"),
    (CELLS / "gru_reset_before.py", "GRUResetBefore", "d_h_new * (h - n)", "d_h_new * h", "d_x",
     "d_z = d_h_new * (h - n)", "yours lacks `- d_h_new * n`"),
    (GALLERY / "mgu.py", "MGU", "(c - h) + d_r * h", "(c - h)", "d_params['U_f']",
     "d_f = d * (c - h) + d_r * h", "yours lacks `+ d_r * h`"),
    (GALLERY / "indrnn.py", "IndRNN", " * (z > 0)", "", "d_params['W']",
     "d_z = (d_state + d_y) * (z > 0)", "yours lacks `* (z > 0)`"),
    (GALLERY / "indrnn.py", "IndRNN", 'd_z * params["u"]', "d_z", "d_previous_state",
     'd_previous_state = d_z * params["u"]', 'yours lacks `* params["u"]`'),
    (GALLERY / "lru_complex.py", "ComplexLRU", "lam.conj() * G", "lam * G",
     "d_previous_state[0]", "d_s = G * lam.conj()",
     "yours has `* lam` where `* lam.conj()` belongs"),
    (GALLERY / "lru_complex.py", "ComplexLRU", "d_y @ C.conj()", "d_y @ C", "d_params['nu']",
     "G = d_state[0] + 1j * d_state[1] + d_y @ C.conj()", ""),
    (GALLERY / "mingru.py", "MinGRU", "(c - h) * z", "c * z", "d_params['U_z']",
     "d_a = d * (c - h) * z * (1 - z)", ""),
]  # fmt: skip

PLAIN = """
import numpy as np

OTHER = "b"


class Plain:
    def init(self, rng, n_in, H):
        return {"U": rng.standard_normal((H, n_in)) / 2, "W": rng.standard_normal((H, H)) / 2,
                "b": rng.standard_normal(H) / 2}

    def initial_state(self, params, B):
        return np.zeros((B, len(params["b"])), params["b"].dtype)

    def step(self, params, h, x):
        z = np.tanh(x @ params["U"].T + h @ params["W"].T + params["b"])
        return z + h * params["b"], z * h, (x, h, z)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, z = cache
        d_z = d_state + d_y * h
        d_a = d_z * (1 - z**2)
        d_b = d_a.sum(axis=0) + (d_state * h).sum(axis=0)
        d_params = {"U": d_a.T @ x, "W": d_a.T @ h, "b": d_b}
        d_h = d_state * params["b"] + d_y * z + d_a @ params["W"]
        return d_params, d_h, d_a @ params["U"]
"""
D_Z, D_A, REST = "d_z = d_state + d_y * h", "d_a = d_z * (1 - z**2)", '"W": d_a.T @ h, "b": d_b}'
D_Z_IS, D_A_IS, D_W_IS = "d_z = d_y * h + d_state", D_A, "d_params['W'] = d_a.T @ h"

# right code, statements in its place, wrong block, what is expected, what differs
WRITTEN = [
    (D_Z, ["d_z = 1 * d_state", "d_z -= d_y * h"], "d_x", D_Z_IS,
     "yours has the wrong sign at `d_y * h`"),
    (D_Z, ["d_z = d_state - -(d_y * z)"], "d_x", D_Z_IS, "yours has `* z` where `* h` belongs"),
    (D_Z, ["d_z, *_ = d_state - d_y * h, 1"], "d_x", D_Z_IS,
     "yours has the wrong sign at `d_y * h`"),
    (D_Z, ["d_z = 1 * d_state", "d_z *= 2"], "d_x", "d_a = (d_y * h + d_state) * (1 - z**2)", ""),
    (D_Z, ["d_z = -d_state - d_y * h"], "d_x", D_Z_IS, ""),
    (D_Z, ["d_z = (d_state + d_y) * h"], "d_x", D_Z_IS, ""),
    (D_A, ["d_a = d_z * (1 - z)"], "d_x", D_A_IS,
     "yours has `* (1 - z)` where `* (1 - z**2)` belongs"),
    (D_A, ["d_a = (lambda z: d_z * (1 - z))(z)"], "d_x", D_A_IS, ""),
    (REST, ['"b": d_b}', 'd_params["W"] = d_z.T @ h'], "d_params['W']", D_W_IS, ""),
    (REST, ['"W": d_z.T @ h}', "d_params[OTHER] = d_b"], "d_params['W']", D_W_IS, ""),
    (REST, ['"W": d_z.T @ h}', "d_params |= dict(b=d_b)"], "d_params['W']", D_W_IS, ""),
    (REST, ['**{"W": d_z.T @ h}, "b": d_b}'], "d_params['W']", "d_W = d_a.T @ h", ""),
    ('"b": d_b}', ['"b": 2 * d_b}'], "d_params['b']",
     "d_params['b'] = (d_state * h).sum(axis=0) + d_a.sum(axis=0)", "`* 2` is yours alone"),
    ("d_h = d_state", ["d_state = 1 * d_state", "d_h = 2 * d_state"], "d_previous_state",
     'd_h = d_y * z + d_state * params["b"] + d_a @ params["W"]', "`* 2` is yours alone"),
]  # fmt: skip
NOT_CERTAIN = {
    "the-gradients-of-the-parameters-are-no-dict": (
        "return d_params, d_h,",
        "return list(d_params.items()), 2 * d_h,",
        "d_previous_state",
    ),
    "the-rule-is-right": ("x, h, z = cache", "(x, h), z = cache[:2], cache[2]", "d_x"),
    "it-returns-a-starred-tuple": (
        "return d_params, d_h, d_a",
        "both = d_params, d_h\n        return (*both, d_z)",
        "d_x",
    ),
}


@pytest.fixture
def spoilt(tmp_path, monkeypatch):
    def make(path, name, right, wrong, text=None):
        text = path.read_text() if text is None else text
        assert right in text
        file = tmp_path / f"spoilt_{path.name}"
        file.write_text(text.replace(right, wrong, 1))
        spec = spec_from_file_location(file.stem, file)
        module = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, file.stem, module)
        spec.loader.exec_module(module)
        return getattr(module, name)()

    return make


def said(cell, block):
    (finding,) = with_expected(cell, [Finding("step_vjp", "step_vjp", block, "wrong")])
    return finding.expected


@pytest.mark.parametrize(("path", "name", "right", "wrong", "block", "formula", "differs"), WRONG)
def test_what_is_expected_stands_beside_what_is_written(
    spoilt, path, name, right, wrong, block, formula, differs
):
    found = said(spoilt(path, name, right, wrong), block)
    assert found.formula == formula
    assert found.difference == differs
    assert found.where.startswith(f"spoilt_{path.name}:")


@pytest.mark.parametrize(("right", "wrong", "block", "formula", "differs"), WRITTEN)
def test_it_reads_a_rule_however_it_is_written(spoilt, right, wrong, block, formula, differs):
    cell = spoilt(Path("plain.py"), "Plain", right, "\n        ".join(wrong), PLAIN)
    found = said(cell, block)
    assert (found.formula, found.difference) == (formula, differs)


@pytest.mark.parametrize(("right", "wrong", "block"), NOT_CERTAIN.values(), ids=NOT_CERTAIN)
def test_where_nothing_is_certain_nothing_is_said(spoilt, right, wrong, block):
    assert said(spoilt(Path("plain.py"), "Plain", right, wrong, PLAIN), block) is None


def test_an_explanation_that_fails_hides_no_finding(monkeypatch):
    monkeypatch.setattr("bpttcheck.diagnose.expected.traced", lambda *_: [][0])
    finding = Finding("step_vjp", "step_vjp", "d_x", "wrong")
    assert with_expected(LSTM(), [finding]) == [finding]
    monkeypatch.setenv("BPTTCHECK_DEBUG", "1")
    with pytest.raises(IndexError):
        with_expected(LSTM(), [finding])


@pytest.mark.parametrize("cell", [LSTM(), GRUResetBefore()])
def test_of_a_right_rule_nothing_is_said(cell):
    assert said(cell, "d_x") is None
    assert said(cell, "d_params['b']") is None


class Recorded(LSTM):
    """A rule that writes in a loop: what it is the sum of is not certain."""

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_before, d_x = super().step_vjp(params, cache, d_state, d_y)
        for key in d_params:
            d_params[key] = d_params[key] * 1.1
        return d_params, d_before, d_x


class Raising(LSTM):
    def step_vjp(self, params, cache, d_state, d_y):
        raise ValueError("no gradient today")


class Untraced(LSTM):
    def step(self, params, state, x):
        new, y, cache = super().step(params, state, x)
        return new, y * float(y.sum() > 0), cache

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_before, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_before, 2 * d_x


@pytest.mark.parametrize("cell", [Raising(), Untraced()])
def test_where_nothing_can_be_compared_nothing_is_said(cell):
    assert said(cell, "d_x") is None


def test_where_the_line_is_not_certain_the_formula_stands_alone():
    found = said(Recorded(), "d_params['W_hh']")
    assert found is None or (found.where == "" and found.difference == "")


def test_it_is_in_the_text_the_page_and_the_json(spoilt, monkeypatch):
    monkeypatch.setattr("bpttcheck.verify.gradient_check.smallest", lambda *args: args[-1])
    cell = spoilt(GALLERY / "mgu.py", "MGU", "(c - h) + d_r * h", "(c - h)")
    report = bpttcheck.check(
        cell, examples=4, checks=("step_vjp",), dtypes=("float64",), raises=False
    )
    lines = [
        "   expected: d_f = d * (c - h) + d_r * h",
        "   yours:    spoilt_mgu.py:64: d_f = d * (c - h)",
        "   yours lacks `+ d_r * h`",
    ]
    assert "\n".join(lines) in str(report)
    assert str(report).count("expected: d_f") == 1
    assert "expected: d_f = d * (c - h) + d_r * h" in report.to_html()
    (first, *_) = report.to_dict()["findings"]
    assert first["expected"]["difference"] == "yours lacks `+ d_r * h`"


def test_what_one_expression_mends_is_told_once_and_by_its_name(spoilt):
    right, wrong = (f"concatenate([{gates}]" for gates in (
        "d_a_i, d_a_f, d_a_g, d_a_o", "d_a_o, d_a_f, d_a_g, d_a_i"))  # fmt: skip
    cell = spoilt(CELLS / "lstm.py", "LSTM", right, wrong)
    report = bpttcheck.check(
        cell, examples=4, checks=("step_vjp",), dtypes=("float64",), raises=False
    )
    shown, others = told_apart(report)
    assert [[d.code for d in finding.diagnoses] for finding in shown] == [["swapped-gates"]]
    assert {finding.block for finding in others} > {"d_params['b']", "d_previous_state[0]"}
