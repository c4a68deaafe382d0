"""JAX functions of any signature, and what is asked of a rule beside its gradient.

``function`` makes a subject of a function with a ``jax.custom_vjp`` or ``jax.custom_jvp`` in it;
``conduct`` asks a rule in the ways of training code: for one input alone, under ``vmap``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bpttcheck.lazy import index

if TYPE_CHECKING:
    from bpttcheck.adapt.jax_functions.conduct import (
        JaxPass,
        check_forward_value,
        is_small,
        require_conduct,
    )
    from bpttcheck.adapt.jax_functions.function import from_jax

__all__ = ["JaxPass", "check_forward_value", "from_jax", "is_small", "require_conduct"]

_HOMES = {
    "JaxPass": "conduct",
    "check_forward_value": "conduct",
    "from_jax": "function",
    "is_small": "conduct",
    "require_conduct": "conduct",
}

__getattr__, __dir__ = index(__name__, _HOMES)
