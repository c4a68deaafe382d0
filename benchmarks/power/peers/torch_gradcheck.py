"""``torch.autograd.gradcheck``: every entry of the Jacobian, or one projection in fast mode."""

from __future__ import annotations

import re
from functools import partial

import numpy as np

from benchmarks.power.flat import Flat
from benchmarks.power.peers.base import Named, Peer, Settings

EPS = (1e-3, 1e-4, 1e-5, 1e-6)
EPS32 = (1e-1, 3e-2, 1e-2, 1e-3)


def look(flat: Flat, settings: Settings | None, fast: bool) -> None:
    import torch

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *leaves):
            ctx.leaves = [leaf.detach().numpy() for leaf in leaves]
            outputs, ctx.record = flat.forward(*ctx.leaves)
            return tuple(torch.from_numpy(np.array(one)) for one in outputs)

        @staticmethod
        def backward(ctx, *cotangents):
            given = [one.numpy() for one in cotangents]
            found = flat.backward(ctx.leaves, ctx.record, given)
            return tuple(torch.from_numpy(np.ascontiguousarray(one)) for one in found)

    inputs = tuple(torch.from_numpy(leaf.copy()).requires_grad_() for leaf in flat.point)
    chosen = {}
    if settings is not None:
        chosen = {"eps": settings.eps, "atol": settings.tol, "rtol": settings.tol}
    torch.autograd.gradcheck(Function.apply, inputs, fast_mode=fast, **chosen)


def named(message: str, flat: Flat) -> Named:
    found = re.search(r"with respect to input (\d+)", message)
    return Named(flat.names[int(found[1])] if found else "", None)


SLOW = Peer("torch gradcheck", "torch", partial(look, fast=False), named, EPS, EPS32,
            "`gradcheck(f, inputs)`: eps 1e-6, atol 1e-5, rtol 1e-3")  # fmt: skip
FAST = Peer("torch fast_mode", "torch", partial(look, fast=True), named, EPS, EPS32,
            "the same with `fast_mode=True`")  # fmt: skip
