"""A report as an HTML page: what stands on it, and that it stands alone."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from click.testing import CliRunner
from subjects import Plain, PlainLayer

import bpttcheck
from bpttcheck.cli import main
from bpttcheck.judge.run import Run
from bpttcheck.results.page import page, section
from bpttcheck.results.records import Diagnosis
from bpttcheck.subject.subject import Subject
from bpttcheck.verify.checks import CHECKS
from bpttcheck.verify.checks.base import Context

VOID = {"meta", "rect", "line", "polyline", "br"}


class Wrong(Plain):
    def step_vjp(self, params, cache, d_state, d_y):
        x, h_prev, h = cache
        d_z = (d_state + d_y) * (1 - h**2)
        d_params = {"U": d_z.T @ x, "W": d_z.T @ h_prev, "b": d_z.mean(axis=0)}
        return d_params, d_z @ params["W"], d_z @ params["U"]


class Reversed(PlainLayer):
    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_state0 = super().vjp(params, tape, d_ys, d_state_T)
        return d_params, d_xs[::-1].copy(), d_state0


@pytest.fixture(scope="module")
def wrong():
    return bpttcheck.check(Wrong(), examples=12, checks=["step_vjp"], raises=False)


@pytest.fixture(scope="module")
def reversed_in_time():
    return bpttcheck.check(
        Reversed(), reference=Plain(), examples=12, checks=["sequence_vjp"], raises=False
    )


class Balanced(HTMLParser):
    """Every tag is closed, in its order."""

    open_tags: ClassVar[list[str]] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open_tags.pop() == tag


def require_alone(text):
    """No script, nothing from elsewhere, well formed, not large."""
    parser = Balanced()
    parser.open_tags.clear()
    parser.feed(text)
    assert parser.open_tags == []
    assert "<script" not in text
    assert not re.search(r"(src|href)=\"(?!#)", text)
    assert len(text) < 2**20


def test_a_failure_shows_the_code_the_values_and_maps(wrong):
    text = wrong.to_html()
    require_alone(text)
    assert '<span class="failed">FAILED</span>' in text
    assert "batch-reduction" in text
    assert "def step_vjp" in text
    assert text.count("<figcaption>by hand</figcaption>") >= 1
    assert "error in error bars" in text


def test_an_error_over_time_is_drawn_beside_its_bar(reversed_in_time):
    finding = next(f for f in reversed_in_time.findings if f.block == "d_xs")
    assert finding.sides.over_time
    text = reversed_in_time.to_html()
    require_alone(text)
    assert "largest error by step, its bar dashed" in text


def test_the_arrays_of_a_finding_are_not_part_of_its_json(wrong):
    (finding,) = [f for f in wrong.to_dict()["findings"] if f["block"] == "d_params['b']"]
    assert "sides" not in finding
    assert "sources" not in wrong.to_dict()


def test_a_pass_says_what_was_covered_and_an_undecided_run_why():
    passed = bpttcheck.check(Plain(), examples=2, checks=["step_vjp"])
    text = passed.to_html()
    require_alone(text)
    assert "rounding could not have produced" in text
    assert "<h2>Covered</h2>" in text
    declined = bpttcheck.check(
        Plain(), examples=2, checks=["step_vjp"], require=["torch"], raises=False
    )
    assert declined.verdict is bpttcheck.Verdict.INCONCLUSIVE
    text = declined.to_html()
    require_alone(text)
    assert "Too little could be judged" in text


def test_arrays_are_kept_for_the_worst_case_alone():
    run = Run(Subject(Wrong()), 0, ("float64",))
    tally = CHECKS["step_vjp"].run(Context(run, 12))
    kept = [j for some in tally._seen.values() for j in some if j.sides is not None]
    assert kept == []
    assert all(judged.sides is not None for judged, _, _ in tally.worst.values())


def test_what_a_finding_has_is_shown_and_what_it_has_not_is_left_out(wrong):
    (first, *_) = [f for f in wrong.findings if f.sides is not None]
    wide = np.ones((2, 100))
    wide[0, 0], wide[1, 99] = np.nan, -3.0
    sides = replace(first.sides, hand=wide, value=np.zeros((2, 100)), width=np.ones((2, 100)))
    bare = replace(first, diagnoses=(), ratio=None, expected=None, sides=sides, exception="a < b")
    check = replace(wrong.checks[0], expected_failure="not yet", reason="too few cases")
    report = replace(wrong, findings=[bare], checks=[check], notes=["a <note>"])
    text = section(report)
    require_alone(text)
    assert "No known pattern fits the error." in text
    assert "<pre>a &lt; b</pre>" in text
    assert "times its error bar" not in text
    assert "expected to fail: not yet" in text
    assert "why: too few cases" in text
    assert "a &lt;note&gt;" in text
    drawn = text.partition("<figcaption>by hand")[0].rpartition("<svg")[2]
    assert re.findall(r'class="(s4|neg)"', drawn) == ["s4", "neg"]
    assert drawn.count("<rect") < wide.size  # of every patch the largest
    one = replace(
        first, sides=replace(sides, hand=np.ones(1)), diagnoses=(Diagnosis("x", "y", {}),)
    )
    text = section(replace(report, findings=[one]))
    assert "in the worst case" not in text
    assert "(fits up to" not in text


def test_where_the_adjoint_departs_is_marked(reversed_in_time):
    finding = next(f for f in reversed_in_time.findings if f.sides.over_time)
    late = replace(finding, time_step=finding.sides.hand.shape[0])
    for one, said in ((replace(finding, time_step=1), True), (late, False)):
        text = section(replace(reversed_in_time, findings=[one]))
        assert ("; the adjoint departs at t = 1<" in text) == said


def test_several_subjects_have_an_index(wrong):
    text = page([("one", "failed", section(wrong)), ("<two>", "passed", "")])
    require_alone(text)
    assert '<a href="#s1">&lt;two&gt;</a>' in text
    assert "2 subjects: 1 failed, 1 passed" in text


def test_a_notebook_shows_it_in_a_frame(wrong):
    assert wrong._repr_html_().startswith("<iframe srcdoc=")


def test_the_command_writes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = "verify elman jordan --check linearity --examples 2 --no-isolate --html deep/p.html"
    done = CliRunner().invoke(main, arguments.split())
    assert done.exit_code == 0
    require_alone(Path("deep/p.html").read_text())


@pytest.mark.nightly
@pytest.mark.parametrize("width", [400, 800, 1400])
def test_a_browser_draws_it(wrong, width, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    (tmp_path / "page.html").write_text(wrong.to_html())
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900",
         "--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}",
         f"--screenshot={tmp_path / 'page.png'}", f"file://{tmp_path / 'page.html'}"],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert (tmp_path / "page.png").stat().st_size > 5000
