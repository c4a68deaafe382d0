"""Hand-derived backward passes inside JAX, loaded when first used.

:func:`bpttcheck.on_jax.layer` makes a JAX function of a cell or a layer; a built-in cell has a form
of its own in ``jax.numpy``, one file each, indexed in :mod:`bpttcheck.on_jax.native`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpttcheck.on_jax.host import HostCallbackWarning
    from bpttcheck.on_jax.layer import layer

__all__ = ["HostCallbackWarning", "layer"]

_HOMES = {"HostCallbackWarning": "host", "layer": "layer"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bpttcheck.on_jax' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"bpttcheck.on_jax.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
