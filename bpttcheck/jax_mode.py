"""JAX's 64-bit mode and its device, scoped: neither is ever set for the importing program."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


def enable_x64(on: bool = True) -> Any:
    """A context in which JAX computes in 64 bits, or in 32, in this thread only."""
    import jax

    scoped = getattr(jax, "enable_x64", None)
    if scoped is None:
        from jax import experimental

        scoped = getattr(experimental, "enable_x64")  # noqa: B009 - its place before 0.8
    return scoped(on)


def is_x64() -> bool:
    """Whether JAX computes in 64 bits, here and now."""
    import jax

    return bool(getattr(jax.config, "jax_enable_x64"))  # noqa: B009 - unknown to the type checker


@contextmanager
def reference_mode() -> Generator[None]:
    """64 bits on the CPU, in this thread only: how references and their noise are computed.

    On a host with a GPU, JAX would use it, but the error bars were calibrated with the arithmetic
    and the compiler of the CPU.
    """
    import jax

    with enable_x64(), jax.default_device(jax.devices("cpu")[0]):
        yield
