"""What a backward pass is called with: cotangents, the cache, inputs and outputs.

It is told by the names of its parameters (``dh``, ``grad_out``, ``cache``, ``x``); where these say
nothing, it gets the cotangents and the cache in their order. The backward pass of a loss may take
no cotangent: its result is that of a cotangent of one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from bpttcheck.adapt.returned import stands_for
from bpttcheck.errors import ContractError

CACHE, ALL = "cache", "*"
"""What a backward pass takes that takes the cache and then every cotangent."""

_CACHES = frozenset(
    "cache caches ctx context tape saved saved_tensors memory mem residual residuals res aux "
    "intermediates store cached history trace".split()
)
_COTANGENTS = frozenset(
    "dout d_out douts d_outs dy d_y dys d_ys dh d_h dhs d_hs grad grads g gs gy grad_out "
    "grad_output grad_outputs gradient upstream delta dvalues dnext dz dl_dy ct cts cotangent "
    "cotangents dloss d_loss gradoutput dl".split()
)


@dataclass(frozen=True)
class Call:
    """The arguments of one backward pass.

    Args:
        positions: in order.
        keywords: by name.
        factor: what the gradients are still to be multiplied by, or None.
    """

    positions: Sequence[Any]
    keywords: Mapping[str, Any]
    factor: Any = None


@dataclass(frozen=True)
class Available:
    """What there is to call a backward pass with, by name.

    Args:
        method: the name of the backward pass, for errors.
        cotangents: of the outputs.
        extras: what the forward pass returned beside them, the cache above all.
        inputs: the arguments of the forward pass.
        outputs: its outputs.
    """

    method: str
    cotangents: Mapping[str, Any]
    extras: Mapping[str, Any]
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]

    def call(self, backward: Callable[..., Any], receives: Sequence[str] | None) -> Call:
        """The arguments of ``backward``.

        Args:
            backward: the backward pass.
            receives: what it takes, name by name; None: its own parameters tell.

        Raises:
            ContractError: what to hand in cannot be told; it lists both.
        """
        cotangents, extras = self.cotangents, self.extras
        if receives == (CACHE, ALL):
            # The cache is what the signature does not name; opaque outputs stand before it.
            return Call([*[*extras.values()][-1:], *cotangents.values()], {})
        required, optional = (receives, ()) if receives else parameters(backward)
        keywords = keyword_only(backward)
        given: set[str] = set()
        found = [self._meant(name, given) for name in required]
        meant = [one[0] for one in found if one is not None]
        if len(meant) == len(found) and len(given) == len(cotangents):
            return _divided(meant, keywords)
        loss = next(iter(cotangents.values())) if len(cotangents) == 1 else None
        if required and len(meant) == len(found) and loss is not None and np.shape(loss) == ():
            return _divided(meant, keywords, loss)
        by_place = self._by_place(required or optional)
        if by_place is not None:
            return _divided(by_place, keywords)
        named = ", ".join([*self.inputs, *self.outputs, *extras])
        raise ContractError(
            f"{self.method} takes ({', '.join((*required, *optional))}), and what to hand in "
            f"cannot be told: there are the cotangents {', '.join(f'd{n}' for n in cotangents)}, "
            f"and {named or 'nothing else'}. Name them in order, such as "
            f"receives='{', '.join([*(f'd{n}' for n in cotangents), *extras])}'",
            method=self.method,
            item="receives",
        )

    def _meant(self, name: str, given: set[str]) -> list[Any] | None:
        """What a parameter stands for, alone in a list, or None."""
        output = stands_for(name, list(self.cotangents))
        if output is not None and name not in self.cotangents:
            given.add(output)
            return [self.cotangents[output]]
        if name in self.inputs and name in self.outputs:
            raise ContractError(
                f"{self.method} takes {name!r}, which is an input and an output of the signature: "
                f"give the output another name, such as {name}_out",
                method=self.method,
                item="signature",
            )
        named = {**self.inputs, **self.outputs, **self.extras}
        if name in named:
            return [named[name]]
        if name.lower() in _COTANGENTS and len(self.cotangents) == 1:
            given.update(self.cotangents)
            return list(self.cotangents.values())
        if is_cache(name) and len(self.extras) == 1:
            return list(self.extras.values())
        return None

    def _by_place(self, required: Sequence[str]) -> list[Any] | None:
        """Cotangents and cache by their number: the cache first if its parameter says so."""
        ways = [list(self.cotangents.values())]
        if len(self.cotangents) > 1:
            ways.append([tuple(self.cotangents.values())])
        caches = list(self.extras.values())
        for way in ways:
            if len(required) == len(way) + len(caches):
                cache_first = (
                    bool(caches)
                    and (is_cache(required[0]) or required[0] in self.extras)
                    and not is_cache(required[-1])
                )
                return caches + way if cache_first else way + caches
        return None


def parameters(function: Callable[..., Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the required and of the optional parameters, required keywords last."""
    known = _parameters(function)
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [p for p in known if p.kind in places]
    required = tuple(p.name for p in positional if p.default is p.empty)
    optional = tuple(p.name for p in positional if p.default is not p.empty)
    return (*required, *keyword_only(function)), optional


def is_cache(name: str) -> bool:
    """Whether a parameter is called as caches are."""
    words = name.lower().strip("_").split("_")
    return name.lower() in _CACHES or words[-1] in _CACHES or words[0] in _CACHES


def keyword_only(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the required parameters that are no positions."""
    known = _parameters(function)
    return tuple(p.name for p in known if p.kind is p.KEYWORD_ONLY and p.default is p.empty)


# A backward function is called thousands of times; it lives here no longer than elsewhere.
_KNOWN: WeakKeyDictionary[FunctionType, tuple[inspect.Parameter, ...]] = WeakKeyDictionary()


def _parameters(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    """What the signature of a function lists; nothing where it has none."""
    plain = isinstance(function, FunctionType)
    if plain and function in _KNOWN:
        return _KNOWN[function]
    try:
        found = tuple(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        found = ()
    if plain:
        _KNOWN[function] = found
    return found


def _divided(arguments: Sequence[Any], keywords: Sequence[str], factor: Any = None) -> Call:
    """Arguments of which the last ones are keywords."""
    at = len(arguments) - len(keywords)
    return Call(arguments[:at], dict(zip(keywords, arguments[at:], strict=True)), factor)
