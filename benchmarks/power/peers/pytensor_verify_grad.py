"""``pytensor.gradient.verify_grad`` on an ``Op`` with its own pullback."""

from __future__ import annotations

import os
import re

import numpy as np

from benchmarks.power.flat import Flat
from benchmarks.power.peers.base import Named, Peer, Settings

EPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
EPS32 = (1e-1, 1e-2, 3e-3, 3e-4)


def look(flat: Flat, settings: Settings | None) -> None:
    # A Python Op gains nothing from compiled code, which takes seconds for every problem.
    os.environ.setdefault("PYTENSOR_FLAGS", "cxx=")
    import pytensor.tensor as pt
    from pytensor.compile.mode import Mode
    from pytensor.gradient import verify_grad
    from pytensor.graph.basic import Apply
    from pytensor.graph.op import Op

    shapes = [shape for shape, _ in flat.outputs]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    dtype = flat.problem.case.dtype

    class Backward(Op):
        def make_node(self, *inputs):
            return Apply(self, list(inputs), [one.type() for one in inputs[:-1]])

        def perform(self, node, inputs, outputs):
            *leaves, cotangent = inputs
            # A graph has no place for a record: it is made again, uncounted.
            flat.calls.forward -= 1
            _, record = flat.forward(*leaves)
            parts = np.split(np.asarray(cotangent, dtype), ends)
            given = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
            found = flat.backward(leaves, record, given)
            for cell, value in zip(outputs, found, strict=True):
                cell[0] = np.asarray(value, dtype)

    class Forward(Op):
        def make_node(self, *inputs):
            return Apply(self, list(inputs), [pt.vector(dtype=dtype)])

        def perform(self, node, inputs, outputs):
            found, _ = flat.forward(*inputs)
            outputs[0][0] = np.concatenate([np.ravel(one) for one in found]).astype(dtype)

        def pullback(self, inputs, outputs, cotangents):
            back = Backward()(*inputs, cotangents[0].astype(dtype))
            return back if isinstance(back, list) else [back]

    chosen = {}
    if settings is not None:
        chosen = {"eps": settings.eps, "abs_tol": settings.tol, "rel_tol": settings.tol}
    verify_grad(
        Forward(), flat.point, rng=np.random.default_rng(flat.seed),
        mode=Mode(linker="py", optimizer=None), **chosen,
    )  # fmt: skip


def named(message: str, flat: Flat) -> Named:
    found = re.search(r"At position (\d+) of argument (\d+)", message)
    if not found:
        return Named("", None)
    position, argument = int(found[1]), int(found[2])
    name = flat.names[argument]
    shape = flat.point[argument].shape
    # The step is not said, but can be worked out of a flat position in the inputs.
    step = int(np.unravel_index(position, shape)[0]) if name == "d_xs" else None
    return Named(name, step)


PYTENSOR = Peer("pytensor", "pytensor", look, named, EPS, EPS32,
                "`verify_grad(op, arrays)`: two projections, eps 1e-7 and tolerance 1e-4 in "
                "float64, 3e-4 and 1e-2 in float32; Python linker")  # fmt: skip
