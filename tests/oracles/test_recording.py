from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bpttcheck.oracles.branches import recording
from bpttcheck.oracles.branches.recording import Pattern, plain, record


def pattern_of(function: Callable[[Any], Any], *point: Any) -> Pattern:
    _, pattern = record(lambda leaves: [function(*leaves)], [np.asarray(p, float) for p in point])
    assert pattern is not None
    return pattern


def lstm(leaves: list[np.ndarray]) -> list[np.ndarray]:
    W, b, xs, h, c = leaves
    hs = []
    for x in xs:
        z = np.concatenate([x, h], axis=1) @ W.T + b
        i, f, o, g = np.split(z, 4, axis=1)
        i, f, o = (1 / (1 + np.exp(-v)) for v in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        hs.append(h)
    return [np.stack(hs), c]


def lstm_point(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    T, B, n_in, H = (int(n) for n in rng.integers(1, 6, 4))
    shapes = [(4 * H, n_in + H), (4 * H,), (T, B, n_in), (B, H), (B, H)]
    return [rng.standard_normal(shape) for shape in shapes]


def in_place_views(z: np.ndarray) -> np.ndarray:
    half = z[:, :2]
    half *= 0.5
    half += z[:, 2:]
    z[0] = -1.0
    z[z > 0.3] -= 0.1
    np.multiply(z, 2.0, out=z)
    return z


def scalars_are_not_changed_in_place(z: np.ndarray) -> np.ndarray:
    total = z.sum()
    before = total
    total += 1.0
    total *= 3.0
    total -= z[0, 0]
    total /= 7.0
    total **= 3
    return total - before


def loops_and_slices(z: np.ndarray) -> np.ndarray:
    out = np.empty_like(z)
    for k, row in enumerate(z):
        out[k] = row[::-1] / (1.0 + row @ row)
    return out


def linear_algebra(z: np.ndarray) -> np.ndarray:
    square = z @ z.T + 5 * np.eye(len(z))
    q, r = np.linalg.qr(square)
    s = np.linalg.svd(square, compute_uv=False)
    return q @ r + np.linalg.solve(square, z) @ z.T + np.linalg.inv(square) * s[0]


def normalised(z: np.ndarray) -> np.ndarray:
    return (z - z.mean(axis=1, keepdims=True)) / np.sqrt(z.var(axis=1, keepdims=True) + 1e-5)


IDIOMS: dict[str, Callable[[np.ndarray], Any]] = {
    "in_place_views": in_place_views,
    "scalars": scalars_are_not_changed_in_place,
    "loops_and_slices": loops_and_slices,
    "linear_algebra": linear_algebra,
    "normalised": normalised,
    "einsum": lambda z: np.einsum("ij,kj->ik", z, z),
    "where": lambda z: np.where(z > 0, z, 0.1 * z),
    "clip": lambda z: np.clip(z, -0.5, 0.5) + z.clip(0, 1),
    "reductions": lambda z: z.max(0) + np.min(z, 1).sum() + z.std() + np.median(z),
    "sorting": lambda z: np.sort(z, axis=1)[:, ::-1] + z[:, np.argsort(z[0])],
    "powers": lambda z: z**2 + z**3.0 + abs(z) ** 0.5 + z[0, 0] ** 2,
    "fft": lambda z: np.fft.irfft(np.fft.rfft(z, axis=1) * 2, n=z.shape[1], axis=1),
    "two_outputs": lambda z: np.modf(z)[0] + np.divmod(z, 0.7)[1],
    "outer": lambda z: np.multiply.outer(z[0], z[1]) + np.add.reduce(z, axis=0),
    "at": lambda z: np.add.at(z, ([0, 0], [1, 1]), 1.0) or z,
    "float_escape": lambda z: z * float(z[0, 0]) + z[0, 1].item(),
    "method_dot": lambda z: z.dot(z.T) + z[0].dot(z[1]),
    "astype": lambda z: z.astype(np.float32) * z.astype(int),
    "accumulate": lambda z: np.maximum.accumulate(z, axis=1),
}


@pytest.mark.parametrize("name", IDIOMS)
def test_a_recorded_run_has_the_bits_of_a_plain_run(name: str) -> None:
    z = np.random.default_rng(1).standard_normal((3, 4))
    before = z.copy()
    [mine], pattern = record(lambda leaves: [IDIOMS[name](leaves[0])], [z])
    [native] = plain(lambda leaves: [IDIOMS[name](leaves[0])], [z])
    assert pattern is not None
    assert type(mine) is np.ndarray
    assert mine.dtype == native.dtype
    assert mine.tobytes() == native.tobytes()
    np.testing.assert_array_equal(z, before)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**20))
def test_a_recorded_lstm_has_the_bits_of_a_plain_one_and_no_branches(seed: int) -> None:
    point = lstm_point(seed)
    mine, pattern = record(lstm, point)
    for a, b in zip(mine, plain(lstm, point), strict=True):
        assert a.tobytes() == b.tobytes()
    assert pattern is not None
    assert pattern.events == ()


# Each crosses its threshold between -1 and +1; the middle point lies exactly on it.
THRESHOLDS: dict[str, Callable[[np.ndarray], Any]] = {
    "maximum": lambda z: np.maximum(z, 0),
    "minimum": lambda z: np.minimum(0, z),
    "fmax": lambda z: np.fmax(z, 0),
    "fmin": lambda z: np.fmin(z, 0),
    "greater": lambda z: z * (z > 0),
    "less_equal": lambda z: np.where(z <= 0, 0, z),
    "if": lambda z: z if z.sum() > 0 else 0 * z,
    "truth": lambda z: z * bool(np.maximum(z, 0)[0]),
    "masked_assignment": lambda z: np.put(z, np.flatnonzero(z < 0), 0.0) or z,
    "abs": abs,
    "fabs": np.fabs,
    "sign": np.sign,
    "copysign": lambda z: np.copysign(1.0, z),
    "heaviside": lambda z: np.heaviside(z, 0.5),
    "clip": lambda z: np.clip(z, 0, 9),
    "clip_above": lambda z: np.clip(z, None, 0),
    "method_clip": lambda z: z.clip(0),
    "max": lambda z: np.max(np.stack([z, 0 * z])),
    "method_min": lambda z: np.stack([z, 0 * z]).min(),
    "argmax": lambda z: np.array([z[0], -z[0]])[np.argmax(np.stack([z, -z]))],
    "argmax_of_stack": lambda z: np.stack([z, 0 * z]).argmax(),
    "argmin": lambda z: np.argmin(np.stack([z, 0 * z])),
    "sort": lambda z: np.sort(np.concatenate([z, 0 * z])),
    "argsort": lambda z: np.argsort(np.concatenate([z, 0 * z])),
    "argpartition": lambda z: np.argpartition(np.concatenate([z, 0 * z]), 1),
    "median": lambda z: np.median(np.concatenate([z, 0 * z, 0 * z + 9])),
    "percentile": lambda z: np.percentile(np.concatenate([z, 0 * z, 0 * z + 9]), 30),
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": lambda z: np.trunc(z + 4),
    "round": lambda z: np.round(z + 0.5),
    "floor_divide": lambda z: z // 3,
    "remainder": lambda z: z % 3,
    "astype_int": lambda z: (z + 4).astype(int),
    "astype_bool": lambda z: np.maximum(z, 0).astype(bool),
    "nonzero": lambda z: np.nonzero(np.maximum(z, 0))[0],
    "where_truth": lambda z: np.where(np.maximum(z, 0), 1.0, 2.0),
    "any": lambda z: np.any(np.maximum(z, 0)),
    "logical_not": lambda z: np.logical_not(np.maximum(z, 0)),
    "sqrt_of_square": lambda z: np.sqrt(z * z) * (z > 0),
    "hypot": lambda z: np.hypot(z, 0) * (z > 0),
    "piecewise": lambda z: np.piecewise(z, [z < 0, z >= 0], [0.0, lambda v: v]),
    "select": lambda z: np.select([z < 0, z >= 0], [0 * z, z]),
    "interp": lambda z: np.interp(z, [-5.0, 0.0, 5.0], [0.0, 0.0, 5.0]),
    "searchsorted": lambda z: np.searchsorted(np.array([-5.0, 0.0, 5.0]), z),
    "digitize": lambda z: np.digitize(z, np.array([-5.0, 0.0, 5.0])),
    "norm_1": lambda z: np.linalg.norm(np.concatenate([z, 0 * z + 3]), 1) * (z > 0),
    "norm_inf": lambda z: np.linalg.norm(np.concatenate([z + 2, 0 * z + 2]), np.inf),
    "accumulate": lambda z: np.maximum.accumulate(np.concatenate([0 * z, z])),
    "python_max": lambda z: max(z[0], 0.0),
}


@pytest.mark.parametrize("name", THRESHOLDS)
def test_the_two_sides_of_a_threshold_and_the_threshold_itself_differ(name: str) -> None:
    below, on, above = (pattern_of(THRESHOLDS[name], [s]) for s in (-0.4, 0.0, 0.4))
    assert below != above
    assert on != above
    assert on != below
    assert below == pattern_of(THRESHOLDS[name], [-0.3])
    assert above == pattern_of(THRESHOLDS[name], [0.3])
    away = on.difference(above)
    assert away is not None
    assert away.from_tie
    across = below.difference(above)
    assert across is not None
    assert not across.from_tie


finite = st.floats(-5, 5, allow_subnormal=False)


@settings(deadline=None, max_examples=60)
@given(arrays(float, (2, 3), elements=finite), arrays(float, (2, 3), elements=finite))
def test_patterns_of_a_relu_are_equal_exactly_when_the_signs_are(a: Any, b: Any) -> None:
    same = bool((np.sign(a) == np.sign(b)).all())
    relu_a, relu_b = (pattern_of(lambda z: np.maximum(z, 0), point) for point in (a, b))
    assert (relu_a == relu_b) is same
    assert (relu_a.difference(relu_b) is None) is same
    if same:
        assert hash(relu_a) == hash(relu_b)


@settings(deadline=None, max_examples=40)
@given(arrays(float, 4, elements=finite), arrays(float, 4, elements=finite))
def test_patterns_of_a_sort_are_equal_exactly_when_the_order_is(a: Any, b: Any) -> None:
    def ranks(z: np.ndarray) -> np.ndarray:
        return np.sign(z[:, None] - z[None, :])

    same = bool((ranks(a) == ranks(b)).all())
    assert (pattern_of(np.sort, a) == pattern_of(np.sort, b)) is same


def test_a_tie_that_no_perturbation_moves_is_the_same_pattern() -> None:
    def function(z: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.where(mask == 0, 0.0, np.maximum(z, 0))

    mask = np.array([0.0, 1.0])
    assert pattern_of(function, [1.0, 2.0], mask) == pattern_of(function, [1.1, 2.1], mask)


def test_nan_is_its_own_branch_and_breaks_nothing() -> None:
    assert pattern_of(np.abs, [np.nan]) == pattern_of(np.abs, [np.nan])
    assert pattern_of(np.abs, [np.nan]) != pattern_of(np.abs, [0.0])
    for function in THRESHOLDS.values():
        with np.errstate(invalid="ignore"):
            assert pattern_of(function, [np.nan]) == pattern_of(function, [np.nan])


def test_an_event_names_the_users_line() -> None:
    pattern = pattern_of(lambda z: np.max(z) + z.clip(0, 1), [1.0, 2.0])  # this very line
    assert [event.name for event in pattern.events] == ["maximum", "clip", "clip"]
    for event in pattern.events:
        assert "test_recording.py" in str(event)
        assert "this very line" in str(event)


def test_values_that_leave_numpy_are_reported_as_unseen() -> None:
    def function(z: np.ndarray) -> np.ndarray:
        return z if float(z[0]) > 0 and z.tolist() and z[0].item() and int(z[0]) else -z

    unseen = pattern_of(function, [3.0]).unseen
    assert [text.split(" at ")[0] for text in unseen] == [
        "float()",
        ".tolist()",
        ".item()",
        "int()",
    ]
    assert "test_recording.py" in unseen[0]
    assert pattern_of(np.tanh, [3.0]).unseen == ()


@pytest.mark.parametrize(
    "opaque",
    [
        lambda z: np.vectorize(lambda v: max(v, 0.0))(z),
        lambda z: np.linalg.norm(np.outer(z, z), np.inf),
        lambda z: np.maximum.outer(z, z),
    ],
)
def test_branches_that_cannot_be_looked_into_are_reported_as_unseen(opaque: Any) -> None:
    assert len(pattern_of(opaque, [1.0, 2.0]).unseen) == 1


def test_the_narrowest_precision_inside_is_seen_even_if_the_output_is_wide() -> None:
    assert pattern_of(lambda z: np.tanh(z.astype(np.float32)).astype(float), [1.0]).narrowest == 4
    assert pattern_of(np.tanh, [1.0]).narrowest == 8


class NoSubclass:
    def __call__(self, leaves: list[np.ndarray]) -> list[np.ndarray]:
        if type(leaves[0]) is not np.ndarray:
            raise TypeError("an exact ndarray, please")
        return [np.maximum(leaves[0], 0)]


def test_code_that_refuses_a_subclass_runs_without_a_pattern() -> None:
    [out], pattern = record(NoSubclass(), [np.array([1.0, -1.0])])
    assert pattern is None
    np.testing.assert_array_equal(out, [1.0, 0.0])


def test_an_error_of_the_code_itself_comes_through() -> None:
    def function(leaves: list[np.ndarray]) -> list[np.ndarray]:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        record(function, [np.ones(2)])


def test_the_code_cannot_change_the_point() -> None:
    point = [np.ones(3)]
    record(lambda leaves: [leaves[0].__imul__(5.0)], point)
    np.testing.assert_array_equal(point[0], np.ones(3))


def test_recordings_nest_and_threads_do_not_mix() -> None:
    def inner(leaves: list[np.ndarray]) -> list[np.ndarray]:
        return [np.abs(leaves[0])]

    seen: list[int] = []

    def outer(leaves: list[np.ndarray]) -> list[np.ndarray]:
        pattern = record(inner, leaves)[1]
        assert pattern is not None
        thread = threading.Thread(target=lambda: seen.append(len(record(inner, leaves)[1].events)))
        thread.start()
        thread.join()
        seen.append(len(pattern.events))
        return [np.sign(leaves[0])]

    pattern = record(outer, [np.ones(2)])[1]
    assert pattern is not None
    assert [event.name for event in pattern.events] == ["sign"]
    assert seen == [1, 1]


def test_a_recorder_that_noted_nothing_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "Recorded", np.ndarray)
    assert pattern_of(np.abs, [-1.0]) == pattern_of(np.abs, [1.0])
