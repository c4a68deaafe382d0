"""JAX's 64-bit mode, scoped: it is never switched on for the importing program."""

from __future__ import annotations

from typing import Any


def enable_x64() -> Any:
    """A context in which JAX computes in 64 bits, in this thread only."""
    import jax

    scoped = getattr(jax, "enable_x64", None)
    if scoped is None:
        from jax import experimental

        scoped = getattr(experimental, "enable_x64")  # noqa: B009 - its place before 0.8
    return scoped(True)
