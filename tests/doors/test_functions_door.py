"""Functions on the command line: pairs, losses with gradients, subjects made in the file."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from bpttcheck.cli.github import locate
from bpttcheck.cli.targets import load

Cli = Callable[..., Result]

SIGNATURE = "x: N T D, h0: N H, Wx: D H, Wh: H H, b: H -> h: N T H"

CODE = """
import numpy as np
from bpttcheck import adapt, cells

def forward(x, h0, Wx, Wh, b):
    h, prev = np.zeros((*x.shape[:2], h0.shape[1]), x.dtype), h0
    for t in range(x.shape[1]):
        prev = np.tanh(x[:, t] @ Wx + prev @ Wh + b)
        h[:, t] = prev
    return h, (x, h0, Wx, Wh, h)

def _backward(dh, cache, late):
    x, h0, Wx, Wh, h = cache
    dx, carry = np.zeros_like(x), np.zeros_like(h0)
    dWx, dWh, db = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros_like(Wx[0])
    for t in reversed(range(x.shape[1])):
        dz = (dh[:, t] + carry) * (1 - h[:, t] ** 2)
        before = h[:, t - 1] if t else h0
        dx[:, t], carry = dz @ Wx.T, dz @ Wh.T
        dWx += x[:, t].T @ dz
        dWh += (h[:, t] if late else before).T @ dz
        db += dz.sum(axis=0)
    return dx, carry, dWx, dWh, db

def backward(dh, cache):
    return _backward(dh, cache, False)

def late(dh, cache):
    return _backward(dh, cache, True)

def loss(x, W):
    h = np.tanh(x @ W)
    return 0.5 * np.sum(h ** 2), x.T @ (h * (1 - h ** 2)), None

Wg, bg = None, np.zeros(3)

def rnn(x):
    h = np.tanh(x @ Wg + bg)
    return h, (x, h)

def rnn_backward(dh, cache):
    x, h = cache
    dz = dh * (1 - h ** 2)
    return dz @ Wg.T, x.T @ dz, dz.sum(axis=0)

def rnn_wrong(dh, cache):
    dx, dWg, dbg = rnn_backward(dh, cache)
    return dx, dWg, dbg * Wg.shape[1]

def hangs(dh, cache):
    while True:
        pass

cell = cells.Elman()
layer = cells.Elman
ready = adapt.from_vjp(forward, late, "SIGNATURE")
""".replace("SIGNATURE", SIGNATURE)


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("BPTTCHECK_ISOLATE", "0")
    Path("code_of_mine.py").write_text(textwrap.dedent(CODE))
    return "code_of_mine.py"


def test_a_right_pair_passes(cli: Cli, code: str) -> None:
    result = cli("verify", f"{code}:forward+backward", "--signature", SIGNATURE, "--examples", "4")
    assert result.exit_code == 0, result.output
    assert "PASSED  forward: 6 checks" in result.stdout


def test_a_wrong_pair_fails_at_its_own_line(
    cli: Cli, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = cli(
        "verify", f"{code}:forward+late", "--signature", SIGNATURE, "--grads",
        "dx, dh0, dWx, dWh, db", "--check", "vjp", "--examples", "4",
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    line = CODE.splitlines().index("def late(dh, cache):") + 1
    assert f"::error file={code},line={line},title=forward%3A dWh (vjp)" in result.stdout
    assert "-db" not in result.stdout


def test_one_function_is_a_loss_with_gradients(cli: Cli, code: str) -> None:
    result = cli(
        "verify", "--json", f"{code}:loss", "--signature", "x: N D, W: D H", "--returns",
        "loss, dW, _", "--examples", "4", "--check", "vjp",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (report,) = json.loads(result.stdout)["reports"]
    assert report["subject"] == "loss"
    assert [check["name"] for check in report["checks"]] == ["vjp"]
    assert any("x" in name for name in report["unchecked"])


def test_the_arguments_of_a_file_are_judged_alone_whatever_their_order(cli: Cli, code: str) -> None:
    rng = np.random.default_rng(0)
    shapes = {"b": 3, "Wh": (3, 3), "Wx": (2, 3), "h0": (4, 3), "x": (4, 5, 2)}
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    np.savez("point.npz", allow_pickle=False, **arrays)
    result = cli(
        "verify", "--json", f"{code}:forward+late", "--at", "point.npz", "--check", "vjp"
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    (report,) = json.loads(result.stdout)["reports"]
    assert (report["examples"], report["dtypes"]) == (10, ["float64"])
    assert report["findings"][0]["block"] == "d_Wh"


@pytest.mark.nightly
def test_a_process_of_its_own_gets_the_same_options(cli: Cli, code: str) -> None:
    result = cli(
        "verify", f"{code}:forward+late", "--signature", SIGNATURE, "--isolate", "--examples", "2",
        "--check", "vjp",
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    assert "FAILED  forward: d_Wh (vjp)" in result.stdout


def test_where_a_function_hangs_is_said_with_its_inputs(cli: Cli, code: str) -> None:
    result = cli(
        "verify", f"{code}:forward+hangs", "--signature", SIGNATURE, "--isolate", "--timeout", "1"
    )
    assert result.exit_code == 3, result.output
    words = " ".join(result.stdout.split())
    assert "(hangs; x (" in words
    assert "in hangs)" in words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["forward+backward"], "add --signature"),
        (["forward"], "FORWARD+BACKWARD"),
        (["forward+no", "--signature", SIGNATURE], "has no 'no'"),
        (["forward+backward+loss", "--signature", SIGNATURE], "FORWARD+BACKWARD"),
        (["forward+", "--signature", SIGNATURE], "FORWARD+BACKWARD"),
        (["forward+cell", "--signature", SIGNATURE], "cell, a Elman, is no function"),
        (["ready", "--signature", SIGNATURE], "ready, a Function, is no function"),
        (["cell", "--grads", "dx"], "leave it out"),
        (["forward+backward", "--signature", SIGNATURE, "--returns", "loss"], "--returns belongs"),
        (["loss", "--signature", "x: N D, W: D H", "--grads", "dx"], "--grads belongs"),
        (["ready", "--reference", "lstm"], "--reference names what a cell"),
    ],
)
def test_errors_say_what_to_write(cli: Cli, code: str, arguments: list[str], words: str) -> None:
    target, *rest = arguments
    result = cli("verify", f"{code}:{target}", *rest)
    assert result.exit_code == 2
    assert words in result.stderr, result.output


def test_sizes_of_cells_are_left_out_and_that_is_said(cli: Cli, code: str) -> None:
    result = cli(
        "verify", f"{code}:loss", "--signature", "x: N D, W: D H where D in 3", "--examples", "2",
        "--check", "vjp", "--lengths", "1,2", "--sizes", "3x4",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "note: lengths, sizes left out" in result.stderr
    assert "D 3..3" in result.stdout


def test_a_builtin_takes_no_signature(cli: Cli, code: str) -> None:
    result = cli("verify", "lstm", "--signature", SIGNATURE)
    assert result.exit_code == 2
    assert "a built-in cell is no function" in result.stderr


def test_a_subject_made_in_the_file_works_as_it_is(code: str) -> None:
    subject = load(f"{code}:ready").subject
    assert subject.methods == ("forward", "late")
    place = locate(subject, "forward")
    assert place is not None
    assert place[1] == CODE.splitlines().index("def forward(x, h0, Wx, Wh, b):") + 1


def test_what_an_adapter_made_of_an_object_has_no_line() -> None:
    from bpttcheck.adapt import from_object

    assert locate(from_object(lambda p: p, {"W": "D H"}, "N D"), "backward") is None


@pytest.mark.parametrize(
    "reference", ["elman[relu]", "code_of_mine.py:cell", "code_of_mine.py:layer"]
)
def test_a_reference_is_named_like_a_target(cli: Cli, code: str, reference: str) -> None:
    Path("fused.py").write_text(
        "from bpttcheck import cells\nfrom bpttcheck.bptt.layer import CellLayer\n"
        "class Fused(CellLayer):\n    def __init__(self): super().__init__(cells.Elman())\n"
    )
    result = cli(
        "verify", "fused.py:Fused", "--reference", reference, "--examples", "2", "--check",
        "sequence_vjp",
    )  # fmt: skip
    assert result.exit_code == (1 if "relu" in reference else 0), result.output


def test_bugs_are_planted_in_the_source_of_the_backward_function(cli: Cli, code: str) -> None:
    Path("small.py").write_text(
        "import numpy as np\n"
        "def forward(x, W, c):\n    h = np.tanh(x @ W)\n    return h, (x, W, h)\n\n"
        "def backward(dh, cache):\n    x, W, h = cache\n    dz = dh * (1 - h**2)\n"
        "    return dz @ W.T, x.T @ dz, None\n\n"
        "def wrong(dh, cache):\n    x, W, h = cache\n    return dh @ W.T, x.T @ dh, None\n\n"
        "def loops(dh, cache):\n    while False:\n        pass\n    return backward(dh, cache)\n"
    )
    signature = ("--signature", "x: N D, W: D H, c: D -> h: N H", "--examples", "4")
    result = cli("selftest", "--json", "--all", "small.py:forward+backward", *signature)
    assert result.exit_code == 0, result.output
    planted = json.loads(result.stdout)["planted"]
    assert {one["family"] for one in planted} == {"source"}
    caught = [one["name"] for one in planted if one["outcome"] == "caught"]
    assert len(caught) > 10
    assert any("without the factor" in name for name in caught), caught
    for target, words in (
        ("small.py:forward+wrong", "itself fails the check"),
        ("small.py:forward+loops", "has a `while` loop"),
    ):
        refused = cli("selftest", target, *signature)
        assert refused.exit_code == 2
        assert words in refused.stderr
    refused = cli("selftest", "small.py:forward+backward", *signature, "--family", "sign")
    assert refused.exit_code == 2
    assert "only the family 'source' is planted" in refused.stderr


@pytest.mark.nightly
def test_bugs_are_planted_in_the_gradients_of_a_loss_and_not_in_the_loss(
    cli: Cli, code: str
) -> None:
    Path("lossy.py").write_text(
        "import numpy as np\n"
        "def loss(x, W):\n    h = np.tanh(x @ W)\n    value = 0.5 * np.sum(h**2)\n"
        "    dz = h * (1 - h**2)\n    return value, x.T @ dz, dz @ W.T\n"
    )
    result = cli("selftest", "--json", "--all", "lossy.py:loss", "--signature", "x: N D, W: D H",
                 "--returns", "loss, dW, dx", "--examples", "3")  # fmt: skip
    assert result.exit_code == 0, result.output
    planted = json.loads(result.stdout)["planted"]
    lines = {one["name"].split()[2].rstrip(":") for one in planted}
    assert lines <= {"5", "6"}  # those above are of the loss
    assert "5" in lines
    caught = [one["name"] for one in planted if one["outcome"] == "caught"]
    assert len(caught) > 10
    assert any("without the factor 1 - h ** 2" in name for name in caught), caught


GLOBALS = ("--signature", "x: N D -> h: N H", "--globals", "Wg: D H, bg: H", "--grads",
           "dx, dWg, dbg", "--examples", "2", "--dtype", "float64")  # fmt: skip


def test_inputs_that_are_globals_are_named_by_an_option(code: str, cli: Cli) -> None:
    result = cli("verify", f"{code}:rnn+rnn_backward", *GLOBALS)
    assert result.exit_code == 0, result.output
    result = cli("verify", f"{code}:rnn+rnn_wrong", *GLOBALS, "--json")
    assert result.exit_code == 1
    (report,) = json.loads(result.stdout)["reports"]
    assert {finding["block"] for finding in report["findings"]} == {"dbg"}
    # The option is stored with the failure.
    result = cli("replay", report["stored"][0], "--target", f"{code}:rnn+rnn_wrong")
    assert result.exit_code == 1, result.output
    here = str(Path(code).resolve())
    found = [m for m in sys.modules.values() if getattr(m, "__bpttcheck_file__", "") == here]
    assert [module.Wg for module in found] == [None]  # what was there is there again


@pytest.mark.parametrize("text", ["Wg", "Wg: D H, 3: H", ": D"])
def test_globals_that_are_no_signature_are_refused(code: str, cli: Cli, text: str) -> None:
    result = cli("verify", f"{code}:rnn+rnn_backward", "--signature", "x: N D -> h: N H",
                 "--globals", text)  # fmt: skip
    assert result.exit_code == 2
    assert "should be a name and its axes" in result.output
