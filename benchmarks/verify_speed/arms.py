"""One arm in a process of its own: a cold verdict, a warm one, and what they cost, as JSON.

    python -m benchmarks.verify_speed.arms ARM EXAMPLES

The clock starts with this line, before anything heavy is imported; the parent adds the start of the
interpreter.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

CHECKS = {"gradients": ("step_vjp", "sequence_vjp"), "all": None}


def main() -> None:
    arm, examples = sys.argv[1], int(sys.argv[2])
    load = os.getloadavg()[0]
    verify = naive(examples) if arm == "naive" else ours(examples, CHECKS[arm])
    from benchmarks.many_subjects.__main__ import Compilations

    compilations = Compilations()
    marks = [_mark(compilations)]
    counts = []
    for subject in range(2):
        counts.append(verify(subject))
        marks.append(_mark(compilations))
    told = {
        "load": load,
        "imports_cpu": marks[0]["cpu"],
        "verdicts": [
            {**{key: b[key] - a[key] for key in a}, **count}
            for a, b, count in zip(marks, marks[1:], counts, strict=False)
        ],
        "cold_at": marks[1]["clock"],
    }
    print(json.dumps(told))


def _mark(compilations: Any) -> dict[str, float]:
    return {
        "wall": time.perf_counter() - STARTED,
        "cpu": time.process_time(),
        "clock": time.time(),
        "compiled": compilations.count,
    }


def ours(examples: int, checks: tuple[str, ...] | None) -> Callable[[int], dict[str, int]]:
    """``bpttcheck.check`` of one LSTM; each subject is an object of its own."""
    import bpttcheck
    import bpttcheck.verify.check
    from bpttcheck.cells import LSTM
    from bpttcheck.judge.handwritten import HandWritten
    from bpttcheck.judge.oracle import Differences

    evaluations = [0]
    difference, hand = Differences.directional, HandWritten.run

    def counted_difference(*args: Any) -> Any:
        found = difference(*args)
        evaluations[0] += found.evaluations
        return found

    def counted_hand(*args: Any) -> Any:
        evaluations[0] += 1
        return hand(*args)

    Differences.directional, HandWritten.run = counted_difference, counted_hand

    def verify(subject: int) -> dict[str, int]:
        evaluations[0] = 0
        report = bpttcheck.check(LSTM(), checks=checks, examples=examples, seed=subject)
        if not report.passed:
            raise SystemExit(f"the LSTM did not pass: {report}")
        cases = sum(result.cases for result in report.checks)
        return {"cases": cases, "sequences": examples, "evaluations": evaluations[0]}

    return verify


def naive(examples: int) -> Callable[[int], dict[str, int]]:
    """What one would write: random shapes, a jitted scan, ``check_grads`` in every example.

    The sizes are those that the check draws; the long sequences are left out, which favours this
    arm. The hand-derived gradient is compared with ``jit(grad)`` of the same LSTM in JAX.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from hypothesis import HealthCheck, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st
    from jax.test_util import check_grads

    from bpttcheck.bptt.layer import CellLayer
    from bpttcheck.cells import LSTM

    jax.config.update("jax_enable_x64", True)

    def verify(subject: int) -> dict[str, int]:
        layer, counts = CellLayer(LSTM()), {"cases": 0, "sequences": 0, "evaluations": 0}

        def loss(params: Any, xs: Any, state0: Any, d_ys: Any) -> Any:
            counts["evaluations"] += 1  # of the traced or plain function, not of the compiled one

            def step(state: Any, x: Any) -> Any:
                h, c = state
                z = x @ params["W_ih"].T + h @ params["W_hh"].T + params["b"]
                i, f, g, o = jnp.split(z, 4, axis=1)
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                h = jax.nn.sigmoid(o) * jnp.tanh(c)
                return (h, c), h

            _, ys = jax.lax.scan(step, state0, xs)
            return (ys * d_ys).sum()

        gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        sizes = st.tuples(*(st.integers(1, most) for most in (12, 4, 5, 6)), st.integers(0, 2**31))

        @seeded(subject)
        @settings(
            max_examples=examples, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(sizes)
        def property_holds(drawn: tuple[int, ...]) -> None:
            T, B, n_in, n_hidden, seed = drawn
            rng = np.random.default_rng(seed)
            params = layer.init(rng, n_in, n_hidden)
            xs, state0 = rng.standard_normal((T, B, n_in)), layer.initial_state(params, B)
            ys, state, tape = layer.forward(params, xs, state0)
            d_ys = rng.standard_normal(ys.shape)
            zero = tuple(np.zeros_like(leaf) for leaf in state)
            d_params, d_xs, d_state0 = layer.vjp(params, tape, d_ys, zero)
            known = gradient(params, xs, state0, d_ys)
            mine = (d_params, d_xs, d_state0)
            for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(known), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-10)
            at = (params, xs, state0)
            check_grads(lambda *args: loss(*args, d_ys), at, order=1, modes=["rev"])
            counts["cases"] += 1
            counts["sequences"] += 1

        property_holds()
        return counts

    return verify


if __name__ == "__main__":
    main()
