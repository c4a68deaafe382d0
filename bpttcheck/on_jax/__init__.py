"""Hand-derived backward passes inside JAX, loaded when first used.

:func:`bpttcheck.on_jax.layer` makes a JAX function of a cell or a layer; a built-in cell has a form
of its own in ``jax.numpy``, indexed in :mod:`bpttcheck.on_jax.function`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bpttcheck.lazy import index

if TYPE_CHECKING:
    from bpttcheck.on_jax.function import HostCallbackWarning, layer

__all__ = ["HostCallbackWarning", "layer"]

_HOMES = {"HostCallbackWarning": "function", "layer": "function"}

__getattr__, __dir__ = index(__name__, _HOMES)
