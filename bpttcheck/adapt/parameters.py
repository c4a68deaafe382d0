"""Where the parameters and the initial state of an adapted subject come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bpttcheck.adapt.arguments import given, require_function
from bpttcheck.errors import ContractError

if TYPE_CHECKING:
    import numpy as np

    from bpttcheck.contract import Params, State

Dimension = int | str | tuple[int, str]
Init = Callable[..., Any] | Mapping[str, tuple[Dimension, ...]]

_SIZES = ("n_in", "n_hidden")
_GRAMMAR = (
    'a tuple of sizes, each an int, "n_in", "n_hidden" or a pair such as (4, "n_hidden"); '
    "for anything else give a function init(rng, n_in, n_hidden)"
)


@dataclass(frozen=True)
class DrawnShapes:
    """Parameters drawn as ``normal / sqrt(last size)`` from a table of shapes.

    Args:
        shapes: name -> sizes; a size is an int, ``"n_in"``, ``"n_hidden"`` or ``(multiple, name)``.
    """

    shapes: Mapping[str, tuple[Dimension, ...]]

    def __call__(self, rng: np.random.Generator, n_in: int, n_hidden: int) -> Params:
        """Fresh parameters for the given sizes."""
        sizes = {"n_in": n_in, "n_hidden": n_hidden}
        params: Params = {}
        for name, dimensions in self.shapes.items():
            shape = tuple(_size(dimension, sizes) for dimension in dimensions)
            fan_in = max(shape[-1], 1) if shape else 1
            params[name] = rng.standard_normal(shape) / float(fan_in) ** 0.5
        return params

    @property
    def names_n_hidden(self) -> bool:
        """True if ``n_hidden`` can be read off the parameters."""
        return any("n_hidden" in _names(d) for shape in self.shapes.values() for d in shape)

    def zeros(self, params: Params, batch_size: int) -> State:
        """The default initial state: zeros ``(B, n_hidden)`` in the dtype of the parameters."""
        import numpy as np

        for name, dimensions in self.shapes.items():
            for axis, dimension in enumerate(dimensions):
                if "n_hidden" in _names(dimension):
                    multiple = dimension[0] if isinstance(dimension, tuple) else 1
                    n_hidden = params[name].shape[axis] // multiple
                    return np.zeros((batch_size, n_hidden), params[name].dtype)
        raise ContractError("no parameter names n_hidden: give initial_state(params, batch_size)")


def parameters(
    init: object, initial_state: object
) -> tuple[Callable[..., Params], Callable[..., State]]:
    """The functions ``init(rng, n_in, n_hidden)`` and ``initial_state(params, batch_size)``.

    Raises:
        ContractError: ``init`` is neither a function nor a table of shapes, or no initial state is
            given and none can be derived.
    """
    fresh: Callable[..., Params]
    if isinstance(init, Mapping):
        fresh = _drawn(init)
    else:
        fresh = require_function("init", init, ("rng", "n_in", "n_hidden"))
    if initial_state is not None:
        return fresh, require_function("initial_state", initial_state, ("params", "batch_size"))
    if isinstance(fresh, DrawnShapes) and fresh.names_n_hidden:
        return fresh, fresh.zeros
    raise ContractError(
        "initial_state=None, expected a function initial_state(params, batch_size): the default, "
        'zeros (B, n_hidden), needs an init that is a table of shapes which names "n_hidden"',
        item="initial_state",
    )


def _drawn(init: Mapping[Any, Any]) -> DrawnShapes:
    if not init:
        raise ContractError("init={} is empty, expected the shape of at least one parameter")
    for name, shape in init.items():
        item = f"init[{name!r}]"
        if not isinstance(name, str):
            raise ContractError(f"init has the key {name!r}, expected a str", item=item)
        if not isinstance(shape, (tuple, list)) or not all(_is_size(d) for d in shape):
            raise ContractError(f"{given(item, shape)}, expected {_GRAMMAR}", item=item)
    return DrawnShapes({name: tuple(shape) for name, shape in init.items()})


def _is_size(dimension: Any) -> bool:
    if isinstance(dimension, tuple):
        multiple, name = dimension if len(dimension) == 2 else (0, "")
        return _is_count(multiple) and multiple > 0 and name in _SIZES
    if isinstance(dimension, str):
        return dimension in _SIZES
    return _is_count(dimension) and dimension >= 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _size(dimension: Dimension, sizes: Mapping[str, int]) -> int:
    if isinstance(dimension, int):
        return dimension
    multiple, name = dimension if isinstance(dimension, tuple) else (1, dimension)
    return multiple * sizes[name]


def _names(dimension: Dimension) -> tuple[str, ...]:
    return tuple(part for part in _parts(dimension) if isinstance(part, str))


def _parts(dimension: Dimension) -> tuple[int | str, ...]:
    return dimension if isinstance(dimension, tuple) else (dimension,)
