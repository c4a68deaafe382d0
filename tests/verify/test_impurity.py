"""Each way of not being a pure function is found, named, and not seen where there is none."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpttcheck.errors import ContractError
from bpttcheck.subject.user_code import Notes
from bpttcheck.subject.values import arrays, difference, different, same
from bpttcheck.verify.conduct.repeatability import impurities

T, B, N, H = 3, 2, 3, 4


class Pair(NamedTuple):
    h: np.ndarray
    c: np.ndarray


class Tanh:
    """h' = tanh(x W + h U + b), y = h'."""

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["b"])), params["b"].dtype)

    def step(self, params, state, x):
        h = np.tanh(x @ params["W"] + state @ params["U"] + params["b"])
        return h, h.copy(), {"x": x, "before": state, "h": h}

    def step_vjp(self, params, cache, d_state, d_y):
        d_z = (d_state + d_y) * (1 - cache["h"] ** 2)
        d_params = {"W": cache["x"].T @ d_z, "U": cache["before"].T @ d_z, "b": d_z.sum(0)}
        return d_params, d_z @ params["U"].T, d_z @ params["W"].T


class TanhLayer(Tanh):
    def forward(self, params, xs, state0, mask=None):
        state, caches = state0, []
        for x in xs:
            state, _, cache = Tanh.step(self, params, state, x)
            caches.append(cache)
        return np.array([cache["h"] for cache in caches]).reshape(*xs.shape[:2], H), state, caches

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs = (
            {k: np.zeros_like(v) for k, v in params.items()},
            np.zeros_like(d_ys[..., :N]),
        )
        for t in range(len(tape))[::-1]:
            step, d_state_T, d_xs[t] = Tanh.step_vjp(self, params, tape[t], d_state_T, d_ys[t])
            d_params = {k: d_params[k] + step[k] for k in params}
        return d_params, d_xs, d_state_T


class Packed(Tanh):
    """The same with a second part of the state, ``c' = c / 2``, packed in any way."""

    def __init__(self, pack, unpack, c=None):
        self.pack, self.unpack = pack, unpack
        self.c = np.ones((B, 1)) if c is None else c

    def initial_state(self, params, batch_size):
        return self.pack(super().initial_state(params, batch_size), self.c)

    def step(self, params, state, x):
        h, c = self.unpack(state)
        h, y, cache = super().step(params, h, x)
        return self.pack(h, (c / 2).astype(c.dtype)), y, cache

    def step_vjp(self, params, cache, d_state, d_y):
        d_h, d_c = self.unpack(d_state)
        d_params, d_h, d_x = super().step_vjp(params, cache, d_h, d_y)
        return d_params, self.pack(d_h, d_c / 2), d_x


def tuples():
    return Packed(lambda h, c: (h, c), lambda s: s)


def named():
    return Packed(Pair, lambda s: s)


def dicts():
    return Packed(lambda h, c: {"h": h, "c": c}, lambda s: (s["h"], s["c"]))


def counting():
    return Packed(lambda h, c: {"h": h, "c": c}, lambda s: (s["h"], s["c"]), np.zeros(B, int))


class Recorded(Tanh):
    """A cache of an own class, held by slots; a closure as its second part."""

    class Cache:
        __slots__ = ("inner", "unused")

        def __init__(self, inner):
            self.inner = inner

    def step(self, params, state, x):
        h, y, cache = super().step(params, state, x)
        return h, y, (self.Cache(cache), lambda: cache)

    def step_vjp(self, params, cache, d_state, d_y):
        return super().step_vjp(params, cache[0].inner, d_state, d_y)


class PassesThrough(Tanh):
    """Returns the very arrays that it was given: allowed, for it changes none."""

    def step(self, params, state, x):
        return state, state, None

    def step_vjp(self, params, cache, d_state, d_y):
        zeros = {key: np.zeros_like(value) for key, value in params.items()}
        return zeros, d_state, np.zeros((B, N), d_y.dtype)


class FillsItsCacheLazily(Tanh):
    """Adds an entry to the cache at the first backward call, which hurts nobody."""

    def step_vjp(self, params, cache, d_state, d_y):
        slope = cache.setdefault("slope", 1 - cache["h"] ** 2)
        assert slope.shape == d_y.shape
        return super().step_vjp(params, cache, d_state, d_y)


def problem(cell, kind, dtype="float64", seed=0, steps=T):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype(dtype)

    params = {"W": draw(N, H), "U": draw(H, H), "b": draw(H)}
    state = d_state = draw(B, H)
    d_state = draw(B, H)
    if isinstance(cell, Packed):
        c = draw(B, 1) if cell.c.dtype.kind == "f" else cell.c
        state, d_state = cell.pack(state, c), cell.pack(d_state, np.zeros_like(c))
    return params, draw(steps, B, N), state, draw(steps, B, H), d_state


def found(cell, kind="cell", dtype="float64", notes=None, **how):
    return impurities(cell, kind, *problem(cell, kind, dtype, **how), notes=notes)


GOOD = [Tanh, tuples, named, dicts, counting, Recorded, PassesThrough, FillsItsCacheLazily]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("make", GOOD)
def test_a_pure_cell_is_clean(make, dtype):
    assert found(make(), dtype=dtype) == []


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_pure_layer_is_clean(steps):
    assert found(TanhLayer(), "layer", steps=steps) == []


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), scale=st.sampled_from([0.0, 1e-30, 1.0, 1e4, 1e200]))
def test_a_pure_cell_is_clean_at_any_scale(seed, scale):
    params, *others = problem(Tanh(), "cell", seed=seed)
    params = {key: value * scale for key, value in params.items()}
    assert impurities(Tanh(), "cell", params, *others) == []


def test_not_a_number_equals_itself():
    params, xs, *others = problem(Tanh(), "cell")
    assert impurities(Tanh(), "cell", params, xs * np.nan, *others) == []


def test_the_callers_arrays_are_never_handed_out():
    given_ = problem(Tanh(), "cell")
    before = [np.copy(array) for array in (*given_[0].values(), *given_[1:])]
    impurities(ChangesEverything(), "cell", *given_)
    after = [*given_[0].values(), *given_[1:]]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_cell_needs_a_step():
    with pytest.raises(ValueError, match="T = 0"):
        found(Tanh(), steps=0)


def test_a_failure_of_the_first_call_is_a_contract_error():
    class Fails(Tanh):
        def step_vjp(self, params, cache, d_state, d_y):
            return None

    with pytest.raises(ContractError):
        found(Fails())


class ChangesEverything(Tanh):
    def step(self, params, state, x):
        out = super().step(params, state.copy(), x.copy())
        for array in (params["W"], state, x):
            array *= 2
        return out

    def step_vjp(self, params, cache, d_state, d_y):
        out = super().step_vjp(params, cache, d_state, d_y)
        for array in (params["b"], cache["h"], d_state, d_y):
            array += 1
        return out


def step_then(change):
    class Bad(Tanh):
        def step(self, params, state, x):
            out = Tanh.step(self, params, state, x)
            return change(self, params, state, x, out) or out

    return Bad


def vjp_then(change):
    class Bad(Tanh):
        def step_vjp(self, params, cache, d_state, d_y):
            out = Tanh.step_vjp(self, params, cache, d_state, d_y)
            return change(self, params, cache, d_state, d_y, out) or out

    return Bad


class StateInPlace(Packed):
    def __init__(self):
        super().__init__(lambda h, c: {"h": h, "c": c}, lambda s: (s["h"], s["c"]))

    def step(self, params, state, x):
        state["c"] *= 0.5
        h, y, cache = Tanh.step(self, params, state["h"], x)
        return {"h": h, "c": state["c"]}, y, cache


class StateReplaced(StateInPlace):
    def step(self, params, state, x):
        out = Packed.step(self, params, state, x)
        state["h"] = out[0]["h"]
        return out


class CotangentOfNamedState(Packed):
    def __init__(self):
        super().__init__(Pair, lambda s: s)

    def step_vjp(self, params, cache, d_state, d_y):
        out = super().step_vjp(params, cache, d_state, d_y)
        d_state.c[...] = 0
        return out


class ChangesWhatItReturned(Tanh):
    """The array in the cache is the new state as well."""

    def step_vjp(self, params, cache, d_state, d_y):
        out = super().step_vjp(params, cache, d_state, d_y)
        cache["h"][...] = 0
        return out


class UsesUp(Tanh):
    def step_vjp(self, params, cache, d_state, d_y):
        out = super().step_vjp(params, cache, d_state, d_y)
        cache.clear()
        return out


class UsesUpAStack(Tanh):
    """The tape is a list kept on self as well: a backward pops what forward pushed."""

    def step(self, params, state, x):
        h, y, cache = super().step(params, state, x)
        return h, y, [cache]

    def step_vjp(self, params, cache, d_state, d_y):
        return super().step_vjp(params, cache.pop(), d_state, d_y)


class OneBuffer(Tanh):
    """Writes every hidden state into the same array."""

    def step(self, params, state, x):
        if not hasattr(self, "buffer"):
            self.buffer = np.empty_like(state)
        h = np.tanh(x @ params["W"] + state @ params["U"] + params["b"], out=self.buffer)
        return h, h.copy(), {"x": x, "before": state, "h": h}


class OneBufferInCache(OneBuffer):
    def step(self, params, state, x):
        h, y, cache = super().step(params, state, x)
        return h.copy(), y, cache


class Closure(Tanh):
    """The cache is a closure, into which nobody can look."""

    def step(self, params, state, x):
        h, y, cache = super().step(params, state, x)
        return h, y, lambda: cache

    def step_vjp(self, params, cache, d_state, d_y):
        return super().step_vjp(params, cache(), d_state, d_y)


class HiddenStack(Closure):
    def step(self, params, state, x):
        h, y, cache = super().step(params, state, x)
        stack = [cache()]
        return h, y, stack.pop


class HiddenCache(Closure):
    def step_vjp(self, params, cache, d_state, d_y):
        out = super().step_vjp(params, cache, d_state, d_y)
        cache()["h"][...] = 0
        return out


class HiddenBuffer(Closure):
    def step(self, params, state, x):
        h, y, cache = super().step(params, state, x)
        if not hasattr(self, "buffer"):
            self.buffer = np.empty_like(h)
        self.buffer[...] = h
        cache()["h"] = self.buffer
        return h, y, cache


class OneGradientBuffer(Tanh):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, *others = super().step_vjp(params, cache, d_state, d_y)
        if not hasattr(self, "d_b"):
            self.d_b = np.empty_like(params["b"])
        self.d_b[...] = d_params["b"]
        return {**d_params, "b": self.d_b}, *others


class Accumulates(Tanh):
    """Adds up on self, as a framework's ``grad`` does."""

    total = 0.0

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, *others = super().step_vjp(params, cache, d_state, d_y)
        self.total = self.total + d_params["W"]
        return {**d_params, "W": self.total}, *others


class AccumulatesInPlace(OneGradientBuffer):
    def step_vjp(self, params, cache, d_state, d_y):
        if not hasattr(self, "d_b"):
            self.d_b = np.zeros_like(params["b"])
        d_params, *others = Tanh.step_vjp(self, params, cache, d_state, d_y)
        self.d_b += d_params["b"]
        return {**d_params, "b": self.d_b}, *others


class RemembersLastInput(Tanh):
    """``step_vjp`` reads x from self: right as long as backward follows at once."""

    def step(self, params, state, x):
        self.x = x
        return super().step(params, state, x)

    def step_vjp(self, params, cache, d_state, d_y):
        return super().step_vjp(params, {**cache, "x": self.x}, d_state, d_y)


class RemembersLastParams(Tanh):
    def step(self, params, state, x):
        self.params = params
        return super().step(params, state, x)

    def step_vjp(self, params, cache, d_state, d_y):
        return super().step_vjp(self.params, cache, d_state, d_y)


class KeepsItsState(Tanh):
    """Keeps the hidden state on self, so that a call depends on the one before."""

    last = 0.0

    def step(self, params, state, x):
        out = super().step(params, state + 0.1 * self.last, x)
        self.last = out[0]
        return out


class ChangesWithOtherInputs(Tanh):
    """A running extreme of the inputs: the same for repeated calls, other after other inputs."""

    largest = -np.inf

    def step(self, params, state, x):
        self.largest = max(self.largest, float(x.max()))
        h, y, cache = super().step(params, state, x)
        return h, y * self.largest, cache


class CountsCalls(Tanh):
    calls = 0

    def step_vjp(self, params, cache, d_state, d_y):
        self.calls += 1
        d_params, d_state, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_state / self.calls, d_x


class Dropout(Tanh):
    rng = np.random.default_rng(0)

    def step(self, params, state, x):
        h, y, cache = super().step(params, state, x)
        return h, y * (self.rng.random(y.shape) < 0.5), cache


class RandomBackward(Tanh):
    rng = np.random.default_rng(0)

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_state, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_state, d_x + 1e-12 * self.rng.normal(size=d_x.shape)


class LastDigits(Tanh):
    calls = 0

    def step(self, params, state, x):
        self.calls += 1
        h, y, cache = super().step(params, state, x)
        return h, np.nextafter(y, 2) if self.calls == 2 else y, cache


class BreaksTheSecondTime(Tanh):
    used = False

    def step(self, params, state, x):
        if self.used:
            raise RuntimeError("already called")
        self.used = True
        return super().step(params, state, x)


class WideGradient(Tanh):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_state, d_x = super().step_vjp(params, cache, d_state, d_y)
        return {**d_params, "U": d_params["U"] * np.float64(1)}, d_state, d_x * np.sqrt(2.0)


class WideOutput(Tanh):
    def step(self, params, state, x):
        h, y, cache = super().step(params, state, x)
        return h, y * np.sqrt(2.0), cache


class CastsItsArgument(Tanh):
    def step(self, params, state, x):
        out = super().step(params, state, x)
        x.shape = (-1,)
        return out


class SpoilsParamsAtStart(Tanh):
    def initial_state(self, params, batch_size):
        params["b"][...] = 0
        return super().initial_state(params, batch_size)


class EmptiesOldCaches(Tanh):
    """Drops the caches of other parameters, as if training had moved on."""

    def __init__(self):
        self.kept = []

    def step(self, params, state, x):
        h, y, cache = super().step(params, state, x)
        for old in self.kept:
            if old and not np.array_equal(old["b"], params["b"]):
                old.clear()
        self.kept.append({**cache, "b": params["b"]})
        return h, y, self.kept[-1]


class LargestCotangent(Tanh):
    """Divides by the largest cotangent that it has met so far."""

    largest = 0.0

    def step_vjp(self, params, cache, d_state, d_y):
        self.largest = max(self.largest, float(np.abs(d_y).max()))
        d_params, d_state, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_state, d_x / self.largest


class RefusesAfterOthers(Tanh):
    first, spoilt = None, False

    def step_vjp(self, params, cache, d_state, d_y):
        if self.spoilt:
            raise RuntimeError("spoilt")
        self.first = d_y.copy() if self.first is None else self.first
        self.spoilt = not np.array_equal(d_y, self.first)
        return super().step_vjp(params, cache, d_state, d_y)


class FailsSecondBackward(Tanh):
    calls = 0

    def step_vjp(self, params, cache, d_state, d_y):
        self.calls += 1
        return super().step_vjp(params, cache, d_state, d_y) if self.calls != 2 else None


class FailsSecondStart(Tanh):
    calls = 0

    def initial_state(self, params, batch_size):
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("only once")
        return super().initial_state(params, batch_size)


class TwoFaults(HiddenBuffer):
    def step(self, params, state, x):
        out = super().step(params, state, x.copy())
        x += 1
        return out


class RefusesOtherInputs(RemembersLastParams):
    x = None

    def step(self, params, state, x):
        self.x = x.copy() if self.x is None else self.x
        if not np.array_equal(self.x, x):
            raise ValueError("unknown token")
        return super().step(params, state, x)


class RandomStart(Tanh):
    rng = np.random.default_rng(0)

    def initial_state(self, params, batch_size):
        return self.rng.normal(size=(batch_size, H))


class CacheOfOneself(Tanh):
    """The cell itself is in the cache, and its counter moves."""

    count = 0

    def step(self, params, state, x):
        self.count = 0
        h, y, cache = super().step(params, state, x)
        return h, y, {**cache, "cell": self}

    def step_vjp(self, params, cache, d_state, d_y):
        self.count += 1
        return super().step_vjp(params, cache, d_state, d_y)


class LayerInPlace(TanhLayer):
    def vjp(self, params, tape, d_ys, d_state_T):
        d_ys[-1] += d_state_T
        return super().vjp(params, tape, d_ys, np.zeros_like(d_state_T))


class LayerBuffer(TanhLayer):
    """The fused layer's workspace, kept from call to call."""

    def forward(self, params, xs, state0, mask=None):
        ys, state, tape = super().forward(params, xs, state0)
        if not hasattr(self, "workspace"):
            self.workspace = np.empty_like(ys)
        self.workspace[...] = ys
        for cache, h in zip(tape, self.workspace, strict=True):
            cache["h"] = h
        return ys, state, tape


class LayerStack(TanhLayer):
    def vjp(self, params, tape, d_ys, d_state_T):
        out = super().vjp(params, tape, d_ys, d_state_T)
        tape.pop()
        return out


def write(name, value):
    def change(self, params, state, x, out):
        {"x": x, "state": state, **params}[name][...] = value

    return change


IN_PLACE = "write `a = a + b`"
RANDOM = "it is random or keeps state"
AGAIN = "a second time from the same cache"
SHARED = "two caches share a buffer"
BUFFER = "return a copy, not a buffer that is used again"

# cell, method, item, fragment of the message; other impurities may be found beside this one
BAD = {
    "step writes into x": (step_then(write("x", 0)), "step", "x", IN_PLACE),
    "step writes into the state": (step_then(write("state", 0)), "step", "state", IN_PLACE),
    "step writes into a parameter": (step_then(write("U", 0)), "step", "params['U']", IN_PLACE),
    "step writes NaN": (step_then(write("x", np.nan)), "step", "x", IN_PLACE),
    "step replaces a parameter": (
        step_then(lambda self, p, s, x, out: p.update(b=p["b"] * 0.9)), "step", "params['b']",
        IN_PLACE),
    "step removes a parameter": (
        step_then(lambda self, p, s, x, out: p.pop("b") is None), "step", "params['b']",
        "is gone"),
    "step reshapes x": (CastsItsArgument, "step", "x", "(2, 3) against float64 (6,)"),
    "step writes into part of the state": (StateInPlace, "step", "state['c']", IN_PLACE),
    "step replaces part of the state": (StateReplaced, "step", "state['h']", IN_PLACE),
    "vjp writes into d_state": (
        vjp_then(lambda self, p, c, ds, dy, out: ds.fill(0)), "step_vjp", "d_state", IN_PLACE),
    "vjp writes into d_y": (
        vjp_then(lambda self, p, c, ds, dy, out: dy.fill(0)), "step_vjp", "d_y", IN_PLACE),
    "vjp writes into a parameter": (
        vjp_then(lambda self, p, c, ds, dy, out: p["W"].fill(0)), "step_vjp", "params['W']",
        IN_PLACE),
    "vjp writes into the cache": (
        vjp_then(lambda self, p, c, ds, dy, out: c["h"].fill(0)), "step_vjp", "cache['h']",
        IN_PLACE),
    "vjp writes into part of d_state": (CotangentOfNamedState, "step_vjp", "d_state.c", IN_PLACE),
    "everything is written, forward": (ChangesEverything, "step", "params['W']", IN_PLACE),
    "everything is written, backward": (ChangesEverything, "step_vjp", "params['b']", IN_PLACE),
    "cache cleared": (UsesUp, "step_vjp", "cache['x']", "(and 2 more) is gone"),
    "cache popped": (UsesUpAStack, "step_vjp", "cache[0]['x']", "is gone"),
    "hidden stack fails": (HiddenStack, "step_vjp", "", f"fails {AGAIN}"),
    "hidden cache differs": (HiddenCache, "step_vjp", "d_x", f"differs {AGAIN}"),
    "returned state is a buffer": (OneBuffer, "step", "new_state", BUFFER),
    "cache is a buffer": (OneBufferInCache, "step", "cache['h']", SHARED),
    "hidden buffer": (HiddenBuffer, "step_vjp", "d_x", SHARED),
    "gradient is a buffer": (OneGradientBuffer, "step_vjp", "d_params['b']", BUFFER),
    "accumulates": (Accumulates, "step_vjp", "d_params['W']", RANDOM),
    "accumulates in place": (AccumulatesInPlace, "step_vjp", "d_params['b']", BUFFER),
    "x on self": (RemembersLastInput, "step_vjp", "d_params['W']", "left on self"),
    "params on self": (RemembersLastParams, "step_vjp", "d_x", "left on self"),
    "state on self": (KeepsItsState, "step", "new_state", RANDOM),
    "extreme on self": (ChangesWithOtherInputs, "step", "y", "depends on calls made in between"),
    "counts calls": (CountsCalls, "step_vjp", "d_previous_state", RANDOM),
    "dropout": (Dropout, "step", "y", RANDOM),
    "random backward": (RandomBackward, "step_vjp", "d_x", RANDOM),
    "last digits": (LastDigits, "step", "y", "the last digits only"),
    "breaks at second call": (BreaksTheSecondTime, "step", "", "already called"),
    "params spoilt at start": (SpoilsParamsAtStart, "initial_state", "params['b']", IN_PLACE),
    "random start": (RandomStart, "initial_state", "state", RANDOM),
    "cell in its cache": (CacheOfOneself, "step_vjp", "cache['cell'].count", IN_PLACE),
    "next step empties the cache": (EmptiesOldCaches, "step", "cache['x']", "it is gone"),
    "largest cotangent on self": (LargestCotangent, "step_vjp", "d_x", "calls made in between"),
    "backward refuses after others": (RefusesAfterOthers, "step_vjp", "", "spoilt"),
    "second backward fails": (FailsSecondBackward, "step_vjp", "", "fails when called again"),
    "second start fails": (FailsSecondStart, "initial_state", "", "only once"),
    "two faults, the first": (TwoFaults, "step", "x", IN_PLACE),
    "two faults, the second": (TwoFaults, "step_vjp", "d_x", SHARED),
    "refuses other inputs": (RefusesOtherInputs, "step_vjp", "d_x", "left on self"),
    "layer writes into d_ys": (LayerInPlace, "vjp", "d_ys", IN_PLACE),
    "layer with one workspace": (LayerBuffer, "forward", "tape[0]['h']", "two tapes share"),
    "layer pops its tape": (LayerStack, "vjp", "tape[2]['x']", "(and 2 more) is gone"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_an_impure_subject_is_told_where_and_why(name):
    make, method, item, fragment = BAD[name]
    subject = make()
    listed = found(subject, "layer" if isinstance(subject, TanhLayer) else "cell")
    by_place = {(one.method, one.item): one.message for one in listed}
    assert len(by_place) == len(listed)
    assert (method, item) in by_place, by_place
    message = by_place[method, item]
    assert fragment in message
    assert message.startswith(method)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (step_then(write("x", 0)), {("step", "x")}),
        (OneGradientBuffer, {("step_vjp", "d_params['b']")}),
        (Accumulates, {("step_vjp", "d_params['W']")}),
        (Dropout, {("step", "y")}),
        (RemembersLastParams, {("step_vjp", "d_x"), ("step_vjp", "d_previous_state")}),
        (ChangesWithOtherInputs, {("step", "y")}),
        (SpoilsParamsAtStart, {("initial_state", "params['b']")}),
        (UsesUp, {("step_vjp", "cache['x']")}),
        (OneBufferInCache, {("step", "cache['h']")}),
        (ChangesWhatItReturned, {("step_vjp", "cache['h']")}),
    ],
)
def test_what_is_pure_beside_an_impurity_is_not_blamed(make, expected):
    assert {(one.method, one.item) for one in found(make())} == expected


def test_a_float32_gradient_that_turns_float64_is_named_with_its_remedy():
    assert found(WideGradient()) == []
    listed = found(WideGradient(), dtype="float32")
    assert [(one.method, one.item) for one in listed] == [
        ("step_vjp", "d_params['U']"),
        ("step_vjp", "d_x"),
    ]
    assert "x.dtype.type(...)" in listed[0].message


def test_a_float32_output_that_turns_float64_is_named():
    listed = found(WideOutput(), dtype="float32")
    assert [(one.method, one.item) for one in listed] == [("step", "y")]


def test_the_cotangent_of_a_counter_may_be_wide_and_no_other():
    assert found(counting(), dtype="float32") == []

    def widen(state):
        return {"h": state["h"].astype(float), "c": state["c"].astype(float)}

    class Wide(Packed):
        def step_vjp(self, params, cache, d_state, d_y):
            d_params, d_state, d_x = super().step_vjp(params, cache, d_state, d_y)
            return d_params, widen(d_state), d_x

    def pack(h, c):
        return {"h": h, "c": c}

    wide = Wide(pack, lambda s: (s["h"], s["c"]), np.zeros(B, int))
    assert [one.item for one in found(wide, dtype="float32")] == ["d_previous_state['h']"]


class CountingLayer(TanhLayer):
    """Its state is ``(h, n)``, where ``n`` is never touched."""

    def forward(self, params, xs, state0, mask=None):
        seen.append(state0[1].copy())
        ys, h, tape = super().forward(params, xs, state0[0])
        return ys, (h, state0[1]), tape

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_h = super().vjp(params, tape, d_ys, d_state_T[0])
        return d_params, d_xs, (d_h, np.zeros(B))


seen: list = []


def test_a_counter_of_a_layer_is_carried_unchanged_at_every_call():
    params, xs, state, d_ys, d_state = problem(TanhLayer(), "layer", "float32")
    n = np.array([1, 0])
    layer, where = CountingLayer(), (params, xs, (state, n), d_ys, (d_state, np.zeros(B)))
    assert impurities(layer, "layer", *where) == []
    assert len(seen) > 3
    assert all(np.array_equal(one, n) for one in seen)


def test_a_single_changed_entry_of_a_cache_is_not_counted():
    assert "more" not in found(ChangesWhatItReturned())[0].message


class Slotted:
    __slots__ = ("empty", "full")

    def __init__(self):
        self.full = np.arange(2)


class Plain:
    def __init__(self, **named):
        vars(self).update(named)


class Closed:
    __slots__ = ("inside",)

    def __getattribute__(self, name):
        raise RuntimeError("hands off")


def test_arrays_are_found_in_any_container():
    array = np.ones(2)
    cache = (
        {"z": array, 3: array, 2.5: array, ("a", 1): array},
        [array, Pair(array, 1.5)],
        Plain(own=array, slotted=Slotted()),
        np.float32(2),
        True,
        "text",
        None,
        np,
        Plain,
        Closed(),
    )
    assert list(arrays(cache, "cache")) == [
        "cache[3]", "cache[4]", "cache[0]['z']", "cache[0][3]", "cache[0][key 2]",
        "cache[0][key 3]", "cache[1][0]", "cache[2].own", "cache[1][1].h", "cache[1][1].c",
        "cache[2].slotted.full",
    ]  # fmt: skip


def test_looking_into_things_that_hold_themselves_ends():
    endless: list = [np.ones(1)]
    endless += [endless, endless]
    ring = Plain(array=np.ones(1))
    ring.ring = ring
    assert "ring.array" in arrays(ring, "ring")
    assert len(arrays(ring, "ring")) == 1
    assert "a[1][2][0]" in arrays(endless, "a")


def test_a_container_that_stands_at_two_places_is_found_at_both():
    shared = [np.ones(1)]
    assert list(arrays((shared, shared), "a")) == ["a[0][0]", "a[1][0]"]


def test_numbers_of_any_size_are_compared_by_value():
    for number in (1, 10**30, -(10**30), 1.5, 1j):
        twin = type(number)(str(number))
        assert not different(arrays([number], "a"), arrays([twin], "a"))
        assert different(arrays([number], "a"), arrays([number + 1], "a")) == ["a[0]"]


def test_bits_are_compared_and_not_values():
    zero = np.zeros(2)
    assert same(zero, zero.copy())
    assert same(zero * np.nan, zero * np.nan)
    assert not same(zero, -zero)
    assert not same(zero, np.zeros(2, int))
    assert not same(zero, np.zeros((2, 1)))


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (np.zeros(2), np.ones(2), "by 1 at most"),
        (np.zeros(2), np.ones(3), "float64 (2,) against float64 (3,)"),
        (np.zeros(2), np.zeros(2, int), "float64 (2,) against int64 (2,)"),
        (np.zeros(2, int), np.full(2, 3), "by 3 at most"),
        (np.array([False]), np.array([True]), "by 1 at most"),
        (np.ones(2), np.ones(2) + 1e-15, "by 1.1e-15 at most, the last digits only"),
        (np.ones(2, "f4"), np.ones(2, "f4") * 2, "by 1 at most"),
        (np.array("a"), np.array("b"), "other contents"),
        (np.array(1j), np.array(2j), "other contents"),
    ],
)
def test_a_difference_is_told_in_few_words(before, after, text):
    told = difference(before, after)
    assert told.startswith(text)
    assert ("last digits" in told) == ("last digits" in text)


def test_a_cell_that_refuses_other_parameters_is_still_checked():
    class Unitary(OneGradientBuffer):
        def step(self, params, state, x):
            known.setdefault("b", params["b"].copy())
            if not np.array_equal(params["b"], known["b"]):
                raise ValueError("not unitary")
            return super().step(params, state, x)

    known: dict = {}
    assert [one.item for one in found(Unitary())] == ["d_params['b']"]


def test_warnings_become_notes():
    class Warns(Tanh):
        def step(self, params, state, x):
            warnings.warn("slow path", stacklevel=1)
            return super().step(params, state, x)

    notes = Notes()
    assert found(Warns(), notes=notes) == []
    assert "step warned: UserWarning: slow path" in notes.texts[0]


JUNK = st.sampled_from(
    [
        None,
        (),
        {},
        [],
        0,
        np.nan,
        np.zeros(()),
        np.zeros((B, H)),
        np.zeros((B, N)),
        "text",
        object(),
    ]
)


@settings(max_examples=60, deadline=None)
@given(
    junk=JUNK,
    index=st.integers(-1, 2),
    call=st.integers(1, 5),
    backward=st.booleans(),
)
def test_whatever_a_later_call_returns_only_a_contract_error_escapes(junk, index, call, backward):
    class Unreliable(Tanh):
        calls = 0

        def spoil(self, result):
            self.calls += 1
            if self.calls != call:
                return result
            return junk if index < 0 else (*result[:index], junk, *result[index + 1 :])

        def step(self, *args):
            out = super().step(*args)
            return out if backward else self.spoil(out)

        def step_vjp(self, *args):
            out = super().step_vjp(*args)
            return self.spoil(out) if backward else out

    try:
        listed = found(Unreliable())
    except ContractError:
        return
    repeated = call in (2, 3) if backward else call == 2 and index != 2  # a cache is anything
    assert listed or not repeated
