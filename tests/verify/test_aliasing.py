"""What is returned, kept and given stays apart: no rings of buffers, memos, counters."""

import itertools

import numpy as np
import pytest
from subjects import Normalised, Plain, PlainLayer

from bpttcheck.cells import LSTM
from bpttcheck.judge.run import Run
from bpttcheck.subject.subject import Subject
from bpttcheck.verify.checks.base import Context
from bpttcheck.verify.checks.purity import on_problem, purity
from bpttcheck.verify.conduct.memory import CALLS, shared_memory
from bpttcheck.verify.conduct.passes import Arguments, Passes, small_case


def found(cell, dtype="float64"):
    run = Run(Subject(cell), 0, (dtype,))
    kind = run.subject.kind
    problem = run.cases.problem(small_case(run, 2, 2, 2, 2))

    def other(sizes):
        return lambda: Arguments.of(kind, run.cases.problem(small_case(run, *sizes)))

    others = {str(sizes): other(sizes) for sizes in ((1, 2, 2, 2), (2, 2, 1, 1), (4, 4, 3, 3))}
    return shared_memory(Passes(cell, kind), Arguments.of(kind, problem), others)


class Backward(Plain):
    """``change(self, params, cache, d_state, d_y, results)`` replaces the results."""

    def step_vjp(self, params, cache, d_state, d_y):
        return self.change(params, cache, super().step_vjp(params, cache, d_state, d_y))

    def change(self, params, cache, results):
        return results


class SharedZeros(Backward):
    zeros = np.zeros(2)

    def init(self, rng, n_in, n_hidden):
        return {**super().init(rng, n_in, n_hidden), "unused": np.ones(2)}

    def change(self, params, cache, results):
        return {**results[0], "unused": self.zeros}, *results[1:]


class MemoOfTheLastCall(Backward):
    """The same array objects get the same results, which somebody may have changed meanwhile."""

    last = ()

    def step_vjp(self, params, cache, d_state, d_y):
        given = params, cache, d_state, d_y
        if not self.last or any(a is not b for a, b in zip(self.last[0], given, strict=True)):
            self.last = given, super().step_vjp(*given)
        return self.last[1]


class SharedStart(Plain):
    def __init__(self):
        self.zeros = {}

    def initial_state(self, params, batch_size):
        key = batch_size, len(params["b"]), params["b"].dtype
        return self.zeros.setdefault(key, np.zeros(key[:2], key[2]))


class ParameterItself(Backward):
    """The gradient of a weight decay of 1 without a copy: b itself."""

    def change(self, params, cache, results):
        return {**results[0], "b": params["b"]}, *results[1:]


class PartOfTheCache(Backward):
    def step(self, params, state, x):
        h, y, cache = super().step(params, state, x)
        return h, y, (*cache, 1 - h**2)

    def step_vjp(self, params, cache, d_state, d_y):
        d_z = cache[3]
        return {"U": d_z.T @ cache[0], "W": d_z.T @ cache[1], "b": d_z.sum(0)}, d_z, d_z


class RingOfGradients(Backward):
    def __init__(self, size=8):
        self.size, self.ring, self.turn = size, {}, 0

    def change(self, params, cache, results):
        self.turn += 1
        d_params, d_state, d_x = results
        buffer = self.ring.setdefault((self.turn % self.size, d_x.shape, d_x.dtype), d_x)
        buffer[...] = d_x
        return d_params, d_state, buffer


class RingOfCaches(Plain):
    def __init__(self, size=16):
        self.size, self.ring, self.turn = size, {}, 0

    def step(self, params, state, x):
        h, y, (_, state, _) = super().step(params, state, x)
        self.turn += 1
        key = self.turn % self.size, x.shape, h.shape, x.dtype
        slot = self.ring.setdefault(key, (np.empty_like(x), np.empty_like(h)))
        slot[0][...], slot[1][...] = x, h
        return h, y, (slot[0], state, slot[1])


class RingOfTapes(PlainLayer):
    turn = 0

    def __init__(self):
        self.ring = {}

    def forward(self, params, xs, state0, mask=None):
        ys, state, (xs, hs, mask) = super().forward(params, xs, state0, mask)
        self.turn += 1
        slot = self.ring.setdefault((self.turn % 4, hs.shape, hs.dtype), hs)
        slot[...] = hs
        return ys, state, (xs, slot, mask)


class KeptTranspose(Plain):
    """W^T is kept for as long as ``key(params)`` is the same."""

    def __init__(self, key):
        self.key, self.kept = key, {}

    def step_vjp(self, params, cache, d_state, d_y):
        key = self.key(params), params["W"].shape, params["W"].dtype
        if key not in self.kept:
            self.kept.clear()
            self.kept[key] = params["W"].copy()
        d_params, _, d_x = super().step_vjp(params, cache, d_state, d_y)
        old = {**params, "W": self.kept[key]}
        return d_params, super().step_vjp(old, cache, d_state, d_y)[1], d_x


class KeptForEver(KeptTranspose):
    """W^T is kept by its first entry, never thrown away."""

    def __init__(self):
        super().__init__(lambda params: float(params["W"][0, 0]))
        self.every = {}

    def step_vjp(self, params, cache, d_state, d_y):
        self.kept = self.every.setdefault(self.key(params), {})
        return super().step_vjp(params, cache, d_state, d_y)


class KeptByRoundedNumbers(KeptForEver):
    """W^T is kept by six digits of its entries."""

    def __init__(self):
        super().__init__()
        self.key = lambda params: np.round(params["W"], 6).tobytes()


class KeptWithoutOneParameter(Plain):
    """The whole backward pass is kept under everything but U."""

    def __init__(self):
        self.kept = {}

    def step_vjp(self, params, cache, d_state, d_y):
        known = (params["W"], params["b"], *cache[:2], d_state, d_y)
        key = b"".join(np.ascontiguousarray(a).tobytes() for a in known)
        if key not in self.kept:
            self.kept[key] = super().step_vjp(params, cache, d_state, d_y)
        d_params, d_state, d_x = self.kept[key]
        return {name: g.copy() for name, g in d_params.items()}, d_state.copy(), d_x.copy()


class SizeOfTheLastInit(Backward):
    """Units beyond those of the last ``init`` get no gradient."""

    n_hidden = 10**9

    def init(self, rng, n_in, n_hidden):
        self.n_hidden = n_hidden
        return super().init(rng, n_in, n_hidden)

    def change(self, params, cache, results):
        b = np.where(np.arange(len(params["b"])) < self.n_hidden, results[0]["b"], 0)
        return {**results[0], "b": b.astype(params["b"].dtype)}, *results[1:]


class LengthOfTheLastForward(PlainLayer):
    """Steps beyond those of the last ``forward`` get no gradient."""

    def forward(self, params, xs, state0, mask=None):
        self.T = len(xs)
        return super().forward(params, xs, state0, mask)

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_state = super().vjp(params, tape, d_ys, d_state_T)
        d_xs[self.T :] = 0
        return d_params, d_xs, d_state


class KeptForACache(Plain):
    """Something is kept under the id of a cache, which does not outlive its cache."""

    def __init__(self):
        self.slopes = {}

    def step_vjp(self, params, cache, d_state, d_y):
        x, h_prev, h = cache
        key = id(cache), h.shape, h.dtype
        d_z = (d_state + d_y) * self.slopes.setdefault(key, 1 - h**2)
        d_params = {"U": d_z.T @ x, "W": d_z.T @ h_prev, "b": d_z.sum(axis=0)}
        return d_params, d_z @ params["W"], d_z @ params["U"]


class KeptInput(Plain):
    def __init__(self):
        self.last = None, None

    def step(self, params, state, x):
        if self.last[0] is not x:
            self.last = x, x @ params["U"].T
        h = np.tanh(self.last[1] + state @ params["W"].T + params["b"])
        return h, h, (x, state, h)


class Counts(Backward):
    def __init__(self, limit):
        self.limit, self.calls = limit, itertools.count()

    def change(self, params, cache, results):
        late = next(self.calls) > self.limit
        return {**results[0], "b": results[0]["b"] * (not late)}, *results[1:]


class CountsUses(Backward):
    """The fourth use of one cache is wrong; what is counted lies beside the cache."""

    uses = 3

    def __init__(self):
        self.counts = {}

    def change(self, params, cache, results):
        used = self.counts.setdefault(id(cache), [cache, 0])
        used[1] += 1
        return results if used[1] <= self.uses else (results[0], results[1] * 0, results[2])


class LaterFails(Counts):
    def change(self, params, cache, results):
        if next(self.calls) > self.limit:
            raise RuntimeError("the licence has run out")
        return results


FOUND = {
    "one array of zeros": (SharedZeros, "step_vjp", "d_params['unused']", "writes to what"),
    "a memo": (MemoOfTheLastCall, "step_vjp", "d_params['U']", "from the same cache"),
    "one initial state": (SharedStart, "initial_state", "state", "writes to what"),
    "a parameter as its gradient": (ParameterItself, "step_vjp", "params['b']", "itself"),
    "a part of the cache": (PartOfTheCache, "step_vjp", "d_params['U']", "from the same cache"),
    "8 gradients": (RingOfGradients, "step_vjp", "d_x", "within 20 further calls"),
    "40 gradients": (lambda: RingOfGradients(40), "step_vjp", "d_x", "within 60 further calls"),
    "16 caches": (RingOfCaches, "step", "cache[0]", "within 20 further calls"),
    "512 caches": (lambda: RingOfCaches(512), "step", "cache[0]", f"within {CALLS} further"),
    "4 tapes": (RingOfTapes, "forward", "tape[1]", "within 20 further calls"),
    "W by identity": (
        lambda: KeptTranspose(lambda params: id(params["W"])), "step_vjp", "d_previous_state",
        "when parameters are updated in place"),
    "W by its first entry": (
        lambda: KeptTranspose(lambda params: float(params["W"][0, 0])), "step_vjp",
        "d_previous_state", "when parameters are updated in place"),
    "W by its first entry for ever": (
        KeptForEver, "step_vjp", "d_previous_state", "with some equal entries"),
    "W by its rounded entries": (
        KeptByRoundedNumbers, "step_vjp", "d_previous_state", "or digits"),
    "U by the other arguments": (
        KeptWithoutOneParameter, "step_vjp", "d_x", "under a key without params['U']"),
    "the size of the last init": (
        SizeOfTheLastInit, "step_vjp", "d_params['b']", "a size is kept from another call"),
    "the length of the last forward": (
        LengthOfTheLastForward, "vjp", "d_xs", "a size is kept from another call"),
    "x by identity": (KeptInput, "step", "new_state", "updated in place between two calls"),
    "calls beyond 170": (lambda: Counts(170), "step_vjp", "d_params['b']", "200 calls later"),
    "uses of a cache": (CountsUses, "step_vjp", "d_previous_state", "from the same cache"),
    "fails later": (lambda: LaterFails(30), "step_vjp", "", "the licence has run out"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_what_is_not_kept_apart_is_found(name):
    make, method, item, said = FOUND[name]
    listed = found(make())
    by_place = {(one.method, one.item): one.message for one in listed}
    assert (method, item) in by_place, by_place
    assert said in by_place[method, item]
    assert not any(one.conduct for one in listed)


def test_what_is_kept_under_the_id_of_something_that_is_gone_is_found():
    # In which call an id comes again is up to Python: before, while or after arrays are replaced.
    listed = found(KeptForACache())
    assert {one.method for one in listed} == {"step_vjp"}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("make", [Plain, PlainLayer, LSTM])
def test_right_code_is_left_alone(make, dtype):
    assert found(make(), dtype) == []


class PassesThrough(Plain):
    """Returns the very arrays that it was given: allowed."""

    def step(self, params, state, x):
        return state, state, None

    def step_vjp(self, params, cache, d_state, d_y):
        zeros = {key: np.zeros_like(value) for key, value in params.items()}
        return zeros, d_state + d_y, np.zeros((len(d_y), params["U"].shape[1]), d_y.dtype)


class ReturnsItsCotangent(PassesThrough):
    def step_vjp(self, params, cache, d_state, d_y):
        d_params, _, d_x = super().step_vjp(params, cache, d_state, d_y)
        return d_params, d_state, d_x


class ReadOnlyZeros(Backward):
    """Broadcast zeros cannot be written to, so that nobody spoils them."""

    zero = np.zeros(())

    def change(self, params, cache, results):
        b = np.broadcast_to(self.zero, params["b"].shape)
        return {**results[0], "b": b}, *results[1:]


class LargeRing(RingOfCaches):
    """As many buffers as anybody will ever keep: no ring that can be seen."""

    def __init__(self):
        super().__init__(10**6)


class KeptByValue(KeptTranspose):
    def __init__(self):
        super().__init__(lambda params: params["W"].tobytes())


class FastPhase(Plain):
    """What is added moves by ten thousand times the rounding of the bias."""

    rate = 1e4

    def step(self, params, state, x):
        phase = np.sin(self.rate * params["b"])
        h = np.tanh(x @ params["U"].T + state @ params["W"].T + phase)
        return h, h, (x, state, h)

    def step_vjp(self, params, cache, d_state, d_y):
        d_params, d_h, d_x = super().step_vjp(params, cache, d_state, d_y)
        slope = self.rate * np.cos(self.rate * params["b"])
        return {**d_params, "b": d_params["b"] * slope}, d_h, d_x


@pytest.mark.parametrize("make", [PassesThrough, ReturnsItsCotangent, ReadOnlyZeros, LargeRing,
                                  KeptByValue, FastPhase, lambda: Counts(10**6)])  # fmt: skip
def test_what_is_allowed_is_left_alone(make):
    assert found(make()) == []


@pytest.mark.parametrize("seed", [0, 17, 34, 42])
def test_few_copies_that_agree_by_luck_call_nothing_impure(seed):
    """Of two normalised units a gradient has few values: most noisy copies agree."""
    run = Run(Subject(Normalised()), seed, ("float64",))
    assert purity(Context(run, examples=100)).findings == []


@pytest.mark.parametrize("make", [RingOfGradients, SharedStart, lambda: RingOfCaches(40)])
def test_the_check_of_purity_finds_it_and_a_replay_sees_it_again(make):
    run = Run(Subject(make()), 0, ("float64", "float32"))
    told = purity(Context(run, examples=20))
    assert told.failures == 1
    finding = told.findings[0]
    again = on_problem(Run(Subject(make()), 0, ("float64",)), finding.problem)
    assert (finding.method, finding.block) in [(f.method, f.block) for f in again.findings]
    repaired = on_problem(Run(Subject(Plain()), 0, ("float64",)), finding.problem)
    assert repaired.findings == []


def test_code_that_fails_at_its_first_call_is_no_matter_of_purity():
    class NeverOneStep(PlainLayer):
        def vjp(self, params, tape, d_ys, d_state_T):
            if len(d_ys) == 1:
                raise ValueError("at least two steps")
            return super().vjp(params, tape, d_ys, d_state_T)

    run = Run(Subject(NeverOneStep()), 0, ("float64", "float32"))
    told = purity(Context(run, examples=100))
    assert told.findings == []
    assert told.failures == 0
    assert ["at least two steps" in one.message for one in run.refusals] == [True]
