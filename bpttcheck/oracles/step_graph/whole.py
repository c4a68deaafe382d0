"""A whole sequence as a graph: every step's operations, and which of them are the same in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from bpttcheck import trees
from bpttcheck.jax_mode import reference_mode
from bpttcheck.oracles.autodiff.programs import trace
from bpttcheck.oracles.step_graph.graph import Graph
from bpttcheck.oracles.step_graph.pullback import Derivatives, Pullback

Array = NDArray[Any]


@dataclass(frozen=True)
class Turns:
    """One operation of the user's loop in every turn of it; or all that a line does.

    Args:
        key: the same at every size.
        ops: the operations, in the order in which they ran.
        steps: how many turns there are, if it is once in each; else 0.
    """

    key: tuple[Any, ...]
    ops: tuple[int, ...]
    steps: int = 0


class WholeGraph:
    """``(params, state0, xs) -> (state_T, ys)`` as one graph, its loop unrolled.

    Args:
        whole: the function, on JAX arrays.
        params: parameters.
        state: the initial state.
        xs: the inputs.

    Raises:
        Declined: if it cannot be traced.
    """

    def __init__(self, whole: Callable[..., Any], params: Any, state: Any, xs: Array) -> None:
        with reference_mode():
            traced = trace(whole, params, state, xs)
        self.params, self.state = traced.params, traced.state
        self.graph = Graph(traced.jaxpr, traced.consts)
        self._derivatives: Derivatives | None = None

    def at(self, params: Any, state: Any, xs: Array, d_state: Any, d_ys: Array) -> Pullback:
        """Its pullback at a point.

        Raises:
            Declined: if it is too large.
        """
        leaves = [*trees.leaves(params), *trees.leaves(state), xs]
        if self._derivatives is None:
            self._derivatives = Derivatives(self.graph, leaves)
        return self._derivatives.at(leaves, [*trees.leaves(d_state), d_ys])

    def unflatten(self, gradients: Sequence[Array]) -> tuple[Any, Any, Array]:
        """``(d_params, d_state0, d_xs)`` from the gradients of the inputs."""
        n = self.params.size
        return (
            self.params.unflatten(gradients[:n]), self.state.unflatten(gradients[n:-1]),
            gradients[-1],
        )  # fmt: skip

    def turns(self, sizes: Mapping[str, int]) -> list[Turns]:
        """The operations that belong together, for loops over axes of these sizes.

        Args:
            sizes: letter -> size, the time axis first.
        """
        groups: dict[Any, list[int]] = {}
        ours = 0
        for k, op in enumerate(self.graph.ops):
            ours += not op.calls  # of no line of the user, so of no loop
            key = (op.primitive.name, op.calls) if op.calls else (op.primitive.name, ours)
            groups.setdefault(key, []).append(k)
        found: list[Turns] = []
        for key, ops in groups.items():
            for turns in _turns(key, ops, sizes):
                found.append(turns if self._alike(turns) else replace(turns, steps=0))
        return found

    def _alike(self, turns: Turns) -> bool:
        """True if the results are of one shape in every turn."""
        shapes, ops = self.graph.shapes, self.graph.ops
        return len({tuple(shapes[out] for out in ops[k].outs) for k in turns.ops}) == 1

    @cached_property
    def made(self) -> dict[int, int]:
        """Value -> the operation that makes it."""
        return {out: k for k, op in enumerate(self.graph.ops) for out in op.outs}


def _turns(key: Any, ops: list[int], sizes: Mapping[str, int]) -> Iterator[Turns]:
    n = len(ops)
    if n == 1:
        yield Turns((*key, "once"), tuple(ops))
        return
    letter = next((x for x, size in sizes.items() if size > 1 and n % size == 0), "")
    size = sizes.get(letter, n)
    each = n // size
    for j in range(each if letter else 0):
        yield Turns((*key, letter, "turn", j, each), tuple(ops[j::each]), size)
        if each > 1:  # all turns of one loop, and then those of another
            part = tuple(ops[j * size : (j + 1) * size])
            yield Turns((*key, letter, "block", j, each), part, size)
    if each > 1 or not letter:
        yield Turns((*key, "all"), tuple(ops))


__all__ = ["Pullback", "Turns", "WholeGraph"]
