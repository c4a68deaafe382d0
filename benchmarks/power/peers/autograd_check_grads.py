"""``autograd.test_util.check_grads`` on a primitive with its own ``defvjp``."""

from __future__ import annotations

from unittest import mock

import numpy as np

from benchmarks.power.flat import Flat
from benchmarks.power.peers.base import Named, Peer, Settings

EPS = (1e-3, 1e-4, 1e-5, 1e-6)
EPS32 = (1e-1, 3e-2, 1e-2, 1e-3)


def look(flat: Flat, settings: Settings | None) -> None:
    from autograd import test_util
    from autograd.extend import defvjp_argnums, primitive

    records = []

    @primitive
    def f(*leaves):
        outputs, record = flat.forward(*leaves)
        records.append(record)
        return tuple(outputs)

    def make_vjp(argnums, ans, leaves, options):
        record = records[-1]

        def vjp(g):
            found = flat.backward(leaves, record, g)
            return [found[i] for i in argnums]

        return vjp

    defvjp_argnums(f, make_vjp)
    chosen = {}
    if settings is not None:
        # There are no arguments for them: they are constants of the module.
        chosen = {"EPS": settings.eps, "TOL": settings.tol, "RTOL": settings.tol}
    state = np.random.get_state()  # noqa: NPY002 - it draws from the global generator
    np.random.seed(flat.seed)  # noqa: NPY002
    try:
        with mock.patch.dict(vars(test_util), chosen):
            everything = tuple(range(len(flat.point)))
            test_util.check_grads(f, everything, modes=["rev"], order=1)(*flat.point)
    finally:
        np.random.set_state(state)  # noqa: NPY002


def named(message: str, flat: Flat) -> Named:
    """It compares one number for all arguments: nothing is named."""
    return Named("", None)


AUTOGRAD = Peer("autograd", "autograd", look, named, EPS, EPS32,
                '`check_grads(f, all arguments, modes=["rev"], order=1)`: eps, atol and rtol '
                "1e-6")  # fmt: skip
