"""Every kind of bad cell ends in a ContractError that names the method, the item and the remedy."""

from __future__ import annotations

import contextlib
import itertools
import types
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bpttcheck.errors import ContractError
from bpttcheck.subject.items import Output, closest
from bpttcheck.subject.options import validate_options
from bpttcheck.subject.subject import validate_subject
from bpttcheck.subject.user_code import Notes
from bpttcheck.subject.validate import validate_cell, validate_layer
from bpttcheck.subject.values import Expected, Location, dtype_remedy, shape_hint

N, H, B, T, OUT = 3, 4, 2, 5, 6


class Tanh:
    """h' = tanh(W x + U h + b), y = V h'."""

    def init(self, rng, n_in, n_hidden):
        return {
            "W": rng.normal(size=(n_hidden, n_in)),
            "U": rng.normal(size=(n_hidden, n_hidden)),
            "b": rng.normal(size=n_hidden),
            "V": rng.normal(size=(OUT, n_hidden)),
        }

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["b"])), params["b"].dtype)

    def step(self, params, state, x):
        h = np.tanh(x @ params["W"].T + state @ params["U"].T + params["b"])
        return h, h @ params["V"].T, {"x": x, "before": state, "h": h}

    def step_vjp(self, params, cache, d_state, d_y):
        x, before, h = cache["x"], cache["before"], cache["h"]
        d_z = (d_state + d_y @ params["V"]) * (1 - h**2)
        d_params = {"W": d_z.T @ x, "U": d_z.T @ before, "b": d_z.sum(0), "V": d_y.T @ h}
        return d_params, d_z @ params["U"], d_z @ params["W"]


class TanhLayer(Tanh):
    """The same cell over a whole sequence."""

    step = step_vjp = None

    def forward(self, params, xs, state0, mask=None):
        mask = np.ones(xs.shape[:2], bool) if mask is None else mask
        state, ys, caches = state0, [], []
        for x, real in zip(xs, mask[..., None], strict=True):
            new, y, cache = Tanh.step(self, params, state, x)
            state = np.where(real, new, state)
            ys.append(y * real)
            caches.append((cache, real))
        return np.stack(ys), state, caches

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs = {k: np.zeros_like(v) for k, v in params.items()}, []
        for (cache, real), d_y in zip(tape[::-1], d_ys[::-1], strict=True):
            step = Tanh.step_vjp(self, params, cache, d_state_T * real, d_y * real)
            d_params = {k: d_params[k] + step[0][k] for k in params}
            d_state_T = np.where(real, step[1], d_state_T)
            d_xs.append(step[2])
        return d_params, np.stack(d_xs[::-1]), d_state_T


class Pair(NamedTuple):
    h: np.ndarray
    c: np.ndarray


class Leaky:
    """h' = tanh(w x + u h + c), c' = c / 2 + h', y = h' c', its state packed in any way."""

    def __init__(self, pack, unpack):
        self.pack, self.unpack = pack, unpack

    def init(self, rng, n_in, n_hidden):
        return {"w": rng.normal(size=(n_in, n_hidden)), "u": rng.normal(size=())[...]}

    def initial_state(self, params, batch_size):
        w = params["w"]
        return self.pack(*(np.zeros((batch_size, w.shape[1]), w.dtype) for _ in range(2)))

    def step(self, params, state, x):
        h, c = self.unpack(state)
        new_h = np.tanh(x @ params["w"] + params["u"] * h + c)
        new_c = x.dtype.type(0.5) * c + new_h
        return self.pack(new_h, new_c), new_h * new_c, (x, h, new_h, new_c)

    def step_vjp(self, params, cache, d_state, d_y):
        (x, h, new_h, new_c), (d_h, d_c) = cache, self.unpack(d_state)
        d_c = d_c + d_y * new_h
        d_z = (d_h + d_y * new_c + d_c) * (1 - new_h**2)
        d_params = {"w": x.T @ d_z, "u": (d_z * h).sum()}
        d_state = self.pack(d_z * params["u"], d_z + d_c * x.dtype.type(0.5))
        return d_params, d_state, d_z @ params["w"].T


class Counting(Tanh):
    """A state with a counter that is carried and not differentiated."""

    def initial_state(self, params, batch_size):
        return {"h": super().initial_state(params, batch_size), "n": np.zeros(batch_size, int)}

    def step(self, params, state, x):
        h, y, cache = super().step(params, state["h"], x)
        return {"h": h, "n": state["n"] + 1}, y, cache

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state["h"], d_y)
        return d_params, {"h": d_h, "n": np.zeros(d_x.shape[0], int)}, d_x


class Memoryless:
    """y = x: no parameters and no state."""

    def init(self, rng, n_in, n_hidden):
        return {}

    def initial_state(self, params, batch_size):
        return ()

    def step(self, params, state, x):
        return (), x, None

    def step_vjp(self, params, cache, d_state, d_y):
        return {}, (), d_y


class LearnedStart(Tanh):
    def init(self, rng, n_in, n_hidden):
        return {**super().init(rng, n_in, n_hidden), "h0": rng.normal(size=n_hidden)}

    def initial_state(self, params, batch_size):
        return np.broadcast_to(params["h0"], (batch_size, params["h0"].size))

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, *others = super().step_vjp(params, cache, d_state, d_y)
        return {**d_params, "h0": np.zeros_like(params["h0"])}, *others

    def initial_state_vjp(self, params, d_state0):
        return {"h0": d_state0.sum(0)}


def tuples():
    return Leaky(lambda h, c: (h, c), lambda s: s)


def named():
    return Leaky(Pair, lambda s: s)


def dicts():
    return Leaky(lambda h, c: {"h": h, "c": c}, lambda s: (s["h"], s["c"]))


def nested():
    def pack(h, c):
        return {"deep": ((h,), {"c": c})}

    return Leaky(pack, lambda s: (s["deep"][0][0], s["deep"][1]["c"]))


METHODS = ("init", "initial_state", "step", "step_vjp", "forward", "vjp", "initial_state_vjp")


class Changed:
    """A good cell or layer of which one method's result is replaced by ``change(result)``."""

    def __init__(self, good, method, change):
        for name in METHODS:
            if callable(getattr(good, name, None)):
                setattr(self, name, getattr(good, name))
        original = getattr(good, method)
        setattr(self, method, lambda *args: change(original(*args)))


def validate(subject, dtype="float64", notes=None, seed=0):
    common = {"n_in": N, "n_hidden": H, "batch_size": B, "dtype": dtype, "notes": notes}
    rng = np.random.default_rng(seed)
    if validate_subject(subject) == "cell":
        validate_cell(subject, **common, rng=rng)
    else:
        validate_layer(subject, **common, T=T, rng=rng)


def at(index, change):
    """Change one item of a triple."""
    return lambda triple: (*triple[:index], change(triple[index]), *triple[index + 1 :])


def key(name, change):
    """Change one entry of a dict."""
    return lambda items: {**items, name: change(items[name])}


def const(value):
    return lambda _: value


def without(name):
    return lambda items: {k: v for k, v in items.items() if k != name}


def renamed(old, new):
    return lambda items: {new if k == old else k: v for k, v in items.items()}


def order(*indices):
    return lambda triple: tuple(triple[i] for i in indices)


def spoilt(value):
    def spoil(array):
        array = array.copy()
        array.flat[-1] = value
        return array

    return spoil


class Refuses:
    """An object that raises whatever one does with it."""

    def __getattribute__(self, name):
        raise RuntimeError("hands off")

    def __array__(self, *args, **kwargs):
        raise RuntimeError("hands off")

    def __repr__(self):
        raise RuntimeError("hands off")

    def __len__(self):
        raise RuntimeError("hands off")


class Foreign:
    def __array__(self, dtype=None, copy=None):
        return np.zeros((B, H))


def f64(array):
    return array.astype(np.float64)


HUGE = key("b", lambda b: b + 1e300)
NAN, INF = float("nan"), float("inf")
GOOD = [Tanh, TanhLayer, tuples, named, dicts, nested, Counting, Memoryless, LearnedStart]

# (good subject, method, change of its result, item); the messages are in __snapshots__
BAD = {
    "init returns nothing": (Tanh, "init", const(None), "params"),
    "init returns a list": (Tanh, "init", lambda p: list(p.values()), "params"),
    "init returns a tuple": (Tanh, "init", lambda p: (p, 1), "params"),
    "int parameter": (Tanh, "init", key("b", lambda b: b.astype(int)), "params['b']"),
    "bool parameter": (Tanh, "init", key("b", lambda b: b > 0), "params['b']"),
    "complex parameter": (Tanh, "init", key("b", lambda b: b + 0j), "params['b']"),
    "list parameter": (Tanh, "init", key("b", list), "params['b']"),
    "None parameter": (Tanh, "init", key("b", const(None)), "params['b']"),
    "float parameter": (Tanh, "init", key("b", const(0.5)), "params['b']"),
    "huge parameter": (Tanh, "init", key("b", const(10**5000)), "params['b']"),
    "scalar parameter": (Tanh, "init", key("b", np.sum), "params['b']"),
    "object parameter": (Tanh, "init", key("b", lambda b: b.astype(object)), "params['b']"),
    "matrix parameter": (Tanh, "init", key("W", lambda w: np.ma.array(w)), "params['W']"),
    "foreign array": (Tanh, "init", key("W", const(Foreign())), "params['W']"),
    "NaN parameter": (Tanh, "init", key("W", spoilt(NAN)), "params['W']"),
    "int key": (Tanh, "init", renamed("b", 7), "params"),
    "too large": (Tanh, "init", HUGE, "params['b']"),
    "state missing": (Tanh, "initial_state", const(None), "state"),
    "state a list": (tuples, "initial_state", list, "state"),
    "state a list inside": (tuples, "initial_state", lambda s: (s[0], [s[1]]), "state[1]"),
    "state without batch": (Tanh, "initial_state", lambda s: s[0], "state"),
    "state of one row": (Tanh, "initial_state", lambda s: s[:1], "state"),
    "state of fixed batch": (Tanh, "initial_state", const(np.zeros((9, H))), "state"),
    "state transposed": (Tanh, "initial_state", lambda s: s.T, "state"),
    "state 0-d": (Tanh, "initial_state", const(np.array(0.0)), "state"),
    "state a number": (Counting, "initial_state", key("n", const(0)), "state['n']"),
    "state complex": (Tanh, "initial_state", lambda s: s + 0j, "state"),
    "state object": (Tanh, "initial_state", lambda s: s.astype(object), "state"),
    "state NaN": (named, "initial_state", lambda s: s._replace(c=s.c * NAN), "state.c"),
    "state odd key": (dicts, "initial_state", renamed("h", 1.5), "state"),
    "step one item": (Tanh, "step", lambda r: r[:1], ""),
    "step five items": (tuples, "step", lambda r: (*r, 0, 0), ""),
    "step nothing": (Tanh, "step", const(None), ""),
    "step one array": (Tanh, "step", lambda r: r[0], ""),
    "step a list": (Tanh, "step", list, ""),
    "step no cache": (Tanh, "step", lambda r: r[:2], ""),
    "step four items": (Tanh, "step", lambda r: (*r, 0), ""),
    "step unnested": (tuples, "step", lambda r: (*r[0], *r[1:]), ""),
    "step y first": (Tanh, "step", order(1, 0, 2), ""),
    "step y first, tuple": (tuples, "step", order(1, 0, 2), ""),
    "step cache first": (Tanh, "step", order(2, 0, 1), ""),
    "new state misses part": (tuples, "step", at(0, lambda s: s[0]), "new_state"),
    "new state has too many": (tuples, "step", at(0, lambda s: (*s, s[0])), "new_state"),
    "new state a list": (tuples, "step", at(0, list), "new_state"),
    "new state plain tuple": (named, "step", at(0, tuple), "new_state"),
    "new state key": (dicts, "step", at(0, renamed("c", "cc")), "new_state['cc']"),
    "new state lacks key": (dicts, "step", at(0, without("c")), "new_state['c']"),
    "new state 1-tuple": (Tanh, "step", at(0, lambda h: (h,)), "new_state"),
    "new state None, tuple": (tuples, "step", at(0, const(None)), "new_state"),
    "new state list": (Tanh, "step", at(0, list), "new_state"),
    "new state list, dict": (dicts, "step", at(0, list), "new_state"),
    "new state tuple": (dicts, "step", at(0, lambda s: (s["h"], s["c"])), "new_state"),
    "new state number": (tuples, "step", at(0, const(3)), "new_state"),
    "new state pair": (Tanh, "step", at(0, lambda h: (h, h)), "new_state"),
    "new state 1-tuple of 2": (tuples, "step", at(0, lambda s: (s,)), "new_state"),
    "new state array, named": (named, "step", at(0, lambda s: s.h), "new_state"),
    "new state None": (Tanh, "step", at(0, const(None)), "new_state"),
    "new state transposed": (Tanh, "step", at(0, lambda h: h.T), "new_state"),
    "new state mean": (Tanh, "step", at(0, lambda h: h.mean(0)), "new_state"),
    "new state float16": (Tanh, "step", at(0, lambda h: h.astype("f2")), "new_state"),
    "new state NaN": (Tanh, "step", at(0, spoilt(NAN)), "new_state"),
    "counter turns float": (Counting, "step", at(0, key("n", lambda n: n * 1.0)), "new_state['n']"),
    "y None": (Tanh, "step", at(1, const(None)), "y"),
    "y of other rows": (Tanh, "step", at(1, lambda y: y[:1]), "y"),
    "y 0-d": (Tanh, "step", at(1, const(np.array(0.0))), "y"),
    "y 1-d": (Tanh, "step", at(1, lambda y: y[:, 0]), "y"),
    "y transposed": (Tanh, "step", at(1, lambda y: y.T), "y"),
    "y 3-d": (Tanh, "step", at(1, lambda y: y[..., None]), "y"),
    "y summed": (Tanh, "step", at(1, np.sum), "y"),
    "y int": (Tanh, "step", at(1, lambda y: y.astype(int)), "y"),
    "y infinite": (Tanh, "step", at(1, spoilt(INF)), "y"),
    "vjp nothing": (Tanh, "step_vjp", const(None), ""),
    "vjp a dict": (Tanh, "step_vjp", lambda r: r[0], ""),
    "vjp a list": (Tanh, "step_vjp", list, ""),
    "vjp two items": (Tanh, "step_vjp", lambda r: r[:2], ""),
    "vjp no state": (Tanh, "step_vjp", lambda r: (r[0], r[2]), ""),
    "vjp two odd items": (Tanh, "step_vjp", const((1, 2)), ""),
    "vjp two doubtful items": (Memoryless, "step_vjp", const(({}, ())), ""),
    "vjp unnested": (tuples, "step_vjp", lambda r: (r[0], *r[1], r[2]), ""),
    "vjp d_x first": (Tanh, "step_vjp", order(2, 0, 1), ""),
    "vjp d_x before state": (Tanh, "step_vjp", order(0, 2, 1), ""),
    "vjp state first": (named, "step_vjp", order(1, 0, 2), ""),
    "d_params None": (Tanh, "step_vjp", at(0, const(None)), "d_params"),
    "d_params list": (Tanh, "step_vjp", at(0, lambda d: list(d.values())), "d_params"),
    "d_params lacks": (Tanh, "step_vjp", at(0, without("b")), "d_params['b']"),
    "d_params extra": (Tanh, "step_vjp", at(0, lambda d: {**d, "z": 0}), "d_params['z']"),
    "d_params misspelt": (Tanh, "step_vjp", at(0, renamed("b", "db")), "d_params['db']"),
    "d_params case": (Tanh, "step_vjp", at(0, renamed("W", "w")), "d_params['w']"),
    "d_params stranger": (Tanh, "step_vjp", at(0, lambda d: {**d, "bb": 0}), "d_params['bb']"),
    "d_params None key": (Tanh, "step_vjp", at(0, renamed("b", None)), "d_params[None]"),
    "d_params of none": (Memoryless, "step_vjp", at(0, const([])), "d_params"),
    "d_params, none": (Memoryless, "step_vjp", at(0, const({"a": 0})), "d_params['a']"),
    "d_params odd key": (Tanh, "step_vjp", at(0, renamed("b", 1)), "d_params[1]"),
    "d_W transposed": (Tanh, "step_vjp", at(0, key("W", np.transpose)), "d_params['W']"),
    "d_b scalar, NumPy's": (Tanh, "step_vjp", at(0, key("b", np.sum)), "d_params['b']"),
    "d_b tuple key": (Tanh, "step_vjp", at(0, renamed("b", ("b",))), "d_params[a tuple of 1]"),
    "d_b not summed": (Tanh, "step_vjp", at(0, key("b", lambda b: np.stack([b, b]))),
                       "d_params['b']"),
    "d_b keepdims": (Tanh, "step_vjp", at(0, key("b", lambda b: b[None])), "d_params['b']"),
    "d_b scalar": (Tanh, "step_vjp", at(0, key("b", lambda b: np.array(b.sum()))), "d_params['b']"),
    "d_W summed": (Tanh, "step_vjp", at(0, key("W", lambda w: w.sum(0))), "d_params['W']"),
    "d_W flat": (Tanh, "step_vjp", at(0, key("W", np.ravel)), "d_params['W']"),
    "d_u 1-d": (tuples, "step_vjp", at(0, key("u", lambda u: np.array([u]))), "d_params['u']"),
    "d_b None": (Tanh, "step_vjp", at(0, key("b", const(None))), "d_params['b']"),
    "d_b list": (Tanh, "step_vjp", at(0, key("b", list)), "d_params['b']"),
    "d_b float": (Tanh, "step_vjp", at(0, key("b", const(0.0))), "d_params['b']"),
    "d_b float32": (Tanh, "step_vjp", at(0, key("b", np.float32)), "d_params['b']"),
    "d_b int": (Tanh, "step_vjp", at(0, key("b", lambda b: b.astype(int))), "d_params['b']"),
    "d_b complex": (Tanh, "step_vjp", at(0, key("b", lambda b: b + 0j)), "d_params['b']"),
    "d_b NaN": (Tanh, "step_vjp", at(0, key("b", spoilt(NAN))), "d_params['b']"),
    "d_state None": (Tanh, "step_vjp", at(1, const(None)), "d_previous_state"),
    "d_state part None": (tuples, "step_vjp", at(1, lambda s: (s[0], None)), "d_previous_state[1]"),
    "d_state transposed": (Tanh, "step_vjp", at(1, np.transpose), "d_previous_state"),
    "d_state None, tuple": (tuples, "step_vjp", at(1, const(None)), "d_previous_state"),
    "d_state None, named": (named, "step_vjp", at(1, lambda s: s._replace(c=None)),
                            "d_previous_state.c"),
    "d_state matrix": (Tanh, "step_vjp", at(1, np.ma.array), "d_previous_state"),
    "d_state set": (Tanh, "step_vjp", at(1, const({1})), "d_previous_state"),
    "d_state class": (Tanh, "step_vjp", at(1, const(int)), "d_previous_state"),
    "d_state text": (Tanh, "step_vjp", at(1, const("zeros")), "d_previous_state"),
    "d_state plain": (named, "step_vjp", at(1, tuple), "d_previous_state"),
    "d_state single": (tuples, "step_vjp", at(1, lambda s: s[0]), "d_previous_state"),
    "d_state nested": (nested, "step_vjp", at(1, lambda s: {"deep": (s["deep"][0], {"c": 0})}),
                       "d_previous_state['deep'][1]['c']"),
    "d_state keepdims": (Tanh, "step_vjp", at(1, lambda d: d.sum(0, keepdims=True)),
                         "d_previous_state"),
    "d_counter None": (Counting, "step_vjp", at(1, key("n", const(None))), "d_previous_state['n']"),
    "d_counter ones": (Counting, "step_vjp", at(1, key("n", np.ones_like)),
                       "d_previous_state['n']"),
    "d_counter shape": (Counting, "step_vjp", at(1, key("n", lambda n: n[:1])),
                        "d_previous_state['n']"),
    "d_x None": (Tanh, "step_vjp", at(2, const(None)), "d_x"),
    "d_x transposed": (Tanh, "step_vjp", at(2, np.transpose), "d_x"),
    "d_x summed": (Tanh, "step_vjp", at(2, lambda d: d.sum(0)), "d_x"),
    "d_x 1-tuple": (Tanh, "step_vjp", at(2, lambda d: (d,)), "d_x"),
    "d_x pair": (Tanh, "step_vjp", at(2, lambda d: (d, d)), "d_x"),
    "d_x scalar": (Tanh, "step_vjp", at(2, np.sum), "d_x"),
    "d_x infinite": (Tanh, "step_vjp", at(2, spoilt(-INF)), "d_x"),
    "d_x object": (Tanh, "step_vjp", at(2, lambda d: d.astype(object)), "d_x"),
    "d_x refuses": (Tanh, "step_vjp", at(2, const(Refuses())), "d_x"),
    "start vjp None": (LearnedStart, "initial_state_vjp", const(None), "d_params"),
    "start vjp key": (LearnedStart, "initial_state_vjp", renamed("h0", "ho"), "d_params['ho']"),
    "start vjp shape": (LearnedStart, "initial_state_vjp", key("h0", lambda d: np.stack([d, d])),
                        "d_params['h0']"),
    "layer state first": (TanhLayer, "forward", order(1, 0, 2), ""),
    "layer no tape": (TanhLayer, "forward", lambda r: r[:2], ""),
    "layer flat": (TanhLayer, "forward", at(0, lambda y: y.reshape(T * B, OUT)), "ys"),
    "layer no width": (TanhLayer, "forward", at(0, lambda y: y[..., 0]), "ys"),
    "layer 4-d": (TanhLayer, "forward", at(0, lambda y: y[..., None]), "ys"),
    "layer short": (TanhLayer, "forward", at(0, lambda y: y[1:]), "ys"),
    "layer batch-major": (TanhLayer, "forward", at(0, lambda y: y.swapaxes(0, 1)), "ys"),
    "layer last output": (TanhLayer, "forward", at(0, lambda y: y[-1]), "ys"),
    "layer all states": (TanhLayer, "forward", at(1, lambda s: np.stack([s] * T)), "state_T"),
    "layer vjp order": (TanhLayer, "vjp", order(0, 2, 1), ""),
    "layer d_xs batch-major": (TanhLayer, "vjp", at(1, lambda d: d.swapaxes(0, 1)), "d_xs"),
    "layer d_W per step": (TanhLayer, "vjp", at(0, key("W", lambda w: np.stack([w] * T))),
                           "d_params['W']"),
    "layer d_state0 None": (TanhLayer, "vjp", at(2, const(None)), "d_state0"),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("make", GOOD)
def test_a_good_subject_passes(make, dtype):
    validate(make(), dtype)


def message_of(call, *arguments, **options):
    with pytest.raises(ContractError) as caught:
        call(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_subject_is_told_where(name):
    make, method, change, item = BAD[name]
    with pytest.raises(ContractError) as caught:
        validate(Changed(make(), method, change), "float32" if change is HUGE else "float64")
    message = str(caught.value)
    assert (caught.value.method, caught.value.item) == (method, item), message
    assert message.startswith(method), message
    assert len(message) < 500


def test_every_message_says_why_and_what_to_do(snapshot):
    def message(make, method, change, _):
        dtype = "float32" if change is HUGE else "float64"
        return message_of(validate, Changed(make(), method, change), dtype)

    assert snapshot == {name: message(*row) for name, row in BAD.items()}


@pytest.mark.parametrize(
    ("given_", "shape", "more", "hint"),
    [
        ((4, 3), (3, 4), {}, "transposed?"),
        ((4, 1), (1, 4), {}, "transposed?"),
        ((4, 2, 3), (2, 3, 4), {}, "axes in the order (2, 0, 1)?"),
        ((4, 3, 2), (2, 3, 4), {}, "axes in the order (2, 1, 0)?"),
        ((3, 2, 4), (2, 3, 4), {}, "axes in the order (1, 0, 2)?"),
        ((3, 2, 4), (2, 3, 4), {"steps": 2}, "batch-major? arrays are time-major, (T, B, ...)"),
        ((4, 2, 3), (2, 3, 4), {"steps": 2}, "axes in the order (2, 0, 1)?"),
        ((5, 4), (3, 4), {}, ""),
        ((5, 4), (3, 4), {"steps": 5, "batch": 5}, ""),
        ((3, 1), (3, 4), {}, "summed over axis 1 with keepdims?"),
        ((3, 4), (3, 1), {}, ""),
        ((5,), (4,), {}, ""),
        ((2, 4), (4,), {"batch": 2, "per_row": False}, "forgot to sum over the batch?"),
        ((2, 4), (4,), {"batch": 2, "per_row": True}, ""),
        ((2, 4), (4,), {"batch": 3, "per_row": False}, ""),
        ((5, 4), (4,), {"batch": 2, "steps": 5, "per_row": False}, "forgot to sum over time?"),
        ((5, 2, 4), (4,), {"batch": 2, "steps": 5, "per_row": False}, "forgot to sum over time?"),
        ((5, 2, 4), (2, 4), {"steps": 5}, "all time steps? return one"),
        ((1, 4), (4,), {}, "keepdims left on?"),
        ((4, 1), (4,), {}, "keepdims left on?"),
        ((4,), (4, 1), {}, "an axis of length 1 was squeezed or summed away?"),
        ((), (1,), {}, "an axis of length 1 was squeezed or summed away?"),
        ((), (4,), {}, "summed over every axis?"),
        ((), (3, 4), {}, "summed over every axis?"),
        ((4,), (3, 4), {}, "summed over axis 0 too many?"),
        ((3,), (3, 4), {}, "summed over axis 1 too many?"),
        ((5,), (3, 4), {}, ""),
        ((12,), (3, 4), {}, "reshape it?"),
        ((3, 2, 2), (3, 4), {}, "reshape it?"),
        ((6, 2), (3, 4), {}, ""),
        ((2, 3, 4), (4,), {}, ""),
    ],
)
def test_a_wrong_shape_is_explained_by_the_usual_mistake_or_not_at_all(given_, shape, more, hint):
    assert shape_hint(given_, Expected(shape, **more)) == hint


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    given_=st.lists(st.integers(0, 3), max_size=4).map(tuple),
    shape=st.lists(st.integers(0, 3), max_size=4).map(tuple),
    batch=st.none() | st.integers(0, 3),
    steps=st.none() | st.integers(0, 3),
    per_row=st.booleans(),
)
def test_any_pair_of_shapes_can_be_compared(given_, shape, batch, steps, per_row):
    assert isinstance(shape_hint(given_, Expected(shape, "", batch, steps, per_row)), str)


@pytest.mark.parametrize(
    ("leading", "shape", "hint"),
    [
        ((2,), (2,), "one output? write y[..., None]"),
        ((2,), (6, 2), "transposed?"),
        ((2,), (6, 3), ""),
        ((2,), (3,), ""),
        ((2,), (), ""),
        ((2,), (2, 6, 1), "flatten the axes after the batch"),
        ((5, 2), (5, 2), "one output? write y[..., None]"),
        ((5, 2), (2, 5, 6), "batch-major? arrays are time-major, (T, B, ...)"),
        ((5, 2), (2, 5), "batch-major? arrays are time-major, (T, B, ...)"),
        ((5, 2), (2, 6), "the last step alone? stack all steps"),
        ((5, 2), (10, 6), ""),
        ((5, 2), (4, 2, 6), ""),
        ((5, 2), (6,), ""),
        ((5, 2), (5, 2, 6, 1), "flatten the axes after the batch"),
    ],
)
def test_a_wrong_output_shape_is_explained_or_not(leading, shape, hint):
    with pytest.raises(ContractError) as caught:
        Output("y", leading, np.dtype(float)).layout(np.zeros(shape), Location("step", "y"))
    assert str(caught.value).partition("n_out)")[2].removeprefix(": ") == hint


@pytest.mark.parametrize(
    ("given_", "expected", "fragment"),
    [
        ("f8", "f4", "np.sqrt(2)"),
        ("f4", "f8", "computes in float32"),
        ("f2", "f8", "computes in float16"),
        ("f2", "f4", "array.astype('float32')"),
        (">f8", "f4", "array.astype('float32')"),
        ("c16", "f8", "real part"),
        ("i8", "f8", "make it floating"),
        ("?", "f4", "make it floating"),
        ("f8", "i8", "array.astype('int64')"),
        ("i4", "i8", "array.astype('int64')"),
    ],
)
def test_a_wrong_dtype_is_explained(given_, expected, fragment):
    assert fragment in dtype_remedy(np.dtype(given_), np.dtype(expected))


@pytest.mark.parametrize(
    ("key_", "candidates", "meant"),
    [
        ("W", ["w", "u"], "w"),
        ("dW", ["W", "dWx"], "W"),
        ("d_W", ["W", "U"], "W"),
        ("grad_W", ["W", "U"], "W"),
        ("d_b", ["db", "d_b_hidden"], "db"),
        ("W_hh", ["W_ih", "b"], "W_ih"),
        ("ddt", ["dt", "t"], "dt"),
        ("zeta", ["W", "b"], None),
        ("W", [], None),
        (3, ["3"], None),
        ("3", [3], None),
    ],
)
def test_a_misspelt_key_is_guessed(key_, candidates, meant):
    assert closest(key_, candidates) == meant


def test_the_table_has_no_row_that_the_unchanged_subject_would_fail():
    for make in {row[0] for row in BAD.values()}:
        validate(Changed(make(), "init", lambda params: params))


@pytest.mark.parametrize(
    ("method", "change", "item"),
    [
        ("step", at(0, f64), "new_state"),
        ("step", at(1, f64), "y"),
        ("step_vjp", at(0, key("W", f64)), "d_params['W']"),
        ("step_vjp", at(1, f64), "d_previous_state"),
        ("step_vjp", at(2, f64), "d_x"),
    ],
)
def test_a_float32_cell_that_turns_float64_is_told_the_cause_and_the_remedy(method, change, item):
    bad = Changed(Tanh(), method, change)
    validate(bad, "float64")
    with pytest.raises(ContractError) as caught:
        validate(bad, "float32")
    assert (caught.value.method, caught.value.item) == (method, item)
    for fragment in ("float64, but should be float32", "np.sqrt(2)", "float(", "x.dtype.type("):
        assert fragment in str(caught.value)


def test_a_wide_initial_state_is_cast_and_noted():
    notes = Notes()
    bad = Changed(Tanh(), "initial_state", f64)
    validate(bad, "float32", notes)
    assert "initial_state gives float64 for float32" in notes.texts[0]


def test_warnings_of_the_cell_are_notes():
    class Warns(Tanh):
        def step(self, params, state, x):
            np.asarray(1.0).squeeze()
            import warnings

            warnings.warn("slow path", stacklevel=1)
            return super().step(params, state, x)

    notes = Notes()
    validate(Warns(), notes=notes)
    assert "step warned: UserWarning: slow path" in notes.texts[0]


def test_a_cell_of_the_checked_dtype_needs_no_note_and_a_wide_one_no_collector():
    notes = Notes()
    validate(Tanh(), "float32", notes)
    validate(Counting(), "float32", notes)
    validate(Changed(Tanh(), "initial_state", lambda s: s.astype("f2")), "float32", notes)
    validate(Changed(Tanh(), "initial_state", f64), "float64", notes)
    assert notes.texts == ()
    validate(Changed(Tanh(), "initial_state", f64), "float32", None)


def test_the_cotangent_handed_out_is_zero_for_a_counter_and_random_elsewhere():
    handed = []

    class Spy(Counting):
        def step_vjp(self, params, cache, d_state, d_y):
            handed.append(d_state)
            return super().step_vjp(params, cache, d_state, d_y)

    for seed in range(10):
        validate(Spy(), seed=seed)
    for d_state in handed:
        assert np.all(d_state["h"] != 0)
        assert np.array_equal(d_state["n"], np.zeros(B))


@pytest.mark.parametrize(
    "second",
    [
        lambda p: {**p, "b": np.zeros((2, 2))},
        lambda p: {**p, "b": np.zeros(4, "f4")},
        lambda p: {**p, "b": np.ones(4)},
        lambda p: {**p, "more": np.zeros(4)},
        lambda p: {"W": p["W"]},
    ],
)
def test_two_calls_of_init_must_agree_in_everything(second):
    calls = []

    def change(params):
        calls.append(0)
        params = {**params, "b": np.zeros(4)}
        return params if len(calls) == 1 else second(params)

    with pytest.raises(
        ContractError, match="two calls with equal seeds return different"
    ) as caught:
        validate(Changed(Tanh(), "init", change))
    assert caught.value.method == "init"


def test_a_lone_array_as_cache_does_not_hide_that_the_others_are_exchanged():
    lone = Changed(Tanh(), "step", lambda r: (r[1], r[0], r[0]))
    with pytest.raises(ContractError, match=r"looks like \(y, new_state, cache\)"):
        validate(lone)


def test_init_must_draw_from_its_generator_alone():
    own = np.random.default_rng(0)
    bad = Changed(Tanh(), "init", key("b", lambda b: own.normal(size=b.shape)))
    with pytest.raises(ContractError, match="uses randomness besides rng") as caught:
        validate(bad)
    assert (caught.value.method, caught.value.item) == ("init", "params['b']")


def test_a_random_initial_state_is_refused():
    own = np.random.default_rng(0)
    bad = Changed(Tanh(), "initial_state", lambda s: own.normal(size=s.shape))
    with pytest.raises(
        ContractError, match=r"same arguments return.*is random or keeps state"
    ) as caught:
        validate(bad)
    assert (caught.value.method, caught.value.item) == ("initial_state", "state")


def test_a_state_that_holds_itself_ends():
    endless = {}
    endless["again"] = endless
    with pytest.raises(ContractError, match="does a container hold itself"):
        validate(Changed(Tanh(), "initial_state", const(endless)))


def test_keys_of_a_state_may_come_in_another_order():
    def flip(tree):
        return dict(reversed(tree.items()))

    validate(Changed(dicts(), "step", at(0, flip)))
    validate(Changed(dicts(), "step_vjp", at(1, flip)))
    validate(Changed(Tanh(), "step_vjp", at(0, flip)))


def test_a_subclass_of_dict_is_a_dict():
    validate(Changed(Tanh(), "step_vjp", at(0, OrderedDict)))


def test_a_named_triple_is_a_triple():
    class Result(NamedTuple):
        d_params: dict
        d_previous_state: np.ndarray
        d_x: np.ndarray

    validate(Changed(Tanh(), "step_vjp", lambda r: Result(*r)))


def test_the_gradient_of_a_scalar_parameter_may_be_a_numpy_scalar():
    validate(Changed(tuples(), "step_vjp", at(0, key("u", np.float64))))


def test_the_cotangent_of_a_counter_may_have_any_dtype():
    for dtype in (int, bool, "float32", "float64"):
        validate(Changed(Counting(), "step_vjp", at(1, key("n", lambda n, d=dtype: n.astype(d)))))


def test_a_gradient_that_overflows_is_named_and_no_other_order_is_guessed():
    """The cache is a lone array: another order of the triple would fit, and would be wrong."""

    class Lone(Tanh):
        def step(self, params, state, x):
            h, y, _ = super().step(params, state, x)
            return h, y[:, 0], h

    with pytest.raises(ContractError) as caught:
        validate(Lone())
    assert caught.value.item == "y"


def test_an_error_inside_user_code_names_the_method_and_the_line():
    class Breaks(Tanh):
        def step(self, params, state, x):
            return x @ params["W"]

    with pytest.raises(ContractError, match=r"step raised ValueError: .*\(test_validate\.py:\d+"):
        validate(Breaks())


def test_a_layer_without_mask_says_so():
    class Plain(TanhLayer):
        def forward(self, params, xs, state0):
            return super().forward(params, xs, state0)

    with pytest.raises(ContractError, match="mask=None") as caught:
        validate(Plain())
    assert caught.value.method == "forward"
    Plain.supports_mask = False
    validate(Plain())
    Plain.supports_mask = "no"
    with pytest.raises(ContractError, match="should be True or False") as caught:
        validate(Plain())
    assert caught.value.item == "supports_mask"


def test_a_mistake_that_shows_only_under_a_mask_is_found():
    class Bad(TanhLayer):
        def forward(self, params, xs, state0, mask=None):
            ys, state, tape = super().forward(params, xs, state0, mask)
            return ys if mask is None else ys[mask], state, tape

    with pytest.raises(ContractError) as caught:
        validate(Bad())
    assert (caught.value.method, caught.value.item) == ("forward", "ys")


def test_a_cell_that_changes_what_it_is_given_does_not_mislead_the_contract():
    class Rude(Tanh):
        def step_vjp(self, params, cache, d_state, d_y):
            out = super().step_vjp(params, cache, d_state, d_y)
            params.clear()
            d_y.shape = (-1,)
            return out

    validate(Rude())


@pytest.mark.parametrize("permutation", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("make", [Tanh, tuples, named, dicts, Counting])
def test_any_other_order_of_the_gradients_is_recognised(make, permutation):
    bad = Changed(make(), "step_vjp", order(*permutation))
    if permutation == (0, 1, 2):
        validate(bad)
        return
    with pytest.raises(ContractError) as caught:
        validate(bad)
    names = ("d_params", "d_previous_state", "d_x")
    given = ", ".join(names[i] for i in permutation)
    assert f"looks like ({given}): return (d_params, d_previous_state, d_x)" in str(caught.value)


class Half:
    init = initial_state = step = Tanh.step


class Backward(Half):
    backward = Tanh.step_vjp


class VjpStep(Half):
    vjp_step = Tanh.step_vjp


class StepVjp(Half):
    StepVJP = Tanh.step_vjp


class VjpOfStep(Half):
    vjp_of_step = Tanh.step_vjp


class Unrelated(Half):
    colour = weight = 3


class NoStep:
    init = initial_state = step_vjp = step_number_of_the_last_call = Tanh.step


class Private(Half):
    _step_vjp = Tanh.step_vjp


class NoInit(TanhLayer):
    init = property(lambda self: (_ for _ in ()).throw(AttributeError("init")))

    def initialise(self):
        return None


class Broken(Tanh):
    step = property(lambda self: 1 / 0)


class Data(Tanh):
    step = np.zeros(3)


class Start(Tanh):
    initial_state_vjp = 3


NO_SUBJECT = {
    "None": None, "a list": [Tanh()], "a tuple": (), "a name": "lstm", "a number": 3,
    "an array": np.zeros(3), "a class": Tanh, "a module": types, "a bool": True,
    "a scalar": np.float64(1), "a function": validate, "a builtin": len, "a method": Tanh().step,
    "an object": object(), "no step_vjp": Half(), "vjp_of_step": VjpOfStep(),
    "_step_vjp": Private(), "other attributes": Unrelated(), "no step": NoStep(),
    "backward": Backward(), "vjp_step": VjpStep(), "StepVJP": StepVjp(), "no init": NoInit(),
    "a namespace": types.SimpleNamespace(forward=len), "step is data": Data(),
    "step raises": Broken(), "initial_state_vjp is data": Start(), "refuses": Refuses(),
}  # fmt: skip


def test_a_subject_that_is_none_is_told_what_to_pass(snapshot):
    said = {name: message_of(validate_subject, thing) for name, thing in NO_SUBJECT.items()}
    assert said == snapshot
    with pytest.raises(ContractError) as caught:
        validate_subject(None)
    assert caught.value.item == "subject"


def test_a_cell_and_a_layer_are_told_apart():
    assert validate_subject(Tanh()) == "cell"
    assert validate_subject(TanhLayer()) == "layer"


def test_an_optional_method_may_be_none():
    class Without(Tanh):
        initial_state_vjp = None

    assert validate_subject(Without()) == "cell"
    validate(Without())


def test_a_jax_rule_is_sent_to_its_adapter():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    with pytest.raises(ContractError, match="from_custom_vjp"):
        validate_subject(jax.custom_vjp(lambda x: x))


def test_a_torch_function_is_sent_to_its_adapter():
    torch = pytest.importorskip("torch", reason="torch is not installed")

    class Rule(torch.autograd.Function):
        pass

    with pytest.raises(ContractError, match=r"from_autograd_function\(Rule\)"):
        validate_subject(Rule)
    with pytest.raises(ContractError, match="wrap a torch function"):
        validate_subject(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("float64", ("float64",)),
        (np.float32, ("float32",)),
        (np.dtype("float32"), ("float32",)),
        ((np.float32, "float64"), ("float32", "float64")),
        (["float32", np.float32], ("float32",)),
        (float, ("float64",)),
    ],
)
def test_dtypes_come_in_any_spelling(given_, expected):
    assert validate_options(dtypes=given_).dtypes == expected


WRONG_ARGUMENTS = {
    "dtypes": [None, (), "float16", "nonsense", ("float64", int), ("float64", None), 64,
               {"float64": 1}],
    "examples": [0, -3, True, np.True_, 10.0, "10", None],
    "seed": [-1, 0.5, False, np.zeros(2)],
    "checks": [(), "linearty", ["contract", 3], 7],
    "expected_failures": [["contract"], {"contrct": "old"}, {"contract": " "}, {"contract": None}],
}  # fmt: skip


def test_a_wrong_argument_lists_what_is_allowed(snapshot):
    known = {"known_checks": ("contract", "linearity")}
    assert snapshot == {
        argument: [message_of(validate_options, **{argument: value}, **known) for value in values]
        for argument, values in WRONG_ARGUMENTS.items()
    }


@pytest.mark.parametrize("argument", ["dtypes", "examples", "seed", "checks", "expected_failures"])
def test_an_argument_that_refuses_to_be_looked_at_is_refused(argument):
    for value in (Refuses(), (Refuses(),)):
        with pytest.raises(ContractError, match=argument):
            validate_options(**{argument: value}, known_checks=("contract",))


def test_a_subject_that_refuses_to_be_looked_at_is_refused():
    with pytest.raises(ContractError, match="cannot be examined"):
        validate_subject(Refuses())


@pytest.mark.parametrize("value", [3, (3,)])
def test_without_known_checks_any_name_will_do_but_nothing_else(value):
    options = validate_options(checks="own", expected_failures={"own": "known"})
    assert (options.checks, options.expected_failures) == (("own",), {"own": "known"})
    with pytest.raises(ContractError, match=r"should be (names of checks|the name of a check)$"):
        validate_options(checks=value)


def test_good_options_come_back_in_one_form():
    options = validate_options(
        dtypes="float32",
        examples=np.int64(7),
        seed=2**70,
        checks=["linearity", "linearity"],
        expected_failures={"contract": "known"},
        known_checks=("contract", "linearity"),
    )
    assert (options.dtypes, options.examples, options.seed) == (("float32",), 7, 2**70)
    assert options.checks == ("linearity",)
    assert dict(options.expected_failures) == {"contract": "known"}
    assert type(options.examples) is int


def arrays(dtype):
    shapes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 6]), max_size=3).map(tuple)
    return shapes.map(lambda shape: np.ones(shape, dtype))


# Hypothesis prints what it draws, which these do not bear: it draws their names.
STAND_INS = {"an object that refuses": Refuses, "a huge number": lambda: 10**5000}


def living(junk):
    """The junk with every stand-in replaced."""
    if type(junk) is dict:
        return {key: living(part) for key, part in junk.items()}
    if type(junk) in (list, tuple):
        return type(junk)(living(part) for part in junk)
    return STAND_INS[junk]() if type(junk) is str and junk in STAND_INS else junk


JUNK = st.recursive(
    st.one_of(
        st.sampled_from([None, True, 0, -1.5, NAN, 1j, "text", b"raw", Ellipsis, len, int, np]),
        st.sampled_from([np.float64(1), np.int64(1), np.array(NAN), np.array("a"), np.array(None)]),
        st.sampled_from([Foreign(), Refuses, np.ma.array([1.0]), range(3), *STAND_INS]),
        st.builds(iter, st.just([1])),
        st.sampled_from([float, "f4", "f2", ">f8", int, bool, complex, object, "M8[s]"]).flatmap(
            arrays
        ),
        arrays(float).map(lambda a: a * NAN),
        st.just(np.zeros((B, H))),
        st.just(np.zeros((B, N))),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.tuples(inner, inner).map(lambda pair: Pair(*pair)),
        st.dictionaries(st.sampled_from(["W", "U", "b", "V", "h", 0, None]), inner, max_size=4),
    ),
    max_leaves=6,
)  # fmt: skip

PLACES = [
    (Tanh, "init", (), ("W",), ("b",)),
    (LearnedStart, "initial_state_vjp", (), ("h0",)),
    *((make, "initial_state", ()) for make in (Tanh, tuples, Counting)),
    (tuples, "step", (), (0,), (0, 1), (1,)),
    (Counting, "step", (0,), (0, "n"), (0, "h")),
    (Tanh, "step_vjp", (), (0,), (0, "W"), (1,), (2,)),
    (named, "step_vjp", (1,), (0, "u")),
    (Counting, "step_vjp", (1,), (1, "n")),
    (TanhLayer, "forward", (), (0,), (1,)),
    (TanhLayer, "vjp", (), (0,), (0, "b"), (1,), (2,)),
]


def put(tree, path, junk):
    """``tree`` with the part at ``path`` replaced."""
    if not path:
        return junk
    if isinstance(tree, dict):
        return {**tree, path[0]: put(tree[path[0]], path[1:], junk)}
    return at(path[0], lambda part: put(part, path[1:], junk))(tree)


@pytest.mark.sampled(16)
@pytest.mark.parametrize(
    ("make", "method", "path"), [(make, name, p) for make, name, *ps in PLACES for p in ps]
)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(junk=JUNK)
@example("an object that refuses")
@example("a huge number")
@example({None: "an object that refuses"})
def test_whatever_a_method_returns_only_a_contract_error_escapes(make, method, path, junk):
    bad = Changed(make(), method, lambda result: put(result, path, living(junk)))
    with contextlib.suppress(ContractError):
        validate(bad)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(junk=JUNK)
@example("an object that refuses")
@example("a huge number")
def test_whatever_is_passed_as_a_subject_only_a_contract_error_escapes(junk):
    with pytest.raises(ContractError):
        validate_subject(living(junk))
