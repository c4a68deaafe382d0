"""Which statements of a ``step_vjp`` are needed for which of its results."""

import ast
from pathlib import Path

import numpy as np
import pytest

from bpttcheck import cells
from bpttcheck.deferred.loop import slices
from bpttcheck.errors import Declined


class Spelled:
    """Everything at once: writes into views, loops, branches, texts, dicts that grow."""

    leaky = True

    def init(self, rng, n_in, n_hidden):
        return {"W": rng.standard_normal((2 * n_hidden, n_in)), "b": np.zeros(2 * n_hidden)}

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["b"]) // 2))

    def step(self, params, h, x):
        a = x @ params["W"].T + params["b"]
        f, g = np.split(np.tanh(a), 2, axis=1)
        return f * h + g, f * h + g, (x, h, f, g)

    def step_vjp(self, params, cache, d_state, d_y):
        """The text goes."""
        x, h, f, g = cache
        d = d_state + d_y
        d_a = np.empty((len(x), 2 * f.shape[1]), x.dtype)
        d_f, d_g = np.split(d_a, 2, axis=1)
        d_f[:] = d * h * (1 - f**2)
        d_g[...] = d * (1 - g**2)
        d_params = {}
        for name, left in (("W", x), ("b", None)):
            if left is None:
                d_params[name] = d_a.sum(0)
            else:
                d_params[name] = d_a.T @ left
        if not self.leaky:
            raise ValueError
        if self.leaky:
            d_h = d * f
        else:
            d_h = 0 * d
        d_h, d_x = d_h * 1.0, d_a @ params["W"]
        d_x += 0
        return d_params, d_h, d_x


def test_only_what_is_needed_is_kept_and_views_are_known():
    text = slices(Spelled()).text
    assert [line.strip() for line in text.splitlines()[1:]] == [
        "x, h, f, g = cache",
        "d = d_state + d_y",
        "if not self.leaky:",
        "raise ValueError",
        "if self.leaky:",
        "d_h = d * f",
        "else:",
        "d_h = 0 * d",
        "d_h = d_h * 1.0",
        "return d_h",
    ]


class Swapped(Spelled):
    """Names that change places, stars, lists of another length, attributes that are written."""

    def step_vjp(self, params, cache, d_state, d_y):
        (x, h), *(f, g) = (cache[0], cache[1]), cache[2], cache[3]
        f, g = g, f
        g, f = f, g
        [d, one], self.seen = (d_state + d_y, 1.0), x
        d_g, (f, g) = d * (1 - f**2) * h, (f * one, g)
        kept = np.empty_like(x)
        kept.flags.writeable = True
        d_a = np.hstack([d_g, d * (1 - g**2)])
        return {"W": d_a.T @ x, "b": d_a.sum(0)}, d * f, d_a @ params["W"]


@pytest.mark.parametrize("make", [Spelled, Swapped, cells.LSTM, cells.GRUResetBefore, cells.Elman])
def test_both_parts_give_the_results_of_the_whole(make):
    rng = np.random.default_rng(0)
    cell = make()
    params = cell.init(rng, 3, 4)
    state, y, cache = cell.step(params, cell.initial_state(params, 2), rng.standard_normal((2, 3)))
    parts = slices(cell)
    d_params, d_state, d_x = cell.step_vjp(params, cache, state, y)
    found = parts.flowing(params, cache, state, y)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(d_state))
    found, found_x = parts.summed(params, cache, state, y)
    np.testing.assert_array_equal(found_x, d_x)
    for name, value in d_params.items():
        np.testing.assert_array_equal(found[name], value)


class Carried(Spelled):
    def step_vjp(self, params, cache, d_state, d_y):
        x, h, f, _ = cache
        d, kept = d_state + d_y, []
        d_h = d * 0
        for _ in range(3):  # what one turn reads, the turn before it wrote
            d_h = d_h + d
            d = d * f

        def scale(of):
            return of * f

        kept.append(d)
        np.multiply(d, 1.0, out=d)
        unused = np.multiply(d, 1.0, out=d)  # noqa: F841
        d_a = np.hstack([scale(d) * h, d])
        return {"W": d_a.T @ x, "b": d_a.sum(0)}, scale(d_h + d), d_a @ params["W"]


def test_loops_keep_what_they_carry_and_functions_what_they_close_over():
    text = slices(Carried()).text
    assert "d = d * f" in text
    assert "return of * f" in text
    assert "unused = np.multiply(d, 1.0, out=d)" in text
    assert "hstack" not in text


class Delegates(cells.Elman):
    def step_vjp(self, params, cache, d_state, d_y):
        return super().step_vjp(params, cache, d_state, d_y)


class Twice(cells.Elman):
    def step_vjp(self, params, cache, d_state, d_y):
        if d_y is None:
            return {}, d_state, d_state
        return {}, d_state, d_y


@pytest.mark.parametrize("make", [Delegates, Twice])
def test_other_ends_are_declined_with_their_line(make):
    with pytest.raises(Declined, match="step_vjp does not end with its only return") as raised:
        slices(make())
    line = int(str(raised.value).partition("line ")[2].partition(";")[0])
    source = ast.parse(Path(__file__).read_text())
    assert line in [n.lineno for n in ast.walk(source) if isinstance(n, ast.Return)]


class Blocks(Spelled):
    def step_vjp(self, params, cache, d_state, d_y):
        x, h, f, g = cache
        with np.errstate(all="ignore"):
            d = d_state + d_y
            rows = d.sum(0)
        with np.errstate(all="ignore"):
            total = rows + 1
        d_f = d_g = d * (twice := 1 - g**2)
        if (d_f > 0).all():
            total = total + 1
        for _ in range(2):
            total = total + d
            if total is None:
                break
        count: int  # noqa: F842
        scratch = d_g * twice
        del scratch
        return {"W": np.hstack([d_f * h, d_g]).T @ x, "b": total}, d * f, d_f @ params["W"][:1]


def test_blocks_lose_what_is_not_needed_and_go_where_nothing_is_left():
    lines = [line.strip() for line in slices(Blocks()).text.splitlines()[1:]]
    assert lines == [
        "x, h, f, g = cache",
        "with np.errstate(all='ignore'):",
        "d = d_state + d_y",
        "return d * f",
    ]
