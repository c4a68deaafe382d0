"""Calls a subject's methods and records whether they change their arguments or their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bpttcheck import trees
from bpttcheck.contract import Array, is_float
from bpttcheck.errors import ContractError
from bpttcheck.subject.items import check_layouts
from bpttcheck.subject.user_code import Notes, call, guarded_inspection
from bpttcheck.subject.validate import backward_items, forward_items
from bpttcheck.subject.values import Bits, arrays, bits, difference, different

Results = dict[str, Any]
Conduct = Literal["", "dtype", "rounding", "refusal"]


@dataclass(frozen=True)
class Impurity:
    """One way in which a method is not a pure function.

    Args:
        method: the method at fault.
        item: the argument or the result at fault, such as ``"params['W']"``.
        message: what was observed and what to write instead.
        conduct: ``"dtype"``, ``"rounding"`` or ``"refusal"`` if no gradient depends on it: the
            dtype differs, or the last digits do, or an exception states what is not accepted.
    """

    method: str
    item: str
    message: str
    conduct: Conduct = ""


@dataclass(frozen=True)
class Names:
    """The names of the methods of a kind, their arguments and their results."""

    forward: str
    params: str
    state: str
    x: str
    outputs: tuple[str, str, str]
    cache: str
    backward: str
    d_state: str
    d_y: str
    gradients: tuple[str, str, str]

    @property
    def forward_arguments(self) -> tuple[str, ...]:
        """The arguments of the forward method in order."""
        if self.forward == "step":
            return self.params, self.state, self.x
        return self.params, self.x, self.state

    @property
    def cotangents(self) -> tuple[str, ...]:
        """The last two arguments of the backward method in order."""
        return (self.d_state, self.d_y) if self.forward == "step" else (self.d_y, self.d_state)

    @property
    def state_gradient(self) -> str:
        """The gradient with respect to the incoming state."""
        return self.gradients[1 if self.forward == "step" else 2]


NAMES = {
    "cell": Names(
        "step", "params", "state", "x", ("new_state", "y", "cache"), "cache",
        "step_vjp", "d_state", "d_y", ("d_params", "d_previous_state", "d_x"),
    ),
    "layer": Names(
        "forward", "params", "state0", "xs", ("ys", "state_T", "tape"), "tape",
        "vjp", "d_state_T", "d_ys", ("d_params", "d_xs", "d_state0"),
    ),
}  # fmt: skip


class LentArguments:
    """One problem: the arrays to pass to methods, by name, and private copies of them."""

    def __init__(self, names: Names, values: Mapping[str, Any]) -> None:
        self.names = names
        self.kept = {name: _copy(value) for name, value in values.items()}
        self._lent = {name: _copy(value) for name, value in values.items()}

    def lend(self, name: str) -> Any:
        """An argument: the same arrays every time, in new containers."""
        return trees.map_leaves(lambda leaf: leaf, self._lent[name])

    def replace(self, name: str) -> None:
        """Pass a fresh copy from now on: the user's code has changed this argument."""
        self._lent[name] = _copy(self.kept[name])

    def elsewhere(self, factor: float, inputs: bool) -> LentArguments:
        """Another problem of the same sizes: parameters times ``factor``, maybe other inputs."""

        def moved(tree: Any, factor: float, offset: float) -> Any:
            def move(leaf: Array) -> Array:
                return (leaf * factor + offset).astype(leaf.dtype) if is_float(leaf) else leaf

            return trees.map_leaves(move, tree) if inputs else tree

        names, kept = self.names, self.kept
        values = {
            names.params: {key: value * factor for key, value in kept[names.params].items()},
            names.state: moved(kept[names.state], -1.5, 0.25),
            names.x: moved(kept[names.x], -1.75, 0.5),
            names.d_state: moved(kept[names.d_state], -1.5, 0.75),
            names.d_y: moved(kept[names.d_y], -1.5, 0.75),
        }
        return LentArguments(names, values)


class Probe:
    """Calls the subject's methods and collects impurities, one per method and item."""

    def __init__(self, subject: Any, kind: str, names: Names, notes: Notes | None) -> None:
        self.subject, self.kind, self.names, self.notes = subject, kind, names, notes
        self.found: dict[tuple[str, str], Impurity] = {}
        # Whether rounding explains how a result (by its path) differs between two runs.
        self.rounding: Callable[[str, Array, Array], bool] = lambda item, value, other: False

    def add(self, method: str, item: str, message: str, conduct: Conduct = "") -> None:
        """Record an impurity unless this item of this method already has one as severe."""
        known = self.found.get((method, item))
        if known is None or (known.conduct and not conduct):
            self.found[method, item] = Impurity(method, item, f"{method}: {message}", conduct)

    def call(self, method: str, point: LentArguments, lent: Mapping[str, Any], *opaque: Any) -> Any:
        """Call a method with arguments of ``point`` and see whether it changed them.

        ``opaque`` (the cache) stands after the parameters.
        """
        params, *others = lent.values()
        function = getattr(self.subject, method)
        result = call(method, function, params, *opaque, *others, notes=self.notes)
        for name, value in lent.items():
            with guarded_inspection(method, name):
                kept, now = arrays(point.kept[name], name), arrays(value, name)
                if self.compare_argument(method, kept, now):
                    point.replace(name)
        return result

    def forward(self, point: LentArguments) -> tuple[Any, Results]:
        """Run ``step`` or ``forward``: the cache, and the two other results by name."""
        names = self.names
        lent = {name: point.lend(name) for name in names.forward_arguments}
        result = self.call(names.forward, point, lent)
        items = forward_items(self.kind, point.kept[names.state], point.kept[names.x])
        given = check_layouts(result, names.forward, items)
        results = dict(zip(names.outputs, given, strict=True))
        return results.pop(names.cache), results

    def backward(self, point: LentArguments, cache: Any) -> Results:
        """Run ``step_vjp`` or ``vjp``: the three gradients by name."""
        names = self.names
        before = bits(arrays(cache, names.cache))
        lent = {name: point.lend(name) for name in (names.params, *names.cotangents)}
        result = self.call(names.backward, point, lent, cache)
        self.compare_argument(names.backward, before, arrays(cache, names.cache))
        kept = point.kept
        items = backward_items(self.kind, kept[names.params], kept[names.state], kept[names.x])
        return dict(zip(names.gradients, check_layouts(result, names.backward, items), strict=True))

    def compare_argument(self, method: str, before: Bits, after: Bits) -> bool:
        """Report what a method changed in an argument; True if it changed anything."""
        changed = different(before, after)
        for item, more in self._worth_saying(changed):
            if item not in after:
                said = f"{item}{more} is gone from the argument: work on a copy of it"
            else:
                size = difference(before[item], after[item])
                said = (
                    f"{item}{more}, an argument, is changed ({size}): `a += b` and `out=a` write "
                )
                said += "into the caller's array; write `a = a + b`"
            self.add(method, item, said)
        return bool(changed)

    def compare(self, method: str, kept: Bits, now: Bits, why: str) -> bool:
        """Report every result that differs in a bit; True if rounding explains all that does."""
        differing = different(kept, now)
        rounded = {i for i in differing if i in now and self.rounding(i, kept[i], now[i])}
        for item, more in self._worth_saying(differing):
            size = difference(kept[item], now[item]) if item in now else "it is gone"
            self.add(
                method, item, f"{item}{more} {why} ({size})", "rounding" if item in rounded else ""
            )
        return len(differing) == len(rounded)

    @property
    def blames_cache(self) -> bool:
        """True if a method was found to change a cache; wrong gradients are a consequence."""
        return any(item.startswith(self.names.cache) for _, item in self.found)

    def _worth_saying(self, items: list[str]) -> list[tuple[str, str]]:
        """The items with an empty text; for a cache, the first and the number of the others."""
        if items and items[0].startswith(self.names.cache):
            return [(items[0], f" (and {len(items) - 1} more)" if len(items) > 1 else "")]
        return [(item, "") for item in items]

    def repeat(self, method: str, run: Callable[[], Any], when: str) -> Any:
        """Run a repetition; an error is an impurity, because the first run succeeded."""
        try:
            return run()
        except ContractError as error:
            self.add(method, error.item, f"fails {when}, where the first call did not: {error}")
            return None


def _copy(tree: Any) -> Any:
    return trees.map_leaves(np.array, tree)
