"""Targets in processes of their own: what crashes, exits or hangs is a verdict, others go on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from bpttcheck.cli import isolated
from bpttcheck.cli.child import STACK, Record, sizes
from bpttcheck.cli.judged import JudgedTarget, Order

Cli = Callable[..., Result]

CELLS = '''
import ctypes, os, signal, sys, threading, time
import numpy as np

CALLS = [0]


class Right:
    def init(self, rng, n_in, n_hidden):
        draw = lambda *shape: rng.standard_normal(shape) / np.sqrt(shape[-1])
        return {"U": draw(n_hidden, n_in), "W": draw(n_hidden, n_hidden)}

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["W"])), params["W"].dtype)

    def step(self, params, h, x):
        y = np.tanh(x @ params["U"].T + h @ params["W"].T)
        return y, y, (x, h, y)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, y = cache
        CALLS[0] += 1
        if CALLS[0] > 3:
            self.die()
        d = (d_state + d_y) * (1 - y * y)
        return {"U": d.T @ x, "W": d.T @ h}, d @ params["W"], d @ params["U"]

    def die(self):
        pass


class Wrong(Right):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {**d_params, "W": abs(d_params["W"])}, d_h, d_x


class Crashes(Right):
    def die(self):
        ctypes.string_at(0)


class Exits(Right):
    def die(self):
        os._exit(0)


class Killed(Right):
    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Hangs(Right):
    def die(self):
        with open("hanging.txt", "w") as file:
            file.write(str(os.getpid()))
        while True:
            time.sleep(0.01)


class Meets(Right):
    """Waits until two of its kind are being checked."""

    def die(self):
        open(f"here-{os.getpid()}", "w").close()
        while sum(name.startswith("here-") for name in os.listdir()) < 2:
            time.sleep(0.01)


class Lingers(Right):
    """Leaves a thread behind that would keep the process alive."""

    def die(self):
        if CALLS[0] == 4:
            threading.Thread(target=time.sleep, args=(600,)).start()
            print("a word on standard output")
'''

QUICK = ("--examples", "3", "--check", "linearity")


def settle(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """A file of cells in a new working directory."""
    for name in ("GITHUB_ACTIONS", "BPTTCHECK_ISOLATE"):
        patch.delenv(name, raising=False)
    patch.chdir(folder)
    Path("dying.py").write_text(CELLS)
    return folder


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return settle(tmp_path, monkeypatch)


NAMES = ("Hangs", "Right", "Crashes", "Exits", "Nothing", "Killed", "Wrong")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> tuple[Result, Path]:
    """What is said of one target of each kind, two at a time, and where that was."""
    targets = [f"dying.py:{name}" for name in NAMES]
    with pytest.MonkeyPatch.context() as patch:
        folder = settle(tmp_path_factory.mktemp("dying"), patch)
        return cli("verify", *targets, *QUICK, "--jobs", "2", "--timeout", "6"), folder


def order(target: str, **options: object) -> Order:
    known = {"examples": 3, "seed": 0, "checks": ("linearity",), "dtypes": ("float64",), **options}
    return Order(target, known, None, 100, True, False)


def test_what_crashes_exits_or_is_killed_is_inconclusive_and_the_others_are_judged(
    judged: tuple[Result, Path],
) -> None:
    result, _ = judged
    text = " ".join(result.stdout.split())
    assert "PASSED Right: " in text
    assert "FAILED Wrong: " in text
    assert re.search(
        r"INCONCLUSIVE dying\.py:Crashes: .*the process ended with signal 11 \(SIGSEGV\) in case "
        r"\d+ of (contract|linearity) \(step_vjp; B=\d+, n_out=\d+, float64, n_hidden=\d+; "
        r"dying\.py:\d+ in die\)",
        text,
    )
    assert "Exits: " in text
    assert "ended with exit code 0 before its checks were over in case" in text
    assert "ended with signal 9 (SIGKILL, perhaps for lack of memory) in case" in text


def test_what_hangs_is_given_up_and_its_line_is_named(judged: tuple[Result, Path]) -> None:
    result, folder = judged
    text = " ".join(result.stdout.split())
    assert re.search(r"did not end within 6 s in case [^)]*dying\.py:\d+ in die", text)
    assert_gone(int((folder / "hanging.txt").read_text()))


def test_what_is_over_early_is_told_in_its_turn(judged: tuple[Result, Path]) -> None:
    heads = re.findall(r"^(?:PASSED|FAILED|INCONCLUSIVE) +(\S+):", judged[0].stdout, re.MULTILINE)
    told = [head.removeprefix("dying.py:") for head in heads]
    assert told == [name for name in NAMES if name != "Nothing"]


def test_what_cannot_be_loaded_is_not_checked(judged: tuple[Result, Path]) -> None:
    result, _ = judged
    assert result.exit_code == 2
    assert "error: target 'dying.py:Nothing'" in result.stderr
    said = "7 subjects: 1 passed, 1 failed, 4 inconclusive, 1 not checked; seed 0\n"
    assert result.stdout.endswith(said)


def test_as_many_targets_as_jobs_are_checked_at_a_time(cells: Path, cli: Cli) -> None:
    two = ("dying.py:Meets", "dying.py:Meets", *QUICK, "--timeout", "30")
    result = cli("verify", *two, "--jobs", "2")
    assert "2 subjects: 2 passed" in result.stdout, result.output


@pytest.mark.nightly  # that --jobs 1 starts one at a time is seen in the test of Ctrl-C
def test_alone_a_target_waits_in_vain_for_another(cells: Path, cli: Cli) -> None:
    two = ("dying.py:Meets", "dying.py:Meets", *QUICK, "--timeout", "1")
    result = cli("verify", *two, "--jobs", "1")
    assert "2 subjects: 1 passed, 0 failed, 1 inconclusive" in result.stdout, result.output


def assert_gone(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def without_times(text: str) -> str:
    return re.sub(r"\d+\.\d s\b", "0.0 s", text)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["Wrong", "Right"])
def test_the_report_is_that_of_a_run_in_this_process(cells: Path, cli: Cli, name: str) -> None:
    apart = cli("verify", f"dying.py:{name}", "--isolate", *QUICK)
    here = cli("verify", f"dying.py:{name}", "--no-isolate", *QUICK)
    assert without_times(apart.stdout) == without_times(here.stdout)
    assert apart.exit_code == here.exit_code == (1 if name == "Wrong" else 0)
    assert apart.stderr == here.stderr  # what was stored
    assert ("stored: " in here.stderr) == (name == "Wrong")


def test_threads_that_are_left_behind_keep_nobody_waiting(
    cells: Path, cli: Cli, capfd: pytest.CaptureFixture[str]
) -> None:
    result = cli("verify", "dying.py:Lingers", "--isolate", "--json", *QUICK)
    assert json.loads(result.stdout)["reports"][0]["passed"]
    printed = capfd.readouterr()
    assert "a word on standard output" in printed.err
    assert not printed.out


def test_ctrl_c_ends_at_once_and_prints_what_was_finished(cells: Path) -> None:
    command = [sys.executable, "-m", "bpttcheck", "verify", "dying.py:Right", "dying.py:Hangs",
               "dying.py:Right", "--jobs", "1", *QUICK]  # fmt: skip
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:  # what runs in the background ignores the signal, and so would whatever it starts
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    until = time.monotonic() + 100
    while not Path("hanging.txt").exists() and time.monotonic() < until:
        time.sleep(0.02)
    pressed = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - pressed < 2
    assert process.returncode == 130
    assert out.startswith("PASSED  Right: ")
    assert out.endswith("1 of 3 subjects: 1 passed, 0 failed, 0 inconclusive; seed 0\n")
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert_gone(int(Path("hanging.txt").read_text()))


def test_a_child_ends_when_its_parent_does(cells: Path) -> None:
    idle = isolated._start()
    busy = isolated._start()
    assert idle.stdin is not None
    assert busy.stdin is not None
    told = {"order": order("dying.py:Hangs").to_dict(), "folder": str(cells), "clean": False}
    busy.stdin.write(json.dumps(told).encode() + b"\n")
    busy.stdin.flush()
    until = time.monotonic() + 60
    while not Path("hanging.txt").exists() and time.monotonic() < until:
        time.sleep(0.02)
    idle.stdin.close()
    busy.stdin.close()
    assert (idle.wait(60), busy.wait(60)) == (0, 1)


def test_several_targets_are_isolated_and_one_is_not_unless_asked_for(
    cells: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart: list[str] = []

    def judged(self: isolated.Children, _: object) -> JudgedTarget:
        asked = self._waiting.popleft()
        apart.append(asked.target)
        return JudgedTarget(asked.target, "passed", True, "", {})

    monkeypatch.setattr(isolated.Children, "next", judged)
    monkeypatch.setattr(
        sys.modules["bpttcheck.cli.verify"],
        "judge",
        lambda asked, _: JudgedTarget(asked.target, "passed", True, "", {}),
    )
    cli("verify", "one")
    cli("verify", "two", "three", "--no-isolate")
    assert apart == []
    cli("verify", "one", "two")
    cli("verify", "three", "--isolate")
    cli("verify", "four", "--timeout", "9")
    assert apart == ["one", "two", "three", "four"]
    Path("pyproject.toml").write_text("[tool.bpttcheck]\nisolate = false\ntimeout = 3\n")
    cli("verify", "five", "six", "--no-isolate")
    assert apart[4:] == []
    cli("verify", "seven")
    assert apart[4:] == ["seven"]


def test_a_process_that_dies_before_it_begins_says_so(
    cells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        isolated, "_start", lambda: subprocess.Popen(
            [sys.executable, "-c", "raise SystemExit(7)"], stdin=subprocess.PIPE,
            start_new_session=True,
        ),
    )  # fmt: skip
    with isolated.Children([order("lstm")]) as children:
        found = children.next(lambda *_: None)
    assert found.verdict == "inconclusive"
    assert "ended with exit code 7 before its checks were over while the target was loaded" in (
        " ".join(found.text.split())
    )


def test_the_record_names_the_check_its_case_and_the_sizes(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record = Record(path)

    def known() -> dict[str, object]:
        return json.loads(path.read_text())

    assert known()["check"] == ""
    record.call("init", (None, 2, 7))
    assert known() == {"check": "contract", "case": 0, "call": "init",
                       "sizes": "n_in=2, n_hidden=7"}  # fmt: skip
    record.progress(0, 30, "linearity")
    record.progress(1, 30, "linearity")
    xs = np.zeros((5, 3, 2), np.float32)
    record.call("forward", ({}, xs, None))
    assert known()["case"] == 1
    assert known()["sizes"] == "T=5, B=3, n_in=2, float32, n_hidden=7"
    record.progress(10, 30, "masking")
    assert (known()["check"], known()["case"], known()["done"]) == ("masking", 0, 10)
    assert known()["call"] == ""
    record.close()


@pytest.mark.parametrize(
    ("what", "args", "text"),
    [
        ("step", ({}, None, np.zeros((3, 2))), "B=3, n_in=2, float64"),
        ("step_vjp", ({}, None, None, np.zeros((3, 4))), "B=3, n_out=4, float64"),
        ("vjp", ({}, None, np.zeros((6, 3, 4)), None), "T=6, B=3, n_out=4, float64"),
        ("initial_state", ({}, 8), "B=8"),
        ("tracing the step", (np.zeros(3), np.zeros((3, 2))), "B=3, n_in=2, float64"),
        ("forward", ({},), ""),
        ("step", ({}, None, "no array"), ""),
        ("anything", (), ""),
    ],
)
def test_sizes_are_told_as_far_as_arguments_tell_them(
    what: str, args: tuple[object, ...], text: str
) -> None:
    assert sizes(what, args) == text


def test_the_innermost_line_of_the_users_is_found_in_a_stack(tmp_path: Path) -> None:
    library = Path(os.__file__).parent
    (tmp_path / STACK).write_text(
        "Fatal Python error: Segmentation fault\n\n"
        'Thread 0x1 (most recent call first):\n  File "/x/other.py", line 1 in run\n\n'
        "Current thread 0x2 (most recent call first):\n"
        f'  File "{library}/ctypes/__init__.py", line 519 in string_at\n'
        '  File "/somewhere/cell.py", line 12 in step_vjp\n'
        '  File "/somewhere/cell.py", line 3 in outer\n'
    )
    assert isolated._place(tmp_path) == "cell.py:12 in step_vjp"
    assert isolated._place(tmp_path / "nowhere") == ""


def test_an_order_and_a_result_survive_the_way_through_json() -> None:
    asked = order("lstm", sizes=((3, 4),), strict=True)
    assert Order.from_dict(json.loads(json.dumps(asked.to_dict()))) == asked
    found = JudgedTarget("lstm", "passed", True, "text", {"a": 1}, ("id",), ("line",), (), "note")
    assert JudgedTarget.from_dict(json.loads(json.dumps(found.to_dict()))) == found
