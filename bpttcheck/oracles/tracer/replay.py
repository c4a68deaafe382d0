"""One traced operation, run again by NumPy itself on the values that the trace had for it.

Every array is put back into memory of its own layout, so that what NumPy writes through a view
arrives where it would natively.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles.tracer.arguments import replace
from bpttcheck.oracles.tracer.masks import MaskedSelection
from bpttcheck.oracles.tracer.memory import Box, Held, Indexed, Linked
from bpttcheck.oracles.tracer.watch import NumpyCall

Draw = Callable[[NDArray[Any]], NDArray[Any]]
"""What is done to the values of an array before NumPy sees them."""


class Outcome:
    """What NumPy made of one operation.

    Args:
        leaves: the arrays and numbers that it returned, in order.
        memory: ``id`` of each box -> the memory of that box afterwards.
    """

    def __init__(self, leaves: list[Any], memory: dict[int, NDArray[Any]]) -> None:
        self.leaves = leaves
        self.memory = memory

    def views(self, leaf: Any) -> set[int]:
        """``id`` of the boxes into which a returned array looks."""
        if not isinstance(leaf, np.ndarray):
            return set()
        return {key for key, whole in self.memory.items() if np.may_share_memory(leaf, whole)}


class Replay:
    """The operands of an operation as they are now, before it has run.

    Args:
        call: the operation.
    """

    def __init__(self, call: NumpyCall) -> None:
        self._call = call
        self.boxes: dict[int, Box] = {}
        self._values: dict[int, Any] = {}
        replace((call.args, call.kwargs), self._keep)

    def _keep(self, item: Any) -> None:
        if isinstance(item, MaskedSelection):
            item, _ = item.parts()
        if isinstance(item, Held) and id(item.box) not in self.boxes:
            self.boxes[id(item.box)] = item.box
            self._values[id(item.box)] = content(item.box)

    def run(self, draw: Draw) -> Outcome:
        """Let NumPy do it, on fresh memory filled with what ``draw`` makes of the values."""
        memory = {key: _laid(self.boxes[key], draw(v)) for key, v in self._values.items()}

        def native(item: Any) -> Any:
            if isinstance(item, MaskedSelection):
                held, mask = item.parts()
                return _view(memory[id(held.box)], held)[np.asarray(mask)]
            return _view(memory[id(item.box)], item) if isinstance(item, Held) else item

        args, kwargs = replace(self._call.args, native), replace(self._call.kwargs, native)
        with np.errstate(all="ignore"):
            return Outcome(leaves(self._call.native(*args, **kwargs)), memory)


def content(box: Box) -> NDArray[Any]:
    """The values of a whole piece of memory now, a copy."""
    if isinstance(box, Indexed):
        return np.array(box.load())
    return np.array(box.layout if box.known else box.value)


def leaves(result: Any) -> list[Any]:
    """What an operation returned as a flat list."""
    if isinstance(result, (list, tuple)):
        return [leaf for item in result for leaf in leaves(item)]
    return [] if result is None else [result]


def traced_value(leaf: Any) -> Any:
    """The values of a traced result; None for anything else."""
    if isinstance(leaf, MaskedSelection):
        held, mask = leaf.parts()
        return np.asarray(held.read())[np.asarray(mask)]
    return np.asarray(leaf.read()) if isinstance(leaf, Held) and not leaf.known else None


def traced_views(leaf: Any) -> set[int] | None:
    """``id`` of the box into which a traced result looks; None where the trace leaves it open."""
    if not isinstance(leaf, Held) or isinstance(leaf.box, (Linked, Indexed)):
        return None
    return {id(leaf.box)}


def _laid(box: Box, values: NDArray[Any]) -> NDArray[Any]:
    """The values in memory that is laid out as the box's own."""
    memory = np.empty_like(box.layout)
    memory[...] = values
    return memory


def _view(memory: NDArray[Any], held: Held) -> Any:
    """What ``held`` is of its box's memory: the same view of another piece."""
    if not isinstance(held.shadow, np.ndarray):
        return memory[()]
    offset = _address(held.shadow) - _address(held.box.layout)
    flat = memory.ravel(order="K")
    return np.ndarray(held.shadow.shape, memory.dtype, flat, offset, held.shadow.strides)


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
