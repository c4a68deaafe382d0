"""The proof that a cell or layer is right: extrapolated central differences in float64.

Knows nothing of the checker. The loss is the sum of every output and every floating leaf of the
last state times random cotangents; every entry of every input is moved by itself. A step of ``h``
has an error of h^2, h^4, ...; three steps cancel the first two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

STEP = 2e-3
ROUNDING = 10 * float(np.finfo(float).eps) / (0.25 * STEP)
"""What the rounding of a loss near one does to its shortest difference."""


def leaves(tree: Any) -> list[Any]:
    """The leaves of nested tuples and dicts, in order of writing."""
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    if isinstance(tree, (tuple, list)):
        return [leaf for value in tree for leaf in leaves(value)]
    return [tree]


def refilled(tree: Any, values: Iterator[Any]) -> Any:
    """``tree`` with other leaves."""
    if isinstance(tree, dict):
        return {key: refilled(value, values) for key, value in tree.items()}
    if hasattr(tree, "_fields"):
        return type(tree)(*[refilled(value, values) for value in tree])
    if isinstance(tree, (tuple, list)):
        return type(tree)([refilled(value, values) for value in tree])
    return next(values)


def floats(leaf: Any) -> bool:
    return np.asarray(leaf).dtype.kind == "f"


def differences(loss: Callable[[Any], float], at: Any, unit: Any = 1.0) -> Any:
    """The gradient of ``loss`` at an array, entry by entry, with steps of ``STEP * unit``."""
    at = np.array(at, float)
    steps = np.broadcast_to(STEP * np.asarray(unit, float), at.shape)
    found = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        slopes = []
        for part in (1.0, 0.5, 0.25):
            up, down = at.copy(), at.copy()
            up[index] += part * steps[index]
            down[index] -= part * steps[index]
            slopes.append((loss(up) - loss(down)) / (up[index] - down[index]))
        first = [(4 * slopes[1] - slopes[0]) / 3, (4 * slopes[2] - slopes[1]) / 3]
        found[index] = (16 * first[1] - first[0]) / 15
    return found


def _unit(value: Any) -> Any:
    """The size of an entry where it is not of order one."""
    size = np.abs(np.asarray(value, float))
    return np.where((size > 1e3) | ((size > 0) & (size < 1e-3)), size, 1.0)


class Problem:
    """One random problem for a cell (one step from a state that a run reaches) or a layer.

    Args:
        target: the cell or layer.
        seed: of everything random.
        size: ``(n_in, n_hidden)``.
        B: rows.
        T: steps of a layer, and of the run before the step of a cell.
        masked: whether a layer gets a mask.
    """

    def __init__(
        self, target: Any, seed: int, size: tuple[int, int] = (2, 3), B: int = 2, T: int = 3,
        masked: bool = False,
    ) -> None:  # fmt: skip
        self.target, self.is_cell = target, hasattr(target, "step_vjp")
        rng = np.random.default_rng(seed)
        drawn = target.init(rng, *size)
        # Moved by a part of their own size: what is tiny, or in (0, 1), stays so.
        self.params = {
            key: np.asarray(value, float) * (1 + 0.1 * rng.uniform(-1, 1, np.shape(value)))
            for key, value in drawn.items()
        }
        self.state = target.initial_state(self.params, B)
        self.mask = rng.random((T, B)) < 0.6 if masked else None
        xs = rng.standard_normal((T, B, size[0]))
        if self.is_cell:
            for x in xs:
                self.state, _, _ = target.step(self.params, self.state, x)
            self.x = rng.standard_normal((B, size[0]))
        else:
            self.state, self.x = self._reached(B, xs), xs
        self.new, self.y, self.record = self._forward(self.params, self.state, self.x)
        self.d_y = rng.standard_normal(self.y.shape)
        # A cotangent of the size that makes each leaf count as much as the output does.
        self.d_state = refilled(
            self.new,
            iter([self._cotangent(rng, leaf) for leaf in leaves(self.new)]),
        )

    def _reached(self, B: int, xs: Any) -> Any:
        """A state that the layer itself reaches, where it can be started from its own."""
        return self.target.forward(self.params, xs[::-1], self.state)[1]

    @staticmethod
    def _cotangent(rng: np.random.Generator, leaf: Any) -> Any:
        drawn = rng.standard_normal(np.shape(leaf))
        if not floats(leaf):
            return np.zeros(np.shape(leaf))
        finite = np.where(np.isfinite(leaf), leaf, 0)
        return np.where(np.isfinite(leaf), drawn / _unit(finite), 0)

    def _forward(self, params: Any, state: Any, x: Any) -> tuple[Any, Any, Any]:
        if self.is_cell:
            return self.target.step(params, state, x)
        more = () if self.mask is None else (self.mask,)
        ys, final, tape = self.target.forward(params, x, state, *more)
        return final, ys, tape

    def loss(self, params: Any, state: Any, x: Any) -> float:
        new, y, _ = self._forward(params, state, x)
        total = float((y * self.d_y).sum())
        for leaf, d in zip(leaves(new), leaves(self.d_state), strict=True):
            if floats(leaf):
                total += float(np.where(np.isfinite(leaf), leaf, 0).ravel() @ d.ravel())
        return total

    def to(self, dtype: Any) -> None:
        """The same problem in another dtype."""

        def short(tree: Any) -> Any:
            cut = [leaf.astype(dtype) if floats(leaf) else leaf for leaf in leaves(tree)]
            return refilled(tree, iter(cut))

        self.params, self.x, self.d_y = short(self.params), short(self.x), short(self.d_y)
        self.state, self.d_state = short(self.state), short(self.d_state)
        self.new, self.y, self.record = self._forward(self.params, self.state, self.x)

    def hand(self) -> tuple[Any, Any, Any]:
        """``(d_params, d_state, d_x)`` by hand."""
        given = self.params, self.record
        if self.is_cell:
            return self.target.step_vjp(*given, self.d_state, self.d_y)
        d_params, d_x, d_state = self.target.vjp(*given, self.d_y, self.d_state)
        return d_params, d_state, d_x

    def blocks(self) -> Iterator[tuple[str, Any, Any]]:
        """Each block with the gradient by hand and by differences."""
        d_params, d_state, d_x = self.hand()
        for key, value in self.params.items():

            def of_param(moved: Any, key: str = key) -> float:
                return self.loss({**self.params, key: moved}, self.state, self.x)

            yield f"d_params[{key!r}]", d_params[key], differences(of_param, value, _unit(value))
        before = leaves(self.state)
        for number, (leaf, d) in enumerate(zip(before, leaves(d_state), strict=True)):
            if not floats(leaf):
                continue
            finite = np.isfinite(leaf)

            def of_leaf(moved: Any, number: int = number, finite: Any = finite) -> float:
                changed = list(before)
                changed[number] = np.where(finite, moved, before[number])
                return self.loss(self.params, refilled(self.state, iter(changed)), self.x)

            by_differences = differences(of_leaf, np.where(finite, leaf, 0), _unit(leaf))
            yield f"d_state[{number}]", np.where(finite, d, 0), by_differences
        yield "d_x", d_x, differences(lambda x: self.loss(self.params, self.state, x), self.x)


def worst(target: Any, seed: int, **how: Any) -> tuple[float, str]:
    """The largest error of any block, relative to that block's largest entry, and its name.

    What the differences' own rounding can be is taken off first: a unit vector of a single entry
    has a gradient of nearly nought.
    """
    found = 0.0, ""
    problem = Problem(target, seed, **how)
    noise = ROUNDING * (1 + abs(problem.loss(problem.params, problem.state, problem.x)))
    for name, hand, numeric in problem.blocks():
        if np.shape(hand) != np.shape(numeric):
            return float("inf"), f"{name} has shape {np.shape(hand)}, not {np.shape(numeric)}"
        if np.size(hand):
            size = max(float(np.abs(numeric).max()), 1e-300)
            gap = float(np.abs(np.asarray(hand) - numeric).max())
            error = max(gap - noise, 0.0) / size if np.isfinite(gap) else gap
            found = max(found, (error if np.isfinite(error) else float("inf"), name))
    return found
