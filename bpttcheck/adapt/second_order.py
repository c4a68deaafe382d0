"""The gradient of a gradient: a backward pass as a function whose own derivative is checked.

``G(x, d_y) = VJP(x; d_y)`` takes the inputs and the cotangents of the outputs, and returns the
gradients. Where its framework differentiates it once more, ``<G(x, d_y), v>`` has a gradient in x
and in d_y: that is judged as any other, beside the same of a reference, and beside the differences
of G itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bpttcheck.adapt.function import Function, letters_of, named_leaves
from bpttcheck.errors import ContractError
from bpttcheck.signature import EACH, Leaf, Signature

Results = Callable[[list[Any]], list[Any]]
Pull = Callable[[Results, list[Any], list[Any]], list[Any]]
"""From a function of its float inputs, these, and cotangents of its results to gradients."""


def require_order(order: Any) -> None:
    """Refuse all orders but the first and the second."""
    if type(order) is not int or order not in (1, 2):
        raise ContractError(
            f"order={order!r} (type={type(order).__name__}), but should be 1, the gradient, or 2, "
            "the gradient of the gradient",
            item="order",
        )


def of_second_order(signature: Signature) -> str:
    """The signature of ``G``: ``x: N D -> y: N H`` becomes ``x: N D, d_y: N H -> grad_x: N D``.

    Raises:
        ContractError: it has lists of T arrays, whose gradients have no name.
    """
    floats, results = _floats(signature.leaves), _floats(signature.results)
    if any(EACH in leaf.name for leaf in (*floats, *results)):
        raise ContractError(
            f"order=2 takes no lists of T arrays, as in {signature.text!r}: stack them",
            item="order",
        )
    inputs, _, _ = signature.text.partition("->")
    _, where, limits = signature.text.partition(" where ")
    given = [inputs.partition(" where ")[0].strip(), *(_renamed("d", leaf) for leaf in results)]
    found = ", ".join(_renamed("grad", leaf) for leaf in floats)
    return f"{', '.join(given)} -> {found}{where}{limits}"


def _floats(leaves: Sequence[Leaf]) -> list[Leaf]:
    return [leaf for leaf in leaves if leaf.kind == "float"]


def _renamed(head: str, leaf: Leaf) -> str:
    return str(replace(leaf, name=f"{head}_{leaf.name.replace('.', '_')}"))


@dataclass(frozen=True)
class Backward:
    """``G``, in a framework that can differentiate it.

    Args:
        function: the forward pass, in that framework.
        base: the same as a subject of first order, which knows its inputs and outputs.
        pull: pulls cotangents back, so that the result can be differentiated again.
    """

    function: Callable[..., Any]
    base: Function
    pull: Pull

    @property
    def __name__(self) -> str:
        """How reports call it."""
        return f"gradient of {self.base.name}"

    def __call__(self, *given: Any) -> tuple[Any, ...]:
        """The gradients of the float inputs, in their order."""
        signature = self.base.signature
        count = len(signature.inputs)
        leaves = named_leaves(signature, given[:count])
        sizes = letters_of(signature, {name: np.shape(leaf) for name, leaf in leaves.items()})
        names = [leaf.name for leaf in _floats(signature.leaves)]

        def results(floats: list[Any]) -> list[Any]:
            moved = {**leaves, **dict(zip(names, floats, strict=True))}
            found = self.function(*signature.build(moved, sizes))
            return list(self.base.outputs_of(found, sizes).values())

        floats = [leaves[name] for name in names]
        return tuple(self.pull(results, floats, list(given[count:])))
