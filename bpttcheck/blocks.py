"""The names of a pass's arrays, used by findings, laws, diagnoses and mutants.

A block is the gradient of one parameter, of one leaf of the state or of the input, or such an
output of the forward pass. One step and a whole sequence name them differently:

    step        d_params['W']   d_previous_state[0]   d_x    y    new_state[0]
    sequence    d_params['W']   d_state0[0]           d_xs   ys   state_T[0]

A block is a string, so that it can be a key, be printed and be stored; only this module builds or
parses its text. A law may compare a part of a block: ``ys before the change``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from bpttcheck import trees

Kind = Literal["params", "state", "x", "y", "new_state", ""]

_STEP = {"state": "d_previous_state", "x": "d_x", "y": "y", "new_state": "new_state"}
_SEQUENCE = {"state": "d_state0", "x": "d_xs", "y": "ys", "new_state": "state_T"}
_KINDS: dict[str, Kind] = {"d_params": "params"}
_KINDS |= {name: kind for names in (_STEP, _SEQUENCE) for kind, name in names.items()}  # type: ignore[misc]
_FORM = re.compile(rf"({'|'.join(_KINDS)})((?:\[[^\]]*\]|\.\w+)*)( .*)?", re.DOTALL)


class Block(str):
    """The name of one array, such as ``"d_params['W']"``, ``"d_state0[0]"`` or ``"ys"``.

    Any text is a block; one of another form has the kind ``""``.
    """

    __slots__ = ()

    @property
    def kind(self) -> Kind:
        """The kind: ``"params"``, ``"state"``, ``"x"`` (gradients), ``"y"``, ``"new_state"``."""
        form = _FORM.fullmatch(self)
        return _KINDS[form[1]] if form else ""

    @property
    def path(self) -> str:
        """Which parameter or which leaf: ``"['W']"``, ``"[0]"``, ``".h"``, or ``""``."""
        form = _FORM.fullmatch(self)
        return form[2] if form else ""

    @property
    def whole(self) -> Block:
        """The whole block, if this is a part of it."""
        form = _FORM.fullmatch(self)
        return Block(form[1] + form[2]) if form else self

    @property
    def in_step(self) -> Block:
        """The same block in the names of one step."""
        return self._in(_STEP)

    @property
    def in_sequence(self) -> Block:
        """The same block in the names of a whole sequence."""
        return self._in(_SEQUENCE)

    def part(self, text: str) -> Block:
        """A part of it: ``ys.part("before the change")``."""
        return Block(f"{self} {text}")

    def _in(self, names: Mapping[str, str]) -> Block:
        form = _FORM.fullmatch(self)
        if form is None or form[1] == "d_params":
            return self
        return Block(names[_KINDS[form[1]]] + form[2] + (form[3] or ""))


D_X, D_XS, Y, YS = Block("d_x"), Block("d_xs"), Block("y"), Block("ys")


def d_param(key: Any) -> Block:
    """The gradient of ``params[key]``."""
    return Block(f"d_params[{key!r}]")


def d_previous_state(path: str = "") -> Block:
    """The gradient of one leaf of the state before a step."""
    return Block(_STEP["state"] + path)


def d_state0(path: str = "") -> Block:
    """The gradient of one leaf of the initial state."""
    return Block(_SEQUENCE["state"] + path)


def new_state(path: str = "") -> Block:
    """One leaf of the state after a step."""
    return Block(_STEP["new_state"] + path)


def state_T(path: str = "") -> Block:
    """One leaf of the final state."""
    return Block(_SEQUENCE["new_state"] + path)


def of_params(gradients: Mapping[Any, Any], keys: Iterable[Any] | None = None) -> dict[str, Any]:
    """Gradients of parameters by block.

    Args:
        gradients: by the key of the parameter.
        keys: the parameters to take, in order; None: all.
    """
    return {d_param(key): gradients[key] for key in (gradients if keys is None else keys)}


def of_state(name: Block, tree: Any, like: Any = None) -> dict[str, Any]:
    """Leaves of a state, or of its gradient, by block.

    Args:
        name: the block of the whole: ``d_state0()``, ``new_state()``, ...
        tree: the leaves.
        like: the state whose structure they should have, though a dict may be in another order.
            Its integers are left out: they are carried and have no gradient.
    """
    if like is None:
        leaves, shape = trees.flatten(tree)
        return {Block(name + path): leaf for path, leaf in zip(shape.paths, leaves, strict=True)}
    from bpttcheck.contract import is_float  # late: it needs NumPy

    ordered = trees.map_leaves(lambda _, leaf: leaf, like, tree)
    named = zip(trees.structure(like).paths, trees.leaves(ordered), trees.leaves(like), strict=True)
    return {Block(name + path): leaf for path, leaf, first in named if is_float(first)}
