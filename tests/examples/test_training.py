"""Training on gradients derived by hand is training on those of JAX, to rounding."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bpttcheck.networks import Batch

ROOT = Path(__file__).parents[2]
TRAINING = ROOT / "examples" / "training"
EXAMPLES = ("adding", "characters")
STEPS = 200
PUBLIC = {"bpttcheck.cells", "bpttcheck.networks"}


@pytest.fixture(scope="module")
def files():
    """The modules of the example, which import one another as scripts do."""
    names = [path.stem for path in TRAINING.glob("*.py")]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TRAINING))
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in names:
        del sys.modules[name]


# A training runs JAX eight times beside the gradients by hand: one of the two in every run.
@pytest.fixture(
    scope="module", params=["adding", pytest.param("characters", marks=pytest.mark.nightly)]
)
def result(files, request):
    return files.show.compare(getattr(files, request.param).TASK, STEPS)


def walks(curves, rng, steps=STEPS):
    """Curves that nothing tells apart: random walks about a common one."""
    return 1.0 + 1e-12 * np.cumsum(rng.standard_normal((steps, curves)), axis=0)


def truncated(network, k):
    """Gradients that do not flow back past the k-th step, with the right losses."""

    def gradients(runs, batch):
        (params,) = runs
        state = network.initial_state(params, batch.xs.shape[1])
        _, state, _ = network.forward(params, batch.xs[:k], state)
        last = network.readout == "last"
        windows = [Batch(batch.xs[k:], batch.targets if last else batch.targets[k:], state0=state)]
        if not last:
            windows.insert(0, Batch(batch.xs[:k], batch.targets[:k]))
        shares = [1.0] if last else [len(one.xs) / len(batch.xs) for one in windows]
        judged = [network.loss_and_gradient(params, one) for one in windows]
        d_params = {
            name: sum(s * of.d_params[name] for s, (_, of) in zip(shares, judged, strict=True))
            for name in params
        }
        return [(network.loss_and_gradient(params, batch).loss, d_params)]

    return gradients


@pytest.mark.nightly
def test_the_curve_by_hand_stays_in_the_band_of_jax(result):
    assert result.jax.losses.shape == (STEPS, 8)
    assert result.jax.leaves(result.hand) is None, result.jax.reach(result.hand).max()


@pytest.mark.nightly
def test_each_run_of_jax_stays_in_the_band_of_the_others(result):
    assert [band.leaves(curve) for band, curve in result.jax.of_the_others()] == [None] * 8
    assert len(np.unique(result.jax.losses[-1])) > 1


def test_a_factor_of_one_block_leaves_the_band(result):
    step = result.jax.leaves(result.wrong)
    assert step is not None
    assert step < 10
    assert result.jax.reach(result.wrong).max() > 100


@pytest.mark.parametrize(("k", "leaves"), [(0, False), (1, True)], ids=["whole", "truncated"])
def test_gradients_that_stop_one_step_early_leave_the_band(files, result, k, leaves):
    task, steps = result.task, 10
    jax = files.envelope.Envelope(result.jax.losses[:steps], task.terms)
    gradients = truncated(task.network, k) if k else files.runs.by_hand(task.network)
    batches = task.batches(0, STEPS)[:steps]
    losses, _ = files.runs.train(task, [task.start(0)], batches, gradients, "")
    assert (jax.leaves(losses[:, 0]) is not None) == leaves


def test_something_is_learned_but_not_more_than_there_is(result):
    know_nothing, *know_all = result.task.baselines.values()
    assert result.before > know_nothing
    assert max([0.0, *know_all]) < result.after < 0.25 * know_nothing


def test_the_text_is_the_same_every_time(files):
    assert files.characters.TEXT == files.characters.sentences(400)
    assert files.characters.TEXT.startswith(files.characters.sentences(3))


def test_the_baseline_of_the_adding_problem_is_what_always_answering_one_loses(files):
    targets = np.concatenate([batch.targets for batch in files.adding.TASK.batches(0, 200)])
    assert np.mean((targets - 1) ** 2) == pytest.approx(1 / 6, rel=0.03)


def test_one_ulp_away_is_the_next_number(files):
    params = {"W": np.array([[1.0, -0.3, 0.0]]), "b": np.array(2.5)}
    runs = files.runs.one_ulp_away(params, 0)
    assert len(runs) == 8
    for run in runs:
        for name, value in params.items():
            assert (np.abs(run[name] - value) <= np.spacing(np.abs(value))).all()
            assert (run[name] != value).all()


def test_the_range_alone_is_left_two_times_in_nine_and_the_band_hardly_ever(files):
    rng = np.random.default_rng(0)
    inside, left = [], 0
    for _ in range(300):
        curves = walks(9, rng)
        jax = files.envelope.Envelope(curves[:, 1:], 1)
        inside.append(jax.within_range(curves[:, 0]))
        left += jax.leaves(curves[:, 0]) is not None
    assert np.mean(inside) == pytest.approx(7 / 9, abs=0.05)
    assert left <= 15


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_a_loss_far_off_or_not_a_number_is_outside_of_the_band(files, value):
    curves = walks(9, np.random.default_rng(0))
    jax = files.envelope.Envelope(curves[:, 1:], 1)
    curve = curves[:, 1:].mean(axis=1)
    assert jax.leaves(curve) is None
    curve[7] = value
    assert jax.leaves(curve) == 7


def test_the_band_is_as_wide_as_its_equations_say(files):
    jax = files.envelope.Envelope(np.array([[1.0, 1.5], [2.0, 2.25]]), 4)
    ulps = 2 * np.spacing([1.5, 2.25])
    np.testing.assert_array_equal(jax.width, 0.5 + ulps)
    assert jax.leaves(np.array([0.5, 2.75])) is None
    assert jax.leaves(np.array([0.5, 2.75 + 1e-12])) == 1


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_the_plot_is_drawn(files, tmp_path, ending):
    pytest.importorskip("matplotlib", reason="the plot is drawn by matplotlib")
    curves = walks(9, np.random.default_rng(0), steps=5)
    task = SimpleNamespace(title="walks", planted="W", baselines={"one": 1.0})
    jax = files.envelope.Envelope(curves[:, 1:], 1)
    result = SimpleNamespace(task=task, hand=curves[:, 0], wrong=curves[:, 0] + 1e-9, jax=jax)
    path = tmp_path / f"plot.{ending}"
    files.drawing.draw(result, path)
    assert path.read_bytes()[:5] in (b"<?xml", b"\x89PNG\r")


def test_a_plot_that_cannot_be_drawn_is_refused_before_training(files, tmp_path, monkeypatch):
    click = files.drawing.click
    with pytest.raises(click.ClickException, match=r"\.svg or \.png"):
        files.drawing.require_drawing(tmp_path / "plot.gif")
    with pytest.raises(click.ClickException, match="no folder"):
        files.drawing.require_drawing(tmp_path / "missing" / "plot.svg")
    monkeypatch.setattr(files.drawing, "find_spec", lambda name: None)
    with pytest.raises(click.ClickException, match=re.escape('pip install "bpttcheck[report]"')):
        files.drawing.require_drawing(tmp_path / "plot.svg")


def test_the_command_trains_prints_and_shows_no_bar_to_a_file():
    command = [sys.executable, str(TRAINING / "adding.py"), "--steps", "3", "--seed", "5"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert "the adding problem, 3 steps" in run.stdout
    assert re.search(r"gradients derived by hand +never", run.stdout)


@pytest.mark.parametrize("right", [True, False])
def test_the_exit_code_says_whether_the_curve_left_the_band(files, monkeypatch, capsys, right):
    curves = walks(9, np.random.default_rng(0), steps=5)
    jax = files.envelope.Envelope(curves[:, 1:], 1)
    hand = curves[:, 1] + (0.0 if right else 1e-9)
    task = SimpleNamespace(title="walks", planted="W", baselines={"one": 1.0})
    made = files.show.Result(task, 1.0, 0.5, hand, hand + 1e-9, jax)
    monkeypatch.setattr(files.show, "compare", lambda *given: made)
    monkeypatch.setattr(sys, "argv", ["walks"])
    with pytest.raises(SystemExit) as ended:
        files.show.command(task)
    assert int(ended.value.code) == (0 if right else 1)
    row = re.search(r"gradients derived by hand +(\w+)", capsys.readouterr().out[200:])
    assert row[1] == ("never" if right else "0")


@pytest.mark.parametrize("path", sorted(TRAINING.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_imports_nothing_private(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bpttcheck"):
            assert node.module in PUBLIC
            assert not any(alias.name.startswith("_") for alias in node.names)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_has_the_command_and_the_plot(name):
    page = (ROOT / "docs" / "how-to" / "training.md").read_text()
    assert f"python examples/training/{name}.py" in page
    assert f"](training/{name}.svg)" in page
    assert (ROOT / "docs" / "how-to" / "training" / f"{name}.svg").is_file()
