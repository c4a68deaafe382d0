"""The text of a standalone script, in pieces: what it needs, the way forward and back, the ending.

The loop over time is written out once more here, for a reader who has neither the package nor JAX.
"""

from __future__ import annotations

from string import Template

HEAD = Template('''\
# $title
# $message
#
# A failure stored by bpttcheck $version as
# $id.
# This file needs NumPy and the cell alone. It is written anew when the failure is met again: copy
# it before you change it.

import sys
from pathlib import Path

import numpy as np

$cell

$data


def leaves(tree, like):
    """The arrays of a state, in the order of the cell's own initial state."""
    if hasattr(like, "keys"):
        return [leaf for key in like for leaf in leaves(tree[key], like[key])]
    if isinstance(like, tuple):
        return [leaf for a, b in zip(tree, like, strict=True) for leaf in leaves(a, b)]
    return [np.asarray(tree)]


def build(arrays, like):
    """The arrays in the containers of the cell's own initial state."""
    arrays = iter(arrays)

    def make(like):
        if hasattr(like, "keys"):
            return {key: make(like[key]) for key in like}
        if isinstance(like, tuple):
            items = [make(item) for item in like]
            return type(like)(*items) if hasattr(like, "_fields") else tuple(items)
        return next(arrays)

    return make(like)


LIKE = cell.initial_state(params, xs.shape[1])

''')

CELL = Template('''
def forward(params, xs, state):
    """All steps: the outputs, the arrays of the final state, what each step keeps."""
    ys, caches = [], []
    for x in xs:
        new, y, cache = cell.step(params, build(state, LIKE), x)
        state = leaves(new, LIKE)
        ys.append(y)
        caches.append(cache)
    return ys, state, caches


def backward(params, caches, d_ys, d_state):
    """All steps back: d_params, the arrays of d_state0, d_xs."""
    d_params = {key: np.zeros_like(value) for key, value in params.items()}
    d_xs = np.zeros_like(xs)
    for t in reversed(range(len(xs))):
        share, d_new, d_xs[t] = cell.step_vjp(params, caches[t], build(d_state, LIKE), d_ys[t])
        d_state = $carried
        for key in params:
            d_params[key] += share[key]
    return d_params, d_state, d_xs
''')

MASKED_CELL = Template('''
def put(old, rows, new):
    """A copy of an array with new rows."""
    out = old.astype(np.result_type(old, new))
    out[rows] = new
    return out


def forward(params, xs, state):
    """All steps, each for its real rows only: outputs, the final state, what each step keeps."""
    ys, caches = [], []
    for x, real in zip(xs, mask, strict=True):
        rows = np.flatnonzero(real)
        y, cache = np.zeros(d_ys.shape[1:], x.dtype), None
        if len(rows):
            some = build([leaf[rows] for leaf in state], LIKE)
            new, y_rows, cache = cell.step(params, some, x[rows])
            state = [put(a, rows, b) for a, b in zip(state, leaves(new, LIKE), strict=True)]
            y = put(y, rows, y_rows)
        ys.append(y)
        caches.append(cache)
    return ys, state, caches


def backward(params, caches, d_ys, d_state):
    """All steps back: d_params, the arrays of d_state0, d_xs."""
    d_params = {key: np.zeros_like(value) for key, value in params.items()}
    d_xs = np.zeros_like(xs)
    for t in reversed(range(len(xs))):
        rows = np.flatnonzero(mask[t])
        if not len(rows):
            continue
        some = build([leaf[rows] for leaf in d_state], LIKE)
        share, d_rows, d_xs[t, rows] = cell.step_vjp(params, caches[t], some, d_ys[t, rows])
        d_new = [put(a, rows, b) for a, b in zip(d_state, leaves(d_rows, LIKE), strict=True)]
        d_state = $carried
        for key in params:
            d_params[key] += share[key]
    return d_params, d_state, d_xs
''')

LAYER = Template('''
def forward(params, xs, state):
    """All steps: the outputs, the arrays of the final state, the tape."""
    ys, state, tape = cell.forward(params, xs, build(state, LIKE)$mask)
    return list(ys), leaves(state, LIKE), tape


def backward(params, tape, d_ys, d_state):
    """All steps back: d_params, the arrays of d_state0, d_xs."""
    d_params, d_xs, d_state0 = cell.vjp(params, tape, d_ys, build(d_state, LIKE))
    return d_params, leaves(d_state0, LIKE), d_xs
''')

RUN = """

ys, state_T, kept = forward(params, xs, state0)
d_params, d_state0, d_xs = backward(params, kept, d_ys, d_state)
"""

TERMS = '''

def terms(params, xs, state0):
    """What the loss weighs: the outputs and the floating arrays of the final state."""
    ys, state_T, _ = forward(params, xs, state0)
    return [*ys, *(b for a, b in zip(state0, state_T, strict=True) if a.dtype.kind == "f")]


weights = [*$d_ys, *(w for a, w in zip(state0, d_state, strict=True) if a.dtype.kind == "f")]
'''

INITIAL_TERMS = '''

def terms(params, xs, state0):
    """What the loss weighs: the floating arrays of the initial state."""
    first = leaves(cell.initial_state(params, xs.shape[1]), LIKE)
    return [leaf for leaf in first if leaf.dtype.kind == "f"]


weights = [w for a, w in zip(state0, d_state, strict=True) if a.dtype.kind == "f"]
d_params = cell.initial_state_vjp(params, build(d_state, LIKE))
'''

DIFFERENCES = Template('''

def double(values):
    """A copy in float64."""
    if isinstance(values, dict):
        return {key: double(value) for key, value in values.items()}
    if isinstance(values, list):
        return [double(value) for value in values]
    return values.astype(float) if values.dtype.kind == "f" else values.copy()


def difference(entry, h):
    """(L(+h) - L(-h)) / 2h, where L is the sum of all weights times terms."""
    sides = []
    for sign in (1, -1):
        moved_params, moved_xs, moved_state0 = double([params, xs, state0])
        $moved[entry] += sign * h
        sides.append(terms(moved_params, moved_xs, moved_state0))
    pairs = zip(*sides, weights, strict=True)
    return sum(float(((a - b) * w).sum()) for a, b, w in pairs) / (2 * h)

''')

SEARCH = Template("""
block = np.asarray($block, float)
ENTRY = max(np.ndindex(block.shape), key=lambda entry: abs(block[entry] - difference(entry, 1e-5)))
""")

VALUE = Template("""
ENTRY = $entry
hand = float(np.asarray($block)[ENTRY])
print($title)
print(f"entry {ENTRY}")
print(f"hand         {hand: .17g}")
""")

JAX = Template("""\
JAX, ALLOWED = $value, $allowed  # as stored
print(f"JAX          {JAX: .17g}   as stored, give or take {ALLOWED:.1e}")
""")

OTHER_SIDE = Template("""\
print(f"other side   {$value: .17g}   of the law, as stored")
""")

SERIES = '''\
series = {h: difference(ENTRY, h) for h in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)}
for h, value in series.items():
    print(f"differences  {value: .17g}   h={h:.0e}, hand is {abs(hand - value):.1e} away")


def near(number):
    """No further from the differences than they are from each other, and than 1e-4 of them."""
    low, value, high = sorted(series[h] for h in (1e-4, 1e-5, 1e-6))
    return abs(number - value) <= high - low + 1e-4 * abs(value)


'''

BY_JAX = """\
right = abs(hand - JAX) <= ALLOWED
if not near(JAX):
    print("the differences decide: the forward pass has changed since, or is not smooth here")
    right = near(hand)
print("right now" if right else "still wrong")
sys.exit(0 if right else 1)
"""

BY_DIFFERENCES = """\
right = near(hand)
print("right now, as far as differences can see" if right else "still wrong")
sys.exit(0 if right else 1)
"""
