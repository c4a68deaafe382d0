"""Adapters that make a cell or a layer of other code: plain callables, JAX, torch.

The names below are loaded when they are first used, JAX and torch when they are needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bpttcheck.lazy import index

if TYPE_CHECKING:
    from bpttcheck.adapt.autograd_function import from_autograd_function
    from bpttcheck.adapt.custom_vjp import from_custom_vjp
    from bpttcheck.adapt.definitions import defs
    from bpttcheck.adapt.functions import from_grad, from_vjp, in_module
    from bpttcheck.adapt.jax_functions import from_jax
    from bpttcheck.adapt.objects import from_object
    from bpttcheck.adapt.subjects import from_callables
    from bpttcheck.adapt.torch_function import from_torch

__all__ = [
    "defs",
    "from_autograd_function",
    "from_callables",
    "from_custom_vjp",
    "from_grad",
    "from_jax",
    "from_object",
    "from_torch",
    "from_vjp",
    "in_module",
]

_HOMES = {
    "defs": "definitions",
    "from_autograd_function": "autograd_function",
    "from_callables": "subjects",
    "from_custom_vjp": "custom_vjp",
    "from_grad": "functions",
    "from_jax": "jax_functions",
    "from_object": "objects",
    "from_torch": "torch_function",
    "from_vjp": "functions",
    "in_module": "functions",
}

__getattr__, __dir__ = index(__name__, _HOMES)
