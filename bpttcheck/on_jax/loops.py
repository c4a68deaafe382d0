"""The two loops of every native form: forward, and backward without any sum over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bpttcheck.on_jax.form import JaxArray, JaxCell
from bpttcheck.on_jax.products import in_all_steps, is_few


class Tape(NamedTuple):
    """What the way back needs of the way forward."""

    params: Any
    xs: JaxArray
    state0: Any
    mask: JaxArray | None
    memories: JaxArray
    kept: Any


@dataclass(frozen=True)
class NativeLoops:
    """A form over a whole sequence, in two scans and no automatic differentiation.

    Forward, for ``t = 0 .. T-1``::

        state[t+1], kept[t] = step(weights, state[t], xs[t])     rows with mask[t] true
        state[t+1]          = state[t]                           rows with mask[t] false
        ys[t]               = memory(state[t+1]), or 0 where mask[t] is false

    Backward, for ``t = T-1 .. 0`` from ``d_state[T] = d_state_T``::

        d_state[t], deferred[t] = step_vjp(params, kept[t], d_state[t+1], d_ys[t])
        d_state[t], deferred[t] = d_state[t+1], 0                rows with mask[t] false

    and after the loop ``d_params, d_xs = gather(xs, memories, kept, deferred)``. The transpose of
    ``lax.scan`` adds into every ``d_params`` at every step; here each is one product.

    ``step`` is in two parts, of which the first, ``project``, needs no state. With few rows it is
    done for all steps at once: a product with few rows costs what reading the weights costs, and
    then they are read once instead of at every step. With many rows it stays inside the loop: to
    hoist it takes one more array of all the pre-activations, and on a CPU that memory costs more
    than the larger product saves.

    Args:
        form: the equations of one step.
    """

    form: JaxCell

    def forward(
        self, params: Any, xs: JaxArray, state0: Any, mask: JaxArray | None
    ) -> tuple[JaxArray, Any, Tape]:
        """``(ys, state_T, tape)``."""
        form = self.form
        if mask is not None:
            # Zero times NaN is NaN: what stands in the padding must not reach a product.
            xs = jnp.where(mask[..., None], xs, 0)
        weights, few = form.weights(params), is_few(form.memory(state0))

        def step(state: Any, inputs: Any) -> tuple[Any, Any]:
            given, real = inputs
            new, kept = form.step(weights, state, given if few else form.project(weights, given))
            new = _where(real, new, state)
            return new, (form.memory(new), kept)

        given = in_all_steps(lambda x: form.project(weights, x), xs) if few else xs
        state_T, (memories, kept) = lax.scan(step, state0, (given, mask))
        ys = memories if mask is None else jnp.where(mask[..., None], memories, 0)
        return ys, state_T, Tape(params, xs, state0, mask, memories, kept)

    def backward(self, tape: Tape, d_ys: JaxArray, d_state_T: Any) -> tuple[Any, JaxArray, Any]:
        """``(d_params, d_xs, d_state0)``."""
        form, params = self.form, tape.params
        before = _shifted(form.memory(tape.state0), tape.memories)

        def step(d_state: Any, inputs: Any) -> tuple[Any, Any]:
            memory, kept, d_y, real = inputs
            d_previous, deferred = form.step_vjp(params, memory, kept, d_state, d_y)
            zeros = jax.tree.map(jnp.zeros_like, deferred)
            return _where(real, d_previous, d_state), _where(real, deferred, zeros)

        inputs = ((before, tape.memories), tape.kept, d_ys, tape.mask)
        d_state0, deferred = lax.scan(step, d_state_T, inputs, reverse=True)
        d_params, d_xs = form.gather(params, tape.xs, before, tape.kept, deferred)
        return d_params, d_xs, d_state0


def _where(real: JaxArray | None, new: Any, old: Any) -> Any:
    if real is None:
        return new
    return jax.tree.map(lambda n, o: jnp.where(real[:, None], n, o), new, old)


def _shifted(first: JaxArray, memories: JaxArray) -> JaxArray:
    """The memory before each step; a sequence of no steps has none."""
    if memories.shape[0] == 0:
        return memories
    return jnp.concatenate([first[None], memories[:-1]])
