"""Which gradient is which: what a hand-written backward pass returns, matched with the inputs.

It is matched by name where there are names (a dict's keys, ``grads="dx, dWx, db"``), else by
position, if there are as many gradients as inputs and the shapes fit, else by shape, where a shape
fits one input alone. What is ambiguous is an error that shows both lists; it is never guessed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from bpttcheck.contract import is_float
from bpttcheck.errors import ContractError

IGNORED = "_"

_PREFIXES = (
    "d_", "grad_", "g_", "dL_d", "dl_d", "dJ_d", "dj_d", "dL_", "dl_", "delta_", "gradient_",
    "d", "grad", "g", "delta",
)  # fmt: skip
_SUFFIXES = ("_grad", "_grads", "_gradient", "_bar", "_dot", "grad")


def names_of(text: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """``"dx, dW"`` or a sequence of names as a tuple.

    Raises:
        ContractError: it is neither.
    """
    if text is None:
        return None
    names = re.split(r"[,\s]+", text.strip().strip(",")) if isinstance(text, str) else list(text)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ContractError(
            f"{text!r} should be names such as 'dx, dWx, db', with '_' for what is no gradient"
        )
    return tuple(names)


def stands_for(name: str, inputs: Sequence[str]) -> str | None:
    """The input of which ``name`` is the gradient, by any common naming, or None.

    >>> stands_for("dWx", ["x", "Wx"]), stands_for("Wx_grad", ["x", "Wx"])
    ('Wx', 'Wx')
    """
    return _stands_for(name, tuple(inputs))


@functools.lru_cache(maxsize=4096)
def _stands_for(name: str, inputs: tuple[str, ...]) -> str | None:
    for fold in (str, str.lower):
        known = {fold(one): one for one in reversed(inputs)}
        forms = [name[len(p):] for p in _PREFIXES if name.startswith(p)]  # fmt: skip
        forms += [name[: -len(s)] for s in _SUFFIXES if name.endswith(s)]
        for form in (*forms, name):
            if form and fold(form) in known:
                return known[fold(form)]
    return None


@dataclass
class _Matching:
    """The gradients found so far.

    Args:
        inputs: input -> its leaves with their shapes; a plain array is its own leaf.
        method: the name of the backward pass, for errors.
        found: leaf -> gradient.
        called: leaf -> what its author calls the gradient.
    """

    inputs: Mapping[str, Mapping[str, tuple[int, ...]]]
    method: str
    found: dict[str, Any] = field(default_factory=dict)
    called: dict[str, str] = field(default_factory=dict)

    @property
    def leaves(self) -> dict[str, tuple[int, ...]]:
        """Every leaf with its shape."""
        return {name: shape for parts in self.inputs.values() for name, shape in parts.items()}

    def children(self, path: str) -> list[str]:
        """What a container holds, by name or number; nothing for a leaf."""
        inside = [leaf[len(path) + 1 :] for leaf in self.leaves if leaf.startswith(f"{path}.")]
        return list(dict.fromkeys(rest.partition(".")[0] for rest in inside))

    def fit(self, path: str, value: Any, key: str = "") -> dict[str, tuple[str, Any]] | None:
        """Leaf -> key and gradient, if ``value`` has the structure and the shapes of an input."""
        if value is None:
            return {}
        children = self.children(path)
        if not children:
            return {path: (key, value)} if _shape(value) == self.leaves.get(path) else None
        found: dict[str, tuple[str, Any]] = {}
        if isinstance(value, Mapping):
            keys = list(map(str, value))
            named = [
                (stands_for(one, children), one, inner)
                for one, inner in zip(keys, value.values(), strict=True)
            ]
        elif _shape(value) != () and len(value) == len(children):
            named = [(child, "", one) for child, one in zip(children, value, strict=True)]
        else:
            return None
        for child, own, inner in named:
            fitting = None if child is None else self.fit(f"{path}.{child}", inner, own)
            if fitting is None:
                return None
            found |= fitting
        return found

    def take(self, name: str, value: Any) -> bool:
        """Accept what is called ``name``; False if that is the gradient of nothing."""
        item = stands_for(name, list(self.inputs))
        fitting = None if item is None else self.fit(item, value)
        if fitting is not None:
            if item in fitting:
                fitting[item] = (name, fitting[item][1])
            self.put_all(fitting)
            return True
        if isinstance(value, Mapping):
            return self.take_dict(value)
        targets = self.targets(name)
        if not targets or value is None:
            return bool(targets)
        values = [value] if len(targets) == 1 else opened(value)
        if len(values) != len(targets):
            raise ContractError(
                f"{self.method}: {name} holds {_list(values)}, but should hold the gradients of "
                f"{', '.join(targets)}",
                method=self.method,
            )
        for target, one in zip(targets, values, strict=True):
            self.put(name if len(targets) == 1 else _usual(target), target, one)
        return True

    def take_dict(self, value: Mapping[Any, Any]) -> bool:
        """Accept a dict of gradients: of the inputs, or of what one input holds."""
        keys = [str(key) for key in value]
        if not all(stands_for(key, list(self.inputs)) for key in keys):
            homes = [name for name in self.inputs if self.fit(name, value) is not None]
            if len(homes) > 1:
                raise ContractError(
                    f"{self.method} returned a dict with the keys {', '.join(keys)}, which may be "
                    f"the gradients of {' or '.join(homes)}; say which: grads='d{homes[0]}, ...'",
                    method=self.method,
                    item="grads",
                )
            if homes:
                return self.take(homes[0], value)
        taken = [self.take(key, inner) for key, inner in zip(keys, value.values(), strict=True)]
        return any(taken)

    def targets(self, name: str) -> list[str]:
        """The leaves of which ``name`` is the gradient, or of which it holds the gradients."""
        item = stands_for(name, list(self.inputs))
        if item is not None:
            return list(self.inputs[item])
        short = [leaf.rpartition(".")[2] for leaf in self.leaves]
        called = stands_for(name, short)
        found = [leaf for leaf, own in zip(self.leaves, short, strict=True) if own == called]
        if len(found) > 1:
            raise ContractError(
                f"{self.method}: {name!r} may be the gradient of {' or '.join(found)}; return them "
                "in the structure of the inputs",
                method=self.method,
            )
        return found

    def put_all(self, fitting: Mapping[str, tuple[str, Any]]) -> None:
        """Accept what :meth:`fit` found, called by its key where only one leaf is called so."""
        short = [leaf.rpartition(".")[2] for leaf in self.leaves]
        for leaf, (key, gradient) in fitting.items():
            alone = key and short.count(leaf.rpartition(".")[2]) == 1
            self.put(key if alone else _usual(leaf), leaf, gradient)

    def put(self, name: str, target: str, value: Any) -> None:
        """Accept the gradient of one leaf."""
        if value is None:
            return
        if target in self.found:
            raise ContractError(
                f"{self.method}: both {self.called[target]!r} and {name!r} are gradients of "
                f"{target!r}",
                method=self.method,
            )
        self.found[target], self.called[target] = value, name

    def named(self, parts: Sequence[Any], flat: Sequence[Any], grads: Sequence[str]) -> None:
        """What is returned, by names that were told."""
        values = parts if len(parts) == len(grads) else flat
        if len(values) != len(grads):
            raise ContractError(
                f"{self.method} returned {len(values)} things ({_list(values)}), but `grads` names "
                f"{len(grads)}: {', '.join(grads)}",
                method=self.method,
                item="grads",
            )
        for name, value in zip(grads, values, strict=True):
            if name != IGNORED and not self.take(name, value):
                raise ContractError(
                    f"`grads` names {name!r}, which is the gradient of no input; the inputs are "
                    f"{', '.join(self.inputs)}; write '_' for what is no gradient",
                    item="grads",
                )

    def unnamed(self, parts: Sequence[Any]) -> None:
        """What is returned without names: by position, or where a shape fits one leaf alone."""
        left = {n: s for n, s in self.inputs.items() if not any(leaf in self.found for leaf in s)}
        if len(parts) == len(left):
            fitting = [self.fit(name, part) for name, part in zip(left, parts, strict=True)]
            if None not in fitting:
                for one in fitting:
                    self.put_all(one or {})
                return
        shapes = {name: shape for parts in left.values() for name, shape in parts.items()}
        flat = opened(list(parts))
        if not _has_dict(parts) and [_shape(one) for one in flat] == list(shapes.values()):
            for leaf, gradient in zip(shapes, flat, strict=True):
                self.put(_usual(leaf), leaf, gradient)
            return
        for gradient in flat:
            if gradient is None or not is_float(gradient):
                continue
            same = [name for name, shape in shapes.items() if shape == np.shape(gradient)]
            if len(same) != 1 or same[0] in self.found:
                self._ambiguous(parts)
            self.put(_usual(same[0]), same[0], gradient)

    def _ambiguous(self, parts: Sequence[Any]) -> NoReturn:
        listed = ", ".join(f"{name} {shape}" for name, shape in self.leaves.items())
        raise ContractError(
            f"{self.method} returned {_list(opened(list(parts)))}; which is the gradient of what "
            f"cannot be told, for the inputs are {listed}. Name them in their order: "
            "grads='dx, dW, ...', with '_' for what is no gradient",
            method=self.method,
            item="grads",
        )


def match(
    result: Any,
    inputs: Mapping[str, Mapping[str, tuple[int, ...]]],
    grads: Sequence[str] | None,
    method: str,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The gradients by input, and what their author calls them.

    Args:
        result: what the backward pass returned: an array, a tuple, a list, a dict, or None.
        inputs: input -> its leaves with their shapes; a plain array is its own leaf.
        grads: the names that were told, one for each thing that is returned.
        method: the name of the backward pass, for errors.

    Returns:
        Leaf -> gradient, without those that are absent or None; and leaf -> its author's name.

    Raises:
        ContractError: what was returned cannot be told apart.
    """
    matching = _Matching(inputs, method)
    parts = list(result) if isinstance(result, (tuple, list)) else [result]
    if grads is not None and not (len(parts) == 1 and isinstance(parts[0], Mapping)):
        matching.named(parts, opened(result), grads)
        return matching.found, matching.called
    if len(parts) == len(inputs) and len(parts) > 1:
        fitting = [matching.fit(name, part) for name, part in zip(inputs, parts, strict=True)]
        if None not in fitting:  # every one has the structure of the input in its place
            matching.unnamed(parts)
            return matching.found, matching.called
    plain = [part for part in parts if not isinstance(part, Mapping)]
    for part in parts:
        if isinstance(part, Mapping) and part and not matching.take_dict(part):
            raise ContractError(
                f"{method} returned a dict with the keys {', '.join(map(str, part))}, none of "
                f"which names the gradient of an input ({', '.join(matching.leaves)}), such as "
                f"'d{next(iter(matching.leaves))}'",
                method=method,
            )
    if plain:
        matching.unnamed(plain)
    return matching.found, matching.called


def _usual(leaf: str) -> str:
    return f"d_{leaf}"


def opened(result: Any) -> list[Any]:
    """What was returned as one list: tuples, lists and dicts inside are opened."""
    if isinstance(result, (tuple, list)):
        return [one for part in result for one in opened(part)]
    if isinstance(result, Mapping):
        return [one for part in result.values() for one in opened(part)]
    return [result]


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of an array or of nested numbers; None of what is ragged."""
    try:
        return np.shape(value)
    except ValueError:
        return None


def _has_dict(parts: Any) -> bool:
    if isinstance(parts, (tuple, list)):
        return any(_has_dict(part) for part in parts)
    return isinstance(parts, Mapping)


def _list(values: Sequence[Any]) -> str:
    texts = [f"an array {np.shape(v)}" if is_float(v) else type(v).__name__ for v in values]
    return ", ".join(texts) or "nothing"
