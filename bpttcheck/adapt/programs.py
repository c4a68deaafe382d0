"""A bounded cache of compiled JAX programs, dropped with the subject they belong to."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from bpttcheck.jax_mode import enable_x64

# Each compiled program costs the process some tens of memory maps, of which an operating system
# grants 65,530. The bound is on all subjects together, since a test module may hold hundreds.
LIVE_PROGRAMS = 64

_LOCK = threading.RLock()
_TICKS = itertools.count()


@dataclass(frozen=True, eq=False)
class Programs:
    """The compiled programs of one subject.

    JAX's own caches are left alone: what is held here are objects compiled ahead of time, which
    die when they are dropped.
    """

    held: dict[Hashable, tuple[int, Any]] = field(default_factory=dict[Hashable, tuple[int, Any]])

    def __post_init__(self) -> None:
        with _LOCK:
            _EVERY.add(self)

    def get(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """The program for ``key``, built if it is not held."""
        with _LOCK:
            found = self.held.get(key)
            if found is not None:
                self.held[key] = (next(_TICKS), found[1])
                return found[1]
        program = build()
        with _LOCK:
            self.held[key] = (next(_TICKS), program)
            _trim()
        return program

    def __reduce__(self) -> tuple[Any, ...]:
        # Programs can be neither copied nor sent to another process: a copy compiles its own.
        return Programs, ()


_EVERY: weakref.WeakSet[Programs] = weakref.WeakSet()


def live_programs() -> int:
    """How many compiled programs are held by all living subjects."""
    with _LOCK:
        return sum(len(programs.held) for programs in _EVERY)


def _trim() -> None:
    everything = [
        (tick, programs.held, key)
        for programs in _EVERY
        for key, (tick, _) in programs.held.items()
    ]
    surplus = len(everything) - LIVE_PROGRAMS
    if surplus > 0:
        for _, held, key in sorted(everything, key=lambda entry: entry[0])[:surplus]:
            del held[key]


def compiled(traced: Any) -> Any:
    """The program of a function traced by ``jax.jit(...).trace``."""
    import jax

    # Each program runs a few times on small arrays: compiling it costs more than running it.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    on_cpu = jax.default_backend() == "cpu"
    return traced.lower().compile(compiler_options=quick if on_cpu else None)


def precision(leaves: list[Any]) -> AbstractContextManager[Any]:
    """JAX's 64-bit mode, scoped, if any leaf is a float64; else the mode the program has set."""
    if all(str(leaf.dtype) != "float64" for leaf in leaves):
        return nullcontext()
    return enable_x64()
