"""Small right cells, a right layer, and the bugs that each diagnosis must be the first to name."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bpttcheck.judge.run import Run
from bpttcheck.subject.subject import Subject


class Tanh:
    """h' = tanh(U x + W h + b), y = h', right."""

    def init(self, rng, n_in, n_hidden):
        shapes = {"U": (n_hidden, n_in), "W": (n_hidden, n_hidden), "b": (n_hidden,)}
        return {k: rng.standard_normal(s) / np.sqrt(s[-1]) for k, s in shapes.items()}

    def initial_state(self, params, batch_size):
        return np.zeros((batch_size, len(params["b"])), params["b"].dtype)

    def step(self, params, state, x):
        z = x @ params["U"].T + state @ params["W"].T + params["b"]
        h = np.tanh(z)
        return h, h, (x, state, z, h)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, z, h_new = cache
        d_z = self.d_z(self.d_new(d_state, d_y), z, h_new)
        return self.d_params(d_z, x, h), self.d_h(d_z, params["W"]), d_z @ params["U"]

    def d_new(self, d_state, d_y):
        return d_state + d_y

    def d_z(self, d_new, z, h_new):
        return d_new * (1 - h_new**2)

    def d_params(self, d_z, x, h):
        return {"U": d_z.T @ x, "W": d_z.T @ h, "b": d_z.sum(axis=0)}

    def d_h(self, d_z, W):
        return d_z @ W


class Coupled:
    """c' = f c + (1 - f) g, h' = tanh(c'), y = h', with f and g stacked in one matrix; right."""

    def init(self, rng, n_in, n_hidden):
        shapes = {"U": (2 * n_hidden, n_in), "W": (2 * n_hidden, n_hidden)}
        return {k: rng.standard_normal(s) / np.sqrt(s[-1]) for k, s in shapes.items()}

    def initial_state(self, params, batch_size):
        zeros = np.zeros((batch_size, params["W"].shape[1]), params["W"].dtype)
        return zeros, zeros.copy()

    def step(self, params, state, x):
        h, c = state
        a_f, a_g = np.split(x @ params["U"].T + h @ params["W"].T, 2, axis=1)
        f = 1 / (1 + np.exp(-a_f))
        g = np.tanh(a_g)
        c_new = f * c + (1 - f) * g
        h_new = np.tanh(c_new)
        return (h_new, c_new), h_new, (x, h, c, f, g, h_new)

    def step_vjp(self, params, cache, d_state, d_y):
        x, h, c, f, g, h_new = cache
        d_c_new = self.d_c_new(d_state, d_y, h_new)
        d_a = self.stacked(self.d_f(d_c_new, c, f, g), d_c_new * (1 - f) * (1 - g**2))
        d_params = {"U": d_a.T @ x, "W": d_a.T @ h}
        return d_params, (d_a @ params["W"], d_c_new * f), d_a @ params["U"]

    def d_c_new(self, d_state, d_y, h_new):
        return d_state[1] + (d_state[0] + d_y) * (1 - h_new**2)

    def d_f(self, d_c_new, c, f, g):
        return d_c_new * (c - g) * f * (1 - f)

    def stacked(self, d_f, d_g):
        return np.concatenate([d_f, d_g], axis=1)


class Loop:
    """The coupled cell over time, right; a masked step keeps the state."""

    cell = reference = Coupled()

    def init(self, rng, n_in, n_hidden):
        return self.cell.init(rng, n_in, n_hidden)

    def initial_state(self, params, batch_size):
        return self.cell.initial_state(params, batch_size)

    def forward(self, params, xs, state0, mask=None):
        mask = np.ones(xs.shape[:2], bool) if mask is None else mask
        state, caches, ys = state0, [], np.zeros((*xs.shape[:2], state0[0].shape[1]), xs.dtype)
        for t, (x, real) in enumerate(zip(xs, mask[:, :, None], strict=True)):
            new, y, cache = self.cell.step(params, state, x)
            state = tuple(np.where(real, n, s) for n, s in zip(new, state, strict=True))
            ys[t] = y * real
            caches.append(cache)
        return ys, tuple(leaf.copy() for leaf in state), (xs, caches, mask)

    def vjp(self, params, tape, d_ys, d_state_T):
        xs, caches, mask = tape
        terms, d_xs, d_state = [params] * len(xs), np.zeros_like(xs), d_state_T
        for t in self.steps(len(xs)):
            real = mask[t][:, None]
            d_state = self.carried(d_state, t, len(xs))
            alive = tuple(d * real for d in d_state)
            terms[t], d_new, d_xs[t] = self.cell.step_vjp(params, caches[t], alive, d_ys[t] * real)
            d_state = tuple(np.where(real, n, d) for n, d in zip(d_new, d_state, strict=True))
        return self.total(params, [terms[t] for t in sorted(self.steps(len(xs)))]), d_xs, d_state

    def steps(self, T):
        return reversed(range(T))

    def carried(self, d_state, t, T):
        return d_state

    def total(self, params, terms):
        return {k: sum((term[k] for term in terms), 0 * v) for k, v in params.items()}


def method(base, **changed):
    """A cell or layer that is right but for some of its methods."""
    return type("Wrong", (base,), changed)()


def output(base, name, change):
    """A cell that is right but for one output: ``change(right value)``."""

    def step_vjp(self, *args):
        d_params, d_h, d_x = base.step_vjp(self, *args)
        if name == "d_x":
            return d_params, d_h, change(d_x)
        if name == "d_h":
            return d_params, change(d_h), d_x
        return {**d_params, name: change(d_params[name])}, d_h, d_x

    return method(base, step_vjp=step_vjp)


def summed(change):
    """A layer whose gradient of W is ``change(right sum, terms)``."""

    def total(self, params, terms):
        right = Loop.total(self, params, terms)
        return {**right, "W": change(right["W"], [term["W"] for term in terms])}

    return method(Loop, total=total)


@dataclass(frozen=True)
class Row:
    """A bug, the check that meets it, what must be said first, and of which block, if of one."""

    code: str
    bug: str
    subject: Any
    block: str
    check: str = "step_vjp"
    says: str = ""
    evidence: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)

    def __str__(self):
        return f"{self.code}: {self.bug}"


def in_place(self, d_state, d_y):
    d_state += d_y
    return d_state


def overflowing(self, d_new, z, h_new):
    e = np.exp(2 * z)
    return d_new * 4 * e / (1 + e) ** 2


def halved_when_large(self, d_state, d_y):
    return (d_state + d_y) * (0.5 if np.abs(d_y).max() > 50 else 1.0)


def to_norm_1(self, d_z, x, h):
    right = Tanh.d_params(self, d_z, x, h)
    norm = np.sqrt(sum((v.astype(np.float64) ** 2).sum() for v in right.values()))
    return {k: (v / max(1.0, norm)).astype(v.dtype) for k, v in right.items()}


def four_units_by_habit(d_b):
    d_b[4:] = 0
    return d_b


def floored(self, d_new, z, h_new):
    return d_new * np.where(np.abs(z) > 10, 0.1, 1 - h_new**2).astype(z.dtype)


def through_float16(self, d_state, d_y):
    return d_state.astype(np.float16).astype(d_y.dtype) + d_y.astype(np.float16).astype(d_y.dtype)


def d_b(change):
    """``d_b`` from ``d_z`` in another way."""
    return method(Tanh, d_params=lambda self, d_z, x, h: {
        **Tanh.d_params(self, d_z, x, h), "b": change(d_z)})  # fmt: skip


W, U, b, H, X = "d_params['W']", "d_params['U']", "d_params['b']", "d_previous_state", "d_x"

STEPS = [
    Row("impure", "d_state += d_y", method(Tanh, d_new=in_place), "d_state", "purity"),
    Row("range", "4 e / (1 + e)**2", method(Tanh, d_z=overflowing), W, says="in float32",
        options={"examples": 44, "dtypes": ["float32"]}),
    Row("clipped", "clip(d_W, -5, 5)", output(Tanh, "W", lambda v: np.clip(v, -5, 5)), W,
        evidence={"bound": 5}),
    Row("clipped", "the norm of d_params", method(Tanh, d_params=to_norm_1), W,
        says="the gradient of the parameters is scaled to the norm 1"),
    Row("nonlinear", "a guard against explosion", method(Tanh, d_new=halved_when_large), W,
        says="for smaller cotangents"),
    Row("nonlinear", "by its law", output(Tanh, "d_x", lambda v: np.clip(v, -1, 1)), "d_xs",
        "linearity"),
    Row("sign", "-d_b", output(Tanh, "b", np.negative), b),
    Row("transposed", "h.T @ d_z", method(Tanh, d_params=lambda self, d_z, x, h: {
        **Tanh.d_params(self, d_z, x, h), "W": h.T @ d_z}), W),
    Row("transposed", "d_z @ W.T", method(Tanh, d_h=lambda self, d_z, W: d_z @ W.T), H,
        says='state @ params["W"].T'),
    Row("transposed", "its shape too", output(Tanh, "U", np.transpose), U, "contract"),
    Row("batch-reduction", "mean(axis=0)", d_b(lambda d_z: d_z.mean(axis=0)), b, says="mean"),
    Row("batch-reduction", "d_z[0]", d_b(lambda d_z: 1 * d_z[0]), b, says="first row"),
    Row("one-size", "d_b[:4]", output(Tanh, "b", four_units_by_habit), b, says="n_hidden = 5"),
    Row("saturated", "a floor", method(Tanh, d_z=floored), W, options={"examples": 60}),
    Row("scale", "2 d_U", output(Tanh, "U", lambda v: 2 * v), U, evidence={"factor": 2}),
    Row("scale", "0.999 d_x", output(Tanh, "d_x", lambda v: v * v.dtype.type(0.999)), X,
        evidence={"factor": 0.999}),
    Row("zeroed-entry", "d_W[1:] = ...", output(Tanh, "W", lambda v: np.where(
        np.arange(len(v))[:, None] == 0, 0, v)), W, says="[0, 0]"),
    Row("early-return", "nothing for small cotangents", method(Tanh, d_z=lambda self, d, z, h: (
        d * (1 - h * h) * (1 if np.abs(d).max(initial=0) > 1e-3 else 0)
    )), W, says="does it return early"),
    Row("broadcast-row", "d_x[:] = d_x[0]", output(Tanh, "d_x", lambda v: v[:1] + 0 * v), X),
    Row("broadcast-row", "d_b[:] = d_b[0]", output(Tanh, "b", lambda v: v[:1] + 0 * v), b),
    Row("missing-path", "zeros", output(Tanh, "d_h", np.zeros_like), H, says="is zero"),
    Row("missing-path", "no d_y", method(Tanh, d_new=lambda self, d_state, d_y: d_state), W,
        says="d_y is ignored"),
    Row("doubled-path", "d_y twice", method(Tanh, d_new=lambda self, d_state, d_y:
        d_state + d_y + d_y), W, says="d_y counts twice"),
    Row("wrong-derivative", "1 - z**2", method(Tanh, d_z=lambda self, d_new, z, h:
        d_new * (1 - z**2)), W, says="1 - z**2"),
    Row("wrong-derivative", "h (1 - h)", method(Tanh, d_z=lambda self, d_new, z, h:
        d_new * h * (1 - h)), W, says="h * (1 - h)"),
    Row("precision", "a float32 accumulator", output(Tanh, "W", lambda v:
        v.astype(np.float32).astype(v.dtype)), W, evidence={"format": "float32"}),
    Row("precision", "cotangents as float16", method(Tanh, d_new=through_float16), W,
        evidence={"format": "float16"}),
    Row("wrong-cotangent", "any other factor", method(Tanh, d_z=lambda self, d_new, z, h:
        d_new * np.cos(3 * z - h)), W, says="h = np.tanh(z)"),
]  # fmt: skip


def without_mask(self, params, tape, d_ys, d_state_T):
    xs, caches, mask = tape
    return Loop.vjp(self, params, (xs, caches, np.ones_like(mask)), d_ys, d_state_T)


def initial_state_constant(self, *args):
    d_params, d_xs, (d_h, d_c) = Loop.vjp(self, *args)
    return d_params, d_xs, (np.zeros_like(d_h), d_c)


def gate(d_f):
    """A cell with another ``d_f``, from ``d_c_new, c, f, g``."""
    return method(Coupled, d_f=lambda self, *args: d_f(*args))


def other_d_c(self, params, cache, d_state, d_y):
    d_params, (d_h, _), d_x = Coupled.step_vjp(self, params, cache, d_state, d_y)
    return d_params, (d_h, self.d_c_new(d_state, d_y, cache[-1]) * cache[4]), d_x


def inputs(change):
    """A layer whose ``d_xs`` is ``change(right d_xs)``."""

    def vjp(self, *args):
        d_params, d_xs, d_state = Loop.vjp(self, *args)
        return d_params, np.ascontiguousarray(change(d_xs)), d_state

    return method(Loop, vjp=vjp)


def of_size(factor):
    """A layer whose gradient of W is off by a function of T and B."""

    def vjp(self, params, tape, d_ys, d_state_T):
        d_params, d_xs, d_state = Loop.vjp(self, params, tape, d_ys, d_state_T)
        by = d_xs.dtype.type(factor(*d_ys.shape[:2]))
        return {**d_params, "W": d_params["W"] * by}, d_xs, d_state

    return method(Loop, vjp=vjp)


CELL_LINE = "c_new = f * c + (1 - f) * g"
LOOP = "sequence_vjp"

GATES_AND_LOOPS = [
    Row("sign", "the minus of 1 - f", gate(lambda d_c, c, f, g: d_c * (c + g) * f * (1 - f)), W,
        says=CELL_LINE),
    Row("swapped-gates", "[d_g, d_f]", method(Coupled, stacked=lambda self, d_f, d_g:
        np.concatenate([d_g, d_f], axis=1)), W, evidence={"gates": [0, 1]}),
    Row("missing-path", "one of two states", method(Coupled, d_c_new=lambda self, d_state, d_y, h:
        (d_state[0] + d_y) * (1 - h**2)), W, says="d_state[1] is ignored"),
    Row("missing-path", "a term of d_f", gate(lambda d_c, c, f, g: d_c * c * f * (1 - f)), W,
        says=CELL_LINE),
    Row("doubled-path", "a term of d_f twice", gate(lambda d_c, c, f, g:
        d_c * (c - 2 * g) * f * (1 - f)), W, says=CELL_LINE),
    Row("wrong-derivative", "a gate's is missing", gate(lambda d_c, c, f, g: d_c * (c - g)), W,
        says="1 / (1 + np.exp(-a_f))"),
    Row("wrong-operand", "d_c with g for f", method(Coupled, step_vjp=other_d_c),
        "d_previous_state[1]", says="d_c is made with g where f belongs"),
    Row("mask-ignored", "padded rows too", method(Loop, vjp=without_mask), U, LOOP),
    Row("mask-ignored", "by its law", method(Loop, vjp=without_mask), U, "masking"),
    Row("initial-state", "zeros", method(Loop, vjp=initial_state_constant), "d_state0[0]", LOOP,
        says="is zero"),
    Row("time-reduction", "d_W / T", summed(lambda d_W, terms: d_W / max(1, len(terms))), W, LOOP),
    Row("truncated", "three steps", method(Loop, steps=lambda self, T:
        reversed(range(max(0, T - 3), T))), "", LOOP, "the last 3 steps", {"steps": 3}),
    Row("truncated", "zeros inside the loop", method(Loop, carried=lambda self, d, t, T:
        (0 * d[0], 0 * d[1])), "", LOOP, "lost at every step", {"steps": 1}),
    Row("truncated", "windows", method(Loop, carried=lambda self, d, t, T:
        d if (t + 1) % 2 or t == T - 1 else (0 * d[0], 0 * d[1])), "", LOOP, "every 2 steps",
        {"steps": 2}),
    Row("missing-term", "a loop that ends at t = 1", method(Loop, steps=lambda self, T:
        reversed(range(1, T))), "", LOOP, evidence={"time_step": 0}),
    Row("missing-term", "a loop that begins at t = T-2", method(Loop, steps=lambda self, T:
        reversed(range(T - 1))), "", LOOP, evidence={"time_step": -1}),
    Row("missing-term", "t = 0", summed(lambda d_W, terms: d_W - terms[0]), W, LOOP,
        evidence={"time_step": 0}),
    Row("missing-term", "t = T-1", summed(lambda d_W, terms: d_W - terms[-1]), W, LOOP,
        evidence={"time_step": -1}),
    Row("doubled-term", "t = 0", summed(lambda d_W, terms: d_W + terms[0]), W, LOOP,
        evidence={"time_step": 0}),
    Row("doubled-term", "t = T-1", summed(lambda d_W, terms: d_W + terms[-1]), W, LOOP,
        evidence={"time_step": -1}),
    Row("time-order", "d_xs[::-1]", inputs(lambda d_xs: d_xs[::-1]), "d_xs", LOOP),
    Row("off-by-one", "d_xs[t - 1]", inputs(lambda d_xs: np.roll(d_xs, 1, 0)), "d_xs", LOOP,
        says="the step before"),
    Row("permuted", "reshape for swapaxes", inputs(lambda d_xs: d_xs.swapaxes(0, 1).reshape(
        d_xs.shape)), "d_xs", LOOP, says="1, 0, 2"),
    Row("overwritten", "= for +=", summed(lambda d_W, terms: sum(terms[:1], 0 * d_W)), W, LOOP),
    Row("mixed-rows", "rows run on", inputs(lambda d_xs: d_xs + np.roll(d_xs, 1, 1) / 4 - d_xs / 4),
        "d_xs", LOOP),
    Row("scale", "times B", of_size(lambda T, B: B), W, LOOP, says="times B"),
    Row("scale", "1 / (B - 1)", of_size(lambda T, B: 1 / max(B - 1, 1)), W, LOOP,
        says="times 1/(B - 1)"),
    Row("scale", "times 3", of_size(lambda T, B: 3), W, LOOP, says="times 3"),
]  # fmt: skip


FORWARD = ("init", "initial_state", "step", "forward", "sequence", "surrogate", "surrogate_step")


class Forks:
    """In the place of new runs: all bugs of one forward pass share what JAX says of it.

    What is judged has the forward pass of another if all that belongs to it is inherited, and the
    attributes of the two instances are equal: a bug changes other methods.
    """

    def __init__(self):
        self._bases = {}

    def run(self, subject, options):
        """As a session."""
        return self.make(subject, options.seed, options.dtypes)

    def make(self, subject, seed, dtypes):
        right = subject.target if subject.reference is None else subject.reference
        if subject.sizes is not None or not hasattr(right, "init"):
            return Run(subject, seed, dtypes)
        forward = (getattr(type(right), name, None) for name in FORWARD)
        key = (*forward, repr(vars(right)), seed)
        if key not in self._bases:
            self._bases[key] = Run(Subject(right), seed, dtypes)
        found = self._bases[key].fork(subject)
        found.dtypes = dtypes
        return found
