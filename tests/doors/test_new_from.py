"""``bpttcheck new --from``: what is proposed for functions that exist, and that it is run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from bpttcheck.cli.new_from import guess

Cli = Callable[..., Result]

LSTM = """
import numpy as np

def sigmoid(z):
    return 1 / (1 + np.exp(-z))

def lstm_forward(x, h0, Wx, Wh, b):
    N, T, D = x.shape
    H = h0.shape[1]
    h, caches = np.zeros((N, T, H), x.dtype), []
    prev, c = h0, np.zeros_like(h0)
    for t in range(T):
        a = x[:, t] @ Wx + prev @ Wh + b
        i, f = sigmoid(a[:, :H]), sigmoid(a[:, H:2 * H])
        o, g = sigmoid(a[:, 2 * H:3 * H]), np.tanh(a[:, 3 * H:])
        before, c = c, f * c + i * g
        caches.append((x[:, t], prev, before, c, i, f, o, g, Wx, Wh))
        prev = o * np.tanh(c)
        h[:, t] = prev
    return h, caches

def lstm_backward(dh, caches):
    N, T, H = dh.shape
    Wx, Wh = caches[0][8:]
    dx = np.zeros((N, T, Wx.shape[0]), dh.dtype)
    dWx, dWh, db = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros_like(Wx[0])
    carry, dc = np.zeros((N, H), dh.dtype), np.zeros((N, H), dh.dtype)
    for t in reversed(range(T)):
        x, prev, before, c, i, f, o, g, _, _ = caches[t]
        d = dh[:, t] + carry
        dc = dc + d * o * (1 - np.tanh(c) ** 2)
        da = np.concatenate([dc * g * i * (1 - i), dc * before * f * (1 - f),
                             d * np.tanh(c) * o * (1 - o), dc * i * (1 - g ** 2)], axis=1)
        dx[:, t], carry, dc = da @ Wx.T, da @ Wh.T, dc * f
        dWx += x.T @ da
        dWh += prev.T @ da
        db += da.sum(axis=0)
    return dx, carry, dWx, dWh, db
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arrays(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


@pytest.mark.nightly
def test_what_it_writes_for_an_lstm_passes_as_it_stands(cli: Cli, here: Path) -> None:
    Path("lstm_of_mine.py").write_text(LSTM)
    result = cli("new", "--from", "lstm_of_mine.py:lstm_forward+lstm_backward")
    assert result.exit_code == 0, result.output
    assert "guessed: no arguments were seen" in result.output
    text = Path("test_lstm_forward.py").read_text()
    assert '"x: N T D, h0: N H, Wx: D 4H, Wh: H 4H, b: 4H -> h: N T H, caches"' in text
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--bpttcheck-examples=2"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    again = cli("new", "--from", "lstm_of_mine.py:lstm_forward+lstm_backward")
    assert again.exit_code == 2
    assert "exists already" in again.output


def test_shapes_that_were_seen_tell(cli: Cli, here: Path) -> None:
    Path("net.py").write_text(
        "import numpy as np\n"
        "def loss(tokens, h, W, scale, layers):\n"
        "    L, dW = 1.0 * scale, W\n    return L, dW, h\n"
        "args = (np.array([0, 3, 1]), np.zeros((5, 1)), np.zeros((5, 5)), 0.5, 2)\n"
    )
    result = cli("new", "--from", "net.py:loss", "--dir", "tests")
    assert result.exit_code == 0, result.output
    text = (here / "tests" / "test_loss.py").read_text()
    assert 'SIGNATURE = "tokens: T < 4, h: H 1, W: H H, scale:, layers = 2"' in text
    assert 'adapt.from_grad(loss, SIGNATURE, returns="loss, dW, _")' in text
    assert "H is axis 0 of h, here 5" in result.output
    assert "tokens" in result.output


def test_a_file_of_arguments_is_read_in_any_order(cli: Cli, here: Path) -> None:
    Path("net.py").write_text("def f(x, W):\n    return x @ W, [x]\ndef g(d, c): ...\n")
    np.savez("seen.npz", allow_pickle=False, **arrays(W=(3, 6), x=(2, 7, 3)))
    result = cli("new", "--from", "net.py:f+g", "--at", "seen.npz")
    assert result.exit_code == 0, result.output
    text = Path("test_f.py").read_text()
    assert 'SIGNATURE = "x: N T D, W: D H -> out0: N T H, cache"' in text


def test_tokens_are_below_the_size_that_only_weights_have() -> None:
    def loss(tokens, h, Wxh, Whh):  # type: ignore[no-untyped-def]
        dWxh = Wxh
        return 1.0, dWxh

    values = {"tokens": np.array([0, 4]), **arrays(h=(7, 1), Wxh=(7, 5), Whh=(7, 7))}
    found = guess(loss, values, is_pair=False)
    assert found.signature == "tokens: T < V, h: H 1, Wxh: H V, Whh: H H"
    assert found.returns == "loss, dWxh"


def test_equal_sizes_are_said() -> None:
    found = guess(lambda x, W: (x @ W, 1), arrays(x=(4, 4, 3), W=(3, 4)), is_pair=True)
    assert found.signature.startswith("x: N N D, W: D N ->")
    assert any("axis 1 of x got the letter N" in remark for remark in found.remarks)


def test_containers_and_booleans_have_items_too() -> None:
    values = {
        "x": np.zeros((2, 5)),
        "params": {"W": np.zeros((5, 9)), "b": [np.zeros(9), np.zeros(27)]},
        "mask": np.zeros((2, 9), bool),
        "state": (np.zeros((2, 9)),),
    }
    found = guess(lambda x, params, mask, state: x @ params["W"], values, is_pair=True)
    assert found.signature == (
        "x: N D, params: {W: D H, b: [H, 3H]}, mask: N H bool, state: (N H) -> out0: N H"
    )


def test_the_usual_axes_are_tried_where_nothing_was_seen() -> None:
    def forward(x, h, W, Wh, b):  # type: ignore[no-untyped-def]
        hidden = np.tanh(x @ W + h @ Wh + b)
        return hidden, ("kept", hidden)

    found = guess(forward, None, is_pair=True)
    signature = "x: T N D, h: N H, W: D H, Wh: H H, b: H -> hidden: T N H, cache"
    assert found.signature == signature
    assert any("the first usual axes with which it runs" in remark for remark in found.remarks)


def test_what_has_no_name_gets_one() -> None:
    kept = guess(lambda x, W: (x @ W, [x]), arrays(x=(4, 3), W=(3, 2)), is_pair=True)
    assert kept.signature.endswith("-> out0: N H, cache")
    compiled = guess(np.sum, (np.zeros((2, 3)),), is_pair=True)
    assert compiled.signature.endswith("-> out0:")

    def named(x):  # type: ignore[no-untyped-def]
        saved = [x]
        return 2 * x, saved

    found = guess(named, (np.zeros((2, 3)),), is_pair=True)
    assert found.signature.endswith("-> out0: N D, saved")
    assert "saved is handed to the backward pass as it is" in found.remarks
    assert guess(lambda x: {"loss": 1.0}, (np.zeros(2),), is_pair=False).returns == ""
    assert guess(lambda x: (x, 1.0), (np.zeros(2),), is_pair=False).returns == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def example(): return (1.0,)", "1 arguments were given, but the function takes x, y"),
        ("args = (1.0, 2.0)", "f raised KeyError: 'x', with the arguments that were given"),
    ],
)
def test_arguments_in_the_module_are_looked_at(cli: Cli, here: Path, text: str, words: str) -> None:
    Path("net.py").write_text(f"def f(x, y):\n    raise KeyError('x')\n{text}\n")
    result = cli("new", "--from", "net.py:f")
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "net.py:f+g", "Name"], "NAME is for a new cell"),
        ([], "name a new cell"),
        (["Name", "--at", "seen.npz"], "--at goes with --from"),
        (["--from", "lstm"], "expected path/file.py:FUNCTION"),
        (["--from", "net.py:f+h"], "has no 'h'"),
        (["--from", "net.py:f+g"], "runs with none of the usual axes"),
        (["--from", "net.py:f+g", "--at", "none.npz"], "none.npz is no .npz file"),
        (["--from", "net.py:f+g", "--at", "seen.npz"], "there is no argument 'y'"),
    ],
)
def test_errors_say_what_to_do(cli: Cli, here: Path, arguments: list[str], words: str) -> None:
    Path("net.py").write_text("def f(x, y):\n    raise KeyError('x')\ndef g(d): ...\n")
    np.savez("seen.npz", allow_pickle=False, x=np.zeros(2))
    result = cli("new", *arguments)
    assert result.exit_code == 2
    assert words in result.output
