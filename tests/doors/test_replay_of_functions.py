"""A function's failure is stored, judged again on its very numbers, and shown by a script."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from bpttcheck import check, replay
from bpttcheck.adapt import from_grad, from_object, from_vjp, in_module
from bpttcheck.cli.targets import load
from bpttcheck.errors import ContractError

Cli = Callable[..., Result]

CODE = """
import numpy as np

def forward(x, W):
    h = np.tanh(x @ W)
    return h, (x, W, h)

def wrong(dh, cache):
    x, W, h = cache
    return dh * (1 - h ** 2) @ W.T, x.T @ (dh * (1 - h))

def right(dh, cache):
    x, W, h = cache
    return dh * (1 - h ** 2) @ W.T, x.T @ (dh * (1 - h ** 2))

def impure(dh, cache):
    x, W, h = cache
    dh *= 1 - h ** 2
    return dh @ W.T, x.T @ dh

def two(x, params, state, rate):
    h, c = state
    new = np.tanh(x @ params["W"] + h) * rate
    return new, c + new, [x, params, h, new / rate]

def two_back(saved, douts):
    x, params, h, y = saved
    dh, dc = douts
    dz = (dh + dc) * (1 - y ** 2)
    return {"dx": dz @ params["W"].T, "dstate": (dz, dc), "dparams": {"W": x.T @ dz}}

def tuple_loss(x, W):
    h = np.tanh(x @ W)
    return 0.5 * np.sum(h ** 2), x.T @ h
"""
TWO = "x: N D, params: {W: D H}, state: (N H, N H), rate = 0.5 -> h: N H, c: N H, saved"


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BPTTCHECK_ISOLATE", "0")
    Path("functions_of_mine.py").write_text(textwrap.dedent(CODE))
    return "functions_of_mine.py"


def stored(cli: Cli, target: str, *options: str) -> str:
    """The id of the failure that a target has."""
    result = cli(
        "verify", "--json", target, "--examples", "4", "--check", "vjp", "--dtype", "float64",
        *options,
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    return json.loads(result.stdout)["reports"][0]["stored"][0]


def run(name: str) -> tuple[int, str]:
    """A stored script in a process of its own, without bpttcheck in it."""
    done = subprocess.run(
        [sys.executable, f".bpttcheck/{name}.py"], capture_output=True, text=True, timeout=60
    )
    assert not done.stderr
    return done.returncode, done.stdout


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("functions", "options"),
    [
        ("forward+wrong", ("--signature", "x: N D, W: D H -> h: N H")),
        ("two+two_back", ("--signature", TWO)),
        ("tuple_loss", ("--signature", "x: N D, W: D H", "--returns", "loss, dW")),
    ],
)
def test_the_script_shows_the_number_beside_differences(
    cli: Cli, code: str, functions: str, options: tuple[str, ...]
) -> None:
    name = stored(cli, f"{code}:{functions}", *options)
    returned, text = run(name)
    assert returned == 1, text
    assert text.endswith("still wrong\n")
    assert "JAX" in text
    assert "h=1e-05" in text
    assert "import bpttcheck" not in Path(f".bpttcheck/{name}.py").read_text()


def test_a_replay_knows_the_signature_and_tells_right_from_wrong(cli: Cli, code: str) -> None:
    name = stored(cli, f"{code}:forward+wrong", "--signature", "x: N D, W: D H -> h: N H")
    still = cli("replay", name, "--target", f"{code}:forward+wrong")
    assert still.exit_code == 1, still.output
    assert "d_W of wrong" in still.output
    mended = cli("replay", name, "--target", f"{code}:forward+right")
    assert mended.exit_code == 0, mended.output
    other = cli(
        "replay", name, "--target", f"{code}:forward+right", "--signature", "x: D, W: D H -> h: H"
    )
    assert other.exit_code == 2
    assert "was stored for other inputs: x has the shape" in other.output
    cell = cli("replay", name, "--target", "lstm")
    assert cell.exit_code == 2
    assert "was found on a function, but LSTM() is a cell or a layer" in cell.output
    example = cli("replay", name, "--example")
    assert example.exit_code == 2
    assert "no @example" in example.output


def test_a_cell_s_failure_is_none_of_a_function(code: str) -> None:
    from bpttcheck import cells

    module = load(f"{code}:forward+right", {"signature": "x: N D, W: D H -> h: N H"}).subject

    class Wrong(cells.Elman):
        def step_vjp(self, params, cache, d_state, d_y):  # type: ignore[no-untyped-def]
            found = super().step_vjp(params, cache, d_state, d_y)
            return found[0], found[1], 2 * found[2]

    report = check(Wrong(), checks=["step_vjp"], examples=2, raises=False)
    (one, *_) = replay.store(report, "kept")
    with pytest.raises(ContractError, match="found on a cell or a layer, but forward is a func"):
        replay.rerun(one, module)


def test_a_failure_at_given_arguments_needs_their_file_no_more(cli: Cli, code: str) -> None:
    rng = np.random.default_rng(0)
    point = {"x": rng.standard_normal((3, 2)), "W": rng.standard_normal((2, 4))}
    np.savez("point.npz", allow_pickle=False, **point)
    signature = ("--signature", "x: N D, W: D H -> h: N H")
    name = stored(cli, f"{code}:forward+wrong", *signature, "--at", "point.npz")
    Path("point.npz").unlink()
    still = cli("replay", name, "--target", f"{code}:forward+wrong")
    assert still.exit_code == 1, still.output
    returned, text = run(name)
    assert returned == 1, text


def test_what_is_impure_is_found_again_without_a_script(cli: Cli, code: str) -> None:
    subject = load(f"{code}:forward+impure", {"signature": "x: N D, W: D H -> h: N H"}).subject
    report = check(subject, checks=["purity"], examples=2, raises=False)
    (one, *_) = replay.store(report, "kept", subject=subject)
    assert not list(Path("kept").glob("*.py"))
    assert not replay.rerun(replay.load(one.id, "kept"), subject).passed


def test_no_script_where_the_functions_have_no_place(code: str) -> None:
    module = load(f"{code}:forward+wrong", {"signature": "x: N D, W: D H -> h: N H"}).subject
    forward, wrong = module.forward_function, module.backward_function

    for subject in (
        from_vjp(lambda x, W: forward(x, W), wrong, "x: N D, W: D H -> h: N H"),
        from_object(_Net, {"W": "D H"}, "N D", y="N H"),
    ):
        report = check(subject, checks=["vjp"], examples=2, raises=False, dtypes=["float64"])
        (one, *_) = replay.store(report, "kept", subject=subject)
        assert not list(Path("kept").glob("*.py"))
        assert not replay.rerun(replay.load(one.id, "kept"), subject).passed


def test_globals_of_a_module_get_no_script_and_are_replayed(code: str) -> None:
    import types

    module = types.ModuleType("holder")

    def loss(x):  # type: ignore[no-untyped-def]
        h = np.tanh(x @ module.W)
        return 0.5 * np.sum(h**2), x.T @ h

    subject = from_grad(loss, "x: N D", returns="loss, dW", params=in_module(module, W="D H"))
    report = check(subject, checks=["vjp"], examples=2, raises=False, dtypes=["float64"])
    (one, *_) = replay.store(report, "kept", subject=subject)
    assert not list(Path("kept").glob("*.py"))
    assert not replay.rerun(replay.load(one.id, "kept"), subject).passed


def test_without_the_subject_it_is_stored_all_the_same(code: str) -> None:
    subject = load(f"{code}:forward+wrong", {"signature": "x: N D, W: D H -> h: N H"}).subject
    report = check(subject, checks=["vjp"], examples=2, raises=False, dtypes=["float64"])
    (one, *_) = replay.store(report, "kept")
    assert replay.load(one.id, "kept").finding.block == "d_W"


class _Net:
    """An object that keeps its gradients, one of them wrong."""

    def __init__(self, params):  # type: ignore[no-untyped-def]
        self.params = params

    def forward(self, x):  # type: ignore[no-untyped-def]
        self.x = x
        return x @ self.params["W"]

    def backward(self, dy):  # type: ignore[no-untyped-def]
        self.dW = 2 * self.x.T @ dy
        return dy @ self.params["W"].T
